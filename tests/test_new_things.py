"""What is a test of the taken key: which frames are before and after it, and which training has never seen."""

import types

import jax.numpy as jnp
import numpy as np

from learnmax_jax import new_things

# Two episodes, rows 0-3 and 4-7; the first pays for the key with its second step.
BEGIN = np.array([[0, 0, 0, 0, 4, 4, 4, 4]])
REWARD = np.array([[0.0, 100.0, 0.0, 0.0, 0.0, 0.0, 300.0, 0.0]], np.float32)


def recorded(is_test: np.ndarray, pixels: np.ndarray) -> types.SimpleNamespace:
    observation = np.broadcast_to(pixels[..., None, None, None], (1, 8, 2, 2, 1)).astype(np.uint8).copy()
    rows = types.SimpleNamespace(reward=jnp.asarray(REWARD), observation=observation)
    return types.SimpleNamespace(rows=rows, begin=BEGIN, is_test=is_test)


def test_the_key_is_taken_from_the_frame_after_the_step_that_pays() -> None:
    given = recorded(np.zeros((1, 8), bool), np.zeros((1, 8)))
    assert new_things.key_taken(given).tolist() == [[False, False, True, True, False, False, False, False]]


def test_frames_that_training_has_too_are_no_test() -> None:
    is_test = BEGIN == 4
    given = recorded(is_test, np.array([[1, 2, 3, 4, 1, 7, 3, 8]]))
    assert new_things.never_trained_on(given).tolist() == [[False] * 4 + [False, True, False, True]]


def test_stretches_are_unbroken_runs_of_one_episode() -> None:
    given = recorded(np.zeros((1, 8), bool), np.zeros((1, 8)))
    mask = np.array([[True, False, True, True, True, True, False, True]])
    assert [x.tolist() for x in new_things._stretches(mask, given, 2)] == [[2, 3], [4, 5]]
