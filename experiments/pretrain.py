"""Trains tokenizer and dynamics from recorded play.

    python -m experiments.pretrain --config=configs/pretrain.py --data=data/route --workdir=runs/pretrained

The same command goes on where it was stopped; `experiments.zuma --config.init.workdir=runs/pretrained
--config.init.parts=all` starts from the result.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib

from absl import flags

DATA = flags.DEFINE_string("data", None, "A folder that experiments.record wrote.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The result's folder.", required=True)


def main(settings: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `pretrain.run`."""
    from learnmax_jax import pretrain

    return pretrain.run(settings, data=pathlib.Path(DATA.value), workdir=pathlib.Path(WORKDIR.value), stop=stop)


if __name__ == "__main__":
    config.run(main, config_path="configs/pretrain.py")
