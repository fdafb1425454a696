"""Novelty by visits of each place's shade: has this patch of the screen ever looked like this?

Counting whole frames counts combinations, the skull's phase with the player's place: most keys are seen a few times
and stay novel for long. Here every cell of the coarse frame counts its own levels. Wherever the skull rolls is
known after one round, whatever the player does meanwhile; a player in a new place changes a cell that never changed.
A frame is as novel as its most novel cell, 1 / sqrt(n), and is paid for where some cell is new in its episode.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.exploration import counts
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.types import Array, Batch, Metrics


@struct.dataclass
class PatchCountState:
    """Visits of each level of each cell.

    Attributes:
      visits: `[cells, levels]` int32, frames of all episodes.
      seen: `[E, cells, levels]` bool, in the episode that each environment plays.
    """

    visits: Array
    seen: Array


def make(parts: Parts, *, grid_height: int, grid_width: int, num_levels: int) -> Kind:
    """The kind `patch_counts`.

    Args:
      parts: what kinds are built with.
      grid_height, grid_width, num_levels: of the coarse frame; see counts.cells.
    """
    sizes = {"grid_height": grid_height, "grid_width": grid_width, "num_levels": num_levels}
    num_cells = grid_height * grid_width * parts.observation_shape[2]

    def start(rng_key: Array) -> PatchCountState:
        del rng_key
        visits = jnp.zeros((num_cells, num_levels), jnp.int32)
        return PatchCountState(visits, jnp.zeros((parts.num_envs, num_cells, num_levels), bool))

    def see(state: PatchCountState, observation: Array, first: Array) -> tuple[PatchCountState, Array, Array]:
        state, first_visit = observe(state, counts.cells(observation, **sizes), first)
        return state, counts.keys(observation, **sizes), first_visit

    def pay(state: PatchCountState, params: Any, batch: Batch, rng_key: Array) -> Paid:
        del params, rng_key
        observation = batch.rows.observation
        cells = counts.cells(observation.reshape(-1, *observation.shape[2:]), **sizes)
        paid = bonus(state, cells.reshape(*observation.shape[:2], -1), batch.rows.first_visit)
        return Paid(state, paid, None, {})

    return Kind(init=start, pay=pay, observe=see, metrics=metrics)


def observe(state: PatchCountState, cells: Array, first: Array) -> tuple[PatchCountState, Array]:
    """Counts one step's frames.

    Args:
      state: before.
      cells: `[E, cells]` uint32, each environment's coarse frame.
      first: `[E]` bool, it opens an episode.
    Returns:
      (state, first visits `[E]` bool: some cell has a level that it had not in this episode).
    """
    now = jax.nn.one_hot(cells, state.visits.shape[1], dtype=jnp.bool_)
    seen = state.seen & ~first[:, None, None]
    first_visit = (now & ~seen).any(axis=(1, 2))
    return PatchCountState(state.visits + now.sum(axis=0, dtype=jnp.int32), seen | now), first_visit


def bonus(state: PatchCountState, cells: Array, first_visit: Array) -> Array:
    """1 / sqrt(n) of the most novel cell of `[..., cells]` where `first_visit [...]`; 1 for what was never counted."""
    visits = state.visits[jnp.arange(cells.shape[-1]).reshape((1,) * (cells.ndim - 1) + (-1,)), cells.astype(jnp.int32)]
    rarest = jnp.maximum(visits.min(axis=-1), 1)
    return jnp.where(first_visit, jax.lax.rsqrt(rarest.astype(jnp.float32)), 0.0)


def metrics(state: PatchCountState) -> Metrics:
    """Scalars to log."""
    return {"num_keys": (state.visits > 0).sum()}
