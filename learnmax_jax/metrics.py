"""What a run reports: a row of metrics.jsonl each time, TensorBoard where it is installed, a progress line."""

import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

STEP = "num_env_steps"


class MetricsWriter:
    """Appends rows to `<workdir>/metrics.jsonl`, and to TensorBoard if tensorboardX can be imported.

    A row is on its way to the disk when `write` returns, so a killed run loses none.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, restored: int, counter: str) -> None:
        """Opens the file and cuts the rows after the restored count, so that no row stands twice.

        Args:
          workdir: exists.
          restored: where the run continues, counted by `counter`; 0 for a new one.
          counter: the row's name for what its numbers are a function of, e.g. `num_env_steps`.
        """
        folder = pathlib.Path(workdir)
        path = folder / "metrics.jsonl"
        self._counter = counter
        _cut(path, restored, counter)
        self._file = path.open("a")
        self._board = None
        if importlib.util.find_spec("tensorboardX"):
            import tensorboardX

            self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=restored + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Args:
          row: json values and scalar arrays by name, the counter among them. What is not finite becomes
            null: json has no NaN.
        """
        plain = {name: _plain(value) for name, value in row.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in plain.items():
                if isinstance(value, int | float) and name != self._counter:
                    self._board.add_scalar(name, value, plain[self._counter])
            self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the whole rows of a metrics.jsonl; a last line that a kill tore is left out."""
    lines = pathlib.Path(path).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def progress_line(row: Mapping[str, Any], *, num_env_steps: int) -> str:
    """Says in one plain line how far a run is.

    Args:
      row: as written, with num_env_steps, num_frames, steps_per_second, num_updates and episode_score
        (None before the first episode's end).
      num_env_steps: the budget.
    """
    score = _plain(row["episode_score"])
    speed = float(row["steps_per_second"])
    left = (num_env_steps - int(row[STEP])) / speed if speed > 0 else math.inf
    return (
        f"{int(row[STEP]):,} / {num_env_steps:,} env steps  {int(row['num_frames']):,} frames  {speed:.1f} steps/s  "
        f"{int(row['num_updates']):,} updates  score {'-' if score is None else f'{score:.1f}'}  "
        f"{_duration(left)} left"
    )


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds_left = divmod(max(round(seconds), 0), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{seconds_left:02d}"


def _cut(path: pathlib.Path, restored: int, counter: str) -> None:
    """Keeps the rows up to a count; the file is replaced whole, so a kill in between loses nothing."""
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row[counter] <= restored]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    """Makes an array of one number a Python number, and what is not finite None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
