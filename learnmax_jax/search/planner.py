"""Tree search over the world model: gumbel, muzero, or none, behind one signature.

One tree holds one value and one discount an edge, yet the two returns have discounts of
their own. In units discounted back to the root they fit exactly: on the edge that leaves
depth d, reward' = s (ge^d re + beta gi^d ri), and at depth d, value' = s (ge^d Ve + beta
gi^d Vi), with s the probability that the episode still runs and discount' = 1. Each node
also carries the two returns apart, so that the root's extrinsic and intrinsic values can
be told from one another: a backup is a visit-weighted mean, and a mean is linear.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import mctx

from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.support import Support, inverse_rescale
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.search import gumbel
from learnmax_jax.search.tree import Edge, TreeNode
from learnmax_jax.types import Array, Outcome, Prediction, SearchOutput

KINDS = ("gumbel", "muzero", "none")


def plan(
    params: ModelParams,
    rng_key: Array,
    context: Context,
    latent: Array,
    codes: Array,
    beta: Array,
    *,
    world_model: WorldModel,
    support: Support,
    discounts: tuple[float, float],
    intrinsic_crosses_end: bool,
    kind: str,
    num_simulations: int,
    max_depth: int,
    max_num_considered_actions: int,
    value_floor: float,
    gumbel_scale: float,
) -> SearchOutput:
    """Searches from a batch of observed moments for what maximises extrinsic + beta x intrinsic return.

    Args:
      params: of the world model.
      rng_key: consumed.
      context: K/V of the frames up to and including each root.
      latent: `[B, N, D]` of the roots.
      codes: `[B, N, G]` of the roots.
      beta: `[B]`, weight of the intrinsic return.
      world_model: the bundle.
      support: of the two-hot heads.
      discounts: of the extrinsic and the intrinsic return, per environment step.
      intrinsic_crosses_end: whether the intrinsic return lives on after an episode's end.
      kind: "gumbel" (Danihelka et al. 2022), "muzero" (PUCT and visit counts; Schrittwieser et al. 2020) or
        "none" (no simulation: argmax of Q).
      num_simulations: expansions a search; unused by "none".
      max_depth: deepest node, counted from the root.
      max_num_considered_actions: of gumbel's root; small beside num_simulations, else the tree stays one deep.
      value_floor: completed Q-values are spread over at least this range, in scaled units, so that noise
        about equal values is not blown up into a policy.
      gumbel_scale: 0 acts greedily, 1 samples.
    Returns:
      SearchOutput.
    """
    chex.assert_rank([latent, codes, beta], [3, 3, 1])
    prediction = world_model.predict(params, latent, beta)
    root_value = _returns(prediction, support)
    finite = jnp.isfinite(prediction.policy_logits).all(axis=-1) & jnp.isfinite(root_value).all(axis=-1)
    if kind == "none":
        output = _greedy(rng_key, prediction, beta, support, value_floor, gumbel_scale, finite)
    elif kind in SEARCHES:
        root = TreeNode(
            node=world_model.root(latent, codes, max_depth=max_depth),
            path_return=jnp.zeros_like(root_value),
            value=root_value,
            survival=jnp.ones_like(root_value),
        )
        edge = partial(
            _edge,
            params=params,
            context=context,
            beta=beta,
            world_model=world_model,
            support=support,
            discounts=discounts,
            intrinsic_crosses_end=intrinsic_crosses_end,
        )
        output = SEARCHES[kind](
            rng_key,
            root,
            _weigh(root_value, beta),
            prediction.policy_logits,
            edge,
            num_simulations=num_simulations,
            max_depth=max_depth,
            max_num_considered_actions=max_num_considered_actions,
            value_floor=value_floor,
            gumbel_scale=gumbel_scale,
        )
        output = output.replace(finite=output.finite & finite)
    else:
        raise ValueError(f"search.kind={kind}: unknown. Allowed: {', '.join(KINDS)}.")
    return output


def _weigh(returns: Array, beta: Array) -> Array:
    """`[..., 2]` extrinsic and intrinsic, `[...]` beta, to what search maximises `[...]`."""
    return returns[..., 0] + beta * returns[..., 1]


def _returns(prediction: Prediction, support: Support) -> Array:
    """Extrinsic and intrinsic values `[B, 2]` in scaled units."""
    return inverse_rescale(support.expectation(prediction.value_logits[:, :2]))


def _edge(
    parent: TreeNode,
    action: Array,
    *,
    params: ModelParams,
    context: Context,
    beta: Array,
    world_model: WorldModel,
    support: Support,
    discounts: tuple[float, float],
    intrinsic_crosses_end: bool,
) -> tuple[Edge, TreeNode]:
    """One edge of the tree: a transformer step of one block, and the heads; rows may be several to a tree."""
    beta = jnp.repeat(beta, action.shape[0] // beta.shape[0])
    discount = jnp.asarray(discounts)[None]
    depth = parent.node.depth[:, None].astype(jnp.float32)
    node, outcome = world_model.step(params, context, parent.node, action, None)
    prediction = world_model.predict(params, node.latent, beta)
    reward = parent.survival * discount**depth * _rewards(outcome, support)
    lives = jax.nn.sigmoid(outcome.continuation_logit)
    survival = parent.survival * jnp.stack([lives, jnp.ones_like(lives) if intrinsic_crosses_end else lives], axis=-1)
    value = survival * discount ** (depth + 1) * _returns(prediction, support)
    child = TreeNode(node=node, path_return=parent.path_return + reward, value=value, survival=survival)
    return Edge(_weigh(reward, beta), _weigh(value, beta), prediction.policy_logits), child


def _rewards(outcome: Outcome, support: Support) -> Array:
    """Extrinsic and intrinsic reward of an edge `[B, 2]`, in scaled units."""
    return inverse_rescale(support.expectation(jnp.stack([outcome.reward_logits, outcome.intrinsic_logits], axis=1)))


def _search_gumbel(
    rng_key: Array, root: TreeNode, value: Array, prior_logits: Array, edge: Callable, **tuning: Any
) -> SearchOutput:
    """Gumbel MuZero, in trees of our own."""
    action, policy, tree = gumbel.search(rng_key, root, value, prior_logits, edge, **tuning)
    num_simulations = tuning["num_simulations"]
    search_value = tree.found / (num_simulations + 1)
    return SearchOutput(
        action=action,
        search_policy=policy,
        search_value=search_value,
        depth_mean=tree.depth_sum / num_simulations,
        depth_max=tree.depth_max,
        finite=tree.finite & jnp.isfinite(search_value).all(axis=-1),
    )


def _search_muzero(
    rng_key: Array,
    root: TreeNode,
    value: Array,
    prior_logits: Array,
    edge: Callable,
    *,
    num_simulations: int,
    max_depth: int,
    max_num_considered_actions: int,
    value_floor: float,
    gumbel_scale: float,
) -> SearchOutput:
    """PUCT and visit counts, by mctx."""
    del max_num_considered_actions  # gumbel's
    policy = partial(
        mctx.muzero_policy,
        num_simulations=num_simulations,
        max_depth=max_depth,
        qtransform=partial(mctx.qtransform_by_parent_and_siblings, epsilon=value_floor),
        temperature=gumbel_scale,
        dirichlet_fraction=0.25 * gumbel_scale,
    )
    return run_mctx(policy, rng_key, root, value, prior_logits, edge)


def run_mctx(
    policy: Callable[..., mctx.PolicyOutput],
    rng_key: Array,
    root: TreeNode,
    value: Array,
    prior_logits: Array,
    edge: Callable[[TreeNode, Array], tuple[Edge, TreeNode]],
) -> SearchOutput:
    """Runs one of mctx's policies and reads its tree: the two root values apart, depths, whether all was finite."""

    def recurrent_fn(params: None, rng_key: Array, action: Array, parent: TreeNode) -> tuple:
        del params, rng_key  # the model's step is deterministic
        step, child = edge(parent, action)
        answer = mctx.RecurrentFnOutput(
            reward=step.reward,
            discount=jnp.ones_like(step.reward),
            prior_logits=step.prior_logits,
            value=step.value,
        )
        return answer, child

    start = mctx.RootFnOutput(prior_logits=prior_logits, value=value, embedding=root)
    result = policy(params=None, rng_key=rng_key, root=start, recurrent_fn=recurrent_fn)
    tree = result.search_tree
    # How often a simulation ended at each node: all its visits less those that went on below it.
    ended = (tree.node_visits - tree.children_visits.sum(axis=-1)).astype(jnp.float32)
    returns = tree.embeddings.path_return + tree.embeddings.value
    expanded = ended.at[:, 0].set(0.0)
    depth = tree.embeddings.node.depth
    search_value = (ended[..., None] * returns).sum(axis=1) / ended.sum(axis=1)[:, None]
    finite = jnp.isfinite(search_value).all(axis=-1) & jnp.isfinite(tree.children_prior_logits).all(axis=(1, 2))
    return SearchOutput(
        action=result.action.astype(jnp.int32),
        search_policy=result.action_weights,
        search_value=search_value,
        depth_mean=(expanded * depth).sum(axis=1) / expanded.sum(axis=1),
        depth_max=jnp.where(ended > 0, depth, 0).max(axis=1),
        finite=finite,
    )


def _greedy(
    rng_key: Array,
    prediction: Prediction,
    beta: Array,
    support: Support,
    value_floor: float,
    gumbel_scale: float,
    finite: Array,
) -> SearchOutput:
    """No search: the policy is a softmax of Q at temperature `value_floor`, sampled or its argmax."""
    returns = jnp.moveaxis(inverse_rescale(support.expectation(prediction.q_logits)), 1, -1)  # [B, A, 2]
    logits = _weigh(returns, beta[:, None]) / value_floor
    noise = gumbel_scale * jax.random.gumbel(rng_key, logits.shape)
    best = jnp.argmax(logits, axis=-1)
    return SearchOutput(
        action=jnp.argmax(logits + noise, axis=-1).astype(jnp.int32),
        search_policy=jax.nn.softmax(logits, axis=-1),
        search_value=jnp.take_along_axis(returns, best[:, None, None], axis=1)[:, 0],
        depth_mean=jnp.zeros_like(beta),
        depth_max=jnp.zeros(beta.shape, jnp.int32),
        finite=finite & jnp.isfinite(logits).all(axis=-1),
    )


SEARCHES = {"gumbel": _search_gumbel, "muzero": _search_muzero}
