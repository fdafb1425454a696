"""Codes that are patches as they were seen, added where nothing known is near: new things get codes of their own.

The codebook starts empty. A patch becomes a code where it is farther than one threshold from
every code *and* the decoder shows it worse than another (DP-means' rule for a new cluster, with
the error beside the distance). A code never moves and never leaves, and a patch belongs
to the oldest code that is near enough, so the assignment of what was shown well never changes. A
full codebook stays as it is.

The pixels are kept as whole numbers, -1 where there is no code yet: so they are exact, and the
slow copy, which mixes floating numbers only, has a new code at once.
Source: Kulis & Jordan 2012, https://arxiv.org/abs/1111.0352 (DP-means); Dedieu et al. 2025,
https://arxiv.org/abs/2502.01591 (nearest-neighbour tokenizer).
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers.codes import Quantised, QuantizerState, Seen, empty_state, look_up, update_usage
from learnmax_jax.types import Array, Params


def init(rng_key: Array, *, shape: tuple[int, int, int]) -> tuple[Params, QuantizerState]:
    """An empty codebook `[1, V, D]` int16."""
    del rng_key  # nothing is random
    return {}, empty_state(shape).replace(codebook=jnp.full(shape, -1, jnp.int16))


def code_vectors(state: QuantizerState) -> Array:
    """`[1, V, D]` float32 in [0, 1]; black where there is no code yet."""
    return jnp.maximum(state.codebook, 0).astype(jnp.float32) / 255.0


def codes_used(state: QuantizerState) -> Array:
    """How many codes there are, float32."""
    return jnp.sum(_is_code(state.codebook)).astype(jnp.float32)


def quantise(params: Params, state: QuantizerState, encoding: Array, *, distance: float) -> Quantised:
    """The oldest code that is near enough, else the nearest; no gradient. An empty codebook gives code 0.

    Were it always the nearest, a new code would take patches from old ones that showed them well enough.

    Args:
      params: none. state: the quantiser's.
      encoding: `[B, N, D]` float32 in [0, 1], patches.
      distance: root mean square difference up to which a code is near enough, in [0, 1].
    """
    del params
    chex.assert_shape(encoding, (None, None, state.codebook.shape[-1]))
    points = jax.lax.stop_gradient(encoding)
    vectors = code_vectors(state)
    codebook = vectors[0]
    # Full float32 products: an accelerator's short ones would choose other codes than the CPU does.
    products = jnp.einsum("bnd,vd->bnv", points, codebook, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.sum(points**2, axis=-1)[..., None] + jnp.sum(codebook**2, axis=-1)[None, None] - 2.0 * products
    squared = jnp.where(_is_code(state.codebook)[None], squared, jnp.inf)
    near = squared <= distance**2 * codebook.shape[-1]
    oldest, nearest = jnp.argmax(near, axis=-1), jnp.argmin(squared, axis=-1)
    codes = jnp.where(near.any(axis=-1), oldest, nearest).astype(jnp.int32)[..., None]
    no_loss = jnp.zeros((), jnp.float32)
    return Quantised(vectors=look_up(vectors, codes), codes=codes, encoding=points[:, :, None], loss=no_loss)


def update(
    params: Params,
    state: QuantizerState,
    seen: Seen,
    rng_key: Array,
    *,
    decay: float,
    distance: float,
    error_above: float,
    limit: int,
) -> tuple[Params, QuantizerState]:
    """Adds at most `limit` patches as codes, the farthest first; each makes those like it known.

    Args:
      params: none. rng_key: not used.
      state: the quantiser's.
      seen: encodings are patches in [0, 1]; codes are counted in `usage`.
      decay: of the usage, an update.
      distance: root mean square difference from the nearest code above which a patch is new, in [0, 1].
      error_above: root mean square reconstruction error above which it is badly shown, in [0, 1].
      limit: codes added in an update.
    """
    points = seen.encoding.reshape(-1, seen.encoding.shape[-1])
    badly_shown = seen.error.reshape(-1) > error_above**2
    num_codes = state.codebook.shape[1]
    known = look_up(code_vectors(state), seen.codes).reshape(points.shape)
    squared = jnp.mean((points - known) ** 2, axis=-1)
    squared = jnp.where(_is_code(state.codebook).any(), squared, jnp.inf)

    def add(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        codebook, squared = carry
        far = jnp.where(badly_shown & (squared > distance**2), squared, -1.0)
        chosen = jnp.argmax(far)
        slot = jnp.sum(_is_code(codebook))
        adds = (far[chosen] >= 0.0) & (slot < num_codes)
        pixels = jnp.round(255.0 * points[chosen])
        row = jnp.minimum(slot, num_codes - 1)
        codebook = codebook.at[0, row].set(jnp.where(adds, pixels.astype(codebook.dtype), codebook[0, row]))
        to_new = jnp.mean((points - pixels[None] / 255.0) ** 2, axis=-1)
        return codebook, jnp.where(adds, jnp.minimum(squared, to_new), squared)

    codebook, _ = jax.lax.fori_loop(0, limit, add, (state.codebook, squared))
    return update_usage(params, state.replace(codebook=codebook), seen, rng_key, decay=decay)


def _is_code(codebook: Array) -> Array:
    """Which rows of `[1, V, D]` hold a code, `[1, V]` bool."""
    return codebook[:, :, 0] >= 0
