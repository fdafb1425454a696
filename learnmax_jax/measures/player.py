"""Is the player in the picture? Recall in a box round the place that the emulator's RAM tells.

Evaluation only: nothing learns from RAM.
"""

import numpy as np

BOX_WIDTH, BOX_HEIGHT = 11, 17  # pixels of the 84x84 frame
LEAST_CORRELATION = 0.5
# Standard deviation, grey levels: a true frame whose box differs less than this from the room's median shows no player.
_LEAST_CONTRAST = 1.0


def to_pixels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RAM's place of the player in Montezuma's Revenge to pixels of the 84x84 frame, float."""
    return (x + 4.0) * 84 / 160, (315.0 - y) * 84 / 210


def median_frames(frames: np.ndarray, rooms: np.ndarray, *, most: int = 501) -> dict[int, np.ndarray]:
    """The median frame `[H, W]` of every room, of at most `most` of its frames `[M, H, W]`, evenly taken."""
    medians = {}
    for room in np.unique(rooms):
        index = np.flatnonzero(rooms == room)
        medians[int(room)] = np.median(frames[index[:: -(-len(index) // most)]], axis=0).astype(np.float32)
    return medians


def player_seen(
    frames: np.ndarray, decoded: np.ndarray, medians: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each decoded frame shows the player where it is.

    Both frames, less the room's median frame, are compared by correlation in a box round the player.

    Args:
      frames: `[M, H, W]`, true frames, 0..255.
      decoded: `[M, H, W]`, what was made of them.
      medians: `[M, H, W]`, the median frame of each frame's room.
      x, y: `[M]` pixels, the player's middle.
    Returns:
      seen `[M]` bool, and visible `[M]` bool: the true frame shows anything in the box. Recall is the mean of
      `seen` where `visible`.
    """
    true = _boxes(frames.astype(np.float32) - medians, x, y)
    made = _boxes(decoded.astype(np.float32) - medians, x, y)
    true, made = true - true.mean(axis=1, keepdims=True), made - made.mean(axis=1, keepdims=True)
    scale = np.sqrt((true**2).sum(axis=1) * (made**2).sum(axis=1))
    correlation = (true * made).sum(axis=1) / np.maximum(scale, 1e-6)
    return correlation > LEAST_CORRELATION, true.std(axis=1) >= _LEAST_CONTRAST


def _boxes(frames: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cuts a box round (x, y) out of each frame, `[M, H, W]` -> `[M, BOX_HEIGHT * BOX_WIDTH]`; 0 outside the frame."""
    half_width, half_height = BOX_WIDTH // 2, BOX_HEIGHT // 2
    padded = np.pad(frames, ((0, 0), (half_height, half_height), (half_width, half_width)))
    left = np.clip(np.rint(x).astype(int), 0, frames.shape[2] - 1)
    top = np.clip(np.rint(y).astype(int), 0, frames.shape[1] - 1)
    rows = top[:, None, None] + np.arange(BOX_HEIGHT)[None, :, None]
    columns = left[:, None, None] + np.arange(BOX_WIDTH)[None, None, :]
    return padded[np.arange(len(frames))[:, None, None], rows, columns].reshape(len(frames), -1)
