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
    # Cut off by the limit, an episode's value lives on; reaching the goal ends it.
    np.testing.assert_array_equal(host.discount == 0, host.reward > 0)
    assert (host.observation[..., -1] <= 3).all()  # the way one looks
    assert (host.probe.x >= 0).all() and (host.probe.y >= 0).all()


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
