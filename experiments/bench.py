"""Measures what the parts of the compiled step cost, beside the whole.

python -m experiments.bench --config=configs/base.py --json
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import json

from absl import flags

JSON = flags.DEFINE_bool("json", False, "Print one JSON object as the last line instead of a table.")
ROUNDS = flags.DEFINE_integer("rounds", 10, "How often each part is timed; the medians count.", lower_bound=1)


def main(settings: config.Settings, _: lifecycle.StopWatcher) -> int:
    """Measures and prints."""
    from learnmax_jax import benchmark

    figures = benchmark.measure(settings, rounds=ROUNDS.value)
    if JSON.value:
        print(json.dumps(figures), flush=True)
    else:
        for name, value in figures.items():
            print(f"{name:34s} {value:,.4g}" if isinstance(value, int | float) else f"{name:34s} {value}", flush=True)
    return lifecycle.DONE


if __name__ == "__main__":
    config.run(main)
