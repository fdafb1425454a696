"""Measures whether the taken key is noticed, and whether it gets codes of its own.

python -m experiments.new_things --config=configs/growing.py --data=data/route-deterministic

The last line printed is one JSON object.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import json
import pathlib

from absl import flags

DATA = flags.DEFINE_string("data", None, "A folder that experiments.record wrote along a route.", required=True)
NUM_UPDATES = flags.DEFINE_integer("num_updates", 200, "Of the tokenizer.", lower_bound=1)
NUM_FRAMES = flags.DEFINE_integer("num_frames", 4, "How long something strange has to last.", lower_bound=1)


def main(settings: config.Settings, _: lifecycle.StopWatcher) -> int:
    """Runs `new_things.run` and prints its figures."""
    from learnmax_jax import new_things

    figures = new_things.run(
        settings, data=pathlib.Path(DATA.value), num_updates=NUM_UPDATES.value, num_frames=NUM_FRAMES.value
    )
    print(json.dumps(figures), flush=True)
    return lifecycle.DONE


if __name__ == "__main__":
    config.run(main, config_path="configs/growing.py")
