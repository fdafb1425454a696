"""The world model's losses: each a function of predictions, targets and masks."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.learning import targets
from learnmax_jax.learning.supervision import RETURN_OF_VALUE, Supervision, context_up_to
from learnmax_jax.models.dynamics import Context, Node
from learnmax_jax.models.heads import NUM_RETURNS
from learnmax_jax.models.support import Support, inverse_rescale, rescale
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Metrics, Outcome, Prediction

# Added to every priority, in scaled units: where all values are 0, no row may become undrawable (Schaul et al. 2016).
_LEAST_PRIORITY = 1e-3


@struct.dataclass
class LossWeights:
    """What each part counts for; open_loop multiplies all parts of the unroll.

    consistency is a part of the unroll alone; static, so that nothing is computed where it is 0.
    """

    codes: float
    reward: float
    intrinsic: float
    continuation: float
    policy: float
    value: float
    q: float
    chance: float
    open_loop: float
    consistency: float = struct.field(pytree_node=False)


def masked_mean(x: Array, mask: Array, weights: Array) -> Array:
    """Mean of `x [B, ...]` where `mask [B, ...]`, rows weighed by `weights [B]`; 0 where nothing is masked in."""
    chex.assert_equal_shape([x, mask])
    weighed = x * weights.reshape(weights.shape + (1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, weighed, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def categorical_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy of `logits [..., S]` against a distribution `target [..., S]`: `[...]`."""
    return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def scalar_loss(logits: Array, target: Array, support: Support) -> Array:
    """Two-hot cross-entropy of `logits [..., S]` against scaled scalars `target [...]`: `[...]`.

    Source: Schrittwieser et al. 2020, appendix F, https://arxiv.org/abs/1911.08265
    """
    return categorical_loss(logits, support.two_hot(rescale(target)))


def code_loss(logits: Array, codes: Array) -> tuple[Array, Array]:
    """Next-code cross-entropy and accuracy, means over tokens and groups.

    Args:
      logits: `[..., N, G, V]`.
      codes: `[..., N, G]` int32.
    Returns:
      (`[...]` nats a code, `[...]` share of codes that are the likeliest).
    """
    # Not a gather: its gradient would be a scatter into all logits.
    chosen = jax.nn.one_hot(codes, logits.shape[-1], dtype=jnp.bool_)
    told = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    nats = jax.nn.logsumexp(logits, axis=-1) - told
    correct = jnp.argmax(logits, axis=-1) == codes
    return nats.mean(axis=(-2, -1)), correct.mean(axis=(-2, -1))


def continuation_loss(logit: Array, discount: Array) -> Array:
    """Binary cross-entropy of `logit [...]` against `discount [...]` in {0, 1}."""
    return jnp.logaddexp(0.0, logit) - discount * logit


def chance_loss(posterior_logits: Array, prior_logits: Array) -> Array:
    """Pulls the prior to the posterior, and a little the other way: `[..., O]` to `[...]`.

    Source: Hafner et al. 2021 (KL balancing, 0.8), https://arxiv.org/abs/2010.02193
    """
    posterior, prior = jax.nn.log_softmax(posterior_logits), jax.nn.log_softmax(prior_logits)
    stop = jax.lax.stop_gradient

    def divergence(log_p: Array, log_q: Array) -> Array:
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    return 0.8 * divergence(stop(posterior), prior) + 0.2 * divergence(posterior, stop(prior))


def consistency_loss(imagined: Array, observed: Array) -> Array:
    """Pulls imagined latents to those of the same observations, told: `[..., N, D]` to `[...]`, 0 to 2.

    1 - cosine, mean over tokens. No gradient reaches `observed`, or both could meet in one point.
    Source: Ye et al. 2021 (EfficientZero), https://arxiv.org/abs/2111.00210
    """
    chex.assert_equal_shape([imagined, observed])

    def direction(latent: Array) -> Array:
        return latent * jax.lax.rsqrt(jnp.sum(latent**2, axis=-1, keepdims=True) + 1e-8)

    cosine = jnp.sum(direction(imagined) * direction(jax.lax.stop_gradient(observed)), axis=-1)
    return 1.0 - cosine.mean(axis=-1)


def outcome_losses(
    outcome: Outcome,
    codes: Array,
    rewards: Array,
    discount: Array,
    known: Array,
    absorbed: Array,
    weights: Array,
    support: Support,
) -> tuple[Metrics, Metrics]:
    """Losses of the transition head over `[B, T]` steps.

    Args:
      outcome: predictions `[B, T, ...]`.
      codes: `[B, T, N, G]`, of observation[t + 1].
      rewards: `[B, T, 2]`, extrinsic and intrinsic, scaled.
      discount: `[B, T]`.
      known: `[B, T]` bool, the step is a transition.
      absorbed: `[B, T, 2]` bool, the step lies past a termination and this return pays nothing.
      weights: `[B]`.
      support: of the reward heads.
    Returns:
      (losses by part, metrics).
    """
    nats, accuracy = code_loss(outcome.code_logits, codes)
    paid = known[..., None] | absorbed
    ones = jnp.ones_like(weights)
    return {
        "codes": masked_mean(nats, known, weights),
        "reward": masked_mean(scalar_loss(outcome.reward_logits, rewards[..., 0], support), paid[..., 0], weights),
        "intrinsic": masked_mean(
            scalar_loss(outcome.intrinsic_logits, rewards[..., 1], support), paid[..., 1], weights
        ),
        "continuation": masked_mean(continuation_loss(outcome.continuation_logit, discount), known, weights),
    }, {"code_accuracy": masked_mean(accuracy, known, ones)}


def prediction_losses(
    prediction: Prediction,
    policy: Array,
    values: Array,
    known: Array,
    absorbed: Array,
    weights: Array,
    support: Support,
) -> Metrics:
    """Losses of policy and value heads over `[B, T]` observations.

    Args:
      prediction: `[B, T, ...]`.
      policy: `[B, T, A]`.
      values: `[B, T, 3]`, scaled.
      known: `[B, T]` bool, the observation was acted on.
      absorbed: `[B, T, 2]` bool, past a termination: values of this return are known to be 0, the policy means nothing.
      weights: `[B]`.
      support: of the value heads.
    Returns:
      Losses by part.
    """
    value = scalar_loss(prediction.value_logits, values, support)
    told = known[..., None] | absorbed[..., RETURN_OF_VALUE]
    return {
        "policy": masked_mean(categorical_loss(prediction.policy_logits, policy), known, weights),
        "value": masked_mean(value, told, weights),
    }


def world_model_loss(
    network: object,
    params: ModelParams,
    supervision: Supervision,
    rng_key: Array,
    *,
    world_model: WorldModel,
    support: Support,
    weights: LossWeights,
    unroll_steps: int,
    num_unrolls: int,
) -> tuple[Array, tuple[Metrics, Array]]:
    """Teacher-forced losses at every frame, and open-loop losses through the search's own `step`.

    Args:
      network: the parameters that are differentiated.
      params: ModelParams whose tokenizer is used; its network is replaced.
      supervision: targets.
      rng_key: consumed; draws where the unrolls start.
      world_model, support: the bundle and the heads' bins.
      weights: LossWeights.
      unroll_steps: K.
      num_unrolls: M starts a sequence, uniform over the rows that leave K steps.
    Returns:
      (loss, (metrics, priorities `[B, L]`, above 0: absolute errors of what each row's player wants, extrinsic and
      |beta| x intrinsic value)).
    """
    params = params.replace(network=network)
    context, latents, forced, metrics, chance, priorities = _teacher_forced(params, supervision, world_model, support)
    unrolled, open_metrics = _open_loop(
        params,
        supervision,
        context,
        latents,
        chance,
        rng_key,
        world_model,
        support,
        unroll_steps,
        num_unrolls,
        consistent=weights.consistency > 0,
    )
    parts = forced | {f"open_{name}": weights.open_loop * loss for name, loss in unrolled.items()}
    total = sum(getattr(weights, name.removeprefix("open_")) * loss for name, loss in parts.items())
    metrics |= {f"loss_{name}": loss for name, loss in parts.items()} | open_metrics
    return jnp.asarray(total), (metrics | {"loss": jnp.asarray(total)}, priorities)


def _teacher_forced(
    params: ModelParams, supervision: Supervision, world_model: WorldModel, support: Support
) -> tuple[Context, Array, Metrics, Metrics, Array | None, Array]:
    """Losses where every input is real, by one pass over the windows.

    Returns (context, latents, losses by part, metrics, chance outcomes if there are any, priorities).
    """
    length = supervision.led_here.shape[1]
    context, latents = world_model.context(
        params, supervision.codes, supervision.led_here, supervision.first, capacity=length
    )
    flat = latents.reshape(-1, *latents.shape[2:])
    prediction = _unflatten(world_model.predict(params, flat, supervision.beta.reshape(-1)), length)

    # Transitions: the L rows that have a next observation.
    steps = length - 1
    before = latents[:, :-1].reshape(-1, *latents.shape[2:])
    codes = supervision.codes[:, :-1].reshape(-1, *supervision.codes.shape[2:])
    following = supervision.codes[:, 1:].reshape(codes.shape)
    action = supervision.action.reshape(-1)
    chance, posterior = None, None
    if world_model.num_outcomes:
        posterior = world_model.infer_chance(params, before, action, following)
        probabilities = jax.nn.softmax(posterior)
        picked = jax.nn.one_hot(jnp.argmax(posterior, axis=-1), world_model.num_outcomes)
        chance = probabilities + jax.lax.stop_gradient(picked - probabilities)
    node = world_model.root(before, codes, max_depth=0)
    outcome = _unflatten(world_model.outcome(params, node, action, chance), steps)

    valid, absorbed, weights = supervision.valid, supervision.absorbed, supervision.weights
    losses, metrics = outcome_losses(
        outcome,
        supervision.codes[:, 1:],
        supervision.rewards,
        supervision.discount,
        valid[:, :-1],
        absorbed[:, :-1],
        weights,
        support,
    )
    losses |= prediction_losses(prediction, supervision.policy, supervision.values, valid, absorbed, weights, support)
    which = supervision.action[..., None, None, None]
    taken = jnp.take_along_axis(prediction.q_logits[:, :-1], which, axis=3).squeeze(axis=3)
    losses["q"] = masked_mean(scalar_loss(taken, supervision.q, support).mean(axis=-1), valid[:, :-1], weights)
    if supervision.supposed is not None:
        losses |= _supposed_losses(params, supervision, node, prediction, losses, world_model, support)
    if posterior is not None:
        balance = _unflatten(chance_loss(posterior, outcome.chance_logits.reshape(posterior.shape)), steps)
        losses["chance"] = masked_mean(balance, valid[:, :-1], weights)

    values = inverse_rescale(support.expectation(prediction.value_logits[:, :, :NUM_RETURNS]))
    errors = jnp.where(valid[..., None], jnp.abs(values - supervision.values[..., :NUM_RETURNS]), 0.0)
    ones = jnp.ones_like(weights)
    changed = supervision.codes[:, 1:] != supervision.codes[:, :-1]
    right = jnp.argmax(outcome.code_logits, axis=-1) == supervision.codes[:, 1:]
    changed &= valid[:, :-1, None, None]
    metrics |= {
        "changed_code_accuracy": jnp.sum(right & changed) / jnp.maximum(jnp.sum(changed), 1),
        "changed_codes": masked_mean(
            (supervision.codes[:, 1:] != supervision.codes[:, :-1]).mean(axis=(-2, -1)), valid[:, :-1], ones
        ),
        "value_mean": masked_mean(values[..., 0], valid, ones),
        "value_error": masked_mean(errors[..., 0], valid, ones),
        "intrinsic_reward": masked_mean(supervision.rewards[..., 1], valid[:, :-1], ones),
        "policy_entropy": masked_mean(
            categorical_loss(prediction.policy_logits, jax.nn.softmax(prediction.policy_logits)), valid, ones
        ),
        "targets_clipped": support.num_clipped(rescale(supervision.values)),
    }
    wanted = errors[..., 0] + jnp.abs(supervision.played_at) * errors[..., 1]
    priorities = _LEAST_PRIORITY + wanted[:, :-1]
    return context, latents, losses, metrics, chance, priorities


def _supposed_losses(
    params: ModelParams,
    supervision: Supervision,
    node: Node,
    prediction: Prediction,
    losses: Metrics,
    world_model: WorldModel,
    support: Support,
) -> Metrics:
    """What the losses of novelty and Q become with the rewards of actions that were not taken."""
    supposed, length = supervision.supposed, supervision.action.shape[1]
    assert supposed is not None
    # Each counts for as much as one transition does: a few made-up rows stay a few.
    share = jnp.sum(supposed.mask) / jnp.maximum(jnp.sum(supervision.valid[:, :-1]), 1)
    outcome = _unflatten(world_model.outcome(params, node, supposed.action.reshape(-1), None), length)
    loss = scalar_loss(outcome.intrinsic_logits, supposed.reward, support)
    more = {"intrinsic": losses["intrinsic"] + share * masked_mean(loss, supposed.mask, supervision.weights)}
    if supposed.q_too:
        which = supposed.action[..., None, None]
        q_logits = jnp.take_along_axis(prediction.q_logits[:, :-1, 1], which, axis=2).squeeze(axis=2)
        loss = scalar_loss(q_logits, supposed.reward, support)
        more["q"] = losses["q"] + share * masked_mean(loss, supposed.mask, supervision.weights)
    return more


def _open_loop(
    params: ModelParams,
    supervision: Supervision,
    context: Context,
    latents: Array,
    chance: Array | None,
    rng_key: Array,
    world_model: WorldModel,
    support: Support,
    unroll_steps: int,
    num_unrolls: int,
    *,
    consistent: bool,
) -> tuple[Metrics, Metrics]:
    """Losses of K imagined steps from M sampled rows of each window, sequence-major `[B * M, K]`."""
    batch, length = supervision.led_here.shape
    starts = jax.random.randint(rng_key, (batch, num_unrolls), 0, length - unroll_steps)

    def cut(x: Array, offset: int = 0) -> Array:
        windows = jax.vmap(lambda x, at: targets.unroll_windows(x, at, unroll_steps=unroll_steps))(x, starts + offset)
        return windows.reshape(-1, unroll_steps, *windows.shape[3:])

    def at_start(x: Array) -> Array:
        return jax.vmap(lambda x, at: x[at])(x, starts).reshape(-1, *x.shape[2:])

    by_step = None if chance is None else cut(_unflatten(chance, length - 1))
    node = world_model.root(at_start(latents), at_start(supervision.codes), max_depth=unroll_steps)
    actions = cut(supervision.action)
    _, imagined, outcome = world_model.unroll(params, context_up_to(context, starts), node, actions, by_step)
    beta = cut(supervision.beta, 1).reshape(-1)
    prediction = _unflatten(world_model.predict(params, imagined.reshape(-1, *imagined.shape[2:]), beta), unroll_steps)

    weights = jnp.repeat(supervision.weights, num_unrolls)
    losses, metrics = outcome_losses(
        outcome,
        cut(supervision.codes, 1),
        cut(supervision.rewards),
        cut(supervision.discount),
        cut(supervision.valid),
        cut(supervision.absorbed),
        weights,
        support,
    )
    losses |= prediction_losses(
        prediction,
        cut(supervision.policy, 1),
        cut(supervision.values, 1),
        cut(supervision.valid, 1),
        cut(supervision.absorbed, 1),
        weights,
        support,
    )
    if consistent:
        # Of the observations that steps lead to, as the next codes are; a padded row holds none.
        losses["consistency"] = masked_mean(
            consistency_loss(imagined, cut(latents, 1)), cut(supervision.valid), weights
        )
    return losses, {f"open_{name}": value for name, value in metrics.items()}


def _unflatten(tree: Any, length: int) -> Any:
    """`[B * T, ...]` leaves to `[B, T, ...]`."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // length, length, *x.shape[1:]), tree)
