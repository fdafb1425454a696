"""Rows of metrics.jsonl over kills and resumes, the progress line, what a NaN leaves behind."""

import importlib.util
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax import metrics, postmortem


@pytest.fixture(autouse=True)
def _no_board(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is an extra: most tests go without."""
    if "board" not in request.node.name:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def write(workdir: pathlib.Path, *steps: int, restored: int = 0) -> None:
    writer = metrics.MetricsWriter(workdir, restored=restored, counter=metrics.STEP)
    for step in steps:
        writer.write({"num_env_steps": step, "loss": step / 2})
    writer.close()


def steps_in(workdir: pathlib.Path) -> list[int]:
    return [row["num_env_steps"] for row in metrics.read_rows(workdir / "metrics.jsonl")]


def test_rows_are_on_disk_at_once(tmp_path: pathlib.Path) -> None:
    writer = metrics.MetricsWriter(tmp_path, restored=0, counter=metrics.STEP)
    row = {"num_env_steps": 8, "loss": jnp.float32(0.5), "score": None, "bad": np.float32("nan"), "ok": True}
    writer.write(row)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"num_env_steps": 8, "loss": 0.5, "score": None, "bad": None, "ok": True}
    writer.close()


def test_a_resumed_run_has_every_step_once(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 10, 20, 30, 40)
    write(tmp_path, 30, 40, 50, restored=20)
    assert steps_in(tmp_path) == [10, 20, 30, 40, 50]
    write(tmp_path, 10, restored=0)
    assert steps_in(tmp_path) == [10]


def test_a_torn_last_line_is_dropped(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 10, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"num_env_steps": 3')
    assert steps_in(tmp_path) == [10, 20]
    write(tmp_path, 30, restored=20)
    assert steps_in(tmp_path) == [10, 20, 30]


def test_board_gets_the_scalars_of_every_row(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    import tensorboardX

    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tensorboardX.SummaryWriter, "add_scalar", lambda self, *values: seen.append(values))
    write(tmp_path, 10, 20)
    assert seen == [("loss", 5.0, 10), ("loss", 10.0, 20)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_progress_line_by_hand() -> None:
    row = {
        "num_env_steps": 20_000,
        "num_frames": 80_000,
        "steps_per_second": jnp.float32(400.0),
        "num_updates": 1250,
        "episode_score": 33.333,
    }
    # 10,000,000 - 20,000 steps at 400 a second are 24,950 s = 6 h 55 min 50 s.
    line = metrics.progress_line(row, num_env_steps=10_000_000)
    assert line == (
        "20,000 / 10,000,000 env steps  80,000 frames  400.0 steps/s  1,250 updates  score 33.3  6:55:50 left"
    )
    start = metrics.progress_line(row | {"episode_score": None, "steps_per_second": 0.0}, num_env_steps=10_000_000)
    assert start.endswith("score -  ? left")
    assert metrics.progress_line(row, num_env_steps=20_000).endswith("0:00:00 left")


def test_f14_the_first_bad_leaf_is_named_and_the_step_kept(tmp_path: pathlib.Path) -> None:
    suspects = {"a": jnp.array([1, 2]), "b": {"kernel": jnp.array([1.0, jnp.inf])}, "c": jnp.array(jnp.nan)}
    batch = {"rows": jnp.arange(3, dtype=jnp.uint8), "half": jnp.array([1.5], jnp.bfloat16)}
    problem = postmortem.fail(
        tmp_path, 17, suspects=suspects, batch=batch, keys=jax.random.key(5), metrics={"loss": jnp.float32("nan")}
    )
    assert str(problem) == f"step 17: ['b']['kernel'] is not finite; see {tmp_path / 'nan-17'}"
    saved = np.load(tmp_path / "nan-17" / "batch.npz")
    np.testing.assert_array_equal(saved["rows"], [0, 1, 2])
    assert saved["half"].dtype == np.float32 and saved["half"] == 1.5
    np.testing.assert_array_equal(
        np.load(tmp_path / "nan-17" / "keys.npz")["value"], jax.random.key_data(jax.random.key(5))
    )
    assert np.isnan(json.loads((tmp_path / "nan-17" / "metrics.json").read_text())["loss"])
    # The first dump of a step stays.
    postmortem.fail(tmp_path, 17, suspects={}, batch={}, keys={}, metrics={})
    assert "rows" in np.load(tmp_path / "nan-17" / "batch.npz")


def test_first_bad_leaf_passes_over_keys_and_whole_numbers() -> None:
    fine = {"key": jax.random.key(0), "count": jnp.array([3]), "half": jnp.array([1.0], jnp.bfloat16)}
    assert postmortem.first_bad_leaf(fine) is None
    assert postmortem.first_bad_leaf(fine | {"half": jnp.array([-jnp.inf], jnp.bfloat16)}) == "['half']"
