"""Prioritised sampling: the tree's sums, its draws, importance weights, late updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.replay import sum_tree
from learnmax_jax.types import SequenceIndex
from tests.replay import streams
from tests.replay.test_buffer import CONFIG, make

update = jax.jit(sum_tree.update, donate_argnums=0)
sample = jax.jit(sum_tree.sample, static_argnums=2)


def filled(weights) -> jax.Array:
    weights = jnp.asarray(weights, jnp.float32)
    tree = sum_tree.init(weights.shape[0])
    return update(tree, jnp.arange(weights.shape[0]), weights, jnp.ones(weights.shape, bool))


def test_n10_the_root_is_the_sum_of_the_leaves_after_1e5_updates():
    num_leaves, num_batches, batch_size = 1000, 400, 250
    rng = np.random.default_rng(0)
    leaf = rng.integers(num_leaves, size=(num_batches, batch_size)).astype(np.int32)
    weight = (10.0 ** rng.uniform(-6, 6, leaf.shape)).astype(np.float32)  # twelve orders of magnitude

    def step(tree, batch):
        return sum_tree.update(tree, *batch, jnp.ones(batch_size, bool)), None

    tree, _ = jax.jit(lambda tree, batches: jax.lax.scan(step, tree, batches))(
        sum_tree.init(num_leaves), (jnp.asarray(leaf), jnp.asarray(weight))
    )
    truth = np.zeros(num_leaves)
    for leaves, weights in zip(leaf, weight, strict=True):
        truth[leaves] = 0
        np.maximum.at(truth, leaves, weights)  # of a leaf that stands twice, the larger
    np.testing.assert_array_equal(sum_tree.get(tree, jnp.arange(num_leaves)), truth.astype(np.float32))
    np.testing.assert_allclose(sum_tree.total(tree), truth.sum(), rtol=1e-6)
    assert tree[0] == 0


def test_a_dropped_write_changes_nothing():
    tree = filled([1.0, 2.0, 3.0])
    before = np.asarray(tree)
    after = update(tree, jnp.array([0, 2, 2]), jnp.array([9.0, 8.0, 7.0]), jnp.array([False, False, False]))
    np.testing.assert_array_equal(after, before)


def test_n09_draws_are_proportional_and_weight_zero_is_never_drawn():
    weights = np.random.default_rng(1).uniform(0.1, 5.0, 50)
    weights[::7] = 0
    leaf = np.asarray(sample(filled(weights), jax.random.key(3), 100_000))
    counts = np.bincount(leaf, minlength=50)
    assert len(counts) == 50 and np.all(counts[::7] == 0)
    expected = 100_000 * weights / weights.sum()
    drawable = weights > 0
    chi_square = np.sum((counts - expected)[drawable] ** 2 / expected[drawable])
    degrees = drawable.sum() - 1
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def filled_replay(**changes):
    replay, add, sample_batch = make(kind="prioritised", **changes)
    stream = streams.Stream(3, 4, 9)
    state = replay.init(streams.example(3))
    for _ in range(7):
        state = add(state, stream.chunk(4))
    return replay, add, sample_batch, state, stream


def priorities_of(state) -> np.ndarray:
    return np.asarray(sum_tree.get(state.tree, jnp.arange(72))).reshape(3, 24)


def give(replay, state, environment, time, priorities):
    """The state with priorities of single rows, each a window of its own."""
    environment, time = jnp.asarray(environment, jnp.int32), jnp.asarray(time, jnp.int32)
    index = SequenceIndex(environment=environment, start=time, anchor=time)
    priorities = jnp.asarray(priorities)[:, None]
    return replay.update_priorities(state, index, priorities, jnp.ones(priorities.shape, bool))


def test_n09_uniform_priorities_weigh_one():
    _, _, sample_batch, state, _ = filled_replay(importance_exponent=1.0)
    np.testing.assert_array_equal(sample_batch(state, jax.random.key(0)).weights, 1)


def some_priorities(replay, state, rng_key=5):
    """The state with a random priority on every stored transition, and the transitions' environments and times."""
    slots = np.argwhere(priorities_of(state) > 0)
    time = 27 - (27 - slots[:, 1]) % 24
    priorities = jax.random.uniform(jax.random.key(rng_key), (len(slots),), minval=0.2, maxval=3.0)
    return give(replay, state, slots[:, 0], time, priorities), slots, np.asarray(priorities)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_n09_anchors_follow_p_to_the_alpha(exponent):
    replay, _, _, state, _ = filled_replay(priority_exponent=exponent, batch_size=1000)
    state, slots, priorities = some_priorities(replay, state)
    keys = jax.random.split(jax.random.key(1), 30)
    index = jax.jit(lambda keys: jax.lax.map(lambda key: replay.sample(state, key).index, keys))(keys)
    counts = np.zeros((3, 24))
    np.add.at(counts, (np.asarray(index.environment), np.asarray(index.anchor) % 24), 1)
    counts = counts[tuple(slots.T)]
    expected = priorities**exponent / np.sum(priorities**exponent) * 30_000
    assert counts.sum() == 30_000
    degrees = len(slots) - 1
    assert abs(np.sum((counts - expected) ** 2 / expected) - degrees) < 4 * np.sqrt(2 * degrees)


def test_n09_full_correction_makes_the_weighted_mean_the_uniform_mean():
    replay, _, sample_batch, state, _ = filled_replay(importance_exponent=1.0, batch_size=100_000)
    state, slots, _ = some_priorities(replay, state)
    batch = sample_batch(state, jax.random.key(2))
    assert 0 < batch.weights.min() < 0.5 and batch.weights.max() == 1
    value = np.random.default_rng(0).normal(size=(3, 24))
    drawn = value[np.asarray(batch.index.environment), np.asarray(batch.index.anchor) % 24]
    uniform_mean = value[tuple(slots.T)].mean()
    weights = np.asarray(batch.weights)
    # 1e5 draws of unit variance: standard error about 0.004
    assert abs(np.sum(weights * drawn) / np.sum(weights) - uniform_mean) < 0.02
    assert abs(drawn.mean() - uniform_mean) > 0.02  # without the weights the test would fail


def test_n09_weights_are_powers_of_the_probability_ratio():
    replay, _, sample_batch, state, _ = filled_replay(priority_exponent=0.5, importance_exponent=0.4)
    state, slots, priorities = some_priorities(replay, state)
    batch = sample_batch(state, jax.random.key(2))
    table = np.zeros((3, 24))
    table[tuple(slots.T)] = priorities
    drawn = table[np.asarray(batch.index.environment), np.asarray(batch.index.anchor) % 24] ** 0.5
    np.testing.assert_allclose(batch.weights, (drawn.min() / drawn) ** 0.4, rtol=1e-5)


def test_n09_one_priority_above_zero_is_always_drawn_and_zero_is_never_nan():
    replay, _, sample_batch, state, _ = filled_replay()
    slots = np.argwhere(priorities_of(state) > 0)
    time = 27 - (27 - slots[:, 1]) % 24
    priorities = np.zeros(len(slots), np.float32)
    priorities[11] = 1e-3
    state = give(replay, state, slots[:, 0], time, jnp.asarray(priorities))
    batch = sample_batch(state, jax.random.key(0))
    assert np.all(batch.index.environment == slots[11, 0]) and np.all(batch.index.anchor == time[11])
    np.testing.assert_array_equal(batch.weights, 1)
    state = give(replay, state, slots[:, 0], time, jnp.zeros(len(slots)))
    batch = sample_batch(state, jax.random.key(0))
    assert np.all(np.isfinite(batch.weights)) and np.all(np.isfinite(state.tree))


def test_n09_a_new_row_has_the_greatest_priority_so_far_and_a_final_observation_none():
    replay, add, _, state, stream = filled_replay(priority_exponent=0.5)
    anchor = next(t for t in range(10, 27) if stream.rows[1][t].valid)
    state = give(replay, state, [1], [anchor], jnp.array([16.0]))
    state = give(replay, state, [1], [anchor], jnp.array([1.0]))
    assert priorities_of(state)[1, 27 % 24] == 0  # the newest row's next observation is not stored
    state = add(state, stream.chunk(4))
    got = priorities_of(state)
    for e in range(3):
        for t in (27, 28, 29, 30):
            assert got[e, t % 24] == (4.0 if stream.rows[e][t].valid else 0.0)  # 16 ** 0.5
        assert got[e, 31 % 24] == 0
    assert any(not stream.rows[e][t].valid for e in range(3) for t in range(8, 31))


def test_n10_a_late_priority_of_an_overwritten_row_is_dropped():
    replay, add, sample_batch, state, stream = filled_replay()
    batch = sample_batch(state, jax.random.key(0))
    real = np.asarray(batch.rows.valid[:, :-1])
    time = np.asarray(batch.index.start)[:, None] + np.arange(real.shape[1])
    old = time < 8
    assert old[real].any() and not old[real].all() and not real.all()
    state = add(state, stream.chunk(4))  # rows 4..7 are overwritten by 28..31
    expected = priorities_of(state).copy()
    given = 100.0 + np.random.default_rng(0).permutation(real.size).reshape(real.shape)
    state = replay.update_priorities(state, batch.index, jnp.asarray(given, jnp.float32), jnp.asarray(real))
    for window, row in zip(*np.nonzero(real & ~old), strict=True):
        slot = int(batch.index.environment[window]), time[window, row] % 24
        expected[slot] = max(
            expected[slot], given[window, row] ** CONFIG["priority_exponent"]
        )  # in two windows: the greater one
    np.testing.assert_allclose(priorities_of(state), expected, rtol=1e-5)


def test_a_priority_that_is_not_finite_is_left_out():
    replay, _, _, state, stream = filled_replay()
    time = next(t for t in range(10, 20) if stream.rows[0][t].valid)
    after = give(replay, state, [0, 0], [time, time], jnp.array([jnp.nan, jnp.inf]))
    np.testing.assert_array_equal(after.tree, state.tree)
    assert after.max_weight == state.max_weight


def test_observations_come_by_weight_without_replacement():
    replay, _, _, state, _ = filled_replay()
    draw = jax.jit(lambda key: replay.sample_observations(state, key, lambda k: jnp.where(k[:, 1] == 2, 1e6, 1.0), 10))
    frames = np.concatenate([draw(jax.random.key(i)) for i in range(50)])
    assert frames.shape == (500, 2, 2, 1) and frames.dtype == np.uint8
    # Of 40 candidates about 13 are of environment 2; they go first.
    assert np.mean(frames[:, 1, 0, 0] == 2) > 0.9
    uniform = jax.jit(lambda key: replay.sample_observations(state, key, lambda k: jnp.ones(k.shape[0]), 1000))
    time = np.asarray(uniform(jax.random.key(0)))[:, 0, 0, 0]
    counts = np.bincount(time, minlength=28)
    assert np.all(counts[:4] == 0) and np.all(counts[4:] > 15)  # every stored row, the newest too: about 42 each
