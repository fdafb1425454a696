"""A claim about learning: the same run from several seeds, one after the other, and what they add up to.

<workdir>/seed-<n>/             a run each, as train.py writes it
<out>/<name>/seed-<n>.jsonl     its curve, a line a report
<out>/seeds.jsonl               a line a run: milestones in frames, rooms, places, speed, command, commit
<out>/seeds.md                  a table a game; Montezuma's Revenge beside the published curves
<out>/seeds-<game>.png          the curves
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from learnmax_jax import config, lifecycle, metrics, provenance, published, results, train
from learnmax_jax.report import claims

# Points, the mean of the last 100 episodes: the key, key and door, what DreamerV3 ends at.
MILESTONES = (100, 350, 2400)
_DOTS_AN_INCH = 100
_CURVE = (
    "num_env_steps",
    "num_frames",
    "num_updates",
    "seconds",
    "steps_per_second",
    "num_episodes",
    "episode_score",
    "explorer_score",
    "score_of_last_100",
    "training_score_of_last_100",
    "paid_of_last_100",
    "explorer_score_max",
    "rooms_visited",
    "positions_visited",
    "novelty_num_keys",
    "code_accuracy",
)


def run(
    settings: config.Settings,
    *,
    name: str,
    seeds: Sequence[int],
    workdir: pathlib.Path,
    out: pathlib.Path,
    stop: lifecycle.StopWatcher,
) -> int:
    """Trains from every seed and writes what came of it; goes on where it was stopped.

    Args:
      settings: the checked config; its seed is replaced.
      name: of the claim, a row of the table.
      seeds: one run each.
      workdir: the runs' folders are made in it.
      out: where curves and table are written.
      stop: tells of a signal.
    Returns:
      Exit code 0.
    Raises:
      Whatever train.run raises; what the run had reached by then is written before.
    """
    for seed in seeds:
        if stop.requested:
            raise lifecycle.Preempted(f"{workdir}: the same command continues")
        folder = workdir / f"seed-{seed}"
        given = config.thaw(settings)
        given.seed = seed
        try:
            train.run(config.check(given), workdir=folder, stop=stop)
        except (lifecycle.Preempted, lifecycle.NonFinite, lifecycle.StorageError):
            collect(folder, name=name, seed=seed, out=out)
            raise
        collect(folder, name=name, seed=seed, out=out)
        jax.clear_caches()
    return lifecycle.DONE


def collect(folder: pathlib.Path, *, name: str, seed: int, out: pathlib.Path) -> None:
    """Writes a run's curve, its line and the table; nothing where it has not reported yet."""
    path = folder / "metrics.jsonl"
    rows = metrics.read_rows(path) if path.exists() else []
    if not rows:
        return
    curve = [{column: row.get(column) for column in _CURVE} for row in rows]
    results.write(out / name / f"seed-{seed}.jsonl", curve)
    started = provenance.read(folder)[-1]
    line = {
        "name": name,
        "seed": seed,
        "game": config.load_saved(folder / "config.json").env.game,
        **milestones(rows),
        **{field: started.get(field) for field in ("command", "commit", "versions")},
    }
    results.put(out / "seeds.jsonl", line, known_by=("name", "seed"))
    write_markdown(out)
    write_pictures(out)


def milestones(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run reached, from its reports: frames to each milestone (None: never), and where it ended."""
    last = rows[-1]
    frames_a_step = last["num_frames"] / last["num_env_steps"]
    paid = last["first_paid_step"]
    best = [row["explorer_score_max"] for row in rows if row["explorer_score_max"] is not None]
    reached = {
        f"frames_to_{whose}{score}": _first(rows, f"{whose}score_of_last_100", score)
        for whose in ("", "training_")
        for score in MILESTONES
    }
    return {
        "num_frames": last["num_frames"],
        "frames_to_first_reward": None if paid is None else int(paid * frames_a_step),
        "frames_to_nine_of_ten": _first(rows, "paid_of_last_100", 0.9),
        **reached,
        "score_of_last_100": last["score_of_last_100"],
        "training_score_of_last_100": last.get("training_score_of_last_100"),
        "explorer_score_max": max(best, default=None),
        "rooms": last["rooms_visited"],
        "positions": last["positions_visited"],
        "updates": last["num_updates"],
        "hours": last["seconds"] / 3600,
    }


def _first(rows: Sequence[Mapping[str, Any]], column: str, wanted: float) -> int | None:
    """Frames when a column was first that high; None: never, or the run reported no such column."""
    high = (row["num_frames"] for row in rows if row.get(column) is not None and row[column] >= wanted)
    return next(high, None)


def published_milestones() -> dict[str, list[dict[int, int | None]]]:
    """Published agents on Montezuma's Revenge: for each seed, frames to each milestone (None: never)."""
    by_agent: dict[str, list[dict[int, int | None]]] = {}
    for (agent, _), curve in published.curves().items():
        by_agent.setdefault(agent, []).append(
            {wanted: next((frames for frames, score in curve if score >= wanted), None) for wanted in MILESTONES}
        )
    return by_agent


def write_markdown(out: pathlib.Path) -> None:
    """Writes a table for each game: medians over seeds, and how many seeds came there."""
    note = (
        "Medians over seeds, with how many came there; averages are of the last 100 episodes, at beta 0 or of all "
        "environments' training, as the published ones are. A dash: not recorded."
    )
    parts = [f"## From several seeds: frames\n\n`python -m experiments.seeds`. {note}\n"]
    for game, by_name in _by_game(out).items():
        parts.append(f"### {game}\n\n{_table(game, by_name)}")
    (out / "seeds.md").write_text("\n".join(parts))


def write_pictures(out: pathlib.Path) -> None:
    """Draws every seed's curve, a picture a game."""
    for game, by_name in _by_game(out).items():
        curves = {
            name: [results.read(out / name / f"seed-{line['seed']}.jsonl") for line in lines]
            for name, lines in by_name.items()
        }
        claims.draw(game, curves).savefig(out / f"seeds-{game}.png", dpi=_DOTS_AN_INCH)


def _by_game(out: pathlib.Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The runs' lines by game, in its order, and by claim."""
    by_game: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in sorted(results.read(out / "seeds.jsonl"), key=lambda line: line["game"]):
        by_game.setdefault(line["game"], {}).setdefault(line["name"], []).append(line)
    return by_game


def _table(game: str, by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A game's table; the published curves are Montezuma's."""
    scores = MILESTONES if game == published.GAME else ()
    header = ["run", "seeds", "frames", "first reward at", "9 of 10 episodes paid at"]
    header += [f"{whose} average {score} at" for whose in ("beta 0", "training") for score in scores]
    header += ["best explorer", "rooms", "places", "updates", "hours"]
    rows = []
    for name, lines in by_name.items():
        ways = ["first_reward", "nine_of_ten", *scores, *(f"training_{score}" for score in scores)]
        rows.append(
            [
                name,
                str(len(lines)),
                _median([line["num_frames"] for line in lines]),
                *(_reached([line[f"frames_to_{way}"] for line in lines if f"frames_to_{way}" in line]) for way in ways),
                *(
                    _median([line[column] for line in lines])
                    for column in ("explorer_score_max", "rooms", "positions", "updates")
                ),
                f"{statistics.median(line['hours'] for line in lines):.2f}",
            ]
        )
    for agent, seeds in published_milestones().items() if game == published.GAME else ():
        reached = [_reached([seed[score] for seed in seeds]) for score in scores]
        unknown = ["-"] * (2 + len(scores))
        rows.append([f"{agent} (published)", str(len(seeds)), "200,000,000", *unknown, *reached, *["-"] * 5])
    return results.markdown(header, rows)


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):,.0f}" if known else "-"


def _reached(frames: Sequence[int | None]) -> str:
    """Median over the seeds that came there, and their number; a dash where none recorded it."""
    if not frames:
        return "-"
    known = [value for value in frames if value is not None]
    if not known:
        return f"never (0 of {len(frames)})"
    return f"{statistics.median(known):,.0f} ({len(known)} of {len(frames)})"
