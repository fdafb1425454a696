"""What a linear map reads off codes: the room, and where the player is."""

import dataclasses

import numpy as np

# One-hot codes up to this many, else the codes' vectors: the probe's normal equations have to be solved.
MOST_FEATURES = 4096


@dataclasses.dataclass(frozen=True)
class Probe:
    """A ridge regression.

    Attributes:
      weights: `[F + 1, O]` float64, the last row is the bias.
    """

    weights: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """`[M, F]` -> `[M, O]`."""
        return features.astype(np.float64) @ self.weights[:-1] + self.weights[-1]


def features_of(codes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """What the probe sees: codes `[M, N, G]` as one-hot, or as their vectors `[G, V, D]` where those are too many."""
    num_frames, num_tokens, num_groups = codes.shape
    num_codes = vectors.shape[1]
    if num_tokens * num_groups * num_codes > MOST_FEATURES:
        return vectors[np.arange(num_groups)[None, None], codes].reshape(num_frames, -1)
    return np.eye(num_codes, dtype=np.float32)[codes].reshape(num_frames, -1)


def fit(features: np.ndarray, targets: np.ndarray, *, ridge: float = 10.0) -> Probe:
    """Ridge regression of targets `[M, O]` on features `[M, F]`; the bias is not penalised."""
    x, y = features.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    return Probe(np.concatenate([weights, (y_mean - x_mean @ weights)[None]]))


def distance(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Euclidean distance of places `[M, 2]`, `[M]`."""
    return np.sqrt(((predicted - true) ** 2).sum(axis=1))


def room_accuracy(train: np.ndarray, train_rooms: np.ndarray, test: np.ndarray, test_rooms: np.ndarray) -> float:
    """Share of test frames whose room a linear classifier (least squares on one-hot rooms) names."""
    rooms = np.unique(train_rooms)
    probe = fit(train, (train_rooms[:, None] == rooms[None]).astype(np.float64))
    return float((rooms[probe(test).argmax(axis=1)] == test_rooms).mean())
