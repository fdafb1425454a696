"""What a kind of exploration is to the rest: a few functions, most of which a kind may leave out.

A kind is off where the config has no section of its name. It may watch play (`observe`, which also gives the keys of
rows), and for every batch it learns what it has to and says what is paid (`pay`): for observations that were reached,
and for actions that were not taken.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import struct

from learnmax_jax.models.tokenizer import Tokenizer
from learnmax_jax.models.world_model import WorldModel
from learnmax_jax.types import Array, Metrics, Supposed


@dataclasses.dataclass(frozen=True)
class Parts:
    """What kinds are built with.

    Attributes:
      num_envs: E.
      observation_shape: (H, W, C).
      tokenizer, world_model: the bundles.
      latent_width: D.
    """

    num_envs: int
    observation_shape: tuple[int, int, int]
    tokenizer: Tokenizer
    world_model: WorldModel
    latent_width: int


@struct.dataclass
class Paid:
    """What exploration makes of a batch.

    Attributes:
      state: after what was learned.
      bonus: `[B, L + 1]` float32, novelty of observation[t] now: the reward of the step that led there.
      supposed: rewards of actions that were not taken; None where there are none.
      metrics: scalars.
    """

    state: Any
    bonus: Array
    supposed: Supposed | None
    metrics: Metrics


def _nothing(state: Any) -> Metrics:
    del state
    return {}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of exploration with its numbers bound.

    Attributes:
      init: rng_key -> state.
      pay: (state, ModelParams of the target network, Batch, rng_key) -> Paid.
      observe: (state, observation `[B, H, W, C]`, first `[B]`, reward `[B]` of the step that led there) -> (state, keys
        `[B, 2]` uint32, first visits `[B]` bool), at every step of play; None where it watches none.
      rarity: (state, keys `[M, 2]`) -> `[M]` float32 above 0, how eagerly the tokenizer takes a frame; None for all
        alike.
      metrics: state -> scalars to log.
    """

    init: Callable[[Array], Any]
    pay: Callable[..., Paid]
    observe: Callable[..., tuple[Any, Array, Array]] | None = None
    rarity: Callable[[Any, Array], Array] | None = None
    metrics: Callable[[Any], Metrics] = _nothing
