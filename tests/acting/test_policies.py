"""Policies without a model: what they draw, and when."""

import numpy as np
import pytest

from learnmax_jax.acting import policies

NUM_ENVS, NUM_ACTIONS = 200, 6


def play(policy: policies.Policy, steps: int, first: np.ndarray | None = None) -> np.ndarray:
    opens = np.zeros((steps, NUM_ENVS), bool) if first is None else first
    opens[0] = True
    return np.stack([policy(row) for row in opens])


def make(kind: str, **changes: object) -> policies.Policy:
    settings = {"num_envs": NUM_ENVS, "num_actions": NUM_ACTIONS, "generator": np.random.default_rng(0)}
    return policies.make(kind, **(settings | changes))


def test_random_is_uniform_and_of_the_right_type() -> None:
    actions = play(make("random"), 300)
    assert actions.dtype == np.int32
    counts = np.bincount(actions.ravel(), minlength=NUM_ACTIONS)
    # 60,000 draws of 1/6: standard deviation 91.
    assert len(counts) == NUM_ACTIONS and abs(counts - 10_000).max() < 500


def test_jumpy_holds_an_action_for_1_to_16_steps() -> None:
    actions = play(make("jumpy", num_actions=100_000), 400)
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(column, prepend=-1))) for column in actions.T])
    assert lengths.min() == 1 and lengths.max() == policies.LONGEST_HOLD
    assert abs(lengths.mean() - 8.5) < 0.3


def test_jumpy_begins_anew_with_an_episode() -> None:
    first = np.zeros((50, NUM_ENVS), bool)
    first[3:] = True
    actions = play(make("jumpy", num_actions=100_000), 50, first)
    assert (actions[4:] != actions[3:-1]).all()


def test_route_is_followed_up_to_a_step_of_its_own_and_again_in_the_next_episode() -> None:
    route = np.arange(1000, 1020)
    first = np.zeros((60, NUM_ENVS), bool)
    first[30] = True
    actions = play(make("route", route=route), 60, first)
    for begin in (0, 30):
        steps = (actions[begin : begin + 20] == route[:, None]).cumprod(axis=0).sum(axis=0)
        follows = actions[begin : begin + 20] >= 1000
        np.testing.assert_array_equal(follows.sum(axis=0), steps)
        assert steps.min() == 0 and steps.max() == 20 and len(set(steps)) > 15
        assert (actions[begin + 20 : begin + 30] < NUM_ACTIONS).all()


@pytest.mark.parametrize(("kind", "route"), [("route", ()), ("jumpy", (1,)), ("wild", ())])
def test_what_does_not_fit_is_refused(kind: str, route: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"policy={kind}"):
        make(kind, route=route)
