"""What a tokenizer and a model are worth on held-out frames; RAM is read here, and nothing learns from it.

Names of the figures: `recall` (share of frames whose decoded picture shows the player), `position_error`
(pixels, of a linear probe of the codes for each room), `room_accuracy` (of another), `gap_closed_<k>` (share
of the step from copying the last frame to reconstructing the next that k open-loop steps go, in foreground error;
the likeliest codes decoded), `gap_closed_mean_<k>` (the same of the picture of all that is held possible),
`frames_right_<k>` (share of frames all of whose codes are), `wrong_action_ratio` (loss with another action asked about,
over the loss with the one that was taken; frames that change) and `held_out_codes_used` (of a codebook; the room's
is not counted).
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from learnmax_jax import pictures, recording
from learnmax_jax.agent import Agent
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.measures import code_use, latent_space, linear_probe, player, prediction
from learnmax_jax.measures.rollout import forced_nats, roll_out
from learnmax_jax.models.code_tables import scale_and_rank
from learnmax_jax.replay import dataset
from learnmax_jax.replay.dataset import Dataset
from learnmax_jax.types import Batch

HORIZONS = (1, 2, 5, 10)
WINDOWS = (1, 2, 3, 8, 32)
# Frames that probes are fitted on, at most. One probe of 3,168 one-hot codes for all rooms was 3.1 pixels off on 16,384
# frames and 2.8 on 65,536; one for each room 2.5 and 2.0.
PROBE_FRAMES = 65_536
# Held-out frames that single-frame figures are taken from, at most.
TEST_FRAMES = 4096
# Windows that are rolled out in one call.
_CHUNK = 32


# Codes [M, N, G] of frames in rooms [M] -> the player's places [M, 2].
ReadPlaces = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


class Examiner:
    """Held-out frames and windows of one data set, and what is compiled to look at them."""

    def __init__(self, agent: Agent, recorded: Dataset, data: pathlib.Path) -> None:
        """Gathers frames, windows and RAM's facts; compiles nothing.

        Args:
          agent: the parts.
          recorded: the data set.
          data: its folder, for the probes.
        """
        self.agent, section = agent, agent.config.pretrain
        self.probe = read_all_probes(recorded, data)
        self.is_montezuma = agent.config.env.backend != "world"
        generator = np.random.default_rng(0)
        train_rows = _some(recorded.training_rows, generator, most=PROBE_FRAMES)
        self.train = self._frames(recorded, train_rows)
        self.room_medians = player.median_frames(self.train.pixels[..., 0], self.train.room)
        test_rows = np.flatnonzero(recorded.is_test & ~recorded.is_known)
        self.test = self._frames(recorded, _some(test_rows, generator, most=TEST_FRAMES))
        self.context_frames = min(agent.config.actor.window, agent.config.learner.sequence_length)
        environment, start = dataset.held_out_windows(recorded, length=self.context_frames + max(HORIZONS))
        chosen = _some(np.arange(len(start)), generator, most=section.num_test_windows)
        self.windows: Batch | None = None
        if len(chosen):
            environment, start = environment[chosen], start[chosen]
            self.windows = dataset.gather(
                recorded, environment, start, start, sequence_length=self.context_frames + max(HORIZONS) - 1
            )
            times = start[:, None] + self.context_frames + np.arange(max(HORIZONS))[None]
            flat = (environment[:, None] * recorded.begin.shape[1] + times).reshape(-1)
            self.ahead = self._frames(recorded, flat)
        ends = _some_endings(recorded, generator, length=self.context_frames + 1, most=section.num_test_windows)
        self.endings = dataset.gather(recorded, *ends, ends[1], sequence_length=self.context_frames)
        self._tokenise = jax.jit(lambda params, x: agent.world_model.tokenise(params, x))
        self._decode = jax.jit(lambda params, codes: agent.world_model.decode(params, codes))
        ahead: dict[str, Any] = {
            "world_model": agent.world_model,
            "context_frames": self.context_frames,
            "unroll_steps": max(HORIZONS),
        }
        self._roll_out = jax.jit(partial(roll_out, **ahead))
        self._forced_nats = jax.jit(partial(forced_nats, **ahead))
        # Compiled once each: an examination may come every few updates.
        self._look = {
            window: jax.jit(partial(roll_out, world_model=agent.world_model, context_frames=window, unroll_steps=1))
            for window in WINDOWS
            if window <= self.context_frames
        }
        self.imagine = jax.jit(
            partial(
                pictures.imagine,
                world_model=agent.world_model,
                context_frames=self.context_frames,
                unroll_steps=agent.config.learner.unroll_steps,
            )
        )

    def _frames(self, recorded: Dataset, rows: np.ndarray) -> Frames:
        pixels = all_frames(recorded)[rows]
        room, x, y = (getattr(self.probe, name).reshape(-1)[rows] for name in ("room", "x", "y"))
        if self.is_montezuma:
            x, y = player.to_pixels(x, y)
        return Frames(pixels, room, x.astype(np.float32), y.astype(np.float32))

    def medians(self, frames: Frames) -> np.ndarray:
        """The median frame of each frame's room, `[M, H, W]` float32; of any room where training never saw it."""
        some = self.room_medians[min(self.room_medians)]
        return np.stack([self.room_medians.get(int(number), some) for number in frames.room])

    def examine(self, train: TrainState, *, with_model: bool) -> dict[str, Any]:
        """All figures that the data allows.

        Args:
          train: what has learned.
          with_model: the dynamics has learned something too.
        """
        figures, probe = self.examine_tokenizer(train)
        if with_model and self.windows is not None:
            figures |= self.examine_model(train, probe)
        return figures

    def tokenise(self, train: TrainState, frames: np.ndarray) -> np.ndarray:
        """Codes `[M, N, G]` of frames `[M, H, W, C]`, a few at a time."""
        # One after the other: what is dispatched ahead has its memory already.
        parts = [jax.device_get(self._tokenise(train.model, x)) for x in _chunks(frames)]
        return np.concatenate(parts)[: len(frames)]

    def decode(self, train: TrainState, codes: np.ndarray) -> np.ndarray:
        """Pictures `[M, H, W]` of codes `[M, N, G]`."""
        parts = [jax.device_get(self._decode(train.model, x)) for x in _chunks(codes)]
        return np.concatenate(parts)[: len(codes), ..., 0]

    def examine_tokenizer(self, train: TrainState) -> tuple[dict[str, Any], ReadPlaces | None]:
        """Figures of single frames, and the probe that reads the player's place off codes."""
        codes = self.tokenise(train, self.test.pixels)  # compiles
        begin = time.monotonic()
        codes = self.tokenise(train, self.test.pixels)
        speed = len(codes) / (time.monotonic() - begin)
        decoded = self.decode(train, codes)
        true = self.test.pixels[..., 0].astype(np.float32)
        medians = self.medians(self.test)
        mask = prediction.foreground(true, true, medians, threshold=self.threshold)
        names_room = self.agent.config.tokenizer.background != "none"
        by_codebook = code_use.by_codebook(codes, patches=self.agent.tokenizer.patches, names_room=names_room)
        used, perplexity = code_use.code_use(by_codebook, self.num_codes)
        figures: dict[str, Any] = {
            "encode_frames_per_second": speed,
            "bits_a_frame": codes[0].size * math.log2(self.num_codes),
            "test_pixel_error": float(np.sqrt(((true - decoded) ** 2).mean())),
            "test_foreground_error": prediction.foreground_error(true, decoded, mask),
            "held_out_codes_used": used,
            "held_out_perplexity": perplexity,
        }
        if (self.test.room < 0).any():
            return figures, None
        seen, visible = player.player_seen(true, decoded, medians, self.test.x, self.test.y)
        vectors = np.asarray(self.agent.tokenizer.code_vectors(train.tokenizer))
        train_codes = self.tokenise(train, self.train.pixels)
        features_of = linear_probe.features_of(train_codes, vectors)
        features, test_features = features_of(train_codes), features_of(codes)
        probe = linear_probe.fit_places(features, _places(self.train), self.train.room)
        off = linear_probe.distance(probe(test_features, self.test.room), _places(self.test))
        figures |= {
            "recall": float(seen[visible].mean()),
            "position_error": float(off.mean()),
            "room_accuracy": linear_probe.room_accuracy(features, self.train.room, test_features, self.test.room),
        }
        return figures, lambda codes, rooms: probe(features_of(codes), rooms)

    @property
    def threshold(self) -> float:
        """Grey levels off the median from which a pixel is foreground: as the tokenizer's own."""
        return self.agent.config.tokenizer.motion_threshold

    @property
    def num_codes(self) -> int:
        """V."""
        return self.agent.tokenizer.num_codes

    def _taken(self) -> np.ndarray:
        """The actions `[B, K]` that led to the frames ahead."""
        assert self.windows is not None
        actions = np.asarray(self.windows.rows.action)
        return actions[:, self.context_frames - 1 : self.context_frames - 1 + max(HORIZONS)]

    def _nats_of_window(self, train: TrainState, windows: Batch, window: int) -> tuple[float, float]:
        """Cross-entropies of the first frame ahead, and of whether the episode ends there.

        Only the last `window` frames before it are seen.
        """
        seen = _cut(windows, self.context_frames - window)
        rolled = [self._look[window](train.model, part) for part in _batches(seen)]
        count = seen.mask.shape[0]
        of_codes, of_end = (
            np.concatenate([getattr(part, name)[:, 0] for part in rolled])[:count] for name in ("nats", "end_nats")
        )
        return float(of_codes.mean()), float(of_end.mean())

    def examine_model(self, train: TrainState, probe: ReadPlaces | None) -> dict[str, Any]:
        """Figures of open-loop predictions on the held-out windows."""
        assert self.windows is not None
        rolled = [self._roll_out(train.model, part) for part in _batches(self.windows)]
        count = self.windows.mask.shape[0]
        rolled = jax.tree.map(lambda *x: np.concatenate(x)[:count], *jax.device_get(rolled))
        steps = max(HORIZONS)
        last = np.asarray(self.windows.rows.observation[:, self.context_frames - 1, ..., 0], np.float32)

        def by_window(x: np.ndarray) -> np.ndarray:
            return x.reshape(count, steps, *x.shape[1:])

        true, medians = by_window(self.ahead.pixels[..., 0].astype(np.float32)), by_window(self.medians(self.ahead))
        places, rooms = by_window(_places(self.ahead)), by_window(self.ahead.room)
        taken = self._taken()
        asked = taken[np.random.default_rng(0).permutation(count)]
        parts = zip(_batches(self.windows), _filled(asked).reshape(-1, _CHUNK, steps), strict=True)
        wrong_nats = np.concatenate([self._forced_nats(train.model, *part) for part in parts])[:count]
        moved = rolled.codes != np.concatenate([rolled.last_codes[:, None], rolled.codes[:, :-1]], axis=1)
        telling = moved.any(axis=(-2, -1)) & (asked != taken)
        imagined, seen = (x[:, 0].mean(axis=1) for x in (rolled.latents, rolled.forced_latents))
        scale, rank = scale_and_rank(self.agent.world_model.code_table(train.model))
        figures: dict[str, Any] = {
            "code_input_scale": float(scale.mean()),
            "code_input_rank": float(rank.mean()),
            "wrong_action_ratio": float(wrong_nats[telling].mean() / max(rolled.forced_nats[telling].mean(), 1e-9))
            if telling.any()
            else None,
            "latent_separability": float(latent_space.separability(jax.random.key(0), seen, imagined, ridge=1e-3)),
            "latent_spread": float(seen.std(axis=0).mean()),  # 0 where a consistency loss made all latents one
            "latent_cka": float(latent_space.linear_cka(seen, imagined)),
            "forced_nats": float(rolled.forced_nats.mean()),
            "rolling_nats": float(rolled.rolling_nats.mean()),
            "open_nats": float(rolled.nats.mean()),
            "rolling_over_forced": float(rolled.rolling_nats.mean() / max(rolled.forced_nats.mean(), 1e-9)),
            "exposure_ratio": float(rolled.nats.mean() / max(rolled.rolling_nats.mean(), 1e-9)),
        }
        held_out = np.isin(taken, self.agent.config.pretrain.held_out_actions)
        if held_out.any():
            figures["held_out_action_nats"] = float(rolled.forced_nats[held_out].mean())
        for window in self._look:
            figures[f"nats_of_window_{window}"], _ = self._nats_of_window(train, self.windows, window)
            _, figures[f"end_nats_of_window_{window}"] = self._nats_of_window(train, self.endings, window)
        for k in HORIZONS:
            at = k - 1
            predicted, codes = rolled.predicted[:, at], rolled.codes[:, at]
            mask = prediction.foreground(true[:, at], last, medians[:, at], threshold=self.threshold)
            errors = {
                "model": prediction.foreground_error(true[:, at], self.decode(train, predicted), mask),
                "copy": prediction.foreground_error(true[:, at], last, mask),
                "reconstruction": prediction.foreground_error(true[:, at], self.decode(train, codes), mask),
            }
            mean = prediction.foreground_error(true[:, at], rolled.mean_frames[:, at, ..., 0], mask)
            figures |= {f"error_{name}_{k}": value for name, value in errors.items()} | {f"error_mean_{k}": mean}
            figures[f"gap_closed_{k}"] = prediction.gap_closed(**errors)
            figures[f"gap_closed_mean_{k}"] = prediction.gap_closed(**(errors | {"model": mean}))
            figures[f"changed_accuracy_{k}"] = prediction.changed_accuracy(codes, predicted, rolled.last_codes)
            figures[f"accuracy_{k}"] = float((codes == predicted).mean())
            figures[f"frames_right_{k}"] = float((codes == predicted).all(axis=(-2, -1)).mean())
            if probe is not None:
                figures[f"predicted_position_error_{k}"] = float(
                    linear_probe.distance(probe(predicted, rooms[:, at]), places[:, at]).mean()
                )
        return figures


def _cut(windows: Batch, begin: int) -> Batch:
    """Windows without their first rows."""
    return windows.replace(rows=jax.tree.map(lambda x: x[:, begin:], windows.rows), mask=windows.mask[:, begin:])


def read_all_probes(recorded: Dataset, data: pathlib.Path) -> Any:
    """The probes of all rows, numpy `[E, T, ...]`."""
    probes = [recording.read_probes(data, int(index)) for index in recorded.records]
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *probes)


def all_frames(recorded: Dataset) -> np.ndarray:
    """All frames, `[E * T, H, W, C]`."""
    frames: Any = recorded.rows.observation
    return frames.reshape(-1, *frames.shape[2:])


def _places(frames: Frames) -> np.ndarray:
    return np.stack([frames.x, frames.y], axis=-1)


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


def _chunks(x: np.ndarray) -> list[np.ndarray]:
    """Pieces of one size, so that one program serves all; the last one is filled with its first row."""
    size = 8 * _CHUNK
    missing = -len(x) % size
    filled = np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
    return [filled[at : at + size] for at in range(0, len(filled), size)]


def _batches(windows: Batch) -> list[Batch]:
    """Windows in batches of one size; the last one is filled with the first window."""
    index = _filled(np.arange(windows.mask.shape[0])).reshape(-1, _CHUNK)
    return [jax.tree.map(lambda x, rows=rows: x[rows], windows) for rows in index]


def _filled(x: np.ndarray) -> np.ndarray:
    """Repeats the first row behind the last until _CHUNK divides their number."""
    return np.concatenate([x, np.repeat(x[:1], -len(x) % _CHUNK, axis=0)])
