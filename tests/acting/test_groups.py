"""Groups of environments: what each plays, what is refused, and that one steps while the network thinks for another."""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from learnmax_jax.acting import actor, envs, groups
from learnmax_jax.acting.backends import Emulators, EmulatorState
from learnmax_jax.types import Environments, Probe, SearchOutput, TimeStep
from learnmax_jax.worlds import scripted

SETTINGS: dict[str, Any] = {
    "game": "Breakout-v5",
    "num_envs": 4,
    "num_threads": 1,
    "protocol": "standard",
    "action_set": 18,
    "max_episode_steps": 12,
    "zero_discount_on_life_loss": True,
}


def play(made: groups.Groups, actions: np.ndarray) -> TimeStep:
    """Answers `[T, B, ...]` to actions `[T, B]`, each group told before the one before it is waited for."""
    num_groups = made.num_groups

    def one(env_state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        mine = groups.split(action, num_groups)
        answers = []
        for group in range(num_groups):
            env_state = made.send(env_state, mine[group], group)
        for group in range(num_groups):
            env_state, answer = made.recv(env_state, mine[group], jnp.int32(group))
            answers.append(answer)
        return env_state, jax.tree.map(lambda *rows: jnp.concatenate(rows), *answers)

    env_state, _ = made.environments.reset(jax.random.key(3))
    return jax.device_get(jax.jit(partial(jax.lax.scan, one))(env_state, actions)[1])


@pytest.mark.parametrize("backend", ["xla", "callback"])
def test_emulators_play_the_same_in_whatever_groups(backend: str) -> None:
    actions = np.random.default_rng(0).integers(0, 18, (40, 4)).astype(np.int32)
    whole = envs.make(backend="host", **SETTINGS)
    env_state, _ = whole.reset(jax.random.key(3))
    expected = []
    for action in actions:
        env_state, answer = whole.step(env_state, action)
        expected.append(answer)
    expected = jax.tree.map(lambda *rows: np.stack(rows), *expected)
    assert expected.last.sum() >= 8 and (expected.observation[:, 0] != expected.observation[:, 3]).any()
    for num_groups in (1, 2):
        made = envs.make_groups(num_groups=num_groups, backend=backend, **SETTINGS)
        jax.tree.map(np.testing.assert_array_equal, play(made, actions), expected)
    env_state, _ = made.environments.reset(jax.random.key(3))
    _, together = jax.lax.scan(made.environments.step, env_state, actions[:5])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(together), jax.tree.map(lambda x: x[:5], expected))


def test_a_world_plays_the_same_in_whatever_groups() -> None:
    actions = np.random.default_rng(0).integers(0, 8, (30, 6)).astype(np.int32)
    world = scripted.make(num_envs=6, size=4)
    one, three = (play(groups.at_once(world, num_groups), actions) for num_groups in (1, 3))
    env_state, _ = world.reset(jax.random.key(3))
    _, expected = jax.lax.scan(world.step, env_state, actions)
    for other in (one, three):
        jax.tree.map(np.testing.assert_array_equal, other, jax.device_get(expected))
    assert expected.last.any() and len(np.unique(expected.reward)) > 20


@pytest.mark.parametrize(
    ("num_groups", "num_devices", "says"),
    [
        (3, 1, r"num_groups=3: does not divide env.num_envs=4. Allowed: its divisors. Nearest: (2|4)$"),
        (0, 1, r"num_groups=0: does not divide env.num_envs=4. .* Nearest: 1$"),
        (8, 1, r"num_groups=8: does not divide env.num_envs=4. .* Nearest: 4$"),
        (2, 2, r"num_groups=2: each of 2 devices steps its environments at once. Allowed: 1. Nearest: 1$"),
    ],
)
def test_groups_that_cannot_be_made_are_refused(num_groups: int, num_devices: int, says: str) -> None:
    with pytest.raises(ValueError, match=f"^actor.{says}"):
        groups.check(num_groups, num_envs=4, num_devices=num_devices)


ENV_SECONDS = NET_SECONDS = 0.04
ACTIONS, STEPS = 5, 8


class Diary:
    """What was done in which order, by emulators and a network that only take their time."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.ready: dict[int, float] = {}
        self.busy_seconds = 0.0

    def send(self, group: int, handle: np.ndarray, action: np.ndarray) -> np.ndarray:
        del action  # but it must be known
        self.events.append(f"send {group}")
        self.ready[group] = time.perf_counter() + ENV_SECONDS
        self.busy_seconds += ENV_SECONDS
        return handle

    def recv(self, group: int, handle: np.ndarray) -> np.ndarray:
        self.events.append(f"recv {group}")
        time.sleep(max(self.ready[group] - time.perf_counter(), 0.0))
        return handle

    def think(self, latent: np.ndarray) -> np.ndarray:
        self.events.append("think")
        begin = time.perf_counter()
        time.sleep(NET_SECONDS)
        self.busy_seconds += time.perf_counter() - begin
        return latent


def slow_groups(diary: Diary, *, num_envs: int, num_groups: int) -> groups.Groups:
    """Emulators that step in threads of their own for ENV_SECONDS; `recv` waits for the rest of that."""

    def part(group: int) -> Emulators:
        size = num_envs // num_groups
        zeros = jnp.zeros((size,), jnp.int32)
        time_step = TimeStep(
            observation=jnp.zeros((size, 4, 4, 1), jnp.uint8),
            reward=jnp.zeros((size,)),
            discount=jnp.ones((size,)),
            first=zeros > 0,
            last=zeros > 0,
            probe=Probe.unknown(size),
        )
        number = jax.ShapeDtypeStruct((), jnp.int32)

        def send(env_state: EmulatorState, action: Any) -> EmulatorState:
            started = io_callback(partial(diary.send, group), number, env_state.handle, action)
            return env_state.replace(handle=started)

        def recv(env_state: EmulatorState, action: Any) -> tuple[EmulatorState, TimeStep]:
            waited = io_callback(partial(diary.recv, group), number, env_state.handle)
            # The network may not think of a frame before it is there.
            return env_state.replace(handle=waited), time_step.replace(
                observation=time_step.observation + waited.astype(jnp.uint8)
            )

        start = EmulatorState(handle=jnp.int32(0), lives=zeros, pool=0)
        return Emulators(lambda rng_key: (start, time_step), send, recv)

    def about(reset: Any, step: Any) -> Environments:
        names = tuple(map(str, range(ACTIONS)))
        return Environments(num_envs, ACTIONS, names, (4, 4, 1), 256, 1, False, reset, step)

    return groups.emulators([part(group) for group in range(num_groups)], about)


def slow_act(diary: Diary, num_groups: int) -> float:
    """Plays a phase; its seconds over those that emulators and network were busy."""
    made = slow_groups(diary, num_envs=4, num_groups=num_groups)
    model: Any = SimpleNamespace(
        num_actions=ACTIONS,
        tokenise=lambda params, observation: observation[:, :1, :1, 0].astype(jnp.int32),
        context=lambda params, codes, action, first, capacity: (jnp.zeros((4, 1)), None),
        extend=lambda params, context, codes, action, first: (context + 1, codes[:, :, 0] + action[:, None]),
    )

    def plan(params: Any, rng_key: Any, context: Any, latent: Any, codes: Any, beta: Any) -> SearchOutput:
        thought = io_callback(diary.think, jax.ShapeDtypeStruct(latent.shape, latent.dtype), latent)
        zeros = 0.0 * beta
        action = thought[:, 0] % ACTIONS
        policy = jnp.zeros((len(beta), ACTIONS))
        return SearchOutput(action, policy, jnp.stack([zeros, zeros], axis=-1), zeros, action, zeros == 0)

    env_state, time_step = made.environments.reset(jax.random.key(0))
    memory = actor.init_memory(model, None, time_step.observation, window=2)
    act = partial(
        actor.act,
        world_model=model,
        groups=made,
        plan=plan,
        observe=lambda novelty, observation, first, reward: (novelty, jnp.zeros((4, 2), jnp.uint32), first),
        num_steps=STEPS,
        epsilon=0.0,
        longest_hold=1,
        longest_way_back=0,
    )
    state = actor.init_actor(env_state, time_step, memory, jnp.zeros((4,)))
    compiled = jax.jit(act).lower(None, state, (), jax.random.key(0)).compile()
    begin = time.perf_counter()
    jax.block_until_ready(compiled(None, state, (), jax.random.key(0)))
    return (time.perf_counter() - begin) / diary.busy_seconds


def test_one_group_steps_while_the_network_thinks_for_another() -> None:
    one, two = Diary(), Diary()
    ratio = slow_act(two, num_groups=2)
    first = ["think", "send 0", "think", "send 1", "recv 0"]
    turns = ["think", "send 0", "recv 1", "think", "send 1", "recv 0"]
    assert two.events == [*first, *turns * (STEPS - 1), "recv 1"]
    assert ratio < 0.8, "the whole takes as long as its parts"
    # With one group nothing overlaps: the ruler can tell.
    assert slow_act(one, num_groups=1) > 0.95
    assert one.events == ["think", "send 0", "recv 0"] * STEPS
