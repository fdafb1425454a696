"""Several processes as one run: alike, stopped together, and told apart when one is gone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from learnmax_jax import cluster, devices, lifecycle
from learnmax_jax.cluster import Cluster
from tests import runs


class FakeStore:
    """jaxlib's client, without waiting: what is not there is not coming."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.gone = False

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        assert allow_overwrite or key not in self.values, key
        self._reach()
        self.values[key] = value

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        self._reach()
        if key not in self.values:
            raise RuntimeError(f"DEADLINE_EXCEEDED: {key}, {timeout_in_ms}")
        return self.values[key]

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self._reach()
        return [item for item in self.values.items() if item[0].startswith(key + "/")]

    def key_value_delete(self, key: str) -> None:
        del self.values[key]

    def _reach(self) -> None:
        if self.gone:
            raise RuntimeError("UNAVAILABLE")


def _pair() -> tuple[FakeStore, Cluster, Cluster]:
    store = FakeStore()
    return store, *(Cluster(store, index=index, size=2, name=f"host{index}") for index in (0, 1))


def test_one_process_agrees_with_itself() -> None:
    alone = Cluster.here()
    alone.check_alike({"config": 1})
    alone.watch()
    assert alone.any(True) and not alone.any(False)


def test_f39_processes_that_differ_are_told_what_differs_and_where() -> None:
    store, zero, _ = _pair()
    store.values["learnmax/facts/1"] = json.dumps({"seed": "2", "jax": "0.10.2", "only": "here"})
    with pytest.raises(lifecycle.BadInput) as complaint:
        zero.check_alike({"seed": "1", "jax": "0.10.2"})
    line = str(complaint.value)
    assert "seed: host0 (process 0) 1, host1 (process 1) 2" in line
    assert "only: host0 (process 0) (missing), host1 (process 1) here" in line and "jax" not in line


def test_processes_that_are_alike_go_on() -> None:
    store, zero, _ = _pair()
    store.values["learnmax/facts/1"] = json.dumps({"seed": "1"})
    zero.check_alike({"seed": "1"})


def test_a_process_that_says_nothing_is_named() -> None:
    _, zero, _ = _pair()
    with pytest.raises(lifecycle.HostLost, match=r"host1 \(process 1\): said nothing of facts in 300 s"):
        zero.check_alike({})


def test_a_signal_to_one_stops_all_and_the_store_does_not_grow() -> None:
    store, zero, _ = _pair()
    for asked in range(5):
        store.values[f"learnmax/asked/{asked}/1"] = "0"
        assert not zero.any(False)
    store.values["learnmax/asked/5/1"] = "1"
    assert zero.any(False)
    mine = [key for key in store.values if key.endswith("/0") and "asked" in key]
    assert mine == ["learnmax/asked/5/0"]


def test_f38_who_gives_no_sign_of_life_is_named_after_the_patience() -> None:
    store, zero, one = _pair()
    told: list[str] = []
    here, there = (cluster._Watcher(each, 30.0, told.append) for each in (zero, one))
    for now in range(20):
        assert here.beat(float(now)) is None and there.beat(float(now)) is None
    assert [here.beat(float(now)) for now in (20, 49)] == [None, None]
    assert here.beat(51.0) == "host1 (process 1)"
    # Without the store it is process 0, who keeps it, that is gone.
    store.gone = True
    assert there.beat(20.0) is None and there.beat(51.0) == "host0 (process 0)"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator=127.0.0.1:1"], "--coordinator=127.0.0.1:1: without --distributed"),
        (["--distributed"], "--workdir: not given"),
        (["--distributed", "--workdir=w", "--num_processes=2"], "--coordinator, --process_id: not given"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path: pathlib.Path, flags: list[str], words: str) -> None:
    ended = runs.finish(runs.start("zuma", f"--config={runs.ROOT / runs.TINY}", *flags, folder=tmp_path))
    assert ended.code == 2 and words in ended.errors and ended.errors.count("\n") == 1


def _start(workdir: pathlib.Path, index: int, port: int, *fields: str, **environment: str) -> subprocess.Popen[str]:
    cluster_flags = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={index}")
    return runs.start(
        "zuma",
        f"--config={runs.TINY}",
        f"--workdir={workdir}",
        "--distributed",
        *cluster_flags,
        *fields,
        **environment,
    )


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_f39_two_processes_of_different_seeds_end_with_what_differs(tmp_path: pathlib.Path) -> None:
    port = _port()
    both = [_start(tmp_path / "run", index, port, f"--config.seed={index}") for index in (0, 1)]
    for ended in map(runs.finish, both):
        assert ended.code == 2
        assert "processes differ in seed:" in ended.errors and "(process 0) 0," in ended.errors


def test_f37_two_processes_are_one_of_two_devices_to_the_bit(tmp_path: pathlib.Path) -> None:
    port = _port()
    # Compiled anew: a kept program of a process with other cores differs in the last bit.
    alike = devices.forced(2) | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    of_two = {**alike, "XLA_FLAGS": os.environ["XLA_FLAGS"]}
    both = [_start(tmp_path / "two", index, port, **of_two) for index in (0, 1)]
    one = runs.start("zuma", f"--config={runs.TINY}", f"--workdir={tmp_path / 'one'}", **alike)
    for ended in map(runs.finish, [*both, one]):
        assert ended.code == 0, ended.errors[-2000:]
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "two" / "process-1"]
    for folder in folders[1:]:
        assert runs.rows(folder) == runs.rows(folders[0])
        assert runs.state_hash(folder, 20) == runs.state_hash(folders[0], 20)
    records = [len(list((folder / "shards").glob("*.lmx"))) for folder in folders]
    assert len(set(records)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_f38_the_other_process_ends_and_the_same_command_continues(tmp_path: pathlib.Path, number: int) -> None:
    port, longer = _port(), "--config.num_env_steps=4000"
    zero, one = (_start(tmp_path, index, port, longer) for index in (0, 1))
    while not list((tmp_path / "process-1" / "checkpoints").glob("step_*")):
        assert zero.poll() is None and one.poll() is None
        time.sleep(0.5)
    one.send_signal(number)
    begin = time.monotonic()
    ended = runs.finish(zero, timeout_seconds=150)
    one.kill()
    runs.finish(one)
    assert ended.code not in (0, None) and time.monotonic() - begin < 150
    assert "(process 1): no sign of life" in ended.errors
    port = _port()
    both = [_start(tmp_path, index, port, "--config.num_env_steps=80") for index in (0, 1)]
    assert [runs.finish(each).code for each in both] == [0, 0]
