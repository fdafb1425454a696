"""Records play without a learner, as a data set.

    python -m experiments.record --policy=jumpy --num_observations=200000 --protocol=standard --out=data/jumpy

The same command goes on where it was stopped.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib

from absl import flags

OUT = flags.DEFINE_string("out", None, "The data set's folder.", required=True)
NUM_OBSERVATIONS = flags.DEFINE_integer("num_observations", None, "Rows in all.", required=True, lower_bound=1)
POLICY = flags.DEFINE_string("policy", None, "random, jumpy, route, or run:DIR for a trained agent.", required=True)
PROTOCOL = flags.DEFINE_enum("protocol", None, ["standard", "deterministic"], "As config.env.protocol, in its place.")


def main(settings: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `recording.record`."""
    from learnmax_jax import recording

    section = config.thaw(settings)
    section.env.protocol = PROTOCOL.value or settings.env.protocol
    return recording.record(
        config.check(section),
        folder=pathlib.Path(OUT.value),
        num_observations=NUM_OBSERVATIONS.value,
        policy=POLICY.value,
        stop=stop,
    )


if __name__ == "__main__":
    config.run(main)
