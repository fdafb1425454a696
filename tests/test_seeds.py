"""Seeds of a claim: milestones by hand, the published ones as they are known, and a whole command."""

import json
import pathlib
import statistics

import pytest

from learnmax_jax import config, lifecycle, provenance, published, results, seeds, train
from tests import runs


def _rows(*averages: float | None, paid: int | None = 700) -> list[dict]:
    return [
        {
            "num_env_steps": 1000 * (number + 1),
            "num_frames": 4000 * (number + 1),
            "num_updates": number,
            "seconds": 36.0 * number,
            "first_paid_step": paid,
            "score_of_last_100": average,
            "training_score_of_last_100": None if average is None else average + 1,
            "paid_of_last_100": None if average is None else average / 400,
            "explorer_score_max": [None, 400.0, 100.0][number % 3],
            "rooms_visited": 2,
            "positions_visited": 10 * number,
        }
        for number, average in enumerate(averages)
    ]


def test_milestones_by_hand() -> None:
    reached = seeds.milestones(_rows(None, 99.0, 100.0, 40.0, 360.0))
    assert (reached["frames_to_first_reward"], reached["frames_to_100"], reached["frames_to_350"]) == (
        2800,
        12000,
        20000,
    )
    assert (reached["frames_to_training_100"], reached["frames_to_training_350"]) == (8000, 20000)
    assert reached["frames_to_2400"] is None and reached["frames_to_nine_of_ten"] == 20000
    assert (reached["explorer_score_max"], reached["positions"], reached["hours"]) == (400.0, 40, 0.04)
    assert seeds.milestones(_rows(None, paid=None))["frames_to_first_reward"] is None


def test_published_milestones_are_those_of_the_anchors() -> None:
    """DreamerV3: medians of 3.4M frames to 100 and 4.8M to 350, four of six to 2,400; MuZero never."""
    known = seeds.published_milestones()
    dreamer = known["dreamerv3"]
    assert len(dreamer) == 6 and len(known["ppo_fixhp"]) == 5
    assert 3.2e6 < statistics.median(seed[100] for seed in dreamer) < 3.6e6
    assert 4.6e6 < statistics.median(seed[350] for seed in dreamer) < 5.0e6
    assert sum(seed[2400] is not None for seed in dreamer) == 4
    assert known["muzero"] == [dict.fromkeys(seeds.MILESTONES)]


def _fake_run(monkeypatch: pytest.MonkeyPatch, ends: list[Exception | None]) -> list[int]:
    """In place of training: a run writes two reports and its config, then ends as the list says. The seeds run."""
    ran = []

    def run(settings, *, workdir, stop):
        workdir.mkdir(parents=True, exist_ok=True)
        config.dump(settings, workdir / "config.json")
        provenance.record(workdir)
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(None, 100.0)))
        ran.append(settings.seed)
        end = ends.pop(0)
        if end is not None:
            raise end
        return lifecycle.DONE

    monkeypatch.setattr(train, "run", run)
    return ran


def test_a_claim_of_two_seeds_is_written_beside_the_published_ones(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"name": "mine", "seeds": [3, 5], "workdir": tmp_path / "runs", "out": tmp_path / "out"}
    for _ in range(2):  # the second time nothing stands twice
        ran = _fake_run(monkeypatch, [None, None])
        assert seeds.run(runs.tiny(), stop=runs.Stop(), **given) == lifecycle.DONE
        assert ran == [3, 5]
        lines = results.read(tmp_path / "out" / "seeds.jsonl")
        assert [(line["name"], line["seed"]) for line in lines] == [("mine", 3), ("mine", 5)]
        assert len(results.read(tmp_path / "out" / "mine" / "seed-5.jsonl")) == 2
    table = (tmp_path / "out" / "seeds.md").read_text()
    assert "### scripted" in table and "| mine | 2 | 8,000 | 2,800 (2 of 2) | never (0 of 2) |" in table
    assert "(published)" not in table
    montezuma = [line | {"game": published.GAME} for line in lines]
    results.write(tmp_path / "out" / "seeds.jsonl", montezuma)
    seeds.write_markdown(tmp_path / "out")
    table = (tmp_path / "out" / "seeds.md").read_text()
    assert "| mine | 2 | 8,000 | 2,800 (2 of 2) | never (0 of 2) | 8,000 (2 of 2) | never (0 of 2) |" in table
    assert "| dreamerv3 (published) | 6 |" in table and "(4 of 6)" in table


def test_a_run_that_is_stopped_leaves_what_it_reached(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _fake_run(monkeypatch, [lifecycle.Preempted("saved")])
    given = {"name": "mine", "seeds": [0, 1], "workdir": tmp_path / "runs", "out": tmp_path / "out"}
    with pytest.raises(lifecycle.Preempted):
        seeds.run(runs.tiny(), stop=runs.Stop(), **given)
    assert ran == [0]
    assert [line["num_frames"] for line in results.read(tmp_path / "out" / "seeds.jsonl")] == [8000]


def test_a_folder_of_another_run_makes_no_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_run(monkeypatch, [lifecycle.BadInput("holds a run of other settings")])
    given = {"name": "mine", "seeds": [0], "workdir": tmp_path / "runs", "out": tmp_path / "out"}
    with pytest.raises(lifecycle.BadInput):
        seeds.run(runs.tiny(), stop=runs.Stop(), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "says"), [("--seeds=0,a", "--seeds=a: is no seed"), ("--name=../x", "--name=../x: is no folder's name")]
)
def test_bad_flags_are_named(flag: str, says: str, tmp_path: pathlib.Path) -> None:
    given = ["--name=mine", f"--workdir={tmp_path}"] if flag.startswith("--seeds") else [f"--workdir={tmp_path}"]
    ended = runs.finish(runs.start("seeds", f"--config={runs.TINY}", *given, flag))
    assert ended.code == lifecycle.BAD_INPUT and says in ended.errors and len(ended.errors.splitlines()) == 1


@pytest.mark.slow
def test_the_command_trains_from_each_seed(tmp_path: pathlib.Path) -> None:
    steps = str(2 * runs.ENV_STEPS)
    process = runs.start(
        "seeds",
        f"--config={runs.TINY}",
        "--name=tiny",
        "--seeds=3,5",
        f"--workdir={tmp_path / 'runs'}",
        f"--out={tmp_path / 'out'}",
        f"--config.num_env_steps={steps}",
    )
    ended = runs.finish(process)
    assert ended.code == lifecycle.DONE, ended.errors
    for seed in (3, 5):
        assert json.loads((tmp_path / "runs" / f"seed-{seed}" / "config.json").read_text())["seed"] == seed
    assert {line["seed"] for line in results.read(tmp_path / "out" / "seeds.jsonl")} == {3, 5}
