"""Recorded play as windows: nothing lost, nothing shared between the parts, the same order after a resume."""

import itertools
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from learnmax_jax.replay import dataset, shards
from learnmax_jax.replay.dataset import Dataset
from learnmax_jax.types import Transition
from tests.replay.streams import Stream

NUM_ENVS, CHUNK, NUM_RECORDS = 4, 8, 30
LENGTH = 6


def write(folder: pathlib.Path, chunks: list[Transition]) -> pathlib.Path:
    writer = shards.ShardWriter(folder, records_per_shard=7, next_index=0)
    for chunk in chunks:
        writer.append(chunk)
    writer.close()
    return folder


def load(folder: pathlib.Path, **changes: object) -> Dataset:
    return dataset.load(folder, **({"test_share": 0.3, "overlap_length": 3, "skip_damaged": False} | changes))


@pytest.fixture(scope="module")
def chunks() -> list[Transition]:
    stream = Stream(NUM_ENVS, seed=0, longest=12)
    return [stream.chunk(CHUNK) for _ in range(NUM_RECORDS)]


@pytest.fixture(scope="module")
def folder(chunks: list[Transition], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp("data"), chunks)


@pytest.fixture(scope="module")
def data(folder: pathlib.Path) -> Dataset:
    return load(folder)


def test_all_rows_are_there_in_order(data: Dataset, chunks: list[Transition]) -> None:
    for whole, *parts in zip(jax.tree.leaves(data.rows), *(jax.tree.leaves(chunk) for chunk in chunks)):
        np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))


def test_an_episode_is_what_lies_between_two_first_frames(data: Dataset) -> None:
    first = data.rows.first
    for environment in range(NUM_ENVS):
        starts = [*np.flatnonzero(first[environment]), first.shape[1]]
        for begin, after in itertools.pairwise(starts):
            assert (data.begin[environment, begin:after] == begin).all()
            assert (data.end[environment, begin:after] == after - 1).all()
            assert len(set(data.is_test[environment, begin:after])) == 1
    assert 0.1 < data.is_test.mean() < 0.5


def test_s4_67_no_training_row_stands_in_a_test_window(data: Dataset) -> None:
    environment, start = dataset.held_out_windows(data, length=LENGTH)
    assert len(start) > 5
    used = set()
    for e, s in zip(environment, start):
        rows = {(e, t) for t in range(s, s + LENGTH)}
        assert not rows & used and data.end[e, s] >= s + LENGTH - 1
        assert data.is_test[e, s : s + LENGTH].all()
        used |= rows
    dataset.check_no_overlap(data)


def test_s4_68_play_that_repeats_itself_is_no_test(tmp_path: pathlib.Path) -> None:
    # Every environment plays the very same episodes: what is a test in one is training in another.
    one = Stream(1, seed=1, longest=12)
    chunks = [one.chunk(CHUNK) for _ in range(NUM_RECORDS)]
    same = [jax.tree.map(lambda x: np.repeat(x, NUM_ENVS, axis=0), chunk) for chunk in chunks]
    data = load(write(tmp_path, same), test_share=0.3)
    assert data.is_test.any()
    # An episode of fewer rows than the overlap cannot be told apart, and is no window either.
    environment, _ = dataset.held_out_windows(data, length=LENGTH)
    only_test = data.is_test.all(axis=0)
    assert len(environment) <= only_test.sum() * NUM_ENVS / LENGTH
    dataset.check_no_overlap(data)
    whole = data.end - np.arange(data.end.shape[1])[None] >= data.overlap_length - 1
    np.testing.assert_array_equal(data.is_known & data.is_test, data.is_test & whole & ~only_test[None])


def test_the_overlap_is_checked_by_the_rows_themselves(data: Dataset) -> None:
    blind = Dataset(**{**vars(data), "is_known": np.zeros_like(data.is_known)})
    dataset.check_no_overlap(blind)
    e, t = np.argwhere(~data.is_test & (data.end - data.begin > 5))[0]
    other, s = np.argwhere(data.is_test & (data.end - data.begin > 5))[0]
    rows = jax.tree.map(np.copy, data.rows)
    for leaf in jax.tree.leaves(rows):
        leaf[e, t : t + 4] = leaf[other, s : s + 4]
    with pytest.raises(AssertionError, match="stand in the training part"):
        dataset.check_no_overlap(Dataset(**{**vars(blind), "rows": rows}))


def test_an_epoch_visits_each_training_transition_once(data: Dataset) -> None:
    size = 8
    per_epoch = len(data.anchors) // size
    seen = []
    for update in range(per_epoch):
        index = dataset.draw(data, update, seed=3, batch_size=size, sequence_length=LENGTH, shares=None).index
        seen += [(int(e), int(t)) for e, t in zip(index.environment, index.anchor)]
    assert len(set(seen)) == len(seen) == per_epoch * size
    times = np.arange(data.end.shape[1])[None]
    assert set(seen) <= set(map(tuple, np.argwhere(data.rows.valid & (times < data.end) & ~data.is_test).tolist()))
    other = dataset.draw(data, per_epoch, seed=3, batch_size=size, sequence_length=LENGTH, shares=None).index
    assert [(int(e), int(t)) for e, t in zip(other.environment, other.anchor)] != seen[:size]


def test_windows_hold_the_rows_and_pad_behind_the_end(data: Dataset) -> None:
    for update in range(6):
        batch = dataset.draw(data, update, seed=0, batch_size=16, sequence_length=LENGTH, shares=None)
        for b in range(16):
            e, start, anchor = (int(x[b]) for x in (batch.index.environment, batch.index.start, batch.index.anchor))
            end = data.end[e, anchor]
            length = min(LENGTH + 1, end - start + 1)
            assert start <= anchor < start + LENGTH + 1 and start >= data.begin[e, anchor]
            np.testing.assert_array_equal(batch.mask[b], np.arange(LENGTH + 1) < length)
            np.testing.assert_array_equal(
                batch.rows.observation[b, :length], data.rows.observation[e, start : start + length]
            )
            assert not batch.rows.valid[b, length - 1 :].any() or length == LENGTH + 1
            np.testing.assert_array_equal(
                batch.rows.valid[b, : length - 1], data.rows.valid[e, start : start + length - 1]
            )


def brightness(frames: np.ndarray) -> np.ndarray:
    """A key of each frame: two of its pixels."""
    return np.asarray(frames)[:, 0, :2, 0]


def test_rare_frames_are_drawn_by_one_over_root_n(data: Dataset) -> None:
    shares = dataset.rarity(data, brightness)
    keys = [tuple(key) for key in brightness(data.rows.observation.reshape(-1, *data.rows.observation.shape[2:]))]
    keys = [keys[row] for row in data.training_rows]
    weights = np.array([1 / np.sqrt(keys.count(key)) for key in keys])
    np.testing.assert_allclose(shares, weights / weights.sum())
    assert shares.max() > 1.3 * shares.min()


def test_windows_and_frames_are_drawn_by_their_shares(data: Dataset) -> None:
    shares = np.zeros(len(data.training_rows))
    wanted = np.flatnonzero(np.isin(data.training_rows, data.anchors))[[3, 40]]
    shares[wanted] = 0.2, 0.8
    rows = {divmod(int(data.training_rows[i]), data.begin.shape[1]) for i in wanted}
    drawn = []
    for update in range(20):
        of_windows = data.anchor_shares(shares)
        index = dataset.draw(data, update, seed=0, batch_size=8, sequence_length=LENGTH, shares=of_windows).index
        drawn += list(zip(np.asarray(index.environment).tolist(), np.asarray(index.anchor).tolist(), strict=True))
    assert set(drawn) == rows
    likelier = divmod(int(data.training_rows[wanted[1]]), data.begin.shape[1])
    assert 0.6 < drawn.count(likelier) / len(drawn) < 0.95
    frames = dataset.draw_observations(data, 0, seed=0, num_observations=64, shares=shares)
    of_rows = {np.asarray(data.rows.observation[row]).tobytes() for row in rows}
    assert {np.asarray(frame).tobytes() for frame in frames} == of_rows


@pytest.mark.parametrize("windows", ["epochs", "rare"])
def test_s4_70_the_order_after_a_resume_is_exact(data: Dataset, windows: str) -> None:
    shares = dataset.rarity(data, brightness)

    def read(update: int, count: int) -> list[np.ndarray]:
        loader = dataset.Loader(
            data,
            seed=1,
            batch_size=4,
            sequence_length=LENGTH,
            num_observations=5,
            shares=shares,
            window_shares=data.anchor_shares(shares) if windows == "rare" else None,
            update=update,
        )
        read = [jax.device_get(next(loader)) for _ in range(count)]
        loader.close()
        return [leaf for item in read for leaf in jax.tree.leaves(item)]

    whole, resumed = read(0, 10), read(4, 6)
    assert len(whole) == len(resumed) / 6 * 10
    for a, b in zip(whole[-len(resumed) :], resumed):
        np.testing.assert_array_equal(a, b)


def test_s4_70_reading_imports_no_emulator(folder: pathlib.Path) -> None:
    code = (
        "import sys; from learnmax_jax.replay import dataset; "
        f"dataset.load({str(folder)!r}, test_share=0.1, overlap_length=3, skip_damaged=False); "
        "assert 'envpool' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parents[2])


def test_f28_a_damaged_record_is_named_and_the_rest_is_readable(
    chunks: list[Transition], tmp_path: pathlib.Path
) -> None:
    folder = write(tmp_path, chunks)
    path = sorted(folder.glob("*.lmx"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name}: record \d+"):
        load(folder)
    rest = load(folder, skip_damaged=True)
    assert rest.num_skipped == 1 and len(rest.records) == NUM_RECORDS - 1
    missing = int(np.setdiff1d(np.arange(NUM_RECORDS), rest.records)[0])
    # What was a test stays one, whatever is missing before it.
    whole = load(write(tmp_path / "whole", chunks))
    there = np.repeat(np.arange(NUM_RECORDS) != missing, CHUNK)
    unbroken = rest.begin > missing * CHUNK  # their episodes begin behind the gap, not in it
    np.testing.assert_array_equal(rest.is_test[unbroken], whole.is_test[:, there][unbroken])
    assert rest.fingerprint != whole.fingerprint == load(tmp_path / "whole", test_share=0.1).fingerprint
    # No episode reaches over the gap, and no training anchor either.
    assert (rest.end[:, missing * CHUNK - 1] == missing * CHUNK - 1).all()
    assert (rest.begin[:, missing * CHUNK] == missing * CHUNK).all()
    assert not np.isin(np.arange(NUM_ENVS) * rest.end.shape[1] + missing * CHUNK - 1, rest.anchors).any()


def test_f28_an_empty_folder_says_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="holds no records"):
        load(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("test_share", 1.0), ("overlap_length", 0)])
def test_arguments_outside_their_range_are_refused(folder: pathlib.Path, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        load(folder, **{field: value})


def test_hashes_see_every_pixel_and_the_action() -> None:
    rng = np.random.default_rng(0)
    observation, action = rng.integers(0, 256, (50, 7, 5, 1), np.uint8), rng.integers(0, 4, 50)
    hashes = dataset.hash_rows(observation, action)
    assert len(set(hashes.tolist())) == 50
    for pixel in range(35):
        changed = observation.copy()
        changed.reshape(50, -1)[:, pixel] ^= 1
        assert (dataset.hash_rows(changed, action) != hashes).all()
    assert (dataset.hash_rows(observation, action + 1) != hashes).all()
