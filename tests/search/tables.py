"""A world model read off tables, so that a search's truth can be enumerated; and a look into the tree."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from flax import struct

from learnmax_jax.models.dynamics import Context, Node
from learnmax_jax.models.support import Support, rescale
from learnmax_jax.models.world_model import WorldModel
from learnmax_jax.search import gumbel, planner
from learnmax_jax.search.tree import UNVISITED, Tree
from learnmax_jax.types import Array, Outcome, Prediction, SearchOutput

SUPPORT = Support(-6.0, 6.0, 49)


@struct.dataclass
class Tables:
    """S states, A actions; all that the world says, exactly.

    Attributes:
      next_state: `[S, A]` int32.
      reward: `[S, A, 2]`, extrinsic and intrinsic.
      lives: `[S, A]`, probability that the episode goes on.
      value: `[S, 2]`, the leaves'.
      policy_logits: `[S, A]`.
      q: `[S, A, 2]`.
    """

    next_state: Array
    reward: Array
    lives: Array
    value: Array
    policy_logits: Array
    q: Array


def tables(next_state: np.ndarray, **given: np.ndarray) -> Tables:
    """Float32 tables; what is not given is 0, but for `lives`, which is 1."""
    states, actions = next_state.shape
    shapes = {
        "reward": (states, actions, 2),
        "lives": (states, actions),
        "value": (states, 2),
        "policy_logits": (states, actions),
        "q": (states, actions, 2),
    }
    filled = {name: np.zeros(shape) for name, shape in shapes.items()} | {"lives": np.ones(shapes["lives"])} | given
    return Tables(jnp.asarray(next_state), **{name: jnp.asarray(x, jnp.float32) for name, x in filled.items()})


def _logits(x: Array) -> Array:
    """Two-hot logits whose expectation is x again."""
    return jnp.log(SUPPORT.two_hot(rescale(x)) + 1e-30)


def _state(latent: Array) -> Array:
    return latent[:, 0, 0].astype(jnp.int32)


def _predict(tables: Tables, latent: Array, beta: Array) -> Prediction:
    state = _state(latent)
    value = jnp.pad(tables.value[state], ((0, 0), (0, 1)))
    return Prediction(tables.policy_logits[state], _logits(value), _logits(jnp.moveaxis(tables.q[state], 2, 1)))


def _step(tables: Tables, context: Context, node: Node, action: Array, chance: None) -> tuple[Node, Outcome]:
    state = _state(node.latent)
    reward = _logits(tables.reward[state, action])
    lives = jnp.clip(tables.lives[state, action], 1e-12, 1 - 1e-7)
    continuation = jnp.log(lives) - jnp.log1p(-lives)
    following = tables.next_state[state, action].astype(jnp.float32)[:, None, None]
    empty = jnp.zeros((*state.shape, 0))
    outcome = Outcome(reward[:, 0], reward[:, 1], continuation, empty, empty)
    return node.replace(latent=following, depth=node.depth + 1), outcome


def _root(latent: Array, codes: Array, *, max_depth: int) -> Node:
    return Node(latent, codes, (), (), jnp.zeros(latent.shape[0], jnp.int32))


def world_model(num_actions: int) -> WorldModel:
    """The bundle whose parameters are Tables; only what a search calls."""
    used = {"num_actions": num_actions, "num_outcomes": 0, "root": _root, "predict": _predict, "step": _step}
    return WorldModel(**{field.name: used.get(field.name) for field in dataclasses.fields(WorldModel)})  # type: ignore[arg-type]


@struct.dataclass
class Grown:
    """What a search grew, whoever grew it: S nodes a tree, the root first.

    Attributes:
      visits: `[B, S]`, 0 where there is no node. value: `[B, S]`, the mean.
      raw_value: `[B, S]`, the node's own, weighed. path_return: `[B, S, 2]`.
      parent, action, reward: `[B, S]`, of the edge that leads to the node; -1, -1, 0 where there is none.
      latent, codes: `[B, S, N, ...]`.
    """

    visits: Array
    value: Array
    raw_value: Array
    path_return: Array
    parent: Array
    action: Array
    reward: Array
    latent: Array
    codes: Array


def _grown(tree: Tree | mctx.Tree) -> Grown:
    """Our trees know children by index, mctx's both ways."""
    if isinstance(tree, mctx.Tree):
        told, rows = tree.embeddings, jnp.arange(tree.parents.shape[0])[:, None]
        return Grown(
            visits=tree.node_visits,
            value=tree.node_values,
            raw_value=tree.raw_values,
            path_return=told.path_return,
            parent=tree.parents,
            action=tree.action_from_parent,
            reward=tree.children_rewards[rows, tree.parents, tree.action_from_parent],
            latent=told.node.latent,
            codes=told.node.codes,
        )
    nodes, num_actions = tree.children.shape[1:]
    flat = tree.children.reshape(tree.children.shape[0], -1)
    here = (flat[..., None] == jnp.arange(nodes)[None, None]) & (flat != UNVISITED)[..., None]
    edge = jnp.where(here.any(axis=1), jnp.argmax(here, axis=1), -1)
    parent, action = jnp.where(edge < 0, -1, edge // num_actions), jnp.where(edge < 0, -1, edge % num_actions)
    return Grown(
        visits=tree.visits,
        value=tree.value,
        raw_value=tree.raw_value,
        path_return=tree.frame.path_return,
        parent=parent,
        action=action,
        reward=tree.reward,
        latent=tree.frame.latent,
        codes=tree.frame.codes,
    )


def plan_with_tree(*args, **kwargs) -> tuple[SearchOutput, Grown | None]:
    """`planner.plan`, and the trees that it grew; traceable."""
    trees = []

    def spy(policy: Callable, *args, **kwargs):
        output = policy(*args, **kwargs)
        trees.append(output[2] if isinstance(output, tuple) else output.search_tree)
        return output

    spies = [(gumbel, "search"), (mctx, "muzero_policy")]
    with contextlib.ExitStack() as patches:
        for module, name in spies:
            patches.enter_context(mock.patch.object(module, name, partial(spy, getattr(module, name))))
        output = planner.plan(*args, **kwargs)
    return output, _grown(trees[0]) if trees else None


def plan(
    world: Tables,
    states: np.ndarray,
    beta: np.ndarray,
    *,
    kind: str = "gumbel",
    num_simulations: int = 32,
    intrinsic_crosses_end: bool = False,
    seed: int = 0,
    max_depth: int = 3,
    discounts: tuple[float, float] = (1.0, 1.0),
    value_floor: float = 0.01,
    gumbel_scale: float = 0.0,
) -> tuple[SearchOutput, Grown | None]:
    """Searches from `states [B]` of a table world; the numbers after `max_depth` compile nothing anew."""
    numbers = {
        "discounts": discounts,
        "value_floor": value_floor,
        "gumbel_scale": gumbel_scale,
    }
    states, beta = np.asarray(states, np.int32), np.asarray(beta, np.float32)
    return _plan(world, states, beta, seed, numbers, kind, num_simulations, max_depth, intrinsic_crosses_end)


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _plan(world, states, beta, seed, numbers, kind, num_simulations, max_depth, intrinsic_crosses_end):
    return plan_with_tree(
        world,
        jax.random.key(seed),
        None,
        states.astype(jnp.float32)[:, None, None],
        jnp.zeros((*states.shape, 1, 1), jnp.int32),
        beta,
        world_model=world_model(world.next_state.shape[1]),
        support=SUPPORT,
        intrinsic_crosses_end=intrinsic_crosses_end,
        kind=kind,
        num_simulations=num_simulations,
        max_depth=max_depth,
        max_num_considered_actions=16,
        **numbers,
    )


def path(tree: Grown, row: int, node: int) -> list[int]:
    """Actions from the root to a node, walked by parents."""
    actions: list[int] = []
    while node != 0:
        actions.append(int(tree.action[row, node]))
        node = int(tree.parent[row, node])
    return actions[::-1]


def expanded(tree: Grown, row: int) -> list[int]:
    """Nodes of a row's tree that a simulation reached, the root not among them."""
    return [node for node in range(1, tree.visits.shape[1]) if tree.visits[row, node] > 0]
