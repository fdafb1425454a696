"""All kinds of exploration that a config has sections of, as one: what they pay is added up.

A new kind is a file with a `make`, a line in `KINDS` and its section's fields in config_schema.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from learnmax_jax.exploration import action_keys, coin_flip, counts, disagreement, optimism, patch_counts
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array, Batch, Metrics

KINDS: dict[str, Callable[..., Kind]] = {
    "counts": counts.make,
    "patch_counts": patch_counts.make,
    "action_keys": action_keys.make,
    "coin_flip": coin_flip.make,
    "disagreement": disagreement.make,
    "optimism": optimism.make,
}


@dataclasses.dataclass(frozen=True)
class Novelty:
    """The kinds together; each function as of Kind, its state theirs together."""

    init: Callable[[Array], Any]
    pay: Callable[..., Paid]
    observe: Callable[..., tuple[Any, Array, Array]]
    rarity: Callable[[Any, Array], Array]
    metrics: Callable[[Any], Metrics]


def make(parts: Parts, sections: Mapping[str, Mapping[str, Any]]) -> Novelty:
    """Builds the kinds that have a section and puts them together.

    Args:
      parts: what kinds are built with.
      sections: name of a kind -> its keyword arguments; none of them, and nothing is ever new.
    Returns:
      Novelty. Keys and first visits are those of the one kind that watches play; without such a kind they are 0 and
      False.
    Raises:
      ValueError: two kinds give keys, two suppose rewards, or a kind refuses its numbers (some at `init`).
    """
    kinds = {name: KINDS[name](parts, **section) for name, section in sections.items()}
    watching = [name for name, kind in kinds.items() if kind.observe is not None]
    if len(watching) > 1:
        raise ValueError(f"{watching[1]}: a row has one key, given by {watching[0]}. Allowed: one of {watching}.")

    def init(rng_key: Array) -> dict[str, Any]:
        states = {}
        for i, (name, kind) in enumerate(kinds.items()):
            try:
                states[name] = kind.init(jax.random.fold_in(rng_key, i))
            except ValueError as complaint:
                raise ValueError(f"{name}.{complaint}") from complaint
        return states

    def observe(
        state: dict[str, Any], observation: Array, first: Array, reward: Array
    ) -> tuple[dict[str, Any], Array, Array]:
        for name in watching:
            seen, keys, first_visit = kinds[name].observe(state[name], observation, first, reward)  # type: ignore[misc]
            return state | {name: seen}, keys, first_visit
        return state, jnp.zeros((observation.shape[0], 2), jnp.uint32), jnp.zeros_like(first)

    def rarity(state: dict[str, Any], keys: Array) -> Array:
        product = jnp.ones(keys.shape[:-1])
        for name, kind in kinds.items():
            if kind.rarity is not None:
                product = product * kind.rarity(state[name], keys)
        return product

    def pay(state: dict[str, Any], params: ModelParams, batch: Batch, rng_key: Array) -> Paid:
        paid = {
            name: kind.pay(state[name], params, batch, jax.random.fold_in(rng_key, i))
            for i, (name, kind) in enumerate(kinds.items())
        }
        supposed = {name: each.supposed for name, each in paid.items() if each.supposed is not None}
        if len(supposed) > 1:
            raise ValueError(f"{' and '.join(supposed)} both suppose rewards. Allowed: one of them.")
        return Paid(
            state={name: each.state for name, each in paid.items()},
            bonus=sum((each.bonus for each in paid.values()), jnp.zeros(batch.mask.shape)),
            supposed=next(iter(supposed.values()), None),
            metrics={key: value for each in paid.values() for key, value in each.metrics.items()},
        )

    def metrics(state: dict[str, Any]) -> Metrics:
        return {key: value for name, kind in kinds.items() for key, value in kind.metrics(state[name]).items()}

    return Novelty(init=init, pay=pay, observe=observe, rarity=rarity, metrics=metrics)
