"""Checkpoints against kills, broken files, other shapes and full disks."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from learnmax_jax import checkpoints
from learnmax_jax.lifecycle import BadInput, StorageError
from tests import runs

ROOT = pathlib.Path(__file__).parents[1]


@struct.dataclass
class State:
    params: Any
    step: jax.Array
    rng_key: jax.Array


def make_state(step: int = 0) -> State:
    """Leaves of every kind that a run has; all hold the step."""
    params = {
        "kernel": jnp.full((3, 4), step, jnp.float32),
        "half": jnp.full((5,), step, jnp.bfloat16),
        "counts": np.full((2,), step, np.int64),
        "flags": jnp.array([True, False]),
        "none": jnp.zeros((0, 7), jnp.float32),
        "bytes": jnp.full((2, 2), step % 256, jnp.uint8),
    }
    return State(params=params, step=jnp.int32(step), rng_key=jax.random.split(jax.random.key(step), 3))


def save(folder: pathlib.Path, step: int, keep: int = 2, **options: Any) -> pathlib.Path:
    return checkpoints.save(folder, step, make_state(step), {"num_env_steps": step * 10}, keep=keep, **options)


def restore(folder: pathlib.Path) -> checkpoints.Restored:
    restored = checkpoints.restore(folder, make_state())
    assert restored is not None
    return restored


def test_what_is_restored_is_what_was_saved(tmp_path: pathlib.Path) -> None:
    save(tmp_path, 7)
    restored = restore(tmp_path)
    assert (restored.step, restored.meta) == (7, {"num_env_steps": 70})
    assert checkpoints.tree_hash(restored.state) == checkpoints.tree_hash(make_state(7))
    assert jax.tree.structure(restored.state) == jax.tree.structure(make_state(7))
    assert isinstance(restored.state.params["counts"], np.ndarray)
    # The key draws on as before.
    draw = jax.random.normal(restored.state.rng_key[1], (2,))
    np.testing.assert_array_equal(draw, jax.random.normal(make_state(7).rng_key[1], (2,)))


def test_shapes_alone_are_enough_to_restore(tmp_path: pathlib.Path) -> None:
    state = {"weights": jnp.arange(3.0), "rng_key": jax.random.key(3)}
    checkpoints.save(tmp_path, 1, state, {}, keep=1)
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state))
    assert restored is not None
    assert checkpoints.tree_hash(restored.state) == checkpoints.tree_hash(state)


def test_a_part_is_restored_alone(tmp_path: pathlib.Path) -> None:
    inner, other = make_state(7), {"weights": jnp.arange(3.0)}
    checkpoints.save(tmp_path, 1, {"train": inner, "training": other, "a": State(other, jnp.int32(5), ())}, {}, keep=1)
    restored = checkpoints.restore(tmp_path, inner, part="['train']")
    assert restored is not None
    assert checkpoints.tree_hash(restored.state) == checkpoints.tree_hash(inner)
    deeper = checkpoints.restore(tmp_path, other, part="['a'].params")
    assert deeper is not None and deeper.state["weights"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(BadInput, match=r"\['weights'\]: saved float32\[3\], wanted none"):
        checkpoints.restore(tmp_path, {}, part="['training']")
    with pytest.raises(BadInput, match="saved none, wanted"):
        checkpoints.restore(tmp_path, other, part="['train")
    assert checkpoints.shape_of(tmp_path, "['train'].params['kernel']") == (3, 4)
    assert checkpoints.shape_of(tmp_path, "['train'].params['colonel']") is None
    runs.flip_bit(tmp_path / "step_000000000001" / "meta.json")
    with pytest.raises(StorageError, match=r"meta\.json: differs"):
        checkpoints.restore(tmp_path, {}, part="['train']")
    assert checkpoints.shape_of(tmp_path, "['train'].params['kernel']") is None


def test_nothing_there_is_not_an_error(tmp_path: pathlib.Path) -> None:
    assert checkpoints.restore(tmp_path / "none", make_state()) is None
    (tmp_path / ".writing-step_000000000003").mkdir()
    (tmp_path / "step_3").mkdir()
    assert checkpoints.restore(tmp_path, make_state()) is None


def test_tree_hash_sees_value_dtype_shape_and_path() -> None:
    base = checkpoints.tree_hash({"a": jnp.zeros((2, 3), jnp.float32)})
    assert base == checkpoints.tree_hash({"a": np.zeros((2, 3), np.float32)})
    others = [
        {"a": jnp.zeros((2, 3), jnp.float32).at[1, 2].set(-0.0)},
        {"a": jnp.zeros((2, 3), jnp.int32)},
        {"a": jnp.zeros((3, 2), jnp.float32)},
        {"b": jnp.zeros((2, 3), jnp.float32)},
        {"a": jax.random.key(0)},
        {"a": jax.random.key(0, impl="rbg")},
    ]
    hashes = [base, *map(checkpoints.tree_hash, others)]
    assert len(set(hashes)) == len(hashes)
    with pytest.raises(TypeError, match=r"\['a'\]\[1\]: is a float"):
        checkpoints.tree_hash({"a": [jnp.zeros(1), 1.0]})


def test_the_newest_stay_and_those_that_were_asked_for(tmp_path: pathlib.Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, keep=2, always_keep=(2,))
    assert checkpoints.steps(tmp_path) == [2, 5, 6]
    assert sorted(os.listdir(tmp_path)) == [f"step_{step:012d}" for step in (2, 5, 6)]
    with pytest.raises(BadInput, match=r"checkpoint\.keep=0"):
        save(tmp_path, 7, keep=0)


def test_the_same_step_twice(tmp_path: pathlib.Path) -> None:
    path = save(tmp_path, 3)
    before = path.stat().st_mtime_ns
    assert save(tmp_path, 3) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="another state"):
        checkpoints.save(tmp_path, 3, make_state(4), {}, keep=2)
    (path / "meta.json").write_text("{}")
    save(tmp_path, 3)
    assert restore(tmp_path).meta == {"num_env_steps": 30}


def test_a_step_restored_after_a_broken_one_survives_its_cleaning(tmp_path: pathlib.Path) -> None:
    save(tmp_path, 10, keep=1)
    broken = save(tmp_path, 20, keep=1, always_keep=(10,))
    (broken / "meta.json").write_text("{}")
    assert restore(tmp_path).step == 10
    save(tmp_path, 15, keep=1)
    assert checkpoints.steps(tmp_path) == [15]
    assert restore(tmp_path).step == 15


WRITER = """
import pathlib, shutil, sys, time
from learnmax_jax import checkpoints
from tests import test_checkpoints as here
folder, keep, slow = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "slow"
if slow:
    remove = shutil.rmtree
    def slowly(path, **options):
        # One file, a long pause in which the kill falls, then the rest.
        for file in sorted(pathlib.Path(path).rglob("manifest*")):
            file.unlink()
            print("deleting", flush=True)
            time.sleep(0.2)
        remove(path, **options)
    shutil.rmtree = slowly
restored = checkpoints.restore(folder, here.make_state())
step = restored.step if restored else 0
while True:
    step += 1
    here.save(folder, step, keep=keep)
    print("saved", step, flush=True)
"""


def start_writer(folder: pathlib.Path, keep: int, slow: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(keep), "slow" if slow else "fast"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def kill_after(writer: subprocess.Popen[str], line: str, delay_seconds: float) -> int:
    """Kills the writer some time after it printed a line; returns the last step it said was saved."""
    assert writer.stdout is not None
    lines = []
    for text in writer.stdout:
        lines.append(text)
        if text.startswith(line):
            break
    time.sleep(delay_seconds)
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.readlines()
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    said = [int(text.split()[1]) for text in lines if text.startswith("saved ") and text.endswith("\n")]
    return max(said, default=0)


def test_f01_kill_at_random_moments_of_saving(tmp_path: pathlib.Path) -> None:
    generator = np.random.default_rng(0)
    last = 0
    for delay_seconds in generator.uniform(0.0, 0.3, size=5):
        said = kill_after(start_writer(tmp_path, keep=2, slow=False), "saved", delay_seconds)
        restored = restore(tmp_path)
        # What was said to be saved is there; a later one may be, whose word came too late.
        assert said <= restored.step <= said + 1
        assert said > last
        assert checkpoints.tree_hash(restored.state) == checkpoints.tree_hash(make_state(restored.step))
        last = said
    save(tmp_path, last + 2)
    assert not [name for name in os.listdir(tmp_path) if not name.startswith("step_")]


def test_f02_kill_while_an_old_step_is_deleted(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        kill_after(start_writer(tmp_path, keep=1, slow=True), "deleting", 0.05)
        left = [name for name in os.listdir(tmp_path) if name.startswith(".deleting-")]
        assert left
        restored = restore(tmp_path)
        assert checkpoints.tree_hash(restored.state) == checkpoints.tree_hash(make_state(restored.step))


def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(checkpoints.logging, "warning", lambda words, *values: lines.append(words % values))
    return lines


def damaged(file: pathlib.Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:-1])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1 << 4
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing"])
def test_f07_f08_any_broken_file_falls_back_to_the_step_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    save(tmp_path / "whole", 1)
    path = save(tmp_path / "whole", 2)
    files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    assert len(files) > 4
    lines = warned(monkeypatch)
    for file in files:
        folder = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", folder)
        broken = folder / path.name / file
        damaged(broken, how)
        lines.clear()
        assert restore(folder).step == 1, file
        assert len(lines) == 1
        # The manifest is known to be broken by its own hash, whichever of the two files is.
        assert str(broken) in lines[0] or ("manifest" in file.name and "manifest" in lines[0])
        shutil.rmtree(folder)


def test_f09_all_broken_is_an_error_never_a_fresh_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = warned(monkeypatch)
    for step in (1, 2):
        damaged(save(tmp_path, step) / "meta.json", "flipped")
    with pytest.raises(StorageError, match="every checkpoint is broken") as caught:
        restore(tmp_path)
    assert "step_000000000001/meta.json" in str(caught.value) and "step_000000000002/meta.json" in str(caught.value)
    assert len(lines) == 2


def test_f07_numbers_that_change_on_the_way_in_are_seen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = warned(monkeypatch)
    save(tmp_path, 1)
    save(tmp_path, 2)
    read = checkpoints._read_values

    def read_wrong(path: pathlib.Path, entries: list[dict[str, Any]]) -> list[np.ndarray]:
        values = read(path, entries)
        return [value + 1 for value in values] if path.name.endswith("2") else values

    monkeypatch.setattr(checkpoints, "_read_values", read_wrong)
    assert restore(tmp_path).step == 1
    assert "tree's hash differs" in lines[0]


def test_f10_other_dtype_shape_or_leaves_are_named(tmp_path: pathlib.Path) -> None:
    # 16777217 is the first whole number that float32 cannot hold.
    state = {"a": {"count": jnp.int32(16777217), "kernel": jnp.zeros((2, 3))}, "gone": jnp.zeros(1)}
    checkpoints.save(tmp_path, 1, state, {}, keep=1)
    like = {"a": {"count": jnp.float32(0), "kernel": jnp.zeros((3, 2))}, "new": jnp.zeros(2)}
    with pytest.raises(BadInput) as caught:
        checkpoints.restore(tmp_path, like)
    line = str(caught.value)
    assert "['a']['count']: saved int32[], wanted float32[]" in line
    assert "['a']['kernel']: saved float32[2, 3], wanted float32[3, 2]" in line
    assert "['gone']: saved float32[1], wanted none" in line
    assert "['new']: saved none, wanted float32[2]" in line
    with pytest.raises(BadInput, match=r"saved key<fry>\[\], wanted uint32\[2\]"):
        checkpoints.save(tmp_path / "key", 1, {"k": jax.random.key(0)}, {}, keep=1)
        checkpoints.restore(tmp_path / "key", {"k": jax.random.key_data(jax.random.key(0))})


def test_f16_another_format_says_which_it_is(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = warned(monkeypatch)
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 2)
    with pytest.raises(StorageError, match="has format 1, this version reads 2"):
        restore(tmp_path)
    assert len(lines) == 1


def test_f05_no_space_names_path_and_bytes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=rf"{tmp_path}: too little space .* \d+ bytes needed, 1000 bytes free"):
        save(tmp_path, 2)
    assert restore(tmp_path).step == 1


def test_f05_a_write_that_fails_leaves_the_older_steps(tmp_path: pathlib.Path) -> None:
    save(tmp_path, 1)
    # A limit on file sizes is a full disk that needs no privileges; SIGXFSZ is ignored by Python.
    code = (
        "import resource, sys, pathlib; from tests import test_checkpoints as here\n"
        "from learnmax_jax import lifecycle\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "sys.exit(lifecycle.exit_code(lambda: here.save(pathlib.Path(sys.argv[1]), 2) and None))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert f"error: {tmp_path}: the checkpoint could not be written" in done.stderr
    assert "bytes needed" in done.stderr
    assert os.listdir(tmp_path) == ["step_000000000001"]
    assert restore(tmp_path).step == 1


def test_restore_writes_nothing(tmp_path: pathlib.Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".writing-step_000000000002").mkdir()

    def everything() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in [tmp_path, *tmp_path.rglob("*")])

    before = everything()
    restore(tmp_path)
    assert everything() == before


def test_f19_a_donated_state_is_in_the_checkpoint_as_it_was(tmp_path: pathlib.Path) -> None:
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"weights": jnp.zeros((64, 64)), "count": jnp.int32(0)}
    for number in range(3):
        hash_now = checkpoints.tree_hash(state)
        checkpoints.save(tmp_path, number, state, {}, keep=1)
        state = step(state)
        restored = checkpoints.restore(tmp_path, state)
        assert restored is not None
        assert checkpoints.tree_hash(restored.state) == hash_now
        # The restored state may be donated as well, and does not share the memory of what was read.
        step(restored.state)


def test_f20_a_sharded_state_comes_back_as_the_example_lies(tmp_path: pathlib.Path) -> None:
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    checkpoints.save(tmp_path, 1, {"rows": jnp.arange(4.0)}, {}, keep=1)
    restored = checkpoints.restore(tmp_path, {"rows": jax.device_put(jnp.zeros(4), sharding)})
    assert restored is not None
    assert restored.state["rows"].sharding == sharding
    np.testing.assert_array_equal(restored.state["rows"], [0.0, 1.0, 2.0, 3.0])
