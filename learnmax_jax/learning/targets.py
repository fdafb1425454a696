"""Targets for values, Q and open-loop unrolls: unbatched mathematics, `jax.vmap` over B.

Discounts carry gamma already: `discounts[t]` is what observation[t+1] is worth at t,
gamma times 0 or 1, made by `return_discounts`. Rewards and values come in one unit
(score over `reward_scale`), not rescaled by `models.support`.

How an episode ends, in the rows of a Batch (T transitions, T + 1 observations):

    terminated at e:  discount[e] = 0, so values[e+1] never counts
    truncated at e:   discount[e] = 1, so targets bootstrap from values[e+1], the true
                      final observation; row e+1 is not `valid`, and nothing lies beyond
    life lost at e:   discount[e] = 0 if the switch is on, row e+1 is `valid`: the return
                      stops there, the episode goes on
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.types import Array


def return_discounts(discount: Array, *, gamma: float, crosses_end: bool) -> Array:
    """What the next observation is worth, for one kind of return.

    Args:
      discount: `[T]` float, Transition.discount: 0 where step t terminated.
      gamma: per environment step, in [0, 1].
      crosses_end: the return does not stop at a termination: the final observation's own value bootstraps, as if the
        episode had been truncated. For the intrinsic return, whose novelty outlives an episode. That value is trained
        on no transition of its own, only through the frames that resemble it.
    Returns:
      `[T]` float32 discounts.
    Raises:
      ValueError: gamma outside [0, 1].
    Source: Burda et al. 2018, section 2.3 (non-episodic intrinsic return), https://arxiv.org/abs/1810.12894
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma={gamma}: not a discount. Allowed: [0, 1]. Nearest: {min(max(gamma, 0.0), 1.0)}")
    continues = jnp.ones_like(discount) if crosses_end else discount
    return (gamma * continues).astype(jnp.float32)


def n_step_targets(rewards: Array, discounts: Array, values: Array, valid: Array, *, td_steps: int) -> Array:
    """Bootstraps value targets `td_steps` ahead along one trajectory.

        G[t] = r[t] + g[t] r[t+1] + ... + (g[t] ... g[t+n-1]) v[t+n]

    where v comes earlier if the trajectory ends: the first row that is not `valid`, and the end of the arrays,
    bootstrap with their own value. A row that is not `valid` has its own value for a target; mask it.

    Args:
      rewards: `[T]` float; rewards[t] follows action[t].
      discounts: `[T]` float in [0, 1], gamma included; 0 where the return stops at step t.
      values: `[T + 1]` float, of observation[0..T].
      valid: `[T]` bool, row t is a transition.
      td_steps: n, in environment steps (not frames); at least 1.
    Returns:
      `[T]` float targets; losses.py stops the gradient.
    Raises:
      ValueError: `td_steps` < 1. AssertionError (tracing): rank, dtype, length.
    Source: Schrittwieser et al. 2020, https://arxiv.org/abs/1911.08265
    """
    if td_steps < 1:
        raise ValueError(f"td_steps={td_steps}: a target looks ahead. Allowed: >= 1. Nearest: 1")
    _check_trajectory(rewards, discounts, values, valid)

    def lengthen(_: int, targets: Array) -> Array:
        one_more = jnp.where(valid, rewards + discounts * targets[1:], values[:-1])
        return jnp.concatenate([one_more, values[-1:]])

    # Beyond T steps nothing changes any more.
    return jax.lax.fori_loop(0, min(td_steps, rewards.shape[0]), lengthen, values)[:-1]


def td_lambda_targets(rewards: Array, discounts: Array, values: Array, valid: Array, *, td_lambda: float) -> Array:
    """Averages all n-step targets with weights (1 - lambda) lambda^(n-1) along one trajectory.

        G[t] = r[t] + g[t] ((1 - lambda) v[t+1] + lambda G[t+1]),  G[T] = v[T]

    and G[t] = v[t] where row t is not `valid`, so that a truncated episode bootstraps from its final observation.

    Args:
      rewards: `[T]` float; rewards[t] follows action[t].
      discounts: `[T]` float in [0, 1], gamma included; 0 where the return stops at step t.
      values: `[T + 1]` float, of observation[0..T].
      valid: `[T]` bool, row t is a transition.
      td_lambda: in [0, 1]; 0 is one step ahead, 1 is as far as the rows go.
    Returns:
      `[T]` float targets; losses.py stops the gradient.
    Raises:
      ValueError: `td_lambda` outside [0, 1]. AssertionError (tracing): rank, dtype, length.
    Source: Sutton and Barto 2018, equation 12.2
    """
    if not 0 <= td_lambda <= 1:
        nearest = min(max(td_lambda, 0.0), 1.0)
        raise ValueError(f"td_lambda={td_lambda}: not a weight. Allowed: [0, 1]. Nearest: {nearest}")
    _check_trajectory(rewards, discounts, values, valid)

    def backwards(following: Array, row: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward, discount, value, next_value, is_valid = row
        target = reward + discount * ((1 - td_lambda) * next_value + td_lambda * following)
        target = jnp.where(is_valid, target, value)
        return target, target

    rows = (rewards, discounts, values[:-1], values[1:], valid)
    _, targets = jax.lax.scan(backwards, values[-1], rows, reverse=True)
    return targets


def q_targets(
    rewards: Array, discounts: Array, q_values: Array, selector_q_values: Array, valid: Array, *, td_steps: int
) -> Array:
    """Targets for Q(observation[t], action[t]): n-step, double or plain.

        G[t] = r[t] + ... + (g[t] ... g[t+n-1]) q[t+n, argmax_a selector[t+n, a]]

    Plain Q-learning is `selector_q_values = q_values`; double Q-learning selects with the online network and values
    with the target network. The steps between are not corrected for actions that were not greedy.

    Args:
      rewards, discounts, valid, td_steps: as for `n_step_targets`.
      q_values: `[T + 1, A]` float, of observation[0..T], the target network's.
      selector_q_values: `[T + 1, A]` float, whose best action is valued; the lowest index wins a tie.
    Returns:
      `[T]` float targets; losses.py stops the gradient.
    Raises:
      ValueError: `td_steps` < 1. AssertionError (tracing): rank, dtype, length.
    Source: van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461
    """
    chex.assert_rank([q_values, selector_q_values], 2)
    chex.assert_equal_shape([q_values, selector_q_values])
    best = jnp.argmax(selector_q_values, axis=-1)
    values = jnp.take_along_axis(q_values, best[:, None], axis=-1)[:, 0]
    return n_step_targets(rewards, discounts, values, valid, td_steps=td_steps)


def after_termination(discount: Array, last: Array) -> Array:
    """Which rows lie past a termination, where nothing is left to gain.

    A truncated episode's rows past the end are unknown, not worthless; a lost life ends nothing. Neither is marked.

    Args:
      discount: `[T]` float, Transition.discount; 0 where step t terminated.
      last: `[T]` bool, step t ended the episode.
    Returns:
      `[T]` bool; False at the terminating step itself, which is a transition.
    """
    chex.assert_rank([discount, last], 1)
    chex.assert_equal_shape([discount, last])
    terminated = (last & (discount == 0)).astype(jnp.int32)
    return jnp.cumsum(terminated) > terminated


def unroll_windows(x: Array, starts: Array, *, unroll_steps: int) -> Array:
    """Cuts a window of K rows at each start: out[m, j] = x[starts[m] + j], and 0 (False) past row T - 1.

    Args:
      x: `[T, ...]`.
      starts: `[M]` int32, at least 0.
      unroll_steps: K, at least 1.
    Returns:
      `[M, K, ...]`, dtype of x.
    """
    chex.assert_rank(starts, 1)
    index = starts[:, None] + jnp.arange(unroll_steps)[None, :]
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def unroll_targets(
    targets: Array, valid: Array, absorbed: Array, starts: Array, *, unroll_steps: int
) -> tuple[Array, Array]:
    """Aligns one row's targets with the predictions of an open-loop unroll, and says which of them are known.

    An unroll from row t feeds action[t], ..., action[t+K-1]; its k-th prediction, k = 1..K, is column k - 1 here:

        reward, continuation, next codes:  of action[t+k-1], so `starts = t`
        value, policy:                     of observation[t+k], so `starts = t + 1`

    k = 0 has no reward: the value and policy of row t itself are the teacher-forced pass's. Past a termination the
    target is 0 and known; past a truncation or the rows at hand it is unknown.

    Args:
      targets: `[T, ...]` float, per row.
      valid: `[T]` bool, row t is a transition.
      absorbed: `[T]` bool, from `after_termination`; all False where nothing is known past the end (policy, next codes,
        and a return that `crosses_end`).
      starts: `[M]` int32.
      unroll_steps: K.
    Returns:
      `[M, K, ...]` targets, 0 where not `valid`; `[M, K]` bool mask.
    """
    chex.assert_rank([valid, absorbed], 1)
    chex.assert_equal_shape_prefix([targets, valid, absorbed], 1)
    mask = unroll_windows(valid | absorbed, starts, unroll_steps=unroll_steps)
    real = valid.reshape(valid.shape + (1,) * (targets.ndim - 1))
    return unroll_windows(jnp.where(real, targets, 0), starts, unroll_steps=unroll_steps), mask


def _check_trajectory(rewards: Array, discounts: Array, values: Array, valid: Array) -> None:
    """Ranks, dtypes and lengths of one trajectory."""
    chex.assert_rank([rewards, discounts, values, valid], 1)
    chex.assert_type([rewards, discounts, values], float)
    chex.assert_type(valid, bool)
    chex.assert_equal_shape([rewards, discounts, valid])
    chex.assert_shape(values, (rewards.shape[0] + 1,))
