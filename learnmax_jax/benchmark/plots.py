"""Pictures of what was measured: growth, roofline, weak scaling, and what is predicted of accelerators."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from learnmax_jax.benchmark.cost_model import Assumptions
from learnmax_jax.benchmark.machine import Machine

_INK, _BLUE, _RED, _GREY = "#1b1b1b", "#14508c", "#b3261e", "#8a8a8a"


def draw_growth(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a curve, all axes logarithmic: seconds, the promised slope through the last point, temporary memory."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for row, axes in zip(rows, panels):  # in this order: the first that ends takes none of the other
        sizes = np.array([point["size"] for point in row["points"]], float)
        milliseconds = np.array([1e3 * point["seconds"] for point in row["points"]])
        axes.loglog(sizes, milliseconds, "o-", color=_BLUE, markersize=4, linewidth=1.4)
        promised = milliseconds[-1] * (sizes / sizes[-1]) ** row["at_most"]
        axes.loglog(sizes, promised, "--", color=_INK, linewidth=0.9, alpha=0.6)
        found = "-" if row["exponent"] is None else f"{row['exponent']:.2f}"
        color = _RED if row["holds"] is False else _INK
        axes.set_title(f"{row['what']}: exponent {found} (at most {row['at_most']:g})", fontsize=9, color=color)
        axes.set_xlabel(row["name"].replace("_", " "), fontsize=9)
        axes.set_ylabel("ms", fontsize=9)
        memory = axes.twinx()
        memory.set_yscale("log")
        megabytes = [max(point["temporary_bytes"], 1) / 1e6 for point in row["points"]]
        memory.plot(sizes, megabytes, ".:", color=_GREY, linewidth=1.0)
        memory.set_ylabel("temporary MB", fontsize=7, color=_GREY)
        memory.set_ylim(min(megabytes) / 4, max(megabytes) * 4)
        for each in (axes, memory):
            each.tick_params(axis="y", which="both", labelsize=7)
            each.minorticks_off()
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], fontsize=7)
        low, high = milliseconds.min(), milliseconds.max()
        axes.set_ylim(low / 1.6, high * 1.6)
    for axes in list(panels):
        axes.set_axis_off()
    return figure


def draw_roofline(rows: Sequence[Mapping[str, Any]], machine: Machine) -> Figure:
    """FLOP/s over FLOPs a byte, both logarithmic, under the machine's roof; the emulators are not in it."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    known = [row for row in rows if row["name"] != "emulators" and row["flops"] > 0 and row["num_bytes"] > 0]
    places = [(row["flops"] / row["num_bytes"], row["flops"] / row["seconds"] / 1e9) for row in known]
    left = min([x for x, _ in places] + [0.1]) / 2
    right = max([x for x, _ in places] + [100.0]) * 2
    x = np.geomspace(left, right, 200)
    roof = np.minimum(machine.flops_per_second, x * machine.bytes_per_second) / 1e9
    axes.plot(x, roof, color=_INK, linewidth=1.4)
    told = f"{machine.flops_per_second / 1e9:,.0f} GFLOP/s, {machine.bytes_per_second / 1e9:,.1f} GB/s"
    axes.set_title(f"roof: the best matrix product and a copy, measured in the same run: {told}", fontsize=9)
    for number, (row, (intensity, rate)) in enumerate(zip(known, places)):
        axes.plot(intensity, rate, "o", color=_BLUE, markersize=5)
        offset = (6, 5) if number % 2 else (6, -11)
        axes.annotate(row["name"], (intensity, rate), textcoords="offset points", xytext=offset, fontsize=8)
    axes.set_xlabel("FLOPs a byte")
    axes.set_ylabel("GFLOP/s")
    return figure


def draw_scaling(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Time over that of one device with all the work."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    counts = [str(row["devices"]) for row in rows]
    axes.axhline(1.0, color=_INK, linewidth=0.9, linestyle="--")
    axes.bar(counts, [row["ratio"] for row in rows], color=_BLUE, width=0.5)
    for place, row in enumerate(rows):
        axes.annotate(f"{row['ratio']:.2f}", (place, row["ratio"]), ha="center", va="bottom", fontsize=9)
    axes.set_ylim(0, 1.2 * max([row["ratio"] for row in rows] + [1.0]))
    axes.set_xlabel("forced host devices; environments and batch grow with them")
    axes.set_ylabel("time / one device's time for all")
    return figure


def draw_prediction(rows: Sequence[Mapping[str, Any]], assumed: Assumptions) -> Figure:
    """Agent steps a second over accelerators, with what was assumed written below."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    counts = np.array([row["accelerators"] for row in rows], float)
    rates = np.array([row["agent_steps_per_second"] for row in rows])
    axes.plot(counts, rates[0] * counts / counts[0], "--", color=_INK, linewidth=0.9, label="as many times as one")
    axes.plot(counts, rates, "o-", color=_BLUE, linewidth=1.4, label="predicted")
    for count, rate in zip(counts, rates):
        axes.annotate(
            f"{rate:,.0f}",
            (count, rate),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.6, counts[-1] * 3)
    axes.set_xlabel("accelerators\n\n" + "\n".join(textwrap.wrap(assumed.text(), 84)), fontsize=8)
    axes.set_ylabel("agent steps/s")
    axes.legend(frameon=False)
    return figure
