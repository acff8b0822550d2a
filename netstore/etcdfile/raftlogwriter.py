"""Writes the log and the v2 snapshot with which an etcd member begins (`raftlog` has the formats)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final

from netstore.codec import crc32c, prefixed, varint

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG_FILE: Final = f"{0:016x}-{0:016x}.wal"
"""Name of the first file of a log."""

_LENGTH: Final = Struct("<Q")
_METADATA, _STATE, _CRC, _SNAPSHOT = 1, 3, 4, 5


def snapshot_file(index: int, term: int) -> str:
    """Name of a v2 snapshot."""
    return f"{term:016x}-{index:016x}.snap"


def write_log(file: BinaryIO, member: int, cluster: int, index: int, term: int) -> None:
    """Write a log that begins after a snapshot at `index`, which is committed, to an empty file."""
    checksum = 0
    position = _number(1, index) + _number(2, term)
    for kind, data in (
        (_CRC, None),
        (_METADATA, _number(1, member) + _number(2, cluster)),
        (_SNAPSHOT, _number(1, 0) + _number(2, 0)),
        (_STATE, _number(1, term) + _number(2, member) + _number(3, index)),
        (_SNAPSHOT, position),
    ):
        checksum = crc32c(data or b"", checksum)
        record = _number(1, kind) + _number(2, checksum) + (b"" if data is None else _bytes(3, data))
        padding = -len(record) % 8
        length = len(record) | ((0x80 | padding) << 56 if padding else 0)
        file.write(_LENGTH.pack(length) + record + bytes(padding))


def snapshot(content: bytes, voters: Iterable[int], index: int, term: int) -> bytes:
    """The bytes of a v2 snapshot; `content` is the v2 store in JSON."""
    conf = b"".join(_number(1, each) for each in voters)
    metadata = _bytes(1, conf) + _number(2, index) + _number(3, term)
    inner = _bytes(1, content) + _bytes(2, metadata)
    return _number(1, crc32c(inner)) + _bytes(2, inner)


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + prefixed(value)
