"""The curves of a report, as PNG images."""

import dataclasses
import fnmatch
import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from learnmax_jax import published
from learnmax_jax.report.folder import Folder, Missing, is_number

_DOTS_AN_INCH = 144
_FIRST_FRAME, _LAST_FRAME = 1e4, 2e8  # the published curves start at 1e5 or 4e5 and end there
_MARKED = 30  # curves of fewer points have them marked
_PUBLISHED = {
    "dreamerv3": ("DreamerV3, 6 seeds", "tab:blue"),
    "ppo_fixhp": ("PPO, 5 seeds", "tab:orange"),
    "muzero": ("MuZero", "tab:gray"),
}
_OURS = {
    "episode_score": ("ours: training, environments at beta 0", "black", "-"),
    "explorer_score": ("ours: training, explorers", "tab:green", "--"),
    "evaluation_score": ("ours: evaluation", "crimson", "-"),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """A small figure.

    Attributes:
      title: above it.
      unit: of its vertical axis.
      columns: patterns of column names; each column goes to the first panel that wants it.
      is_log: whether that axis is logarithmic.
    """

    title: str
    unit: str
    columns: tuple[str, ...]
    is_log: bool = False


PANELS = (
    Panel("Rooms seen", "rooms", ("rooms_visited", "evaluation_rooms")),
    Panel("Places seen", "number", ("positions_visited", "novelty_num_keys")),
    Panel("World model: loss of the next codes", "nats a code group", ("loss_codes", "loss_open_codes")),
    Panel("World model: codes predicted right", "share", ("*code_accuracy",)),
    Panel("World model: losses along real frames", "nats", ("loss_[!o]*",), is_log=True),
    Panel("World model: losses along predicted frames", "nats", ("loss_open_*",), is_log=True),
    Panel(
        "Tokenizer: error of the picture",
        "grey levels (r.m.s.)",
        ("*reconstruction_error", "*foreground_error", "*pixel_error"),
    ),
    Panel("Tokenizer: codes in use", "codes of a group", ("*codes_used", "*perplexity")),
    Panel("World model: loss with a wrong action, over that with the true one", "ratio", ("wrong_action_ratio",)),
    Panel("Codes that change", "share", ("changed_codes", "code_drift")),
    Panel("Search tree depth", "steps", ("tree_depth_mean", "tree_depth_max")),
    Panel("Episode length", "agent steps", ("episode_length",)),
    Panel("Throughput", "per second", ("*_per_second",)),
    Panel("Held out: player and room found again", "share", ("recall", "room_accuracy")),
    Panel("Held out: error of the player's place", "pixels", ("*position_error*",)),
    Panel("Held out: gap to copying that is closed", "share closed", ("gap_closed_[0-9]*",)),
    Panel("Held out: gap to copying that the mean picture closes", "share closed", ("gap_closed_mean_*",)),
    Panel("Held out: codes predicted right", "share", ("*accuracy_[0-9]*",)),
    Panel("Held out: foreground error of predictions", "grey levels (r.m.s.)", ("error_*",)),
    Panel("Held out: loss of the next codes", "nats a code group", ("*_nats",)),
    Panel("Other losses", "as the column says", ("*loss*",), is_log=True),
)


def draw_score(folder: Folder) -> bytes:
    """The score over frames beside the published ones.

    Raises:
      Missing: no row has a score.
    """
    ours = {name: series(folder, name) for name in _OURS}
    if not any(x for x, _ in ours.values()):
        raise Missing("no row has a score; no episode has ended yet, or none is played here")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")  # before the limits: they are kept in the scale's own numbers
    if folder.setting("env.game") == published.GAME:
        named = set()
        for (agent, _), curve in published.curves().items():
            label, colour = _PUBLISHED[agent]
            axes.plot(*zip(*curve), color=colour, alpha=0.55, linewidth=0.9, label=None if agent in named else label)
            named.add(agent)
        first = min(x[0] for x, _ in ours.values() if x)
        axes.set_xlim(min(_FIRST_FRAME, 0.8 * first), _LAST_FRAME)
    for name, (label, colour, style) in _OURS.items():
        x, y = ours[name]
        if x:
            marker = "o" if len(x) < _MARKED else ""
            axes.plot(x, y, style, color=colour, linewidth=2.2, marker=marker, markersize=4, label=label, zorder=5)
    axes.set_xlabel(axis_label(folder, "log scale"), fontsize=9)
    axes.set_ylabel("mean score of an episode (points)", fontsize=9)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _finish(figure)


def draw_panels(folder: Folder) -> tuple[dict[str, bytes], list[str]]:
    """The small figures by title, and the titles of those without data that every run has."""
    left = [name for name in dict.fromkeys(name for row in folder.rows for name in row) if series(folder, name)[0]]
    drawn, empty = {}, []
    for panel in PANELS:
        names = [name for pattern in panel.columns for name in fnmatch.filter(left, pattern)]
        left = [name for name in left if name not in names]
        if names:
            drawn[panel.title] = _draw_panel(folder, panel, list(dict.fromkeys(names)))
        elif not panel.title.startswith(("Held out", "Other")):
            empty.append(panel.title)
    return drawn, empty


def series(folder: Folder, column: str) -> tuple[list[float], list[float]]:
    """A column over the folder's axis, without the rows that have no number there."""
    pairs: list[tuple[Any, Any]] = [(row.get(folder.axis), row.get(column)) for row in folder.rows]
    whole = [(float(x), float(y)) for x, y in pairs if is_number(x) and is_number(y) and x > 0]
    return [x for x, _ in whole], [y for _, y in whole]


def axis_label(folder: Folder, *remarks: str) -> str:
    """What the curves are drawn over."""
    words = "environment frames" if folder.axis == "num_frames" else "updates"
    return f"{words} ({', '.join(remarks)})" if remarks else words


def _draw_panel(folder: Folder, panel: Panel, names: Sequence[str]) -> bytes:
    figure = Figure(figsize=(4.9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        x, y = series(folder, name)
        axes.plot(x, y, marker="." if len(x) < _MARKED else "", linewidth=1.4, label=name)
    if panel.is_log and any(value > 0 for name in names for value in series(folder, name)[1]):
        axes.set_yscale("log")
    elif panel.unit == "share":
        axes.set_ylim(0, 1)
    else:
        axes.set_ylim(bottom=min(0, *axes.get_ylim()))
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(axis_label(folder), fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=3)
    return _finish(figure)


def _finish(figure: Figure) -> bytes:
    """Grid and ticks as everywhere on the page; the image."""
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_AN_INCH)
    return stream.getvalue()
