"""What was settled by measurement: tables of pretrainings that differ in a few fields, each run again by one command.

<out>/<table>.jsonl     a line a run: its row, seed, command and figures
<out>/<table>.md        means over seeds, and the spread between the smallest and the largest
<out>/<table>.png       of tables that are read better as curves
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from learnmax_jax import config, lifecycle, metrics, pretrain, provenance, recording, results, table_plots
from learnmax_jax.table_rows import RECORDINGS, TABLES, Table

CONFIG = "configs/pretrain.py"


def run(
    name: str,
    *,
    data: pathlib.Path,
    workdir: pathlib.Path,
    out: pathlib.Path,
    seeds: Sequence[int],
    rows: Sequence[str],
    overrides: Sequence[tuple[str, str]],
    stop: lifecycle.StopWatcher,
) -> int:
    """Runs what is missing of a table, row by row, and writes it after each run.

    What has a line made by the same command is not run again, whatever has become of its folder.

    Args:
      name: of the table.
      data: the data sets' folders are in it, or are recorded there.
      workdir: a folder a run is made under it.
      out: where the table is written.
      seeds: of every row.
      rows: the rows to run; all if empty.
      overrides: (dotted field, text), on top of the rows' own.
      stop: tells of a signal.
    Returns:
      Exit code 0.
    Raises:
      BadInput: an unknown table or row. Whatever recording.record and pretrain.run raise.
    """
    if name not in TABLES:
        raise lifecycle.BadInput(f"--table={name}: unknown. Allowed: {', '.join(TABLES)}.")
    table = TABLES[name]
    for row in rows:
        if row not in table.rows:
            raise lifecycle.BadInput(f"--row={row}: unknown. Allowed: {'; '.join(table.rows)}.")
    lines = results.read(out / f"{name}.jsonl")
    given = [f"{field}={value}" for field, value in overrides]
    others = sorted({" ".join(line["set"]) for line in lines if sorted(line["set"]) != sorted(given)})
    if others:
        raise lifecycle.BadInput(
            f"--set={' '.join(given)}: {out / name}.jsonl has runs with --set={others[0]}, and rows are means over "
            "all. Allowed: the same, or another --out."
        )
    done = {line["command"] for line in lines}
    every = [
        _Run(table, row, seed, data, workdir / name / f"{_slug(row)}-seed{seed}", overrides)
        for seed in seeds
        for row in (rows or table.rows)
    ]
    wanted = [each for each in every if each.command not in done]
    begin = time.monotonic()
    for number, each in enumerate(wanted):
        left = (time.monotonic() - begin) / max(number, 1) * (len(wanted) - number)
        time_left = f", {left:,.0f} s left" if number else ""
        print(f"run {number + 1} of {len(wanted)}: {each.row}, seed {each.seed}{time_left}", flush=True)
        record(each.source, data, stop)
        settings = config.load(CONFIG, list(each.fields.items()))
        pretrain.run(settings, data=data / each.source, workdir=each.folder, stop=stop)
        jax.clear_caches()  # programs of other shapes
        result = {
            "row": each.row,
            "seed": each.seed,
            "set": given,
            "command": each.command,
            "commit": provenance.commit(),
            "figures": _figures(each.folder, settings),
        }
        results.put(out / f"{name}.jsonl", result, known_by=("row", "seed"))
        write_markdown(name, out)
        write_page(out)
    return lifecycle.DONE


@dataclasses.dataclass(frozen=True)
class _Run:
    """A row from one seed, as `run` takes it."""

    table: Table
    row: str
    seed: int
    data: pathlib.Path
    folder: pathlib.Path
    overrides: Sequence[tuple[str, str]]

    @property
    def source(self) -> str:
        """The data set's name."""
        return self.table.rows[self.row][0]

    @property
    def fields(self) -> dict[str, str]:
        """Of the config, dotted name -> value; the later ones win."""
        own = self.table.rows[self.row][1]
        return {**self.table.shared, **own, **dict(self.overrides), "seed": str(self.seed)}

    @property
    def command(self) -> str:
        """What runs it alone."""
        given = " ".join(f"--config.{field}={value}" for field, value in self.fields.items())
        return f"python -m experiments.pretrain --data={self.data / self.source} --workdir={self.folder} {given}"


def record(name: str, data: pathlib.Path, stop: lifecycle.StopWatcher) -> None:
    """Records a data set as far as it is missing."""
    wanted = RECORDINGS[name]
    recording.record(
        config.load("configs/base.py", list(wanted.fields.items())),
        folder=data / name,
        num_observations=wanted.num_observations,
        policy=wanted.policy,
        stop=stop,
    )


def write_markdown(name: str, out: pathlib.Path) -> None:
    """Writes `<out>/<name>.md`: means over seeds, from the lines of `run`."""
    table, lines = TABLES[name], results.read(out / f"{name}.jsonl")
    rows = []
    for row in table.rows:
        runs = [line["figures"] for line in lines if line["row"] == row]
        if runs:
            cells = [_cell([figures.get(column) for figures in runs]) for column in table.columns.values()]
            rows.append([row, str(len(runs)), *cells])
    # What a command line added to every row belongs to the command.
    added = (f"--set={item}" for item in lines[0]["set"])
    command = " ".join([f"python -m experiments.tables --table={name}", *added])
    text = results.markdown(["", "seeds", *table.columns], rows)
    table_plots.draw(name, lines, out / f"{name}.png")
    (out / f"{name}.md").write_text(f"## {table.title}\n\n`{command}`\n\n{text}")


def write_page(out: pathlib.Path) -> None:
    """Writes all tables that there are into one page, `<out>.md`."""
    intro = (
        "# Results\n\nWritten by `python -m experiments.tables`; each run's own command and all its figures stand in "
        f"`{out.name}/*.jsonl`.\nTables of pretrainings are of held-out frames; means over seeds, with the smallest "
        "and the largest,\nand of how many seeds where not all have the figure.\n"
    )
    parts = [intro]
    for name, table in TABLES.items():
        if (out / f"{name}.md").exists():
            parts.append((out / f"{name}.md").read_text())
        if (out / f"{name}.png").exists():
            parts.append(f"![{table.title}]({out.name}/{name}.png)\n")
    others = sorted(path for path in out.glob("*.md") if path.stem not in TABLES)
    for path in others:
        parts.append(path.read_text())
        parts += [f"![{picture.stem}]({out.name}/{picture.name})\n" for picture in results.pictures(out, path.stem)]
    out.with_suffix(".md").write_text("\n".join(parts))


def _figures(folder: pathlib.Path, settings: config.Settings) -> dict[str, Any]:
    """The last examination's figures, and what follows from the settings."""
    history = metrics.read_rows(folder / "metrics.jsonl")
    right = {
        name: [row["num_updates"] for row in history if row.get(name, 0.0) >= 0.99]
        for name in ("accuracy_1", "frames_right_1")
    }
    speeds = [row["updates_per_second"] for row in history if row["num_updates"] <= settings.pretrain.tokenizer_updates]
    return history[-1] | {
        "updates_to_99": min(right["accuracy_1"], default=None),
        "updates_to_99_whole": min(right["frames_right_1"], default=None),
        "train_frames_per_second": max(speeds, default=0.0) * settings.tokenizer_learner.batch_size,
    }


def _cell(values: Sequence[float | None]) -> str:
    """Mean, the range where the values are told apart by three digits, and of how many where some are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, least, most = (f"{value:.3g}" for value in (sum(known) / len(known), min(known), max(known)))
    notes = [f"{least} to {most}"] if least != most else []
    notes += [f"{len(known)} of {len(values)}"] if len(known) < len(values) else []
    return f"{mean} ({', '.join(notes)})" if notes else mean


def _slug(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row).strip("-")
