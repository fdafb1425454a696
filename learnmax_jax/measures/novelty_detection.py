"""Is a new thing noticed, and does it get codes of its own without disturbing the old ones?

A tokenizer has seen frames that all hold the same things, a key say. Held-out frames of that kind
say how large a score is still normal; frames with the key gone should score higher. Afterwards a
quantiser that has learned from the new frames is compared with what it was. Arrays in, numbers out.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well new frames are told from known ones.

    Attributes:
      recall: share of the new frames above the threshold.
      false_alarms: share of the held-out known frames above it; at most what was allowed.
      threshold: in the scores' units.
    """

    recall: float
    false_alarms: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class Growth:
    """What learning from new frames has changed.

    Attributes:
      changed_share: of the known frames' codes, those that are others now.
      own_code_share: of the new frames, those with a code that was not there before.
    """

    changed_share: float
    own_code_share: float


def cut_patches(frames: np.ndarray, patch_size: int) -> np.ndarray:
    """Frames `[M, H, W, C]` -> patches `[M, N, D]` in reading order, as the tokenizer's; 0 behind the frame's edge."""
    num_frames, height, width, channels = frames.shape
    below, right = -height % patch_size, -width % patch_size
    frames = np.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)))
    rows, columns = (height + below) // patch_size, (width + right) // patch_size
    grid = frames.reshape(num_frames, rows, patch_size, columns, patch_size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(num_frames, -1, patch_size * patch_size * channels)


def seen_codes(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Which codes each place of the frame has had, `[M, N]` -> `[N, V]` bool."""
    seen = np.zeros((codes.shape[1], num_codes), bool)
    for place, column in enumerate(codes.T):
        seen[place, column] = True
    return seen


def distances(patches: np.ndarray, pictures: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """How far each patch is from the nearest code that its place has had, root mean square, grey levels.

    The nearest code of all would not do: where a thing is gone the bare wall shows, which is known from elsewhere.

    Args:
      patches: `[M, N, D]`, 0..255.
      pictures: `[V, D]`, what the codes look like, 0..255.
      seen: `[N, V]` bool, as `seen_codes` gives it; each place has had one at least.
    Returns:
      `[M, N]` float.
    """
    squared = np.empty(patches.shape[:2], np.float32)
    for place in range(patches.shape[1]):
        points, known = patches[:, place].astype(np.float32), pictures[seen[place]].astype(np.float32)
        lengths = (points**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None]
        squared[:, place] = (lengths - 2.0 * points @ known.T).min(axis=1)
    return np.sqrt(np.maximum(squared, 0.0) / patches.shape[-1])


def scores(distances: np.ndarray, *, num_frames: int) -> np.ndarray:
    """How strange each frame is: the largest distance of a place that has lasted `num_frames` frames.

    What passes by, a player in a pose that no code has, is strange for a frame or two; what is gone stays gone. So
    each place counts with the least distance it had in the last frames. 1 asks every frame alone.

    Args:
      distances: `[B, T, N]`, consecutive frames of B episodes.
      num_frames: at least 1 and at most T.
    Returns:
      `[B, T - num_frames + 1]` float, of the frames that have a past that long.
    """
    if not 1 <= num_frames <= distances.shape[1]:
        nearest = min(max(num_frames, 1), distances.shape[1])
        allowed = f"1 to {distances.shape[1]} frames"
        raise ValueError(f"num_frames={num_frames}: no such past. Allowed: {allowed}. Nearest: {nearest}")
    windows = np.lib.stride_tricks.sliding_window_view(distances, num_frames, axis=1)
    return windows.min(axis=-1).max(axis=-1)


def detect(known: np.ndarray, new: np.ndarray, *, false_alarm_rate: float) -> Detection:
    """Recall on new frames at a rate of false alarms on known ones.

    Args:
      known: `[M]` scores of held-out frames like those learned from.
      new: `[M']` scores of frames with something new.
      false_alarm_rate: share of `known` that may lie above the threshold.
    Raises:
      ValueError: fewer known frames than one false alarm takes.
    """
    allowed = int(false_alarm_rate * len(known))
    if allowed < 1:
        least = int(np.ceil(1.0 / false_alarm_rate))
        raise ValueError(
            f"false_alarm_rate={false_alarm_rate}: {len(known)} known frames cannot show it. "
            f"Allowed: at least {least} frames. Nearest: {1.0 / max(len(known), 1)}"
        )
    threshold = float(np.sort(known)[::-1][allowed])
    return Detection(
        recall=float((new > threshold).mean()),
        false_alarms=float((known > threshold).mean()),
        threshold=threshold,
    )


def compare_growth(before: np.ndarray, after: np.ndarray, new: np.ndarray, *, num_codes_before: int) -> Growth:
    """What growing on new frames did to the codes.

    Args:
      before: `[M, N, G]` codes of known frames, by the quantiser before.
      after: `[M, N, G]` codes of the same frames, by the quantiser after.
      new: `[M', N, G]` codes of the new frames, by the quantiser after.
      num_codes_before: codes there were before; later ones have higher numbers.
    """
    return Growth(
        changed_share=float((before != after).mean()),
        own_code_share=float((new >= num_codes_before).any(axis=(1, 2)).mean()),
    )
