"""Measures what groups of environments save: act in one group and in several, emulators and network alone.

python -m experiments.overlap --config=configs/base.py --config.actor.num_groups=2
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

from absl import flags

ROUNDS = flags.DEFINE_integer("rounds", 10, "How often each is timed; the medians count.", lower_bound=1)


def main(settings: config.Settings, _: lifecycle.StopWatcher) -> int:
    """Measures and prints."""
    from learnmax_jax import overlap

    for name, value in overlap.measure(settings, rounds=ROUNDS.value).items():
        print(f"{name:24s} {value:.4g}", flush=True)
    return lifecycle.DONE


if __name__ == "__main__":
    config.run(main)
