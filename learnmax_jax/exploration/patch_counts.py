"""Novelty by visits of each place's shade: has this patch of the screen ever looked like this?

Counting whole frames counts combinations, the skull's phase with the player's place: most keys are seen a few times
and stay novel for long. Here every cell of the coarse frame counts its own levels. Wherever the skull rolls is
known after one round, whatever the player does meanwhile; a player in a new place changes a cell that never changed.
A frame is as novel as its most novel cell, 1 / sqrt(n), and is paid for where some cell is new in its episode.

Once every place has been seen, what lies behind a reward is as well known as what lies before it: with the key in hand
nothing on the way to the door is new. So an episode goes through stages, one more at every reward, and each stage
counts for itself, as the cells of Go-Explore tell the keys that are held apart (Ecoffet et al. 2021).
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
      visits: `[stages, cells, levels]` int32, frames of all episodes.
      seen: `[E, cells, levels]` bool, in this stage of the episode that each environment plays.
      stage: `[E]` int32, rewards that the episode has paid, up to the last stage.
    """

    visits: Array
    seen: Array
    stage: Array


def make(parts: Parts, *, grid_height: int, grid_width: int, num_levels: int, num_stages: int) -> Kind:
    """The kind `patch_counts`.

    Args:
      parts: what kinds are built with.
      grid_height, grid_width, num_levels: of the coarse frame; see counts.cells.
      num_stages: rewards of an episode that are told apart, and none of them; 1 counts all of an episode alike.
    """
    sizes = {"grid_height": grid_height, "grid_width": grid_width, "num_levels": num_levels}
    num_cells = grid_height * grid_width * parts.observation_shape[2]

    def start(rng_key: Array) -> PatchCountState:
        del rng_key
        return PatchCountState(
            visits=jnp.zeros((num_stages, num_cells, num_levels), jnp.int32),
            seen=jnp.zeros((parts.num_envs, num_cells, num_levels), bool),
            stage=jnp.zeros((parts.num_envs,), jnp.int32),
        )

    def see(
        state: PatchCountState, observation: Array, first: Array, reward: Array
    ) -> tuple[PatchCountState, Array, Array]:
        cells = counts.cells(observation, **sizes)
        state, first_visit = observe(state, cells, first, reward)
        return state, keys(state, cells), first_visit

    def pay(state: PatchCountState, params: Any, batch: Batch, rng_key: Array) -> Paid:
        del params, rng_key
        observation = batch.rows.observation
        cells = counts.cells(observation.reshape(-1, *observation.shape[2:]), **sizes)
        stage = batch.rows.novelty_key[..., 1].astype(jnp.int32) - 1
        paid = bonus(state, cells.reshape(*observation.shape[:2], -1), stage, batch.rows.first_visit)
        return Paid(state, paid, None, {})

    return Kind(init=start, pay=pay, observe=see, rarity=rarity, metrics=metrics)


def observe(state: PatchCountState, cells: Array, first: Array, reward: Array) -> tuple[PatchCountState, Array]:
    """Counts one step's frames.

    Args:
      state: before.
      cells: `[E, cells]` uint32, each environment's coarse frame.
      first: `[E]` bool, it opens an episode.
      reward: `[E]` float32, of the step that led to it.
    Returns:
      (state, first visits `[E]` bool: some cell has a level that it had not in this stage of the episode).
    """
    last_stage = state.visits.shape[0] - 1
    stage = jnp.where(first, 0, jnp.minimum(state.stage + (reward != 0), last_stage))
    begins = first | (stage != state.stage)
    now = jax.nn.one_hot(cells, state.visits.shape[2], dtype=jnp.bool_)
    seen = state.seen & ~begins[:, None, None]
    first_visit = (now & ~seen).any(axis=(1, 2))
    visits = state.visits.at[stage].add(now.astype(jnp.int32))
    return PatchCountState(visits, seen | now, stage), first_visit


def bonus(state: PatchCountState, cells: Array, stage: Array, first_visit: Array) -> Array:
    """1 / sqrt(n) of the most novel cell of `[..., cells]`, in its `stage [...]`, where `first_visit [...]`.

    1 for what was never counted.
    """
    rarest = _visits(state, cells, stage).min(axis=-1)
    return jnp.where(first_visit, _inverse_root(rarest), 0.0)


def keys(state: PatchCountState, cells: Array) -> Array:
    """What a row is known by: `[E, 2]` uint32, its rarest cell and level, and 1 + its stage.

    Args:
      state: after the frames were counted.
      cells: `[E, cells]` uint32.
    """
    cell = _visits(state, cells, state.stage).argmin(axis=-1)
    level = jnp.take_along_axis(cells, cell[:, None], axis=1).squeeze(axis=1)
    place = cell.astype(jnp.uint32) * state.visits.shape[2] + level
    return jnp.stack([place, state.stage.astype(jnp.uint32) + 1], axis=1)


def rarity(state: PatchCountState, keys: Array) -> Array:
    """How eagerly the tokenizer takes a frame: 1 / sqrt(n) of what was its rarest cell, by its key `[..., 2]`."""
    place, stage = keys[..., 0].astype(jnp.int32), keys[..., 1].astype(jnp.int32) - 1
    return _inverse_root(state.visits.reshape(state.visits.shape[0], -1)[stage, place])


def _visits(state: PatchCountState, cells: Array, stage: Array) -> Array:
    """Of each cell's level, `[..., cells]` int32."""
    cell = jnp.arange(cells.shape[-1]).reshape((1,) * (cells.ndim - 1) + (-1,))
    return state.visits[stage[..., None], cell, cells.astype(jnp.int32)]


def _inverse_root(visits: Array) -> Array:
    """1 / sqrt(n), 1 for what was never counted."""
    return jax.lax.rsqrt(jnp.maximum(visits, 1).astype(jnp.float32))


def metrics(state: PatchCountState) -> Metrics:
    """Scalars to log: cells' levels that were seen, in any stage and in each but the first together."""
    seen = state.visits > 0
    return {"num_keys": seen.any(axis=0).sum(), "num_later_keys": seen[1:].sum()}
