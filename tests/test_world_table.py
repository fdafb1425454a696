"""The table of known worlds: what is written, what is not run again; and (slow) that exploration solves DeepSea."""

import json
import pathlib
from typing import Any, ClassVar

import pytest
from ml_collections import ConfigDict

from configs import deep_sea, key_door, table
from learnmax_jax import config, lifecycle, world_table
from learnmax_jax.world_table import Cell


class Stop:
    """Stands in for StopWatcher."""

    requested = False


class Counting:
    """A Solver that solves after (seed + 1) * 100 steps, seed 2 never; tells what was asked of it."""

    asked: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, settings: config.Settings) -> None:
        self.name = f"{settings.search.kind}-{settings.world.size}"

    def solve(self, seed: int) -> dict[str, Any]:
        self.asked.append((self.name, seed))
        steps = None if seed == 2 else (seed + 1) * 100
        return {
            "steps_to_find": steps,
            "steps_to_solve": steps,
            "num_env_steps": 1000,
            "seconds": 0.0,
            "visited": {256: 9, 512: 9 + seed},
        }


CELLS = [Cell(4, "counts", "gumbel"), Cell(4, "none", "none")]


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    monkeypatch.setattr(Counting, "asked", [])
    return Counting.asked


def _run(out: pathlib.Path, seeds: list[int], stop: Any = Stop) -> int:
    return world_table.run(
        "deep_sea", deep_sea.variant, CELLS, size_field="world.size", seeds=seeds, overrides=[], out=out, stop=stop
    )


def test_only_what_is_missing_is_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, counting: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(world_table, "Solver", Counting)
    _run(tmp_path, [0])
    assert counting == [("gumbel-4", 0), ("none-4", 0)]
    counting.clear()
    _run(tmp_path, [0, 1, 2])
    assert counting == [("gumbel-4", 1), ("gumbel-4", 2), ("none-4", 1), ("none-4", 2)]
    rows = [json.loads(line) for line in (tmp_path / "deep_sea.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {"size", "kind", "search", "seed", "command", "versions"} <= rows[0].keys()
    text = (tmp_path / "deep_sea.md").read_text().splitlines()
    assert (
        text[-2]
        == "| 4 | counts | gumbel | 2 of 3 | 200 (100 to never) | 200 (100 to never) | 9 at 256, 10 at 512 | 1,000 |"
    )


def test_a_signal_ends_it_between_two_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_table, "Solver", Counting)

    class Signalled:
        requested = True

    with pytest.raises(lifecycle.Preempted):
        _run(tmp_path, [0], Signalled)


@pytest.mark.parametrize("variant", [deep_sea.variant, key_door.variant, table.variant])
@pytest.mark.parametrize("kind", deep_sea.ALL_KINDS)
@pytest.mark.parametrize("search", ["gumbel", "none", "q_only"])
def test_every_variant_is_a_good_config_with_one_kind(variant: Any, kind: str, search: str) -> None:
    made: ConfigDict = variant(kind, search)
    settings = config.check(made)
    sections = {name for name in deep_sea.KINDS if name in settings}
    assert sections == {"counts" if kind in ("none", "random") else kind}
    assert settings.search.kind == ("none" if search == "q_only" else search)
    only_q = {name for name, weight in settings.loss_weights.items() if weight} == {"q"}
    assert only_q == (search == "q_only")
    wanting = settings.exploration.num_exploit_envs < settings.env.num_envs
    assert wanting == (kind not in ("none", "random"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "solves"), [("counts", True), ("none", False)])
def test_deep_sea_is_solved_by_those_who_explore(kind: str, solves: bool) -> None:
    # At size 10 a random episode in 1,024 finds the treasure, and 4,096 fit in; at 15 one in 32,768.
    fields = [("num_env_steps", "40960"), ("world.size", "15")]
    settings = config.change(deep_sea.variant(kind, "gumbel"), fields)
    figures = world_table.Solver(settings).solve(0)
    assert (figures["steps_to_solve"] is not None) == solves
