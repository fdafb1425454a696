"""Plays whole episodes with a run's newest good checkpoint, at beta 0.

    python -m experiments.evaluate --workdir=runs/mine --num_episodes=10 --protocol=standard

The last line printed is one JSON object; a film of one episode is written beside the run,
or under the working directory where the run's folder cannot be written.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

import errno
import json
import pathlib

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
NUM_EPISODES = flags.DEFINE_integer("num_episodes", 10, "Episodes, one an environment.", lower_bound=1)
PROTOCOL = flags.DEFINE_enum("protocol", "standard", ["standard", "deterministic"], "As in config.env.protocol.")
MAX_EPISODE_STEPS = flags.DEFINE_integer("max_episode_steps", 27_000, "Agent steps an episode.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the emulators.", lower_bound=0)


def main(_: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Restores, plays, films, prints."""
    import jax

    from learnmax_jax import evaluation

    workdir = pathlib.Path(WORKDIR.value)
    settings, params, rng_key, step = evaluation.restore(workdir)
    result = evaluation.play(
        settings,
        params,
        jax.random.fold_in(rng_key, SEED.value),
        protocol=PROTOCOL.value,
        num_episodes=NUM_EPISODES.value,
        max_episode_steps=MAX_EPISODE_STEPS.value,
        interrupted=lambda: stop.requested,
    )
    if result is None:
        raise lifecycle.Preempted("evaluation given up; nothing was unsaved")
    name = f"evaluate-{PROTOCOL.value}-step-{step:09d}.gif"
    try:
        film = evaluation.write_film(result, workdir / "evaluation" / name)
    except OSError as problem:
        if problem.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        film = evaluation.write_film(result, pathlib.Path("evaluation") / name)
    print(f"film: {film}")
    print(json.dumps(result.summary()), flush=True)
    return lifecycle.DONE


if __name__ == "__main__":
    config.run(main, config_path=None)
