"""Codes in use, counted by the codebook that they are of."""

import numpy as np
import pytest

from learnmax_jax.measures.code_use import by_codebook, code_use, rooms_apart


def test_patches_of_a_grid_share_their_codebooks_and_the_room_is_left_out() -> None:
    # Two frames of 2x1 patches, two groups a patch, the room's behind: patch 0's (1, 2), patch 1's (3, 2), room 9.
    codes = np.array([[[1, 2, 3, 2, 9]], [[1, 2, 1, 4, 8]]])
    pooled = by_codebook(codes, patches=(2, 1), names_room=True)
    assert pooled.tolist() == [[[[1, 2], [3, 2]]], [[[1, 2], [1, 4]]]]
    apart = by_codebook(codes, patches=(0, 0), names_room=False)
    assert apart.shape == (2, 1, 5)


def test_code_use_by_hand() -> None:
    codes = np.array([[1, 2], [3, 2], [1, 2], [1, 2]])
    used, perplexity = code_use(codes, 10)
    assert used == 1.5  # codes 1 and 3, code 2
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert perplexity == pytest.approx((np.exp(entropy) + 1.0) / 2, rel=1e-5)


def test_rooms_that_share_a_background_are_not_apart() -> None:
    room = np.array([0, 0, 0, 1, 1, 2, 2])
    assert rooms_apart(np.array([4, 4, 5, 3, 3, 6, 6]), room) == 1.0
    assert rooms_apart(np.array([4, 4, 5, 4, 4, 6, 6]), room) == pytest.approx(1 / 3)
