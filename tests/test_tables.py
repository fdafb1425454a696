"""Tables of pretrainings: every row is a config that loads, lines replace each other, means are means."""

import json
import pathlib

import pytest

from learnmax_jax import config, lifecycle, results, table_plots, tables


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_row_is_a_config_of_its_own(name: str) -> None:
    table = tables.TABLES[name]
    given = {"init.workdir": "nowhere"} if "init.parts" in table.shared else {}
    seen = set()
    for data, fields in table.rows.values():
        assert data in tables.RECORDINGS
        settings = config.load(tables.CONFIG, list({**table.shared, **fields, **given}.items()))
        seen.add((data, str(settings)))
        recorded = config.load("configs/base.py", list(tables.RECORDINGS[data].fields.items()))
        assert recorded.env.game == settings.env.game
    assert len(seen) == len(table.rows)


@pytest.mark.parametrize("name", tables.RECORDINGS)
def test_every_data_set_is_of_whole_records(name: str) -> None:
    wanted = tables.RECORDINGS[name]
    settings = config.load("configs/base.py", list(wanted.fields.items()))
    assert wanted.num_observations % (settings.env.num_envs * settings.actor.num_steps) == 0


def line(row: str, seed: int, value: float | None, *, given: tuple[str, ...] = ()) -> dict:
    return {"row": row, "seed": seed, "command": "", "set": given, "figures": {"recall": value, "position_error": 2.0}}


def test_a_run_replaces_its_older_line_and_no_other(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results" / "tokenizers.jsonl"
    for each in (line("a", 0, 0.1), line("a", 1, 0.2), line("a", 0, 0.3)):
        results.put(path, each, known_by=("row", "seed"))
    kept = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(each["row"], each["seed"], each["figures"]["recall"]) for each in kept] == [("a", 1, 0.2), ("a", 0, 0.3)]


def test_a_table_holds_means_ranges_and_its_command(tmp_path: pathlib.Path) -> None:
    first, second = list(tables.TABLES["tokenizers"].rows)[:2]
    for each in (line(first, 0, 0.2), line(first, 1, 0.4), line(first, 2, None), line(second, 0, None)):
        path = tmp_path / "results" / "tokenizers.jsonl"
        results.put(path, each | {"set": ["x=1"]}, known_by=("row", "seed"))
    tables.write_markdown("tokenizers", tmp_path / "results")
    tables.write_page(tmp_path / "results")
    page = (tmp_path / "results.md").read_text()
    assert "`python -m experiments.tables --table=tokenizers --set=x=1`" in page
    row = next(text for text in page.splitlines() if text.startswith(f"| {first} |"))
    assert row.split(" | ")[1] == "3" and "0.3 (0.2 to 0.4, 2 of 3)" in row
    assert " 2 |" in row and "(2 to 2)" not in row
    other = next(text for text in page.splitlines() if text.startswith(f"| {second} |"))
    assert other.split(" | ")[1] == "1" and " - |" in other and " 2 |" in other


def test_updates_to_99_are_drawn_by_size_and_width(tmp_path: pathlib.Path) -> None:
    rows = [row for row in tables.TABLES["tables"].rows if "width 32" in row or "width 64" in row]
    for number, row in enumerate(rows):
        figures = {"updates_to_99": 100 * (number + 1) if number else None, "accuracy_1": 1.0}
        results.put(tmp_path / "results" / "tables.jsonl", line(row, 0, None) | {"figures": figures}, known_by=("row",))
    figure = table_plots.draw_updates_to_99(results.read(tmp_path / "results" / "tables.jsonl"))
    drawn = {x.get_label(): x.get_xydata().tolist() for x in figure.axes[0].lines if x.get_label().startswith("width")}
    assert drawn == {
        "width 32": [[256.0, 300.0], [1024.0, 500.0]],
        "width 64": [[64.0, 200.0], [256.0, 400.0], [1024.0, 600.0]],
    }
    tables.write_markdown("tables", tmp_path / "results")
    tables.write_page(tmp_path / "results")
    assert "](results/tables.png)" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results" / "tables.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "rows", "words"), [("tokenizer", [], "--table=tokenizer"), ("dynamics", ["x"], "--row=x")]
)
def test_unknown_tables_and_rows_are_refused(tmp_path: pathlib.Path, name: str, rows: list[str], words: str) -> None:
    with pytest.raises(lifecycle.BadInput, match=words):
        tables.run(
            name,
            data=tmp_path,
            workdir=tmp_path,
            out=tmp_path,
            seeds=[0],
            rows=rows,
            overrides=[],
            stop=lifecycle.StopWatcher(),
        )


def test_what_has_a_line_of_the_same_command_is_not_run_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, ran = "16 states x 4 actions, width 32", []

    def pretrain_run(settings: config.Settings, *, workdir: pathlib.Path, **_: object) -> None:
        ran.append((settings.seed, settings.dynamics.width))
        workdir.mkdir(parents=True)
        (workdir / "metrics.jsonl").write_text(json.dumps({"num_updates": 25, "updates_per_second": 1.0}) + "\n")

    monkeypatch.setattr(tables, "record", lambda *_: None)
    monkeypatch.setattr(tables.pretrain, "run", pretrain_run)

    def run(*overrides: tuple[str, str], out: str = "results") -> None:
        tables.run(
            "tables",
            data=tmp_path / "data",
            workdir=tmp_path / out / "runs",
            out=tmp_path / out,
            seeds=[0, 1],
            rows=[row],
            overrides=overrides,
            stop=lifecycle.StopWatcher(),
        )

    run()
    assert ran == [(0, 32), (1, 32)]
    run()
    assert len(ran) == 2
    with pytest.raises(lifecycle.BadInput, match=r"--set=dynamics\.mlp_width=64: .*means over all"):
        run(("dynamics.mlp_width", "64"))
    run(("dynamics.mlp_width", "64"), out="others")
    assert len(ran) == 4
