"""Median frames of several rooms, found without knowing which frame is of which."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.models import medians

ROOMS = np.stack([np.full((12, 12, 1), level) for level in (20, 90, 200)]).astype(np.uint8)


def frames(rooms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bright sprite of 3x3 pixels somewhere in each room."""
    made = ROOMS[rooms].copy()
    for frame, (row, column) in zip(made, rng.integers(0, 10, (len(rooms), 2))):
        frame[row : row + 3, column : column + 3] = 255
    return made


def learn(state: medians.Medians, batch: np.ndarray) -> medians.Medians:
    index, share = medians.assign(state, jnp.asarray(batch), threshold=20.0)
    votes = medians.vote(state, jnp.asarray(batch), index, share)
    return medians.update(state, votes, median_step=0.5, new_median_share=0.3)


def test_each_room_gets_a_median_of_its_own_without_what_moves() -> None:
    rng, state = np.random.default_rng(0), medians.init((12, 12, 1), 5)
    step = jax.jit(learn)
    for _ in range(150):
        state = step(state, frames(rng.integers(0, 3, 16), rng))
    known = np.asarray(state.num_updates) > 0
    assert known.sum() == 3
    found = sorted(np.asarray(state.frames)[known].mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(found, [20, 90, 200], atol=1.5)
    rooms = np.array([0, 1, 2, 2, 1])
    index, share = medians.assign(state, jnp.asarray(frames(rooms, rng)), threshold=20.0)
    assert len(set(zip(rooms.tolist(), index.tolist()))) == 3 and (np.asarray(share) < 0.12).all()


def test_rooms_beyond_the_last_place_share() -> None:
    rng, state = np.random.default_rng(0), medians.init((12, 12, 1), 2)
    for _ in range(10):
        state = learn(state, frames(rng.integers(0, 3, 16), rng))
    assert (np.asarray(state.num_updates) > 0).all()
    index, _ = medians.assign(state, jnp.asarray(frames(np.array([0, 1, 2]), rng)), threshold=20.0)
    assert set(index.tolist()) <= {0, 1}


def test_one_update_begins_at_most_one_and_the_first_is_a_copy() -> None:
    rng = np.random.default_rng(0)
    batch = frames(np.array([0, 1, 2]), rng)
    state = learn(medians.init((12, 12, 1), 4), batch)
    np.testing.assert_array_equal(state.num_updates, [1, 0, 0, 0])
    np.testing.assert_array_equal(state.frames[0], batch[0])


def test_a_median_nobody_votes_for_stays() -> None:
    rng, state = np.random.default_rng(0), medians.init((12, 12, 1), 4)
    for rooms in (np.zeros(8, int), np.ones(8, int)):
        for _ in range(5):
            state = learn(state, frames(rooms, rng))
    before = np.asarray(state.frames[0])
    np.testing.assert_array_equal(learn(state, frames(np.ones(8, int), rng)).frames[0], before)
