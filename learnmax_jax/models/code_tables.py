"""Tables of code vectors: whitened, and their scale and rank."""

import chex
import jax.numpy as jnp

from learnmax_jax.types import Array

# Directions whose variance is this share of the widest one's are noise of float32 and stay 0.
_LEAST_VARIANCE = 1e-5


def whiten(vectors: Array) -> Array:
    """Gives each group's codes mean 0 and unit covariance, turning them as little as possible.

        W[g] = (v[g] - mean) C^(-1/2),  C = covariance over the V codes

    The symmetric root is the one whose result moves smoothly while the codebook learns. Directions in which the
    codes do not differ (there are some where V <= d) stay 0.

    Args:
      vectors: `[G, V, d]` float32.
    Returns:
      `[G, V, d]`.
    Source: Kessy et al. 2018 (ZCA whitening), https://arxiv.org/abs/1512.00809
    """
    chex.assert_rank(vectors, 3)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    covariance = jnp.einsum("gvd,gve->gde", centred, centred) / vectors.shape[1]
    variance, directions = jnp.linalg.eigh(covariance)
    least = jnp.maximum(_LEAST_VARIANCE * variance[:, -1:], jnp.finfo(vectors.dtype).tiny)
    inverse = jnp.where(variance > least, jnp.maximum(variance, least) ** -0.5, 0.0)
    root = jnp.einsum("gde,ge,gfe->gdf", directions, inverse, directions)
    return jnp.einsum("gvd,gde->gve", centred, root)


def scale_and_rank(table: Array) -> tuple[Array, Array]:
    """Says how large a code table's vectors are and over how many directions they spread.

        rank = exp(-sum_i p[i] log p[i]),  p = singular values / their sum

    Args:
      table: `[G, V, d]` float, whatever stands for the codes: the tokenizer's vectors or what they add to a token.
    Returns:
      (root mean square of the entries `[G]`, effective rank `[G]`: 1 where all vectors lie on one line through the
      origin, min(V, d) where they spread alike; 0 where all are 0).
    Source: Roy & Vetterli 2007, https://infoscience.epfl.ch/handle/20.500.14299/10615
    """
    chex.assert_rank(table, 3)
    scale = jnp.sqrt(jnp.mean(table**2, axis=(1, 2)))
    singular = jnp.linalg.svd(table, compute_uv=False)
    total = singular.sum(axis=-1)
    share = singular / jnp.where(total > 0, total, 1.0)[:, None]
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)), axis=-1)
    return scale, jnp.where(total > 0, jnp.exp(entropy), 0.0)
