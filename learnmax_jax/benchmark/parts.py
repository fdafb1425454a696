"""What each part of the compiled step costs, measured beside the whole and beside what the machine could do.

Machines are shared and noisy, so the parts and the whole are timed in turn, round by round,
and the figures are medians over the rounds; compare ratios, not absolute times.
"""

import dataclasses
import os
import resource
from typing import Any

import jax
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config, devices, lifecycle, provenance
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.benchmark import machine, programs, roofline, searches, timing, trace
from learnmax_jax.replay import buffer


def measure(settings: config.Settings, *, rounds: int, traced: bool = False) -> dict[str, Any]:
    """Times emulators, acting, learning and the whole step, and the search at two windows.

    Args:
      settings: the checked config.
      rounds: how often each part is timed; the medians count.
      traced: whether one step is profiled, too.
    Returns:
      The figures as json values; per second are agent steps, observations, searches.
    """
    with lifecycle.bad_input():
        agent = agents.build(settings)
    state = programs.filled(agent, steps.init_state(agent))
    gradient_bytes = 4 * steps.parameter_count(state)
    parts = programs.pieces(agent, state) | programs.whole(agent, state)
    del state  # each part carries its own
    times = timing.interleaved({name: part.call for name, part in parts.items()}, rounds=rounds)
    median = timing.medians(times)
    best = machine.measure(settings, rounds=rounds)
    agent_steps = agent.steps_per_call
    figures = {
        "emulator_steps_per_second": agent_steps / median["emulators"],
        "act_steps_per_second": agent_steps / median["act"],
        "learn_observations_per_second": _observations(agent) / median["learn"],
        "step_steps_per_second": agent_steps / median["step"],
        "step_over_parts": float(
            np.median(np.array(times["step"]) / (np.array(times["act"]) + np.array(times["learn"])))
        ),
        **searches.figures(settings, rounds=rounds),
        "compile_seconds": parts["step"].compile_seconds,
        "peak_memory_bytes": _peak_memory_bytes(),
        "replay_bytes_per_step": buffer.bytes_per_row(agents.transition_spec(agent)),
        "replay_ratio": settings.learner.replay_ratio,
        "versions": provenance.versions(),
        "cores": len(os.sched_getaffinity(0)),
        "gradient_bytes": gradient_bytes,
        "updates_per_step": agent.updates_per_step,
        "agent_steps_per_step": agent_steps,
        "machine": best.to_json(),
        "roofline": [dataclasses.asdict(row) for row in roofline.rows(parts, median, best)],
    }
    return figures | ({"trace": trace.profile(parts["step"])} if traced else {})


def measure_step(settings: config.Settings, *, rounds: int) -> dict[str, Any]:
    """Times the whole step alone, on all the devices that there are."""
    with lifecycle.bad_input():
        agent = agents.build(settings, devices.everything())
    state = programs.filled(agent, steps.place(agent, steps.init_state(agent)))
    part = programs.whole(agent, state, ("step",))["step"]
    del state
    seconds = timing.medians(timing.interleaved({"step": part.call}, rounds=rounds))["step"]
    return {
        "step_seconds": seconds,
        "step_steps_per_second": agent.steps_per_call / seconds,
        "num_devices": jax.device_count(),
    }


def _observations(agent: Agent) -> int:
    """Replayed observations of one step."""
    learner = agent.config.learner
    return agent.updates_per_step * learner.batch_size * learner.sequence_length


def _peak_memory_bytes() -> int:
    """The device's peak, or on a CPU the process's largest resident set."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
