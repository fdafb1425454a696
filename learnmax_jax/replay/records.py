"""The bytes of one record: a chunk of transitions with its number and a checksum.

    header   magic, version, record number, lengths, checksum of the body, checksum of the header
    table    JSON: name, dtype, shape of each field of Transition, in that order
    payload  all fields `[E, T, ...]` in C order, one after the other, zlib level 1

Nothing in a record is executed or trusted: lengths are compared with the file before memory
is taken, the field table with the fields that a Transition has, values with their ranges.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from learnmax_jax.types import Transition

VERSION = 1
MAGIC = b"LMXR"
_HEADER = struct.Struct("<4sHHIQQQII")
_COMPRESSION_LEVEL = 1
# zlib cannot shrink by more than about 1032 : 1; a header that claims more is false.
_LARGEST_RATIO = 1100
_LARGEST_TABLE = 1 << 16
_DTYPES = {
    "observation": "|u1",
    "action": "<i4",
    "reward": "<f4",
    "discount": "<f4",
    "first": "|b1",
    "last": "|b1",
    "valid": "|b1",
    "episode_step": "<i4",
    "beta": "<f4",
    "search_policy": "<f2",
    "search_value": "<f4",
    "novelty_key": "<u4",
    "first_visit": "|b1",
}


@dataclasses.dataclass(frozen=True)
class Header:
    """What stands in front of a record.

    Attributes:
      index: the record's number, counted over the whole run.
      table_length, payload_length, raw_length: bytes; raw is the payload uncompressed.
      body_crc: crc32 of table and payload.
    """

    index: int
    table_length: int
    payload_length: int
    raw_length: int
    body_crc: int

    @property
    def body_length(self) -> int:
        """Bytes that follow the header."""
        return self.table_length + self.payload_length


@dataclasses.dataclass(frozen=True)
class Found:
    """A record, or a place where one should be, in a shard.

    Attributes:
      index: the record's number; at damage, the number that was due.
      position: of its first byte in the file.
      header: None where it is damaged.
      reason: what is wrong with it.
    """

    index: int
    position: int
    header: Header | None
    reason: str


def encode(index: int, transitions: Transition) -> bytes:
    """Packs one chunk.

    Args:
      index: the record's number.
      transitions: Transition `[E, T, ...]` of numpy arrays.
    Raises:
      ValueError: a field's dtype, shape or values are not what a Transition holds.
    """
    arrays = {name: np.asarray(getattr(transitions, name)) for name in _DTYPES}
    table = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    raw_length = _check_table(table)
    _check_values(arrays)
    table_bytes = json.dumps(table, separators=(",", ":")).encode()
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    pieces = [compressor.compress(np.ascontiguousarray(array).data) for array in arrays.values()]
    body = b"".join([table_bytes, *pieces, compressor.flush()])
    return _pack_header(index, len(table_bytes), len(body) - len(table_bytes), raw_length, zlib.crc32(body)) + body


def decode(header: Header, body: bytes) -> Transition:
    """Unpacks one chunk; numpy arrays `[E, T, ...]`, read-only.

    Raises:
      ValueError: the body is not what its header says, or not a chunk of transitions.
    """
    if zlib.crc32(body) != header.body_crc:
        raise ValueError("checksum differs")
    try:
        table = json.loads(body[: header.table_length])
    except (ValueError, RecursionError) as error:
        raise ValueError("field table is no JSON") from error
    if _check_table(table) != header.raw_length:
        raise ValueError("field table and length differ")
    decompressor = zlib.decompressobj()
    try:
        # One byte more than announced shows a payload that goes on, and no more than that is unpacked.
        raw = decompressor.decompress(body[header.table_length :], header.raw_length + 1)
    except zlib.error as error:
        raise ValueError("payload cannot be decompressed") from error
    if len(raw) != header.raw_length or not decompressor.eof or decompressor.unused_data:
        raise ValueError("payload's length differs")
    arrays: dict[str, Any] = {}
    position = 0
    for name, dtype, shape in table:
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(raw, dtype, count, position).reshape(shape)
        position += arrays[name].nbytes
    _check_values(arrays)
    return Transition(**arrays)


def walk(file: IO[bytes], path: Path, first_index: int) -> Iterator[Found]:
    """Finds a shard's records by their headers, without reading the bodies.

    After damage it goes on at the next sound header. A record that is cut short by the end of
    the file is damage too.
    """
    size = path.stat().st_size
    position, due = 0, first_index
    while position < size:
        file.seek(position)
        header, reason = _parse_header(file.read(_HEADER.size), size - position)
        if header is not None and header.index < due:
            reason = f"number {header.index} stands where {due} is due"
        if header is None or reason:
            yield Found(due, position, None, reason)
            position = _find_header(file, position + 1, size)
            continue
        yield Found(header.index, position, header, "")
        due = header.index + 1
        position += _HEADER.size + header.body_length


def read(file: IO[bytes], found: Found) -> Transition:
    """Reads and unpacks a record that `walk` found sound so far."""
    assert found.header is not None
    file.seek(found.position + _HEADER.size)
    return decode(found.header, file.read(found.header.body_length))


def _pack_header(index: int, table_length: int, payload_length: int, raw_length: int, body_crc: int) -> bytes:
    """Lays out a header; its own checksum stands last."""
    fields = (MAGIC, VERSION, 0, table_length, index, payload_length, raw_length, body_crc)
    return _HEADER.pack(*fields, zlib.crc32(_HEADER.pack(*fields, 0)))


def _parse_header(data: bytes, num_left: int) -> tuple[Header | None, str]:
    """Reads a header of a record that has `num_left` bytes of file, or says why it is none."""
    if len(data) < _HEADER.size:
        return None, "cut short in its header"
    magic, version, _, table_length, index, payload_length, raw_length, body_crc, header_crc = _HEADER.unpack(data)
    if magic != MAGIC:
        return None, "no record begins here"
    if zlib.crc32(data[:-4] + bytes(4)) != header_crc:
        return None, "header's checksum differs"
    if version != VERSION:
        return None, f"format version {version}, this program reads {VERSION}"
    header = Header(index, table_length, payload_length, raw_length, body_crc)
    if _HEADER.size + header.body_length > num_left:
        return None, f"cut short: {header.body_length} bytes announced, {num_left - _HEADER.size} in the file"
    if table_length > _LARGEST_TABLE or raw_length > _LARGEST_RATIO * payload_length:
        return None, f"lengths {table_length}, {payload_length}, {raw_length} cannot be"
    return header, ""


def _find_header(file: IO[bytes], position: int, size: int) -> int:
    """Finds the next sound header at or after `position`, else the end of the file."""
    file.seek(position)
    data = file.read()
    at = data.find(MAGIC)
    while at >= 0:
        if _parse_header(data[at : at + _HEADER.size], len(data) - at)[0] is not None:
            return position + at
        at = data.find(MAGIC, at + 1)
    return size


def _check_table(table: Any) -> int:
    """Compares a field table with Transition's fields; returns the bytes that it announces."""
    if not isinstance(table, list) or not all(isinstance(row, list) and len(row) == 3 for row in table):
        raise ValueError("field table is no list of name, dtype, shape")
    names = [row[0] for row in table]
    if names != list(_DTYPES):
        raise ValueError(f"fields={names}: not a Transition's. Allowed: {list(_DTYPES)}")
    total = 0
    for name, dtype, shape in table:
        if dtype != _DTYPES[name]:
            raise ValueError(f"{name}.dtype={dtype!r}: wrong type. Allowed: {_DTYPES[name]}")
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape) or len(shape) > 8:
            raise ValueError(f"{name}.shape={shape}: no shape of a field that holds something")
        num_axes = {"observation": len(shape), "search_policy": 3, "novelty_key": 3}.get(name, 2)
        if len(shape) != num_axes or shape[:2] != table[0][2][:2] or (name == "novelty_key" and shape[2] != 2):
            raise ValueError(f"{name}.shape={shape}: does not agree with observation.shape={table[0][2]}")
        count = np.dtype(dtype).itemsize
        for n in shape:
            count *= n
        total += count
    return total


def _check_values(arrays: dict[str, np.ndarray]) -> None:
    """Refuses what no environment and no search gives."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise ValueError(f"{name}: holds a NaN or an infinity")
        if array.dtype.kind == "b" and np.max(array.view(np.uint8)) > 1:
            raise ValueError(f"{name}: holds bytes that are no bool")
    num_actions = arrays["search_policy"].shape[2]
    if np.min(arrays["action"]) < 0 or np.max(arrays["action"]) >= num_actions:
        raise ValueError(f"action: out of range. Allowed: [0, {num_actions})")
    if np.min(arrays["discount"]) < 0 or np.max(arrays["discount"]) > 1:
        raise ValueError("discount: out of range. Allowed: [0, 1]")
