"""The gap between copying and reconstructing, by hand."""

import numpy as np
import pytest

from learnmax_jax.measures import prediction


def test_foreground_holds_what_is_off_the_median_now_or_was() -> None:
    medians = np.zeros((1, 2, 3))
    frames, last = medians.copy(), medians.copy()
    frames[0, 0, 0], last[0, 1, 2], frames[0, 1, 1] = 30, 40, 20
    mask = prediction.foreground(frames, last, medians, threshold=20)
    np.testing.assert_array_equal(mask[0], [[True, False, False], [False, False, True]])


def test_foreground_error_by_hand() -> None:
    frames, made = np.array([[[10.0, 0.0, 7.0]]]), np.array([[[7.0, 4.0, 99.0]]])
    # Squares 9 and 16 of the two masked pixels: sqrt(12.5).
    assert prediction.foreground_error(frames, made, np.array([[[True, True, False]]])) == pytest.approx(12.5**0.5)
    assert prediction.foreground_error(frames, made, np.zeros((1, 1, 3), bool)) == 0


@pytest.mark.parametrize(("model", "share"), [(20.0, 0.0), (10.0, 1.0), (14.0, 0.6), (25.0, -0.5)])
def test_gap_closed(model: float, share: float) -> None:
    assert prediction.gap_closed(model, copy=20.0, reconstruction=10.0) == pytest.approx(share)


def test_without_a_gap_there_is_no_share() -> None:
    assert prediction.gap_closed(1.0, copy=2.0, reconstruction=2.0) is None


def test_accuracy_counts_changed_codes_only() -> None:
    last, codes = np.array([[[0, 0, 0, 0]]]), np.array([[[0, 1, 2, 0]]])
    assert prediction.changed_accuracy(codes, np.array([[[9, 1, 9, 9]]]), last) == 0.5
    assert prediction.changed_accuracy(last, codes, last) is None
