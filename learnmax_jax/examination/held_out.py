"""The frames and windows of one data set that an examination looks at, with what RAM says of them."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from learnmax_jax import config, recording
from learnmax_jax.measures import player
from learnmax_jax.replay import dataset
from learnmax_jax.replay.dataset import Dataset
from learnmax_jax.types import Batch

# Steps ahead at which predictions are looked at.
HORIZONS = (1, 2, 5, 10)
# Frames that probes are fitted on, at most. One probe of 3,168 one-hot codes for all rooms was 3.1 pixels off on 16,384
# frames and 2.8 on 65,536; one for each room 2.5 and 2.0.
PROBE_FRAMES = 65_536
# Held-out frames that single-frame figures are taken from, at most.
TEST_FRAMES = 4096


@dataclasses.dataclass(frozen=True)
class Frames:
    """Single frames with what RAM says of them; `[M, ...]`.

    Attributes:
      pixels: `[M, H, W, C]` uint8. room: `[M]` int32, -1 where unknown.
      x, y: `[M]` float32 pixels, the player's middle.
    """

    pixels: np.ndarray
    room: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __getitem__(self, rows: slice) -> "Frames":
        """Some of them."""
        return Frames(self.pixels[rows], self.room[rows], self.x[rows], self.y[rows])

    @property
    def places(self) -> np.ndarray:
        """`[M, 2]`."""
        return np.stack([self.x, self.y], axis=-1)

    @property
    def grey(self) -> np.ndarray:
        """`[M, H, W]` float32, 0..255."""
        return self.pixels[..., 0].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What is looked at.

    Attributes:
      train: frames that may be learned from; probes are fitted on them.
      test: held-out frames.
      room_medians: room -> median `[H, W]` of the training frames in it.
      context_frames: frames that the model sees before it predicts.
      windows: held-out windows of context_frames + max(HORIZONS) rows; None where the data have none.
      ahead: frames `[M * K]` that follow the contexts of `windows`; None as they are.
      endings: held-out windows of context_frames + 1 rows, half of which end with their episode, if they can.
    """

    train: Frames
    test: Frames
    room_medians: dict[int, np.ndarray]
    context_frames: int
    windows: Batch | None
    ahead: Frames | None
    endings: Batch

    def medians(self, frames: Frames) -> np.ndarray:
        """The median frame of each frame's room, `[M, H, W]` float32; of any room where training never saw it."""
        some = self.room_medians[min(self.room_medians)]
        return np.stack([self.room_medians.get(int(number), some) for number in frames.room])


def gather(settings: config.Settings, recorded: Dataset, data: pathlib.Path) -> HeldOut:
    """Draws them, always the same ones of the same data.

    Args:
      settings: the checked config, with a section `pretrain`.
      recorded: the data set.
      data: its folder, for the probes.
    """
    probe = read_all_probes(recorded, data)

    def frames_at(rows: np.ndarray) -> Frames:
        room, x, y = (getattr(probe, name).reshape(-1)[rows] for name in ("room", "x", "y"))
        if settings.env.backend != "world":
            x, y = player.to_pixels(x, y)
        return Frames(all_frames(recorded)[rows], room, x.astype(np.float32), y.astype(np.float32))

    generator, most = np.random.default_rng(0), settings.pretrain.num_test_windows
    train = frames_at(_some(recorded.training_rows, generator, most=PROBE_FRAMES))
    test_rows = np.flatnonzero(recorded.is_test & ~recorded.is_known)
    test = frames_at(_some(test_rows, generator, most=TEST_FRAMES))
    context_frames = min(settings.actor.window, settings.learner.sequence_length)
    length = context_frames + max(HORIZONS)
    environment, start = dataset.held_out_windows(recorded, length=length)
    chosen = _some(np.arange(len(start)), generator, most=most)
    windows, ahead = None, None
    if len(chosen):
        environment, start = environment[chosen], start[chosen]
        windows = dataset.gather(recorded, environment, start, start, sequence_length=length - 1)
        times = start[:, None] + context_frames + np.arange(max(HORIZONS))[None]
        ahead = frames_at((environment[:, None] * recorded.begin.shape[1] + times).reshape(-1))
    ends = _some_endings(recorded, generator, length=context_frames + 1, most=most)
    return HeldOut(
        train=train,
        test=test,
        room_medians=player.median_frames(train.pixels[..., 0], train.room),
        context_frames=context_frames,
        windows=windows,
        ahead=ahead,
        endings=dataset.gather(recorded, *ends, ends[1], sequence_length=context_frames),
    )


def read_all_probes(recorded: Dataset, data: pathlib.Path) -> Any:
    """The probes of all rows, numpy `[E, T, ...]`."""
    probes = [recording.read_probes(data, int(index)) for index in recorded.records]
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *probes)


def all_frames(recorded: Dataset) -> np.ndarray:
    """All frames, `[E * T, H, W, C]`."""
    frames: Any = recorded.rows.observation
    return frames.reshape(-1, *frames.shape[2:])


def _some(rows: np.ndarray, generator: np.random.Generator, *, most: int) -> np.ndarray:
    """At most `most` of the rows, drawn without replacement, in order."""
    return np.sort(generator.choice(rows, min(most, len(rows)), replace=False))


def _some_endings(
    recorded: Dataset, generator: np.random.Generator, *, length: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out windows of `length` rows that may overlap one another: half of them end with their episode, if they can.

    Returns:
      environment `[M]`, start `[M]` int32.
    """
    rows: Any = recorded.rows
    num_times = recorded.begin.shape[1]
    start = np.arange(num_times)[None] - (length - 2)  # of the window whose last transition is here
    known = np.cumsum(np.pad(recorded.is_known, ((0, 0), (1, 0))), axis=1)
    # A window shorter than the overlap is judged by the rows that follow it, too.
    last_known = np.clip(start + max(length - recorded.overlap_length, 0) + 1, 0, num_times)
    first_known = np.clip(start, 0, num_times)
    columns = [
        np.take_along_axis(known, np.broadcast_to(at, recorded.begin.shape), 1) for at in (last_known, first_known)
    ]
    fits = rows.valid & recorded.is_test & (start >= recorded.begin) & (columns[0] == columns[1])
    ends = rows.discount == 0
    chosen = [_some(np.flatnonzero(fits & part), generator, most=max(most // 2, 1)) for part in (ends, ~ends)]
    environment, time = np.divmod(np.concatenate(chosen), num_times)
    return environment.astype(np.int32), (time - (length - 2)).astype(np.int32)
