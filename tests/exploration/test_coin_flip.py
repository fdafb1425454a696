"""Pseudo-counts beside exact ones, on a world whose visits are a list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.exploration import coin_flip
from learnmax_jax.exploration.kind import Kind, Parts
from learnmax_jax.models.rows import coin_flips
from tests.exploration.batches import batch_of, spearman

SHAPE = (1, 1, 2)
# How often each of a world's places was visited.
VISITS = np.array([1, 1, 2, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])


def _kind(num_flips: int = 64) -> Kind:
    parts = Parts(num_envs=1, observation_shape=SHAPE, tokenizer=None, world_model=None, latent_width=1)  # type: ignore[arg-type]
    return coin_flip.make(
        parts, num_flips=num_flips, width=64, grid_height=1, grid_width=1, num_levels=256, learning_rate=3e-3
    )


def _frame(place: np.ndarray) -> np.ndarray:
    return np.stack([place % 4, place // 4], axis=-1).astype(np.uint8)[..., None, None, :]


@pytest.fixture(scope="module")
def trained() -> tuple[Kind, object]:
    """A net that has drawn every visit some hundred times."""
    kind = _kind()
    history = np.random.default_rng(0).permutation(np.repeat(np.arange(len(VISITS)), VISITS))
    pay = jax.jit(kind.pay)
    state = kind.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    for _ in range(1500):
        time = rng.integers(0, len(history), size=128)
        batch = batch_of(_frame(history[time])[:, None], time)
        state = pay(state, None, batch, jax.random.key(0)).state
    return kind, state


def _bonus(kind: Kind, state: object, place: np.ndarray) -> np.ndarray:
    """What is paid at places, without learning from them: a masked batch moves nothing."""
    batch = batch_of(_frame(place)[:, None], place)
    batch = batch.replace(mask=jnp.zeros_like(batch.mask))
    return np.asarray(kind.pay(state, None, batch, jax.random.key(0)).bonus[:, 0])


def test_pseudo_counts_agree_with_the_exact_counts(trained: tuple[Kind, object]) -> None:
    bonus = _bonus(*trained, np.arange(len(VISITS)))
    exact = VISITS**-0.5
    assert spearman(bonus, exact) > 0.95
    # d = 64 coins: a relative error of about sqrt(2 / 64) = 0.18 of 1 / n, so 0.09 of the bonus; the fit adds some.
    ratio = bonus / exact
    assert 0.75 < np.median(ratio) < 1.3
    assert (ratio > 0.5).all() and (ratio < 2.0).all()


def test_a_place_that_was_never_seen_is_new(trained: tuple[Kind, object]) -> None:
    far = _bonus(*trained, np.array([4 * 40 + 3, 4 * 50 + 2]))
    assert (far > 0.5).all()


def test_before_any_update_everything_was_seen_once() -> None:
    kind = _kind()
    np.testing.assert_allclose(_bonus(kind, kind.init(jax.random.key(0)), np.arange(16)), 1.0, rtol=1e-4)


def test_what_is_frozen_stays_and_the_rest_learns(trained: tuple[Kind, object]) -> None:
    kind, state = trained
    before = kind.init(jax.random.key(0)).params
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (str(path[0].key), bool((a != b).any())), before, state.params
    )  # type: ignore[attr-defined]
    by_name = dict(leaf for leaf in jax.tree.leaves(moved, is_leaf=lambda x: isinstance(x, tuple)))
    assert {name: changed for name, changed in by_name.items() if name.startswith("frozen")} == {
        "frozen_first": False,
        "frozen_last": False,
    }
    np.testing.assert_array_equal(state.projection, kind.init(jax.random.key(0)).projection)  # type: ignore[attr-defined]
    assert all(changed for name, changed in by_name.items() if not name.startswith("frozen"))


def test_a_row_keeps_its_coins_however_it_is_drawn() -> None:
    place = np.zeros((2, 5), int)
    early, late = (coin_flips(batch_of(_frame(place), np.array(time)), 64) for time in ([7, 100], [9, 100]))
    np.testing.assert_array_equal(early[0, 2:], late[0, :3])
    np.testing.assert_array_equal(early[1], late[1])
    assert set(np.unique(early)) == {-1.0, 1.0}


def test_coins_are_fair_and_each_row_has_its_own() -> None:
    flips = np.asarray(coin_flips(batch_of(_frame(np.zeros((1, 4000), int)), np.array([3])), 16))[0]
    # 4000 fair coins: a standard deviation of 0.016, so that 0.08 is five of them.
    assert np.abs(flips.mean(axis=0)).max() < 0.08
    among = flips.T @ flips / len(flips) - np.eye(16)
    assert np.abs(among).max() < 0.08
    # A row's vector and the next one's have nothing in common.
    assert abs((flips[1:] * flips[:-1]).mean()) < 0.02
    batch = batch_of(_frame(np.zeros((1, 64), int)), np.array([3]))
    other = batch.replace(index=batch.index.replace(environment=jnp.ones(1, jnp.int32)))
    assert abs((coin_flips(batch, 16) * coin_flips(other, 16)).mean()) < 0.16


def test_rows_that_are_no_observations_teach_nothing() -> None:
    kind = _kind(4)
    batch = batch_of(_frame(np.arange(6).reshape(2, 3)), np.array([0, 9]))
    other = batch.replace(rows=batch.rows.replace(observation=batch.rows.observation.at[0, 1].set(200)))
    masked = batch.mask.at[0, 1].set(False)
    state = kind.init(jax.random.key(0))
    one, two = (kind.pay(state, None, each.replace(mask=masked), jax.random.key(0)).state for each in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one.moments, two.moments)
    np.testing.assert_array_equal(one.params["Dense_2"]["bias"], two.params["Dense_2"]["bias"])
    told = kind.pay(state, None, other, jax.random.key(0)).state
    assert (told.params["Dense_2"]["bias"] != two.params["Dense_2"]["bias"]).any()


def test_places_in_a_still_room_are_new_until_they_are_seen() -> None:
    """A player of one cell in a room of 12 x 12, whose right half was never entered; unwhitened it is no news."""
    side, rng = 12, np.random.default_rng(0)
    parts = Parts(num_envs=1, observation_shape=(side, side, 1), tokenizer=None, world_model=None, latent_width=1)  # type: ignore[arg-type]
    sizes = {"grid_height": side, "grid_width": side, "num_levels": 8}
    kind = coin_flip.make(parts, num_flips=20, width=64, learning_rate=2e-3, **sizes)
    room = rng.integers(0, 160, (side, side, 1)).astype(np.uint8)

    def at(column: np.ndarray) -> np.ndarray:
        frames = np.broadcast_to(room, (*column.shape, side, side, 1)).copy()
        frames[(*np.indices(column.shape), rng.integers(0, side, column.shape), column)] += 96
        return frames

    pay, state = jax.jit(kind.pay), kind.init(jax.random.key(0))
    for number in range(400):
        known = batch_of(at(rng.integers(0, side // 2, (16, 8))), 8 * (16 * number + np.arange(16)))
        state = pay(state, None, known, jax.random.key(0)).state

    def paid(column: np.ndarray) -> float:
        batch = batch_of(at(column), np.zeros(16))
        return float(pay(state, None, batch.replace(mask=jnp.zeros_like(batch.mask)), jax.random.key(0)).bonus.mean())

    seen, new = (paid(rng.integers(low, low + side // 2, (16, 8))) for low in (0, side // 2))
    assert new > 0.4 and seen < 0.5 * new, (seen, new)
