"""Rows in pieces of one size, so that one compiled program serves all of them."""

import jax
import numpy as np

from learnmax_jax.types import Batch

# Windows that are rolled out in one call.
NUM_WINDOWS = 32
# Frames that are encoded or decoded in one call.
NUM_FRAMES = 8 * NUM_WINDOWS


def chunks(x: np.ndarray) -> list[np.ndarray]:
    """Pieces of NUM_FRAMES rows; the last one is filled with the first row of all."""
    x = filled(x, NUM_FRAMES)
    return [x[at : at + NUM_FRAMES] for at in range(0, len(x), NUM_FRAMES)]


def batches(windows: Batch) -> list[Batch]:
    """Windows in batches of NUM_WINDOWS; the last one is filled with the first window."""
    index = filled(np.arange(windows.mask.shape[0]), NUM_WINDOWS).reshape(-1, NUM_WINDOWS)
    return [jax.tree.map(lambda x, rows=rows: x[rows], windows) for rows in index]


def filled(x: np.ndarray, size: int) -> np.ndarray:
    """Repeats the first row behind the last until `size` divides their number."""
    return np.concatenate([x, np.repeat(x[:1], -len(x) % size, axis=0)])
