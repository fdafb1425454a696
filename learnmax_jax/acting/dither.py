"""Random actions that are held for a while: one step off a plan leads nowhere, ten steps lead off a ledge.

Source: Dabney, Ostrovski and Barreto 2021 (epsilon-z-greedy), https://arxiv.org/abs/2006.01782
"""

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array


@struct.dataclass
class Held:
    """The random action that each environment is under, `[B]` int32.

    Attributes:
      action: means nothing where no steps are left.
      steps_left: more steps that it is taken for.
    """

    action: Array
    steps_left: Array


def nothing_held(num_envs: int) -> Held:
    """Nobody is under a random action."""
    return Held(jnp.zeros((num_envs,), jnp.int32), jnp.zeros((num_envs,), jnp.int32))


def dither(
    held: Held,
    action: Array,
    first: Array,
    rng_key: Array,
    *,
    epsilon: Array | float,
    longest_hold: int,
    num_actions: int,
) -> tuple[Held, Array]:
    """Replaces planned actions by random ones, some of which last.

    Args:
      held: Held.
      action: `[B]` int32, as planned.
      first: `[B]` bool, a new episode: what was held is let go.
      rng_key: consumed.
      epsilon: chance that a random action begins at a step under none.
      longest_hold: steps; n of them are drawn in proportion to 1 / n^2. 1 is epsilon-greedy.
      num_actions: A, drawn from uniformly.
    Returns:
      (Held, action `[B]` int32).
    """
    begin_key, action_key, length_key = jax.random.split(rng_key, 3)
    steps_left = jnp.where(first, 0, held.steps_left)
    begins = (steps_left == 0) & (jax.random.uniform(begin_key, action.shape) < epsilon)
    drawn = jax.random.randint(action_key, action.shape, 0, num_actions)
    log_weights = -2.0 * jnp.log(jnp.arange(1, longest_hold + 1))
    length = 1 + jax.random.categorical(length_key, log_weights, shape=action.shape).astype(jnp.int32)
    random_action = jnp.where(begins, drawn, held.action)
    steps_left = jnp.where(begins, length, steps_left)
    taken = jnp.where(steps_left > 0, random_action, action)
    return Held(random_action, jnp.maximum(steps_left - 1, 0)), taken
