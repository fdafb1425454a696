"""Transitions on disk: append-only shards, from which a resume refills the replay.

A shard `shard-<number>.lmx` is named after its first record and holds a run of records, each a
chunk `[E, T, ...]` as `Replay.add` took it (records.py has the bytes). Records are numbered
over the whole run: record k holds the rows of absolute times k T .. k T + T - 1. The run's
checkpoint holds a cursor, the number of the next record; what stands at or after it is
dropped when writing goes on, since play goes on from the checkpoint too.
"""

import contextlib
import itertools
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.replay import records
from learnmax_jax.replay.buffer import Replay, ReplayState
from learnmax_jax.types import Transition

# Chunks that may wait for the disk before `append` waits too.
_QUEUE_LENGTH = 4
_NAME = re.compile(r"shard-([0-9]{8,})\.lmx")


class ShardWriter:
    """Appends chunks in a thread of its own; `flush` says when they are safe.

    Compression and writing happen behind the caller's back, in order; at most a few chunks wait, then
    `append` waits. An error there (a full disk, a NaN) is raised by the next call and by all
    that follow; the shards stay readable up to the last record written before it.
    """

    def __init__(self, folder: str | Path, *, records_per_shard: int, next_index: int) -> None:
        """Opens the folder, makes it if need be, and drops what stands at or after `next_index`.

        Args:
          folder: holds this run's shards and nothing of another run.
          records_per_shard: records until the next shard is begun.
          next_index: the number of the first record to come: the checkpoint's cursor, 0 in a new run.
        Raises:
          ValueError: a number out of its range, a record before next_index damaged or missing
            in the last shard, a shard that is a link.
        """
        if records_per_shard < 1:
            raise ValueError(f"records_per_shard={records_per_shard}: must be positive. Allowed: [1, inf). Nearest: 1")
        if next_index < 0:
            raise ValueError(f"next_index={next_index}: is a count. Allowed: [0, inf). Nearest: 0")
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._records_per_shard = records_per_shard
        self._next_index = next_index
        self._file, self._num_in_shard = _open_at(self._folder, next_index)
        self._shapes: list[tuple[tuple[int, ...], np.dtype]] | None = None
        self._error: BaseException | None = None
        self._queue: queue.Queue[tuple[int, Transition] | threading.Event | None] = queue.Queue(_QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)
        self._thread.start()

    def append(self, transitions: Transition) -> int:
        """Hands over one chunk, to be written soon.

        Args:
          transitions: Transition `[E, T, ...]` of numpy arrays, not to be changed any more.
        Returns:
          The record's number.
        Raises:
          ValueError: shapes or dtypes other than the first chunk's. Whatever went wrong with an earlier chunk.
        """
        self._raise_error()
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(transitions)]
        if self._shapes is not None and shapes != self._shapes:
            raise ValueError(f"transitions={shapes}: differ from the first chunk's. Allowed: {self._shapes}")
        self._shapes = shapes
        index = self._next_index
        self._queue.put((index, transitions))
        self._next_index += 1
        return index

    def flush(self) -> None:
        """Returns once all appended records, and their shards' names, are safe on disk."""
        self._raise_error()
        done = threading.Event()
        self._queue.put(done)
        done.wait()
        self._raise_error()

    def close(self) -> None:
        """Flushes and ends the thread; the thread ends also where the flush raises."""
        if not self._thread.is_alive():
            return
        try:
            self.flush()
        finally:
            self._queue.put(None)
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise ValueError(f"{self._folder}: the writer is closed")

    def _run(self) -> None:
        """Serves the queue until None comes; after an error nothing more is written."""
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    if isinstance(item, threading.Event):
                        self._sync()
                    else:
                        self._write(*item)
            except BaseException as error:  # kept for the caller's next call, which raises it
                self._error = error
            if isinstance(item, threading.Event):
                item.set()
        # After a flush nothing is left to write; after an error it is the error's sequel.
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _write(self, index: int, transitions: Transition) -> None:
        record = records.encode(index, transitions)
        if self._file is not None and self._num_in_shard >= self._records_per_shard:
            self._sync()
            self._file.close()
            self._file = None
        if self._file is None:
            self._file, self._num_in_shard = open(_shard_path(self._folder, index), "xb"), 0
        self._file.write(record)
        self._num_in_shard += 1

    def _sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            _sync_folder(self._folder)


class ShardReader:
    """Reads records back in order, from this run or as a data set."""

    def __init__(self, folder: str | Path, *, skip_damaged: bool = False) -> None:
        """Points at a folder of shards; files are opened when records are asked for.

        Args:
          folder: of ShardWriter.
          skip_damaged: pass over records that are damaged or missing and count them in
            `num_skipped`, where otherwise a ValueError names file and record.
        """
        self._folder = Path(folder)
        self._skip_damaged = skip_damaged
        self.num_skipped = 0

    def span(self) -> tuple[int, int]:
        """Returns the number of the first record, and one more than the last whole record's."""
        shards = _list_shards(self._folder)
        if not shards:
            return 0, 0
        end, path = shards[-1]
        with open(path, "rb") as file:
            for found in records.walk(file, path, end):
                end = end if found.header is None else found.index + 1
        return shards[0][0], end

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Transition]]:
        """Yields (number, Transition `[E, T, ...]` of numpy arrays) for start <= number < stop, in order.

        Raises:
          ValueError: a record is damaged or missing, or a shard is a link, unless skip_damaged.
        """
        due = start
        shards = _list_shards(self._folder)
        for number, (first, path) in enumerate(shards):
            is_before = number + 1 < len(shards) and shards[number + 1][0] <= start
            if first >= stop or is_before:
                continue
            with open(path, "rb") as file:
                for found in records.walk(file, path, first):
                    if found.index >= stop:
                        break
                    if found.index < due:
                        continue
                    try:
                        if found.header is None:
                            raise ValueError(found.reason)
                        transitions = records.read(file, found)
                    except ValueError as error:
                        if not self._skip_damaged:
                            raise ValueError(f"{path}: record {found.index}: {error}") from error
                        continue
                    self._pass_over(due, found.index)
                    yield found.index, transitions
                    due = found.index + 1
        self._pass_over(due, stop)

    def _pass_over(self, due: int, found: int) -> None:
        """Counts, or refuses, records due .. found - 1."""
        if due < found and not self._skip_damaged:
            held = [path.name for first, path in _list_shards(self._folder) if first <= due]
            where = f"{self._folder / held[-1]} ends before it or lacks it" if held else "no shard holds it"
            raise ValueError(f"{self._folder}: record {due} of those up to {found} is missing: {where}")
        self.num_skipped += max(found - due, 0)


def delete_before(folder: str | Path, index: int) -> int:
    """Removes the shards all of whose records stand before `index`; returns how many.

    The last shard stays in any case. Nothing calls this but the owner of the run's
    checkpoints: every record that a kept checkpoint's replay needs must stay.
    """
    shards = _list_shards(Path(folder))
    dropped = [path for (_, path), (after, _) in itertools.pairwise(shards) if after <= index]
    for path in dropped:
        path.unlink()
    if dropped:
        _sync_folder(Path(folder))
    return len(dropped)


def refill(
    replay: Replay,
    state: ReplayState,
    reader: ShardReader,
    cursor: int,
    *,
    num_rows: int | None = None,
    put: Callable[[Transition], Transition] = lambda rows: rows,
) -> ReplayState:
    """Rebuilds the ring as it stood when record `cursor` was about to be added, bit by bit.

    Priorities are not on disk: all transitions get the state's max_weight, and the caller puts
    the checkpoint's tree and max_weight in their place.

    Args:
      replay: the run's.
      state: empty, from `replay.init`; consumed.
      reader: of the run's shards.
      cursor: records ever appended, from the checkpoint.
      num_rows: environments that a record holds; all if none is given.
      put: brings a record to the devices.
    Raises:
      ValueError: a record among the last C / T before the cursor is missing or damaged, or
        has other shapes than the ring.
    """
    add = jax.jit(replay.add, donate_argnums=0)
    due = max(0, cursor - replay.num_slots // replay.chunk_length)
    state = state.replace(num_added=jnp.asarray(due * replay.chunk_length, jnp.int32))
    for index, transitions in reader.read(due, cursor):
        if index != due:
            break
        for ring, chunk in zip(jax.tree.leaves(state.rows), jax.tree.leaves(transitions), strict=True):
            shape = (num_rows or replay.num_envs, replay.chunk_length, *ring.shape[2:])
            if chunk.shape != shape:
                raise ValueError(f"record {index}: shape={chunk.shape}: the replay's rows differ. Allowed: {shape}")
        state = add(state, put(transitions))
        due += 1
    if due != cursor:
        raise ValueError(f"record {due}: skipped as damaged, and the replay cannot do without it")
    return state


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:08d}.lmx"


def _list_shards(folder: Path) -> list[tuple[int, Path]]:
    """Lists (number of the first record, path) in order; refuses links and strange names."""
    shards = []
    for path in folder.glob("shard-*.lmx") if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is None or path != _shard_path(folder, int(match[1])):
            raise ValueError(f"{path}: no shard's name. Allowed: shard-<record number, 8 digits>.lmx")
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path}: is a link or no file; shards are plain files")
        shards.append((int(match[1]), path))
    return sorted(shards)


def _open_at(folder: Path, next_index: int) -> tuple[IO[bytes] | None, int]:
    """Drops records at or after next_index; opens the last shard to append, and counts its records."""
    shards = _list_shards(folder)
    dropped = [path for first, path in shards if first >= next_index]
    position, num_kept = 0, 0
    if len(dropped) < len(shards):
        # Looked at before anything is dropped: an error leaves the folder as it was.
        first, last = shards[-len(dropped) - 1]
        position, num_kept = _find_end(first, last, next_index)
    for path in dropped:
        path.unlink()
    _sync_folder(folder)
    if num_kept == 0:
        return None, 0
    os.truncate(last, position)
    file = open(last, "ab")
    os.fsync(file.fileno())
    return file, num_kept


def _find_end(first: int, path: Path, next_index: int) -> tuple[int, int]:
    """Returns the byte at which record next_index is to stand in a shard, and the records before it."""
    due = first
    with open(path, "rb") as file:
        for found in records.walk(file, path, first):
            if due == next_index:
                return found.position, due - first
            if found.header is None or found.index != due:
                reason = found.reason or f"missing, {found.index} follows"
                raise ValueError(f"{path}: record {due}: {reason}; the checkpoint stands at record {next_index}")
            due += 1
    if due != next_index:
        raise ValueError(f"{path}: record {due}: missing; the checkpoint stands at record {next_index}")
    return path.stat().st_size, due - first


def _sync_folder(folder: Path) -> None:
    """Makes files' names and their removal durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
