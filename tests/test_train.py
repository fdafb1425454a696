"""Whole runs of the tiny config: resumption, signals, broken checkpoints, numbers that are not finite.

The scripted world's state is in the checkpoint, so a run that was stopped and continued must equal one
that was not, bit for bit. Where a process of its own is not the point, runs share one compiled program.
"""

import dataclasses
import itertools
import json
import pathlib
import random
import re
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, compiled_step, config, postmortem, tally, train
from learnmax_jax import step as steps
from learnmax_jax.acting import envs
from learnmax_jax.replay import shards
from tests import runs
from tests.runs import ENV_STEPS

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _shared(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.share_programs(monkeypatch)


def budget(num_steps: int) -> tuple[str, int]:
    return "num_env_steps", num_steps * ENV_STEPS


def started(workdir: pathlib.Path, settings: config.Settings) -> tuple[agents.Agent, steps.State]:
    """What a resumed run begins with."""
    agent = agents.build(settings)
    return agent, train._start(agent, workdir)[0]


def hashes(agent: agents.Agent, state: steps.State) -> tuple[str, str]:
    """Of what a checkpoint holds, and of the replay's rows."""
    return checkpoints.tree_hash(steps.to_save(agent, state)), checkpoints.tree_hash(state.replay)


def assert_same(workdir: pathlib.Path, reference: pathlib.Path, step: int, first_record: int = 0) -> None:
    """Final state, rows, and the transitions of two runs are equal."""
    assert runs.state_hash(workdir, step) == runs.state_hash(reference, step)
    assert runs.rows(workdir) == runs.rows(reference)
    first_record = max(first_record, step - 8)
    for folder in (workdir, reference):
        assert runs.record_numbers(folder, step, first_record) == list(range(first_record, step))
    settings = runs.tiny(budget(step))
    assert hashes(*started(workdir, settings)) == hashes(*started(reference, settings))


def test_f03_10_and_10_steps_equal_20(tmp_path: pathlib.Path) -> None:
    assert runs.run(runs.tiny(budget(20)), tmp_path / "whole") == 0
    assert runs.run(runs.tiny(budget(10)), tmp_path / "parts") == 0
    assert runs.saved_steps(tmp_path / "parts") == [10]
    # A larger budget continues a finished run.
    assert runs.run(runs.tiny(budget(20)), tmp_path / "parts") == 0
    whole, parts = runs.rows(tmp_path / "whole"), runs.rows(tmp_path / "parts")
    # Every 12 env steps, at the end of each part, and the losses of steps 11 to 20 are numbers.
    assert [row["num_env_steps"] for row in whole] == [12, 24, 36, 48, 60, 72, 80]
    assert [row["num_env_steps"] for row in parts] == [12, 24, 36, 40, 48, 60, 72, 80]
    assert all(np.isfinite(row["loss"]) for row in whole[1:])
    # The row of the first part's end began the counting of trees and episodes anew.
    del parts[3]
    counted = ("episode_score", "explorer_score", "explorer_score_max", "episode_length", "tree_depth_mean")
    for row in (whole[3], parts[3]):
        for name in (*counted, "tree_depth_max"):
            del row[name]
    assert parts == whole
    assert runs.state_hash(tmp_path / "parts", 20) == runs.state_hash(tmp_path / "whole", 20)
    settings = runs.tiny(budget(20))
    assert hashes(*started(tmp_path / "parts", settings)) == hashes(*started(tmp_path / "whole", settings))


def test_f03_f04_a_process_stopped_twice_over_and_continued_equals_one_that_was_not(tmp_path: pathlib.Path) -> None:
    sections = ("evaluation", "checkpoint", "pictures")
    sparse = [(f"{section}.every_env_steps", 400 * ENV_STEPS) for section in sections] + [
        ("report.every_env_steps", 30 * ENV_STEPS),
        budget(400),
    ]
    arguments = [f"--config={runs.TINY}", *(f"--config.{name}={value}" for name, value in sparse)]
    process = runs.start("zuma", *arguments, f"--workdir={tmp_path / 'parts'}")
    with runs.killed_at_the_end(process):
        assert process.stdout is not None
        # The first step is told at once: a long compilation looks like nothing happening.
        assert re.fullmatch(r"first step done \d+ s after the start\n", process.stdout.readline())
        assert process.stdout.readline().startswith("120 / 1,600 env steps  120 frames  ")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        ended = runs.finish(process)
    (stopped,) = runs.saved_steps(tmp_path / "parts")
    assert ended.code == 75 and 30 <= stopped < 400
    assert ended.errors.endswith(f"stopped: saved step {stopped} in {tmp_path / 'parts'}; the same command continues\n")
    agent, state = started(tmp_path / "parts", runs.tiny(*sparse))
    assert hashes(agent, state)[0] == runs.state_hash(tmp_path / "parts", stopped)
    ended = runs.finish(runs.start("zuma", *arguments, f"--workdir={tmp_path / 'parts'}"))
    assert ended.code == 0, ended.errors
    assert f"continues from step {stopped}\n" in ended.output
    ended = runs.finish(runs.start("zuma", *arguments, f"--workdir={tmp_path / 'whole'}"))
    assert ended.code == 0, ended.errors
    assert_same(tmp_path / "parts", tmp_path / "whole", 400, first_record=392)


def test_f01_a_run_killed_at_random_moments_equals_one_that_was_not(tmp_path: pathlib.Path) -> None:
    often = [budget(24), ("checkpoint.every_env_steps", ENV_STEPS), ("evaluation.every_env_steps", 12 * ENV_STEPS)]
    often.append(("pictures.every_env_steps", 1_000))  # runs of this process draw none
    arguments = [f"--config={runs.TINY}", *(f"--config.{name}={value}" for name, value in often)]
    workdir = tmp_path / "killed"
    moments = random.Random(time.time_ns())
    for wanted in (1, 6):
        process = runs.start("zuma", *arguments, f"--workdir={workdir}")
        with runs.killed_at_the_end(process):
            while max(runs.saved_steps(workdir), default=0) < wanted and process.poll() is None:
                time.sleep(0.02)
            time.sleep(moments.uniform(0.0, 0.8))
            assert process.poll() is None, runs.finish(process)
        saved = runs.saved_steps(workdir)[-1]
        agent, state = started(workdir, runs.tiny(*often))
        assert hashes(agent, state)[0] == runs.state_hash(workdir, saved)
    assert runs.run(runs.tiny(*often), workdir) == 0  # and the lock of the killed is free
    assert not [entry for entry in (workdir / "checkpoints").iterdir() if not entry.name.startswith("step_")]
    assert runs.run(runs.tiny(*often), tmp_path / "whole") == 0
    assert_same(workdir, tmp_path / "whole", 24)


def test_f04_a_signal_while_compiling_ends_the_process_at_once(tmp_path: pathlib.Path) -> None:
    # Without a cache, the step is traced and compiled for a minute once the settings are written.
    process = runs.start("zuma", f"--config={runs.TINY}", f"--workdir={tmp_path}", JAX_ENABLE_COMPILATION_CACHE="false")
    with runs.killed_at_the_end(process):
        while not (tmp_path / "config.json").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        ended = runs.finish(process)
    assert time.monotonic() - begin < 5
    assert ended.code == 75
    assert ended.errors.endswith("stopped: SIGTERM, nothing was unsaved\n")
    assert runs.saved_steps(tmp_path) == []


class StopAfter(runs.Stop):
    """A signal that comes before the loop asks for the n-th time."""

    def __init__(self, num_questions: int) -> None:
        super().__init__()
        self._left = num_questions

    @property
    def requested(self) -> bool:
        if self._left >= 0:
            self._left -= 1
        return self._left < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        del value


@pytest.mark.parametrize("num_questions", range(1, 9))
def test_f04_whenever_a_signal_comes_all_is_saved(
    tmp_path: pathlib.Path, num_questions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Evaluations after steps 2, 4, ..; checkpoints after steps 3, 6, ..: asked now here, now there.
    settings = runs.tiny(
        budget(6), ("evaluation.every_env_steps", 2 * ENV_STEPS), ("checkpoint.every_env_steps", 3 * ENV_STEPS)
    )
    code = runs.run(settings, tmp_path, StopAfter(num_questions))
    saved = runs.saved_steps(tmp_path)[-1]
    if code == 75:
        assert f"saved step {saved} in {tmp_path}" in capsys.readouterr().err
    else:
        assert code == 0 and saved == 6
    assert runs.record_numbers(tmp_path, saved) == list(range(saved))
    agent, state = started(tmp_path, settings)
    assert hashes(agent, state)[0] == runs.state_hash(tmp_path, saved)
    assert runs.run(settings, tmp_path) == 0


def test_f04_an_evaluation_is_given_up_for_a_signal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = runs.Stop()
    settings = runs.tiny(budget(20))
    evaluator = train.evaluation.Evaluator(
        settings,
        protocol="standard",
        num_episodes=2,
        max_episode_steps=settings.evaluation.max_episode_steps,
        noise=settings.evaluation.noise,
    )
    act, phases = evaluator._act, []

    def during(*arguments: Any) -> Any:
        phases.append(stop.at_stake)
        stop.requested = True
        return act(*arguments)

    monkeypatch.setattr(evaluator, "_act", during)
    assert runs.run(settings, tmp_path, stop) == 75
    assert phases == [True]  # one act phase of three, with step 10 at stake
    assert runs.saved_steps(tmp_path) == [10]
    assert not list(tmp_path.glob("evaluation/*"))
    assert [row["num_env_steps"] for row in runs.rows(tmp_path)] == [12, 24, 36]


def test_f04_a_signal_during_a_save_saves_the_next_step_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, save = runs.Stop(), checkpoints.save

    def during(*arguments: Any, **keywords: Any) -> Any:
        stop.requested = True
        return save(*arguments, **keywords)

    monkeypatch.setattr(checkpoints, "save", during)
    assert runs.run(runs.tiny(budget(20), ("checkpoint.every_env_steps", 3 * ENV_STEPS)), tmp_path, stop) == 75
    assert runs.saved_steps(tmp_path) == [3]


def test_f15_a_run_of_one_step_ends_with_its_checkpoint(tmp_path: pathlib.Path) -> None:
    assert runs.run(runs.tiny(("num_env_steps", 1)), tmp_path) == 0
    assert runs.saved_steps(tmp_path) == [1]
    (row,) = runs.rows(tmp_path)
    assert (row["num_env_steps"], row["num_updates"], row["loss"]) == (ENV_STEPS, 0, None)
    assert row["tree_depth_mean"] >= 1


def test_f07_a_broken_newest_checkpoint_costs_only_its_steps(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "broken"
    assert runs.run(runs.tiny(budget(20)), workdir) == 0
    assert runs.saved_steps(workdir) == [10, 20]
    runs.damage(workdir, 20)
    # Not finished: its last step cannot be read.
    assert runs.run(runs.tiny(budget(20)), workdir) == 0
    assert "continues from step 10\n" in capsys.readouterr().out
    assert runs.run(runs.tiny(budget(20)), tmp_path / "whole") == 0
    assert_same(workdir, tmp_path / "whole", 20)


def test_f09_where_every_checkpoint_is_broken_nothing_is_touched(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.run(runs.tiny(budget(20)), tmp_path) == 0
    for step in runs.saved_steps(tmp_path):
        runs.damage(tmp_path, step)
    before = runs.files(tmp_path)
    capsys.readouterr()
    assert runs.run(runs.tiny(budget(30)), tmp_path) == 4
    assert "every checkpoint is broken" in capsys.readouterr().err
    assert runs.files(tmp_path) == before


@pytest.mark.parametrize("change", ["gone", "damaged", "another length"])
def test_f35_shards_that_do_not_fit_the_checkpoint_stop_a_run(
    tmp_path: pathlib.Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.run(runs.tiny(budget(10)), tmp_path) == 0
    newest = max((tmp_path / "shards").iterdir())
    if change == "gone":
        newest.unlink()
    elif change == "damaged":
        runs.flip_bit(newest)
    else:
        newest.write_bytes(newest.read_bytes()[:-1])
    before = runs.files(tmp_path)
    capsys.readouterr()
    assert runs.run(runs.tiny(budget(20)), tmp_path) == 4
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {tmp_path / 'shards'}: ") and errors.count("\n") == 1
    assert "Allowed: the shards as the run wrote them" in errors
    assert runs.files(tmp_path) == before


def test_f11_what_shaped_the_state_may_not_change_and_a_finished_run_is_finished(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.run(runs.tiny(budget(3)), tmp_path) == 0
    before = runs.files(tmp_path)

    def never(*_: Any) -> None:
        pytest.fail("built before it was known that it must be")

    monkeypatch.setattr(agents, "build", never)
    for field, saved, given in (
        ("dynamics.num_layers", 1, 2),
        ("tokenizer.num_codes", 4, 3),
        ("env.action_set", 18, 8),
        ("seed", 0, 1),
    ):
        capsys.readouterr()
        assert runs.run(runs.tiny((field, given), budget(9)), tmp_path) == 2
        errors = capsys.readouterr().err
        assert f"({field}: saved {saved}, given {given})" in errors and errors.count("\n") == 1
    both = runs.tiny(("dynamics.num_layers", 3), ("learner.unroll_steps", 1))
    assert runs.run(both, tmp_path) == 2
    assert "dynamics.num_layers: saved 1, given 3; learner.unroll_steps: saved 2, given 1" in capsys.readouterr().err
    for num_steps in (3, 1):
        assert runs.run(runs.tiny(budget(num_steps), ("report.every_env_steps", 8)), tmp_path) == 0
        assert capsys.readouterr().out == f"{tmp_path}: finished, 12 env steps\n"
    assert runs.files(tmp_path) == before


def test_a_workdir_without_its_settings_is_refused(tmp_path: pathlib.Path) -> None:
    checkpoints.save(tmp_path / "checkpoints", 1, {"a": np.zeros(1)}, {}, keep=1)
    assert runs.run(runs.tiny(), tmp_path) == 2


def poison(state: steps.State) -> steps.State:
    """The same state with a NaN in the first parameter."""
    leaves, structure = jax.tree.flatten(state.train.network)
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(jnp.nan)
    return state.replace(train=state.train.replace(network=jax.tree.unflatten(structure, leaves)))


def poison_at(monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool, stop: runs.Stop | None = None) -> None:
    """Puts the NaN into the state before that step, or into what comes out of it with a good flag."""
    compile_step = compiled_step.compile_step

    def compile_poisoned(agent: agents.Agent, state: steps.State) -> Any:
        good = compile_step(agent, state)
        calls = iter(range(1, 1000))

        def act_learn_step(state: steps.State) -> Any:
            with jax.transfer_guard("allow"):
                due = next(calls) == step
                if due and stop:
                    stop.requested = True
                state, outputs = good(poison(state) if due and not after else state)
                return (poison(state) if due and after else state), outputs

        return act_learn_step

    monkeypatch.setattr(compiled_step, "compile_step", compile_poisoned)


@pytest.mark.parametrize(
    ("step", "after", "signalled", "named"),
    [
        (13, False, False, 13),  # between two saves and two reports
        (13, False, True, 13),  # a signal asks for a checkpoint of that very step
        (20, False, False, 20),  # the step whose state is to be saved
        (13, True, False, 14),  # out of an update whose loss was finite: the next step's search meets it
        (20, True, False, 20),  # the same, and nothing but the state itself tells before it is saved
    ],
)
def test_f14_nothing_of_a_nan_is_committed(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    after: bool,
    signalled: bool,
    named: int,
) -> None:
    assert runs.run(runs.tiny(budget(10)), tmp_path) == 0
    before = {name: digest for name, digest in runs.files(tmp_path).items() if name.startswith("checkpoints")}
    stop = runs.Stop()
    poison_at(monkeypatch, step - 10, after=after, stop=stop if signalled else None)
    assert runs.run(runs.tiny(budget(30)), tmp_path, stop) == 3
    errors = capsys.readouterr().err
    folder = tmp_path / f"nan-{named}"
    assert f"error: step {named}: " in errors and f" is not finite; see {folder}\n" in errors
    assert "a value is not finite" not in errors
    assert runs.saved_steps(tmp_path) == [10]
    assert {name: digest for name, digest in runs.files(tmp_path).items() if name.startswith("checkpoints")} == before
    batch = np.load(folder / "batch.npz")
    assert batch["rows.observation"].shape == (2, 5, 84, 84, 1) and batch["mask"].any()
    assert np.load(folder / "keys.npz")["run"].shape == (2,)
    assert "loss" in json.loads((folder / "metrics.json").read_text())
    assert max(row["num_env_steps"] for row in runs.rows(tmp_path)) < named * ENV_STEPS
    # The same command goes on from the good checkpoint.
    monkeypatch.undo()
    runs.share_programs(monkeypatch)
    agent, state = started(tmp_path, runs.tiny(budget(30)))
    assert postmortem.first_bad_leaf(steps.to_save(agent, state)) is None


def test_f33_seeds_decide_all_and_alone(tmp_path: pathlib.Path) -> None:
    # 50 steps of 4 transitions; the scripted world draws nothing, the agent does.
    agent = agents.build(runs.tiny())
    act_learn_step = compiled_step.compile_step(agent, steps.init_state(agent))
    ends = [play(agent, seed, act_learn_step, num_steps=50) for seed in (0, 0, 1)]
    assert ends[0] == ends[1]
    assert ends[0][0] != ends[2][0] and ends[0][1] != ends[2][1]


@pytest.mark.slow
def test_f33_seeds_decide_the_emulators_too() -> None:
    settings = runs.tiny(("env.backend", "callback"), ("env.game", "Breakout-v5"), ("env.num_threads", 1))
    agent = agents.build(settings)
    act_learn_step = compiled_step.compile_step(agent, steps.init_state(agent))
    ends = [play(agent, seed, act_learn_step, num_steps=50) for seed in (0, 0, 1)]
    assert ends[0] == ends[1]
    assert ends[0][0] != ends[2][0] and ends[0][1] != ends[2][1]


def play(agent: agents.Agent, seed: int, act_learn_step: Any, *, num_steps: int) -> tuple[str, str]:
    """Hashes of all transitions and of the learner after a run from a seed."""
    section = config.thaw(agent.config)
    section.seed = seed
    state = steps.init_state(dataclasses.replace(agent, config=config.Settings(section)))
    transitions = []
    for _ in range(num_steps):
        state, outputs = act_learn_step(state)
        transitions.append(jax.device_get(outputs.act.transitions))
    return checkpoints.tree_hash(transitions), checkpoints.tree_hash(state.train)


def test_a_resumed_run_of_emulators_starts_other_episodes_and_makes_one_pool(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = runs.tiny(("env.backend", "xla"), ("env.game", "Pong-v5"), ("env.num_threads", 1))
    make_pool, seeds = envs.make_pool, []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        seeds.append(keywords["seeds"])
        return make_pool(*arguments, **keywords)

    monkeypatch.setattr(envs, "make_pool", counted)
    agent = agents.build(settings)
    saved = steps.to_save(agent, steps.init_state(agent))
    checkpoints.save(tmp_path / "checkpoints", 0, saved, tally.Tally().to_meta(), keep=1)
    for _ in range(2):
        _, state = started(tmp_path, settings)
        assert hashes(agent, state)[0] == runs.state_hash(tmp_path, 0)
    # First frames are alike; what differs is what the emulators draw from.
    assert len(seeds) == 3 and seeds[1] == seeds[2] and not set(seeds[0]) & set(seeds[1])


@pytest.mark.slow
def test_f04_a_run_of_emulators_is_stopped_and_continued(tmp_path: pathlib.Path) -> None:
    arguments = ["--config=configs/smoke.py", f"--workdir={tmp_path}", "--config.evaluation.max_episode_steps=1"]
    process = runs.start("zuma", *arguments)
    with runs.killed_at_the_end(process):
        assert process.stdout is not None and process.stdout.readline().startswith("first step done ")
        assert process.stdout.readline().startswith("64 / 640 env steps")
        process.send_signal(signal.SIGTERM)
        ended = runs.finish(process)
    stopped = runs.saved_steps(tmp_path)[-1]
    assert ended.code == 75 and 4 <= stopped < 40
    ended = runs.finish(runs.start("zuma", *arguments))
    assert ended.code == 0, ended.errors
    assert f"continues from step {stopped}\n" in ended.output
    assert [row["num_env_steps"] for row in runs.rows(tmp_path)] == list(range(64, 641, 64))
    chunks = [chunk for _, chunk in shards.ShardReader(tmp_path / "shards").read(0, 40)]
    assert len(chunks) == 40
    # Step by step an environment's episode goes on, but for the break, where each begins anew.
    for index, (chunk, following) in enumerate(itertools.pairwise(chunks), start=1):
        goes_on = (following.episode_step[:, 0] == chunk.episode_step[:, -1] + 1) | chunk.last[:, -1]
        assert following.first[:, 0].all() if index == stopped else (goes_on | following.first[:, 0]).all()


def test_nothing_but_reports_reads_the_emulators_ram(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = runs.tiny(budget(12), ("name", "ram"))
    assert runs.run(settings, tmp_path / "plain") == 0
    make = envs.WORLDS["scripted"]

    def garbage(**arguments: Any) -> Any:
        world = make(**arguments)

        def step(env_state: Any, action: Any) -> Any:
            env_state, time_step = world.step(env_state, action)
            noise = action * 7 + time_step.reward.astype(jnp.int32)
            return env_state, time_step.replace(probe=jax.tree.map(lambda _: noise, time_step.probe))

        return dataclasses.replace(world, step=step)

    monkeypatch.setattr(runs, "_programs", {})
    monkeypatch.setitem(envs.WORLDS, "scripted", garbage)
    assert runs.run(settings, tmp_path / "garbage") == 0
    plain, other = runs.rows(tmp_path / "plain"), runs.rows(tmp_path / "garbage")
    assert plain[-1]["rooms_visited"] == 0 and other[-1]["rooms_visited"] > 1  # the garbage was seen
    told = ("rooms_visited", "positions_visited", "evaluation_rooms")
    for row, noisy in zip(plain, other, strict=True):
        assert {name: row[name] for name in row if name not in told} == {
            name: noisy[name] for name in noisy if name not in told
        }
    assert runs.state_hash(tmp_path / "plain", 12) == runs.state_hash(tmp_path / "garbage", 12)


def test_a_part_that_refuses_its_settings_is_bad_input(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(settings: config.Settings, mesh: object) -> None:
        raise ValueError("tokenizer.width=3: is odd. Allowed: even. Nearest: 4")

    monkeypatch.setattr(agents, "build", refuse)
    assert runs.run(runs.tiny(), tmp_path) == 2
    assert capsys.readouterr().err == "error: tokenizer.width=3: is odd. Allowed: even. Nearest: 4\n"


def test_a_replay_of_a_resumed_run_is_what_the_shards_say(tmp_path: pathlib.Path) -> None:
    assert runs.run(runs.tiny(budget(10)), tmp_path) == 0
    _, state = started(tmp_path, runs.tiny(budget(10)))
    chunks = [chunk for _, chunk in shards.ShardReader(tmp_path / "shards").read(2, 10)]
    # 16 rows an environment hold the last 8 chunks of 2 rows; row t stands at t modulo 16.
    rewards = np.concatenate([chunk.reward for chunk in chunks], axis=1)
    np.testing.assert_array_equal(np.roll(rewards, 4, axis=1), state.replay.rows.reward)
    assert int(state.replay.num_added) == 20 and int(state.step) == 10 and int(state.train.num_updates) == 16
