"""Gumbel MuZero in trees of our own against mctx's: the same actions, policies, values and depths."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mctx._src import seq_halving

from learnmax_jax.search import gumbel, planner
from tests.search import oracle, tables

NUM_STATES = 12


@pytest.mark.parametrize("num_actions", range(1, 19))
def test_the_schedule_is_mctxs_sequence_of_visits(num_actions: int) -> None:
    for num_simulations in range(1, 65):
        runs = gumbel.schedule(num_actions, num_simulations)
        expected = seq_halving.get_sequence_of_considered_visits(num_actions, num_simulations)
        assert sum(((visits,) * run.width for run in runs for visits in run.visits), ()) == expected
        # Simulations run at once only where their actions are known: none was tried yet, or all that are left are due.
        count = [num_actions] + [0] * num_simulations
        for run in runs:
            for visits in run.visits:
                assert run.width == 1 or visits == 0 or run.width == count[visits]
                count[visits] -= run.width
                count[visits + 1] += run.width


def test_sixteen_simulations_of_four_actions_are_seven_passes() -> None:
    assert gumbel.schedule(4, 16) == (gumbel.Run(4, (0, 1)), gumbel.Run(1, (2, 2)), gumbel.Run(2, (3, 4, 5)))


def _world(num_actions: int, *, ties: bool) -> tables.Tables:
    """Random, or with integer values, equal priors and whole copies of actions, so that much is a tie."""
    rng = np.random.default_rng(num_actions)
    pairs = (NUM_STATES, num_actions)
    reward, value = rng.normal(size=(*pairs, 2)), rng.normal(size=(NUM_STATES, 2))
    next_state = rng.integers(NUM_STATES, size=pairs).astype(np.int32)
    if ties:
        reward, value = np.round(reward), np.round(value)
        reward[:, 1], next_state[:, 1] = reward[:, 0], next_state[:, 0]
    return tables.tables(
        next_state,
        reward=reward,
        value=0.3 * value,
        lives=np.where(rng.random(pairs) < 0.3, rng.random(pairs), 1.0),
        policy_logits=rng.normal(size=pairs) * (not ties),
    )


# Simulations, greatest depth, considered actions, actions. The first three are short to compile.
CASES = [(16, 6, 4, 18), (12, 2, 3, 3), (1, 1, 1, 3)]
SLOW_CASES = [
    (64, 6, 18, 18),
    (50, 3, 16, 18),
    (7, 6, 1, 18),
    (33, 5, 7, 18),
    (64, 4, 2, 3),
    (2, 1, 4, 18),
    (8, 6, 4, 4),
]


@pytest.mark.parametrize("case", CASES + [pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES], ids=str)
def test_agrees_with_mctx(case: tuple[int, int, int, int]) -> None:
    num_simulations, max_depth, considered, num_actions = case

    @partial(jax.jit, static_argnums=0)
    def run(plan, world, gumbel_scale):
        return plan(
            world,
            jax.random.key(3),
            None,
            jnp.arange(NUM_STATES, dtype=jnp.float32)[:, None, None],
            jnp.zeros((NUM_STATES, 1, 1), jnp.int32),
            jnp.linspace(0.0, 1.0, NUM_STATES),
            world_model=tables.world_model(num_actions),
            support=tables.SUPPORT,
            discounts=(0.95, 0.9),
            intrinsic_crosses_end=False,
            kind="gumbel",
            num_simulations=num_simulations,
            max_depth=max_depth,
            max_num_considered_actions=considered,
            value_floor=0.01,
            gumbel_scale=gumbel_scale,
        )

    for ties in (False, True):
        world = _world(num_actions, ties=ties)
        for scale in (0.0, 1.0):
            ours, theirs = jax.device_get([run(plan, world, scale) for plan in (planner.plan, oracle.plan)])
            np.testing.assert_array_equal(ours.action, theirs.action)
            np.testing.assert_allclose(ours.search_policy, theirs.search_policy, atol=1e-5)
            np.testing.assert_allclose(ours.search_value, theirs.search_value, atol=1e-5)
            np.testing.assert_allclose(ours.depth_mean, theirs.depth_mean, rtol=1e-6)
            np.testing.assert_array_equal(ours.depth_max, theirs.depth_max)
            assert ours.finite.all() and theirs.finite.all()
    # What is not a number is told of the same rows, and a root of NaN takes action 0 in both.
    sick = world.replace(value=world.value.at[3].set(jnp.nan), policy_logits=world.policy_logits.at[5, 0].set(jnp.nan))
    ours, theirs = jax.device_get([run(plan, sick, 1.0) for plan in (planner.plan, oracle.plan)])
    np.testing.assert_array_equal(ours.finite, theirs.finite)
    assert not ours.finite[5] and ours.action[5] == theirs.action[5] == 0
    well = ours.finite
    np.testing.assert_array_equal(ours.action[well], theirs.action[well])
