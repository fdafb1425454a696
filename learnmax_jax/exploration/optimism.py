"""Optimism in its simple form: made-up modest rewards at random actions of replayed observations.

A share of a batch's rows says of a random action that it pays. Actions that were tried say otherwise in all their rows,
so the lie is believed where nothing is known, and dies where it was found out: what is left of it at an action that was
taken in a part p of an observation's rows is about share / A to p.
Source: the simple cousin of Rashid et al. 2020 (OPIQ), https://arxiv.org/abs/2002.12174
"""

import jax
import jax.numpy as jnp

from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array, Batch, Supposed


def make(parts: Parts, *, share: float, reward: float, anneal_updates: int) -> Kind:
    """The kind `optimism`; its state is the number of updates.

    Args:
      parts: what kinds are built with.
      share: of a batch's rows that get a made-up reward, at first.
      reward: made up, and Q alike, in units of novelty.
      anneal_updates: updates over which the share falls to 0; 0 keeps it.
    """

    def init(rng_key: Array) -> Array:
        del rng_key
        return jnp.zeros((), jnp.int32)

    def pay(state: Array, params: ModelParams, batch: Batch, rng_key: Array) -> Paid:
        del params
        left = share_left(state, share=share, anneal_updates=anneal_updates)
        supposed = make_up(batch, rng_key, left, num_actions=parts.world_model.num_actions, reward=reward)
        return Paid(state + 1, jnp.zeros(batch.mask.shape), supposed, {"optimism_share": left})

    return Kind(init=init, pay=pay)


def share_left(num_updates: Array, *, share: float, anneal_updates: int) -> Array:
    """The share of made-up rows after a number of updates: falls in a straight line."""
    left = jnp.maximum(1.0 - num_updates / anneal_updates, 0.0) if anneal_updates else jnp.ones(())
    return share * left


def make_up(batch: Batch, rng_key: Array, share: Array, *, num_actions: int, reward: float) -> Supposed:
    """Made-up rewards for a share of a batch's transitions, each of an action drawn at random."""
    known = batch.rows.valid[:, :-1] & batch.mask[:, :-1]
    action_key, row_key = jax.random.split(rng_key)
    return Supposed(
        action=jax.random.randint(action_key, known.shape, 0, num_actions),
        reward=jnp.full(known.shape, reward),
        mask=known & (jax.random.uniform(row_key, known.shape) < share),
        q_too=True,
    )
