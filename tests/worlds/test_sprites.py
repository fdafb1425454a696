"""World R against a plain painter: every pixel, every place, the object's end."""

from typing import Any

import jax
import numpy as np
import pytest

from learnmax_jax.types import TimeStep
from learnmax_jax.worlds import sprites
from tests.worlds import rollouts

WORLD = {
    "num_envs": 4,
    "seed": 2,
    "size": 32,
    "num_rooms": 2,
    "player_size": 4,
    "skull_size": 6,
    "object_size": 5,
    "speed": 3,
    "max_length": 40,
}
NUM_STEPS = 300
NOOP, UP, RIGHT, DOWN, LEFT = range(5)
OBJECT_X, OBJECT_Y = 32 * 3 // 4 - 2, 8


def make(**change: Any) -> Any:
    return sprites.make(**{**WORLD, **change})


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    # Each action is held for 6 steps, so that the player gets about.
    return np.repeat(rollouts.draw_actions(NUM_STEPS // 6, 4, 5), 6, axis=0)


@pytest.fixture(scope="module")
def played(actions: np.ndarray) -> TimeStep:
    return rollouts.play(make(), jax.random.key(0), actions)


def paint(room: int, x: int, y: int, skull: int, taken: bool) -> np.ndarray:
    """The frame, pixel by pixel: background, skull on the floor, object in room 0, player in front."""
    frame = sprites.backgrounds(seed=2, num_rooms=2, size=32)[room].copy()
    for row in range(6):
        for column in range(6):
            if (row - 2.5) ** 2 + (column - 2.5) ** 2 <= 3**2:
                frame[26 + row, skull + column] = 195
    for row in range(5):
        for column in range(5):
            if room == 0 and not taken and abs(row - 2) + abs(column - 2) <= 2:
                frame[OBJECT_Y + row, OBJECT_X + column] = 175
    # A player of 4 pixels is too small for its darker level.
    frame[y : y + 4, x : x + 4] = 255
    return frame


def test_every_step_and_every_pixel(played: TimeStep, actions: np.ndarray) -> None:
    assert played.observation.shape == (NUM_STEPS + 1, 4, 32, 32, 1) and played.observation.dtype == np.uint8
    np.testing.assert_array_equal(played.discount, np.ones((NUM_STEPS + 1, 4)))
    num_taken = num_moved_on = 0
    for b in range(4):
        room = x = y = step = 0
        taken = ended = False
        for t in range(NUM_STEPS + 1):
            reward = 0
            if t == 0 or ended:
                room, step, taken, ended = 0, 0, False, False
                x, y = played.probe.x[t, b] - 2, played.probe.y[t, b] - 2
                assert 0 <= x <= 16 - 4 and 0 <= y <= 28
            else:
                down, right = [(0, 0), (-3, 0), (0, 3), (3, 0), (0, -3)][actions[t - 1, b]]
                y, x = min(max(y + down, 0), 28), x + right
                if x > 28:
                    room, x = (1, 0) if room == 0 else (1, 28)
                elif x < 0:
                    room, x = (0, 28) if room == 1 else (0, 0)
                num_moved_on += room
                touches = OBJECT_X - 4 < x < OBJECT_X + 5 and OBJECT_Y - 4 < y < OBJECT_Y + 5
                if touches and room == 0 and not taken:
                    taken, reward = True, 1
                step += 1
                ended = step == 40
                num_taken += reward
            probe = played.probe
            assert (probe.x[t, b], probe.y[t, b]) == (x + 2, y + 2)
            assert (probe.room[t, b], probe.key[t, b]) == (room, taken)
            assert (played.reward[t, b], played.first[t, b], played.last[t, b]) == (reward, step == 0, ended)
            # Wherever the skull is, the frame is painted right; how it rolls is the next test's.
            seen = played.observation[t, b, ..., 0]
            assert any((paint(room, x, y, place, taken) == seen).all() for place in range(27))
    assert num_taken > 3 and num_moved_on > 20


def test_the_skull_rolls_to_and_fro_by_itself() -> None:
    # 26 pixels of way at 3 a step: 0 3 ... 24, 27 is 25 on the way back, ... 1, 0 + 2.
    columns = sprites.skull_column(np.arange(20), size=32, skull_size=6, speed=3).tolist()
    assert columns == [0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 22, 19, 16, 13, 10, 7, 4, 1, 2, 5]
    still = rollouts.play(make(num_rooms=1), jax.random.key(5), np.zeros((30, 4), np.int32))
    moved = (still.observation[1:] != still.observation[:-1]).any(axis=(2, 3, 4))
    assert moved.all()
    assert (still.observation[:, :, :16] == still.observation[:1, :, :16]).all()


def test_boxes_touch_from_the_first_shared_pixel_on() -> None:
    # The object's box is 5 x 5 from (22, 8), the player's 4 x 4: beside it on all four sides, then one pixel nearer.
    environments = make()
    state, _ = environments.reset(jax.random.key(0))
    for nearer in (0, 1):
        x = np.array([22 - 4 + nearer, 22 + 5 - nearer, 23, 23], np.int32)
        y = np.array([9, 9, 8 - 4 + nearer, 8 + 5 - nearer], np.int32)
        _, answer = environments.step(state.replace(x=jax.numpy.asarray(x), y=jax.numpy.asarray(y)), np.zeros(4, int))
        assert answer.reward.tolist() == answer.probe.key.tolist() == [nearer] * 4


def test_one_room_has_walls() -> None:
    right = rollouts.play(make(num_rooms=1), jax.random.key(0), np.full((20, 4), RIGHT, np.int32))
    assert (right.probe.x[-1] == 28 + 2).all() and (right.probe.room == 0).all()


def test_the_seed_is_the_rooms_and_the_key_the_first_places(played: TimeStep, actions: np.ndarray) -> None:
    rollouts.assert_same(rollouts.play(make(), jax.random.key(0), actions), played)
    other = rollouts.play(make(), jax.random.key(1), actions)
    assert (other.probe.x[0] != played.probe.x[0]).any()
    rooms = sprites.backgrounds(seed=2, num_rooms=2, size=32)
    assert (rooms[0] != rooms[1]).mean() > 0.9
    assert (rooms != sprites.backgrounds(seed=3, num_rooms=2, size=32)).mean() > 0.9
    # The player alone has its grey levels, so that it can be found.
    assert rooms.max() < 175 and ((played.observation == 255).sum(axis=(2, 3, 4)) == 16).all()


def test_a_saved_state_continues_exactly(actions: np.ndarray) -> None:
    rollouts.assert_continues_from_saved_state(make(), jax.random.key(0), actions[:100])


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_envs", 0), ("seed", -1), ("size", 15), ("num_rooms", 0), ("player_size", 9), ("skull_size", 1)]
    + [("object_size", 9), ("speed", 0), ("max_length", 0)],
)
def test_a_wrong_argument_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value}: .*Allowed: .*Nearest: \d+"):
        make(**{field: value})
