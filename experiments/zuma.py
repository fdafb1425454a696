"""Trains the agent.

python -m experiments.zuma --config=configs/base.py --workdir=runs/mine
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import datetime
import pathlib

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/<time>-<name> if none is given.")


def main(settings: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `train.run` in the workdir."""
    from learnmax_jax import train

    started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = pathlib.Path(WORKDIR.value or f"runs/{started}-{settings.name}")
    return train.run(settings, workdir=workdir, stop=stop)


if __name__ == "__main__":
    config.run(main)
