"""Environments on several devices: every device steps emulators of its own, inside the one program."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from learnmax_jax import devices
from learnmax_jax.acting.backends import Emulators, EmulatorState, Reset, Step
from learnmax_jax.types import Array, Environments, TimeStep


def places(mesh: Mesh) -> list[int]:
    """Where this process's devices stand on the axis."""
    here = jax.process_index()
    return [place for place, device in enumerate(mesh.devices.flat) if device.process_index == here]


def emulators(mesh: Mesh, parts: Sequence[Emulators]) -> tuple[Reset, Step]:
    """The emulators of this process's devices as one batch of all.

    Args:
      mesh: the devices.
      parts: of each of this process's devices, in the order of `places`.
    Returns:
      `(reset, step)`, whose rows are split over the devices; a state's handles are `[devices, ...]`.
    """

    def reset(rng_key: Array) -> tuple[EmulatorState, TimeStep]:
        answers = [_with_axis(*part.reset(rng_key)) for part in parts]
        local = jax.tree.map(lambda *rows: np.concatenate([np.asarray(each) for each in rows]), *answers)
        return devices.from_here(mesh, local)

    def step_here(env_state: EmulatorState, action: Array) -> tuple[EmulatorState, TimeStep]:
        mine = env_state.replace(handle=env_state.handle[0])
        which = jax.lax.axis_index(devices.AXIS) % len(parts)  # a process's devices follow one another
        return _with_axis(*jax.lax.switch(which, [part.step for part in parts], mine, action))

    split = PartitionSpec(devices.AXIS)
    step = jax.shard_map(step_here, mesh=mesh, in_specs=(split, split), out_specs=(split, split), check_vma=False)
    return reset, step


def world(mesh: Mesh, made: Environments) -> Environments:
    """A world whose rows lie split over the devices; what it computes of them, XLA splits itself."""

    def reset(rng_key: Array) -> tuple[Any, TimeStep]:
        return devices.place(mesh, made.reset(rng_key))

    return dataclasses.replace(made, reset=reset)


def _with_axis(env_state: EmulatorState, time_step: TimeStep) -> tuple[EmulatorState, TimeStep]:
    """A device's answer whose handle has an axis for the devices."""
    return env_state.replace(handle=jnp.asarray(env_state.handle)[None]), time_step
