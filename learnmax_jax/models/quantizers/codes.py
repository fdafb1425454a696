"""What the quantisers share: their state, the nearest code, the straight-through gradient."""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Params


@struct.dataclass
class QuantizerState:
    """What a quantiser keeps besides its parameters; fields that a kind has no use for have size 0.

    Attributes:
      codebook: `[G, V, D]` float32 (vq_ema, random); int16 pixels, -1 where there is no code yet (growing).
      projection: `[G, K, D]` float32, frozen (random).
      centre: `[G, D]` float32, mean projection at the first update, frozen (random).
      usage: `[G, V]` float32, running mean of the times a code is chosen in one update, each as its `Seen.weight`.
      sums: `[G, V, D]` float32, running mean of the weighted sum of encodings a code is chosen for (vq_ema).
      num_updates: int32.
    """

    codebook: Array
    projection: Array
    centre: Array
    usage: Array
    sums: Array
    num_updates: Array


@struct.dataclass
class Quantised:
    """The answer to `[B, N, K]` encodings.

    Attributes:
      vectors: `[B, N, G, D]` float32, exactly rows of `code_vectors`; the gradient passes
        straight through to the encoding, none reaches the codebook.
      codes: `[B, N, G]` int32.
      encoding: `[B, N, G, D]` float32, what `update` learns from; no gradient.
      loss: float32, the quantiser's own loss.
    """

    vectors: Array
    codes: Array
    encoding: Array
    loss: Array


@struct.dataclass
class Seen:
    """What a batch tells the quantiser's `update`; no gradient.

    Attributes:
      encoding: `[B, N, G, D]`, codes: `[B, N, G]`, of `Quantised`.
      error: `[B, N, G]` float32, mean squared reconstruction error of the pixels a code speaks of, of frames in [0, 1].
      weight: `[B, N, G]` float32, mean weight of those pixels in the reconstruction's loss; 1 where all count alike.
    """

    encoding: Array
    codes: Array
    error: Array
    weight: Array


@jax.custom_vjp
def straight_through(encoding: Array, vectors: Array) -> Array:
    """Returns `vectors` bit for bit; the gradient goes to `encoding` bit for bit, `vectors` gets zero.

    `z + stop_gradient(q - z)` rounds: its value is not a row of the codebook.
    """
    chex.assert_equal_shape([encoding, vectors])
    return vectors


def _straight_through_forward(encoding: Array, vectors: Array) -> tuple[Array, None]:
    return straight_through(encoding, vectors), None


def _straight_through_backward(_: None, gradient: Array) -> tuple[Array, Array]:
    return gradient, jnp.zeros_like(gradient)


straight_through.defvjp(_straight_through_forward, _straight_through_backward)


def normalise(vectors: Array) -> Array:
    """Scales the last axis to length 1; a zero vector stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)


def nearest(encoding: Array, codebook: Array) -> Array:
    """The index of the nearest code by squared distance, `[..., G, D]`, `[G, V, D]` -> `[..., G]` int32.

    On the unit sphere this is also the largest cosine. Full float32 products: an
    accelerator's short ones would choose other codes than the CPU does.
    """
    products = jnp.einsum("...gd,gvd->...gv", encoding, codebook, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(codebook**2, axis=-1)
    lengths = lengths.reshape((1,) * (products.ndim - 2) + lengths.shape)
    return jnp.argmin(lengths - 2.0 * products, axis=-1).astype(jnp.int32)


def look_up(codebook: Array, codes: Array) -> Array:
    """The rows of `[G, V, D]` that `[..., G]` codes name, `[..., G, D]`."""
    return codebook[jnp.arange(codebook.shape[0]).reshape((1,) * (codes.ndim - 1) + (-1,)), codes]


def perplexity(usage: Array) -> Array:
    """exp of the entropy of each group's usage, mean over groups: 1 where one code does all, V where all share."""
    shares = usage / jnp.maximum(jnp.sum(usage, axis=-1, keepdims=True), 1e-12)
    return jnp.mean(jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=-1)))


def codes_used(state: QuantizerState, *, used_from: float) -> Array:
    """Codes whose running usage is above a share of even usage, mean over groups."""
    even_usage = jnp.mean(state.usage, axis=-1, keepdims=True)
    return jnp.mean(jnp.sum(state.usage > used_from * even_usage, axis=-1))


def on_space(vectors: Array, distance: str) -> Array:
    """Puts vectors where the distance is measured: on the unit sphere for cosine."""
    return normalise(vectors) if distance == "cosine" else vectors


def count(points: Array, codes: Array, weight: Array, num_codes: int) -> tuple[Array, Array]:
    """How often each code was chosen, `[G, V]`, and the sum of the points it was chosen for, `[G, V, D]`; weighted."""
    chosen = jax.nn.one_hot(codes, num_codes, dtype=jnp.float32) * weight[..., None]
    sums = jnp.einsum("mgv,mgd->gvd", chosen, points, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(chosen, axis=0), sums


def empty_state(shape: tuple[int, int, int]) -> QuantizerState:
    """No usage yet, nothing in the fields of single kinds; no buffer twice, since the state is donated."""
    return QuantizerState(
        codebook=jnp.zeros((0,), jnp.float32),
        projection=jnp.zeros((0,), jnp.float32),
        centre=jnp.zeros((0,), jnp.float32),
        usage=jnp.zeros(shape[:2], jnp.float32),
        sums=jnp.zeros((0,), jnp.float32),
        num_updates=jnp.zeros((), jnp.int32),
    )


def update_usage(
    params: Params, state: QuantizerState, seen: Seen, rng_key: Array, *, decay: float
) -> tuple[Params, QuantizerState]:
    """For the kinds that only watch which codes are used."""
    del rng_key
    chosen = jax.nn.one_hot(seen.codes, state.usage.shape[1], dtype=jnp.float32) * seen.weight[..., None]
    counts = jnp.sum(chosen, axis=(0, 1))
    usage = jnp.where(state.num_updates == 0, counts, decay * state.usage + (1.0 - decay) * counts)
    return params, state.replace(usage=usage, num_updates=state.num_updates + 1)
