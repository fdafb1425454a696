"""Visited positions: what is counted, where it lies on the frame, and what a checkpoint keeps of it."""

import pathlib
from typing import Any

import numpy as np
import pytest

from learnmax_jax import positions
from learnmax_jax.acting.actor import ActOutput
from learnmax_jax.positions import Positions
from learnmax_jax.types import Probe
from tests import runs


class Rows:
    """Stands in for Transition: only its frames are looked at."""

    def __init__(self, observation: np.ndarray) -> None:
        self.observation = observation


def phase(room: Any, x: Any, y: Any) -> ActOutput:
    """An act phase `[2, 3]` whose frame (e, t) is filled with 10 e + t."""
    number = 10 * np.arange(2)[:, None] + np.arange(3)[None]
    observation = np.broadcast_to(number[..., None, None, None], (2, 3, 4, 4, 1)).astype(np.uint8)
    filled = [np.broadcast_to(np.asarray(field, np.int32), (2, 3)) for field in (room, x, y)]
    none: Any = None
    probe = Probe(*filled, key=none, lives=none, ram=none)
    return ActOutput(Rows(observation), none, probe, none, none, none)


def test_visits_are_counted_by_room_and_place() -> None:
    visited = Positions()
    visited.add(phase([[1, 1, 2], [1, 2, 2]], [[77, 77, 5], [77, 5, 6]], 235))
    visited.add(phase(1, 77, [[235, 235, 235], [0, 255, 235]]))
    assert visited.report() == {"positions_visited": 5}
    rooms = visited.rooms()
    # Room 1 at (77, 235): 3 in the first phase, 4 in the second.
    assert rooms[1].tolist() == [[77, 0, 1], [77, 235, 7], [77, 255, 1]]
    assert rooms[2].tolist() == [[5, 235, 2], [6, 235, 1]]


def test_a_rooms_frame_is_the_one_that_its_probe_is_of() -> None:
    visited = Positions()
    visited.add(phase([[3, 1, 1], [1, 2, 4]], 9, 9))
    # probe[t] is of observation[t + 1]: room 3 of row (0, 1), room 2 of row (1, 2); that of room 4 is not there yet.
    assert {room: int(frame[0, 0, 0]) for room, frame in visited.frames.items()} == {3: 1, 1: 11, 2: 12}


def test_without_a_ram_map_nothing_is_counted_or_written(tmp_path: pathlib.Path) -> None:
    visited = Positions()
    visited.add(phase(-1, -1, -1))
    positions.save(tmp_path / "positions", 7, visited)
    assert visited.report() == {"positions_visited": 0} and not visited.frames
    assert list(tmp_path.iterdir()) == []
    assert positions.restore(tmp_path / "positions", 7) == Positions()


def test_what_is_restored_is_what_was_saved_at_that_step(tmp_path: pathlib.Path) -> None:
    visited = Positions()
    for step, x in enumerate((4, 5, 6)):
        visited.add(phase([[1, 23, 1]], x, [[3], [255]]))
        positions.save(tmp_path, step, visited)
    for step in range(3):
        back = positions.restore(tmp_path, step)
        assert back.visits.total() == 6 * (step + 1) and len(back.visits) == 4 * (step + 1)
    assert back.visits == visited.visits
    assert back.frames.keys() == visited.frames.keys() == {1, 23}
    assert all((back.frames[room] == visited.frames[room]).all() for room in back.frames)
    back.add(phase(1, 4, 3))
    assert back.visits[(1 << 16) + (4 << 8) + 3] == 2 + 6
    positions.keep_only(tmp_path, [1, 2])
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"step_00000000000{step}.npz" for step in (1, 2)]


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_damaged_file_is_named(tmp_path: pathlib.Path, keep: float) -> None:
    visited = Positions()
    visited.add(phase(1, 2, 3))
    positions.save(tmp_path, 0, visited)
    file = tmp_path / "step_000000000000.npz"
    content = file.read_bytes()
    if keep == 0.5:
        runs.flip_bit(file)
    else:
        file.write_bytes(content[: int(keep)])
    with pytest.raises(ValueError, match=r"step_000000000000\.npz: cannot be read"):
        positions.restore(tmp_path, 0)


def test_ram_coordinates_are_pixels_of_the_frame() -> None:
    # The start of the first room: x 77, y 235 -> (77 + 4) * 84 / 160 = 42.525, (315 - 235) * 84 / 210 = 32.
    column, row = positions.on_frame(np.array([77]), np.array([235]), height=84, width=84)
    np.testing.assert_allclose([column[0], row[0]], [42.525, 32.0])
