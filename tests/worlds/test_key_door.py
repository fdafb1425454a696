"""World K against its rules in plain Python, and what its observation hides."""

import jax
import numpy as np
import pytest

from learnmax_jax.types import TimeStep
from learnmax_jax.worlds import key_door
from tests.worlds import rollouts

NUM_ENVS, SIZE, MAX_LENGTH, NUM_STEPS = 6, 3, 25, 400
UP, RIGHT, DOWN, LEFT = range(4)


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return rollouts.draw_actions(NUM_STEPS, NUM_ENVS, 4)


@pytest.fixture(scope="module")
def played(actions: np.ndarray) -> TimeStep:
    environments = key_door.make(num_envs=NUM_ENVS, size=SIZE, max_length=MAX_LENGTH)
    return rollouts.play(environments, jax.random.key(0), actions)


def test_every_step_follows_the_rules(played: TimeStep, actions: np.ndarray) -> None:
    assert played.observation.shape == (NUM_STEPS + 1, NUM_ENVS, 1, 1, 2) and played.observation.dtype == np.uint8
    num_opened = num_blocked = num_truncated = 0
    for b in range(NUM_ENVS):
        row = column = step = 0
        has_key = ended = False
        for t in range(NUM_STEPS + 1):
            reward, discount = 0, 1
            if t == 0 or ended:  # the reset, or the next-step reset: action ignored, nothing paid
                row = column = step = 0
                has_key = ended = False
            else:
                down, right = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}[int(actions[t - 1, b])]
                to = (min(max(row + down, 0), SIZE - 1), min(max(column + right, 0), SIZE - 1))
                if to == (0, SIZE - 1) and not has_key:
                    num_blocked += 1
                else:
                    row, column = to
                has_key |= (row, column) == (SIZE - 1, 0)
                step += 1
                opened = (row, column) == (0, SIZE - 1)
                ended = opened or step == MAX_LENGTH
                reward, discount = int(opened), int(not opened)
                num_opened += opened
                num_truncated += ended and not opened
            assert played.observation[t, b].reshape(-1).tolist() == [row, column]
            assert (played.reward[t, b], played.discount[t, b]) == (reward, discount)
            assert (played.first[t, b], played.last[t, b]) == (step == 0, ended)
            probe = played.probe
            assert (probe.y[t, b], probe.x[t, b], probe.key[t, b], probe.room[t, b]) == (row, column, has_key, 0)
    assert min(num_opened, num_blocked, num_truncated) > 5


def test_the_observation_hides_the_key_and_what_the_door_pays() -> None:
    # The same cells in the end, by way of the key or not: only the past tells whether RIGHT is paid.
    ways = np.array([[DOWN, DOWN, UP, UP, RIGHT, RIGHT], [RIGHT, DOWN, LEFT, UP, RIGHT, RIGHT]], np.int32)
    steps = rollouts.play(key_door.make(num_envs=2, size=3, max_length=99), jax.random.key(0), ways.T)
    np.testing.assert_array_equal(steps.observation[5, 0], steps.observation[5, 1])
    assert steps.probe.key[5].tolist() == [1, 0]
    assert steps.reward[6].tolist() == [1, 0]
    assert steps.last[6].tolist() == [True, False]
    # 3 (size - 1) = 6 steps are the shortest way.
    assert steps.reward[:6].sum() == 0


def test_actions_out_of_range_are_clipped() -> None:
    environments = key_door.make(num_envs=2, size=3, max_length=9)
    state, _ = environments.reset(jax.random.key(0))
    state, _ = environments.step(state, np.array([1, 1]))
    _, answer = environments.step(state, np.array([99, -1]))
    assert answer.probe.x.tolist() == [0, 1]  # LEFT, UP


def test_a_saved_state_continues_exactly(actions: np.ndarray) -> None:
    environments = key_door.make(num_envs=NUM_ENVS, size=SIZE, max_length=MAX_LENGTH)
    rollouts.assert_continues_from_saved_state(environments, jax.random.key(0), actions[:60])


@pytest.mark.parametrize(("field", "value"), [("num_envs", 0), ("size", 1), ("size", 257), ("max_length", 0)])
def test_a_wrong_argument_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value}: .*Allowed: .*Nearest: \d+"):
        key_door.make(**{"num_envs": 2, "size": 3, "max_length": 9, field: value})
