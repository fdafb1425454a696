"""Player recall: the measure itself, on pictures whose answer is known."""

import numpy as np
import pytest

from learnmax_jax.measures import player


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A textured room, and 100 frames with a striped player of 8 x 14 pixels in it: frames, medians, player, x, y."""
    rng = np.random.default_rng(0)
    room = rng.integers(0, 120, (84, 84)).astype(np.float32)
    sprite = np.where(np.indices((14, 8)).sum(axis=0) % 4 < 2, 220.0, 140.0)
    x, y = rng.integers(20, 64, 100), rng.integers(20, 64, 100)
    frames = np.repeat(room[None], 100, axis=0)
    for frame, left, top in zip(frames, x - 4, y - 7):
        frame[top : top + 14, left : left + 8] = sprite
    return frames, np.repeat(room[None], 100, axis=0), sprite, x, y


def test_true_frames_score_1_and_median_frames_0(scene: tuple[np.ndarray, ...]) -> None:
    frames, medians, _, x, y = scene
    seen, visible = player.player_seen(frames, frames, medians, x, y)
    assert seen.all() and visible.all()
    seen, _ = player.player_seen(frames, medians, medians, x, y)
    assert not seen.any()


def test_a_player_8_pixels_away_scores_near_0(scene: tuple[np.ndarray, ...]) -> None:
    frames, medians, sprite, x, y = scene
    for dx, dy in ((8, 0), (-8, 0), (0, 8), (0, -8)):
        moved = medians.copy()
        for frame, left, top in zip(moved, x - 4 + dx, y - 7 + dy):
            frame[top : top + 14, left : left + 8] = sprite
        assert player.player_seen(frames, moved, medians, x, y)[0].mean() < 0.05


def test_contrast_and_brightness_do_not_matter(scene: tuple[np.ndarray, ...]) -> None:
    frames, medians, _, x, y = scene
    pale = medians + 0.3 * (frames - medians) + 10
    assert player.player_seen(frames, pale, medians, x, y)[0].all()


def test_a_frame_without_the_player_does_not_count(scene: tuple[np.ndarray, ...]) -> None:
    frames, medians, _, x, y = scene
    frames = frames.copy()
    frames[:10] = medians[:10]
    _, visible = player.player_seen(frames, frames, medians, x, y)
    np.testing.assert_array_equal(visible, np.arange(100) >= 10)


def test_boxes_at_the_edge_are_cut_not_wrapped() -> None:
    frames = np.zeros((2, 84, 84), np.float32)
    frames[:, 0, 0], frames[:, 83, 83] = 50, 90
    seen, visible = player.player_seen(frames, frames, np.zeros_like(frames), np.array([0, 83]), np.array([0, 83]))
    assert seen.all() and visible.all()
    only_other_corner = frames.copy()
    only_other_corner[0, 0, 0] = only_other_corner[1, 83, 83] = 0
    assert not player.player_seen(
        frames, only_other_corner, np.zeros_like(frames), np.array([0, 83]), np.array([0, 83])
    )[0].any()


def test_places_of_the_frame() -> None:
    # The start of the game: RAM x 77, y 235.
    x, y = player.to_pixels(np.array([77.0]), np.array([235.0]))
    np.testing.assert_allclose([x[0], y[0]], [81 * 0.525, 80 * 0.4])


def test_each_room_has_a_median_of_its_own() -> None:
    frames = np.stack([np.full((4, 4), value) for value in (1, 2, 3, 10, 20, 90)])
    medians = player.median_frames(frames, np.array([1, 1, 1, 5, 5, 5]))
    assert {room: frame[0, 0] for room, frame in medians.items()} == {1: 2, 5: 20}
