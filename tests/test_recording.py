"""Recorded play: the time picture, RAM beside the right observation, and nothing acknowledged that a kill loses."""

import pathlib
import re
import time

import jax
import numpy as np
import pytest

from learnmax_jax import config, lifecycle, recording
from learnmax_jax.acting import envs
from learnmax_jax.acting.routes import load_routes
from learnmax_jax.replay import shards
from learnmax_jax.types import Transition
from learnmax_jax.worlds import scripted
from tests import runs

SCRIPTED = [("env.backend", "world"), ("env.game", "scripted"), ("env.num_envs", "3"), ("actor.num_steps", "5")]
ROWS = 15


def settings(*overrides: tuple[str, str]) -> config.Settings:
    fields = dict(
        [("exploration.num_exploit_envs", "1"), ("replay.capacity", "960"), ("learner.replay_ratio", "16"), *overrides]
    )
    fields = {"learner.batch_size": "15", "learner.sequence_length": "16", **fields}
    return config.load("configs/smoke.py", list(fields.items()))


def record(folder: pathlib.Path, num_observations: int, *overrides: tuple[str, str], policy: str = "random") -> None:
    recording.record(
        settings(*(overrides or SCRIPTED)),
        folder=folder,
        num_observations=num_observations,
        policy=policy,
        stop=lifecycle.StopWatcher(),
    )


def read(folder: pathlib.Path) -> Transition:
    reader = shards.ShardReader(folder / "shards")
    chunks = [transitions for _, transitions in reader.read(*reader.span())]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *chunks)


def test_n12_rows_are_as_the_world_scripts_them(tmp_path: pathlib.Path) -> None:
    record(tmp_path, 20 * ROWS)
    rows = read(tmp_path)
    assert rows.action.shape == (3, 100) and rows.observation.shape == (3, 100, 84, 84, 1)
    environment, number = scripted.read(rows.observation)
    step = np.asarray(number % 100)
    np.testing.assert_array_equal(environment, np.repeat(np.arange(3)[:, None], 100, axis=1))
    np.testing.assert_array_equal(rows.episode_step, step)
    np.testing.assert_array_equal(rows.first, step == 0)
    # The row after an end shows the final frame; its action was ignored.
    np.testing.assert_array_equal(rows.valid[:, 1:], ~rows.last[:, :-1])
    np.testing.assert_array_equal(rows.first[:, 1:], ~rows.valid[:, :-1])
    paid = np.where(rows.valid, step * 8 + rows.action, 0)
    np.testing.assert_array_equal(rows.reward, paid)
    assert ((rows.discount == 0) <= rows.last).all() and (rows.discount == 0).any() and rows.last.any()


def test_a_recording_goes_on_and_a_finished_one_stays(tmp_path: pathlib.Path) -> None:
    record(tmp_path, 4 * ROWS)
    before = read(tmp_path)
    record(tmp_path, 7 * ROWS - 3)
    after = read(tmp_path)
    assert after.action.shape[1] == 35 and after.first[:, 20].all()
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
        np.testing.assert_array_equal(old, new[:, :20])
    # What is played after a stop is not what was played at the beginning.
    assert not np.array_equal(after.action[:, 20:35], after.action[:, :15])
    record(tmp_path, 7 * ROWS)
    assert read(tmp_path).action.shape[1] == 35


def test_a_folder_of_another_recording_is_refused(tmp_path: pathlib.Path) -> None:
    record(tmp_path, ROWS)
    with pytest.raises(lifecycle.BadInput, match="policy: saved random, given jumpy"):
        record(tmp_path, 2 * ROWS, policy="jumpy")


@pytest.mark.parametrize("policy", ["jumpi", "run", "random:x", "route"])
def test_a_policy_that_cannot_play_is_refused_before_anything_is_written(tmp_path: pathlib.Path, policy: str) -> None:
    with pytest.raises(lifecycle.BadInput, match="--policy="):
        record(tmp_path / "new", ROWS, policy=policy)
    assert not (tmp_path / "new").exists()


def test_ram_stands_beside_the_observation_it_belongs_to(tmp_path: pathlib.Path) -> None:
    emulators = [("env.num_envs", "2"), ("env.protocol", "deterministic"), ("actor.num_steps", "8")]
    emulators += [("learner.batch_size", "2"), ("learner.sequence_length", "8"), ("learner.replay_ratio", "1")]
    record(tmp_path, 3 * 16, *emulators, policy="route")
    rows = read(tmp_path)
    # The same actions again, on the host.
    section = settings(*emulators).env.to_dict() | {"backend": "host"}
    again = envs.make(**section)
    env_state, time_step = again.reset(jax.random.fold_in(jax.random.key(0), 0))
    for index in range(3):
        probe = recording.read_probes(tmp_path, index)
        assert probe.ram.shape == (2, 8, 128) and probe.ram.dtype == np.uint8
        for step in range(8):
            np.testing.assert_array_equal(rows.observation[:, 8 * index + step], time_step.observation)
            for recorded, true in zip(jax.tree.leaves(probe), jax.tree.leaves(time_step.probe)):
                np.testing.assert_array_equal(recorded[:, step], true)
            env_state, time_step = again.step(env_state, rows.action[:, 8 * index + step])
    route = load_routes()["door_18"].actions[:24]
    assert (rows.action[:, :1] == np.asarray(route)[:1]).any()


def test_f28_damaged_probes_are_named(tmp_path: pathlib.Path) -> None:
    record(tmp_path, ROWS)
    path = tmp_path / "probes" / "record-00000000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(lifecycle.BadInput, match="record-00000000"):
        recording.read_probes(tmp_path, 0)
    path.unlink()
    with pytest.raises(lifecycle.BadInput, match="record 0"):
        recording.read_probes(tmp_path, 0)


def test_s2_probes_with_python_objects_are_refused(tmp_path: pathlib.Path) -> None:
    record(tmp_path, ROWS)
    path = tmp_path / "probes" / "record-00000000.npz"
    np.savez(path, room=np.array([{"a": 1}], dtype=object))
    with pytest.raises(lifecycle.BadInput, match="record 0"):
        recording.read_probes(tmp_path, 0)


def test_f34_what_was_acknowledged_survives_a_kill(tmp_path: pathlib.Path) -> None:
    arguments = [
        f"--out={tmp_path / 'data'}",
        "--policy=random",
        "--num_observations=1000000",
        "--config=configs/smoke.py",
    ]
    arguments += ["--config.env.backend=world", "--config.env.game=scripted"]
    acknowledged = 0
    for round_number in range(3):
        process = runs.start("record", *arguments)
        assert process.stdout is not None
        lines = 0
        for line in process.stdout:
            acknowledged = int(re.match(r"([\d,]+) of", line)[1].replace(",", ""))
            lines += 1
            if lines == 3 + round_number:
                time.sleep(0.01 * round_number)
                break
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()
        reader = shards.ShardReader(tmp_path / "data" / "shards")
        first, stop = reader.span()
        found = [index for index, _ in reader.read(first, stop)]
        assert found == list(range(stop)) and stop * 16 >= acknowledged
        for index in found:
            recording.read_probes(tmp_path / "data", index)
