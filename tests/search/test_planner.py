"""The planner against value iteration, enumeration and recomputation (N05, N11), and its floors and borders."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.support import Support
from tests.models import recompute, tiny
from tests.search import mdp, tables

# All table worlds have as many states and actions, so that one compiled search serves them.
NUM_STATES, NUM_ACTIONS, MAX_DEPTH = 10, 3, 3


def _plan_all(world: dict[str, np.ndarray], beta: float = 1.0, **tuning):
    """Searches from every state."""
    return tables.plan(tables.tables(**world), np.arange(NUM_STATES), np.full(NUM_STATES, beta), **tuning)


def _plan_mdp(*, leaf: bool, **tuning):
    """From the states of the 6-state MDP; GAMMA is the planner's discount, zeros of its own are terminations."""
    values, q_values = mdp.value_iteration()

    def fill(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, NUM_STATES - mdp.NUM_STATES)] + [(0, 0)] * (x.ndim - 1))

    def extrinsic(x: np.ndarray) -> np.ndarray:
        return np.stack([fill(x), np.zeros_like(fill(x))], axis=-1)

    world = {
        "next_state": fill(mdp.NEXT_STATE),
        "reward": extrinsic(mdp.REWARD),
        "lives": fill(mdp.DISCOUNT) / mdp.GAMMA,
        "value": extrinsic(values) * leaf,
        "q": extrinsic(q_values),
    }
    output, _ = _plan_all(world, 0.0, **({"max_depth": 32, "discounts": (mdp.GAMMA, 0.0)} | tuning))
    return jax.tree.map(lambda x: np.asarray(x)[: mdp.NUM_STATES], output)


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf V*", "leaf 0"])
def test_n11_gumbel_agrees_with_value_iteration(leaf: bool) -> None:
    output = _plan_mdp(leaf=leaf)
    np.testing.assert_array_equal(output.action, mdp.value_iteration()[1].argmax(axis=1))
    np.testing.assert_array_equal(output.search_policy.argmax(axis=1), output.action)
    np.testing.assert_allclose(output.search_policy.sum(axis=1), 1, rtol=1e-5)


def test_n11_muzero_agrees_with_true_leaves_only() -> None:
    """With leaves of 0, PUCT's visit means cling to the near reward; the design chose gumbel for that."""
    best = mdp.value_iteration()[1].argmax(axis=1)
    with_values, without = (_plan_mdp(leaf=leaf, kind="muzero") for leaf in (True, False))
    np.testing.assert_array_equal(with_values.action, best)
    assert (without.action == best).sum() < 6
    # Visit counts: the simulations' 32 first edges.
    np.testing.assert_allclose(with_values.search_policy * 32, np.round(with_values.search_policy * 32), atol=1e-5)


def test_no_search_takes_the_best_q() -> None:
    values, q_values = mdp.value_iteration()
    output = _plan_mdp(leaf=False, kind="none")
    np.testing.assert_array_equal(output.action, q_values.argmax(axis=1))
    np.testing.assert_allclose(output.search_value[:, 0], values, atol=1e-4)
    np.testing.assert_array_equal(output.depth_max, 0)
    # softmax(Q / value_floor): at a floor of 1 the odds of two actions are exp of their difference.
    soft = _plan_mdp(leaf=False, kind="none", value_floor=1.0).search_policy
    np.testing.assert_allclose(np.log(soft[:, 0] / soft[:, 1]), q_values[:, 0] - q_values[:, 1], atol=1e-3)


def test_no_search_weighs_the_two_qs_by_beta() -> None:
    world = tables.tables(np.zeros((1, 2), np.int32), q=np.asarray([[[1.0, 0.0], [0.0, 2.0]]]))
    output, tree = tables.plan(world, np.zeros(3), np.asarray([0.0, 0.4, 0.6]), kind="none")
    assert tree is None
    assert output.action.tolist() == [0, 0, 1]
    np.testing.assert_allclose(output.search_value, [[1, 0], [1, 0], [0, 2]], atol=1e-4)


# Two horizons: everything is random, and every depth-limited return can be enumerated.
DISCOUNTS = (0.9, 0.6)
CASES = [(0.0, DISCOUNTS), (0.8, DISCOUNTS), (0.8, DISCOUNTS[::-1])]


def _two_horizons() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    pairs = (NUM_STATES, NUM_ACTIONS)
    return {
        "next_state": rng.integers(NUM_STATES, size=pairs).astype(np.int32),
        "reward": rng.normal(size=(*pairs, 2)),
        "lives": np.where(rng.random(pairs) < 0.3, rng.random(pairs), 1.0),
        "value": 0.3 * rng.normal(size=(NUM_STATES, 2)),
        "policy_logits": rng.normal(size=pairs),
    }


def _walk(world: dict, state: int, actions: tuple, discounts: tuple, crosses: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rewards collected on the way and what the last state is worth, each `[2]` in root units, one edge at a time."""
    collected, weight = np.zeros(2), np.ones(2)
    for action in actions:
        collected += weight * world["reward"][state, action]
        lives = world["lives"][state, action]
        weight = weight * discounts * np.asarray([lives, 1.0 if crosses else lives])
        state = world["next_state"][state, action]
    return collected, weight * world["value"][state]


def _best(world: dict, beta: float, discounts: tuple) -> np.ndarray:
    """The first action of the best of all depth-limited plans, from each state."""
    action = []
    for state in range(NUM_STATES):
        plans = list(itertools.product(range(NUM_ACTIONS), repeat=MAX_DEPTH))
        returns = [sum(_walk(world, state, plan, discounts, False)) @ [1, beta] for plan in plans]
        action.append(plans[int(np.argmax(returns))][0])
    return np.asarray(action)


@pytest.mark.parametrize(("beta", "discounts"), CASES)
def test_two_horizons_agree_with_enumeration(beta: float, discounts: tuple) -> None:
    """In this world, that is: elsewhere visit means under a strong prior may hide a lead of less than 1."""
    world = _two_horizons()
    best = _best(world, beta, discounts)
    output, _ = _plan_all(
        world | {"policy_logits": np.zeros(best.shape + (NUM_ACTIONS,))}, beta, discounts=discounts, num_simulations=200
    )
    np.testing.assert_array_equal(output.action, best)
    # A wrong weight or swapped discounts would show.
    others = [other for other in CASES if other != (beta, discounts)]
    assert all((_best(world, *other) != best).any() for other in others)


@pytest.mark.parametrize("crosses", [False, True])
def test_every_node_holds_its_two_returns_in_root_units(crosses: bool) -> None:
    world = _two_horizons()
    _, tree = jax.device_get(_plan_all(world, 0.8, discounts=DISCOUNTS, intrinsic_crosses_end=crosses))
    for row in range(NUM_STATES):
        for node in tables.expanded(tree, row):
            actions = tables.path(tree, row, node)
            collected, value = _walk(world, row, tuple(actions), DISCOUNTS, crosses)
            np.testing.assert_allclose(tree.path_return[row, node], collected, atol=2e-4)
            # What the choices read of the node and of the edge to it: the weighted sum.
            before, _ = _walk(world, row, tuple(actions[:-1]), DISCOUNTS, crosses)
            np.testing.assert_allclose(tree.reward[row, node], (collected - before) @ [1, 0.8], atol=2e-4)
            np.testing.assert_allclose(tree.raw_value[row, node], value @ [1, 0.8], atol=2e-4)


def test_search_value_is_the_roots_value_by_parts() -> None:
    """Weighted it is the tree's own root value at any beta; at beta 0 that pins the extrinsic part alone."""
    world = tables.tables(**_two_horizons())
    beta = np.asarray([0, 0, 0.5, 0.5, 1, 1, 5, 5, 20, 20])
    for kind in ("gumbel", "muzero"):
        output, tree = jax.device_get(tables.plan(world, np.arange(10), beta, discounts=DISCOUNTS, kind=kind))
        weighed = output.search_value[:, 0] + beta * output.search_value[:, 1]
        np.testing.assert_allclose(weighed, tree.value[:, 0], rtol=1e-5, atol=1e-5)
        # Some simulations ended a second time at a node of the greatest depth: every one of them counts.
        leaves = [(row, node) for row in range(10) for node in tables.expanded(tree, row)]
        assert any(tree.visits[at] > 1 for at in leaves if len(tables.path(tree, *at)) == MAX_DEPTH)


def test_nothing_is_worth_anything_behind_a_termination() -> None:
    """State 0: action 0 leads to riches, the others pay 0.5 and go on. State 1 is the riches."""
    pairs = (NUM_STATES, NUM_ACTIONS)
    next_state = np.ones(pairs, np.int32)
    next_state[0, 1:] = 0
    reward, value, lives = np.zeros((*pairs, 2)), np.zeros((NUM_STATES, 2)), np.ones(pairs)
    reward[0, 1:, 0], reward[1, :, 0], value[1, 0] = 0.5, 5.0, 9.0
    lives[0, 0] = 0.0
    rich = {"next_state": next_state, "reward": reward, "value": value}
    intrinsic = rich | {"reward": reward[..., ::-1], "value": value[..., ::-1]}
    dead = {"lives": lives}

    def search(world: dict, crosses: bool = False) -> tuple[int, np.ndarray]:
        output, _ = _plan_all(world, discounts=(0.9, 0.9), intrinsic_crosses_end=crosses)
        return int(output.action[0]), output.search_value[0]

    assert search(rich)[0] == 0
    action, value = search(rich | dead)
    assert action > 0 and 0.4 < value[0] < 2
    assert search(rich | dead, crosses=True)[0] > 0, "the extrinsic return never crosses"
    assert search(intrinsic | dead)[0] > 0
    action, value = search(intrinsic | dead, crosses=True)
    assert action == 0 and value[1] > 5 and abs(value[0]) < 1e-4


def test_the_value_floor_keeps_noise_out_of_the_policy() -> None:
    """Discount 1 and values of 0 with 1e-5 noise: before the first key, Montezuma looks like this."""
    world = _two_horizons()
    prior = jax.nn.softmax(jnp.asarray(world["policy_logits"], jnp.float32))
    calm = world | {"reward": np.zeros_like(world["reward"]), "value": 1e-5 * world["value"]}
    floored, bare = (_plan_all(calm, value_floor=floor)[0].search_policy for floor in (0.01, 1e-8))
    np.testing.assert_allclose(floored, prior, atol=0.01)
    assert np.abs(bare - prior).max(axis=1).min() > 0.05 and np.abs(bare - prior).max() > 0.3
    # PUCT counts visits: within one simulation of sixteen, those of no values at all.
    flat = _plan_all(calm | {"value": 0 * world["value"]}, kind="muzero")[0].search_policy
    floored, bare = (_plan_all(calm, kind="muzero", value_floor=floor)[0].search_policy for floor in (0.01, 1e-8))
    np.testing.assert_allclose(floored, flat, atol=1.01 / 16)
    assert np.abs(bare - flat).max() > 3 / 16


@pytest.mark.parametrize("kind", ["gumbel", "muzero", "none"])
def test_f40_a_nan_row_is_told_and_leaves_the_others_alone(kind: str) -> None:
    world = tables.tables(**_two_horizons())
    sick = world.replace(
        policy_logits=world.policy_logits.at[2].set(jnp.nan),
        value=world.value.at[2].set(jnp.nan),
        q=world.q.at[4].set(jnp.nan),
        # No other state leads to 2, so that only its own row can meet it.
        next_state=jnp.where(world.next_state == 2, 3, world.next_state),
    )
    calm = sick.replace(policy_logits=world.policy_logits, value=world.value, q=world.q)
    run = partial(tables.plan, kind=kind, gumbel_scale=1.0)
    states, beta = np.arange(NUM_STATES), np.ones(NUM_STATES)
    expected, output = run(calm, states, beta)[0], run(sick, states, beta)[0]
    assert expected.finite.all()
    told = {2} if kind != "none" else {2, 4}
    assert set(np.flatnonzero(~np.asarray(output.finite)).tolist()) == told
    others = [state for state in range(NUM_STATES) if state not in told]
    for ours, theirs in zip(jax.tree.leaves(output), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours[jnp.asarray(others)], theirs[jnp.asarray(others)])


@pytest.mark.parametrize("name", ["reward", "policy_logits"])
def test_f40_a_nan_inside_the_tree_is_told(name: str) -> None:
    """NaN where state 4 is left by an edge, or in what its node says."""
    world = _two_horizons()
    sick = world | {
        name: np.where((np.arange(NUM_STATES) == 4).reshape(-1, *[1] * (world[name].ndim - 1)), np.nan, world[name])
    }
    output, tree = jax.device_get(_plan_all(sick, gumbel_scale=1.0))
    told = []
    for row in range(NUM_STATES):
        nodes = {0, *tables.expanded(tree, row)}
        if name == "reward":
            nodes = {0, *(int(tree.parent[row, node]) for node in nodes - {0})}
        told.append(any(int(tree.latent[row, node, 0, 0]) == 4 for node in nodes))
    np.testing.assert_array_equal(~output.finite, told)
    assert 1 < sum(told) < NUM_STATES


@pytest.mark.parametrize("kind", ["gumbel", "muzero", "none"])
def test_gumbel_scale_draws_or_does_not(kind: str) -> None:
    world = _two_horizons() | {"q": 0.02 * np.random.default_rng(0).normal(size=(NUM_STATES, NUM_ACTIONS, 2))}
    run = partial(_plan_all, world, kind=kind)
    still = [run(seed=seed)[0].action.tolist() for seed in range(4)]
    drawn = [run(seed=seed, gumbel_scale=1.0)[0].action.tolist() for seed in range(4)]
    assert still == still[:1] * 4
    assert len({tuple(actions) for actions in drawn}) > 1


def test_no_search_samples_its_policy() -> None:
    num, q = 4000, np.asarray([[[0.0, 0], [0.01, 0], [-0.01, 0], [0.005, 0]]])
    world = tables.tables(np.zeros((1, 4), np.int32), q=q)
    output, _ = tables.plan(world, np.zeros(num), np.zeros(num), kind="none", gumbel_scale=1.0)
    np.testing.assert_allclose(
        np.bincount(output.action, minlength=4) / num, output.search_policy[0], atol=5 * np.sqrt(0.25 / num)
    )


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"search.kind=best.*gumbel, muzero, none"):
        _plan_mdp(leaf=True, kind="best")


class Forest:
    """Trees that a search grew over the tiny transformer, with the real frames before their roots."""

    BATCH, TIME, CODES, SIMULATIONS = 3, 4, 5, 16

    def __init__(self, num_tokens: int, *, num_actions: int, considered: int) -> None:
        self.bundle, self.params = tiny.make(num_tokens=num_tokens, num_codes=self.CODES, num_actions=num_actions)
        rng = np.random.default_rng(0)
        self.codes = jnp.asarray(rng.integers(self.CODES, size=(self.BATCH, self.TIME, num_tokens, 2)))
        self.action = jnp.asarray(rng.integers(num_actions, size=(self.BATCH, self.TIME)))
        self.first = jnp.arange(self.TIME)[None] == jnp.asarray([0, 2, 9])[:, None]
        self.beta = jnp.asarray([0.0, 0.3, 1.0])

        @jax.jit
        def search():
            context, latents = self.bundle.context(self.params, self.codes, self.action, self.first, capacity=6)
            return tables.plan_with_tree(
                self.params,
                jax.random.key(0),
                context,
                latents[:, -1],
                self.codes[:, -1],
                self.beta,
                world_model=self.bundle,
                support=Support(-5.0, 5.0, 11),
                discounts=(0.99, 0.9),
                intrinsic_crosses_end=False,
                kind="gumbel",
                num_simulations=self.SIMULATIONS,
                max_depth=MAX_DEPTH,
                max_num_considered_actions=considered,
                value_floor=0.01,
                gumbel_scale=1.0,
            )

        self.output, self.tree = jax.device_get(search())


@pytest.fixture(scope="module")
def wide_forest() -> Forest:
    """All of ALE's 18 actions, as many of them considered as in the base config."""
    return Forest(1, num_actions=18, considered=4)


@pytest.fixture(scope="module", params=[1, 4], ids=["N1", "N4"])
def forest(request: pytest.FixtureRequest, wide_forest: Forest) -> Forest:
    """With three actions, many simulations end at the greatest depth again and again."""
    return wide_forest if request.param == 1 else Forest(4, num_actions=3, considered=2)


def test_n05_every_node_of_a_tree_equals_recompute(forest: Forest) -> None:
    """Walked from the root by parents and actions, all frames run anew: also nodes expanded again at max_depth."""
    tree = forest.tree
    where = [(row, node) for row in range(forest.BATCH) for node in tables.expanded(tree, row)]
    paths = [tables.path(tree, row, node) for row, node in where]
    again = [tree.visits[at] > 1 for at, path in zip(where, paths) if len(path) == MAX_DEPTH]
    assert any(again) and {len(path) for path in paths} == {1, 2, 3}
    # The oracle runs all max_depth steps; a shallower node is read on the way, so what follows it is of no matter.
    actions = jnp.asarray([path + [0] * (MAX_DEPTH - len(path)) for path in paths])
    rows = jnp.asarray([row for row, _ in where])
    latents, codes = jax.jit(partial(recompute.imagine, forest.bundle, num_codes=forest.CODES, num_heads=2))(
        forest.params, forest.codes[rows], forest.action[rows], forest.first[rows], actions
    )
    for index, (at, path) in enumerate(zip(where, paths)):
        np.testing.assert_allclose(tree.latent[at], latents[index, len(path) - 1], atol=1e-5)
        np.testing.assert_allclose(tree.codes[at], codes[index, len(path) - 1], atol=1e-5)


def test_search_value_over_a_network_is_the_roots(forest: Forest) -> None:
    value = forest.output.search_value
    np.testing.assert_allclose(value[:, 0] + forest.beta * value[:, 1], forest.tree.value[:, 0], atol=1e-5)


def test_depths_are_those_of_the_simulations(forest: Forest) -> None:
    """A simulation that ends at depth d passed d edges, so the mean depth is all edges' visits over simulations."""
    edges = forest.tree.visits[:, 1:].sum(axis=1)
    np.testing.assert_allclose(forest.output.depth_mean, edges / forest.SIMULATIONS, rtol=1e-6)
    for row in range(forest.BATCH):
        depths = [len(tables.path(forest.tree, row, node)) for node in tables.expanded(forest.tree, row)]
        assert forest.output.depth_max[row] == max(depths) <= MAX_DEPTH


def test_few_considered_actions_make_deep_trees(wide_forest: Forest) -> None:
    assert (wide_forest.output.depth_mean > 1.5).all()
    tree = wide_forest.tree
    assert ((tree.parent == 0) & (tree.visits > 0)).sum(axis=-1).tolist() == [4, 4, 4]


def test_outputs_have_the_records_shapes_and_types(wide_forest: Forest) -> None:
    output = wide_forest.output
    assert output.action.shape == (3,) and output.action.dtype == np.int32
    assert output.search_policy.shape == (3, 18) and output.search_policy.dtype == np.float32
    assert output.search_value.shape == (3, 2) and output.search_value.dtype == np.float32
    assert output.depth_mean.dtype == np.float32 and output.depth_max.dtype == np.int32
    assert output.finite.dtype == bool and output.finite.all()
    np.testing.assert_allclose(output.search_policy.sum(axis=1), 1, rtol=1e-5)
