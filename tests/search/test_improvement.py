"""What a policy gains by search, exactly: completed Q-values beside visit counts, at few simulations (S2-3).

Random tables with known values of the prior policy. `-s` prints the table.
"""

import numpy as np
import pytest

from tests.search import tables

STATES, ACTIONS, GAMMA, WORLDS = 64, 8, 0.9, 4
BUDGETS = (1, 2, 4, 8, 16)


def world(seed: int) -> tuple[tables.Tables, np.ndarray, np.ndarray, np.ndarray]:
    """A random table whose leaves hold the prior's true values: (tables, its V, Q and Q*)."""
    rng = np.random.default_rng(seed)
    following = rng.integers(0, STATES, (STATES, ACTIONS))
    reward = rng.normal(size=(STATES, ACTIONS)) * (rng.random((STATES, ACTIONS)) < 0.3)
    logits = rng.normal(size=(STATES, ACTIONS))
    prior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    moves = np.einsum("sa,san->sn", prior, np.eye(STATES)[following])
    value = np.linalg.solve(np.eye(STATES) - GAMMA * moves, (prior * reward).sum(axis=1))
    best = np.zeros(STATES)
    for _ in range(400):
        best = (reward + GAMMA * best[following]).max(axis=1)
    made = tables.tables(
        following,
        reward=np.stack([reward, np.zeros_like(reward)], axis=-1),
        value=np.stack([value, np.zeros_like(value)], axis=-1),
        policy_logits=logits,
    )
    return made, value, reward + GAMMA * value[following], reward + GAMMA * best[following]


def gains(kind: str, num_simulations: int) -> tuple[float, float]:
    """Mean over states of E[Q of the prior] - V under the searched policy; share of actions that are best by Q*."""
    gained, right = [], []
    for seed in range(WORLDS):
        made, value, q, best = world(seed)
        output, _ = tables.plan(
            made,
            np.arange(STATES),
            np.zeros(STATES),
            kind=kind,
            num_simulations=num_simulations,
            discounts=(GAMMA, GAMMA),
        )
        gained.append((np.asarray(output.search_policy) * q).sum(axis=1) - value)
        right.append(np.asarray(output.search_policy).argmax(axis=1) == best.argmax(axis=1))
    return float(np.mean(gained)), float(np.mean(right))


@pytest.mark.slow
def test_s2_03_completed_q_improves_the_policy_at_every_budget() -> None:
    print("\n| simulations | completed Q: gain | best action | visit counts: gain | best action |")
    last = 0.0
    for budget in BUDGETS:
        completed, completed_right = gains("gumbel", budget)
        counts, counts_right = gains("muzero", budget)
        print(f"| {budget} | {completed:.3f} | {completed_right:.2f} | {counts:.3f} | {counts_right:.2f} |")
        assert completed > 0 and completed > last - 0.02, budget
        if budget <= 8:
            assert completed > counts, budget
        last = completed
