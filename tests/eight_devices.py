"""What test_devices.py compares between eight devices and one, in a process that has eight; prints JSON.

python -m tests.eight_devices learner|play|emulators
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from tests import conftest  # noqa: F401  settings that must stand before JAX is imported

# isort: split

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, compiled_step, config, devices
from learnmax_jax import step as steps
from learnmax_jax.acting import envs
from learnmax_jax.types import Batch
from tests import runs

FIELDS = {
    "env.num_envs": "8",
    "learner.batch_size": "8",
    "tokenizer_learner.batch_size": "16",
    "replay.capacity": "128",
    "replay.min_size": "48",
    "tokenizer.motion_weight": "0",
}
NUM_STEPS = 5  # the replay can be sampled from the third on
NUM_UPDATES = 20


def _build(mesh: Mesh) -> agents.Agent:
    return agents.build(config.load(runs.TINY, list(FIELDS.items())), mesh)


def _difference(one: Any, other: Any) -> float:
    """The greatest difference between two trees' numbers, over the greatest number of a leaf, at least 1."""
    greatest = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = (np.asarray(_words(x), np.float64) for x in (a, b))
        greatest = max(greatest, float(np.abs(a - b).max(initial=0.0) / max(np.abs(a).max(initial=0.0), 1.0)))
    return greatest


def _words(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@dataclasses.dataclass(frozen=True)
class _Run:
    """A few whole steps on some devices."""

    agent: agents.Agent
    step: Callable[..., Any]
    state: steps.State
    outputs: list[steps.Outputs]


def _play(mesh: Mesh) -> _Run:
    agent = _build(mesh)
    state, outputs = steps.init_state(agent), []
    step = compiled_step.compile_step(agent, state)
    for _ in range(NUM_STEPS):
        state, told = step(state)
        outputs.append(jax.device_get(told))
    return _Run(agent, step, state, outputs)


def _batch() -> Batch:
    """Windows of random bits."""
    agent = _build(devices.alone())
    random = np.random.RandomState(0)

    def filled(spec: jax.ShapeDtypeStruct) -> jax.Array:
        rows = (spec.shape[0], agent.replay.chunk_length, *spec.shape[1:])
        return jnp.asarray(random.randint(0, 2, rows), spec.dtype)

    replay = agent.replay.init(agents.transition_spec(agent))
    for _ in range(agent.config.learner.sequence_length + 1):
        replay = agent.replay.add(replay, jax.tree.map(filled, agents.transition_spec(agent)))
    return agent.replay.sample(replay, jax.random.key(7))


def learner() -> dict[str, Any]:
    """Plain-SGD updates on one batch: parameters, codebooks and priorities."""
    batch = _batch()
    frames = batch.rows.observation.reshape(-1, *batch.rows.observation.shape[2:])[:32]
    ends = []
    for mesh in (devices.alone(), devices.everything(), devices.everything()):
        agent = _build(mesh)
        plain = {"optimizer": optax.sgd(1e-3), "tokenizer_optimizer": optax.sgd(1e-3)}
        example = jnp.zeros((8, *agent.environments.observation_shape), jnp.uint8)
        train = jax.device_put(agent.init_train(jax.random.key(3), example, **plain), devices.whole(mesh))
        given, seen = devices.place(mesh, batch), devices.place(mesh, frames)
        betas = jax.device_put(jnp.zeros(8), devices.split(mesh))
        novelty = devices.place(mesh, jnp.ones(batch.mask.shape))
        update = jax.jit(partial(agent.update, **plain))
        for number in range(NUM_UPDATES):
            key = jax.device_put(jax.random.key(number), devices.whole(mesh))
            train, priorities, metrics = update(train, given, novelty, seen, betas, key)
        quantizer = train.tokenizer.quantizer
        ends.append(
            jax.device_get(
                {
                    "network": train.network,
                    "tokenizer": train.tokenizer.params,
                    "codebook sums": (quantizer.sums, quantizer.usage),
                    "codebook": quantizer.codebook,
                    "priorities": priorities,
                    "metrics": metrics,
                }
            )
        )
    start = jax.device_get(train.target_network)
    return {name: _difference(one, ends[1][name]) for name, one in ends[0].items()} | {
        "again": _difference(ends[1], ends[2]),
        "moved": _difference(ends[0]["network"], start),
        "devices": len(jax.tree.leaves(given)[0].sharding.device_set),
    }


def play() -> dict[str, Any]:
    """Whole steps: actions and loss up to the first update, where things lie; checkpoints that change devices."""
    one, eight = _play(devices.alone()), _play(devices.everything())
    first = next(number for number, told in enumerate(one.outputs) if told.num_updates)
    acts = [[told.act.transitions for told in run.outputs[: first + 1]] for run in (one, eight)]
    rows = eight.state.replay.rows.observation
    return {
        "acts": _difference(*acts),
        "loss": _difference(*(run.outputs[first].metrics["loss"] for run in (one, eight))),
        "rows": list(rows.sharding.spec),
        "rows_a_device": rows.addressable_data(0).shape[0],
        "network": list(jax.tree.leaves(eight.state.train.network)[0].sharding.spec),
        "finite": bool(eight.outputs[-1].finite),
        "8 to 1": _moved(eight, one),
        "1 to 8": _moved(one, eight),
    }


def _moved(here: _Run, there: _Run) -> dict[str, Any]:
    """A checkpoint of one run read by the other's agent, and one step from there."""
    saved = steps.to_save(here.agent, here.state)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(folder, NUM_STEPS, saved, {}, keep=1)
        restored = checkpoints.restore(folder, steps.to_save(there.agent, steps.state_spec(there.agent)))
    assert restored is not None
    parts = {name: value for name, value in restored.state.items() if name not in ("tree", "max_weight")}
    difference = _difference(jax.device_get(saved), jax.device_get(restored.state))
    state = steps.place(there.agent, steps.State(replay=jax.device_get(here.state.replay), **parts))
    _, told = there.step(state)
    return {
        "difference": difference,
        "devices": len(told.finite.sharding.device_set),
        "goes on": bool(told.finite),
    }


def emulators(backend: str) -> dict[str, Any]:
    """The same seeds and actions: the same frames, whichever devices the emulators are behind."""
    section = dict(config.load("configs/smoke.py", [("env.num_envs", "8"), ("env.num_threads", "1")]).env)
    section["backend"] = backend
    actions = jnp.asarray(np.random.RandomState(0).randint(0, 18, (6, 8)), jnp.int32)
    histories = []
    for mesh in (devices.alone(), devices.everything()):
        made = envs.make(**section, mesh=mesh)
        env_state, first = made.reset(jax.random.key(5))
        step = jax.jit(made.step)
        history = [first]
        for action in actions:
            env_state, time_step = step(env_state, devices.place(mesh, action))
            history.append(time_step)
        histories.append(jax.device_get(history))
    return {"difference": _difference(*histories), "moved": _difference(histories[0][0], histories[0][-1])}


if __name__ == "__main__":
    tasks = {each.__name__: each for each in (learner, play, emulators)}
    print(json.dumps(tasks[sys.argv[1]](*sys.argv[2:])))
