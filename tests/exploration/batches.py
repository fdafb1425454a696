"""Batches from a world that is a plain list of visits, for kinds of exploration that learn from replayed rows."""

import jax.numpy as jnp
import numpy as np

from learnmax_jax.types import Array, Batch, SequenceIndex, Transition


def batch_of(observation: np.ndarray, time: np.ndarray, **changes: Array) -> Batch:
    """A batch of windows `[B, T]` of one environment.

    Args:
      observation: `[B, T, H, W, C]` uint8.
      time: `[B]`, the absolute time of each window's row 0.
      changes: fields of Transition.
    """
    shape = observation.shape[:2]
    zeros = jnp.zeros(shape)
    rows = Transition(
        observation=jnp.asarray(observation, jnp.uint8),
        action=jnp.zeros(shape, jnp.int32),
        reward=zeros,
        discount=zeros + 1,
        first=zeros > 0,
        last=zeros > 0,
        valid=zeros == 0,
        episode_step=jnp.zeros(shape, jnp.int32),
        beta=zeros,
        search_policy=jnp.full((*shape, 2), 0.5, jnp.float16),
        search_value=zeros,
        novelty_key=jnp.zeros((*shape, 2), jnp.uint32),
        first_visit=zeros > 0,
    )
    start = jnp.asarray(time, jnp.int32)
    return Batch(
        rows=rows.replace(**changes),
        mask=jnp.ones(shape, bool),
        weights=jnp.ones(shape[0]),
        index=SequenceIndex(environment=jnp.zeros_like(start), start=start, anchor=start),
    )


def ranks(x: np.ndarray) -> np.ndarray:
    """Places in rising order."""
    return np.argsort(np.argsort(x))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
