"""Pseudo-counts by coin flips: what a frame's many flips have in common shrinks as 1 / n.

Every row of the replay has d fair coins of its own. A network that regresses them learns, for a frame that was seen n
times, the mean of n vectors of coins, whose mean square is 1 / n. So novelty needs no table, and frames that look alike
share their counts. What it sees of a frame is frozen but for its scale: a random projection of its coarse cells, as
the exact counts know it, each feature less its mean and in units of its deviation. Else the still room is most of every
projection, all frames look alike, and what was never seen is known by the others' coins. Moments are of all rooms
together: a room that is seldom seen is far off in many features, its places the less so from one another.
Source: Lobel et al. 2023, https://arxiv.org/abs/2306.03186
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.exploration import moments
from learnmax_jax.exploration.counts import cells
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.exploration.moments import Moments
from learnmax_jax.models.novelty_nets import FlipNet
from learnmax_jax.models.rows import coin_flips
from learnmax_jax.types import Array, Batch, Params

_LEAST_DEVIATION = 0.01  # added to every feature's; a step of one cell of 144 is some 0.1


@struct.dataclass
class FlipState:
    """The network that regresses coins.

    Attributes:
      projection: `[cells, levels, width]` float32, frozen.
      moments: of the features.
      params: of FlipNet.
      optimizer_state: of them.
    """

    projection: Array
    moments: Moments
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
    net = FlipNet(width=width, num_flips=num_flips)
    optimizer = optax.multi_transform({"train": optax.adam(learning_rate), "freeze": optax.set_to_zero()}, label)

    def look(observation: Array) -> Array:
        flat = observation.reshape(-1, *parts.observation_shape)
        seen = cells(flat, grid_height=grid_height, grid_width=grid_width, num_levels=num_levels)
        return seen.reshape(*observation.shape[:-3], -1).astype(jnp.int32)

    def start(rng_key: Array) -> FlipState:
        projection_key, net_key = jax.random.split(rng_key)
        num_cells = look(jnp.zeros((1, *parts.observation_shape), jnp.uint8)).shape[-1]
        params = net.init(net_key, jnp.zeros((1, width)))["params"]
        return FlipState(
            projection=jax.random.normal(projection_key, (num_cells, num_levels, width)),
            moments=moments.init(width),
            params=params,
            optimizer_state=optimizer.init(params),
        )

    def pay(state: FlipState, params: Any, batch: Batch, rng_key: Array) -> Paid:
        del params, rng_key
        features, flips = project(state.projection, look(batch.rows.observation)), coin_flips(batch, num_flips)
        known = moments.add(state.moments, features, batch.mask)
        seen = moments.whiten(features, known, least=_LEAST_DEVIATION)
        value, gradient = jax.value_and_grad(loss)(state.params, net, seen, flips, batch.mask)
        changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        learned = optax.apply_updates(state.params, changes)
        state = state.replace(moments=known, params=learned, optimizer_state=optimizer_state)
        paid = bonus(learned, net, seen)
        mean = jnp.sum(jnp.where(batch.mask, paid, 0.0)) / jnp.maximum(batch.mask.sum(), 1)
        return Paid(state, paid, None, {"coin_flip_loss": value, "coin_flip_bonus": mean})

    return Kind(init=start, pay=pay)


def project(projection: Array, seen: Array) -> Array:
    """Features `[..., width]` of `seen [..., cells]` int32 by `projection [cells, levels, width]`."""
    num_cells = seen.shape[-1]
    return projection[jnp.arange(num_cells), seen].sum(axis=-2) * num_cells**-0.5


def loss(params: Params, net: FlipNet, seen: Array, flips: Array, mask: Array) -> Array:
    """Mean squared error of the coins.

    Args:
      params: of the net. net: FlipNet.
      seen: `[B, T, width]` float32, whitened features.
      flips: `[B, T, d]`, -1 or 1.
      mask: `[B, T]` bool.
    Returns:
      scalar.
    """
    chex.assert_equal_shape_prefix([seen, flips, mask], 2)
    error = jnp.mean((net.apply({"params": params}, seen) - flips) ** 2, axis=-1)
    return jnp.sum(jnp.where(mask, error, 0.0)) / jnp.maximum(mask.sum(), 1)


def bonus(params: Params, net: FlipNet, seen: Array) -> Array:
    """The novelty of `seen [..., width]`: 1 / sqrt(n) of its pseudo-count, at most 1, `[...]`."""
    mean_square = jnp.mean(net.apply({"params": params}, seen) ** 2, axis=-1)
    return jnp.sqrt(jnp.minimum(mean_square, 1.0))


def label(params: Params) -> Any:
    """Which parameters an optimizer trains: all but those below a name that begins with "frozen"."""

    def one(path: tuple[Any, ...], _: Array) -> str:
        return "freeze" if any(str(part.key).startswith("frozen") for part in path) else "train"

    return jax.tree_util.tree_map_with_path(one, params)
