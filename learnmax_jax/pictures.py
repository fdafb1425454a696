"""Pictures of what the model sees: actual, reconstructed and predicted frames under one another."""

import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image, ImageDraw

from learnmax_jax.measures.rollout import roll_out
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Batch

SCALE = 2  # screen pixels a frame's pixel
CAPTION_HEIGHT = 14  # screen pixels
GAP = 2
DIGIT_SIZE = 6  # pixels of a frame a digit takes


def imagine(
    params: ModelParams, batch: Batch, *, world_model: WorldModel, context_frames: int, unroll_steps: int
) -> tuple[Array, Array, Array]:
    """Rolls the model open loop through the actions that were taken.

    Args:
      params: of the model.
      batch: windows `[B, L + 1, ...]`; only those whose first context_frames + unroll_steps frames are of one
        episode make sense.
      world_model: the bundle.
      context_frames: real frames the model sees first.
      unroll_steps: K, frames it predicts, by the very step that search and training use.
    Returns:
      Frames `[B, K, H, W, C]` in 0..255: actual, reconstructed from their own codes, predicted.
    """
    rolled = roll_out(params, batch, world_model=world_model, context_frames=context_frames, unroll_steps=unroll_steps)

    def decode(codes: Array) -> Array:
        frames = world_model.decode(params, codes.reshape(-1, *codes.shape[2:]))
        return frames.reshape(*codes.shape[:2], *frames.shape[1:])

    actual = batch.rows.observation[:, context_frames : context_frames + unroll_steps]
    return actual, decode(rolled.codes), decode(rolled.predicted)


def drawable(frames: np.ndarray) -> np.ndarray:
    """Frames as they are; observations of one pixel, whose channels are digits, as grey squares in reading order.

    Args:
      frames: `[..., H, W, C]`, numbers in 0..255.
    Returns:
      `[..., H, W, C]` uint8, C 1 or 3; of digits C is 1, and the largest of all is white.
    """
    height, width, channels = frames.shape[-3:]
    if height * width > 1:
        return np.clip(frames, 0, 255).astype(np.uint8)
    columns = math.ceil(math.sqrt(channels))
    lines = -(-channels // columns)
    grey = np.clip(frames, 0, 255) * (255 / max(frames.max(), 1))
    around = [(0, 0)] * (frames.ndim - 3)
    grid = np.pad(grey[..., 0, 0, :], [*around, (0, lines * columns - channels)])
    grid = grid.reshape(*frames.shape[:-3], lines, columns, 1).astype(np.uint8)
    return grid.repeat(DIGIT_SIZE, axis=-3).repeat(DIGIT_SIZE, axis=-2)


def draw_strip(rows: Sequence[Array], captions: Sequence[str]) -> Image.Image:
    """Draws rows of frames under one another, a caption under each column.

    Args:
      rows: each `[K, H, W, C]`, values in 0..255.
      captions: K texts.
    """
    shown = drawable(np.stack([np.asarray(frames) for frames in rows]))
    height, width = (size * SCALE + GAP for size in shown.shape[2:4])
    picture = Image.new("RGB", (width * len(captions), CAPTION_HEIGHT + height * len(rows)), "white")
    draw = ImageDraw.Draw(picture)
    for column, caption in enumerate(captions):
        draw.text((column * width + 2, height * len(rows)), caption, fill="black")
        for line, frames in enumerate(shown):
            pixels = frames[column]
            frame = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            frame = frame.resize((pixels.shape[1] * SCALE, pixels.shape[0] * SCALE), Image.Resampling.NEAREST)
            picture.paste(frame.convert("RGB"), (column * width, line * height))
    return picture


def write_strip(
    frames: tuple[Array, Array, Array],
    batch: Batch,
    path: pathlib.Path,
    *,
    context_frames: int,
    action_names: Sequence[str],
) -> pathlib.Path:
    """Draws the window of a batch that moves most: actual, reconstructed, predicted; captions name the actions.

    Args:
      frames: of `imagine`.
      batch: as given to `imagine`.
      path: of the picture; its folder is made if need be.
      context_frames: as given to `imagine`.
      action_names: of each action.
    """
    rows = jax.device_get(frames)
    unroll_steps = rows[0].shape[1]
    moves = np.abs(np.diff(rows[0].astype(np.float32), axis=1)).mean(axis=(1, 2, 3, 4))
    index = int(np.argmax(moves))
    taken = np.asarray(batch.rows.action[index, context_frames - 1 : context_frames + unroll_steps - 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_strip([row[index] for row in rows], [action_names[action] for action in taken]).save(path)
    return path
