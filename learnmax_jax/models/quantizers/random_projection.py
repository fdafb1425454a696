"""A frozen random projection to a frozen random codebook: codes that never drift, nothing to learn.

The first update centres the projections on what they see: with one bright room in all
frames every projection would else fall to the same code. After it nothing changes.
Source: Chiu et al. 2022, https://arxiv.org/abs/2202.01855 (BEST-RQ).
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers.codes import (
    Quantised,
    QuantizerState,
    Seen,
    empty_state,
    look_up,
    nearest,
    normalise,
    update_usage,
)
from learnmax_jax.types import Array, Params


def init(rng_key: Array, *, shape: tuple[int, int, int], input_dim: int) -> tuple[Params, QuantizerState]:
    """Draws the projection and a codebook on the unit sphere."""
    projection_key, codebook_key = jax.random.split(rng_key)
    projection = jax.random.normal(projection_key, (shape[0], input_dim, shape[2])) / jnp.sqrt(float(input_dim))
    codebook = normalise(jax.random.normal(codebook_key, shape))
    centre = jnp.zeros((shape[0], shape[2]), jnp.float32)
    return {}, empty_state(shape).replace(codebook=codebook, projection=projection, centre=centre)


def quantise(params: Params, state: QuantizerState, encoding: Array) -> Quantised:
    """The frozen code of largest cosine; no gradient. `Quantised.encoding` is not centred: `update` needs it so."""
    del params
    chex.assert_shape(encoding, (None, None, state.projection.shape[1]))
    projected = jnp.einsum("bnk,gkd->bngd", encoding, state.projection, precision=jax.lax.Precision.HIGHEST)
    projected = jax.lax.stop_gradient(projected)
    codes = nearest(normalise(projected - state.centre[None, None]), state.codebook)
    rows = jax.lax.stop_gradient(look_up(state.codebook, codes))
    return Quantised(vectors=rows, codes=codes, encoding=projected, loss=jnp.zeros((), jnp.float32))


def update(
    params: Params, state: QuantizerState, seen: Seen, rng_key: Array, *, decay: float
) -> tuple[Params, QuantizerState]:
    """Sets the centre at the first update; else only watches which codes are used."""
    centre = jnp.where(state.num_updates == 0, jnp.mean(seen.encoding, axis=(0, 1)), state.centre)
    return update_usage(params, state.replace(centre=centre), seen, rng_key, decay=decay)
