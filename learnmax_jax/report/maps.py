"""The map of a report: where the player has been, room by room."""

import io

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from learnmax_jax import positions
from learnmax_jax.lifecycle import StorageError
from learnmax_jax.positions import Positions
from learnmax_jax.report.folder import Folder, Missing, step_of

_COLUMNS = 4
_ROOM_INCHES = 2.6
_DOTS_AN_INCH = 120
_DIMMED = 0.45  # of a frame's brightness, so that the visits stand out


def read(folder: Folder) -> Positions:
    """The newest positions of a folder.

    Raises:
      Missing: there are none.
      StorageError: the file is damaged.
    """
    files = folder.files("positions/step_*.npz")
    if not files:
        raise Missing("no positions: the game's RAM tells none, or no checkpoint has been saved with them")
    try:
        return positions.restore(folder.path / "positions", step_of(files[-1]))
    except ValueError as problem:
        raise StorageError(str(problem)) from problem


def draw(visited: Positions) -> bytes:
    """A PNG with a picture a room: the last frame seen of it, dimmed, under the visits of each place."""
    rooms = visited.rooms()
    columns = min(_COLUMNS, len(rooms))
    lines = -(-len(rooms) // columns)
    figure = Figure(figsize=(_ROOM_INCHES * columns + 0.9, (_ROOM_INCHES + 0.3) * lines), layout="constrained")
    most = max(int(table[:, 2].max()) for table in rooms.values())
    image = None
    panels = []
    for index, (room, table) in enumerate(rooms.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        panels.append(axes)
        frame = visited.frames.get(room)
        shape = frame.shape[:2] if frame is not None else _usual_shape(visited)
        if frame is not None:
            axes.imshow(frame[..., 0] * _DIMMED, cmap="gray", vmin=0, vmax=255)
        counts = count_pixels(table, shape)
        image = axes.imshow(np.ma.masked_equal(counts, 0), cmap="plasma", norm=LogNorm(1, max(most, 2)))
        axes.set_title(f"room {room}: {len(table):,} places", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    if image is not None:
        bar = figure.colorbar(image, ax=panels, fraction=0.05 / columns, aspect=30)
        bar.set_label("agent steps seen there (log scale)", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_AN_INCH)
    return stream.getvalue()


def count_pixels(table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Visits `[P, 3]` (x, y, visits; RAM numbers) on the pixels of a frame `[H, W]`; none is lost at the border."""
    columns, rows = positions.on_frame(table[:, 0], table[:, 1], height=shape[0], width=shape[1])
    counts = np.zeros(shape, np.int64)
    place = (np.clip(rows.astype(int), 0, shape[0] - 1), np.clip(columns.astype(int), 0, shape[1] - 1))
    np.add.at(counts, place, table[:, 2])
    return counts


def _usual_shape(visited: Positions) -> tuple[int, int]:
    """Of the frames of other rooms; the emulators' where none was kept."""
    return next((frame.shape[:2] for frame in visited.frames.values()), (84, 84))
