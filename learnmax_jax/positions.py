"""Where the player has been: visits of each (room, x, y), read from the emulator's RAM for the report alone.

    <workdir>/positions/step_000000000123.npz     one a checkpoint that is kept, gone with it

Nothing learns or acts on it. Beside the visits stands one frame of each room, to draw the map on.
"""

import collections
import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Collection

import numpy as np

from learnmax_jax.acting.actor import ActOutput

# A screen pixel of the console's 160 x 210 picture from the RAM's numbers (Montezuma's Revenge).
_LEFT, _BOTTOM = 4, 315
_SCREEN_WIDTH, _SCREEN_HEIGHT = 160, 210


@dataclasses.dataclass
class Positions:
    """Visits over a run's life.

    Attributes:
      visits: times a place was seen, by `room * 65536 + x * 256 + y` (each a byte of RAM).
      frames: the last frame seen of each room, `[H, W, C]` uint8.
    """

    visits: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    frames: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, act: ActOutput, here: slice = slice(None)) -> None:
        """Counts one act phase `[E, T, ...]` of numpy arrays; nothing where the RAM tells nothing (-1).

        Args:
          act: its observations are those of `here` alone.
          here: the environments of this process.
        """
        room, x, y = (np.asarray(field, np.int64) for field in (act.probe.room, act.probe.x, act.probe.y))
        known = (room >= 0) & (x >= 0) & (y >= 0)
        places, counts = np.unique(((room << 16) + (x << 8) + y)[known], return_counts=True)
        self.visits.update(dict(zip(places.tolist(), counts.tolist())))
        # The probe of step t is of observation[t + 1], which is row t + 1.
        shown = np.where(known, room, -1)[here, :-1]
        for number in np.unique(shown[shown >= 0]).tolist():
            environment, step = np.argwhere(shown == number)[-1]
            self.frames[number] = np.array(act.transitions.observation[environment, step + 1])

    def report(self) -> dict[str, int]:
        """The columns of metrics.jsonl; 0 where the RAM tells nothing."""
        return {"positions_visited": len(self.visits)}

    def rooms(self) -> dict[int, np.ndarray]:
        """By room: `[P, 3]` int64 rows of x, y (RAM) and visits, sorted by place."""
        table: dict[int, list[tuple[int, int, int]]] = {}
        for place, count in sorted(self.visits.items()):
            table.setdefault(place >> 16, []).append((place >> 8 & 255, place & 255, count))
        return {room: np.array(rows, np.int64) for room, rows in table.items()}


def on_frame(x: np.ndarray, y: np.ndarray, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """RAM coordinates to pixels (column, row) of a frame of the whole screen, as float64."""
    return (x + _LEFT) * (width / _SCREEN_WIDTH), (_BOTTOM - y) * (height / _SCREEN_HEIGHT)


def save(folder: pathlib.Path, step: int, positions: Positions) -> None:
    """Writes a checkpoint's positions, whole and on the disk when it returns; nothing where there are none."""
    if not positions.visits:
        return
    folder.mkdir(parents=True, exist_ok=True)
    places = np.array(sorted(positions.visits), np.uint32)
    shown = sorted(positions.frames)
    target = _path(folder, step)
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            places=places,
            visits=np.array([positions.visits[place] for place in places.tolist()], np.int64),
            rooms=np.array(shown, np.uint8),
            frames=np.stack([positions.frames[room] for room in shown]) if shown else np.zeros((0, 0, 0, 0), np.uint8),
        )
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)


def restore(folder: pathlib.Path, step: int) -> Positions:
    """Reads what `save` wrote for a step; none where it wrote nothing.

    Raises:
      ValueError: the file is damaged; it is named.
    """
    path = _path(folder, step)
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream) as saved:
            visits = dict(zip(saved["places"].tolist(), saved["visits"].tolist(), strict=True))
            frames = dict(zip(saved["rooms"].tolist(), saved["frames"], strict=True))
    except FileNotFoundError:
        return Positions()
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as problem:
        raise ValueError(f"{path}: cannot be read: {problem}") from problem
    return Positions(collections.Counter(visits), frames)


def keep_only(folder: pathlib.Path, steps: Collection[int]) -> None:
    """Deletes the files of other steps than these."""
    kept = {_path(folder, step).name for step in steps}
    for file in folder.glob("step_*"):
        if file.name not in kept:
            file.unlink()


def _path(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"step_{step:012d}.npz"
