"""MiniGrid behind the emulators' signature: three backends play the same, and flags and views are EnvPool's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.acting import envs, families

SETTINGS: dict[str, Any] = {
    "game": "MiniGrid-DoorKey-6x6-v0",
    "num_envs": 4,
    "num_threads": 1,
    "protocol": "deterministic",
    "action_set": 7,
    "max_episode_steps": 12,
    "zero_discount_on_life_loss": False,
}
STEPS = 60


def _play(backend: str, actions: np.ndarray) -> Any:
    made = envs.make(backend=backend, **SETTINGS)
    state, first = made.reset(jax.random.key(0))
    if backend == "host":
        steps = []
        for action in actions:
            state, step = made.step(state, action)
            steps.append(step)
        return first, jax.tree.map(lambda *rows: np.stack(rows), *steps)
    _, steps = jax.jit(lambda state: jax.lax.scan(made.step, state, jnp.asarray(actions)))(state)
    return jax.device_get((first, steps))


def test_backends_play_the_same_and_flags_mean_what_they_say() -> None:
    actions = np.random.default_rng(0).integers(0, 7, (STEPS, 4)).astype(np.int32)
    first, host = _play("host", actions)
    for backend in ("xla", "callback"):
        other_first, other = _play(backend, actions)
        for one, two in ((first, other_first), (host, other)):
            jax.tree.map(np.testing.assert_array_equal, one, two)
    assert host.observation.shape == (STEPS, 4, 1, 1, 148) and host.observation.dtype == np.uint8
    assert host.observation.max() < families.MINIGRID.observation_levels
    assert first.first.all() and host.last.any() and (host.first[1:] == host.last[:-1]).all()
    assert (host.discount == 1).all()  # nobody got there: all were cut off by the limit
    assert (host.observation[..., -1] <= 3).all()  # the way one looks


@pytest.mark.parametrize("limit", [5, 6, 100])
def test_reaching_the_goal_ends_an_episode_on_the_last_step_as_well(limit: int) -> None:
    """Five steps to the corner of an empty room; EnvPool calls that a truncation where five are all there are."""
    way = np.array([2, 2, 1, 2, 2], np.int32)
    empty = {"game": "MiniGrid-Empty-5x5-v0", "num_envs": 1, "max_episode_steps": limit}
    made = envs.make(backend="host", **(SETTINGS | empty))
    state, _ = made.reset(jax.random.key(0))
    for action in way:
        state, step = made.step(state, np.array([action]))
    assert step.reward[0] > 0 and step.last[0] and step.discount[0] == 0


def test_turning_changes_the_way_one_looks() -> None:
    first, steps = _play("host", np.full((4, 4), 1, np.int32))
    ways = np.concatenate([first.observation[None, ..., -1], steps.observation[..., -1]])[:, :, 0, 0].astype(int)
    np.testing.assert_array_equal(np.diff(ways, axis=0) % 4, 1)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("action_set", 18, r"Allowed: \(7,\)\. Nearest: 7"),
        ("protocol", "standard", "Nearest: deterministic"),
        ("zero_discount_on_life_loss", True, "has no lives"),
        ("game", "MiniGrid-DoorKey-6x6", "Nearest: MiniGrid-DoorKey-6x6-v0"),
    ],
)
def test_what_a_grid_has_not_is_refused(field: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^env\.{field}={value}: .*{says}"):
        envs.check(backend="xla", **{**SETTINGS, field: value})
