"""Curves of runs that are compared, by claim: a colour a claim, a line a seed."""

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
    ("explorer_score", f"Explorers' episodes, mean of {SMOOTHED} reports", "mean score (points)", True),
    ("positions_visited", "Places seen", "number", False),
)
_PUBLISHED = "dreamerv3"

Curve = Sequence[Mapping[str, Any]]


def draw(game: str, claims: Mapping[str, Sequence[Curve]]) -> Figure:
    """A panel a column over the frames.

    Args:
      game: Montezuma's Revenge has a published agent beside it, as far as our own runs went.
      claims: by name, a curve a seed: its reports.
    """
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    furthest = max((row["num_frames"] for curves in claims.values() for curve in curves for row in curve), default=0)
    for axes, (column, title, unit, is_smoothed) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        if game == published.GAME and "score" in column:
            _draw_published(axes, furthest, named=column == _PANELS[0][0])
        axes.set_xlabel("environment frames", fontsize=9)
        for number, (name, curves) in enumerate(claims.items()):
            for nth, curve in enumerate(curves):
                frames, values = points(curve, column, smoothed=SMOOTHED if is_smoothed else 1)
                label = name if column == _PANELS[-1][0] and nth == 0 else None
                axes.plot(frames, values, color=f"C{number}", linewidth=1.3, alpha=0.85, label=label)
        known = {name: [points(each, column, smoothed=1)[0] for each in curves] for name, curves in claims.items()}
        lacking = [name for name, frames_of_seeds in known.items() if not all(frames_of_seeds)]
        if lacking:
            axes.set_xlabel(f"environment frames (not all seeds have it: {', '.join(lacking)})", fontsize=7)
        axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axes.set_ylabel(unit, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=5)
    return figure


def points(curve: Curve, column: str, *, smoothed: int) -> tuple[list[float], list[float]]:
    """Frames and the column's means over the last `smoothed` reports that have it, themselves included."""
    known = [(row["num_frames"], row[column]) for row in curve if row.get(column) is not None]
    values = np.array([value for _, value in known], float)
    means = [float(values[max(0, end - smoothed) : end].mean()) for end in range(1, len(values) + 1)]
    return [frames for frames, _ in known], means


def _draw_published(axes: Any, furthest: float, *, named: bool) -> None:
    """The published agent's seeds up to a number of frames; training episodes, as it has no others."""
    seeds = [curve for (agent, _), curve in published.curves().items() if agent == _PUBLISHED]
    for number, curve in enumerate(seeds):
        shown = [point for point in curve if point[0] <= furthest]
        label = f"DreamerV3, {len(seeds)} seeds (published)" if named and number == 0 else None
        axes.plot(*zip(*shown), color="0.6", linewidth=0.9, label=label)
