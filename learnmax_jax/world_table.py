"""Steps to solve known worlds: kinds of exploration, each alone, with search and without.

<out>/<table>.jsonl     a line a run: world, size, kind, search, seed and figures
<out>/<table>.md        medians over seeds

A run is solved where ten greedy evaluations in a row find the treasure; its figure is the steps before the first of
them, of all environments together. What was run before is not run again.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from learnmax_jax import agent as agents
from learnmax_jax import config, lifecycle, provenance
from learnmax_jax.agent import Agent, State
from learnmax_jax.evaluation import act_without_counts
from learnmax_jax.types import Array

# Greedy evaluations in a row that have to find it.
SOLVED_IN_A_ROW = 10
# The worlds' one reward is 1, less at most 0.01 for the way.
TREASURE = 0.9

Variant = Callable[[str, str], ConfigDict]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What the runs of one cell of the table share; the order is the table's.

    Attributes:
      size: of the world.
      kind: of exploration.
      search: kind of search.
    """

    size: int
    kind: str
    search: str


def run(
    table: str,
    variant: Variant,
    cells: Sequence[Cell],
    *,
    seeds: Sequence[int],
    overrides: Sequence[tuple[str, str]],
    out: pathlib.Path,
    stop: lifecycle.StopWatcher,
) -> int:
    """Runs what is missing of a table, a cell at a time, and writes it after every run.

    Args:
      table: its name, and its files'.
      variant: (kind, search) -> config.
      cells: in the order they are run in.
      seeds: of every cell.
      overrides: (dotted field, text), on top of the configs.
      out: folder of the results.
      stop: asked between runs.
    Returns:
      Exit code.
    """
    results = out / f"{table}.jsonl"
    done = {(Cell(row["size"], row["kind"], row["search"]), row["seed"]) for row in read(results)}
    missing = [(cell, seed) for cell in cells for seed in seeds if (cell, seed) not in done]
    begin, built = time.monotonic(), None
    for number, (cell, seed) in enumerate(missing):
        if stop.requested:
            raise lifecycle.Preempted(f"{results}: the same command continues")
        if built is None or built[0] != cell:
            jax.clear_caches()  # programs of other cells
            settings = config.change(variant(cell.kind, cell.search), [("world.size", str(cell.size)), *overrides])
            built = cell, Solver(settings)
        figures = built[1].solve(seed)
        row = dataclasses.asdict(cell) | {"seed": seed} | figures
        given = " ".join(f"--set={field}={value}" for field, value in overrides)
        row["command"] = f"python -m experiments.worlds --table={table} {given}".strip()
        append(results, row | {"versions": provenance.versions()})
        write_markdown(table, results, out / f"{table}.md")
        spent = time.monotonic() - begin
        left = spent / (number + 1) * (len(missing) - number - 1)
        shown = " ".join(f"{name}={value}" for name, value in row.items() if name not in ("command", "versions"))
        print(f"{number + 1} of {len(missing)}: {shown}; {left / 60:.0f} min left", flush=True)
    return lifecycle.DONE


class Solver:
    """A cell's program, compiled once for all seeds."""

    def __init__(self, settings: config.Settings) -> None:
        """Builds the parts; compiles nothing."""
        self.agent = agents.build(settings)
        section = settings.as_configdict()
        section.env.num_envs = settings.evaluation.num_episodes
        section.exploration.num_exploit_envs = settings.evaluation.num_episodes
        section.search.gumbel_scale, section.search.epsilon = 0.0, 0.0
        section.actor.num_steps = settings.evaluation.max_episode_steps
        self.greedy = agents.build_player(config.Settings(section))
        self.calls = max(settings.evaluation.every_env_steps // self.agent.steps_per_call, 1)
        env_key = jax.random.key(0)
        self._reset = self.greedy.environments.reset(env_key)
        self._round = jax.jit(partial(_round, self.agent, self.greedy, self.calls), donate_argnums=0)

    def solve(self, seed: int) -> dict[str, Any]:
        """Trains from a seed until solved, or until num_env_steps.

        Returns:
          figures: steps_to_find, the steps before the first episode that was paid, and steps_to_solve; None where that
          never came.
        """
        settings = self.agent.config
        state = agents.init_state(dataclasses.replace(self.agent, config=_with_seed(settings, seed)))
        per_round = self.calls * self.agent.steps_per_call
        begin, in_a_row, found, steps = time.monotonic(), 0, None, 0
        while steps < settings.num_env_steps and in_a_row < SOLVED_IN_A_ROW:
            state, score, paid, finite = self._round(state, self._reset)
            if not bool(finite):
                raise lifecycle.NonFinite(f"seed {seed}: not finite after {steps} steps")
            if found is None and bool(paid):
                found = steps
            in_a_row = in_a_row + 1 if float(score) > TREASURE else 0
            steps += per_round
        solved = in_a_row == SOLVED_IN_A_ROW
        return {
            "steps_to_find": found,
            "steps_to_solve": steps - SOLVED_IN_A_ROW * per_round if solved else None,
            "num_env_steps": steps,
            "seconds": round(time.monotonic() - begin, 1),
        }


def _with_seed(settings: config.Settings, seed: int) -> config.Settings:
    section = settings.as_configdict()
    section.seed = seed
    return config.Settings(section)


def _round(
    agent: Agent, greedy: agents.Player, calls: int, state: State, reset: Any
) -> tuple[State, Array, Array, Array]:
    """Some act-learn steps, then one greedy evaluation: (state, mean score, whether an episode was paid, finite)."""

    def one(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
        state, outputs = agents.act_learn_step(state, agent=agent)
        return state, ((outputs.act.transitions.reward > TREASURE).any(), outputs.finite)

    state, (paid, finite) = jax.lax.scan(one, state, None, length=calls)
    actor = agents.actor_at(greedy, state.train.model, *reset)
    # Greedy play in a deterministic world: the key draws nothing that matters.
    _, output = act_without_counts(greedy, state.train.model, actor, jax.random.fold_in(state.rng_key, 2**32 - 1))
    rows = output.transitions
    in_first = jnp.cumsum(rows.last, axis=1) - rows.last == 0
    score = jnp.sum(jnp.where(in_first, rows.reward, 0.0), axis=1).mean()
    return state, score, paid.any(), finite.all()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else ""
    writing = path.with_name(path.name + ".tmp")
    writing.write_text(before + json.dumps(row) + "\n")
    os.replace(writing, path)


def write_markdown(table: str, results: pathlib.Path, path: pathlib.Path) -> None:
    """Writes one row for every size, kind and search."""
    by_cell: dict[Cell, list[dict[str, Any]]] = {}
    for row in read(results):
        by_cell.setdefault(Cell(row["size"], row["kind"], row["search"]), []).append(row)
    header = ("size", "exploration", "search", "solved", "steps to solve", "steps to find", "steps at most")
    text = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for cell in sorted(by_cell, key=dataclasses.astuple):
        rows = by_cell[cell]
        solved = [row["steps_to_solve"] for row in rows if row["steps_to_solve"] is not None]
        cells = (
            str(cell.size),
            cell.kind,
            cell.search,
            f"{len(solved)} of {len(rows)}",
            _spread([row["steps_to_solve"] for row in rows]),
            _spread([row["steps_to_find"] for row in rows]),
            f"{max(row['num_env_steps'] for row in rows):,}",
        )
        text.append(f"| {' | '.join(cells)} |")
    path.write_text(f"## {table}: environment steps, median (least to most)\n\n" + "\n".join(text) + "\n")


def _spread(steps: Sequence[int | None]) -> str:
    """Median, least and most; a run that never came there counts as beyond all others."""
    known = sorted(float("inf") if each is None else each for each in steps)
    median, least, most = (
        "never" if value == float("inf") else f"{value:,.0f}"
        for value in (statistics.median_high(known), known[0], known[-1])
    )
    return f"{median} ({least} to {most})" if len(known) > 1 else median
