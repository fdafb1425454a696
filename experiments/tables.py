"""Compares pretrainings that differ in a few fields; writes the table into docs/results.

    python -m experiments.tables --table=tokenizers
    python -m experiments.tables --table=dynamics --set=init.workdir=runs/pretrained

The same command goes on where it was stopped.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib

from absl import flags

TABLE = flags.DEFINE_string("table", None, "One of learnmax_jax/tables.py.", required=True)
DATA = flags.DEFINE_string("data", "data", "The data sets' folders are in it; missing ones are recorded.")
WORKDIR = flags.DEFINE_string("workdir", "runs/tables", "The runs' folders are made in it.")
OUT = flags.DEFINE_string("out", "docs/results", "Where the table is written.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Of every row.")
ROW = flags.DEFINE_multi_string("row", [], "A row to run; all without it.")
SET = flags.DEFINE_multi_string("set", [], "field=value, on top of every row's own.")


def main(_: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `tables.run`."""
    from learnmax_jax import tables

    return tables.run(
        TABLE.value,
        data=pathlib.Path(DATA.value),
        workdir=pathlib.Path(WORKDIR.value),
        out=pathlib.Path(OUT.value),
        seeds=[int(seed) for seed in SEEDS.value],
        rows=ROW.value,
        overrides=[(name, value) for name, _, value in (item.partition("=") for item in SET.value)],
        stop=stop,
    )


if __name__ == "__main__":
    config.run(main, config_path=None)
