"""Made-up rewards: how many, where, of which actions, and how they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.exploration import optimism
from tests.exploration.batches import batch_of


@pytest.mark.parametrize(("done", "left"), [(0, 0.2), (25, 0.15), (100, 0.0), (1000, 0.0)])
def test_the_share_falls_in_a_straight_line(done: int, left: float) -> None:
    got = optimism.share_left(jnp.asarray(done), share=0.2, anneal_updates=100)
    assert float(got) == pytest.approx(left)


def test_a_share_that_is_not_annealed_stays() -> None:
    assert float(optimism.share_left(jnp.asarray(10**6), share=0.2, anneal_updates=0)) == pytest.approx(0.2)


def test_a_share_of_the_transitions_gets_the_reward_at_any_action() -> None:
    batch = batch_of(np.zeros((200, 51, 1, 1, 2)), np.arange(200))
    batch = batch.replace(
        rows=batch.rows.replace(valid=batch.rows.valid.at[:, 10].set(False)), mask=batch.mask.at[:, 40:].set(False)
    )
    made = optimism.make_up(batch, jax.random.key(0), jnp.asarray(0.3), num_actions=3, reward=0.5)
    assert made.action.shape == made.reward.shape == made.mask.shape == (200, 50)
    assert (made.reward == 0.5).all() and made.q_too
    # 39 rows of each window are transitions: 7,800 draws, whose share has a standard deviation of 0.005.
    assert not made.mask[:, 10].any() and not made.mask[:, 40:].any()
    assert float(made.mask.sum() / (200 * 39)) == pytest.approx(0.3, abs=0.025)
    counts = np.bincount(np.asarray(made.action)[np.asarray(made.mask)], minlength=3)
    assert counts.min() > 0.3 * counts.sum()
