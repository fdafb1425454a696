"""Several processes, on one machine or many, as one run.

Each process has devices, emulators and a folder of its own, and runs the same loop over the same program. They talk
through the key-value store of `jax.distributed`, beside what the program itself sums up: to make sure that they are
alike, to stop at the same step, and to notice that one is gone.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
from orbax.checkpoint import multihost

from learnmax_jax import lifecycle

PATIENCE = 30.0  # seconds without a sign of life after which a process is given up
_BEAT = 1.0  # seconds between signs of life
_START = 300.0  # seconds that processes may start apart; compiling ones may be later
_ASK = 3600.0  # seconds that one may evaluate or compile while the others wait
_PREFIX = "learnmax"


class Store(Protocol):
    """What is used of jaxlib's client."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Sets a key."""

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """Waits for a key."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """All keys below one."""

    def key_value_delete(self, key: str) -> None:
        """Deletes a key."""


def join(*, coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; before any device is used.

    Args:
      coordinator: host:port of process 0. None, as the others: the cluster's own environment tells (SLURM, Open MPI,
        TPU pods, Kubernetes).
      num_processes, process_id: how many there are, and which this one is.
    Raises:
      BadInput: the environment tells nothing, or the coordinator does not answer.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise lifecycle.BadInput(f"{', '.join(missing)}: not given. Allowed: all of {', '.join(given)}, or none.")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=int(_START))
    except (ValueError, RuntimeError) as problem:
        allowed = "a cluster that jax.distributed knows, or --coordinator, --num_processes and --process_id"
        raise lifecycle.BadInput(f"--distributed: {problem}. Allowed: {allowed}.") from problem


class Cluster:
    """The processes of a run; one alone agrees with itself."""

    def __init__(self, store: Store | None, *, index: int, size: int, name: str = socket.gethostname()) -> None:
        """Joins by telling the others this process's name."""
        self.store, self.index, self.size = store, index, size
        self._asked = 0
        if store is not None:
            store.key_value_set(f"{_PREFIX}/name/{index}", f"{name} (process {index})")

    @classmethod
    def here(cls) -> "Cluster":
        """That of `jax.distributed`, or this process alone."""
        several = jax.process_count() > 1
        store = multihost.get_jax_distributed_client() if several else None
        return cls(store, index=jax.process_index(), size=jax.process_count())

    def name_of(self, index: int) -> str:
        """Host and number of a process."""
        assert self.store is not None
        try:
            return self.store.blocking_key_value_get(f"{_PREFIX}/name/{index}", 1000)
        except Exception:
            return f"process {index}, which never said its name"

    def exchange(self, topic: str, value: str, *, timeout: float = _START) -> list[str]:
        """Every process's value, in order; waits for all.

        Raises:
          HostLost: one did not say in time.
        """
        if self.store is None:
            return [value]
        self.store.key_value_set(f"{_PREFIX}/{topic}/{self.index}", value)
        told = []
        for index in range(self.size):
            try:
                told.append(self.store.blocking_key_value_get(f"{_PREFIX}/{topic}/{index}", int(1000 * timeout)))
            except Exception as problem:  # jaxlib's own error types are not public
                raise lifecycle.HostLost(
                    f"{self.name_of(index)}: said nothing of {topic} in {timeout:g} s"
                ) from problem
        return told

    def check_alike(self, facts: Mapping[str, Any]) -> None:
        """Refuses processes that differ in config, version or step.

        Raises:
          BadInput: on every process, with what differs and whose it is. HostLost: one said nothing.
        """
        told = [json.loads(each) for each in self.exchange("facts", json.dumps(dict(facts), sort_keys=True))]
        names = sorted({name for each in told for name in each})
        differing = [name for name in names if any(each.get(name) != told[0].get(name) for each in told)]
        if differing:
            given = {
                name: [f"{self.name_of(i)} {each.get(name, '(missing)')}" for i, each in enumerate(told)]
                for name in differing
            }
            lines = "; ".join(f"{name}: {', '.join(values)}" for name, values in given.items())
            raise lifecycle.BadInput(f"--distributed: processes differ in {lines}. Allowed: alike.")

    def any(self, flag: bool) -> bool:
        """Whether any process says so: a signal to one stops all, after the same step.

        All call it as often; who is gone meanwhile, `watch` notices.

        Raises:
          HostLost: one does not ask in an hour.
        """
        if self.store is None:
            return flag
        told = self.exchange(f"asked/{self._asked}", str(int(flag)), timeout=_ASK)
        if self._asked:
            # All have asked this, so nobody waits for the answers before any more.
            self.store.key_value_delete(f"{_PREFIX}/asked/{self._asked - 1}/{self.index}")
        self._asked += 1
        return "1" in told

    def watch(self, *, patience: float = PATIENCE, give_up: Callable[[str], None] | None = None) -> None:
        """From now on ends this process when another one gives no sign of life, whatever this one waits for."""
        if self.store is not None:
            watcher = _Watcher(self, patience, give_up or _end_process)
            threading.Thread(target=watcher.run, name="host-watcher", daemon=True).start()


@contextlib.contextmanager
def blame(cluster: Cluster) -> Iterator[None]:
    """A program fails at once where a process that it sums up with is gone: gives the watcher time to say which."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if cluster.store is not None:
            time.sleep(PATIENCE + 5 * _BEAT)
        raise


class _Watcher:
    """Signs of life, told and heard, in a thread of its own: the main one may be waiting inside a program."""

    def __init__(self, cluster: Cluster, patience: float, give_up: Callable[[str], None]) -> None:
        self.cluster, self.patience, self.give_up = cluster, patience, give_up
        self.names = [cluster.name_of(index) for index in range(cluster.size)]
        self.heard: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        """Beats until somebody is missed."""
        missed = None
        while missed is None:
            missed = self.beat(time.monotonic())
            time.sleep(_BEAT)
        self.give_up(f"{missed}: no sign of life for {self.patience:g} s")

    def beat(self, now: float) -> str | None:
        """One sign of life; the name of a process that has given none for too long."""
        store = self.cluster.store
        assert store is not None
        try:
            store.key_value_set(f"{_PREFIX}/alive/{self.cluster.index}", f"{now}", allow_overwrite=True)
            told = {int(key.rpartition("/")[2]): value for key, value in store.key_value_dir_get(f"{_PREFIX}/alive")}
        except Exception:
            told = {}
        for index in range(self.cluster.size):
            before, since = self.heard.get(index, ("", now))
            said = told.get(index, before)
            self.heard[index] = (said, since if said == before else now)
        silent = [index for index, (_, since) in self.heard.items() if now - since > self.patience]
        return self.names[min(silent)] if silent else None


def _end_process(message: str) -> None:
    """The main thread may never come back from its program; the run's files are whole at any moment."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(lifecycle.HOST_LOST)
