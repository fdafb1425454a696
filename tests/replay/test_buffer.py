"""The replay against a plain Python list, its limits, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.replay import buffer
from learnmax_jax.types import Transition
from tests.replay import streams

CONFIG = {
    "kind": "uniform",
    "num_envs": 3,
    "capacity": 3 * 24,
    "chunk_length": 4,
    "min_size": 3 * 8,
    "batch_size": 64,
    "sequence_length": 5,
    "priority_exponent": 0.6,
    "importance_exponent": 0.5,
}


def make(**changes):
    """Compiled add and sample of a replay that differs from CONFIG by `changes`."""
    replay = buffer.make_replay(**(CONFIG | changes))
    return replay, jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample)


def is_transition(rows: list[Transition], time: int) -> bool:
    """A row whose next observation is stored and of the same episode."""
    return bool(rows[time].valid) and time + 1 < len(rows) and not rows[time + 1].first


def check_window(
    history: dict, rows: list[Transition], oldest: int, window: dict, start: int, anchor: int, length: int
):
    """Checks one window against all rows its environment ever gave; returns the trained times."""
    newest = len(rows) - 1
    begin = end = anchor
    while begin > oldest and not rows[begin].first:
        begin -= 1
    while end < newest and not rows[end + 1].first:
        end += 1
    assert begin <= start <= anchor <= end
    if end - begin >= length:  # the episode's stored rows fill a window
        assert start + length <= end
    else:
        assert start == begin
    time = start + np.arange(length + 1)
    padded = time > end
    cut = (time == end) & (np.arange(length + 1) < length)
    expected = {name: values[np.minimum(time, end)] for name, values in history.items()}
    for name in ("reward", "discount", "first", "last", "valid", "first_visit"):
        expected[name][padded] = 0
    expected["reward"][cut], expected["discount"][cut] = 0, 1
    expected["last"][cut], expected["valid"][cut] = False, False
    for name, value in (expected | {"mask": ~padded}).items():
        assert np.array_equal(window[name], value), name
    trained = time[:-1][window["valid"][:-1]]
    assert all(is_transition(rows, t) for t in trained)
    return trained


@pytest.mark.parametrize("kind", ["uniform", "prioritised"])
@pytest.mark.parametrize(
    "seed,longest,length,chunk_length",
    [(0, 3, 5, 4), (1, 12, 5, 4), (2, 60, 5, 4), (3, 9, 1, 4), (4, 30, 23, 4), (5, 1, 2, 4), (6, 8, 5, 24)],
)
def test_n12_windows_equal_a_plain_list_under_random_add_and_sample(kind, seed, longest, length, chunk_length):
    replay, add, sample = make(kind=kind, sequence_length=length, chunk_length=chunk_length)
    stream = streams.Stream(3, seed, longest)
    state = replay.init(streams.example(3))
    rng = np.random.default_rng(seed)
    seen = set()
    for step in range(160 // chunk_length):
        state = add(state, stream.chunk(chunk_length))
        if step == 100 // chunk_length:
            stream.break_off()
        num_added = len(stream.rows[0])
        oldest = max(0, num_added - 24)
        assert bool(replay.can_sample(state)) == (min(num_added, 24) * 3 >= 24 and min(num_added, 24) >= length + 1)
        if not replay.can_sample(state) or rng.random() < 0.5:
            continue
        batch = jax.device_get(sample(state, jax.random.key(step)))
        rows = streams.fields(batch.rows) | {"mask": batch.mask}
        histories = [streams.fields(streams.stack(rows)) for rows in stream.rows]
        for b in range(64):
            e, start, anchor = (int(x[b]) for x in (batch.index.environment, batch.index.start, batch.index.anchor))
            history = stream.rows[e]
            assert oldest <= start and anchor < num_added - 1
            window = {name: value[b] for name, value in rows.items()}
            trained = check_window(histories[e], history, oldest, window, start, anchor, length)
            if is_transition(history, anchor):
                assert anchor in trained
            else:
                assert kind == "uniform"
            seen |= {(e, time) for time in trained}
        assert np.all((batch.weights > 0) & (batch.weights <= 1))
    assert len(seen) > 100


def frequencies(kind: str, num_batches: int = 400):
    """Counts of anchors and of trained transitions after 7 chunks (the ring of 6 chunks has wrapped)."""
    replay, add, _ = make(kind=kind)
    stream = streams.Stream(3, 7, 9)
    state = replay.init(streams.example(3))
    for _ in range(7):
        state = add(state, stream.chunk(4))
    keys = jax.random.split(jax.random.key(0), num_batches)
    batch = jax.device_get(jax.jit(lambda keys: jax.lax.map(lambda key: replay.sample(state, key), keys))(keys))
    anchors = np.zeros((3, 28), int)
    np.add.at(anchors, (batch.index.environment.ravel(), batch.index.anchor.ravel()), 1)
    trained = np.zeros((3, 28), int)
    time = batch.index.start[..., None] + np.arange(5)
    environment = np.broadcast_to(batch.index.environment[..., None], time.shape)
    valid = batch.rows.valid[..., :5]
    np.add.at(trained, (environment[valid], time[valid]), 1)
    drawable = np.array([[t >= 4 and is_transition(rows, t) for t in range(28)] for rows in stream.rows])
    return stream, drawable, anchors, trained


@pytest.mark.parametrize("kind", ["uniform", "prioritised"])
def test_every_transition_is_reached_and_anchors_have_the_stated_frequencies(kind):
    stream, drawable, anchors, trained = frequencies(kind)
    assert np.all(trained[drawable] > 0) and np.all(trained[~drawable] == 0)
    assert np.all(anchors[~drawable] == 0)
    expected = drawable.astype(float)
    if kind == "uniform":  # the stated bias: a final observation's share goes to the row before it
        for e, rows in enumerate(stream.rows):
            for t in range(4, 27):
                if not rows[t].valid:
                    expected[e, t - 1 if t > 4 else t + 1] += 1
    expected *= anchors.sum() / expected.sum()
    chi_square = np.sum((anchors - expected)[drawable] ** 2 / expected[drawable])
    degrees = drawable.sum() - 1
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)  # 4 standard deviations


def test_offsets_are_uniform_where_the_episode_leaves_room():
    replay, add, sample = make(batch_size=4000)
    stream = streams.Stream(3, 0, 1)
    stream.left = [1000] * 3
    state = replay.init(streams.example(3))
    for _ in range(6):
        state = add(state, stream.chunk(4))
    index = sample(state, jax.random.key(1)).index
    inner = (index.anchor >= 4) & (index.anchor <= 18)
    counts = np.bincount(np.asarray(index.anchor - index.start)[np.asarray(inner)], minlength=5)
    expected = counts.sum() / 5
    assert np.sum((counts - expected) ** 2 / expected) < 20  # 4 degrees of freedom: p = 5e-4


@pytest.mark.parametrize(
    "changes,field",
    [
        ({"kind": "prioritized"}, "kind='prioritized'.*Nearest: prioritised"),
        ({"capacity": 3 * 4}, "capacity=12: .*sequence_length.*Nearest: 24"),
        ({"capacity": 3 * 25}, "capacity=75: .*multiples.*Nearest: 72"),
        ({"capacity": 12 * 2**28}, "capacity=.*below 2"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"chunk_length": 0}, "chunk_length=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"sequence_length": 0}, "sequence_length=0"),
        ({"min_size": 73}, r"min_size=73: .*Nearest: 72"),
        ({"priority_exponent": 1.5}, "priority_exponent=1.5.*Nearest: 1"),
        ({"importance_exponent": -1}, "importance_exponent=-1.*Nearest: 0"),
    ],
)
def test_f25_wrong_numbers_are_refused_before_anything_compiles(changes, field):
    with pytest.raises(ValueError, match=field):
        buffer.make_replay(**(CONFIG | changes))


def test_add_refuses_other_shapes_and_types():
    replay, _, _ = make()
    state = replay.init(streams.example(3))
    chunk = streams.Stream(3, 0, 5).chunk(4)
    for wrong in (
        streams.Stream(3, 0, 5).chunk(3),
        streams.Stream(2, 0, 5).chunk(4),
        chunk.replace(reward=chunk.reward.astype(np.int32)),
        chunk.replace(observation=chunk.observation[:, :, :1]),
    ):
        with pytest.raises(AssertionError):
            jax.eval_shape(replay.add, state, wrong)


def test_a_row_of_a_game_takes_what_the_map_says():
    shape = {"observation": (64, 84, 84, 1), "search_policy": (64, 18), "novelty_key": (64, 2)}
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct((64, *x.shape[1:]), x.dtype), streams.example(64))
    row = row.replace(**{name: jax.ShapeDtypeStruct(s, getattr(row, name).dtype) for name, s in shape.items()})
    # 84 * 84 + action, reward, discount, episode_step, beta, search_value + 4 flags + 18 * 2 + 2 * 4
    assert buffer.bytes_per_row(row) == 7056 + 6 * 4 + 4 + 36 + 8


def act_learn_step(state: buffer.ReplayState, chunk: Transition, rng_key, *, replay: buffer.Replay):
    """What one compiled step does with the replay: add, then a loop of sample and reprioritise."""
    state = replay.add(state, chunk)

    def update(carry, key):
        state, total = carry
        batch = replay.sample(state, key)
        loss = jnp.mean(batch.rows.observation.astype(jnp.float32)) + total
        frames = replay.sample_observations(state, key, lambda keys: 1.0 + keys[:, 0].astype(jnp.float32), 8)
        rows = jax.tree.map(lambda x: x[:, :-1], batch.rows)
        state = replay.update_priorities(state, batch.index, jnp.abs(rows.reward), rows.valid)
        return (state, loss + jnp.mean(frames.astype(jnp.float32))), None

    (state, total), _ = jax.lax.scan(update, (state, jnp.zeros(())), jax.random.split(rng_key, 3))
    return jax.lax.fori_loop(0, 2, lambda i, c: (c[0], c[1] + replay.sample(c[0], rng_key).weights[i]), (state, total))


@pytest.mark.parametrize("kind", ["uniform", "prioritised"])
def test_add_and_sample_in_one_step_take_no_memory_that_grows_with_the_capacity(kind):
    temporary, aliased = [], []
    for num_slots in (32, 1024):
        replay, _, _ = make(kind=kind, num_envs=4, capacity=4 * num_slots, chunk_length=8, batch_size=4)
        example = streams.example(4).replace(observation=np.zeros((4, 84, 84, 1), np.uint8))
        chunk = jax.eval_shape(lambda x: jax.tree.map(lambda y: jnp.stack([y] * 8, axis=1), x), example)
        step = jax.jit(functools.partial(act_learn_step, replay=replay), donate_argnums=0)
        state = jax.eval_shape(replay.init, example)
        memory = step.lower(state, chunk, jax.eval_shape(jax.random.key, 0)).compile().memory_analysis()
        temporary.append(memory.temp_size_in_bytes)
        aliased.append(memory.alias_size_in_bytes)
    assert aliased[1] - aliased[0] >= 4 * 992 * 7056  # the ring is the donated one, written in place
    assert temporary[1] - temporary[0] < 1024, temporary
