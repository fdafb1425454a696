"""Running moments: what hardly ever changes is taken away, so that it does not drown what does.

Source: Burda et al. 2018, section 2.4 (observations of RND), https://arxiv.org/abs/1810.12894
"""

import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array

_MOST = 5.0  # deviations, as Burda et al. clip


@struct.dataclass
class Moments:
    """Means over all batches so far.

    Attributes:
      mean, square: `[F]` float32, of a feature and of its square.
      num_batches: int32.
    """

    mean: Array
    square: Array
    num_batches: Array


def init(num_features: int) -> Moments:
    """Moments of nothing yet."""
    return Moments(jnp.zeros(num_features), jnp.zeros(num_features), jnp.zeros((), jnp.int32))


def add(moments: Moments, features: Array, mask: Array) -> Moments:
    """The moments with one more batch.

    Args:
      moments: before.
      features: `[..., F]` float32.
      mask: `[...]` bool, rows that count; a batch without any leaves the moments as they are.
    """
    rows = mask.sum()

    def mix(mean: Array, new: Array) -> Array:
        of_batch = jnp.sum(jnp.where(mask[..., None], new, 0.0).reshape(-1, mean.shape[0]), axis=0)
        weight = jnp.where(rows > 0, 1.0 / (moments.num_batches + 1), 0.0)
        return mean + weight * (of_batch / jnp.maximum(rows, 1) - mean)

    return Moments(
        mean=mix(moments.mean, features),
        square=mix(moments.square, features**2),
        num_batches=moments.num_batches + (rows > 0),
    )


def whiten(features: Array, moments: Moments, *, least: float) -> Array:
    """How far `features [..., F]` are off their means, in their deviations, in [-5, 5].

    Args:
      features: float32.
      moments: of them.
      least: added to every deviation: what never changed is not blown up.
    """
    mean, square = (jnp.broadcast_to(x, features.shape) for x in (moments.mean, moments.square))
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0.0))
    return jnp.clip((features - mean) / (deviation + least), -_MOST, _MOST)
