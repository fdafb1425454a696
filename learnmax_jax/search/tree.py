"""The trees of a batch of searches: their arrays, and the walk down, the growth and the way back up.

A step grows K nodes in each of B trees, below K different children of the root, so that no two walks meet. A
simulation is the same as in mctx, whose batched while-loops this replaces: nothing here waits for the deepest tree
but a loop over depth, and that is of integers. Three things keep it cheap:

- A node stores the K/V of its own frame only; those of its ancestors are gathered when it is left by an edge.
- Which action a simulation takes at a node depends on that node's statistics alone, which change only when a
  simulation passes. So the choice is made on the way back up, for a whole path at once, and kept.
- Nothing of an edge is stored with the parent but the child's index: visits and values of an edge are the child's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.models.dynamics import Node
from learnmax_jax.types import Array

UNVISITED = -1


@struct.dataclass
class TreeNode:
    """What a search knows of a node, `[B, ...]`; returns are `[B, 2]`: extrinsic, intrinsic.

    Attributes:
      node: the world model's.
      path_return: rewards from the root to here, in root units.
      value: the leaf's own value, in root units.
      survival: probability that the episode runs on to here, per return.
    """

    node: Node
    path_return: Array
    value: Array
    survival: Array


@struct.dataclass
class Edge:
    """What leads to a node and what is expected there, weighed: `reward [B]`, `value [B]`, `prior_logits [B, A]`."""

    reward: Array
    value: Array
    prior_logits: Array


@struct.dataclass
class Frame:
    """What a later step needs of a node, `[B, S, ...]`; keys and values a layer each, of its own frame."""

    latent: Array
    codes: Array
    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    path_return: Array
    survival: Array


@struct.dataclass
class Tree:
    """B trees of S nodes; node 0 is the root, nodes follow in the order of the simulations.

    Attributes:
      visits: `[B, S]` int32, simulations that ended at or passed the node; the root counts as one itself.
      value: `[B, S]`, mean of the node's own value and of what the simulations below it found.
      raw_value: `[B, S]`, the node's own.
      reward: `[B, S]`, of the edge that leads here.
      prior_logits: `[B, S, A]`.
      children: `[B, S, A]` int32, index or UNVISITED.
      choice: `[B, S]` int32, the action that the next simulation takes here; the root's is told, not kept.
      frame: of each node.
      found: `[B, 2]`, sum of path_return + value over the ends of all simulations and the root.
      depth_sum: `[B]` float32, of the simulations' ends. depth_max: `[B]` int32.
      finite: `[B]` bool, all prior logits were.
    """

    visits: Array
    value: Array
    raw_value: Array
    reward: Array
    prior_logits: Array
    children: Array
    choice: Array
    frame: Frame
    found: Array
    depth_sum: Array
    depth_max: Array
    finite: Array


def plant(root: TreeNode, value: Array, prior_logits: Array, *, num_simulations: int) -> Tree:
    """Trees of a root each, with room for one node a simulation; `value [B]`, `prior_logits [B, A]`."""
    batch, num_actions = prior_logits.shape

    def room(x: Array, fill: float = 0.0) -> Array:
        others = jnp.full((batch, num_simulations, *x.shape[1:]), fill, x.dtype)
        return jnp.concatenate([x[:, None], others], axis=1)

    none = jnp.zeros((batch,), jnp.int32)
    node = root.node
    keys, values = jax.tree.map(lambda path: room(jnp.zeros_like(path[:, :, 0])), (node.path_keys, node.path_values))
    return Tree(
        visits=room(none + 1, 0),
        value=room(value),
        raw_value=room(value),
        reward=room(jnp.zeros_like(value)),
        prior_logits=room(prior_logits),
        children=jnp.full((batch, num_simulations + 1, num_actions), UNVISITED, jnp.int32),
        choice=room(none, 0),
        frame=Frame(room(node.latent), room(node.codes), keys, values, room(root.path_return), room(root.survival)),
        found=root.path_return + root.value,
        depth_sum=jnp.zeros_like(value),
        depth_max=none,
        finite=jnp.isfinite(prior_logits).all(axis=-1),
    )


def pick(x: Array, node: Array) -> Array:
    """`x [B, S, ...]` at `node [B, ...]` int32: `[B, ..., ...]`; rows are gathered from one flat table."""
    batch, nodes = x.shape[:2]
    row = nodes * jnp.arange(batch, dtype=jnp.int32).reshape(-1, *[1] * (node.ndim - 1))
    return x.reshape(batch * nodes, *x.shape[2:]).at[row + node].get(mode="promise_in_bounds")


def simulate(
    tree: Tree,
    root_action: Array,
    first_new: Array,
    edge: Callable[[TreeNode, Array], tuple[Edge, TreeNode]],
    choose: Callable[[Array, Array, Array, Array], Array],
    *,
    max_depth: int,
) -> Tree:
    """K simulations in each tree, below K different children of the root.

    A simulation that ends at `max_depth` may end at a node that exists: it counts once more and nothing else changes,
    as the model gives the same answer again.

    Args:
      tree: the trees.
      root_action: `[B, K]` int32, different actions.
      first_new: `[]` int32, the new nodes' first index; K are taken.
      edge: (parent `[B * K, ...]`, action `[B * K]`) -> (Edge, child); the child's path holds its frame at its depth.
      choose: (visits, Q-values, prior_logits, each `[..., A]`, raw value `[...]`) -> action `[...]`.
      max_depth: no node is deeper; at least 1.
    Returns:
      The trees.
    """
    batch, num_walks = root_action.shape
    path, depth, parent, action = _descend(tree, root_action, max_depth=max_depth)
    existing = pick(tree.children.reshape(batch, -1), parent * tree.children.shape[-1] + action)
    new = first_new + jnp.arange(num_walks, dtype=jnp.int32)[None]
    leaf = jnp.where(existing == UNVISITED, new, existing)
    step, child = edge(_gather(tree.frame, path, parent, depth), action.reshape(-1))
    tree = _append(tree, first_new, step, child, leaf, parent, action, depth)
    path = jnp.where(jnp.arange(max_depth)[None, None] == depth[..., None], leaf[..., None], path)
    return _back_up(tree, path, leaf, depth, choose)


def _descend(tree: Tree, root_action: Array, *, max_depth: int) -> tuple[Array, Array, Array, Array]:
    """Walks from the root until an action that was never taken, or to the last edge allowed.

    Returns (nodes passed below the root `[B, K, max_depth]`, where not passed 0; how many; the last one; its action).
    """
    batch = root_action.shape[0]
    num_actions = tree.children.shape[-1]
    children = tree.children.reshape(batch, -1)
    node = jnp.zeros_like(root_action)
    depth, path = jnp.zeros_like(root_action), jnp.zeros((*root_action.shape, max_depth), jnp.int32)

    def down(level: Array, walk: tuple[Array, ...]) -> tuple[Array, ...]:
        node, action, depth, path = walk
        child = pick(children, node * num_actions + action)
        moves = (child != UNVISITED) & (depth == level)
        node = jnp.where(moves, child, node)
        action = jnp.where(moves, pick(tree.choice, node), action)
        here = jnp.arange(max_depth)[None, None] == level
        path = jnp.where(here & moves[..., None], child[..., None], path)
        return node, action, depth + moves, path

    node, action, depth, path = jax.lax.fori_loop(0, max_depth - 1, down, (node, root_action, depth, path))
    return path, depth, node, action


def _gather(frame: Frame, path: Array, parent: Array, depth: Array) -> TreeNode:
    """The parents `[B * K, ...]`, with the K/V of the frames on their way; `depth [B, K]` of them are filled."""
    rows = parent.size

    def one(x: Array) -> Array:
        picked = pick(x, parent)
        return picked.reshape(rows, *picked.shape[2:])

    def way(x: Array) -> Array:
        picked = pick(x, path)
        return jnp.moveaxis(picked.reshape(rows, *picked.shape[2:]), 1, 2)

    keys, values = jax.tree.map(way, (frame.keys, frame.values))
    node = Node(one(frame.latent), one(frame.codes), keys, values, depth.reshape(-1))
    path_return = one(frame.path_return)
    return TreeNode(node, path_return, jnp.zeros_like(path_return), one(frame.survival))


def _append(
    tree: Tree,
    first_new: Array,
    step: Edge,
    child: TreeNode,
    leaf: Array,
    parent: Array,
    action: Array,
    depth: Array,
) -> Tree:
    """Writes K new nodes a tree and hangs them below their parents; `depth [B, K]` is the parents'."""
    batch, num_walks = leaf.shape

    def write(table: Array, rows: Array) -> Array:
        rows = rows.reshape(batch, num_walks, *rows.shape[1:])
        return jax.lax.dynamic_update_slice_in_dim(table, rows, first_new, axis=1)

    slot = depth.reshape(-1, 1, 1, 1, 1)

    def own(path: Array) -> Array:
        return jnp.take_along_axis(path, slot, axis=2, mode="promise_in_bounds")[:, :, 0]

    keys, values = jax.tree.map(own, (child.node.path_keys, child.node.path_values))
    frame = Frame(child.node.latent, child.node.codes, keys, values, child.path_return, child.survival)
    finite = jnp.isfinite(step.prior_logits).all(axis=-1).reshape(batch, num_walks).all(axis=-1)
    found = (child.path_return + child.value).reshape(batch, num_walks, -1).sum(axis=1)
    row = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return tree.replace(
        value=write(tree.value, step.value),
        raw_value=write(tree.raw_value, step.value),
        reward=write(tree.reward, step.reward),
        prior_logits=write(tree.prior_logits, step.prior_logits),
        children=tree.children.at[row, parent, action].set(leaf, mode="promise_in_bounds", unique_indices=True),
        frame=jax.tree.map(write, tree.frame, frame),
        found=tree.found + found,
        depth_sum=tree.depth_sum + (depth + 1).sum(axis=1).astype(jnp.float32),
        depth_max=jnp.maximum(tree.depth_max, depth.max(axis=1) + 1),
        finite=tree.finite & finite,
    )


def _back_up(
    tree: Tree, path: Array, leaf: Array, depth: Array, choose: Callable[[Array, Array, Array, Array], Array]
) -> Tree:
    """Counts the simulations and averages what they found along their paths `[B, K, max_depth]`; then chooses anew."""
    batch, num_walks, max_depth = path.shape
    level = jnp.arange(max_depth)[None, None]
    passed, on_path = level < depth[..., None], level <= depth[..., None]
    rewards = pick(tree.reward, path)
    visits, values = pick(tree.visits, path), pick(tree.value, path)
    # What the simulation found, from each node of its path on; from the leaf up, as in mctx, for the same rounding.
    found, below = pick(tree.value, leaf), []
    for at in reversed(range(max_depth)):
        below.append(found)
        found = jnp.where(on_path[..., at], rewards[..., at] + found, found)
    passing = jnp.stack(below[::-1], axis=-1)
    means = jnp.where(passed, (values * visits + passing) / (visits + 1.0), values)
    root_count = tree.visits[:, 0].astype(jnp.float32)
    root_value = (tree.value[:, 0] * root_count + found.sum(axis=1)) / (root_count + num_walks)
    # Every node is on one path of its tree at most, so a masked sum over the paths is the one number there is.
    nodes = jnp.arange(tree.visits.shape[1], dtype=jnp.int32)[None, None]
    flat = path.reshape(batch, -1, 1)
    hit = (flat == nodes) & on_path.reshape(batch, -1, 1)

    def put(table: Array, rows: Array) -> Array:
        told = jnp.where(hit, rows.reshape(batch, -1, 1), 0).sum(axis=1, dtype=table.dtype)
        return jnp.where(hit.any(axis=1), told, table)

    tree = tree.replace(
        visits=put(tree.visits, visits + 1).at[:, 0].add(num_walks),
        value=put(tree.value, means).at[:, 0].set(root_value),
    )
    return tree.replace(choice=put(tree.choice, choose_at(tree, path, choose)))


def choose_at(tree: Tree, node: Array, choose: Callable[[Array, Array, Array, Array], Array]) -> Array:
    """What `choose` says at `node [B, ...]` of the trees."""
    visits, q_values = edges(tree, node)
    return choose(visits, q_values, pick(tree.prior_logits, node), pick(tree.raw_value, node))


def edges(tree: Tree, node: Array) -> tuple[Array, Array]:
    """Visits and Q-values of the actions at `node [B, ...]`, each `[B, ..., A]`; 0 where an action was never taken."""
    children = pick(tree.children, node)
    taken = children != UNVISITED
    child = jnp.maximum(children, 0)
    q_values = pick(tree.reward, child) + pick(tree.value, child)
    return jnp.where(taken, pick(tree.visits, child), 0), jnp.where(taken, q_values, 0.0)
