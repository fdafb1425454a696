"""Pretraining on a recorded world: it learns, resumes exactly, refuses what does not fit, and zuma goes on from it."""

import json
import pathlib
import shutil
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, examination, lifecycle, metrics, pretrain, recording, starting, train
from learnmax_jax.learning import learner
from learnmax_jax.measures.rollout import roll_out
from tests import runs
from tests.exploration.batches import batch_of

SIZES = {
    "world.size": "36",
    "env.num_envs": "8",
    "learner.batch_size": "4",
    "learner.sequence_length": "8",
    "learner.replay_ratio": "1",
    "tokenizer.width": "16",
    "tokenizer.num_groups": "8",
    "tokenizer.num_codes": "16",
    "tokenizer.patch_size": "12",
    "tokenizer_learner.batch_size": "32",
}
SECTION = {
    "pretrain.tokenizer_updates": "6",
    "pretrain.model_updates": "6",
    "pretrain.tokenizer_with_model": "false",
    "pretrain.windows": "rare",
    "pretrain.test_share": "0.2",
    "pretrain.overlap_length": "2",
    "pretrain.skip_damaged": "false",
    "pretrain.held_out_actions": "()",
    "pretrain.num_test_windows": "8",
    "pretrain.report_every_updates": "3",
    "pretrain.examine_every_updates": "6",
    "pretrain.checkpoint_every_updates": "4",
    "loss_weights.policy": "0",
}


def settings(**changes: str) -> config.Settings:
    fields = SIZES | SECTION | {name.replace("__", "."): value for name, value in changes.items()}
    return config.load("configs/sprites.py", list(fields.items()))


def run(given: config.Settings, data: pathlib.Path, workdir: pathlib.Path) -> int:
    return pretrain.run(given, data=data, workdir=workdir, stop=lifecycle.StopWatcher())


def unlike_its_start(given: config.Settings) -> tuple[agents.Agent, learner.TrainState]:
    """A model that has learned nothing, but whose answers depend on what it sees."""
    agent = agents.build(given)
    fresh = starting.fresh(agent)
    key = jax.random.key(1)
    network = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(key, x.shape) if x.ndim == 2 else x, fresh.network)
    return agent, fresh.replace(network=network)


def learned_by(workdir: pathlib.Path) -> learner.TrainState:
    return starting.restore(workdir, settings())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    recording.record(settings(), folder=folder, num_observations=2000, policy="jumpy", stop=lifecycle.StopWatcher())
    return folder


@pytest.fixture(scope="module")
def finished(data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("pretrained")
    assert run(settings(), data, workdir) == lifecycle.DONE
    return workdir


def test_a_window_s_figures_are_of_its_own_frames(data: pathlib.Path) -> None:
    agent, train_state = unlike_its_start(settings())
    examiner = examination.Examiner(agent, pretrain.load(settings(), agent, data), data)
    given, end = examiner.windows, examiner.context_frames
    assert given is not None and examiner.of_model is not None and end > 1
    for window in (1, end):
        rows = jax.tree.map(lambda x, seen=window: x[:, end - seen : end + 1], given.rows)
        look = partial(roll_out, world_model=agent.world_model, context_frames=window, unroll_steps=1)
        rolled = jax.jit(look)(train_state.model, given.replace(rows=rows))
        wanted = float(rolled.nats.mean()), float(rolled.end_nats.mean())
        assert examiner.of_model.nats_of_window(train_state, given, window) == pytest.approx(wanted, rel=1e-4)


def test_rows_tell_of_both_phases_and_of_the_examination(finished: pathlib.Path) -> None:
    rows = metrics.read_rows(finished / "metrics.jsonl")
    assert [row["num_updates"] for row in rows] == [3, 6, 9, 12]
    assert "tokenizer_loss" in rows[0] and "loss" not in rows[0]
    assert "loss" in rows[2] and "tokenizer_loss" not in rows[2]
    assert 0 <= rows[1]["recall"] <= 1 and "gap_closed_1" not in rows[1]
    for name in ("recall", "position_error", "room_accuracy", "forced_nats", "exposure_ratio", "wrong_action_ratio"):
        assert np.isfinite(rows[3][name]), name
    assert {f"gap_closed_{kind}{k}" for kind in ("", "mean_") for k in (1, 2, 5, 10)} <= set(rows[3])
    assert all(0 <= row["wait_share"] <= 1 for row in rows)
    assert [path.name for path in sorted((finished / "pictures").iterdir())] == [
        "update-000000006.png",
        "update-000000012.png",
    ]


def test_a_phase_changes_only_its_own_part(data: pathlib.Path, tmp_path: pathlib.Path, finished: pathlib.Path) -> None:
    agent = agents.build(settings())
    fresh, learned = starting.fresh(agent), learned_by(finished)
    run(settings(pretrain__model_updates="0"), data, tmp_path / "tokenizer")
    tokenizer_only = learned_by(tmp_path / "tokenizer")
    assert checkpoints.tree_hash(tokenizer_only.network) == checkpoints.tree_hash(fresh.network)
    assert checkpoints.tree_hash(tokenizer_only.tokenizer) == checkpoints.tree_hash(learned.tokenizer)
    assert checkpoints.tree_hash(learned.network) != checkpoints.tree_hash(fresh.network)
    run(settings(pretrain__tokenizer_with_model="true"), data, tmp_path / "joint")
    assert checkpoints.tree_hash(learned_by(tmp_path / "joint").tokenizer) != checkpoints.tree_hash(learned.tokenizer)


def test_stopped_and_resumed_equals_uninterrupted(
    data: pathlib.Path, tmp_path: pathlib.Path, finished: pathlib.Path
) -> None:
    run(settings(pretrain__model_updates="2"), data, tmp_path)
    run(settings(), data, tmp_path)
    assert checkpoints.tree_hash(learned_by(tmp_path)) == checkpoints.tree_hash(learned_by(finished))


def test_a_finished_one_stays_and_other_settings_are_refused(data: pathlib.Path, finished: pathlib.Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert run(settings(), data, finished) == lifecycle.DONE
    assert (finished / "metrics.jsonl").read_text() == before
    with pytest.raises(lifecycle.BadInput, match="seed: saved 0, given 1"):
        run(settings(seed="1"), data, finished)


def test_data_of_another_world_is_refused(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(lifecycle.BadInput, match="--data="):
        run(settings(world__size="48"), data, tmp_path)


def test_a_resume_with_other_data_is_refused(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workdir, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(finished, workdir)
    recording.record(settings(), folder=other, num_observations=2000, policy="random", stop=lifecycle.StopWatcher())
    with pytest.raises(lifecycle.BadInput, match=f"--data={other}: other rows than"):
        run(settings(pretrain__model_updates="8"), other, workdir)


def test_data_with_nothing_to_test_on_is_refused(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(lifecycle.BadInput, match=r"pretrain\.test_share=0\.0: leaves no frame"):
        run(settings(pretrain__test_share="0.0"), data, tmp_path)


def test_a_window_ends_for_learning_where_an_action_is_held_out() -> None:
    action = jnp.asarray([[0, 1, 2, 0], [3, 0, 0, 0], [0, 0, 1, 1]], jnp.int32)
    batch = batch_of(np.zeros((3, 4, 1, 1, 1), np.uint8), np.zeros(3), action=action)
    batch = batch.replace(rows=batch.rows.replace(valid=jnp.ones((3, 4), bool).at[2, 1].set(False)))
    valid = pretrain.without(batch, (2, 3)).rows.valid
    assert valid.tolist() == [[True, True, False, False], [False] * 4, [True, False, True, True]]
    np.testing.assert_array_equal(pretrain.without(batch, ()).rows.valid, batch.rows.valid)


def test_a_config_without_the_section_is_refused(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(lifecycle.BadInput, match="pretrain="):
        run(config.load("configs/sprites.py", list(SIZES.items())), data, tmp_path)


def test_a_run_starts_from_the_result(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fields = SIZES | {"init.workdir": str(finished), "init.parts": "all", "loss_weights.policy": "0"}
    agent = agents.build(config.load("configs/sprites.py", list(fields.items())))
    state, _ = train._start(agent, tmp_path)
    assert checkpoints.tree_hash(state.train.network) == checkpoints.tree_hash(learned_by(finished).network)
    other = config.load("configs/sprites.py", list((fields | {"dynamics.width": "64"}).items()))
    with pytest.raises(lifecycle.BadInput, match="other shapes"):
        train._start(agents.build(other), tmp_path)
    part = config.load(
        "configs/sprites.py", list((fields | {"dynamics.width": "64", "init.parts": "tokenizer"}).items())
    )
    state, _ = train._start(agents.build(part), tmp_path)
    learned = learned_by(finished)
    assert checkpoints.tree_hash(state.train.tokenizer) == checkpoints.tree_hash(learned.tokenizer)
    other = config.load(
        "configs/sprites.py", list((fields | {"tokenizer.width": "32", "init.parts": "tokenizer"}).items())
    )
    with pytest.raises(lifecycle.BadInput, match=r"its tokenizer has other shapes: .*saved float32"):
        train._start(agents.build(other), tmp_path)
    # A donated state shares no buffer.
    jax.jit(lambda x: x, donate_argnums=0)(state.train)


def test_of_another_program_s_dynamics_the_tokenizer_is_read_alone(
    finished: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the dynamics' code keeps the tokenizers that were trained before."""
    monkeypatch.setattr(starting, "spec", lambda agent: pytest.fail("asks what the dynamics were"))
    fields = SIZES | {"init.workdir": str(finished), "init.parts": "tokenizer"}
    agent = agents.build(config.load("configs/sprites.py", list(fields.items())))
    state, _ = train._start(agent, tmp_path)
    learned = checkpoints.restore(finished / "checkpoints", state.train.tokenizer, part="['train'].tokenizer")
    assert learned is not None
    assert checkpoints.tree_hash(state.train.tokenizer) == checkpoints.tree_hash(learned.state)


def test_the_command_refuses_in_one_line(tmp_path: pathlib.Path) -> None:
    ended = runs.finish(runs.start("pretrain", f"--data={tmp_path}", f"--workdir={tmp_path / 'x'}"))
    assert ended.code == 2 and "holds no records" in ended.errors and ended.errors.count("\n") == 1


def test_f14_no_checkpoint_of_a_nan(
    data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(agent: agents.Agent) -> tuple[pretrain.Update, pretrain.Update]:
        def update(state: Any, batch: Any, frames: Any, key: Any) -> tuple[Any, dict[str, Any]]:
            told = {"tokenizer_finite": jnp.zeros((), bool), "tokenizer_loss": jnp.zeros(())}
            return state.replace(network=jax.tree.map(lambda x: x * jnp.nan, state.network)), told

        return update, update

    monkeypatch.setattr(pretrain, "updates", broken)
    # It would be saved before it is reported.
    given = settings(pretrain__checkpoint_every_updates="2", pretrain__report_every_updates="3")
    with pytest.raises(lifecycle.NonFinite, match="step 2: network"):
        run(given, data, tmp_path)
    assert not checkpoints.steps(tmp_path / "checkpoints") and (tmp_path / "nan-2").is_dir()


def test_wall_time_goes_on_after_a_resume(
    data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(agent: agents.Agent, workdir: pathlib.Path) -> tuple[learner.TrainState, int, dict[str, Any]]:
        return starting.begin(agent, starting.fresh(agent)), 5, {"seconds": 1000.0}

    monkeypatch.setattr(pretrain, "start", start)
    run(settings(pretrain__model_updates="0"), data, tmp_path)
    assert metrics.read_rows(tmp_path / "metrics.jsonl")[0]["seconds"] > 1000.0
    restored = checkpoints.restore(tmp_path / "checkpoints", {"train": starting.spec(agents.build(settings()))})
    assert restored is not None and restored.meta["seconds"] > 1000.0


def test_a_result_of_an_earlier_version_can_be_started_from(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Its config lacks fields of today and has some of yesterday; what shapes the networks is as it was."""
    earlier = tmp_path / "earlier"
    shutil.copytree(finished, earlier)
    saved = json.loads((earlier / "config.json").read_text())
    del saved["exploration"]["epsilon"], saved["learner"]["decay_updates"]
    saved["search"]["forgotten"] = 1
    (earlier / "config.json").write_text(json.dumps(saved))
    other = config.load("configs/sprites.py", list((SIZES | {"tokenizer.width": "32", "actor.window": "1"}).items()))
    assert checkpoints.tree_hash(starting.restore(earlier, other)) == checkpoints.tree_hash(learned_by(finished))
