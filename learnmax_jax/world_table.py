"""Steps to solve known worlds: kinds of exploration, each alone, with search and without.

<out>/<table>.jsonl     a line a run: world, size, kind, search, seed and figures
<out>/<table>.md        medians over seeds

A run is solved where ten greedy evaluations in a row find the treasure; its figure is the steps before the first of
them, of all environments together. What was run before is not run again.
"""

import dataclasses
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from learnmax_jax import agent as agents
from learnmax_jax import config, lifecycle, provenance, results
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.step import State
from learnmax_jax.types import Array

# Greedy evaluations in a row that have to find it.
SOLVED_IN_A_ROW = 10
# Steps between two counts of what was seen.
VISITED_EVERY = 1024
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
    size_field: str,
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
      size_field: the config's field that a cell's size is, dotted.
      seeds: of every cell.
      overrides: (dotted field, text), on top of the configs.
      out: folder of the results.
      stop: asked between runs.
    Returns:
      Exit code.
    """
    path = out / f"{table}.jsonl"
    done = {(Cell(row["size"], row["kind"], row["search"]), row["seed"]) for row in results.read(path)}
    missing = [(cell, seed) for cell in cells for seed in seeds if (cell, seed) not in done]
    begin, built = time.monotonic(), None
    for number, (cell, seed) in enumerate(missing):
        if stop.requested:
            raise lifecycle.Preempted(f"{path}: the same command continues")
        if built is None or built[0] != cell:
            jax.clear_caches()  # programs of other cells
            settings = config.change(variant(cell.kind, cell.search), [(size_field, str(cell.size)), *overrides])
            built = cell, Solver(settings)
        figures = built[1].solve(seed)
        row = dataclasses.asdict(cell) | {"seed": seed} | figures
        given = {"sizes": cell.size, "kinds": cell.kind, "searches": cell.search, "seeds": seed}
        words = [f"--{name}={value}" for name, value in given.items()]
        words += [f"--set={field}={value}" for field, value in overrides]
        row["command"] = " ".join([f"python -m experiments.worlds --table={table}", *words])
        known_by = ("size", "kind", "search", "seed")
        results.put(path, row | {"versions": provenance.versions()}, known_by=known_by)
        write_markdown(table, path, out / f"{table}.md")
        spent = time.monotonic() - begin
        left = spent / (number + 1) * (len(missing) - number - 1)
        hidden = ("command", "versions", "visited")
        shown = " ".join(f"{name}={value}" for name, value in row.items() if name not in hidden)
        print(f"{number + 1} of {len(missing)}: {shown}; {left / 60:.0f} min left", flush=True)
    return lifecycle.DONE


class Solver:
    """A cell's programs, compiled once for all seeds: one plays, greedily or not, one learns."""

    def __init__(self, settings: config.Settings) -> None:
        """Builds the parts; compiles nothing."""
        self.agent = agents.build(settings)
        search = settings.search
        self._noise = (
            jnp.asarray(search.gumbel_scale, jnp.float32),
            jnp.asarray(settings.exploration.epsilon, jnp.float32),
        )
        self._greedy = (jnp.zeros(()), jnp.zeros(()))
        self._reset = self.agent.environments.reset(jax.random.key(0))
        self._start = jax.jit(partial(_start, self.agent))
        self._act = jax.jit(partial(_act, self.agent))
        self._learn = jax.jit(partial(_learn, self.agent), donate_argnums=0)

    def solve(self, seed: int) -> dict[str, Any]:
        """Trains from a seed until solved, or until num_env_steps.

        Returns:
          figures: steps_to_find, the steps before the first episode that was paid, and steps_to_solve; None where that
          never came; visited, different observations by steps.
        """
        settings, agent = self.agent.config, self.agent
        key = jax.random.key(seed)
        state = self._start(key, self._reset)
        every = max(settings.evaluation.every_env_steps // agent.steps_per_call, 1)
        begin, in_a_row, found, step = time.monotonic(), 0, None, 0
        seen: set[bytes] = set()
        visited: dict[int, int] = {}
        while step * agent.steps_per_call < settings.num_env_steps and in_a_row < SOLVED_IN_A_ROW:
            act_key = jax.random.fold_in(key, 2 * step)
            actor, watched, output = self._act(state.train.model, state.actor, state.novelty, act_key, *self._noise)
            state, finite = self._learn(
                state.replace(actor=actor, novelty=watched), output.transitions, jax.random.fold_in(key, 2 * step + 1)
            )
            if found is None and bool((output.transitions.reward > TREASURE).any()):
                found = step * agent.steps_per_call
            step += 1
            seen.update(map(bytes, np.unique(_flat(output.transitions.observation), axis=0)))
            if (step * agent.steps_per_call) % VISITED_EVERY == 0:
                visited[step * agent.steps_per_call] = len(seen)
            if step % every == 0:
                if not bool(finite & output.finite.all()):
                    raise lifecycle.NonFinite(f"seed {seed}: not finite after {step} train steps")
                in_a_row = in_a_row + 1 if self.score(state) > TREASURE else 0
        solved = in_a_row == SOLVED_IN_A_ROW
        return {
            "steps_to_find": found,
            "steps_to_solve": (step - SOLVED_IN_A_ROW * every) * agent.steps_per_call if solved else None,
            "num_env_steps": step * agent.steps_per_call,
            "visited": visited,
            "seconds": round(time.monotonic() - begin, 1),
        }

    def score(self, state: State) -> float:
        """What one greedy episode at beta 0 pays; the worlds are deterministic, so any other pays the same."""
        actor = steps.actor_at(self.agent.player, state.train.model, *self._reset)
        actor = actor.replace(beta=jnp.zeros_like(actor.beta))
        novelty, paid, running = state.novelty, 0.0, True
        for phase in range(-(-self.agent.config.evaluation.max_episode_steps // self.agent.config.actor.num_steps)):
            if running:
                # What exploration sees of this is thrown away.
                actor, novelty, output = self._act(
                    state.train.model, actor, novelty, jax.random.key(phase), *self._greedy
                )
                reward, last = jax.device_get((output.transitions.reward[0], output.transitions.last[0]))
                length = int(last.argmax()) + 1 if last.any() else len(last)
                paid, running = paid + float(reward[:length].sum()), not last.any()
        return paid


def _flat(observation: Array) -> np.ndarray:
    """`[E, T, H, W, C]` to rows of bytes."""
    return np.asarray(observation).reshape(-1, math.prod(observation.shape[2:]))


def _start(agent: Agent, rng_key: Array, reset: Any) -> State:
    learning = steps.init_learning(agent, rng_key)
    return State(actor=steps.actor_at(agent.player, learning["train"].model, *reset), **learning)


def _act(agent: Agent, params: Any, actor: Any, novelty: Any, rng_key: Array, scale: Array, epsilon: Array) -> Any:
    """One act phase, whose noise is an argument: the same program plays greedily."""
    plan = partial(agent.player.plan, gumbel_scale=scale)
    return agent.act(params, actor, novelty, rng_key, plan=plan, epsilon=epsilon)


def _learn(agent: Agent, state: State, transitions: Any, rng_key: Array) -> tuple[State, Array]:
    """Stores an act phase and learns: (state, whether all was finite)."""
    replay = agent.replay.add(state.replay, transitions)
    num_updates = jnp.where(agent.replay.can_sample(replay), agent.updates_per_step, 0)
    learned = steps.learn(state.train, replay, state.novelty, state.actor.beta, rng_key, num_updates, agent=agent)
    state = state.replace(train=learned.train, replay=learned.replay, novelty=learned.novelty, step=state.step + 1)
    return state, learned.finite


def write_markdown(table: str, lines: pathlib.Path, path: pathlib.Path) -> None:
    """Writes one row for every size, kind and search."""
    by_cell: dict[Cell, list[dict[str, Any]]] = {}
    for line in results.read(lines):
        by_cell.setdefault(Cell(line["size"], line["kind"], line["search"]), []).append(line)
    header = (
        "size",
        "exploration",
        "search",
        "solved",
        "steps to solve",
        "steps to find",
        "different observations",
        "steps at most",
    )
    rows = []
    for cell in sorted(by_cell, key=dataclasses.astuple):
        runs = by_cell[cell]
        solved = [run["steps_to_solve"] for run in runs if run["steps_to_solve"] is not None]
        rows.append(
            (
                str(cell.size),
                cell.kind,
                cell.search,
                f"{len(solved)} of {len(runs)}",
                _spread([run["steps_to_solve"] for run in runs]),
                _spread([run["steps_to_find"] for run in runs]),
                _seen([{int(steps): number for steps, number in run.get("visited", {}).items()} for run in runs]),
                f"{max(run['num_env_steps'] for run in runs):,}",
            )
        )
    text = results.markdown(header, rows)
    path.write_text(f"## {table}: environment steps, median (least to most)\n\n{text}")


def _seen(visited: Sequence[dict[int, int]]) -> str:
    """Median of the different observations after as many steps as all runs have, and after a quarter of them."""
    common = sorted(set.intersection(*(set(curve) for curve in visited)))
    if not common:
        return "-"
    shown = sorted({common[-(-len(common) // 4) - 1], common[-1]})
    return ", ".join(f"{statistics.median_high(curve[at] for curve in visited):,} at {at:,}" for at in shown)


def _spread(steps: Sequence[int | None]) -> str:
    """Median, least and most; a run that never came there counts as beyond all others."""
    known = sorted(float("inf") if each is None else each for each in steps)
    median, least, most = (
        "never" if value == float("inf") else f"{value:,.0f}"
        for value in (statistics.median_high(known), known[0], known[-1])
    )
    return f"{median} ({least} to {most})" if len(known) > 1 else median
