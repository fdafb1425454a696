"""Eight devices do what one does: laws of rounding where sums are split, to the bit where nothing is added up."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from learnmax_jax import devices
from tests import runs


def _eight(*arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.eight_devices", *arguments],
        capture_output=True,
        text=True,
        cwd=runs.ROOT,
        env=os.environ | devices.forced(8),
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_f36_twenty_plain_updates_are_those_of_one_device() -> None:
    told = _eight("learner")
    assert told["devices"] == 8
    for part in ("network", "tokenizer", "codebook sums", "codebook", "priorities"):
        assert told[part] < 1e-6, told
    assert told["metrics"] < 1e-5, told  # roots of means among them
    assert told["again"] == 0.0
    assert told["moved"] > 1e-3  # something was learned


def test_f20_whole_steps_and_checkpoints_are_those_of_one_device() -> None:
    told = _eight("play")
    assert told["acts"] == 0.0 and told["loss"] < 1e-5, told
    assert told["rows"] == ["data"] and told["rows_a_device"] == 1
    assert told["network"] == [] and told["finite"]
    assert told["8 to 1"] == {"difference": 0.0, "devices": 1, "goes on": True}
    assert told["1 to 8"] == {"difference": 0.0, "devices": 8, "goes on": True}


@pytest.mark.parametrize("backend", ["xla", "callback"])
def test_emulators_behind_eight_devices_play_the_same_games(backend: str) -> None:
    told = _eight("emulators", backend)
    assert told["difference"] == 0.0 and told["moved"] > 0.0


def test_forced_devices_keep_the_flags_there_are_and_get_more_threads_than_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    forced = devices.forced(8)
    assert forced["XLA_FLAGS"].split() == [
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_force_host_platform_device_count=8",
    ]
    assert forced["JAX_PLATFORMS"] == "cpu" and int(forced["NPROC"]) > 8
