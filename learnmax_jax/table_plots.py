"""Pictures of tables that are read better as curves."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from learnmax_jax.table_rows import TABLES


def draw(name: str, lines: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Writes the table's picture as PNG, if it has one.

    Args:
      name: of the table.
      lines: of `<name>.jsonl`.
      path: of the picture.
    """
    if name == "tables":
        draw_updates_to_99(lines).savefig(path, dpi=100)


def draw_updates_to_99(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Updates until 99% of world T's next states are right, against the number of (state, action), a line a width.

    A point is a seed; runs that never got there are left out.
    """
    points: dict[int, list[tuple[int, int]]] = {}
    for line in lines:
        fields, updates = TABLES["tables"].rows[line["row"]][1], line["figures"]["updates_to_99"]
        if updates is not None:
            pairs = int(fields["world.num_states"]) * int(fields["world.num_actions"])
            points.setdefault(int(fields["dynamics.width"]), []).append((pairs, updates))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for width, found in sorted(points.items()):
        sizes = sorted({pairs for pairs, _ in found})
        means = [sum(y for x, y in found if x == size) / sum(x == size for x, _ in found) for size in sizes]
        (drawn,) = axes.plot(sizes, means, linewidth=1.4, label=f"width {width}")
        axes.plot(*zip(*found, strict=True), ".", color=drawn.get_color())
    axes.set_xlabel("|S| x |A|")
    axes.set_ylabel("updates until 99% are right")
    if points:
        axes.legend(frameon=False)
    return figure
