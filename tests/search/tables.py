"""A world model read off tables, so that a search's truth can be enumerated; and a look into mctx's tree."""

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
from learnmax_jax.search import planner
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
    unused = dict.fromkeys(("init", "tokenise", "decode", "context", "extend", "outcome", "unroll", "infer_chance"))
    return WorldModel(num_actions=num_actions, num_outcomes=0, root=_root, predict=_predict, step=_step, **unused)  # type: ignore[arg-type]


def plan_with_tree(*args, **kwargs) -> tuple[SearchOutput, mctx.Tree | None]:
    """`planner.plan`, and the tree that mctx grew for it; traceable."""
    trees = []

    def spy(policy, *args, **kwargs):
        output = policy(*args, **kwargs)
        trees.append(output.search_tree)
        return output

    spies = {name: partial(spy, getattr(mctx, name)) for name in ("gumbel_muzero_policy", "muzero_policy")}
    with mock.patch.multiple(mctx, **spies):
        output = planner.plan(*args, **kwargs)
    return output, trees[0] if trees else None


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
    epsilon: float = 0.0,
) -> tuple[SearchOutput, mctx.Tree | None]:
    """Searches from `states [B]` of a table world; the numbers after `seed` compile nothing anew."""
    numbers = {
        "max_depth": max_depth,
        "discounts": discounts,
        "value_floor": value_floor,
        "gumbel_scale": gumbel_scale,
        "epsilon": epsilon,
    }
    states, beta = np.asarray(states, np.int32), np.asarray(beta, np.float32)
    return _plan(world, states, beta, seed, numbers, kind, num_simulations, intrinsic_crosses_end)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _plan(world, states, beta, seed, numbers, kind, num_simulations, intrinsic_crosses_end):
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
        max_num_considered_actions=16,
        **numbers,
    )


def path(tree: mctx.Tree, row: int, node: int) -> list[int]:
    """Actions from the root to a node, walked by parents."""
    actions: list[int] = []
    while node != 0:
        actions.append(int(tree.action_from_parent[row, node]))
        node = int(tree.parents[row, node])
    return actions[::-1]


def expanded(tree: mctx.Tree, row: int) -> list[int]:
    """Nodes of a row's tree that a simulation reached, the root not among them."""
    return [node for node in range(1, tree.node_visits.shape[1]) if tree.node_visits[row, node] > 0]
