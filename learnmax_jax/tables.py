"""What was settled by measurement: tables of pretrainings that differ in a few fields, each run again by one command.

<out>/<table>.jsonl     a line a run: its row, seed, command and figures
<out>/<table>.md        means over seeds, and the spread between the smallest and the largest
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from learnmax_jax import config, lifecycle, metrics, pretrain

CONFIG = "configs/pretrain.py"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one table.

    Attributes:
      title: what is compared.
      shared: fields of every row, dotted name -> value as on a command line.
      rows: name -> fields of its own.
      columns: header -> the figure's name in metrics.jsonl.
    """

    title: str
    shared: Mapping[str, str]
    rows: Mapping[str, Mapping[str, str]]
    columns: Mapping[str, str]


_PREDICTION_COLUMNS = {
    "nats a code, forced": "forced_nats",
    "nats a code, rolling": "rolling_nats",
    "rolling / forced": "exposure_ratio",
    "gap closed k=1": "gap_closed_1",
    "k=2": "gap_closed_2",
    "k=5": "gap_closed_5",
    "k=10": "gap_closed_10",
    "changed codes right k=1": "changed_accuracy_1",
    "position error k=1, pixels": "predicted_position_error_1",
    "k=10, pixels": "predicted_position_error_10",
}

_PATCHES = {
    "tokenizer.layout": "patch",
    "tokenizer.num_groups": "1",
    "tokenizer.num_codes": "256",
}

TABLES: dict[str, Table] = {
    "tokenizers": Table(
        title="Quantisers and layouts on held-out frames",
        shared={
            "pretrain.tokenizer_updates": "400",
            "pretrain.model_updates": "0",
            "pretrain.examine_every_updates": "400",
            "pretrain.checkpoint_every_updates": "200",
        },
        rows={
            "frame vq_ema (default)": {},
            "frame vq_ema, motion weighting off": {"tokenizer.motion_weight": "0"},
            "frame vq_grad": {"tokenizer.quantizer": "vq_grad"},
            "frame fsq": {"tokenizer.quantizer": "fsq", "tokenizer.code_dim": "2"},
            "frame random": {"tokenizer.quantizer": "random"},
            "patch 7x7 grid, vq_ema": _PATCHES,
            "patch 12x12 grid, vq_ema": {**_PATCHES, "tokenizer.patch_size": "7"},
            "patch 7x7 grid, random": {**_PATCHES, "tokenizer.quantizer": "random"},
            "anchor + 7x7 grid, vq_ema": {**_PATCHES, "tokenizer.layout": "anchor"},
        },
        columns={
            "bits a frame": "bits_a_frame",
            "codes used": "test_codes_used",
            "perplexity": "test_perplexity",
            "pixel error, grey levels": "test_pixel_error",
            "foreground error": "test_foreground_error",
            "player recall": "recall",
            "room accuracy": "room_accuracy",
            "position error, pixels": "position_error",
            "encode frames/s": "encode_frames_per_second",
            "train frames/s": "train_frames_per_second",
        },
    ),
    "dynamics": Table(
        title="Switches of the dynamics, on one trained tokenizer",
        shared={
            "pretrain.tokenizer_updates": "0",
            "pretrain.model_updates": "400",
            "pretrain.examine_every_updates": "400",
            "pretrain.checkpoint_every_updates": "200",
            "init.parts": "tokenizer",
        },
        rows={
            "default: learned code embedding, summed atomic action": {},
            "quantised vectors": {"dynamics.code_input": "quantised"},
            "whitened vectors": {"dynamics.code_input": "whitened"},
            "learned and quantised": {"dynamics.code_input": "both"},
            "action in a slot of its own": {"dynamics.action_input": "token"},
            "compositional action": {"dynamics.action_embedding": "compositional"},
            "8 outcome codes": {"dynamics.num_outcomes": "8"},
            "feedback of the likeliest code": {"dynamics.feedback": "argmax"},
            "no open-loop loss": {"loss_weights.open_loop": "0"},
            "latent consistency loss": {"loss_weights.consistency": "1"},
            "tokenizer learns on": {"pretrain.tokenizer_with_model": "true"},
        },
        columns={
            **_PREDICTION_COLUMNS,
            "shuffled actions / true": "shuffled_action_ratio",
            "imagined told from seen, AUC": "latent_separability",
        },
    ),
}


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

    Args:
      name: of the table.
      data: a folder that experiments.record wrote.
      workdir: a folder a run is made under it; finished ones are not run again.
      out: where the table is written.
      seeds: of every row.
      rows: the rows to run; all if empty.
      overrides: (dotted field, text), on top of the rows' own.
      stop: tells of a signal.
    Returns:
      Exit code 0.
    Raises:
      BadInput: an unknown table or row. Whatever pretrain.run raises.
    """
    if name not in TABLES:
        raise lifecycle.BadInput(f"--table={name}: unknown. Allowed: {', '.join(TABLES)}.")
    table = TABLES[name]
    for row in rows:
        if row not in table.rows:
            raise lifecycle.BadInput(f"--row={row}: unknown. Allowed: {'; '.join(table.rows)}.")
    wanted = [(row, seed) for seed in seeds for row in (rows or table.rows)]
    for number, (row, seed) in enumerate(wanted):
        print(f"run {number + 1} of {len(wanted)}: {row}, seed {seed}", flush=True)
        fields = {**table.shared, **table.rows[row], **dict(overrides), "seed": str(seed)}
        folder = workdir / name / f"{_slug(row)}-seed{seed}"
        with lifecycle.bad_input():
            settings = config.load(CONFIG, list(fields.items()))
        pretrain.run(settings, data=data, workdir=folder, stop=stop)
        jax.clear_caches()  # programs of other shapes
        given = " ".join(f"--config.{field}={value}" for field, value in fields.items())
        result = {
            "row": row,
            "seed": seed,
            "command": f"python -m experiments.pretrain --data={data} --workdir={folder} {given}",
            "figures": _figures(folder, settings),
        }
        _merge(out / f"{name}.jsonl", result)
        write_markdown(table, out / f"{name}.jsonl", out / f"{name}.md")
    return lifecycle.DONE


def write_markdown(table: Table, results: pathlib.Path, path: pathlib.Path) -> None:
    """Writes a table's means over seeds, from the lines of `run`."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    header = ["", "seeds", *table.columns]
    text = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in table.rows:
        runs = [line["figures"] for line in lines if line["row"] == row]
        if runs:
            cells = [_cell([figures.get(name) for figures in runs]) for name in table.columns.values()]
            text.append(f"| {row} | {len(runs)} | {' | '.join(cells)} |")
    path.write_text(f"## {table.title}\n\n" + "\n".join(text) + "\n")


def _figures(folder: pathlib.Path, settings: config.Settings) -> dict[str, Any]:
    """The last examination's figures, and what follows from the settings."""
    history = metrics.read_rows(folder / "metrics.jsonl")
    last = {name: value for row in history for name, value in row.items() if row is history[-1] or name == "recall"}
    section = settings.tokenizer
    grid = 84 // section.patch_size
    tokens = {"frame": 1, "patch": grid**2, "anchor": 1 + grid**2}[section.layout]
    speeds = [row["updates_per_second"] for row in history if row["num_updates"] <= settings.pretrain.tokenizer_updates]
    return last | {
        "bits_a_frame": tokens * section.num_groups * math.log2(section.num_codes),
        "train_frames_per_second": max(speeds, default=0.0) * settings.tokenizer_learner.batch_size,
    }


def _merge(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Puts a run's line in the place of an older one of the same row and seed."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if (line["row"], line["seed"]) != (result["row"], result["seed"])] + [result]
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(path.name + ".tmp")
    writing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(writing, path)


def _cell(values: Sequence[float | None]) -> str:
    """Mean, and the range where there is more than one value."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.3g}" if len(known) < 2 else f"{mean:.3g} ({min(known):.3g} to {max(known):.3g})"


def _slug(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row).strip("-")
