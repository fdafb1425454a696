"""What a linear map reads off codes: the room, and where the player is in it."""

import dataclasses

import numpy as np

# One-hot codes up to this many, else the codes' vectors: the probe's normal equations have to be solved.
MOST_FEATURES = 4096
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


@dataclasses.dataclass(frozen=True)
class Features:
    """What a probe sees of codes: one-hot, of those that training had, or their vectors where those are too many.

    Attributes:
      vectors: `[G, V, D]` float32.
      used: `[N G V]` bool, token n's group g has had code v in training; None for vectors.
    """

    vectors: np.ndarray
    used: np.ndarray | None

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[M, N, G]` -> `[M, F]` float32."""
        num_frames = len(codes)
        if self.used is None:
            return self.vectors[np.arange(codes.shape[2])[None, None], codes].reshape(num_frames, -1)
        column = np.cumsum(self.used) - 1
        flat = _flat(codes, self.vectors.shape[1])
        row, place = np.nonzero(self.used[flat])
        features = np.zeros((num_frames, column[-1] + 1), np.float32)
        features[row, column[flat[row, place]]] = 1.0
        return features


def features_of(codes: np.ndarray, vectors: np.ndarray) -> Features:
    """The features for probes that are fitted on codes `[M, N, G]` of vectors `[G, V, D]`."""
    used = np.zeros(codes.shape[1] * codes.shape[2] * vectors.shape[1], bool)
    used[_flat(codes, vectors.shape[1])] = True
    return Features(vectors, used if used.sum() <= MOST_FEATURES else None)


def _flat(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Where each code's one stands, `[M, N, G]` -> `[M, N G]`."""
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    return flat + num_codes * np.arange(flat.shape[1])[None]


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
    moments = (x.T @ (y - y_mean).astype(x.dtype)).astype(np.float64)
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
