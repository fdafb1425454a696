"""Gumbel MuZero's search: sequential halving at the root, a deterministic choice below (Danihelka et al. 2022).

Actions, policies and values are those of `mctx.gumbel_muzero_policy`, which the tests keep as the oracle; what differs
is how many simulations one pass of the model serves. Halving visits the considered actions in rounds, each action once
a round, and what is found below one action has no say below another. So where a round visits all the actions that
are left, it is one step of K simulations. Only the round that drops actions stays one by one, since mctx ranks anew
after every simulation. With 16 simulations of 4 actions that makes 7 passes instead of 16.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnmax_jax.search.tree import Edge, Tree, TreeNode, edges, plant, simulate
from learnmax_jax.types import Array

# Of the completed Q-values: c_visit and c_scale of Danihelka et al. 2022, as mctx sets them.
MAXVISIT_INIT, VALUE_SCALE = 50.0, 0.1
LOW_LOGIT = -1e9


class Run(NamedTuple):
    """Steps alike: `width` simulations each, whose actions had `visits[i]` visits before step i."""

    width: int
    visits: tuple[int, ...]


def schedule(num_actions: int, num_simulations: int) -> tuple[Run, ...]:
    """Sequential halving of `num_actions` considered actions, as steps of simulations that may run at once.

    Source: Karnin et al. 2013; Danihelka et al. 2022, https://openreview.net/forum?id=bERaNdoegnO
    """
    runs: list[Run] = []
    pool, left, visits = num_actions, num_simulations, 0
    considered = num_actions
    halvings = max(1, math.ceil(math.log2(num_actions)))
    while left:
        rounds = max(1, num_simulations // (halvings * considered)) if num_actions > 1 else left
        for _ in range(rounds):
            size = min(considered, left)
            # Untried actions all have the same completed value, so that their order is known beforehand.
            at_once = size == pool or visits == 0
            steps = ((size, 1),) if at_once else ((1, size),)
            for width, count in steps:
                told = (visits,) * count
                if runs and runs[-1].width == width:
                    runs[-1] = Run(width, runs[-1].visits + told)
                elif count:
                    runs.append(Run(width, told))
            left, visits, pool = left - size, visits + 1, considered
        considered = max(2, considered // 2) if num_actions > 1 else 1
    return tuple(runs)


def search(
    rng_key: Array,
    root: TreeNode,
    value: Array,
    prior_logits: Array,
    edge: Callable[[TreeNode, Array], tuple[Edge, TreeNode]],
    *,
    num_simulations: int,
    max_depth: int,
    max_num_considered_actions: int,
    value_floor: float,
    gumbel_scale: float,
) -> tuple[Array, Array, Tree]:
    """Grows the trees and reads their roots.

    Args:
      rng_key: consumed.
      root: B roots.
      value: `[B]`, theirs, weighed.
      prior_logits: `[B, A]`, theirs.
      edge: (parent `[B * K, ...]`, action `[B * K]`) -> (Edge, child), row b * K + k belonging to tree b.
      num_simulations: at least 1.
      max_depth: deepest node, at least 1.
      max_num_considered_actions: of the root.
      value_floor: completed Q-values are spread over at least this range.
      gumbel_scale: 0 acts greedily, 1 samples.
    Returns:
      (action `[B]` int32, improved policy `[B, A]`, the trees).
    """
    _, gumbel_key = jax.random.split(rng_key)
    gumbel = gumbel_scale * jax.random.gumbel(gumbel_key, prior_logits.shape, prior_logits.dtype)
    tree = plant(root, value, prior_logits, num_simulations=num_simulations)
    choose = partial(_choose, value_floor=value_floor)
    first_new = jnp.asarray(1, jnp.int32)
    for run in schedule(min(max_num_considered_actions, prior_logits.shape[1]), num_simulations):
        # Below an action that was visited c times lies a tree of depth c at most.
        depth = min(max_depth, max(run.visits) + 1)

        def step(carry: tuple[Tree, Array], visits: Array, width: int = run.width, depth: int = depth) -> tuple:
            tree, first_new = carry
            action = _considered(tree, gumbel, visits, width, value_floor)
            return (simulate(tree, action, first_new, edge, choose, max_depth=depth), first_new + width), None

        (tree, first_new), _ = jax.lax.scan(step, (tree, first_new), jnp.asarray(run.visits, jnp.int32))
    visits, completed = _root_q(tree, value_floor)
    action = jnp.argmax(_score(gumbel, prior_logits, completed, visits, visits.max(axis=-1, keepdims=True)), axis=-1)
    return action.astype(jnp.int32), jax.nn.softmax(prior_logits + completed), tree


def _root_q(tree: Tree, value_floor: float) -> tuple[Array, Array]:
    """Visits and completed Q-values of the roots' actions, each `[B, A]`."""
    root = jnp.zeros((tree.visits.shape[0],), jnp.int32)
    visits, q_values = edges(tree, root)
    return visits, completed_q(visits, q_values, tree.prior_logits[:, 0], tree.raw_value[:, 0], value_floor=value_floor)


def _considered(tree: Tree, gumbel: Array, visits_before: Array, width: int, value_floor: float) -> Array:
    """The best `width` actions of those visited that often, `[B, width]`."""
    visits, completed = _root_q(tree, value_floor)
    score = _score(gumbel, tree.prior_logits[:, 0], completed, visits, visits_before)
    if width == 1:
        return jnp.argmax(score, axis=-1, keepdims=True).astype(jnp.int32)
    return jax.lax.top_k(score, width)[1]


def _score(gumbel: Array, logits: Array, completed: Array, visits: Array, considered: Array) -> Array:
    """What the root ranks its actions by; -inf for all but those visited `considered` times."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return jnp.where(visits == considered, 0.0, -jnp.inf) + jnp.maximum(LOW_LOGIT, gumbel + logits + completed)


def completed_q(visits: Array, q_values: Array, prior_logits: Array, raw_value: Array, *, value_floor: float) -> Array:
    """Q-values with the mixed value in place of those never tried, spread over the unit range and scaled; `[..., A]`.

    Args:
      visits, q_values: of the actions, `[..., A]`; Q counts where visits > 0.
      prior_logits: `[..., A]`.
      raw_value: `[...]`, the node's own.
      value_floor: the least range that is spread.
    Source: Danihelka et al. 2022, appendix D and equation 8.
    """
    probability = jnp.maximum(jnp.finfo(prior_logits.dtype).tiny, jax.nn.softmax(prior_logits))
    tried = visits > 0
    share = jnp.where(tried, probability, 0.0)
    total = share.sum(axis=-1, keepdims=True)
    weighed = jnp.where(tried, probability * q_values / jnp.where(tried, total, 1.0), 0.0).sum(axis=-1, keepdims=True)
    count = visits.sum(axis=-1, keepdims=True)
    mixed = (raw_value[..., None] + count * weighed) / (count + 1)
    completed = jnp.where(tried, q_values, mixed)
    least, most = completed.min(axis=-1, keepdims=True), completed.max(axis=-1, keepdims=True)
    spread = (completed - least) / jnp.maximum(most - least, value_floor)
    return (MAXVISIT_INIT + visits.max(axis=-1, keepdims=True)) * VALUE_SCALE * spread


def _choose(visits: Array, q_values: Array, prior_logits: Array, raw_value: Array, *, value_floor: float) -> Array:
    """Below the root: the action whose share of visits lags most behind the improved policy."""
    completed = completed_q(visits, q_values, prior_logits, raw_value, value_floor=value_floor)
    policy = jax.nn.softmax(prior_logits + completed)
    return jnp.argmax(policy - visits / (1 + visits.sum(axis=-1, keepdims=True)), axis=-1).astype(jnp.int32)
