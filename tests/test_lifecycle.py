"""Exit codes, the workdir's lock, and signals against real processes."""

import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from learnmax_jax import lifecycle
from learnmax_jax.lifecycle import BadInput, NonFinite, Preempted, StorageError

ROOT = pathlib.Path(__file__).parents[1]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts Python code that prints "ready" when it may be disturbed, and waits for that line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    # Not communicate: it would miss what readline has buffered.
    assert process.stdout is not None and process.stderr is not None
    with process:
        try:
            return process.wait(timeout=20), process.stdout.read(), process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("problem", "code", "word"),
    [
        (BadInput("seed=x: wrong"), 2, "error: seed=x: wrong\n"),
        (NonFinite("loss\nis nan"), 3, "error: loss is nan\n"),
        (StorageError("disk full"), 4, "error: disk full\n"),
        (OSError(errno.ENOSPC, "No space left"), 4, "error: [Errno 28] No space left\n"),
        (Preempted("saved at step 3"), 75, "stopped: saved at step 3\n"),
    ],
)
def test_every_error_has_its_code_and_one_line(
    problem: Exception, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise problem

    assert lifecycle.exit_code(command) == code
    assert capsys.readouterr().err == word


def test_a_bug_keeps_its_traceback() -> None:
    for bug in (ValueError("wrong"), FileNotFoundError(errno.ENOENT, "none"), OSError("no number")):

        def command(bug: Exception = bug) -> None:
            raise bug

        with pytest.raises(type(bug)):
            lifecycle.exit_code(command)
    assert lifecycle.exit_code(lambda: None) == 0
    assert lifecycle.exit_code(lambda: 7) == 7


HOLDER = """
import sys, time
from learnmax_jax import lifecycle
with lifecycle.locked(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_f17_a_second_run_names_the_owner_and_a_killed_one_frees_the_lock(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "runs" / "one"
    holder = start(HOLDER, workdir)
    try:
        with pytest.raises(BadInput, match="in use by") as caught, lifecycle.locked(workdir):
            pass
        owner = json.loads((workdir / "lock").read_text())
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), holder.pid)
        assert all(str(owner[name]) in str(caught.value) for name in ("host", "pid", "started"))
    finally:
        holder.kill()
        finish(holder)
    with lifecycle.locked(workdir):
        assert json.loads((workdir / "lock").read_text())["pid"] == os.getpid()
        # Nor twice in one process.
        with pytest.raises(BadInput, match=str(os.getpid())), lifecycle.locked(workdir):
            pass
    with lifecycle.locked(workdir):
        pass


def test_f18_a_workdir_that_cannot_be_is_a_storage_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(StorageError, match="cannot be written"), lifecycle.locked(path):
            pass


# The main thread is inside C for about a minute, as in a compilation; no Python handler can run.
BUSY = """
import hashlib
from learnmax_jax import lifecycle
stop = lifecycle.StopWatcher()
stop.start()
import numpy  # starts threads of its own
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f04_a_signal_while_nothing_is_at_stake_ends_a_busy_process_at_once(number: signal.Signals) -> None:
    process = start(BUSY)
    before = time.monotonic()
    process.send_signal(number)
    code, _, errors = finish(process)
    assert time.monotonic() - before < 5
    assert code == 75
    assert errors == f"stopped: {number.name}, nothing was unsaved\n"


# A loop with progress: each step is at stake until it is saved.
LOOP = """
import sys, time
if sys.argv[1] == "numpy first":
    import numpy
from learnmax_jax import lifecycle
stop = lifecycle.StopWatcher()
stop.start()
def loop():
    for step in range(1000):
        stop.set_at_stake(True)
        print("ready" if step == 0 else "step", flush=True)
        stop.wait(0.05) if sys.argv[1] == "waits" else time.sleep(0.05)
        if stop.requested:
            time.sleep(0.3)
            print("saved", step, flush=True)
            stop.set_at_stake(False)
            raise lifecycle.Preempted(f"saved at step {step}")
sys.exit(lifecycle.exit_code(loop))
"""


@pytest.mark.parametrize("kind", ["sleeps", "waits", "numpy first"])
@pytest.mark.parametrize("times", [1, 2])
def test_f04_a_signal_while_progress_is_at_stake_waits_for_the_save(kind: str, times: int) -> None:
    process = start(LOOP, kind)
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    code, output, errors = finish(process)
    assert code == 75
    assert output.count("saved") == 1
    assert errors.startswith("stopped: saved at step") and errors.count("\n") == 1


def test_the_door_loads_neither_numpy_nor_jax() -> None:
    # Their threads would take the signals that the watcher waits for.
    code = "import sys; from learnmax_jax import config; print('ready'); print({'numpy', 'jax'} & set(sys.modules))"
    assert finish(start(code)) == (0, "set()\n", "")
