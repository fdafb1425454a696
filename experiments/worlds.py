"""Steps to solve known worlds, each kind of exploration alone, with search and without; the table in docs/results.

    python -m experiments.worlds --table=deep_sea --sizes=10,20
    python -m experiments.worlds --table=key_door --sizes=4 --kinds=none,counts
    python -m experiments.worlds --table=table --sizes=1024 --kinds=random,counts --searches=gumbel

The same command goes on where it was stopped.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib

from absl import flags

from configs import deep_sea, key_door, table

# The world -> its config by kinds, and the field that its size is.
VARIANTS = {
    "deep_sea": (deep_sea.variant, "world.size"),
    "key_door": (key_door.variant, "world.size"),
    "table": (table.variant, "world.num_states"),
}
ALL_SEARCHES = ("gumbel", "muzero", "none", "q_only")

TABLE = flags.DEFINE_enum("table", None, sorted(VARIANTS), "The world.", required=True)
SIZES = flags.DEFINE_list("sizes", ["10"], "Of the world.")
KINDS = flags.DEFINE_list("kinds", list(deep_sea.KINDS), "Of exploration, each alone.")
SEARCHES = flags.DEFINE_list("searches", ["gumbel", "none"], "Kinds of search; q_only is a DQN.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of every cell.")
OUT = flags.DEFINE_string("out", "docs/results", "Where the table is written.")
SET = flags.DEFINE_multi_string("set", [], "field=value, on top of the configs.")


def main(_: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `world_table.run`."""
    from learnmax_jax import world_table

    known = {"kinds": (KINDS.value, deep_sea.ALL_KINDS), "searches": (SEARCHES.value, ALL_SEARCHES)}
    for name, (given, allowed) in known.items():
        for each in given:
            if each not in allowed:
                raise lifecycle.BadInput(f"--{name}={each}: unknown. Allowed: {', '.join(allowed)}.")
    variant, size_field = VARIANTS[TABLE.value]
    return world_table.run(
        TABLE.value,
        variant,
        [
            world_table.Cell(int(size), kind, search)
            for size in SIZES.value
            for search in SEARCHES.value
            for kind in KINDS.value
        ],
        size_field=size_field,
        seeds=[int(seed) for seed in SEEDS.value],
        overrides=[(name, value) for name, _, value in (item.partition("=") for item in SET.value)],
        out=pathlib.Path(OUT.value),
        stop=stop,
    )


if __name__ == "__main__":
    config.run(main, config_path=None)
