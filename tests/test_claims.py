"""The curves of claims, beside one another."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from learnmax_jax import published
from learnmax_jax.report import claims


def _curve(*scores: float | None) -> list[dict]:
    return [
        {"num_frames": 1000 * (number + 1), "score_of_last_100": score, "explorer_score": score, "positions_visited": 7}
        for number, score in enumerate(scores)
    ]


def test_a_point_is_the_mean_of_the_reports_before_it_that_know() -> None:
    frames, means = claims.points(_curve(None, 10.0, None, 20.0, 60.0), "explorer_score", smoothed=2)
    assert frames == [2000, 4000, 5000] and means == pytest.approx([10.0, 15.0, 40.0])
    assert claims.points(_curve(1.0, 2.0), "episode_length", smoothed=1) == ([], [])


def test_every_seed_has_a_line_and_the_published_end_where_ours_do() -> None:
    ours = {"mine": [_curve(*[5.0] * 900), _curve(*[6.0] * 800)], "other": [_curve(7.0)]}
    figure = claims.draw(published.GAME, ours)
    for axes, has_published in zip(figure.axes, (True, True, False), strict=True):
        known = len({seed for agent, seed in published.curves() if agent == "dreamerv3"}) if has_published else 0
        assert len(axes.lines) == known + 3
        assert max(np.max(line.get_xdata(), initial=0) for line in axes.lines) == 900_000
    names = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"mine", "other"} < names and len(names) == 3
    assert len(claims.draw("Pong-v5", ours).axes[0].lines) == 3


def test_what_a_curve_lacks_is_said_below() -> None:
    old = [{"num_frames": 1000, "positions_visited": 7}]
    ours = {"old": [old], "new": [_curve(7.0)], "mixed": [_curve(7.0), old], "gone": [[]]}
    left, _, right = claims.draw("Pong-v5", ours).axes
    assert left.get_xlabel().endswith("not of all seeds of old, mixed, gone")
    assert right.get_xlabel().endswith("not of all seeds of gone")
    assert not claims.draw("Pong-v5", {"gone": [[]]}).axes  # no curve at all is no error


def test_columns_that_tell_nothing_are_left_out() -> None:
    row = {"num_frames": 9, "score_of_last_100": -21.0, "explorer_score": 0.0, "rooms": 0}
    (axes,) = claims.draw("Pong-v5", {"mine": [[row]]}).axes
    assert "beta 0" in axes.get_title(loc="left")


def test_a_claim_has_a_colour_and_only_reports_means_are_smoothed() -> None:
    ours = {"mine": [_curve(0.0, 10.0), _curve(0.0, 20.0)], "other": [_curve(0.0, 30.0)]}
    of_hundred, of_report, _ = claims.draw("Pong-v5", ours).axes
    for axes, ends in ((of_hundred, [10, 20, 30]), (of_report, [5, 10, 15])):
        assert [line.get_ydata()[-1] for line in axes.lines] == ends
        first, second, other = (line.get_color() for line in axes.lines)
        assert first == second != other


def test_more_claims_than_colours_are_told_apart() -> None:
    axes = claims.draw("Pong-v5", {str(number): [_curve(0.0, 1.0 + number)] for number in range(25)}).axes[0]
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 25
