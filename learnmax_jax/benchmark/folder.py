"""Where a benchmark is kept: a line a run, and the page and pictures that are made of the newest lines.

<out>/bench.jsonl           command, commit, versions, device and all figures of each run
<out>/bench.md              the tables
<out>/bench-<picture>.png   growth, roofline, scaling, prediction
"""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

from learnmax_jax import provenance, results
from learnmax_jax.benchmark import cost_model, growth, peers, plots, roofline, scaling, trace
from learnmax_jax.benchmark.machine import Machine

NAME = "bench"
# What a run measures only if it is asked to.
EXTRAS = ("trace", "growth", "peers", "scaling")


def put(out: pathlib.Path, *, config_name: str, command: str, figures: Mapping[str, Any]) -> None:
    """Adds a run, in the place of an older one by the same command, and writes page and pictures anew."""
    row = {
        "command": command,
        "config": config_name,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": provenance.commit(),
        "device": figures["versions"]["device"],
        "figures": dict(figures),
    }
    lines = [line for line in results.read(out / f"{NAME}.jsonl") if line["command"] != command]
    results.write(out / f"{NAME}.jsonl", [*lines, row])
    write_page(out)


def write_page(out: pathlib.Path) -> None:
    """Writes `bench.md` and the pictures: the newest line, and the newest that has each extra, of its config if any."""
    lines = results.read(out / f"{NAME}.jsonl")
    newest = lines[-1]
    lines.sort(key=lambda line: line["config"] == newest["config"])
    extras = {name: [line for line in lines if name in line["figures"]][-1:] for name in EXTRAS}
    figures = newest["figures"]
    machine = Machine(**figures["machine"])
    for old in results.pictures(out, NAME):
        old.unlink()
    plots.draw_roofline(figures["roofline"], machine).savefig(out / f"{NAME}-roofline.png", dpi=100)
    step, assumed = cost_model.step_of(figures), cost_model.Assumptions()
    predicted = cost_model.predict(step, assumed)
    plots.draw_prediction(predicted, assumed).savefig(out / f"{NAME}-prediction.png", dpi=100)
    parts = [_head(newest), _speeds(figures), _roofline(figures, machine)]
    for line in extras["trace"]:
        parts.append(_section("Where the time of one step goes", line, trace.markdown(line["figures"]["trace"])))
    for line in extras["growth"]:
        rows = line["figures"]["growth"]
        plots.draw_growth(rows).savefig(out / f"{NAME}-growth.png", dpi=100)
        parts.append(_section("How time grows", line, _GROWTH + growth.markdown(rows)))
    for line in extras["peers"]:
        told = peers.markdown(line["figures"]["peers"], line["figures"])
        parts.append(_section("Beside published systems", line, _PEERS + told))
    for line in extras["scaling"]:
        rows = line["figures"]["scaling"]
        plots.draw_scaling(rows).savefig(out / f"{NAME}-scaling.png", dpi=100)
        told = f"{scaling.__doc__}\nThe process has {line['figures']['cores']} cores.\n\n{scaling.markdown(rows)}"
        parts.append(_section("Weak scaling on forced host devices", line, told))
    parts.append(
        _section("Predicted, on accelerators", newest, f"{assumed.text()}.\n\n{cost_model.markdown(predicted)}")
    )
    (out / f"{NAME}.md").write_text("\n".join(parts))


_GROWTH = (
    "One size at a time, 64 environments x 16 simulations at window 8 otherwise; the exponent is the slope of time "
    "over size in logarithms.\n\n"
)
_PEERS = (
    "Theirs as published or measured before on such a machine; frames, actions and encoders differ and are named.\n\n"
)


def _head(line: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in line["figures"]["versions"].items())
    return (
        f"## Speed: {line['config']}\n\n`{line['command']}`\n\nCommit {line['commit']}, {line['date']}, "
        f"{line['figures']['cores']} cores; {versions}. All runs and figures stand in `{NAME}.jsonl`.\n"
    )


def _section(title: str, line: Mapping[str, Any], text: str) -> str:
    return f"### {title}\n\n`{line['command']}`, commit {line['commit']}\n\n{text}"


def _speeds(figures: Mapping[str, Any]) -> str:
    """The plain figures."""
    plain = [(name, value) for name, value in figures.items() if isinstance(value, int | float)]
    return results.markdown(("figure", "value"), [[name.replace("_", " "), f"{value:,.4g}"] for name, value in plain])


def _roofline(figures: Mapping[str, Any], machine: Machine) -> str:
    products = ", ".join(f"{size} {rate / 1e9:,.1f}" for size, rate in machine.products.items())
    return (
        "### Beside what the machine could do\n\n"
        f"Best float32 matrix product {machine.flops_per_second / 1e9:,.1f} GFLOP/s ({products}), copy "
        f"{machine.bytes_per_second / 1e9:,.1f} GB/s, in the same run. FLOPs and bytes are XLA's, loops multiplied; "
        "ideal is the longer of the two. Bytes count what every instruction reads and writes, caches or not.\n\n"
        f"{roofline.markdown(figures['roofline'])}"
    )
