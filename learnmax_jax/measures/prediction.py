"""How much of the step between copying the last frame and reconstructing the next one a model goes."""

import numpy as np


def foreground(frames: np.ndarray, last: np.ndarray, medians: np.ndarray, *, threshold: float) -> np.ndarray:
    """Pixels that matter: off the room's median in the frame that came, or in the one that was last.

    Args:
      frames, last, medians: `[M, H, W]`, 0..255.
      threshold: grey levels.
    Returns:
      `[M, H, W]` bool.
    """
    return (np.abs(frames - medians) > threshold) | (np.abs(last - medians) > threshold)


def foreground_error(frames: np.ndarray, made: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square over the masked pixels of all frames `[M, H, W]`, grey levels; 0 where none is masked."""
    squared = (frames.astype(np.float32) - made.astype(np.float32)) ** 2
    return float(np.sqrt((squared * mask).sum() / max(mask.sum(), 1)))


def gap_closed(model: float, copy: float, reconstruction: float) -> float | None:
    """Share of the gap from `copy` to `reconstruction` that `model` closes; None where there is no gap.

    1: as good as the tokenizer lets it be; 0: as good as copying; below 0: worse.
    """
    gap = copy - reconstruction
    return (copy - model) / gap if gap > 1e-6 else None


def changed_accuracy(codes: np.ndarray, predicted: np.ndarray, last: np.ndarray) -> float | None:
    """Accuracy on the codes that differ from the last frame's, `[M, N, G]` each; None where none does."""
    changed = codes != last
    return float((codes == predicted)[changed].mean()) if changed.any() else None
