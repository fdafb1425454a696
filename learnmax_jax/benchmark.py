"""What each part of the compiled step costs, measured beside the whole in one run.

Machines are shared and noisy, so the parts and the whole are timed in turn, round by round,
and the figures are medians over the rounds; compare ratios, not absolute times.
"""

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config, lifecycle, provenance
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.replay import buffer
from learnmax_jax.step import State
from learnmax_jax.types import Array

SEARCH_ENVIRONMENTS, SEARCH_SIMULATIONS = 64, 16
WINDOWS = (8, 32)


def measure(settings: config.Settings, *, rounds: int) -> dict[str, Any]:
    """Times emulators, acting, learning and the whole step, and the search at two windows.

    Args:
      settings: the checked config.
      rounds: how often each part is timed; the medians count.
    Returns:
      The figures as json values; per second are agent steps, observations, searches.
    """
    with lifecycle.bad_input():
        agent = agents.build(settings)
    state = _filled(agent, steps.init_state(agent))
    parts, compile_seconds = _parts(agent, state)
    del state  # each part carries its own
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            begin = time.perf_counter()
            jax.block_until_ready(part())
            times[name].append(time.perf_counter() - begin)
    median = {name: float(np.median(values)) for name, values in times.items()}
    observations = agent.updates_per_step * settings.learner.batch_size * settings.learner.sequence_length
    agent_steps = agent.steps_per_call
    return {
        "emulator_steps_per_second": agent_steps / median["emulators"],
        "act_steps_per_second": agent_steps / median["act"],
        "learn_observations_per_second": observations / median["learn"],
        "step_steps_per_second": agent_steps / median["step"],
        "step_over_parts": float(
            np.median(np.array(times["step"]) / (np.array(times["act"]) + np.array(times["learn"])))
        ),
        **_search_figures(settings, rounds),
        "compile_seconds": compile_seconds,
        "peak_memory_bytes": _peak_memory_bytes(),
        "replay_bytes_per_step": buffer.bytes_per_row(agents.transition_spec(agent)),
        "replay_ratio": settings.learner.replay_ratio,
        "versions": provenance.versions(),
    }


def _filled(agent: Agent, state: State) -> State:
    """A state whose replay can be sampled, with real transitions: the learner's figures must not be of noise."""
    play = jax.jit(partial(_act_and_store, agent), donate_argnums=0)
    while not agent.replay.can_sample(state.replay):
        state = play(state)
    return state


def _act_and_store(agent: Agent, state: State) -> State:
    key = jax.random.fold_in(state.rng_key, state.step)
    actor, novelty, output = agent.act(state.train.model, state.actor, state.novelty, key)
    replay = agent.replay.add(state.replay, output.transitions)
    return state.replace(actor=actor, novelty=novelty, replay=replay, step=state.step + 1)


def _parts(agent: Agent, state: State) -> tuple[dict[str, Callable[[], Any]], float]:
    """Each part as a call without arguments that keeps its own donated state, compiled; and the step's compile time."""

    def emulators(env_state: Any, rng_key: Array) -> Any:
        def one(env_state: Any, rng_key: Array) -> tuple[Any, Array]:
            action = jax.random.randint(rng_key, (agent.environments.num_envs,), 0, agent.environments.num_actions)
            env_state, time_step = agent.environments.step(env_state, action)
            return env_state, time_step.reward

        return jax.lax.scan(one, env_state, jax.random.split(rng_key, agent.config.actor.num_steps))[0]

    def act(state: State, rng_key: Array) -> State:
        return _act_and_store(agent, state.replace(rng_key=rng_key))

    def learn(state: State, rng_key: Array) -> State:
        num_updates = jnp.asarray(agent.updates_per_step)
        learned = steps.learn(
            state.train, state.replay, state.novelty, state.actor.beta, rng_key, num_updates, agent=agent
        )
        return state.replace(train=learned.train, replay=learned.replay, novelty=learned.novelty)

    def step(state: State, rng_key: Array) -> State:
        return steps.act_learn_step(state.replace(rng_key=rng_key), agent=agent)[0]

    env_key = jax.random.fold_in(state.rng_key, 1)
    # One pool a part: a program keeps the pool it was traced with.
    copies = {
        name: jax.tree.map(jnp.copy, state).replace(actor=steps.start_actor(agent.player, state.train.model, env_key))
        for name in ("act", "learn", "step")
    }
    env_state, _ = agent.environments.reset(env_key)
    parts, compile_seconds = {"emulators": _keeping(jax.jit(emulators), env_state)}, 0.0
    for name, function in (("act", act), ("learn", learn), ("step", step)):
        parts[name] = _keeping(jax.jit(function, donate_argnums=0), copies[name])
    for name, part in parts.items():
        begin = time.perf_counter()
        jax.block_until_ready(part())
        compile_seconds = time.perf_counter() - begin if name == "step" else compile_seconds
    return parts, compile_seconds


def _keeping(function: Callable, state: Any) -> Callable[[], Any]:
    """Feeds a function its own last answer, and a new key each time."""
    held = {"state": state, "calls": 0}

    def call() -> Any:
        held["state"] = function(held["state"], jax.random.key(held["calls"]))
        held["calls"] += 1
        return held["state"]

    return call


def _search_figures(settings: config.Settings, rounds: int) -> dict[str, Any]:
    """Searches a second at 64 x 16 for two windows; the context's own pass is timed apart."""
    section = config.thaw(settings)
    section.search.num_simulations = SEARCH_SIMULATIONS
    player = agents.build_player(config.Settings(section))
    observation = jnp.zeros((1, *player.environments.observation_shape), jnp.uint8)
    key = jax.random.key(0)
    tokenizer_state = player.tokenizer.init(key, observation)
    params = player.world_model.init(key, observation, tokenizer_state)
    # Heads start at zero, and a net without preferences searches an untypically flat tree.
    network = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(key, x.shape) if x.ndim == 2 else x, params.network)
    params = params.replace(network=network)
    calls, figures = {}, {}
    for window in WINDOWS:
        context, root = _roots(player, window)
        calls["context", window] = partial(jax.jit(context), params)
        calls["search", window] = partial(jax.jit(root), params, *jax.jit(context)(params), key)
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            output = jax.block_until_ready(call())
            times[name].append(time.perf_counter() - begin)
            if name[0] == "search":
                figures[name] = output
    short, long = (np.array(times["search", window]) for window in WINDOWS)
    result = figures["search", WINDOWS[0]]
    return {
        "searches_per_second": SEARCH_ENVIRONMENTS / float(np.median(short)),
        "searches_per_second_long_window": SEARCH_ENVIRONMENTS / float(np.median(long)),
        "window_ratio": float(np.median(long / short)),
        "context_seconds": float(np.median(times["context", WINDOWS[0]])),
        "tree_depth_mean": float(result.depth_mean.mean()),
        "tree_depth_max": int(result.depth_max.max()),
        "tree_bytes": _tree_bytes(player, section.search.max_depth),
    }


def _roots(player: agents.Player, window: int) -> tuple[Callable, Callable]:
    """(params -> context and root latents) and (params, those, key -> SearchOutput) at random codes."""
    tokenizer = player.tokenizer
    shape = (SEARCH_ENVIRONMENTS, window, tokenizer.num_tokens, tokenizer.num_groups)
    codes = jax.random.randint(jax.random.key(1), shape, 0, tokenizer.num_codes)
    action = jnp.zeros(shape[:2], jnp.int32)

    def context(params: Any) -> Any:
        made, latents = player.world_model.context(params, codes, action, action > 0, capacity=window)
        return made, latents[:, -1]

    def search(params: Any, made: Any, latent: Array, key: Array) -> Any:
        return player.plan(params, key, made, latent, codes[:, -1], jnp.zeros((SEARCH_ENVIRONMENTS,)))

    return context, search


def _tree_bytes(player: agents.Player, max_depth: int) -> int:
    """Bytes of the nodes' own state (path K/V, latents, codes) in the trees of one batch of searches."""
    tokens = (SEARCH_ENVIRONMENTS, player.tokenizer.num_tokens)
    latent = jax.ShapeDtypeStruct((*tokens, player.config.dynamics.width), jnp.float32)
    codes = jax.ShapeDtypeStruct((*tokens, player.tokenizer.num_groups), jnp.int32)
    node = jax.eval_shape(partial(player.world_model.root, max_depth=max_depth), latent, codes)
    return (SEARCH_SIMULATIONS + 1) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(node))


def _peak_memory_bytes() -> int:
    """The device's peak, or on a CPU the process's largest resident set."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
