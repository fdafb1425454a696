"""Batches of searches at random codes, of any size: what growth.py varies and what is set beside others' figures."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config
from learnmax_jax.benchmark import timing
from learnmax_jax.types import Array

ENVIRONMENTS, SIMULATIONS = 64, 16
WINDOWS = (8, 32)
NOISE = 0.05


def figures(settings: config.Settings, *, rounds: int) -> dict[str, Any]:
    """Searches a second at 64 x 16 for two windows; the context's own pass is timed apart."""
    player = player_with(settings, {"search.num_simulations": SIMULATIONS})
    params, key = params_of(player), jax.random.key(0)
    calls: dict[Any, Callable[[], Any]] = {}
    for window in WINDOWS:
        context, root = roots(player, ENVIRONMENTS, window)
        calls["context", window] = partial(jax.jit(context), params)
        calls["search", window] = partial(jax.jit(root), params, *jax.jit(context)(params), key)
    for call in calls.values():
        jax.block_until_ready(call())
    times = timing.interleaved(calls, rounds=rounds)
    short, long = (np.array(times["search", window]) for window in WINDOWS)
    result = calls["search", WINDOWS[0]]()
    return {
        "searches_per_second": ENVIRONMENTS / float(np.median(short)),
        "searches_per_second_long_window": ENVIRONMENTS / float(np.median(long)),
        "window_ratio": float(np.median(long / short)),
        "context_seconds": float(np.median(times["context", WINDOWS[0]])),
        "tree_depth_mean": float(result.depth_mean.mean()),
        "tree_depth_max": int(result.depth_max.max()),
        "tree_bytes": tree_bytes(player, ENVIRONMENTS),
    }


def player_with(settings: config.Settings, fields: Mapping[str, Any]) -> agents.Player:
    """The parts that play, with other values of some fields; how they fit the learner is not asked."""
    section = config.thaw(settings)
    section.update_from_flattened_dict(dict(fields))
    return agents.build_player(config.Settings(section))


def params_of(player: agents.Player) -> Any:
    """Random parameters whose search prefers something: heads start at zero, which makes an untypically flat tree."""
    observation = jnp.zeros((1, *player.environments.observation_shape), jnp.uint8)

    def init(key: Array) -> Any:
        params = player.world_model.init(key, observation, player.tokenizer.init(key, observation))
        noisy = [
            x + NOISE * jax.random.normal(key, x.shape) if x.ndim == 2 else x for x in jax.tree.leaves(params.network)
        ]
        return params.replace(network=jax.tree.unflatten(jax.tree.structure(params.network), noisy))

    return jax.jit(init)(jax.random.key(0))


def roots(player: agents.Player, num_envs: int, window: int) -> tuple[Callable, Callable]:
    """(params -> context and root latents) and (params, those, key -> SearchOutput) at random codes."""
    tokenizer = player.tokenizer
    shape = (num_envs, window, tokenizer.num_tokens, tokenizer.num_groups)
    codes = jax.random.randint(jax.random.key(1), shape, 0, tokenizer.num_codes)
    action = jnp.zeros(shape[:2], jnp.int32)

    def context(params: Any) -> Any:
        made, latents = player.world_model.context(params, codes, action, action > 0, capacity=window)
        return made, latents[:, -1]

    def search(params: Any, made: Any, latent: Array, key: Array) -> Any:
        return player.plan(params, key, made, latent, codes[:, -1], jnp.zeros((num_envs,)))

    return context, search


def tree_bytes(player: agents.Player, num_envs: int) -> int:
    """Bytes of the nodes' own state (path K/V, latents, codes) in the trees of one batch of searches."""
    search = player.config.search
    tokens = (num_envs, player.tokenizer.num_tokens)
    latent = jax.ShapeDtypeStruct((*tokens, player.config.dynamics.width), jnp.float32)
    codes = jax.ShapeDtypeStruct((*tokens, player.tokenizer.num_groups), jnp.int32)
    node = jax.eval_shape(partial(player.world_model.root, max_depth=search.max_depth), latent, codes)
    return (search.num_simulations + 1) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(node))
