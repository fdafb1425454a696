"""Stages of a run: their lengths, and what a run of two makes of them."""

import pathlib

import pytest

from learnmax_jax import config, curriculum, lifecycle, metrics, train
from learnmax_jax import step as steps
from tests import runs


def _stages(*fields: tuple[str, object]) -> list[tuple[int, int, int]]:
    settings = runs.tiny(("env.backend", "xla"), ("env.game", "Pong-v5"), *fields)
    return [
        (stage.first_step, stage.last_step, stage.settings.env.max_episode_steps)
        for stage in curriculum.stages(settings)
    ]


@pytest.mark.parametrize("num_steps", [3, 4, 7, 100])
def test_stages_follow_each_other_and_cover_the_run(num_steps: int) -> None:
    per_call = config.steps_per_call(runs.tiny())
    made = _stages(
        ("num_env_steps", num_steps * per_call),
        ("curriculum.lengths", (5, 50)),
        ("curriculum.env_steps_a_stage", 2 * per_call - 1),
    )
    full = runs.tiny().env.max_episode_steps
    expected = [(0, min(2, num_steps), 5), (2, min(4, num_steps), 50), (4, num_steps, full)]
    assert made == [stage for stage in expected if stage[0] < stage[1]]


def test_without_the_section_a_run_is_one_stage() -> None:
    settings = runs.tiny()
    assert _stages() == [(0, config.num_steps(settings), settings.env.max_episode_steps)]


@pytest.mark.parametrize("lengths", [(50, 5), (5, 5), (5, 27_000)])
def test_lengths_that_do_not_grow_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(lifecycle.BadInput, match=r"curriculum.lengths=.*grow from stage to stage"):
        config.load("configs/base.py", [("curriculum.lengths", str(lengths)), ("curriculum.env_steps_a_stage", "100")])


@pytest.mark.slow
def test_s4_55_a_run_in_two_stages_traces_twice_and_cuts_episodes_off(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    traced = steps.act_and_store

    def counting(*args, **kwargs):
        traces.append(kwargs["agent"].config.env.max_episode_steps)
        return traced(*args, **kwargs)

    monkeypatch.setattr(steps, "act_and_store", counting)
    per_call = config.steps_per_call(runs.tiny())
    fields = (
        ("env.backend", "xla"),
        ("env.game", "Pong-v5"),
        ("num_env_steps", 6 * per_call),
        ("curriculum.lengths", (3,)),
        ("curriculum.env_steps_a_stage", 4 * per_call),
        ("report.every_env_steps", per_call),
    )
    settings = runs.tiny(*fields)
    full = settings.env.max_episode_steps
    assert train.run(settings, workdir=tmp_path / "whole", stop=runs.Stop()) == lifecycle.DONE
    assert traces == [3, full]
    rows = metrics.read_rows(tmp_path / "whole" / "metrics.jsonl")
    assert [row["num_env_steps"] for row in rows] == [per_call * (number + 1) for number in range(6)]
    cut = {row["episode_length"] for row in rows[:4] if row["episode_length"] is not None}
    assert cut == {3.0} and all(row["episode_length"] is None for row in rows[4:])

    # A signal at the first stage's last step ends the run before the second is built; then it goes on there.
    traces.clear()
    stopped = StopsAfter(4)
    with pytest.raises(lifecycle.Preempted):
        train.run(settings, workdir=tmp_path / "stopped", stop=stopped)
    assert traces == [3]
    assert train.run(settings, workdir=tmp_path / "stopped", stop=runs.Stop()) == lifecycle.DONE
    assert traces == [3, full]
    rows = metrics.read_rows(tmp_path / "stopped" / "metrics.jsonl")
    assert [row["num_env_steps"] for row in rows] == [per_call * (number + 1) for number in range(6)]


class StopsAfter(runs.Stop):
    """A signal that comes while the given act-learn step is under way."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.steps_left = step

    def set_at_stake(self, at_stake: bool) -> None:
        super().set_at_stake(at_stake)
        self.steps_left -= at_stake
        self.requested = self.steps_left <= 0
