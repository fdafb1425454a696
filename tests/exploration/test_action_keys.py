"""Keys of what actions control: nothing before they are frozen, then the player's place and not the noise's."""

import functools
import types
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.exploration import action_keys, counts
from learnmax_jax.exploration.kind import Parts
from learnmax_jax.models import medians
from tests.exploration.batches import batch_of

WIDTH, UPDATES = 6, 600


class _Model:
    num_actions = 3


class _Tokenizer(NamedTuple):
    medians: medians.Medians


class _Params(NamedTuple):
    tokenizer: _Tokenizer


def parts_of(*shape: int) -> Parts:
    """Parts whose tokenizer knows two rooms, of frames `shape`."""
    tokenizer = types.SimpleNamespace(
        init=lambda rng_key, frame: _Tokenizer(medians.init(shape, 2)),
        still=functools.partial(medians.still, threshold=20.0),
    )
    return Parts(num_envs=8, observation_shape=shape, tokenizer=tokenizer, world_model=_Model, latent_width=1)  # type: ignore[arg-type]


def knowing(*rooms: np.ndarray, num_updates: int = 100) -> _Params:
    """Model parameters that know the rooms' medians after so many updates."""
    known = medians.init(rooms[0].shape, 2)
    for number, room in enumerate(rooms):
        known = known.replace(
            frames=known.frames.at[number].set(room), num_updates=known.num_updates.at[number].set(num_updates)
        )
    return _Params(_Tokenizer(known))


PARTS = parts_of(2, WIDTH, 1)
BLACK = knowing(np.zeros((2, WIDTH, 1)))
SIZES = {
    "table_size": 1024,
    "episodic_table_size": 64,
    "grid_height": 2,
    "grid_width": WIDTH,
    "width": 64,
    "num_features": 4,
    "num_bins": 4,
    "learning_rate": 3e-3,
    "learn_updates": UPDATES,
}
KIND = action_keys.make(PARTS, **SIZES)


def frame(place: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Row 0 shows where the player is, row 1 flickers: `[..., 2, W, 1]`."""
    player = np.eye(WIDTH)[place]
    return (np.stack([player, noise], axis=-2)[..., None] * 255).astype(np.uint8)


def batch(rng: np.random.Generator):
    """A player that actions 0, 1, 2 move left, not and right, over noise that nobody moves."""
    place, action = [rng.integers(0, WIDTH, 16)], rng.integers(0, 3, (16, 9))
    for t in range(8):
        place.append(np.clip(place[-1] + action[:, t] - 1, 0, WIDTH - 1))
    noise = rng.integers(0, 2, (16, 9, WIDTH))
    return batch_of(frame(np.stack(place, axis=1), noise), np.zeros(16), action=jnp.asarray(action, jnp.int32))


def learned():
    rng, pay = np.random.default_rng(0), jax.jit(KIND.pay)
    state, accuracy = KIND.init(jax.random.key(0)), 0.0
    for _ in range(UPDATES):
        paid = pay(state, BLACK, batch(rng), jax.random.key(0))
        state, accuracy = paid.state, float(paid.metrics["inverse_accuracy"])
        assert not paid.bonus.any()
    return state, accuracy


def test_keys_tell_places_and_leave_out_what_no_action_moves() -> None:
    rng, see = np.random.default_rng(1), jax.jit(KIND.observe)
    first, nothing = jnp.zeros((8,), bool), jnp.zeros((8,))
    state = KIND.init(jax.random.key(0))
    _, key, visit = see(state, jnp.asarray(frame(np.zeros(8, int), np.zeros((8, WIDTH)))), first, nothing)
    assert not key.any() and not visit.any()  # nothing is known before the net is frozen

    state, accuracy = learned()
    assert accuracy > 0.8  # at the walls two actions look alike
    places = [np.full(8, place) for place in range(WIDTH)]
    keys = [
        np.asarray(see(state, jnp.asarray(frame(place, rng.integers(0, 2, (8, WIDTH)))), first, nothing)[1])
        for place in places
    ]
    # Frames that differ in noise alone share their key, mostly; places never do.
    commonest = [max(np.unique(each, axis=0, return_counts=True)[1]) for each in keys]
    assert np.mean(commonest) > 6, commonest
    assert len(np.unique([np.median(each, axis=0) for each in keys], axis=0)) == WIDTH


def test_frozen_keys_are_counted_and_stay() -> None:
    state, _ = learned()
    rng = np.random.default_rng(2)
    observation, first = jnp.asarray(frame(np.arange(8) % WIDTH, np.zeros((8, WIDTH)))), jnp.ones((8,), bool)
    state, key, visit = KIND.observe(state, observation, first, jnp.zeros(8))
    assert visit.all() and int(state.counts.num_keys) == len(np.unique(np.asarray(key), axis=0))
    paid = KIND.pay(state, BLACK, batch(rng), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, paid.state.params, state.params)
    np.testing.assert_array_equal(KIND.observe(paid.state, observation, first, jnp.zeros(8))[1], key)
    rows = batch_of(np.repeat(np.asarray(observation)[:, None], 2, axis=1), np.zeros(8))
    seen = rows.rows.replace(novelty_key=jnp.repeat(key[:, None], 2, axis=1), first_visit=jnp.ones((8, 2), bool))
    bonus = KIND.pay(state, BLACK, rows.replace(rows=seen), jax.random.key(0)).bonus
    np.testing.assert_allclose(bonus[:, 0], counts.counts(state.counts, key) ** -0.5, rtol=1e-6)


def test_a_step_into_an_unsettled_room_teaches_nothing() -> None:
    net = action_keys.InverseNet(width=4, num_features=2, num_actions=3)
    rng = np.random.default_rng(4)
    cells = jnp.asarray(rng.normal(size=(1, 4, 5)), jnp.float32)
    params = net.init(jax.random.key(0), cells[0], cells[0])["params"]
    action, valid = jnp.asarray([[0, 1, 2, 0]]), jnp.ones((1, 4), bool)
    known = jnp.asarray([[True, True, False, True]])
    expected, _ = action_keys.loss(params, net, cells[:, :2], action[:, :2], valid[:, :2], known[:, :2])
    got, _ = action_keys.loss(params, net, cells, action, valid, known)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def in_room(room: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A player of one pixel, one level darker than the room `[H, W, 1]`, at `place [...]`: `[..., H, W, 1]`."""
    frames = np.broadcast_to(room, (*place.shape, *room.shape)).copy()
    frames[(*np.indices(place.shape), 0, place)] -= 32
    return frames


def test_few_moving_cells_are_seen_in_a_still_room_and_in_one_that_was_not_learned_in() -> None:
    """With the room left in, the net does not get beyond chance, and has one key for all of another room."""
    rng, side = np.random.default_rng(3), 28
    sizes = {"grid_height": side, "grid_width": side, "learning_rate": 1e-3, "learn_updates": 200}
    kind = action_keys.make(parts_of(side, side, 1), **(SIZES | sizes))
    room, other = rng.integers(64, 256, (2, side, side, 1)).astype(np.uint8)
    state, pay, right = kind.init(jax.random.key(0)), jax.jit(kind.pay), []
    for _ in range(200):
        place, action = [rng.integers(0, WIDTH, 16)], rng.integers(0, 3, (16, 9))
        for t in range(8):
            place.append(np.clip(place[-1] + action[:, t] - 1, 0, WIDTH - 1))
        play = batch_of(in_room(room, np.stack(place, axis=1)), np.zeros(16), action=jnp.asarray(action, jnp.int32))
        paid = pay(state, knowing(room), play, jax.random.key(0))
        state = paid.state
        right.append(float(paid.metrics["inverse_accuracy"]))
    assert np.mean(right[-50:]) > 0.7, np.mean(right[-50:])

    state = pay(state, knowing(room, other), play, jax.random.key(0)).state
    places = np.arange(8) % WIDTH

    def seen(rooms: Sequence[np.ndarray]) -> list[set[tuple[int, ...]]]:
        frames = [jnp.asarray(in_room(each, places)) for each in rooms]
        keys = [kind.observe(state, frame, jnp.zeros(8, bool), jnp.zeros(8))[1] for frame in frames]
        return [{tuple(key) for key in np.asarray(each).tolist()} for each in keys]

    here, there = seen((room, other))
    assert len(here) == len(there) >= WIDTH - 1 and not here & there


def test_rooms_whose_median_has_not_settled_have_no_keys_and_teach_nothing() -> None:
    rng, first = np.random.default_rng(5), jnp.zeros((8,), bool)
    young = knowing(np.zeros((2, WIDTH, 1)), num_updates=99)
    state = KIND.init(jax.random.key(0))
    paid = KIND.pay(state, young, batch(rng), jax.random.key(0))
    changed = paid.state.replace(medians=state.medians)
    jax.tree.map(np.testing.assert_array_equal, changed.moments, state.moments)
    assert float(paid.metrics["inverse_loss"]) == 0.0
    state, _ = learned()
    observation = jnp.asarray(frame(np.arange(8) % WIDTH, np.zeros((8, WIDTH))))
    state = KIND.pay(state, young, batch(rng), jax.random.key(0)).state
    _, key, visit = KIND.observe(state, observation, first, jnp.zeros(8))
    assert not key.any() and not visit.any()
    state = KIND.pay(state, BLACK, batch(rng), jax.random.key(0)).state
    assert KIND.observe(state, observation, first, jnp.zeros(8))[1].any(axis=1).all()
