"""What a workdir holds for its report, read without JAX: a bad folder is refused at once."""

import dataclasses
import json
import pathlib
import re
from typing import Any

from learnmax_jax import config, config_schema
from learnmax_jax.lifecycle import BadInput

_AXES = ("num_frames", "num_updates")


class Missing(Exception):
    """A section has nothing to show; the text says what is not there."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A run's folder, or a pretraining's.

    Attributes:
      path: of the folder.
      settings: the saved config as nested dicts, of whatever version wrote it.
      rows: the readable rows of metrics.jsonl, at least one.
      damage: a text for each line of metrics.jsonl that was skipped.
    """

    path: pathlib.Path
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    damage: list[str]

    @property
    def axis(self) -> str:
        """The column that curves are drawn over: frames, or updates where no frames are played."""
        return next(name for name in _AXES if any(is_number(row.get(name)) for row in self.rows))

    def setting(self, name: str) -> Any:
        """A field by its dotted name; None where this config has none."""
        return config_schema.flatten(self.settings).get(name)

    def latest(self, column: str) -> Any:
        """A column's last number, or None."""
        return next((row[column] for row in reversed(self.rows) if is_number(row.get(column))), None)

    def files(self, pattern: str) -> list[pathlib.Path]:
        """Files by the step at the end of their names, oldest first; those of one step by their age."""
        found = [file for file in self.path.glob(pattern) if file.is_file()]
        return sorted(found, key=lambda file: (step_of(file), file.stat().st_mtime_ns, file.name))


def read(path: pathlib.Path) -> Folder:
    """Reads config.json and metrics.jsonl.

    Raises:
      BadInput: the folder is not there, or lacks what no report can do without; all of it is named.
    """
    if not path.is_dir():
        raise BadInput(f"workdir={path}: no such folder. Allowed: a folder that a run has written.")
    lacking = [name for name in ("config.json", "metrics.jsonl") if not (path / name).is_file()]
    if lacking:
        raise BadInput(f"workdir={path}: {' and '.join(lacking)} missing. Allowed: a folder that a run has written.")
    settings = config.load_saved(path / "config.json").to_dict()
    rows, damage = read_rows(path / "metrics.jsonl")
    if not rows:
        why = f"metrics.jsonl has no row that can be read{' (' + damage[0] + ')' if damage else ''}"
        raise BadInput(f"workdir={path}: {why}. Allowed: a run that has reported once.")
    return Folder(path, settings, rows, damage)


def read_rows(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that can be read, and a text for each line that cannot."""
    rows, damage = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as problem:
            damage.append(f"metrics.jsonl line {number}: is not json ({problem})")
            continue
        if isinstance(row, dict) and any(is_number(row.get(name)) for name in _AXES):
            rows.append(row)
        else:
            damage.append(f"metrics.jsonl line {number}: is no row (neither {' nor '.join(_AXES)})")
    return rows, damage


def is_number(value: Any) -> bool:
    """Whether a json value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def step_of(file: pathlib.Path) -> int:
    """The number at the end of a file's name; -1 without one."""
    found = re.search(r"(\d+)$", file.stem)
    return int(found[1]) if found else -1
