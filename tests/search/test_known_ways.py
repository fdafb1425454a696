"""A search at a negative beta goes along what the model is sure of (S4-11), at a positive one away from it."""

import numpy as np

from tests.search import tables

STATES, ACTIONS, LENGTH = 64, 8, 6


def test_s4_11_a_negative_beta_takes_paths_that_the_model_predicts_right() -> None:
    """The intrinsic reward is the model's uncertainty; where it is u, one prediction in 1 / u comes out wrong."""
    rng = np.random.default_rng(0)
    following = rng.integers(0, STATES, (STATES, ACTIONS))
    uncertainty = rng.random((STATES, ACTIONS))
    world = tables.tables(following, reward=np.stack([np.zeros_like(uncertainty), uncertainty], axis=-1))

    def walk(beta: float | None) -> tuple[float, float]:
        """Mean uncertainty of the steps taken from every state, and the share of them that came as predicted."""
        state, met = np.arange(STATES), []
        for step in range(LENGTH):
            if beta is None:
                action = rng.integers(0, ACTIONS, STATES)
            else:
                action = tables.plan(world, state, np.full(STATES, beta), num_simulations=16, seed=step)[0].action
            met.append(uncertainty[state, action])
            state = following[state, action]
        came = rng.random((LENGTH, STATES)) > np.stack(met)
        return float(np.mean(met)), float(came.mean())

    known, random, new = walk(-1.0), walk(None), walk(1.0)
    assert known[0] < 0.3 < 0.4 < random[0] < 0.6 < 0.7 < new[0]
    assert known[1] > random[1] + 0.2 > new[1] + 0.3
