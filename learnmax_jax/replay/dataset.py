"""Recorded play as training and test windows, without an emulator.

A data set is a folder of shards. Its episodes go to the training or the test part by a hash
of where they stand in it. A test window that shares `overlap_length` consecutive
(observation, action) pairs with the training part is no test: deterministic play repeats itself.

What update u reads is a function of (seed, u) alone, so a resumed run reads on exactly.
Windows come by epochs, each of which visits every training transition once in an order of its own, or
by rarity: most of what deterministic play records it has recorded before.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import numpy as np

from learnmax_jax.replay import sampling, shards
from learnmax_jax.types import Array, Batch, SequenceIndex, Transition

# Rows whose pixels are multiplied in one go: a block of some megabytes.
_HASHED_AT_ONCE = 512
# Updates that are read ahead of the one that learns.
_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """All rows, and which of them belong together; numpy, on the host.

    Attributes:
      rows: Transition `[E, T, ...]`.
      begin, end: `[E, T]` int32, times of the first and the last stored row of the row's episode.
      is_test: `[E, T]` bool, the row's episode is of the test part.
      is_known: `[E, T]` bool, the overlap_length rows from here on also stand in the training part.
      overlap_length: rows.
      num_skipped: damaged or missing records that were passed over.
      records: numbers of the records that the rows come from, in order.
      fingerprint: a hash of all rows and of where they stand; another, longer or damaged set has another.
    """

    rows: Transition
    begin: np.ndarray
    end: np.ndarray
    is_test: np.ndarray
    is_known: np.ndarray
    overlap_length: int
    num_skipped: int
    records: np.ndarray
    fingerprint: str

    @functools.cached_property
    def anchors(self) -> np.ndarray:
        """Flat row numbers `[M]` of all training transitions whose next observation is stored."""
        times = np.arange(self.end.shape[1], dtype=np.int32)[None]
        return np.flatnonzero(self.rows.valid & (times < self.end) & ~self.is_test)

    @functools.cached_property
    def training_rows(self) -> np.ndarray:
        """Flat row numbers `[M]` of all training observations."""
        return np.flatnonzero(~self.is_test)

    def anchor_shares(self, shares: np.ndarray) -> np.ndarray:
        """How likely a window is drawn by each of the anchors, `[M]`, from those of the training rows; sums to 1."""
        likely = shares[np.searchsorted(self.training_rows, self.anchors)]
        return likely / likely.sum()


def load(folder: str | os.PathLike[str], *, test_share: float, overlap_length: int, skip_damaged: bool) -> Dataset:
    """Reads a whole data set into memory.

    Args:
      folder: of shards.
      test_share: share of the episodes that are kept for testing, in [0, 1).
      overlap_length: k, rows; a test window must not share k consecutive rows with the training part.
      skip_damaged: pass over damaged records and count them; episodes break off there.
    Raises:
      ValueError: no records, a damaged one (file and record are named), a number out of its range, or more
        rows than fit into memory.
    """
    if not 0 <= test_share < 1:
        raise ValueError(
            f"test_share={test_share}: out of range. Allowed: [0, 1). Nearest: {min(max(test_share, 0), 0.99)}"
        )
    if overlap_length < 1:
        raise ValueError(f"overlap_length={overlap_length}: counts rows. Allowed: [1, inf). Nearest: 1")
    reader = shards.ShardReader(pathlib.Path(folder), skip_damaged=skip_damaged)
    first, stop = reader.span()
    rows: Any = None
    hashes: Any = None
    records: list[int] = []
    for index, chunk in reader.read(first, stop):
        if rows is None or hashes is None:
            rows = _allocate(chunk, stop - first, folder)
            hashes = np.zeros(rows.action.shape, np.uint64)
        length = chunk.action.shape[1]
        at = slice(len(records) * length, (len(records) + 1) * length)
        for whole, part in zip(jax.tree.leaves(rows), jax.tree.leaves(chunk), strict=True):
            whole[:, at] = part
        hashes[:, at] = hash_rows(*_arrays(chunk))
        records.append(index)
    if rows is None or hashes is None:
        raise ValueError(f"{folder}: holds no records. Allowed: a folder of shards that experiments.record wrote")
    used = len(records) * length
    rows, hashes = jax.tree.map(lambda x: x[:, :used], rows), hashes[:, :used]
    begin, end = _episodes(rows.first, np.asarray(records), length)
    is_test = _draw_test(begin, np.asarray(records), length, test_share)
    windows = hash_windows(hashes, end, overlap_length)
    return Dataset(
        rows=rows,
        begin=begin,
        end=end,
        is_test=is_test,
        is_known=np.isin(windows, windows[~is_test & (windows != 0)]) & (windows != 0),
        overlap_length=overlap_length,
        num_skipped=reader.num_skipped,
        records=np.asarray(records),
        fingerprint=_fingerprint(hashes, np.asarray(records)),
    )


def hash_rows(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each (observation, action): `[..., H, W, C]` uint8, `[...]` int -> `[...]` uint64.

    Multiply-add with fixed random odd words, modulo 2^64 (Dietzfelbinger 1996).
    """
    size = int(np.prod(observation.shape[action.ndim :]))
    num_words = -(-size // 8)
    odd = np.random.default_rng(0).integers(0, 2**64, num_words + 1, np.uint64, endpoint=False) | np.uint64(1)
    pixels = observation.reshape(action.size, size)
    words = np.empty(action.size, np.uint64)
    block = np.zeros((min(_HASHED_AT_ONCE, action.size), num_words * 8), np.uint8)
    for begin in range(0, action.size, _HASHED_AT_ONCE):
        rows = pixels[begin : begin + _HASHED_AT_ONCE]
        block[: len(rows), :size] = rows
        words[begin : begin + len(rows)] = (block[: len(rows)].view(np.uint64) * odd[None, :-1]).sum(axis=1)
    mixed = words ^ (words >> np.uint64(31))  # low bits of a product know nothing of high ones
    return (mixed * odd[-1] + action.reshape(-1).astype(np.uint64) * odd[0]).reshape(action.shape)


def hash_windows(hashes: np.ndarray, end: np.ndarray, length: int) -> np.ndarray:
    """A hash of the `length` rows from each row on, `[E, T]` uint64; 0 where the episode ends before."""
    combined = np.zeros_like(hashes)
    num_times = hashes.shape[1]
    times = np.arange(num_times)
    for step in range(length):
        following = hashes[:, np.minimum(times + step, num_times - 1)]
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + (following ^ (following >> np.uint64(29)))
    whole = times[None] + length - 1 <= end
    return np.where(whole, combined | np.uint64(1), np.uint64(0))


def check_no_overlap(dataset: Dataset) -> None:
    """Asserts, by hashes made anew of the rows that were kept, that no test window also stands in the training part.

    Raises:
      AssertionError: one does.
    """
    hashes = hash_windows(hash_rows(*_arrays(dataset.rows)), dataset.end, dataset.overlap_length)
    training = hashes[~dataset.is_test & (hashes != 0)]
    test = hashes[dataset.is_test & ~dataset.is_known & (hashes != 0)]
    overlap = np.isin(test, training).sum()
    assert overlap == 0, f"{overlap} test windows of {dataset.overlap_length} rows stand in the training part"


def held_out_windows(dataset: Dataset, *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Test windows of `length` rows that do not overlap one another, nor the training part.

    Args:
      dataset: Dataset.
      length: rows, at least overlap_length, all of one episode.
    Returns:
      environment `[M]` int32, start `[M]` int32, in order.
    Raises:
      ValueError: windows too short to be told from training windows.
    """
    if length < dataset.overlap_length:
        raise ValueError(
            f"length={length}: shorter than the rows two parts may not share. Allowed: [{dataset.overlap_length}, inf)"
        )
    found = []
    for environment in range(dataset.begin.shape[0]):
        time = 0
        while time + length <= dataset.begin.shape[1]:
            known = dataset.is_known[environment, time : time + length - dataset.overlap_length + 1]
            if not dataset.is_test[environment, time] or time + length - 1 > dataset.end[environment, time]:
                time += 1
            elif known.any():
                time += int(np.flatnonzero(known)[-1]) + 1
            else:
                found.append((environment, time))
                time += length
    pairs = np.asarray(found, np.int32).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def draw(
    dataset: Dataset, update: int, *, seed: int, batch_size: int, sequence_length: int, shares: np.ndarray | None
) -> Batch:
    """The training batch of one update: a function of (seed, update) and shares.

    Args:
      dataset: Dataset.
      update: counted from 0.
      seed: of the order.
      batch_size: B. sequence_length: L.
      shares: of `anchor_shares`: how likely a window is drawn by each of the anchors; None for epochs.
    Returns:
      Batch `[B, L + 1, ...]`; each of an epoch's batches holds B other anchors.
    """
    if shares is None:
        per_epoch = len(dataset.anchors) // batch_size
        epoch, number = divmod(update, per_epoch)
        chosen = _order(len(dataset.anchors), seed, epoch)[number * batch_size : (number + 1) * batch_size]
    else:
        generator = np.random.default_rng([seed, update, 3])
        chosen = generator.choice(len(dataset.anchors), batch_size, p=shares)
    environment, anchor = np.divmod(dataset.anchors[chosen], dataset.begin.shape[1])
    offset = np.random.default_rng([seed, update, 1]).integers(0, sequence_length, batch_size)
    start = np.minimum(anchor - offset, dataset.end[environment, anchor] - sequence_length)
    start = np.maximum(start, dataset.begin[environment, anchor])
    return gather(dataset, environment, start, anchor, sequence_length=sequence_length)


def gather(
    dataset: Dataset, environment: np.ndarray, start: np.ndarray, anchor: np.ndarray, *, sequence_length: int
) -> Batch:
    """Windows `[B, L + 1, ...]` from given starts `[B]`, padded behind their episodes' ends."""
    times = start[:, None] + np.arange(sequence_length + 1)[None]
    end = dataset.end[environment, anchor][:, None]
    rows = jax.tree.map(lambda x: x[environment[:, None], np.minimum(times, end)], dataset.rows)
    index = [np.asarray(x, np.int32) for x in (environment, start, anchor)]
    rows, mask, index, weights = jax.device_put((rows, times <= end, index, np.ones(len(start), np.float32)))
    return Batch(rows=_pad(rows, mask), mask=mask, weights=weights, index=SequenceIndex(*index))


def rarity(dataset: Dataset, keys: Callable[[Array], Array]) -> np.ndarray:
    """How likely each training observation is drawn by `draw_observations`: as 1 / sqrt(n) of its key.

    Args:
      dataset: Dataset.
      keys: observations `[M, H, W, C]` -> `[M, K]` integers; n counts the training observations of one key.
    Returns:
      `[M]` float64, sums to 1, in the order of `training_rows`.
    """
    frames, rows = _frames(dataset), dataset.training_rows
    parts = [keys(frames[rows[at : at + _HASHED_AT_ONCE]]) for at in range(0, len(rows), _HASHED_AT_ONCE)]
    _, index, counts = np.unique(np.concatenate(parts), axis=0, return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(counts[index.reshape(-1)])
    return weights / weights.sum()


def draw_observations(
    dataset: Dataset, update: int, *, seed: int, num_observations: int, shares: np.ndarray | None
) -> Array:
    """Training observations `[M, H, W, C]` uint8 of one update, a function of (seed, update) and `rarity`'s shares."""
    generator = np.random.default_rng([seed, update, 2])
    rows = dataset.training_rows
    chosen = rows[generator.choice(len(rows), num_observations, p=shares)]
    return jax.device_put(_frames(dataset)[chosen])


class Loader:
    """Reads a few updates ahead in a thread, so that the learner does not wait; measures where it does."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        sequence_length: int,
        num_observations: int,
        shares: np.ndarray | None,
        window_shares: np.ndarray | None,
        update: int,
    ) -> None:
        """Starts to read for `update` and those after it; arguments as of `draw` and `draw_observations`."""
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="dataset")
        self._read = lambda update: (
            draw(
                dataset,
                update,
                seed=seed,
                batch_size=batch_size,
                sequence_length=sequence_length,
                shares=window_shares,
            ),
            draw_observations(dataset, update, seed=seed, num_observations=num_observations, shares=shares),
        )
        self._waiting = [self._pool.submit(self._read, update + ahead) for ahead in range(_AHEAD)]
        self._next = update + _AHEAD
        self.wait_seconds = 0.0

    def __next__(self) -> tuple[Batch, Array]:
        """The batch and the single observations of the next update."""
        begin = time.monotonic()
        ready = self._waiting.pop(0).result()
        self.wait_seconds += time.monotonic() - begin
        self._waiting.append(self._pool.submit(self._read, self._next))
        self._next += 1
        return ready

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)


_pad = jax.jit(lambda rows, mask: sampling.pad(rows, ~mask))


def _frames(dataset: Dataset) -> np.ndarray:
    """All observations, `[E * T, H, W, C]`."""
    frames: Any = dataset.rows.observation
    return frames.reshape(-1, *frames.shape[2:])


def _arrays(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Observations and actions, as the numpy arrays that they are here."""
    return rows.observation, rows.action


def _allocate(chunk: Transition, num_records: int, folder: str | os.PathLike[str]) -> Transition:
    """Room for all records, if there is any."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(chunk)) * num_records
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * there:
        raise ValueError(
            f"{pathlib.Path(folder)}: {needed:,} bytes of rows, which are read into memory. "
            f"Allowed: up to {int(0.8 * there):,}"
        )
    length = chunk.action.shape[1]
    return jax.tree.map(lambda x: np.empty((x.shape[0], length * num_records, *x.shape[2:]), x.dtype), chunk)


def _episodes(first: np.ndarray, records: np.ndarray, chunk_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Times of each row's episode's first and last stored row; an episode also ends where a record is missing."""
    times = np.arange(first.shape[1], dtype=np.int32)
    gap = np.repeat(np.diff(records, prepend=records[0] - 2) != 1, chunk_length) & (times % chunk_length == 0)
    opens = first | gap[None]
    begin = np.maximum.accumulate(np.where(opens, times[None], 0), axis=1)
    closes = np.concatenate([opens[:, 1:], np.ones_like(opens[:, :1])], axis=1)
    end = np.minimum.accumulate(np.where(closes, times[None], times[-1])[:, ::-1], axis=1)[:, ::-1]
    return begin, end


def _fingerprint(hashes: np.ndarray, records: np.ndarray) -> str:
    """Of all rows' hashes and their records' numbers."""
    return hashlib.blake2b(hashes.tobytes() + records.astype(np.int64).tobytes(), digest_size=8).hexdigest()


def _draw_test(begin: np.ndarray, records: np.ndarray, chunk_length: int, test_share: float) -> np.ndarray:
    """Whether each row's episode is of the test part.

    An episode is known by its environment and the time it began at when it was recorded, which no record that is
    missing before it changes.
    """
    is_test = np.zeros(begin.shape, bool)
    for environment, row in enumerate(begin):
        for start in np.unique(row):
            recorded_at = records[start // chunk_length] * chunk_length + start % chunk_length
            digest = hashlib.blake2b(f"{environment}:{recorded_at}".encode(), digest_size=8).digest()
            is_test[environment, row == start] = int.from_bytes(digest, "big") < test_share * 2**64
    return is_test


@functools.lru_cache(maxsize=2)
def _order(num_anchors: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 0]).permutation(num_anchors)
