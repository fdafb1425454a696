"""Do two sets of latents live in the same space? What the transformer says of seen frames, and of imagined ones."""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.types import Array


def separability(rng_key: Array, representation: Array, dynamics: Array, *, ridge: float) -> Array:
    """How well a linear classifier tells two sets of latents apart on a held-out half: area under its ROC curve.

    Row i of both stands for the same observation and goes to the same half. The classifier is ridge regression on
    labels -1 and +1, the closed form of Fisher's discriminant; it sees differences of means, not of spread.

    Args:
      rng_key: consumed; draws the halves.
      representation: `[M, D]` float, latents of real frames, M at least 4.
      dynamics: `[M, D]` float, imagined latents of the same frames.
      ridge: penalty in units of the features' mean variance; 1e-3 is little.
    Returns:
      Scalar in [0, 1]: 0.5 where nothing tells them apart, 1 where a plane does; noise about 0.4 / sqrt(M / 2).
    Source: catalogue S2-23.
    """
    chex.assert_rank([representation, dynamics], [2, 2])
    chex.assert_equal_shape([representation, dynamics])
    half = representation.shape[0] // 2
    order = jax.random.permutation(rng_key, representation.shape[0])
    fitted, held = order[:half], order[half:]
    x = jnp.concatenate([representation[fitted], dynamics[fitted]])
    label = jnp.concatenate([-jnp.ones(half), jnp.ones(half)])
    centred = x - x.mean(axis=0, keepdims=True)
    covariance = centred.T @ centred / centred.shape[0]
    size = covariance.shape[0]
    penalty = ridge * jnp.trace(covariance) / size + jnp.finfo(x.dtype).tiny
    plane = jnp.linalg.solve(covariance + penalty * jnp.eye(size), centred.T @ label / centred.shape[0])
    return area_under_curve(dynamics[held] @ plane, representation[held] @ plane)


def area_under_curve(positive: Array, negative: Array) -> Array:
    """Chance that a score of `positive [P]` exceeds one of `negative [Q]`, a tie counting half (Mann and Whitney)."""
    chex.assert_rank([positive, negative], [1, 1])
    ranked = jnp.sort(negative)
    below = jnp.searchsorted(ranked, positive, side="left") + jnp.searchsorted(ranked, positive, side="right")
    return jnp.mean(below.astype(jnp.float32)) / (2 * negative.shape[0])


def linear_cka(representation: Array, dynamics: Array) -> Array:
    """Linear centred kernel alignment of `[M, D]` and `[M, E]`: are they one space up to a turn and a scale?

        CKA = |Y'X|^2 / (|X'X| |Y'Y|),  columns centred, Frobenius norms

    Args:
      representation, dynamics: float; row i of both is the same observation.
    Returns:
      Scalar in [0, 1]; 1 for equal up to rotation, scale and shift; about D / M for unrelated noise, so take M >> D.
    Source: Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    """
    chex.assert_rank([representation, dynamics], [2, 2])
    chex.assert_equal_shape_prefix([representation, dynamics], 1)
    x = representation - representation.mean(axis=0, keepdims=True)
    y = dynamics - dynamics.mean(axis=0, keepdims=True)

    def size(product: Array) -> Array:
        return jnp.sqrt(jnp.sum(product**2))

    return size(y.T @ x) ** 2 / jnp.maximum(size(x.T @ x) * size(y.T @ y), jnp.finfo(x.dtype).tiny)
