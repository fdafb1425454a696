"""Players that learn nothing: they fill data sets.

    random   every action uniform
    jumpy    an action is held for 1 to 16 steps: play gets beyond the first platform
    route    follows a known route from the episode's start, leaves it at a random step, then plays jumpy

A policy is a function of the rows that open an episode; what it remembers of the last steps
it keeps itself, in numpy, on the host.
"""

from collections.abc import Callable, Sequence

import numpy as np

POLICIES = ("random", "jumpy", "route")
LONGEST_HOLD = 16  # steps

# first `[B]` bool, the present frame opens an episode -> action `[B]` int32
Policy = Callable[[np.ndarray], np.ndarray]


def make(
    kind: str, *, num_envs: int, num_actions: int, generator: np.random.Generator, route: Sequence[int] = ()
) -> Policy:
    """Makes one policy for B environments.

    Args:
      kind: one of `POLICIES`.
      num_envs: B.
      num_actions: A.
      generator: draws everything.
      route: actions of the known route; of kind `route` only.
    Raises:
      ValueError: an unknown kind, or a route where none belongs, or none where one does.
    """
    if kind not in POLICIES:
        raise ValueError(f"policy={kind}: unknown. Allowed: {', '.join(POLICIES)}")
    if (kind == "route") != bool(len(route)):
        raise ValueError(f"policy={kind}: a route of {len(route)} actions. Allowed: a route for kind route only")
    if kind == "random":
        return lambda first: generator.integers(0, num_actions, num_envs).astype(np.int32)
    jumpy = _jumpy(num_envs, num_actions, generator)
    return jumpy if kind == "jumpy" else _route(np.asarray(route, np.int32), num_envs, jumpy, generator)


def _jumpy(num_envs: int, num_actions: int, generator: np.random.Generator) -> Policy:
    action = np.zeros((num_envs,), np.int32)
    steps_left = np.zeros((num_envs,), np.int32)

    def act(first: np.ndarray) -> np.ndarray:
        new = first | (steps_left == 0)
        action[new] = generator.integers(0, num_actions, new.sum())
        steps_left[new] = generator.integers(1, LONGEST_HOLD + 1, new.sum())
        steps_left[:] -= 1
        return action.copy()

    return act


def _route(route: np.ndarray, num_envs: int, jumpy: Policy, generator: np.random.Generator) -> Policy:
    step = np.zeros((num_envs,), np.int64)
    leave_at = np.zeros((num_envs,), np.int64)

    def act(first: np.ndarray) -> np.ndarray:
        step[first] = 0
        leave_at[first] = generator.integers(0, len(route) + 1, first.sum())
        follows = step < leave_at
        action = np.where(follows, route[np.minimum(step, len(route) - 1)], jumpy(first))
        step[:] += 1
        return action.astype(np.int32)

    return act
