"""Novelty in units of its own size: bonuses that shrink with every visit would soon decide nothing in a search.

Bonuses are divided by the root of their running mean square over what was replayed, so that beta keeps its meaning
from a run's first steps to its last; where one action is newer than another matters, not how new all of them still are.
Their unit is chosen by what they add up to: a bonus of typical size at every step returns `RETURN`, well within what
the value heads can say.
Source: Burda et al. 2018, section 2.4 (there by the standard deviation of returns), https://arxiv.org/abs/1810.12894
"""

from typing import Any

import jax.numpy as jnp
from flax import struct

from learnmax_jax.exploration.kind import Paid
from learnmax_jax.exploration.novelty import Novelty
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array, Batch, Metrics

DECAY = 0.99  # an update
SMALLEST = 1e-3  # of the root mean square: what is hardly new at all is not blown up
RETURN = 10.0  # support's 51 bins to +-6.25 reach 52
LONGEST = 1000.0  # steps that a return is taken to add up, where the discount is 1


@struct.dataclass
class NormalisedState:
    """The kinds' states and the scale.

    Attributes:
      kinds: of the Novelty within.
      sum_of_squares, weight: running, of mean squares; their quotient is the mean.
    """

    kinds: Any
    sum_of_squares: Array
    weight: Array


def normalised(novelty: Novelty, *, discount: float) -> Novelty:
    """The same kinds, whose bonuses are divided by their running size, and supposed rewards that are no promises, too.

    Args:
      novelty: pays as it does.
      discount: of the intrinsic return, per environment step.
    """
    steps = 1.0 / max(1.0 - discount, 1.0 / LONGEST)

    def init(rng_key: Array) -> NormalisedState:
        return NormalisedState(novelty.init(rng_key), jnp.zeros(()), jnp.zeros(()))

    def observe(
        state: NormalisedState, observation: Array, first: Array, reward: Array
    ) -> tuple[NormalisedState, Array, Array]:
        kinds, keys, first_visit = novelty.observe(state.kinds, observation, first, reward)
        return state.replace(kinds=kinds), keys, first_visit

    def pay(state: NormalisedState, params: ModelParams, batch: Batch, rng_key: Array) -> Paid:
        paid = novelty.pay(state.kinds, params, batch, rng_key)
        squares = jnp.where(batch.mask, paid.bonus**2, 0.0).sum() / jnp.maximum(batch.mask.sum(), 1)
        state = NormalisedState(
            kinds=paid.state,
            sum_of_squares=DECAY * state.sum_of_squares + (1.0 - DECAY) * squares,
            weight=DECAY * state.weight + (1.0 - DECAY),
        )
        size = scale(state) * steps / RETURN
        supposed = paid.supposed
        if supposed is not None and not supposed.q_too:  # made-up rewards have their size from the config
            supposed = supposed.replace(reward=supposed.reward / size)
        return paid.replace(state=state, bonus=paid.bonus / size, supposed=supposed)

    def rarity(state: NormalisedState, keys: Array) -> Array:
        return novelty.rarity(state.kinds, keys)

    def metrics(state: NormalisedState) -> Metrics:
        return novelty.metrics(state.kinds) | {"scale": scale(state)}

    return Novelty(init=init, pay=pay, observe=observe, rarity=rarity, metrics=metrics)


def scale(state: NormalisedState) -> Array:
    """The bonuses' running root mean square, at least `SMALLEST`; 1 before the first update."""
    mean_square = state.sum_of_squares / jnp.maximum(state.weight, 1e-9)
    return jnp.where(state.weight > 0, jnp.maximum(jnp.sqrt(mean_square), SMALLEST), 1.0)
