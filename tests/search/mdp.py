"""A 6-state, 3-action MDP whose best actions value iteration knows, to try planners on.

It tells good planners from bad ones. Actions right out of 6 (mctx 0.0.71, uniform priors, 32 simulations):

    gumbel, leaf V*: 6 (from 8 simulations on)   gumbel, leaf 0: 6 (from 24 on; 5 at 16)
    muzero, leaf V*: 6 (from 8 simulations on)   muzero, leaf 0: 3 (3 at 256, 4 at 1024)
    gumbel, leaf V*, blind to terminations: 3    one step ahead only: 3

The best action of a state leads the next by 0.8 at least, so rounding decides nothing, and
no single action is best in more than two states. Root Q values are means over visits and off
by more than 1 even where every action is right: assert actions.
"""

import numpy as np

NUM_STATES, NUM_ACTIONS, GAMMA = 6, 3, 0.8

# `[state, action]`.
NEXT_STATE = np.asarray([[2, 5, 5], [4, 0, 4], [4, 4, 1], [2, 5, 0], [3, 0, 5], [5, 1, 5]], np.int32)
REWARD = np.asarray(
    [[0, 1.75, -0.75], [0, 1, 1.75], [0, 0, -0.25], [0, 0, 0], [0, 0, 0], [0.75, -0.75, 2]],
    np.float32,
)
DISCOUNT = GAMMA * np.asarray(
    [[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 0]],
    np.float32,
)


def value_iteration() -> tuple[np.ndarray, np.ndarray]:
    """The optimal values `[6]` and action values `[6, 3]`, float64, to 1e-12."""
    values = np.zeros(NUM_STATES)
    while True:
        q_values = REWARD + DISCOUNT.astype(np.float64) * values[NEXT_STATE]
        if np.abs(q_values.max(axis=1) - values).max() < 1e-12:
            return values, q_values
        values = q_values.max(axis=1)
