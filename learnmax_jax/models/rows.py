"""What the replay's rows say to a network: what the world model reads of them, and bits that are each row's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Batch


def latents(world_model: WorldModel, params: ModelParams, batch: Batch) -> tuple[Array, Array]:
    """Codes `[B, L + 1, N, G]` and latents `[B, L + 1, N, D]` of a batch's observations, as supervision reads them."""
    rows = batch.rows
    flat = rows.observation.reshape(-1, *rows.observation.shape[2:])
    codes = world_model.tokenise(params, flat)
    codes = codes.reshape(*rows.action.shape, *codes.shape[1:])
    unknown = jnp.full_like(rows.action[:, :1], world_model.num_actions)
    led_here = jnp.where(rows.first, world_model.num_actions, jnp.concatenate([unknown, rows.action[:, :-1]], axis=1))
    first = rows.first & batch.mask
    _, seen = world_model.context(params, codes, led_here, first, capacity=rows.action.shape[1])
    return codes, seen


def coin_flips(batch: Batch, num_flips: int) -> Array:
    """Fair coins of a batch's rows, `[B, L + 1, num_flips]` float32 of -1 and 1.

    They are hashed from the row's place in the replay, so a row that is drawn again keeps its own; nothing is stored.
    """
    length = batch.mask.shape[1]
    time = (batch.index.start[:, None] + jnp.arange(length, dtype=jnp.int32)[None]).astype(jnp.uint32)
    row = _mix(time ^ _mix(batch.index.environment.astype(jnp.uint32) + _GOLDEN)[:, None])
    words = jax.vmap(partial(_word, row))(jnp.arange(1, num_flips + 1, dtype=jnp.uint32))
    return jnp.moveaxis(jnp.where(words >> 31, 1.0, -1.0), 0, -1)


_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio


def _word(row: Array, flip: Array) -> Array:
    """A row's word for one of its flips."""
    return _mix(row ^ _mix(flip * _GOLDEN))


def _mix(x: Array) -> Array:
    """MurmurHash3's 32-bit finaliser."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
