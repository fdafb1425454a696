"""Finite scalar quantisation: no codebook; each of D bounded scalars is rounded to L levels, V = L^D.

The levels lie evenly in [-1, 1] for even L too; the paper's lie half a level off centre
there, which leaves L = 2 with one level that hardly an encoding reaches.
Source: Mentzer et al. 2023, https://arxiv.org/abs/2309.15505
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers.codes import Quantised, QuantizerState, look_up, straight_through
from learnmax_jax.types import Array, Params


def num_levels(num_codes: int, code_dim: int) -> int:
    """L with L^D = V."""
    levels = max(2, round(num_codes ** (1.0 / code_dim)))
    if levels**code_dim != num_codes:
        raise ValueError(
            f"num_codes={num_codes}: fsq rounds code_dim={code_dim} scalars to L levels each. "
            f"Allowed: L**{code_dim}, L >= 2. Nearest: {levels**code_dim}"
        )
    return levels


def code_vectors(shape: tuple[int, int, int], levels: int) -> Array:
    """All codes, `[G, V, D]` in [-1, 1]; the first scalar is the lowest digit of the index."""
    digits = jnp.arange(shape[1])[:, None] // levels ** jnp.arange(shape[2])[None, :] % levels
    return jnp.broadcast_to(2.0 * digits / (levels - 1) - 1.0, shape).astype(jnp.float32)


def quantise(
    params: Params, state: QuantizerState, encoding: Array, *, shape: tuple[int, int, int], levels: int
) -> Quantised:
    """Bounds each scalar by tanh, takes the nearest level; the gradient passes the rounding only."""
    del params, state
    num_groups, _, code_dim = shape
    chex.assert_shape(encoding, (None, None, num_groups * code_dim))
    points = jnp.tanh(encoding.reshape(*encoding.shape[:2], num_groups, code_dim))
    digits = jnp.round((points + 1.0) / 2.0 * (levels - 1)).astype(jnp.int32)
    weights = (levels ** jnp.arange(code_dim)).reshape(1, 1, 1, code_dim)
    codes = jnp.sum(digits * weights, axis=-1).astype(jnp.int32)
    vectors = straight_through(points, look_up(code_vectors(shape, levels), codes))
    no_loss = jnp.zeros((), jnp.float32)
    return Quantised(vectors=vectors, codes=codes, encoding=jax.lax.stop_gradient(points), loss=no_loss)
