"""Random actions that last, and betas whose sign is turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.acting import betas
from learnmax_jax.acting.dither import dither, nothing_held

ENVS, ACTIONS = 256, 4


def _play(num_steps: int, *, epsilon: float, longest_hold: int, planned: int = 0, episode: int = 0) -> np.ndarray:
    """Actions `[T, B]` where the plan always says the same; an episode of so many steps, or one that never ends."""

    def step(held, t):
        first = jnp.full((ENVS,), (t % episode == 0) if episode else False)
        action = jnp.full((ENVS,), planned, jnp.int32)
        return dither(
            held,
            action,
            first,
            jax.random.key(t),
            epsilon=epsilon,
            longest_hold=longest_hold,
            num_actions=ACTIONS,
        )

    return np.asarray(jax.lax.scan(step, nothing_held(ENVS), jnp.arange(num_steps))[1])


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_epsilon_replaces_that_share_of_actions(epsilon: float) -> None:
    actions = _play(40, epsilon=epsilon, longest_hold=1, planned=2)
    share = np.bincount(actions.ravel(), minlength=ACTIONS) / actions.size
    expected = np.full(ACTIONS, epsilon / ACTIONS) + (1 - epsilon) * np.eye(ACTIONS)[2]
    # Five standard deviations of a share; none where nothing is drawn.
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(expected.max() * (1 - expected.max()) / actions.size))


def test_held_actions_last_n_steps_by_one_over_n_squared() -> None:
    """Every step begins an action where none is held: the times one goes on follow from the lengths drawn."""
    lengths = np.arange(1, 9)
    weights = lengths**-2.0 / np.sum(lengths**-2.0)
    held, drawn = nothing_held(ENVS), []
    for key in range(40):
        after, action = dither(
            held,
            jnp.zeros((ENVS,), jnp.int32),
            jnp.zeros((ENVS,), bool),
            jax.random.key(key),
            epsilon=1.0,
            longest_hold=8,
            num_actions=ACTIONS,
        )
        np.testing.assert_array_equal(after.action, action)
        drawn.append(np.asarray(after.steps_left) + 1)
    share = np.bincount(np.concatenate(drawn), minlength=9)[1:] / (40 * ENVS)
    np.testing.assert_allclose(share, weights, atol=5 * np.sqrt(0.25 / (40 * ENVS)))


def test_what_is_held_is_taken_until_it_is_over_or_the_episode_is() -> None:
    held = nothing_held(3).replace(action=jnp.array([1, 2, 3]), steps_left=jnp.array([2, 1, 5]))
    taken = []
    for step in range(3):
        held, action = dither(
            held,
            jnp.zeros((3,), jnp.int32),
            jnp.array([False, False, step == 1]),
            jax.random.key(0),
            epsilon=0.0,
            longest_hold=8,
            num_actions=ACTIONS,
        )
        taken.append(np.asarray(action))
    np.testing.assert_array_equal(np.stack(taken), [[1, 2, 3], [1, 0, 0], [0, 0, 0]])


def test_a_held_action_goes_on_where_nothing_else_begins() -> None:
    plain = _play(200, epsilon=0.1, longest_hold=1, planned=0)
    lasting = _play(200, epsilon=0.1, longest_hold=16, planned=0)

    def goes_on(actions: np.ndarray) -> float:
        random = actions != 0
        return float((random[:-1] & (actions[1:] == actions[:-1])).sum() / random[:-1].sum())

    assert goes_on(plain) < 0.06 and goes_on(lasting) > 0.4


def test_betas_spread_evenly_above_the_exploiters() -> None:
    np.testing.assert_allclose(betas.spread_betas(6, num_exploit_envs=2, beta_max=0.4), [0, 0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(betas.spread_betas(2, num_exploit_envs=2, beta_max=0.4), [0, 0])
    np.testing.assert_allclose(betas.spread_betas(2, num_exploit_envs=0, beta_max=0.4), [0.2, 0.4])


def test_s4_11_the_sign_is_turned_on_the_way_back_only() -> None:
    beta = jnp.array([0.0, 0.3, 0.3])
    np.testing.assert_allclose(
        betas.betas_now(beta, jnp.array([5, 5, 5]), jnp.array([0, 4, 5])), np.array([0, -0.3, 0.3], np.float32)
    )


def test_ways_back_are_drawn_where_an_episode_begins() -> None:
    first = jnp.arange(ENVS) % 2 == 0
    ways = betas.draw_ways_back(jnp.full((ENVS,), 99), first, jax.random.key(0), longest=3)
    assert set(np.unique(ways[::2])) == {0, 1, 2, 3}
    assert (ways[1::2] == 99).all()
    np.testing.assert_array_equal(betas.draw_ways_back(ways, ~first, jax.random.key(0), longest=0)[1::2], 0)
