"""Visit counts against a Python dictionary, and the keys they count."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnmax_jax.exploration import counts

_observe = jax.jit(counts.observe, donate_argnums=0)
_counts = jax.jit(counts.counts)
_bonus = jax.jit(counts.bonus)
_keys = jax.jit(counts.keys, static_argnames=("grid_height", "grid_width", "num_levels"))


def _random_keys(rng: np.random.Generator, num_different: int, shape: tuple[int, ...]) -> np.ndarray:
    """Keys of two small words, so that words repeat across keys; (0, 0) is among them."""
    which = rng.integers(0, num_different, size=shape)
    return np.stack([which % 7, which // 7], axis=-1).astype(np.uint32)


def _observe_all(state: counts.CountState, keys: np.ndarray, firsts: np.ndarray):
    """A scan over time: keys `[T, B, 2]`, firsts `[T, B]` -> state, first visits `[T, B]`, counts after each step."""

    def step(state: counts.CountState, row: tuple[jax.Array, jax.Array]):
        state, first_visit = counts.observe(state, *row)
        return state, (first_visit, counts.counts(state, row[0]))

    return jax.jit(lambda state: jax.lax.scan(step, state, (jnp.asarray(keys), jnp.asarray(firsts))))(state)


@pytest.mark.parametrize(
    ("num_envs", "table_size", "num_different", "num_steps"),
    [(32, 4096, 3000, 2000), (32, 64, 40, 2000), (7, 256, 180, 3000), (64, 16, 9, 500), (1, 8, 5, 500)],
)
def test_counts_match_a_dictionary(num_envs: int, table_size: int, num_different: int, num_steps: int):
    rng = np.random.default_rng(table_size)
    keys = _random_keys(rng, num_different, (num_steps, num_envs))
    firsts = rng.random((num_steps, num_envs)) < 0.02
    state = counts.init(num_envs=num_envs, table_size=table_size, episodic_table_size=table_size)
    state, (first_visits, seen) = _observe_all(state, keys, firsts)

    lifetime: collections.Counter[tuple[int, int]] = collections.Counter()
    episodes: list[set[tuple[int, int]]] = [set() for _ in range(num_envs)]
    for t in range(num_steps):
        row = [tuple(key) for key in keys[t].tolist()]
        lifetime.update(key for key in row if key != (0, 0))
        expected = []
        for b, key in enumerate(row):
            if firsts[t, b]:
                episodes[b] = set()
            expected.append(key != (0, 0) and key not in episodes[b])
            episodes[b].add(key)
        np.testing.assert_array_equal(first_visits[t], expected, err_msg=str(t))
        np.testing.assert_array_equal(seen[t], [lifetime[key] for key in row], err_msg=str(t))

    assert int(state.num_keys) == len(lifetime) and int(state.num_dropped) == 0
    everything = np.asarray([*lifetime, (99, 99), (0, 0)], np.uint32)
    np.testing.assert_array_equal(_counts(state, jnp.asarray(everything)), [*lifetime.values(), 0, 0])
    stored = {tuple(key): n for key, n in zip(state.table_keys.tolist(), state.table_counts.tolist(), strict=True) if n}
    assert stored == dict(lifetime)
    in_episode = [len(episode - {(0, 0)}) for episode in episodes]
    np.testing.assert_array_equal(state.num_episodic_keys, in_episode)


def test_a_full_table_drops_new_keys_and_says_so():
    rng = np.random.default_rng(0)
    keys = _random_keys(rng, 60, (400, 16))
    state = counts.init(num_envs=16, table_size=32, episodic_table_size=32)
    state, _ = _observe_all(state, keys, np.zeros((400, 16), bool))
    lifetime = collections.Counter(tuple(key) for key in keys.reshape(-1, 2).tolist())
    del lifetime[0, 0]

    # 32 slots, no more probes than slots: whoever came first has one, the others are known not to.
    assert int(state.num_keys) == 32 and float(counts.metrics(state)["table_load"]) == 1
    everything = np.asarray(list(lifetime), np.uint32)
    found = np.asarray(_counts(state, jnp.asarray(everything)))
    dropped = found == counts.COUNT_DROPPED
    assert dropped.sum() == len(lifetime) - 32
    true = np.asarray(list(lifetime.values()))
    np.testing.assert_array_equal(found[~dropped], true[~dropped])
    assert int(state.num_dropped) == true[dropped].sum()

    paid = np.asarray(_bonus(state, jnp.asarray(everything), jnp.ones(len(lifetime), bool)))
    np.testing.assert_array_equal(paid[dropped], 0)
    np.testing.assert_allclose(paid[~dropped], 1 / np.sqrt(true[~dropped]), rtol=1e-6)


def test_a_full_episodic_table_takes_new_keys_for_visited():
    state = counts.init(num_envs=2, table_size=64, episodic_table_size=4)
    visits = []
    for i in range(1, 7):
        keys = jnp.asarray([[i, i], [1, 1]], jnp.uint32)
        state, first_visit = _observe(state, keys, jnp.asarray([i == 1, i == 1]))
        visits.append(first_visit.tolist())
    assert visits == [[True, True], [True, False], [True, False], [True, False], [False, False], [False, False]]
    assert int(state.num_episodic_dropped) == 2
    assert float(counts.metrics(state)["episodic_load_max"]) == 1
    # A new episode of the first environment only, without clearing anything.
    state, first_visit = _observe(state, jnp.asarray([[5, 5], [1, 1]], jnp.uint32), jnp.asarray([True, False]))
    assert first_visit.tolist() == [True, False]
    assert state.num_episodic_keys.tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), min_size=4, max_size=4),
        min_size=1,
        max_size=12,
    )
)
def test_any_history_matches_a_dictionary(history: list[list[tuple[int, int, bool]]]):
    state = counts.init(num_envs=4, table_size=16, episodic_table_size=16)
    lifetime: collections.Counter[tuple[int, int]] = collections.Counter()
    episodes: list[set[tuple[int, int]]] = [set() for _ in range(4)]
    for row in history:
        keys = jnp.asarray([key[:2] for key in row], jnp.uint32)
        state, first_visit = _observe(state, keys, jnp.asarray([first for _, _, first in row]))
        for b, (high, low, first) in enumerate(row):
            episodes[b] = set() if first else episodes[b]
            key = (high, low)
            assert bool(first_visit[b]) == (key != (0, 0) and key not in episodes[b])
            episodes[b].add(key)
            lifetime[key] += key != (0, 0)
        assert _counts(state, keys).tolist() == [lifetime[key[:2]] for key in row]


def test_counts_do_not_depend_on_the_order_within_a_batch():
    rng = np.random.default_rng(1)
    keys = _random_keys(rng, 50, (32,))
    order = rng.permutation(32)
    states = [
        _observe(
            counts.init(num_envs=32, table_size=64, episodic_table_size=8), jnp.asarray(batch), jnp.ones(32, bool)
        )[0]
        for batch in (keys, keys[order])
    ]
    chex.assert_trees_all_equal(states[0].table_counts, states[1].table_counts)
    chex.assert_trees_all_equal(states[0].table_keys, states[1].table_keys)


def test_bonus_by_hand():
    state = counts.init(num_envs=4, table_size=16, episodic_table_size=16)
    keys = jnp.asarray([[1, 1], [1, 1], [2, 0], [0, 0]], jnp.uint32)
    for _ in range(2):
        state, first_visit = _observe(state, keys, jnp.zeros(4, bool))
    assert first_visit.tolist() == [False] * 4
    # (1, 1) was observed 4 times, (2, 0) twice, (5, 5) never, (0, 0) is no observation.
    keys = jnp.asarray([[[1, 1], [2, 0], [5, 5]], [[1, 1], [0, 0], [0, 0]]], jnp.uint32)
    gate = jnp.asarray([[True, True, True], [False, True, False]])
    np.testing.assert_allclose(_bonus(state, keys, gate), [[0.5, 0.5**0.5, 1], [0, 0, 0]], rtol=1e-6)
    assert _counts(state, keys).tolist() == [[4, 2, 0], [4, 0, 0]]
    assert counts.metrics(state)["num_keys"] == 2


def test_what_has_no_count_is_as_rare_as_the_others_are_on_average():
    state = counts.init(num_envs=4, table_size=16, episodic_table_size=16)
    for seen in ([[1, 1]] * 4, [[2, 2], [0, 0], [0, 0], [0, 0]]):  # [1, 1] four times, [2, 2] once
        state, _ = counts.observe(state, jnp.asarray(seen, jnp.uint32), jnp.ones((4,), bool))
    keys = jnp.asarray([[1, 1], [2, 2], [0, 0], [3, 3]], jnp.uint32)
    np.testing.assert_allclose(counts.rarity(state, keys), [0.5, 1.0, 0.75, 0.75])
    np.testing.assert_allclose(counts.rarity(state, keys[2:]), [1.0, 1.0])  # nothing to compare with


def test_observing_is_in_place_whatever_the_table_size():
    def temporary_bytes(table_size: int, in_scan: bool) -> int:
        state = counts.init(num_envs=64, table_size=table_size, episodic_table_size=1024)
        keys, first = jnp.ones((8, 64, 2), jnp.uint32), jnp.ones((8, 64), bool)

        def scan(state: counts.CountState) -> tuple[counts.CountState, jax.Array]:
            return jax.lax.scan(lambda state, row: counts.observe(state, *row), state, (keys, first))

        def step(state: counts.CountState) -> tuple[counts.CountState, jax.Array]:
            return counts.observe(state, keys[0], first[0])

        compiled = jax.jit(scan if in_scan else step, donate_argnums=0).lower(state).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for in_scan in (False, True):
        assert temporary_bytes(2**20, in_scan) == temporary_bytes(2**12, in_scan) < 100_000


_GRID = {"grid_height": 8, "grid_width": 6, "num_levels": 12}


def test_keys_are_frozen():
    """A replay holds keys for as long as a run: these numbers never change."""
    frames = jnp.asarray(np.arange(2 * 84 * 84).reshape(2, 84, 84, 1) % 251, jnp.uint8)
    assert _keys(frames, **_GRID).tolist() == [[1500616845, 1560140466], [1136704423, 1248947427]]


def test_equal_frames_have_equal_keys_wherever_they_stand():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 84, 84, 1)).astype(np.uint8)
    one_by_one = np.concatenate([_keys(jnp.asarray(frame[None]), **_GRID) for frame in frames])
    batch = np.concatenate([frames[::-1], frames, frames[:3]])
    np.testing.assert_array_equal(
        _keys(jnp.asarray(batch), **_GRID), np.concatenate([one_by_one[::-1], one_by_one, one_by_one[:3]])
    )


def test_keys_match_an_exact_average():
    """Quantised cells by slow rational arithmetic; equal cells, equal keys, and the other way round."""
    rng = np.random.default_rng(0)
    # Smooth frames of few greys, so that many pairs share all their cells and many do not.
    coarse = rng.integers(0, 3, (40, 4, 4)) * 40
    frames = np.kron(coarse, np.ones((1, 5, 5), int))[:, :, :18] + rng.integers(0, 2, (40, 20, 18))
    grid = {"grid_height": 3, "grid_width": 4, "num_levels": 3}
    cells = np.zeros((40, 3, 4), int)
    for i in range(3):
        for j in range(4):
            rows = [max(0, min(3 * (y + 1), 20 * (i + 1)) - max(3 * y, 20 * i)) for y in range(20)]
            columns = [max(0, min(4 * (x + 1), 18 * (j + 1)) - max(4 * x, 18 * j)) for x in range(18)]
            total = np.einsum("y,byx,x->b", rows, frames, columns)
            cells[:, i, j] = total * 3 // (256 * 20 * 18)
    keys = np.asarray(_keys(jnp.asarray(frames[..., None], jnp.uint8), **grid))
    same_cells = (cells[:, None] == cells[None]).all((-2, -1))
    np.testing.assert_array_equal((keys[:, None] == keys[None]).all(-1), same_cells)


def test_different_frames_have_different_keys():
    # At full resolution one changed pixel, by one grey, is another key.
    frames = np.full((1 + 36 * 2, 6, 6, 1), 100, np.uint8)
    for i in range(36):
        frames[1 + 2 * i].reshape(-1)[i] += 1
        frames[2 + 2 * i].reshape(-1)[i] -= 1
    keys = np.asarray(_keys(jnp.asarray(frames), grid_height=6, grid_width=6, num_levels=256))
    assert len(np.unique(keys, axis=0)) == len(frames)
    # Each word alone nearly suffices.
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5_000, 8, 6, 1)).astype(np.uint8)
    keys = np.asarray(_keys(jnp.asarray(frames), **_GRID))
    assert len(np.unique(keys, axis=0)) == 5_000
    assert min(len(np.unique(keys[:, word])) for word in (0, 1)) >= 4_999
    # Bits are balanced, in both words.
    bits = np.unpackbits(keys.view(np.uint8).reshape(5_000, 8), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.04


def test_levels_cut_the_greys_into_equal_steps():
    frames = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8)[:, None, None, None], (256, 84, 84, 1))
    keys = np.asarray(_keys(frames, **_GRID))
    level = np.arange(256) * 12 // 256
    np.testing.assert_array_equal((keys[:, None] == keys[None]).all(-1), level[:, None] == level[None])


def test_a_coarse_key_forgets_small_changes():
    frames = np.zeros((2, 84, 84, 1), np.uint8)
    frames[1, 40:43, 40:43] = 20
    assert len(np.unique(_keys(jnp.asarray(frames), **_GRID), axis=0)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid_height": 85}, "^grid_height=85: .*Nearest: 84$"),
        ({"grid_width": 0}, "^grid_width=0: .*Nearest: 1$"),
        ({"num_levels": 1}, "^num_levels=1: .*Nearest: 2$"),
        ({"num_levels": 300}, "^num_levels=300: .*Nearest: 256$"),
    ],
)
def test_keys_refuse_a_grid_that_is_none(change: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        counts.keys(jnp.zeros((1, 84, 84, 1), jnp.uint8), **{**_GRID, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table_size": 1000}, "^table_size=1000: .*Nearest: 1024$"),
        ({"table_size": 0}, "^table_size=0: .*Nearest: 2$"),
        ({"episodic_table_size": 100}, "^episodic_table_size=100: .*Nearest: 128$"),
        ({"num_envs": 0}, "^num_envs=0: .*Nearest: 1$"),
    ],
)
def test_init_refuses_sizes(change: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        counts.init(**{"num_envs": 2, "table_size": 16, "episodic_table_size": 16, **change})
