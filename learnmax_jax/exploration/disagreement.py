"""Disagreement: where an ensemble's members predict different next codes and values, the model does not know yet.

The spread is the intrinsic reward of (latent, action), so that it is known of actions that were not taken as well: the
intrinsic head is told both, and the search adds it up along its paths as any reward. The members differ by their start,
by a frozen random net each, and by the half of the rows that each is trained on.
Sources: Sekar et al. 2020, https://arxiv.org/abs/2005.05960; Oren et al. 2022 (in the tree),
https://arxiv.org/abs/2210.13455
"""

import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.exploration.coin_flip import label
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.models.novelty_nets import Ensemble
from learnmax_jax.models.rows import coin_flips, latents
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array, Batch, Params, Supposed


@struct.dataclass
class EnsembleState:
    """The ensemble.

    Attributes:
      params: of Ensemble.
      optimizer_state: of them.
    """

    params: Params
    optimizer_state: optax.OptState


def make(
    parts: Parts,
    *,
    num_members: int,
    width: int,
    prior_scale: float,
    value_weight: float,
    learning_rate: float,
) -> Kind:
    """The kind `disagreement`.

    Args:
      parts: what kinds are built with.
      num_members: K, at least 2.
      width: of two hidden layers.
      prior_scale: of each member's frozen net.
      value_weight: of the values' standard deviation, beside the codes' disagreement in [0, 1].
      learning_rate: of Adam.
    """
    num_actions, num_codes = parts.world_model.num_actions, parts.tokenizer.num_codes
    net = Ensemble(
        num_members=num_members,
        num_actions=num_actions,
        num_groups=parts.tokenizer.num_groups,
        num_codes=num_codes,
        width=width,
        prior_scale=prior_scale,
    )
    optimizer = optax.multi_transform({"train": optax.adam(learning_rate), "freeze": optax.set_to_zero()}, label)

    def start(rng_key: Array) -> EnsembleState:
        latent = jnp.zeros((1, parts.tokenizer.num_tokens, parts.latent_width))
        params = net.init(rng_key, latent, jnp.zeros((1,), jnp.int32))["params"]
        return EnsembleState(params=params, optimizer_state=optimizer.init(params))

    def pay(state: EnsembleState, params: ModelParams, batch: Batch, rng_key: Array) -> Paid:
        rows = batch.rows
        codes, seen = latents(parts.world_model, params, batch)
        latent, known = seen[:, :-1], rows.valid[:, :-1] & batch.mask[:, :-1]
        ahead = rows.discount[:, :-1] * rows.search_value[:, 1:]
        member_rows = known[..., None] & (coin_flips(batch, num_members)[:, :-1] > 0)
        taken = rows.action[:, :-1]
        value, gradient = jax.value_and_grad(loss)(state.params, net, latent, taken, codes[:, 1:], ahead, member_rows)
        changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        state = EnsembleState(optax.apply_updates(state.params, changes), optimizer_state)
        other = jax.random.randint(rng_key, taken.shape, 0, num_actions)
        paid = bonus(state, net, latent, taken, value_weight=value_weight)
        supposed = Supposed(
            action=other, reward=bonus(state, net, latent, other, value_weight=value_weight), mask=known, q_too=False
        )
        mean = jnp.sum(jnp.where(known, paid, 0.0)) / jnp.maximum(known.sum(), 1)
        # The step's reward stands at the observation that it leads to.
        at_next = jnp.concatenate([jnp.zeros_like(paid[:, :1]), jnp.where(known, paid, 0.0)], axis=1)
        return Paid(state, at_next, supposed, {"ensemble_loss": value, "disagreement": mean})

    return Kind(init=start, pay=pay)


def loss(params: Params, net: Ensemble, latent: Array, action: Array, codes: Array, value: Array, mask: Array) -> Array:
    """Cross-entropy of the next codes and squared error of the next value, each member on rows of its own.

    Args:
      params: of the net. net: Ensemble.
      latent: `[B, L, N, D]`. action: `[B, L]` int32.
      codes: `[B, L, N, G]` int32, of the next observation.
      value: `[B, L]` float32, its extrinsic value, 0 past a termination.
      mask: `[B, L, K]` bool, which member learns from which row.
    Returns:
      scalar.
    """
    logits, values = net.apply({"params": params}, latent, action)
    log_likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[None, ..., None], axis=-1)[..., 0]
    error = -log_likelihood.mean(axis=(-2, -1)) + (values - value[None]) ** 2
    return jnp.sum(jnp.where(jnp.moveaxis(mask, -1, 0), error, 0.0)) / jnp.maximum(mask.sum(), 1)


def bonus(state: EnsembleState, net: Ensemble, latent: Array, action: Array, *, value_weight: float) -> Array:
    """The ensemble's spread at (latent, action).

    The codes' part is the Jensen-Shannon distance of the members' predictions, the square root of the information that
    a look at the next code would give about the members, in units of the most there can be; mean over the frame.

    Args:
      state: EnsembleState. net: Ensemble.
      latent: `[B, L, N, D]`. action: `[B, L]` int32.
      value_weight: of the values' standard deviation.
    Returns:
      `[B, L]` float32, at least 0; at most 1 where `value_weight` is 0.
    """
    logits, values = net.apply({"params": state.params}, latent, action)
    members, num_codes = logits.shape[0], logits.shape[-1]
    log_p = jax.nn.log_softmax(logits)
    mean = jnp.mean(jnp.exp(log_p), axis=0)
    entropy = -jnp.sum(mean * jnp.log(mean + 1e-12), axis=-1)
    information = entropy + jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1), axis=0)
    distance = jnp.sqrt(jnp.maximum(information, 0.0) / math.log(min(members, num_codes)))
    return distance.mean(axis=(-2, -1)) + value_weight * values.std(axis=0)
