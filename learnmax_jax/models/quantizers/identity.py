"""Integers stay what they are: for worlds whose observations are codes already."""

import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers.codes import Quantised, QuantizerState
from learnmax_jax.types import Array, Params


def quantise(params: Params, state: QuantizerState, encoding: Array, *, num_codes: int) -> Quantised:
    """The integers themselves; one that is no code (>= V) becomes the last code."""
    del params, state
    codes = jnp.clip(encoding.astype(jnp.int32), 0, num_codes - 1)
    vectors = jax.nn.one_hot(codes, num_codes, dtype=jnp.float32)
    return Quantised(vectors=vectors, codes=codes, encoding=vectors, loss=jnp.zeros((), jnp.float32))
