"""A guard against lost speed: ratios of times of one run, which a slow or busy machine leaves alone.

Seconds themselves are never asserted. Calls are timed in turn, and each round gives a ratio: the median counts, so that
something else on the machine must disturb half of the rounds, and one side of them only, to matter.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from learnmax_jax import agent as agents
from learnmax_jax import step as steps
from learnmax_jax.benchmark import programs, searches, timing
from tests import runs

ROUNDS = 21
SIZES = (
    ("env.num_envs", 16), ("exploration.num_exploit_envs", 2), ("dynamics.width", 64), ("dynamics.mlp_width", 128),
    ("dynamics.num_layers", 1), ("dynamics.head_width", 64), ("tokenizer.num_groups", 16), ("tokenizer.num_codes", 32),
    ("search.max_depth", 4), ("search.max_num_considered_actions", 2), ("actor.num_steps", 4),
    ("learner.sequence_length", 8), ("learner.batch_size", 8), ("learner.replay_ratio", 2.0),
    ("learner.reanalyse_fraction", 0.0), ("replay.kind", "uniform"), ("replay.capacity", 1024),
    ("replay.min_size", 256),
)  # fmt: skip


def ratio(calls: Mapping[str, Callable[[], Any]], above: str, *below: str) -> float:
    """Median over rounds of one call's seconds over the sum of others'."""
    times = {name: np.array(seconds) for name, seconds in timing.interleaved(calls, rounds=ROUNDS).items()}
    return float(np.median(times[above] / sum(times[name] for name in below)))


@pytest.fixture(scope="module")
def batches() -> dict[str, Callable[[], Any]]:
    """Searches of two windows and of two numbers of simulations."""
    calls, params = {}, None
    for name, window, simulations in (("base", 4, 16), ("long window", 32, 16), ("few simulations", 4, 4)):
        player = searches.player_with(runs.tiny(*SIZES), {"search.num_simulations": simulations})
        params = params or searches.params_of(player)
        context, root = searches.roots(player, searches.ENVIRONMENTS, window)
        calls[name] = partial(jax.jit(root), params, *jax.jit(context)(params), jax.random.key(0))
        jax.block_until_ready(calls[name]())
    return calls


def test_a_long_window_costs_little(batches: dict[str, Callable[[], Any]]) -> None:
    assert ratio(batches, "long window", "base") < 1.6


def test_time_grows_with_simulations_no_faster_than_they_do(batches: dict[str, Callable[[], Any]]) -> None:
    assert ratio(batches, "base", "few simulations") < 6  # four times the simulations


@pytest.mark.slow
@pytest.mark.timeout(900)  # three programs of the whole size are compiled
def test_the_step_costs_no_more_than_its_halves() -> None:
    agent = agents.build(runs.tiny(*SIZES))
    parts = programs.whole(agent, programs.filled(agent, steps.init_state(agent)))
    assert ratio({name: part.call for name, part in parts.items()}, "step", "act", "learn") < 1.25
