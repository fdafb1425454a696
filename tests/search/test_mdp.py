"""The MDP that planners are tried on, against backward induction and by hand."""

import numpy as np

from tests.search import mdp


def test_value_iteration_matches_a_long_horizon() -> None:
    values, q_values = mdp.value_iteration()

    def best_return(state: int, steps: int) -> float:
        if steps == 0:
            return 0.0
        return max(
            mdp.REWARD[state, a] + (mdp.DISCOUNT[state, a] and 0.8 * best_return(mdp.NEXT_STATE[state, a], steps - 1))
            for a in range(mdp.NUM_ACTIONS)
        )

    # What lies 8 steps ahead is worth at most 0.8^8 of the greatest value.
    for state in range(mdp.NUM_STATES):
        assert values[state] >= best_return(state, 8) - 1e-6 >= values[state] - 0.8**8 * values.max() - 1e-5
    np.testing.assert_allclose(q_values.max(axis=1), values, atol=1e-9)
    # By hand: 0 and 5 go round for 1.75, 0.75, 0.75, ...: V(5) = 0.75 / (1 - 0.8) and V(0) = 1.75 + 0.8 * 3.75.
    np.testing.assert_allclose(values[[5, 0]], [3.75, 4.75], atol=1e-6)


def test_the_mdp_discriminates() -> None:
    _, q_values = mdp.value_iteration()
    best = q_values.argmax(axis=1)
    assert best.tolist() == [1, 2, 0, 2, 1, 0]
    second, first = np.sort(q_values, axis=1)[:, -2:].T
    assert (first - second).min() > 0.79
    # Neither the next reward nor a value that looks past terminations tells the best action everywhere.
    assert (mdp.REWARD.argmax(axis=1) == best).sum() == 3
    assert (mdp.DISCOUNT == 0).sum() == 8
