"""Runs for the tests of whole commands: as processes, and in this process with compiled programs shared."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, compiled_step, config, config_schema, evaluation, lifecycle, metrics, train
from learnmax_jax import step as steps
from learnmax_jax.replay import shards

ROOT = pathlib.Path(__file__).parents[1]
TINY = "tests/configs/tiny.py"
ENV_STEPS = 4  # of a train step of that config
# What differs between two runs of the same steps.
TIMES = ("seconds", "steps_per_second")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended; `cpu_seconds` do not depend on who else uses the machine."""

    code: int
    output: str
    errors: str
    cpu_seconds: float


def start(command: str, *arguments: str, folder: pathlib.Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    """Starts `python -m experiments.<command>`."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{command}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )


def finish(process: subprocess.Popen[str], timeout_seconds: float = 600) -> Ended:
    """Waits for a process and reads what it said and was not read yet."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.stdout is not None and process.stderr is not None
    with process:
        try:
            code = process.wait(timeout_seconds)
        finally:
            process.kill()
        output, errors = process.stdout.read(), process.stderr.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Ended(code, output, errors, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def tiny(*overrides: tuple[str, Any]) -> config.Settings:
    """The tiny config with other values."""
    return config.load(str(ROOT / TINY), [(name, str(value)) for name, value in overrides])


class Stop:
    """Stands in for StopWatcher: a signal comes when the test says so."""

    def __init__(self) -> None:
        self.requested = False
        self.at_stake = False

    def set_at_stake(self, at_stake: bool) -> None:
        self.at_stake = at_stake


def run(settings: config.Settings, workdir: pathlib.Path, stop: Any = None) -> int:
    """`train.run` as the command has it: errors are exit codes."""
    return lifecycle.exit_code(lambda: train.run(settings, workdir=workdir, stop=stop or Stop()))


_programs: dict[Any, Any] = {}
_compile_step, _evaluator = compiled_step.compile_step, evaluation.Evaluator


def share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one config in this process trace and compile their step and their evaluation once."""

    def shaped_by(settings: config.Settings) -> tuple[Any, ...]:
        fields = config_schema.flatten(settings)
        return tuple((name, fields[name]) for name in fields if name not in config_schema.MAY_CHANGE_ON_RESUME)

    def compile_step(agent: agents.Agent, state: steps.State) -> Callable:
        key = shaped_by(agent.config)
        if key not in _programs:
            _programs[key] = _compile_step(agent, state)
        return _programs[key]

    def evaluator(settings: config.Settings, **section: Any) -> evaluation.Evaluator:
        key = (*shaped_by(settings), *section.items())
        if key not in _programs:
            _programs[key] = _evaluator(settings, **section)
        return _programs[key]

    monkeypatch.setattr(compiled_step, "compile_step", compile_step)
    monkeypatch.setattr(evaluation, "Evaluator", evaluator)
    monkeypatch.setattr(train.Run, "draw", lambda self, state, step: None)


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without their times."""
    read = metrics.read_rows(workdir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read]


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints."""
    return checkpoints.steps(workdir / "checkpoints")


def checkpoint(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """A checkpoint's folder."""
    return workdir / "checkpoints" / f"step_{step:012d}"


def state_hash(workdir: pathlib.Path, step: int) -> str:
    """The hash of the tree as it was saved."""
    return json.loads((checkpoint(workdir, step) / "manifest.json").read_text())["tree_hash"]


def record_numbers(workdir: pathlib.Path, stop: int, start: int = 0) -> list[int]:
    """Numbers of the records that the shards hold, damaged ones refused."""
    return [index for index, _ in shards.ShardReader(workdir / "shards").read(start, stop)]


def files(workdir: pathlib.Path) -> dict[str, str]:
    """A hash of every file but the lock's."""
    found = sorted(file for file in workdir.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(workdir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def flip_bit(file: pathlib.Path) -> None:
    """Damages a file in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def damage(workdir: pathlib.Path, step: int) -> None:
    """Flips a bit in the largest file of a checkpoint."""
    files_of_step = [file for file in checkpoint(workdir, step).rglob("*") if file.is_file()]
    flip_bit(max(files_of_step, key=lambda file: file.stat().st_size))


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leaves no process and no pipe behind a test, whatever becomes of it."""
    with process:
        try:
            yield
        finally:
            process.kill()
