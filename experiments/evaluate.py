"""Plays whole episodes with a run's newest good checkpoint, at beta 0.

    python -m experiments.evaluate --workdir=runs/mine --num_episodes=10 --protocol=standard

Actions are sampled as evaluation.noise of the run's config says, or as `--noise` does.
The last line printed is one JSON object; `--out=docs/results/evaluations.jsonl` keeps it, with command, commit and
versions. A film of one episode is written beside the run, or under the working directory where the run's folder cannot
be written.
"""

from learnmax_jax import config, config_schema, lifecycle  # first: signals are blocked before other threads start

# isort: split

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
NUM_EPISODES = flags.DEFINE_integer("num_episodes", 10, "Episodes, one an environment.", lower_bound=1)
PROTOCOL = flags.DEFINE_enum("protocol", "standard", ["standard", "deterministic"], "As in config.env.protocol.")
MAX_EPISODE_STEPS = flags.DEFINE_integer(
    "max_episode_steps", 27_000, "Agent steps an episode.", lower_bound=1, upper_bound=27_000
)
NOISE = flags.DEFINE_enum("noise", None, config_schema.NOISES, "As in config.evaluation.noise, which is the default.")
SEED = flags.DEFINE_integer("seed", 0, "Of the emulators.", lower_bound=0, upper_bound=2**28 - 1)
OUT = flags.DEFINE_string("out", None, "A file of such lines, one a command and checkpoint, to add this one to.")

# Of every line of that file.
_FIELDS = {"command", "trained_env_steps", "evaluation"}
# Folded into the run's key with the seed, apart from what training folds in.
_EVALUATE = 13 << 28


def main(_: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Restores, plays, films, prints."""
    import jax

    from learnmax_jax import evaluation

    out = None if OUT.value is None else _out_file(OUT.value)
    workdir = pathlib.Path(WORKDIR.value)
    settings, params, rng_key, step = evaluation.restore(workdir)
    noise = NOISE.value or settings.evaluation.noise
    evaluator = evaluation.Evaluator(
        settings,
        protocol=PROTOCOL.value,
        num_episodes=NUM_EPISODES.value,
        max_episode_steps=MAX_EPISODE_STEPS.value,
        noise=noise,
    )
    result = evaluator.play(
        params, jax.random.fold_in(rng_key, _EVALUATE + SEED.value), interrupted=lambda: stop.requested
    )
    if result is None:
        raise lifecycle.Preempted("evaluation given up; nothing was unsaved")
    name = f"evaluate-{PROTOCOL.value}-noise-{noise}-step-{step:09d}.gif"
    print(f"film: {_write_film(result, [workdir / 'evaluation' / name, pathlib.Path('evaluation') / name])}")
    print(json.dumps(result.summary()), flush=True)
    if out is not None:
        _keep(out, step * config.steps_per_call(settings), result.summary())
    return lifecycle.DONE


def _out_file(text: str) -> pathlib.Path:
    """The file that the figures are added to; read, and its folder made, before anything is played."""
    from learnmax_jax import results

    path = pathlib.Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not all(isinstance(line, dict) and _FIELDS <= line.keys() for line in results.read(path)):
            raise ValueError("other lines than evaluations")
    except (OSError, ValueError) as problem:
        raise lifecycle.BadInput(f"--out={text}: {problem}. Allowed: a new file, or one of evaluations.") from None
    return path


def _keep(path: pathlib.Path, trained_env_steps: int, summary: dict[str, Any]) -> None:
    """Adds the figures and how they came about, in the place of those of the same command and checkpoint."""
    from learnmax_jax import provenance, results

    told = {"command": provenance.command(), "commit": provenance.commit(), "versions": provenance.versions()}
    row = told | {"trained_env_steps": trained_env_steps, "evaluation": summary}
    try:
        results.put(path, row, known_by=("command", "trained_env_steps"))
    except OSError as problem:
        raise lifecycle.StorageError(f"--out={path}: cannot be written: {problem.strerror}") from problem


def _write_film(result: Any, paths: Sequence[pathlib.Path]) -> str:
    """Writes the film to the first path that can be written; the numbers do not fall with the film."""
    from learnmax_jax import evaluation

    problems = []
    for path in paths:
        try:
            return str(evaluation.write_film(result, path))
        except OSError as problem:
            problems.append(f"{path}: {problem.strerror}")
    return f"not written ({'; '.join(problems)})"


if __name__ == "__main__":
    config.run(main, config_path=None)
