"""Pseudo-counts by coin flips: what a frame's many flips have in common shrinks as 1 / n.

Every row of the replay has d fair coins of its own. A network that regresses them learns, for a frame that was seen n
times, the mean of n vectors of coins, whose mean square is 1 / n. So novelty needs no table, and frames that look alike
share their counts. What it sees of a frame is frozen: its coarse cells, as the exact counts know it.
Source: Lobel et al. 2023, https://arxiv.org/abs/2306.03186
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.exploration.counts import cells
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.models.novelty_nets import FlipNet
from learnmax_jax.models.rows import coin_flips
from learnmax_jax.types import Array, Batch, Params


@struct.dataclass
class FlipState:
    """The network that regresses coins.

    Attributes:
      params: of FlipNet.
      optimizer_state: of them.
    """

    params: Params
    optimizer_state: optax.OptState


def make(
    parts: Parts,
    *,
    num_flips: int,
    width: int,
    grid_height: int,
    grid_width: int,
    num_levels: int,
    learning_rate: float,
) -> Kind:
    """The kind `coin_flip`.

    Args:
      parts: what kinds are built with.
      num_flips: d; the pseudo-count's relative error is about sqrt(2 / d).
      width: of the projection and of two hidden layers.
      grid_height, grid_width, num_levels: of what the network sees of a frame; see counts.cells.
      learning_rate: of Adam.
    """
    net = FlipNet(num_levels=num_levels, width=width, num_flips=num_flips)
    optimizer = optax.multi_transform({"train": optax.adam(learning_rate), "freeze": optax.set_to_zero()}, label)

    def look(observation: Array) -> Array:
        flat = observation.reshape(-1, *parts.observation_shape)
        seen = cells(flat, grid_height=grid_height, grid_width=grid_width, num_levels=num_levels)
        return seen.reshape(*observation.shape[:-3], -1).astype(jnp.int32)

    def start(rng_key: Array) -> FlipState:
        example = look(jnp.zeros((1, *parts.observation_shape), jnp.uint8))
        params = net.init(rng_key, example)["params"]
        return FlipState(params=params, optimizer_state=optimizer.init(params))

    def pay(state: FlipState, params: Any, batch: Batch, rng_key: Array) -> Paid:
        del params, rng_key
        seen, flips = look(batch.rows.observation), coin_flips(batch, num_flips)
        value, gradient = jax.value_and_grad(loss)(state.params, net, seen, flips, batch.mask)
        changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        state = FlipState(optax.apply_updates(state.params, changes), optimizer_state)
        paid = bonus(state, net, seen)
        mean = jnp.sum(jnp.where(batch.mask, paid, 0.0)) / jnp.maximum(batch.mask.sum(), 1)
        return Paid(state, paid, None, {"coin_flip_loss": value, "coin_flip_bonus": mean})

    return Kind(init=start, pay=pay)


def loss(params: Params, net: FlipNet, seen: Array, flips: Array, mask: Array) -> Array:
    """Mean squared error of the coins.

    Args:
      params: of the net. net: FlipNet.
      seen: `[B, T, cells]` int32.
      flips: `[B, T, d]`, -1 or 1.
      mask: `[B, T]` bool.
    Returns:
      scalar.
    """
    chex.assert_equal_shape_prefix([seen, flips, mask], 2)
    error = jnp.mean((net.apply({"params": params}, seen) - flips) ** 2, axis=-1)
    return jnp.sum(jnp.where(mask, error, 0.0)) / jnp.maximum(mask.sum(), 1)


def bonus(state: FlipState, net: FlipNet, seen: Array) -> Array:
    """The novelty of `seen [..., cells]`: 1 / sqrt(n) of its pseudo-count, at most 1, `[...]`."""
    mean_square = jnp.mean(net.apply({"params": state.params}, seen) ** 2, axis=-1)
    return jnp.sqrt(jnp.minimum(mean_square, 1.0))


def label(params: Params) -> Any:
    """Which parameters an optimizer trains: all but those below a name that begins with "frozen"."""

    def one(path: tuple[Any, ...], _: Array) -> str:
        return "freeze" if any(str(part.key).startswith("frozen") for part in path) else "train"

    return jax.tree_util.tree_map_with_path(one, params)
