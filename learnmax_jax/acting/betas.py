"""How much each environment wants novelty: from not at all to most, and, on the way back, the opposite.

Beta weighs the intrinsic return in the search. Below 0 a plan avoids what is new or uncertain: an episode that begins
so goes along well understood ways to where it starts to explore (the notes' reverse entropy, S4-11; first return, then
explore: Ecoffet et al. 2021, https://arxiv.org/abs/2004.12919).
"""

import jax
import jax.numpy as jnp

from learnmax_jax.types import Array


def spread_betas(num_envs: int, *, num_exploit_envs: int, beta_max: float) -> Array:
    """Each environment's beta, `[B]`: 0 for the exploiters, then evenly up to `beta_max`.

    Args:
      num_envs: B.
      num_exploit_envs: how many play at beta 0; their scores are the run's score.
      beta_max: the largest, in units of reward_scale per unit of novelty.
    """
    explorers = num_envs - num_exploit_envs
    rising = beta_max * jnp.arange(1, explorers + 1, dtype=jnp.float32) / max(explorers, 1)
    return jnp.concatenate([jnp.zeros((num_exploit_envs,), jnp.float32), rising])


def draw_ways_back(ways: Array, first: Array, rng_key: Array, *, longest: int) -> Array:
    """Steps that an episode begins with at -beta, `[B]` int32: drawn anew from 0..longest where one begins."""
    return jnp.where(first, jax.random.randint(rng_key, ways.shape, 0, longest + 1), ways)


def betas_now(beta: Array, ways: Array, episode_step: Array) -> Array:
    """The betas of this step, `[B]`: their sign is turned on the way back."""
    return jnp.where(episode_step < ways, -beta, beta)
