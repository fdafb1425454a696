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
