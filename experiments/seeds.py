"""Trains from several seeds and puts the results beside the published ones, in docs/results/seeds.md.

python -m experiments.seeds --name=counts --seeds=0,1,2 --config=configs/base.py --config.num_env_steps=250000
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib
import re

from absl import flags

NAME = flags.DEFINE_string("name", None, "The table's row.", required=True)
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "A run each.")
WORKDIR = flags.DEFINE_string("workdir", None, "The runs' folders are made in it; runs/seeds/<name> if none is given.")
OUT = flags.DEFINE_string("out", "docs/results", "Where curves and table are written.")


def main(settings: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `seeds.run`."""
    from learnmax_jax import seeds

    if not re.fullmatch(r"[\w-][\w.-]*", NAME.value):
        raise lifecycle.BadInput(f"--name={NAME.value}: is no folder's name. Allowed: letters, digits, '-', '_', '.'.")
    unread = [seed for seed in SEEDS.value if not seed.strip().isdecimal()]
    if unread:
        raise lifecycle.BadInput(f"--seeds={unread[0]}: is no seed. Allowed: whole numbers from 0, between commas.")
    return seeds.run(
        settings,
        name=NAME.value,
        seeds=[int(seed) for seed in SEEDS.value],
        workdir=pathlib.Path(WORKDIR.value or f"runs/seeds/{NAME.value}"),
        out=pathlib.Path(OUT.value),
        stop=stop,
    )


if __name__ == "__main__":
    config.run(main)
