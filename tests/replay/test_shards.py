"""Shards: what was flushed is there after any end, nothing twice, damage is named."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib

import jax
import numpy as np
import pytest

from learnmax_jax.replay import records, shards
from tests.replay import streams
from tests.replay.test_buffer import make

NUM_ENVS, CHUNK = 3, 4


def chunks(num: int) -> list:
    stream = streams.Stream(NUM_ENVS, 11, 9)
    return [stream.chunk(CHUNK) for _ in range(num)]


def assert_equal(one, other) -> None:
    for name, value in streams.fields(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name, strict=True)


def write(folder, play, *, start=0, records_per_shard=4) -> None:
    writer = shards.ShardWriter(folder, records_per_shard=records_per_shard, next_index=start)
    assert [writer.append(chunk) for chunk in play] == list(range(start, start + len(play)))
    writer.close()


def read(folder, start, stop, **options) -> dict:
    found = list(shards.ShardReader(folder, **options).read(start, stop))
    assert [index for index, _ in found] == sorted({index for index, _ in found})
    return dict(found)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_records_come_back_in_order_from_any_part(tmp_path):
    play = chunks(10)
    write(tmp_path, play)
    assert names(tmp_path) == ["shard-00000000.lmx", "shard-00000004.lmx", "shard-00000008.lmx"]
    assert shards.ShardReader(tmp_path).span() == (0, 10)
    for start, stop in ((0, 10), (3, 9), (4, 8), (5, 6), (7, 7)):
        found = read(tmp_path, start, stop)
        assert list(found) == list(range(start, stop))
        for index, chunk in found.items():
            assert_equal(play[index], chunk)


def test_writing_goes_on_in_the_same_shard(tmp_path):
    play = chunks(7)
    write(tmp_path, play[:3])
    write(tmp_path, play[3:], start=3)
    assert names(tmp_path) == ["shard-00000000.lmx", "shard-00000004.lmx"]
    for index, chunk in read(tmp_path, 0, 7).items():
        assert_equal(play[index], chunk)


@pytest.mark.parametrize("cursor", [0, 3, 4, 6, 9, 10])
def test_f34_records_after_the_cursor_are_dropped_and_none_is_doubled(tmp_path, cursor):
    play = chunks(20)
    write(tmp_path, play[:10])
    write(tmp_path, play[10:14], start=cursor)
    expected = play[:cursor] + play[10:14]
    assert shards.ShardReader(tmp_path).span() == (0, cursor + 4)
    for index, chunk in read(tmp_path, 0, cursor + 4).items():
        assert_equal(expected[index], chunk)


def test_f34_a_torn_tail_is_dropped_at_whatever_byte(tmp_path):
    play = chunks(4)
    write(tmp_path / "whole", play[:3])
    size = (tmp_path / "whole" / "shard-00000000.lmx").stat().st_size
    write(tmp_path / "two", play[:2])
    begin = (tmp_path / "two" / "shard-00000000.lmx").stat().st_size
    for cut in [*range(begin, begin + 50), *range(begin + 50, size, 97), size - 1]:
        folder = tmp_path / "torn"
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(folder / "shard-00000000.lmx", cut)
        assert shards.ShardReader(folder).span() == (0, 2)
        write(folder, play[3:4], start=2)
        found = read(folder, 0, 3)
        assert_equal(found[1], play[1])
        assert_equal(found[2], play[3])
        shutil.rmtree(folder)


CHILD = """
import sys
from learnmax_jax.replay import shards
from tests.replay import streams
folder, start = sys.argv[1], int(sys.argv[2])
stream = streams.Stream(3, 11, 9)
for _ in range(start):
    stream.chunk(4)
writer = shards.ShardWriter(folder, records_per_shard=50, next_index=start)
while True:
    for _ in range(7):
        index = writer.append(stream.chunk(4))
    writer.flush()
    print(index + 1, flush=True)
"""


def test_f34_kill_9_between_appends_loses_nothing_that_was_flushed(tmp_path):
    cursor = 0
    for delay in (0.0, 0.11, 0.23):
        child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path, str(cursor)], stdout=subprocess.PIPE)
        acknowledged = [int(child.stdout.readline())]
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert shards.ShardReader(tmp_path).span()[1] >= acknowledged[-1] > cursor
        cursor = acknowledged[-1]
    play = chunks(cursor + 1)
    write(tmp_path, play[cursor:], start=cursor, records_per_shard=50)
    found = read(tmp_path, 0, cursor + 1)
    for index, chunk in enumerate(play):
        assert_equal(found[index], chunk)
    with pytest.raises(ValueError, match="missing"):
        read(tmp_path, 0, cursor + 2)


def test_a_cursor_that_the_shards_do_not_reach_is_an_error_and_drops_nothing(tmp_path):
    play = chunks(10)
    write(tmp_path, play)
    before = names(tmp_path)
    with pytest.raises(ValueError, match="record 10: missing; the checkpoint stands at record 12"):
        shards.ShardWriter(tmp_path, records_per_shard=4, next_index=12)
    (tmp_path / "shard-00000004.lmx").unlink()
    with pytest.raises(ValueError, match="record 4: missing; the checkpoint stands at record 6"):
        shards.ShardWriter(tmp_path, records_per_shard=4, next_index=6)
    assert names(tmp_path) == [before[0], before[2]]


@pytest.mark.parametrize("changes", [{"records_per_shard": 0}, {"next_index": -1}])
def test_wrong_numbers_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.*Nearest"):
        shards.ShardWriter(tmp_path, **({"records_per_shard": 4, "next_index": 0} | changes))


@pytest.mark.filterwarnings("error")
def test_an_error_of_the_thread_is_raised_by_the_next_calls(tmp_path):
    play = chunks(3)
    folder = tmp_path / "gone"
    writer = shards.ShardWriter(folder, records_per_shard=4, next_index=0)
    folder.rmdir()
    writer.append(play[0])
    for call in (writer.flush, writer.flush, lambda: writer.append(play[1]), writer.close):
        with pytest.raises(FileNotFoundError):
            call()
    writer = shards.ShardWriter(tmp_path, records_per_shard=4, next_index=0)
    writer.append(play[0])
    writer.append(play[1].replace(reward=np.full_like(play[1].reward, np.nan)))
    with pytest.raises(ValueError, match="reward: holds a NaN"):
        writer.flush()
    with pytest.raises(ValueError, match="reward: holds a NaN"):
        writer.close()
    assert shards.ShardReader(tmp_path).span() == (0, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
def test_a_full_disk_is_raised_and_not_swallowed(tmp_path):
    writer = shards.ShardWriter(tmp_path, records_per_shard=4, next_index=0)
    writer.append(chunks(1)[0])
    writer.flush()
    writer._file.close()
    writer._file = open("/dev/full", "ab")
    writer.append(chunks(1)[0])
    with pytest.raises(OSError, match="No space left"):
        writer.close()


def test_a_closed_writer_and_other_shapes_are_refused(tmp_path):
    writer = shards.ShardWriter(tmp_path, records_per_shard=4, next_index=0)
    writer.append(chunks(1)[0])
    with pytest.raises(ValueError, match="differ from the first chunk's"):
        writer.append(streams.Stream(NUM_ENVS, 0, 5).chunk(CHUNK + 1))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append(chunks(1)[0])


def test_f28_any_flipped_byte_is_named_or_skipped(tmp_path):
    play = chunks(6)
    write(tmp_path, play, records_per_shard=3)
    path = tmp_path / "shard-00000003.lmx"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = np.arange(44)
    for at in [*header, *(header + len(whole) // 3), *rng.integers(0, len(whole), 60)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path}: record [345]: |{tmp_path}: record [345] .*missing"):
            read(tmp_path, 0, 6)
        reader = shards.ShardReader(tmp_path, skip_damaged=True)
        found = dict(reader.read(0, 6))
        assert reader.num_skipped == 1 == 6 - len(found)
        for index, chunk in found.items():
            assert_equal(play[index], chunk)


def test_f28_cut_short_and_empty_shards_are_named_or_skipped(tmp_path):
    play = chunks(6)
    write(tmp_path, play, records_per_shard=3)
    path = tmp_path / "shard-00000000.lmx"
    whole = path.read_bytes()
    for size in (0, 1, 43, 44, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"record [012]"):
            read(tmp_path, 0, 6)
        reader = shards.ShardReader(tmp_path, skip_damaged=True)
        found = dict(reader.read(0, 6))
        assert set(found) >= {3, 4, 5} and reader.num_skipped == 6 - len(found)
    assert list(read(tmp_path, 3, 6)) == [3, 4, 5]  # records that are not asked for do no harm


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("reward", np.nan, "reward: holds a NaN"),
        ("search_value", np.inf, "search_value: holds a NaN or an infinity"),
        ("action", streams.NUM_ACTIONS, r"action: out of range. Allowed: \[0, 3\)"),
        ("action", -1, "action: out of range"),
        ("discount", 1.5, "discount: out of range"),
    ],
)
def test_f28_values_that_no_play_has_are_refused_when_written_and_when_read(
    monkeypatch, tmp_path, field, value, message
):
    chunk = chunks(1)[0]
    bad = np.array(getattr(chunk, field))
    bad[1, 2] = value
    bad = chunk.replace(**{field: bad})
    with pytest.raises(ValueError, match=message):
        records.encode(0, bad)
    with monkeypatch.context() as patch:
        patch.setattr(records, "_check_values", lambda arrays: None)
        (tmp_path / "shard-00000000.lmx").write_bytes(records.encode(0, bad))
    with pytest.raises(ValueError, match=f"shard-00000000.lmx: record 0: {message}"):
        read(tmp_path, 0, 1)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"reward": chunks(1)[0].reward.astype(np.float64)}, "reward.dtype='<f8'"),
        ({"action": chunks(1)[0].action.astype(np.int64)}, "action.dtype='<i8'"),
        ({"reward": chunks(1)[0].reward[:, :2]}, "reward.shape"),
        ({"novelty_key": chunks(1)[0].novelty_key[..., :1]}, "novelty_key.shape"),
        ({"observation": np.zeros((3, 0, 2, 2, 1), np.uint8)}, "observation.shape"),
        ({"beta": np.array([[object()]])}, "beta.dtype='|O'"),
    ],
)
def test_f28_wrong_types_and_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        records.encode(0, chunks(1)[0].replace(**change))


def forge(path, *, table, payload=b"", payload_length=None, raw_length) -> None:
    """Writes a record whose checksums are right and whose contents are not."""
    table = table if isinstance(table, bytes) else json.dumps(table).encode()
    crc = zlib.crc32(table + payload)
    length = len(payload) if payload_length is None else payload_length
    path.write_bytes(records._pack_header(0, len(table), length, raw_length, crc) + table + payload)


def test_f28_a_sound_body_under_another_checksum_is_refused(tmp_path):
    path = tmp_path / "shard-00000000.lmx"
    path.write_bytes(records.encode(0, chunks(1)[0]))
    with open(path, "rb") as file:
        header = next(records.walk(file, path, 0)).header
    lengths = (header.table_length, header.payload_length, header.raw_length)
    head = records._pack_header(0, *lengths, header.body_crc ^ 1)
    path.write_bytes(head + path.read_bytes()[len(head) :])
    with pytest.raises(ValueError, match="record 0: checksum differs"):
        read(tmp_path, 0, 1)


def true_table() -> list:
    return [[name, value.dtype.str, list(value.shape)] for name, value in streams.fields(chunks(1)[0]).items()]


def test_s2_an_object_array_is_refused_before_its_bytes_are_looked_at(tmp_path):
    table = true_table()
    table[2][1] = "|O"
    forge(tmp_path / "shard-00000000.lmx", table=table, payload=zlib.compress(bytes(900)), raw_length=900)
    with pytest.raises(ValueError, match=r"record 0: reward.dtype='\|O'"):
        read(tmp_path, 0, 1)


@pytest.mark.parametrize(
    "case,message",
    [
        ("payload", "cut short: "),
        ("raw", "lengths .* cannot be"),
        ("shape", "action.shape=.*does not agree"),
        ("whole shape", "field table and length differ"),
        ("bomb", "payload's length differs"),
        ("nested table", "field table is no JSON"),
        ("long table", "lengths .* cannot be"),
    ],
)
def test_s6_a_false_length_is_refused_before_memory_is_taken(tmp_path, case, message):
    path = tmp_path / "shard-00000000.lmx"
    table, payload = true_table(), zlib.compress(bytes(1000))
    raw_length = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for _, dtype, shape in table)
    if case == "payload":
        forge(path, table=table, payload=payload, payload_length=2**40, raw_length=raw_length)
    elif case == "raw":
        forge(path, table=table, payload=payload, raw_length=2**40)
    elif case == "shape":
        table[0][2] = [2**20, 2**20, 2, 2, 1]
        forge(path, table=table, payload=payload, raw_length=raw_length)
    elif case == "whole shape":
        table = [[name, dtype, [2**20, 2**20, *shape[2:]]] for name, dtype, shape in table]
        forge(path, table=table, payload=payload, raw_length=raw_length)
    elif case == "bomb":  # holds far more than it says
        forge(path, table=table, payload=zlib.compress(bytes(50_000_000)), raw_length=raw_length)
    else:
        forge(
            path, table=b"[" * (50_000 if case == "nested table" else 100_000), payload=payload, raw_length=raw_length
        )
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"record 0: {message}"):
        read(tmp_path, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_s5_links_and_strange_names_are_refused(tmp_path):
    write(tmp_path / "true", chunks(2))
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "shard-00000000.lmx").symlink_to(tmp_path / "true" / "shard-00000000.lmx")
    for use in (
        lambda: read(folder, 0, 1),
        lambda: shards.ShardWriter(folder, records_per_shard=4, next_index=0),
        lambda: shards.delete_before(folder, 5),
    ):
        with pytest.raises(ValueError, match="is a link"):
            use()
    assert (tmp_path / "true" / "shard-00000000.lmx").exists()
    for name in ("shard-..00000.lmx", "shard-1.lmx", "shard-000000001.lmx"):
        other = tmp_path / name.strip(".")
        other.mkdir()
        (other / name).touch()
        with pytest.raises(ValueError, match="no shard's name"):
            read(other, 0, 1)


def test_only_whole_shards_that_are_not_needed_are_deleted(tmp_path):
    write(tmp_path, chunks(10))
    assert shards.delete_before(tmp_path, 3) == 0
    assert shards.delete_before(tmp_path, 7) == 1
    assert list(read(tmp_path, 4, 10)) == list(range(4, 10))
    with pytest.raises(ValueError, match="record 0 of those up to 4 is missing: no shard holds it"):
        read(tmp_path, 0, 10)
    assert shards.delete_before(tmp_path, 100) == 1  # the last one stays
    assert shards.ShardReader(tmp_path).span() == (8, 10)


def digest(rows) -> str:
    """One hash over all rows, shapes and dtypes of a ring."""
    total = hashlib.sha256()
    for name, value in streams.fields(rows).items():
        total.update(f"{name}{value.dtype}{value.shape}".encode() + value.tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("kind", ["uniform", "prioritised"])
@pytest.mark.parametrize("num_chunks", [0, 2, 6, 7, 15])  # the ring holds 6
def test_f35_a_refilled_ring_is_the_ring_that_was(tmp_path, kind, num_chunks):
    replay, add, sample = make(kind=kind)
    play = chunks(num_chunks)
    write(tmp_path, play)
    state = replay.init(streams.example(NUM_ENVS))
    for chunk in play:
        state = add(state, chunk)
    again = shards.refill(replay, replay.init(streams.example(NUM_ENVS)), shards.ShardReader(tmp_path), num_chunks)
    assert digest(again.rows) == digest(state.rows)
    assert again.num_added == state.num_added and again.num_added.dtype == state.num_added.dtype
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)  # nothing was reprioritised: the tree too
    if num_chunks > 6:
        one, other = sample(state, jax.random.key(0)), sample(again, jax.random.key(0))
        assert digest(one.rows) == digest(other.rows)


def test_f35_a_replay_that_is_not_on_disk_is_an_error(tmp_path):
    replay, _, _ = make()
    fresh = lambda: replay.init(streams.example(NUM_ENVS))  # noqa: E731
    with pytest.raises(ValueError, match="record 3 of those up to 9 is missing: no shard holds it"):
        shards.refill(replay, fresh(), shards.ShardReader(tmp_path), 9)
    write(tmp_path, chunks(9))
    with pytest.raises(ValueError, match=r"record 9 of those up to 11 is missing: .*shard-00000008.lmx ends before it"):
        shards.refill(replay, fresh(), shards.ShardReader(tmp_path), 11)
    (tmp_path / "shard-00000004.lmx").unlink()
    with pytest.raises(ValueError, match="record 4 of those up to"):
        shards.refill(replay, fresh(), shards.ShardReader(tmp_path), 9)
    with pytest.raises(ValueError, match="record 4: skipped as damaged"):
        shards.refill(replay, fresh(), shards.ShardReader(tmp_path, skip_damaged=True), 9)
    other, _, _ = make(num_envs=2, capacity=2 * 24)
    with pytest.raises(ValueError, match=r"record 0: shape=\(3, 4, 2, 2, 1\).*Allowed: \(2, 4, 2, 2, 1\)"):
        shards.refill(other, other.init(streams.example(2)), shards.ShardReader(tmp_path), 2)
