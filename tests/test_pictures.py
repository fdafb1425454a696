"""Strips: where frames and captions stand."""

import jax
import numpy as np

from learnmax_jax import pictures


def test_captions_stand_under_the_columns() -> None:
    rows = [jax.numpy.full((2, 10, 12, 1), value) for value in (50.0, 300.0)]
    picture = np.asarray(pictures.draw_strip(rows, ["NOOP", "FIRE"]).convert("L")).astype(int)
    height, width = 10 * pictures.SCALE + pictures.GAP, 12 * pictures.SCALE + pictures.GAP
    assert picture.shape == (2 * height + pictures.CAPTION_HEIGHT, 2 * width)
    # Values beyond 255 are white.
    assert (picture[: 10 * pictures.SCALE, : 12 * pictures.SCALE] == 50).all()
    assert (picture[height : 2 * height] == 255).all()
    for column in range(2):
        assert (picture[2 * height :, column * width : (column + 1) * width] < 100).any(), "no caption"


def test_digits_are_drawn_as_grey_squares_in_reading_order() -> None:
    digits = np.array([0, 10, 5, 2, 7], np.uint8).reshape(1, 1, 1, 5)
    picture = pictures.drawable(digits)
    size = pictures.DIGIT_SIZE
    assert picture.shape == (1, 2 * size, 3 * size, 1)
    assert picture[0, ::size, ::size, 0].tolist() == [[0, 255, 127], [51, 178, 0]]
    assert (picture[0, :size, size : 2 * size] == 255).all()
    assert pictures.drawable(digits[..., :4]).shape == (1, 2 * size, 2 * size, 1)


def test_frames_of_148_channels_make_a_strip() -> None:
    rows = [np.full((2, 1, 1, 148), value, np.uint8) for value in (3, 9)]
    picture = pictures.draw_strip(rows, ["left", "right"])
    assert picture.size[0] == 2 * (13 * pictures.DIGIT_SIZE * pictures.SCALE + pictures.GAP)
    # All rows share one scale.
    below = 12 * pictures.DIGIT_SIZE * pictures.SCALE + pictures.GAP
    assert [picture.getpixel((0, line * below)) for line in range(2)] == [(85, 85, 85), (255, 255, 255)]
