"""How a command ends: exit codes, the workdir's lock, and the signals that ask a run to stop.

Imports neither NumPy nor JAX: signals must be blocked before their threads start.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator

_BEGIN = time.monotonic()

DONE = 0
BAD_INPUT = 2
NON_FINITE = 3
STORAGE = 4
HOST_LOST = 5
PREEMPTED = 75  # EX_TEMPFAIL: start the same command again

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


class BadInput(ValueError):
    """The command line, a config or a workdir is not usable as given; exit code 2."""


class NonFinite(ArithmeticError):
    """A loss, gradient or state is not finite; exit code 3."""


class StorageError(OSError):
    """The disk is full, cannot be written, or holds no whole checkpoint; exit code 4."""


class HostLost(RuntimeError):
    """Another process of the run is gone or stuck; exit code 5."""


class Preempted(Exception):
    """The run was asked to stop and has saved; exit code 75."""


def seconds_since_start() -> float:
    """Since the command began: this module is the first that it imports."""
    return time.monotonic() - _BEGIN


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; turns the errors above into one line on stderr and their exit code.

    Any other exception is a bug and keeps its traceback.

    Args:
      command: returns its own exit code, or None for 0.
    """
    try:
        return command() or DONE
    except (BadInput, NonFinite, HostLost, Preempted, OSError) as problem:
        code = _code_of(problem)
        if code is None:
            raise
        word = "stopped" if code == PREEMPTED else "error"
        print(f"{word}: {' '.join(str(problem).split())}", file=sys.stderr, flush=True)
        return code


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Makes BadInput of a ValueError, for where the parts read their settings."""
    try:
        yield
    except BadInput:
        raise
    except ValueError as problem:
        raise BadInput(str(problem)) from problem


def _code_of(problem: Exception) -> int | None:
    """Finds an exception's exit code; an OSError has one where the storage itself failed."""
    if isinstance(problem, StorageError) or (isinstance(problem, OSError) and problem.errno in _STORAGE_ERRORS):
        return STORAGE
    codes = {BadInput: BAD_INPUT, NonFinite: NON_FINITE, HostLost: HOST_LOST, Preempted: PREEMPTED}
    return next((code for kind, code in codes.items() if isinstance(problem, kind)), None)


@contextlib.contextmanager
def locked(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Makes the workdir and holds its lock; the kernel frees the lock of a process that was killed.

    Raises:
      BadInput: another process holds it; its host, pid and start are named.
      StorageError: the workdir cannot be made or written.
    """
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        raise StorageError(f"workdir={folder}: cannot be written: {problem.strerror}") from problem
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 4096, 0).decode(errors="replace") or "an unknown process"
            raise BadInput(f"workdir={folder}: in use by {owner}. Allowed: a workdir that no run is using.") from None
        os.ftruncate(descriptor, 0)
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started})
        os.pwrite(descriptor, owner.encode(), 0)
        yield
    finally:
        # The file stays: removing it would let two runs hold locks on two files of one name.
        os.close(descriptor)


class StopWatcher:
    """Waits in a thread for SIGTERM or SIGINT, so that one is seen while the main thread compiles.

    While nothing is at stake (start, compiling, after a save) a signal ends the process at
    once. While something is, `requested` turns true and the loop saves and raises `Preempted`.
    A second signal changes nothing: the save is already on its way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._at_stake = False

    def start(self) -> None:
        """Blocks the signals in this thread and all that it starts from now on, and watches for them.

        Call it in the main thread before NumPy or JAX is imported: both keep threads that would
        otherwise take the signal. Should one take it nevertheless, the handler below is run by the
        main thread, only later.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)
        threading.Thread(target=self._watch, name="stop-watcher", daemon=True).start()

    @property
    def requested(self) -> bool:
        """True once a signal came while something was at stake."""
        return self._event.is_set()

    def wait(self, timeout_seconds: float) -> bool:
        """Sleeps until a signal comes or the time is over; says whether one came."""
        return self._event.wait(timeout_seconds)

    def set_at_stake(self, at_stake: bool) -> None:
        """Says whether there is progress that no checkpoint holds yet."""
        with self._lock:
            self._at_stake = at_stake

    def _watch(self) -> None:
        while True:
            self._stop(signal.sigwait(STOP_SIGNALS))

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        # Not in the main thread itself: it may hold the lock.
        threading.Thread(target=self._stop, args=(number,), daemon=True).start()

    def _stop(self, number: int) -> None:
        with self._lock:
            if not self._at_stake:
                line = f"stopped: {signal.Signals(number).name}, nothing was unsaved\n"
                os.write(2, line.encode())
                # Not sys.exit: the main thread may be inside a compilation for minutes.
                os._exit(PREEMPTED)
            self._event.set()
