"""What the host counts between two reports, from act phases written by hand."""

import types
from typing import Any

import numpy as np

from learnmax_jax import tally


def _act(scores: list[float], betas: list[float], *, valid: bool = True) -> Any:
    """One act phase of one step in which every environment's episode ends with that score."""
    shape = (len(scores), 1)

    def column(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values), (len(scores),))[:, None]

    rows = types.SimpleNamespace(
        last=np.ones(shape, bool),
        valid=column(valid),
        beta=column(betas),
        reward=column(np.float32(0.0)),
        episode_step=column(np.int32(9)),
    )
    probe = types.SimpleNamespace(room=np.full(shape, 1))
    depths = {"depth_mean": np.ones(shape), "depth_max": np.ones(shape)}
    return types.SimpleNamespace(transitions=rows, episode_score=column(np.float32(scores)), probe=probe, **depths)


def test_the_last_hundred_are_averaged_at_beta_0_and_over_all_environments() -> None:
    """Fifty act phases: an explorer that scores 400 each time, and one at beta 0 that scores 100."""
    counted = tally.Tally()
    for _ in range(50):
        counted.add(_act([400.0, 100.0], [0.5, 0.0]), 0, first_env_step=0)
    row = counted.report()
    assert row["training_score_of_last_100"] == 250.0
    assert row["score_of_last_100"] is None, "only fifty ended at beta 0"
    assert (row["explorer_score"], row["episode_score"], row["num_episodes"]) == (400.0, 100.0, 100)
    for _ in range(100):
        counted.add(_act([0.0, 100.0], [0.5, 0.0]), 0, first_env_step=0)
    row = counted.report()
    assert (row["training_score_of_last_100"], row["score_of_last_100"]) == (50.0, 100.0)


def test_ends_that_do_not_count_are_left_out_and_a_checkpoint_keeps_the_rest() -> None:
    counted = tally.Tally()
    counted.add(_act([400.0], [0.5], valid=False), 0, first_env_step=0)
    assert counted.num_episodes == 0 and counted.last_training_scores == []
    counted.add(_act([400.0, 100.0], [0.5, 0.0]), 3, first_env_step=0)
    counted.wrong_action_ratio = 1.25
    assert tally.Tally.from_meta(counted.to_meta()) == counted
    assert [counted.report()["wrong_action_ratio"] for _ in range(2)] == [1.25, None]
    assert counted.last_training_scores == [400.0, 100.0] and counted.last_scores == [100.0]
