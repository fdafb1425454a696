"""What a linear map reads off codes: the room, and where the player is in it."""

import dataclasses

import numpy as np

# One-hot codes up to this many, else the codes' vectors: the probe's normal equations have to be solved.
MOST_FEATURES = 8192
# Frames of a room from which it has a probe of its own.
LEAST_FRAMES = 256


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


@dataclasses.dataclass(frozen=True)
class PlaceProbe:
    """A linear probe for each room: a code in one place means another thing in another room.

    Attributes:
      by_room: room -> Probe.
      anywhere: of all rooms together, for those that training saw too little of.
    """

    by_room: dict[int, Probe]
    anywhere: Probe

    def __call__(self, features: np.ndarray, rooms: np.ndarray) -> np.ndarray:
        """`[M, F]` and `[M]` -> places `[M, 2]`."""
        places = self.anywhere(features)
        for room, probe in self.by_room.items():
            places[rooms == room] = probe(features[rooms == room])
        return places


def fit(features: np.ndarray, targets: np.ndarray, *, ridge: float = 1.0) -> Probe:
    """Ridge regression of targets `[M, O]` on features `[M, F]`; the bias is not penalised.

    Products are formed in the features' own type: of ones and zeros, float32 counts exactly up to 2^24 rows.
    """
    varies = np.flatnonzero(features.max(axis=0) != features.min(axis=0))  # the others would get a weight of 0
    x, y = features[:, varies], targets.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0, dtype=np.float64), y.mean(axis=0)
    gram = (x.T @ x).astype(np.float64) - len(x) * np.outer(x_mean, x_mean)
    moments = x.T.astype(np.float64) @ (y - y_mean)
    weights = np.zeros((features.shape[1] + 1, y.shape[1]))
    weights[varies] = np.linalg.solve(gram + ridge * np.eye(len(varies)), moments)
    weights[-1] = y_mean - x_mean @ weights[varies]
    return Probe(weights)


def fit_places(features: np.ndarray, places: np.ndarray, rooms: np.ndarray) -> PlaceProbe:
    """Probes of places `[M, 2]` from features `[M, F]`, one for every room `[M]` that enough frames are of."""
    numbers, counts = np.unique(rooms, return_counts=True)
    return PlaceProbe(
        by_room={
            int(room): fit(features[rooms == room], places[rooms == room]) for room in numbers[counts >= LEAST_FRAMES]
        },
        anywhere=fit(features, places),
    )


def distance(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Euclidean distance of places `[M, 2]`, `[M]`."""
    return np.sqrt(((predicted - true) ** 2).sum(axis=1))


def room_accuracy(train: np.ndarray, train_rooms: np.ndarray, test: np.ndarray, test_rooms: np.ndarray) -> float:
    """Share of test frames whose room a linear classifier (least squares on one-hot rooms) names."""
    rooms = np.unique(train_rooms)
    probe = fit(train, (train_rooms[:, None] == rooms[None]).astype(np.float64))
    return float((rooms[probe(test).argmax(axis=1)] == test_rooms).mean())
