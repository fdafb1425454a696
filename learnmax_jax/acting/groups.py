"""Environments in G groups, of which some step while the network thinks for another.

A group's step has two halves: `send` tells its environments their actions and returns at once, `recv` waits for what
they answer. Group g holds the rows from g B / G on. A group's number may be traced, so that one loop serves all.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.acting.backends import Emulators, EmulatorState, require_state
from learnmax_jax.types import Array, Environments, TimeStep

Tree = TypeVar("Tree")
Group = Array | int


@dataclasses.dataclass(frozen=True)
class Groups:
    """The same environments, all at once or group by group.

    Attributes:
      environments: all B of them; their `step` is every group's `send`, then every group's `recv`.
      num_groups: G, a divisor of B.
      send: (env_state, action `[B / G]`, group) -> env_state; the group begins to step.
      recv: (env_state, action, group) -> (env_state, TimeStep `[B / G]`); the answer to that action, which was sent.
    """

    environments: Environments
    num_groups: int
    send: Callable[[Any, Array, Group], Any]
    recv: Callable[[Any, Array, Group], tuple[Any, TimeStep]]


def check(num_groups: int, *, num_envs: int, num_devices: int) -> None:
    """Raises ValueError, with the field as it stands in a config, for groups that cannot be made."""
    if num_groups > 1 and num_devices > 1:
        why = f"each of {num_devices} devices steps its environments at once"
        raise ValueError(f"actor.num_groups={num_groups}: {why}. Allowed: 1. Nearest: 1")
    if num_groups < 1 or num_envs % num_groups:
        nearest = min((n for n in range(1, num_envs + 1) if num_envs % n == 0), key=lambda n: abs(n - num_groups))
        why = f"does not divide env.num_envs={num_envs}"
        raise ValueError(f"actor.num_groups={num_groups}: {why}. Allowed: its divisors. Nearest: {nearest}")


def split(tree: Tree, num_groups: int) -> Tree:
    """Rows `[B, ...]` as `[G, B / G, ...]`; what has no rows stays."""
    return jax.tree.map(lambda x: x.reshape(num_groups, x.shape[0] // num_groups, *x.shape[1:]) if x.ndim else x, tree)


def join(tree: Tree) -> Tree:
    """Undoes `split`."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) if x.ndim else x, tree)


def pick(tree: Tree, group: Group) -> Tree:
    """A group's part of what was split."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, group, keepdims=False) if x.ndim else x, tree)


def put(tree: Tree, part: Tree, group: Group) -> Tree:
    """What was split, with another part for one group."""

    def put_leaf(x: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(x, new, group, 0) if x.ndim else new

    return jax.tree.map(put_leaf, tree, part)


def at_once(environments: Environments, num_groups: int) -> Groups:
    """Environments that answer as soon as they are asked: nothing is sent, and `recv` is the step.

    The others step along and are put back, which worlds are small enough for. What their rows share, a key, is drawn
    from G times as often.
    """

    def send(env_state: Any, action: Array, group: Group) -> Any:
        del action, group
        return env_state

    def recv(env_state: Any, action: Array, group: Group) -> tuple[Any, TimeStep]:
        everywhere = jnp.broadcast_to(action, (num_groups, *action.shape))
        stepped, time_step = environments.step(env_state, join(everywhere))
        before, after = split((env_state, stepped), num_groups)
        merged = join(put(before, pick(after, group), group))
        return merged, pick(split(time_step, num_groups), group)

    return Groups(environments, num_groups, send, recv)


def emulators(parts: Sequence[Emulators], about: Callable[..., Environments]) -> Groups:
    """Emulators of which every group has a pool of its own.

    Args:
      parts: of each group.
      about: (reset, step) -> Environments.
    Returns:
      Groups; a state's handles are `[G, ...]`.
    """
    num_groups = len(parts)

    def reset(rng_key: Array) -> tuple[EmulatorState, TimeStep]:
        answers = [part.reset(rng_key) for part in parts]
        answers = [(state.replace(handle=jnp.asarray(state.handle)[None]), told) for state, told in answers]
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), *answers)

    def part_of(env_state: EmulatorState, group: Group) -> EmulatorState:
        handle, lives = pick((env_state.handle, split(env_state.lives, num_groups)), group)
        return env_state.replace(handle=handle, lives=lives)

    def with_part(env_state: EmulatorState, part: EmulatorState, group: Group) -> EmulatorState:
        before = env_state.handle, split(env_state.lives, num_groups)
        handle, lives = put(before, (part.handle, part.lives), group)
        return env_state.replace(handle=handle, lives=join(lives))

    def send(env_state: EmulatorState, action: Array, group: Group) -> EmulatorState:
        branches = [part.send for part in parts]
        return with_part(env_state, jax.lax.switch(group, branches, part_of(env_state, group), action), group)

    def recv(env_state: EmulatorState, action: Array, group: Group) -> tuple[EmulatorState, TimeStep]:
        branches = [part.recv for part in parts]
        part, time_step = jax.lax.switch(group, branches, part_of(env_state, group), action)
        return with_part(env_state, part, group), time_step

    def step(env_state: EmulatorState, action: Array) -> tuple[EmulatorState, TimeStep]:
        require_state(env_state)
        chex.assert_shape(action, env_state.lives.shape)
        actions, answers = split(action, num_groups), []
        for group in range(num_groups):
            env_state = send(env_state, actions[group], group)
        for group in range(num_groups):
            env_state, time_step = recv(env_state, actions[group], group)
            answers.append(time_step)
        return env_state, jax.tree.map(lambda *rows: jnp.concatenate(rows), *answers)

    return Groups(about(reset, step), num_groups, send, recv)
