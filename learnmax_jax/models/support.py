"""Scalars as categorical distributions: value rescaling and two-hot bins.

A head predicts logits over fixed bins; its target is a scalar, rescaled by `rescale`
and spread over the two nearest bins. The support itself lives in rescaled units and
knows nothing of the rescaling: a caller writes

    target = support.two_hot(rescale(x))
    value = inverse_rescale(support.expectation(logits))
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.types import Array

# A bin counts as zero when it is this close, in bins: wide enough for limits such as 0.3 - 0.1.
_ZERO_TOLERANCE = 1e-6


def rescale(x: Array, *, epsilon: float = 1e-3) -> Array:
    """Compresses large values, h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x.

    Written as x / (sqrt(|x| + 1) + 1) + epsilon x, which is the same number without the
    subtraction that loses small x, and whose gradient at 0 is the true 1/2 + epsilon.

    Args:
      x: float, any shape.
      epsilon: slope that remains for large |x|; at least 0.
    Returns:
      float, as x.
    Source: Pohlen et al. 2018, https://arxiv.org/abs/1805.11593
    """
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + epsilon * x


def inverse_rescale(x: Array, *, epsilon: float = 1e-3) -> Array:
    """Undoes `rescale`.

    The paper's closed form, sign(x) (((sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1),
    cancels twice in float32. With s = sqrt((1 + 2 epsilon)^2 + 4 epsilon |x|), which is the same root, and
    q = 2 x / (s + 1 + 2 epsilon) it is q (|q| + 2): only sums of positive numbers, and epsilon may be 0.

    Args:
      x: float, any shape.
      epsilon: as given to `rescale`.
    Returns:
      float, as x.
    Source: Pohlen et al. 2018, proposition A.2, https://arxiv.org/abs/1805.11593
    """
    slope = 1.0 + 2.0 * epsilon
    root = jnp.sqrt(slope * slope + 4.0 * epsilon * jnp.abs(x))
    q = 2.0 * x / (root + slope)
    return q * (jnp.abs(q) + 2.0)


@dataclasses.dataclass(frozen=True)
class Support:
    """`num_bins` equally spaced bins from `minimum` to `maximum`, one of them exactly 0.

    Zero is the target of most rewards; spread over two bins it would cost entropy everywhere.

    Attributes:
      minimum: the lowest bin, in rescaled units; at most 0.
      maximum: the highest bin; at least 0.
      num_bins: S, at least 2.
    Raises:
      ValueError: limits out of order, too few bins, or no bin at 0.
    """

    minimum: float
    maximum: float
    num_bins: int

    def __post_init__(self) -> None:
        if self.num_bins < 2:
            raise ValueError(f"num_bins={self.num_bins}: a support needs two bins. Allowed: >= 2. Nearest: 2")
        if self.minimum > 0:
            raise ValueError(f"minimum={self.minimum}: zero must lie in the support. Allowed: <= 0. Nearest: 0.0")
        if self.maximum < 0:
            raise ValueError(f"maximum={self.maximum}: zero must lie in the support. Allowed: >= 0. Nearest: 0.0")
        if self.minimum == self.maximum:
            raise ValueError(f"maximum={self.maximum}: the support is empty. Allowed: > {self.minimum}. Nearest: 1.0")
        if not _has_zero(self.minimum, self.maximum, self.num_bins):
            nearest = _nearest_num_bins(self.minimum, self.maximum, self.num_bins)
            raise ValueError(
                f"num_bins={self.num_bins}: no bin of [{self.minimum}, {self.maximum}] is at 0. "
                f"Allowed: counts that put a bin at 0. Nearest: {nearest}"
            )

    @property
    def step(self) -> float:
        """Distance between two bins."""
        return (self.maximum - self.minimum) / (self.num_bins - 1)

    @property
    def zero_bin(self) -> int:
        """Index of the bin at 0."""
        return round(-self.minimum / self.step)

    @property
    def bins(self) -> Array:
        """`[S]` float32, the bins' values; counted from the zero bin so that it is exactly 0."""
        return jnp.asarray((np.arange(self.num_bins) - self.zero_bin) * self.step, jnp.float32)

    def two_hot(self, x: Array) -> Array:
        """Spreads each scalar over the two bins around it.

        Args:
          x: float, any shape, in rescaled units; clipped to the support (see `num_clipped`).
        Returns:
          float32 `[..., S]`, non-negative, sums to 1, mean x; NaN where x is NaN.
        """
        position = jnp.clip(x.astype(jnp.float32) / self.step + self.zero_bin, 0.0, self.num_bins - 1)
        index = jnp.arange(self.num_bins, dtype=jnp.float32).reshape((1,) * x.ndim + (-1,))
        return jnp.maximum(1.0 - jnp.abs(position[..., None] - index), 0.0)

    def expectation(self, logits: Array) -> Array:
        """The mean of softmax(logits), `[..., S]` float -> `[...]` float32, in rescaled units."""
        chex.assert_axis_dimension(logits, -1, self.num_bins)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        # Not a dot: its default precision on an accelerator would round the bins.
        return jnp.sum(probabilities * self.bins.reshape((1,) * (logits.ndim - 1) + (-1,)), axis=-1)

    def num_clipped(self, x: Array) -> Array:
        """How many of x lie outside the support, int32 `[]`; a metric: more than a few mean it is too narrow."""
        return jnp.sum((x < self.minimum) | (x > self.maximum), dtype=jnp.int32)


def _has_zero(minimum: float, maximum: float, num_bins: int) -> bool:
    """Whether one of the equally spaced bins is 0."""
    position = -minimum * (num_bins - 1) / (maximum - minimum)
    return abs(position - round(position)) < _ZERO_TOLERANCE


def _nearest_num_bins(minimum: float, maximum: float, num_bins: int) -> int:
    """The closest count that has a bin at 0, the larger of two; a ValueError where none is within 10,000."""
    for distance in range(1, 10_000):
        for candidate in (num_bins + distance, num_bins - distance):
            if candidate >= 2 and _has_zero(minimum, maximum, candidate):
                return candidate
    raise ValueError(f"minimum={minimum}: no bin at 0 below {maximum}. Allowed: 0.0, {-maximum}. Nearest: {-maximum}")
