"""Trains the agent.

python -m experiments.zuma --config=configs/base.py --workdir=runs/mine

On several machines, once on each, see docs/distributed.md:

python -m experiments.zuma --config=configs/base.py --workdir=runs/mine --config.env.backend=callback --distributed
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import datetime
import pathlib

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/<time>-<name> if none is given.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One process of several; the cluster's environment says which.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where the environment does not say.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Where the environment does not say.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Where the environment does not say.", lower_bound=0)


def join() -> None:
    """Makes this process one of several, if it is to be."""
    given = [flag for flag in (COORDINATOR, NUM_PROCESSES, PROCESS_ID) if flag.value is not None]
    if DISTRIBUTED.value:
        if WORKDIR.value is None:
            raise lifecycle.BadInput("--workdir: not given. Allowed: with --distributed, one that all processes know.")
        from learnmax_jax import cluster

        cluster.join(coordinator=COORDINATOR.value, num_processes=NUM_PROCESSES.value, process_id=PROCESS_ID.value)
    elif given:
        raise lifecycle.BadInput(f"--{given[0].name}={given[0].value}: without --distributed. Allowed: with it.")


def main(settings: config.Settings, stop: lifecycle.StopWatcher) -> int:
    """Runs `train.run` in the workdir."""
    from learnmax_jax import train

    started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = pathlib.Path(WORKDIR.value or f"runs/{started}-{settings.name}")
    return train.run(settings, workdir=workdir, stop=stop)


if __name__ == "__main__":
    config.run(main, prepare=join)
