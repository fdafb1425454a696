"""What groups of environments save: act in one group and in several, beside emulators and network alone.

All are timed in turn, round by round, so that each round's ratios hold on a machine that others share.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config, lifecycle
from learnmax_jax import step as steps
from learnmax_jax.acting import groups
from learnmax_jax.agent import Agent
from learnmax_jax.types import Array, Environments, TimeStep


def measure(settings: config.Settings, *, rounds: int) -> dict[str, float]:
    """Times an act phase in `actor.num_groups` groups and what it is made of.

    Args:
      settings: the checked config, of emulators.
      rounds: how often each is timed; the medians of the rounds' ratios count.
    Returns:
      Seconds a phase, and ratios.
    """
    with lifecycle.bad_input():
        grouped = agents.build(settings)
        section = config.thaw(settings)
        section.actor.num_groups = 1
        alone = agents.build(config.Settings(section))
    params = _params(alone)
    calls = {
        "act_in_groups": _acting(grouped, params),
        "act_in_one": _acting(alone, params),
        "emulators": _emulating(alone),
        "network": _acting(_without_emulators(alone), params),
    }
    for call in [*calls.values()] * 2:  # the second one may compile again, for where its arguments lie
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - begin)
    return _figures({name: np.array(values) for name, values in times.items()})


def _figures(times: dict[str, np.ndarray]) -> dict[str, float]:
    """Medians over the rounds: seconds, and what groups take over the longer part, the sum and one group."""
    grouped, alone, emulators, network = (
        times[name] for name in ("act_in_groups", "act_in_one", "emulators", "network")
    )
    ratios = {
        "groups_over_one": grouped / alone,
        "groups_over_longer": grouped / np.maximum(emulators, network),
        "groups_over_sum": grouped / (emulators + network),
        "one_over_sum": alone / (emulators + network),
        "emulators_over_groups": emulators / grouped,
    }
    seconds = {f"{name}_seconds": values for name, values in times.items()}
    return {name: float(np.median(values)) for name, values in (seconds | ratios).items()}


def _params(agent: Agent) -> Any:
    """A model whose heads have preferences: at their start, which is zero, it searches an untypically flat tree."""
    key, frame = jax.random.key(0), jnp.zeros((1, *agent.environments.observation_shape), jnp.uint8)
    params = agent.world_model.init(key, frame, agent.tokenizer.init(key, frame))
    network = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(key, x.shape) if x.ndim == 2 else x, params.network)
    return params.replace(network=network)


def _acting(agent: Agent, params: Any) -> Callable[[], Any]:
    """Act phases that follow one another."""
    act = jax.jit(agent.act)
    held: Any = steps.start_actor(agent.player, params, jax.random.key(1)), agent.novelty.init(jax.random.key(2))
    calls = 0

    def call() -> Any:
        nonlocal held, calls
        calls += 1
        *held, _ = act(params, *held, jax.random.key(calls))
        return held

    return call


def _emulating(agent: Agent) -> Callable[[], Any]:
    """As many steps of the emulators, at random actions."""
    environments, num_steps = agent.environments, agent.config.actor.num_steps

    def run(env_state: Any, rng_key: Array) -> tuple[Any, Array]:
        def one(env_state: Any, rng_key: Array) -> tuple[Any, Array]:
            action = jax.random.randint(rng_key, (environments.num_envs,), 0, environments.num_actions)
            env_state, time_step = environments.step(env_state, action)
            return env_state, time_step.reward

        return jax.lax.scan(one, env_state, jax.random.split(rng_key, num_steps))

    compiled = jax.jit(run)
    held, _ = environments.reset(jax.random.key(1))
    calls = 0

    def call() -> Any:
        nonlocal held, calls
        calls += 1
        held, reward = compiled(held, jax.random.key(calls))
        return reward

    return call


def _without_emulators(agent: Agent) -> Agent:
    """The agent before frames that never change, whose step costs nothing."""
    _, time_step = agent.environments.reset(jax.random.key(1))

    def step(env_state: Array, action: Array) -> tuple[Array, TimeStep]:
        shown = time_step.observation ^ (env_state % 2)  # no constant, which would be thought about only once
        return env_state + action[0].astype(jnp.uint8), time_step.replace(observation=shown, first=action < 0)

    still: Environments = dataclasses.replace(
        agent.environments, reset=lambda rng_key: (jnp.zeros((), jnp.uint8), time_step), step=step
    )
    act = partial(agent.act, groups=groups.at_once(still, 1))
    return dataclasses.replace(
        agent, environments=still, player=dataclasses.replace(agent.player, environments=still), act=act
    )
