"""Curves of runs that are compared, by claim: a colour and a dash a claim, a line a seed."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from learnmax_jax import published

# Reports that a point of a noisy column is the mean of; a report's own mean is of the few episodes that ended in it.
SMOOTHED = 10
# Column, title, unit, whether it is smoothed.
_PANELS = (
    ("score_of_last_100", "Last 100 episodes at beta 0", "mean score (points)", False),
    ("training_score_of_last_100", "Last 100 training episodes", "mean score (points)", False),
    ("explorer_score", f"Explorers' episodes, mean of {SMOOTHED} reports", "mean score (points)", True),
    ("positions_visited", "Places seen", "number", False),
)
_PUBLISHED = "dreamerv3"
_NUM_COLOURS = 10  # of matplotlib's cycle; claims beyond them are dashed
_DASHES = ("-", "--", ":", "-.")

Curve = Sequence[Mapping[str, Any]]


def draw(game: str, claims: Mapping[str, Sequence[Curve]]) -> Figure:
    """A panel a column over the frames; columns of which nothing but zeros is known are left out.

    Args:
      game: Montezuma's Revenge has a published agent beside it, as far as our own runs went.
      claims: by name, a curve a seed: its reports.
    """
    furthest = max((row["num_frames"] for curves in claims.values() for curve in curves for row in curve), default=0)
    panels = [panel for panel in _PANELS if _tells(claims, panel[0])]
    figure = Figure(figsize=(4.5 * max(1, len(panels)), 4.4), layout="constrained")
    if not panels:
        return figure
    for axes, (column, title, unit, is_smoothed) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        if game == published.GAME and "score" in column:
            _draw_published(axes, furthest)
        for number, (name, curves) in enumerate(claims.items()):
            dash = _DASHES[number // _NUM_COLOURS % len(_DASHES)]
            for curve in curves:
                frames, values = points(curve, column, smoothed=SMOOTHED if is_smoothed else 1)
                axes.plot(frames, values, dash, color=f"C{number}", linewidth=1.3, alpha=0.85, label=name)
        axes.set_xlabel(_below(claims, column), fontsize=8)
        axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axes.set_ylabel(unit, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    named = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", fontsize=8, frameon=False, ncols=4)
    return figure


def _tells(claims: Mapping[str, Sequence[Curve]], column: str) -> bool:
    """Whether any report has more than a zero there."""
    return any(row.get(column) for curves in claims.values() for curve in curves for row in curve)


def _below(claims: Mapping[str, Sequence[Curve]], column: str) -> str:
    """The axis, and the claims of which not every seed has the column."""
    lacking = [
        name for name, curves in claims.items() if not all(points(curve, column, smoothed=1)[0] for curve in curves)
    ]
    remark = textwrap.fill(f"not of all seeds of {', '.join(lacking)}", 62) if lacking else ""
    return f"environment frames\n{remark}".rstrip()


def points(curve: Curve, column: str, *, smoothed: int) -> tuple[list[float], list[float]]:
    """Frames and the column's means over the last `smoothed` reports that have it, themselves included."""
    known = [(row["num_frames"], row[column]) for row in curve if row.get(column) is not None]
    values = np.array([value for _, value in known], float)
    means = [float(values[max(0, end - smoothed) : end].mean()) for end in range(1, len(values) + 1)]
    return [frames for frames, _ in known], means


def _draw_published(axes: Any, furthest: float) -> None:
    """The published agent's seeds up to a number of frames; training episodes, as it has no others."""
    seeds = [curve for (agent, _), curve in published.curves().items() if agent == _PUBLISHED]
    for curve in seeds:
        shown = [point for point in curve if point[0] <= furthest]
        axes.plot(*zip(*shown), color="0.6", linewidth=0.9, label=f"DreamerV3, {len(seeds)} seeds (published)")
