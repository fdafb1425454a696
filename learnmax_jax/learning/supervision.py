"""From a sampled batch to what every head should have said: targets, with masks past the end."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from learnmax_jax.learning import targets
from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.support import Support, inverse_rescale
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Batch, SearchOutput, Supposed

# Which return each value head estimates: long extrinsic, intrinsic, short extrinsic.
RETURN_OF_VALUE = np.array([0, 1, 0])


@struct.dataclass
class Supervision:
    """Targets of a batch of windows with L transitions and L + 1 observations.

    Attributes:
      codes: `[B, L + 1, N, G]` int32.
      led_here: `[B, L + 1]` int32, the action that led to each frame; A where unknown or none.
      action: `[B, L]` int32.
      first: `[B, L + 1]` bool.
      beta: `[B, L + 1]` float32, that each row's policy and values are of.
      played_at: `[B, L + 1]` float32, the beta that each row was played at; another one where it was searched again.
      rewards: `[B, L, 2]` float32, scaled extrinsic reward and novelty of step t.
      discount: `[B, L]` float32, 0 where step t terminated.
      policy: `[B, L + 1, A]` float32.
      values: `[B, L + 1, 3]` float32, as heads.py orders them, scaled; at row L nothing but what bootstraps.
      q: `[B, L, 2]` float32, of action[t].
      valid: `[B, L + 1]` bool, row t is a transition.
      absorbed: `[B, L + 1, 2]` bool, row t lies past a termination that stops this return (extrinsic, intrinsic):
        rewards and values are known to be 0 there.
      weights: `[B]` float32, importance weights.
      supposed: intrinsic rewards of actions that were not taken.
    """

    codes: Array
    led_here: Array
    action: Array
    first: Array
    beta: Array
    played_at: Array
    rewards: Array
    discount: Array
    policy: Array
    values: Array
    q: Array
    valid: Array
    absorbed: Array
    weights: Array
    supposed: Supposed | None = None


def supervise(
    target_params: ModelParams,
    batch: Batch,
    novelty: Array,
    rng_key: Array,
    betas: Array,
    supposed: Supposed | None = None,
    *,
    world_model: WorldModel,
    support: Support,
    plan: Callable[..., SearchOutput],
    num_reanalysed: int,
    exploit_share: float,
    reward_scale: float,
    extrinsic_discount: float,
    intrinsic_discount: float,
    short_discount: float,
    td_lambda: float,
    td_steps: int,
    bootstrap: str,
    intrinsic_crosses_end: bool,
) -> Supervision:
    """Makes a batch's targets; nothing here is differentiated.

    Extrinsic values: TD(lambda) over `bootstrap`. The others: TD(lambda) over the target network's own heads, the
    intrinsic one from bonuses looked up afresh, up to where beta's sign turns. Q: n-step Q-learning; the target network
    both selects and values, by extrinsic + beta x intrinsic.

    Args:
      target_params: moving average of the network.
      batch: Batch.
      novelty: `[B, L + 1]` float32, the bonus of observation[t] now.
      rng_key: consumed.
      betas: `[E]`, the betas in play; a sequence that is searched again draws one of them, or takes 0, so that
        exploiters learn from what explorers found.
      supposed: intrinsic rewards of actions that were not taken.
      world_model, support: the bundle and the heads' bins.
      plan: as acting's.
      num_reanalysed: how many of the B sequences are searched again at every row (Schrittwieser et al. 2021).
      exploit_share: chance that such a sequence is searched at beta 0.
      reward_scale: raw score per unit.
      extrinsic_discount, intrinsic_discount, short_discount: per environment step.
      td_lambda: of every value target.
      td_steps: of the Q target.
      bootstrap: what extrinsic values bootstrap from: "search", the search's value at the time of play; "value", the
        target network's; "q", its Q of the action that it prefers. What is searched again uses what that finds.
      intrinsic_crosses_end: the intrinsic return lives on after a termination.
    Returns:
      Supervision, with gradients stopped.
    """
    rows, length = batch.rows, batch.mask.shape[1]
    codes = _by_row(partial(world_model.tokenise, target_params), rows.observation)
    unknown = jnp.full_like(rows.action[:, :1], world_model.num_actions)
    led_here = jnp.concatenate([unknown, rows.action[:, :-1]], axis=1)
    led_here = jnp.where(rows.first, world_model.num_actions, led_here)
    first = rows.first & batch.mask
    context, latents = world_model.context(target_params, codes, led_here, first, capacity=length)

    beta, policy, found = rows.beta, rows.search_policy.astype(jnp.float32), None
    if num_reanalysed:
        plan_key, beta_key = jax.random.split(rng_key)
        fresh = _draw_betas(beta_key, betas, num_reanalysed, exploit_share)
        again = _search_again(target_params, plan_key, context, latents, codes, fresh, plan)
        beta = beta.at[:num_reanalysed].set(fresh[:, None])
        policy = policy.at[:num_reanalysed].set(again.search_policy)
        found = again.search_value[..., 0]

    value, q, wanted = _evaluate(target_params, latents, beta, world_model, support)
    starts = _starts(
        value,
        q,
        wanted,
        rows.search_value,
        found,
        bootstrap=bootstrap,
        # What a value bootstraps from has to hope as much as Q does.
        intrinsic_hopes=supposed is not None and supposed.q_too,
    )
    valid = rows.valid & batch.mask
    over = jax.vmap(targets.after_termination)(rows.discount, rows.last)
    # Past an end that it crosses, the intrinsic return is unknown, as past a truncation.
    absorbed = jnp.stack([over, jnp.zeros_like(over) if intrinsic_crosses_end else over], axis=-1)
    rewards = _rewards(rows.reward / reward_scale, novelty, valid)
    discount = rows.discount[:, :-1]
    discounts = partial(targets.return_discounts, discount)
    extrinsic = discounts(gamma=extrinsic_discount, crosses_end=False)
    intrinsic = discounts(gamma=intrinsic_discount, crosses_end=intrinsic_crosses_end)
    # What is found after the way back is no reason to leave it.
    intrinsic = jnp.where(jnp.sign(beta[:, :-1]) == jnp.sign(beta[:, 1:]), intrinsic, 0.0)
    short = discounts(gamma=short_discount, crosses_end=False)

    of_head = jax.vmap(partial(targets.td_lambda_targets, td_lambda=td_lambda), in_axes=(1, 1, 1, None), out_axes=1)
    values = jax.vmap(of_head)(
        rewards[..., RETURN_OF_VALUE], jnp.stack([extrinsic, intrinsic, short], axis=-1), starts, valid[:, :-1]
    )
    values = jnp.concatenate([values, starts[:, -1:]], axis=1)
    of_return = jax.vmap(partial(targets.q_targets, td_steps=td_steps), in_axes=(1, 1, 1, None, None), out_axes=1)
    q_target = jax.vmap(of_return)(rewards, jnp.stack([extrinsic, intrinsic], axis=-1), q, wanted, valid[:, :-1])
    return jax.lax.stop_gradient(
        Supervision(
            codes=codes,
            led_here=led_here,
            action=rows.action[:, :-1],
            first=first,
            beta=beta,
            played_at=rows.beta,
            rewards=rewards,
            discount=discount,
            policy=policy,
            values=jnp.where(absorbed[..., RETURN_OF_VALUE], 0.0, values),
            q=q_target,
            valid=valid,
            absorbed=absorbed,
            weights=batch.weights,
            supposed=supposed,
        )
    )


def _evaluate(
    params: ModelParams, latents: Array, beta: Array, world_model: WorldModel, support: Support
) -> tuple[Array, Array, Array]:
    """What the network says of every row: values `[B, T, 3]`, Q `[B, T, 2, A]`, and what it wants, `[B, T, A]`."""
    batch, length = beta.shape
    prediction = world_model.predict(params, latents.reshape(-1, *latents.shape[2:]), beta.reshape(-1))
    value = inverse_rescale(support.expectation(prediction.value_logits)).reshape(batch, length, 3)
    q = inverse_rescale(support.expectation(prediction.q_logits)).reshape(batch, length, 2, world_model.num_actions)
    return value, q, q[:, :, 0] + beta[..., None] * q[:, :, 1]


def _starts(
    value: Array,
    q: Array,
    wanted: Array,
    search_value: Array,
    found: Array | None,
    *,
    bootstrap: str,
    intrinsic_hopes: bool,
) -> Array:
    """What the targets of the three values bootstrap from, `[B, T, 3]`; `found [R, T]` where a search was made anew."""
    preferred = jnp.argmax(wanted, axis=-1)[:, :, None, None]
    q_of_preferred = jnp.take_along_axis(q, preferred, axis=-1)[..., 0]
    extrinsic = {"search": search_value, "value": value[..., 0], "q": q_of_preferred[..., 0]}[bootstrap]
    if found is not None:
        extrinsic = extrinsic.at[: len(found)].set(found)
    intrinsic = q_of_preferred[..., 1] if intrinsic_hopes else value[..., 1]
    return jnp.stack([extrinsic, intrinsic, value[..., 2]], axis=-1)


def context_up_to(context: Context, row: Array) -> Context:
    """The contexts that end at `row [B, M]`: `[B * M, ...]`, sequence-major, from one pass over `[B, ...]`."""
    batch, count = row.shape
    repeated = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), context)
    chex.assert_equal(repeated.start.shape, (batch * count,))
    return repeated.replace(length=row.reshape(-1) + 1)


def _draw_betas(rng_key: Array, betas: Array, count: int, exploit_share: float) -> Array:
    """The betas `[count]` of the sequences that are searched again: 0 with chance `exploit_share`, else one in play."""
    exploits = jax.random.bernoulli(jax.random.fold_in(rng_key, 0), exploit_share, (count,))
    return jnp.where(exploits, 0.0, jax.random.choice(rng_key, betas, (count,)))


def _search_again(
    params: ModelParams,
    rng_key: Array,
    context: Context,
    latents: Array,
    codes: Array,
    beta: Array,
    plan: Callable[..., SearchOutput],
) -> SearchOutput:
    """Searches from every row of the first R sequences, at their `beta [R]`: leaves `[R, T, ...]`."""
    count, length = beta.shape[0], latents.shape[1]
    every_row = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (count, length))
    roots = context_up_to(jax.tree.map(lambda x: x[:count], context), every_row)
    flat = jax.tree.map(lambda x: x[:count].reshape(-1, *x.shape[2:]), (latents, codes))
    output = plan(params, rng_key, roots, *flat, jnp.repeat(beta, length))
    return jax.tree.map(lambda x: x.reshape(count, length, *x.shape[1:]), output)


def _rewards(score: Array, novelty: Array, valid: Array) -> Array:
    """Of each step `[B, L, 2]`: its scaled score, and the novelty of what it led to; 0 where there is no step."""
    ahead = jnp.concatenate([novelty[:, 1:], novelty[:, :1]], axis=1)
    rewards = jnp.stack([score, ahead], axis=-1)[:, :-1]
    return jnp.where(valid[:, :-1, None], rewards, 0.0)


def _by_row(function: Callable[[Array], Array], x: Array) -> Array:
    """Applies a `[B, ...]` function to `[B, T, ...]`."""
    flat = function(x.reshape(-1, *x.shape[2:]))
    return flat.reshape(*x.shape[:2], *flat.shape[1:])
