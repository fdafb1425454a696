"""The kept lines, their page and its pictures, on figures that nobody measured."""

import json
import pathlib
from typing import Any

import pytest
from PIL import Image

from learnmax_jax import results, tables
from learnmax_jax.benchmark import folder, growth, peers, plots, roofline, trace
from learnmax_jax.benchmark.costs import Cost
from learnmax_jax.benchmark.machine import Machine
from learnmax_jax.report import page, speed
from tests import runs

MACHINE = Machine(100e9, 10e9, {"8x8x8": 5e9, "1024x1024x1024": 100e9})


def figures(**extras: Any) -> dict[str, Any]:
    rows = [roofline.row(name, 8, 0.1, Cost(2e9, 5e8, 120.0), MACHINE) for name in ("emulators", "act", "learn")]
    return {
        "emulator_steps_per_second": 3000.0,
        "step_steps_per_second": 700.0,
        "replay_ratio": 0.5,
        "cores": 2,
        "agent_steps_per_step": 512,
        "updates_per_step": 1,
        "gradient_bytes": 1_000_000,
        "versions": {"jax": "0.10.2", "device": "cpu"},
        "machine": MACHINE.to_json(),
        "roofline": [vars(row) for row in rows],
        **extras,
    }


def extras() -> dict[str, Any]:
    curves = growth.curves(runs.tiny())
    points = [growth.Point(n, 0.01 * n, 1000 * n, 10) for n in (2, 4, 8)]
    return {
        "trace": {"seconds": dict.fromkeys((*trace.SCOPES, trace.REST), 0.01), "step_seconds": 0.2},
        "growth": [growth.row(curve, points) for curve in curves],
        "peers": [{"num_envs": 8, "num_simulations": 8, "searches_per_second": 321.0, "about": "ours"}],
        "scaling": [
            {"devices": n, "num_envs": n, "seconds": 1.5, "one_device_seconds": 1.0, "ratio": 1.5} for n in (1, 2)
        ],
    }


def put(out: pathlib.Path, command: str, **measured: Any) -> str:
    folder.put(out, config_name="base", command=command, figures=json.loads(json.dumps(figures(**measured))))
    return (out / "bench.md").read_text()


def test_ideal_times_by_hand() -> None:
    # arithmetic 2e9 / 100e9 = 0.02 s, memory 5e8 / 10e9 = 0.05 s
    row = roofline.row("act", 1, 0.1, Cost(2e9, 5e8, 120.0), MACHINE)
    assert row.ideal_seconds == pytest.approx(0.05)
    assert "| act | 1 | 100 | 2 | 0.5 | 20 | 50 | 0.50 | 120 |" in roofline.markdown([vars(row)])


def test_the_emulators_have_a_time_only() -> None:
    assert "| emulators | 8 | 100 | - | - | - | - | - | - |" in roofline.markdown(figures()["roofline"])


def test_the_newest_run_and_the_newest_extras_are_shown(tmp_path: pathlib.Path) -> None:
    everything = put(tmp_path, "bench --growth", **extras())
    assert all(text in everything for text in ("How time grows", "Where the time", "published systems", "Weak scaling"))
    names = [path.name for path in results.pictures(tmp_path, "bench")]
    assert names == [f"bench-{name}.png" for name in ("growth", "prediction", "roofline", "scaling")]
    for path in results.pictures(tmp_path, "bench"):
        with Image.open(path) as picture:
            assert picture.width > 400
    plain = put(tmp_path, "bench", trace=extras()["trace"])
    assert "How time grows\n\n`bench --growth`" in plain and "Where the time of one step goes\n\n`bench`" in plain
    lines = results.read(tmp_path / "bench.jsonl")
    assert [line["command"] for line in lines] == ["bench --growth", "bench"]
    put(tmp_path, "bench")
    lines = results.read(tmp_path / "bench.jsonl")
    assert [line["command"] for line in lines] == ["bench --growth", "bench"] and "trace" not in lines[1]["figures"]
    assert {"commit", "device", "date", "config"} <= set(lines[0])


def test_extras_of_another_config_stand_until_the_config_has_its_own(tmp_path: pathlib.Path) -> None:
    put(tmp_path, "bench --growth", **extras())
    folder.put(tmp_path, config_name="another", command="bench", figures=figures())
    assert len(results.pictures(tmp_path, "bench")) == 4
    assert "How time grows\n\n`bench --growth`" in (tmp_path / "bench.md").read_text()
    folder.put(tmp_path, config_name="another", command="another --growth", figures=figures(**extras()))
    put(tmp_path, "bench")
    assert "How time grows\n\n`bench --growth`" in (tmp_path / "bench.md").read_text()


def test_a_panel_a_curve_and_no_empty_one() -> None:
    rows = (extras()["growth"] * 2)[:7]
    figure = plots.draw_growth(rows)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.axison]
    assert sorted(labels) == ["ms"] * 7 + ["temporary MB"] * 7
    assert sum(not axes.axison for axes in figure.axes) == 1
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == [f"{point['size']:,}" for point in rows[0]["points"]]  # memory shares the axis
    assert figure.axes[0].get_xscale() == "log"


def test_peers_stand_beside_ours() -> None:
    text = peers.markdown(extras()["peers"], figures())
    rows = text.splitlines()
    theirs = next(number for number, row in enumerate(rows) if "36-38 searches" in row)
    assert "| ours | 8 x 8 | 321 searches |" in rows[theirs + 1] and "UniZero" in rows[theirs + 2]
    assert "700 environment steps" in rows[-1] and "replay ratio 0.5, on 2 cores" in rows[-1]


def test_the_page_of_results_and_the_report_show_the_pictures(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results"
    put(out, "bench", **extras())
    tables.write_page(out)
    text = (tmp_path / "results.md").read_text()
    assert (
        "## Speed: base" in text and "](results/bench-growth.png)" in text and "](results/bench-roofline.png)" in text
    )
    monkeypatch.setattr(speed, "RESULTS", out)
    assert page._speeds(None).count("data:image/png;base64") == 4  # type: ignore[arg-type]
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    assert speed.pictures() == []
