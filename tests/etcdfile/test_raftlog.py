"""The log and the snapshots of an etcd member: read as written, and refused where they are damaged."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pytest

from netstore.codec import crc32c, prefixed, varint
from netstore.errors import CorruptData
from netstore.etcdfile.raftlog import DamagedEnd, RaftLog, read_snapshot
from netstore.etcdfile.raftlogwriter import LOG_FILE, snapshot, snapshot_file, write_log

if TYPE_CHECKING:
    from collections.abc import Sequence

METADATA, ENTRY, STATE, CRC, SNAPSHOT = 1, 2, 3, 4, 5


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + prefixed(value)


def entry(index: int, data: bytes = b"x", term: int = 1, kind: int = 0) -> tuple[int, bytes]:
    return ENTRY, number(1, kind) + number(2, term) + number(3, index) + data_field(4, data)


def state(commit: int) -> tuple[int, bytes]:
    return STATE, number(1, 1) + number(2, 7) + number(3, commit)


def mark(index: int, term: int = 1) -> tuple[int, bytes]:
    return SNAPSHOT, number(1, index) + number(2, term)


def file_of(records: Sequence[tuple[int, bytes]], before: int = 0) -> tuple[bytes, int]:
    """A file of a log, and the checksum after it."""
    parts: list[bytes] = []
    checksum = before
    for kind, data in ((CRC, b""), *records):
        checksum = crc32c(data, checksum)
        record = number(1, kind) + number(2, checksum) + data_field(3, data)
        padding = -len(record) % 8
        length = len(record) | ((0x80 | padding) << 56 if padding else 0)
        parts.append(struct.pack("<Q", length) + record + bytes(padding))
    return b"".join(parts), checksum


def log_of(*files: bytes, without_damaged_end: bool = False) -> RaftLog:
    named = [(f"w/{at:016x}-{at:016x}.wal", io.BytesIO(data)) for at, data in enumerate(files)]
    return RaftLog(named, without_damaged_end=without_damaged_end)


def contents(log: RaftLog, after: int = 0) -> list[tuple[int, bytes]]:
    return [(each.index, each.data) for each in log.entries(after)]


def test_what_the_writer_wrote_is_read() -> None:
    file = io.BytesIO()
    write_log(file, member=0xA, cluster=0xC, index=9, term=3)
    log = RaftLog([(LOG_FILE, file)])
    assert (log.member, log.cluster, log.commit, log.last) == (0xA, 0xC, 9, 9)
    assert log.snapshots == {(0, 0), (9, 3)}
    made = snapshot(b"{}", (0xA,), 9, 3)
    found = read_snapshot(io.BytesIO(made), snapshot_file(9, 3))
    assert (found.index, found.term, found.data) == (9, 3, b"{}")


def test_entries_in_several_files() -> None:
    first, checksum = file_of([(METADATA, number(1, 5) + number(2, 6)), mark(0, 0), entry(1), entry(2, b"b")])
    second, _ = file_of([(METADATA, number(1, 5) + number(2, 6)), entry(3, b"c"), state(2)], checksum)
    log = log_of(first + bytes(4096), second + bytes(100))
    assert contents(log) == [(1, b"x"), (2, b"b"), (3, b"c")]
    assert contents(log, 2) == [(3, b"c")]
    assert (log.first, log.last, log.commit, log.torn) == (1, 3, 2, "")


def test_an_entry_replaces_those_from_its_index_on() -> None:
    data, _ = file_of([entry(1), entry(2), entry(3), entry(2, b"new", term=2)])
    assert contents(log_of(data)) == [(1, b"x"), (2, b"new")]


def test_a_snapshot_from_the_leader_replaces_the_log() -> None:
    data, _ = file_of([entry(1), entry(2), mark(10), entry(11, b"k")])
    log = log_of(data)
    assert (log.first, log.last) == (11, 11)
    assert contents(log) == [(11, b"k")]


def test_an_entry_that_is_missing_is_told() -> None:
    data, _ = file_of([entry(1), entry(3)])
    with pytest.raises(CorruptData, match=r"0000.wal: offset \d+: entry 3 after entry 1"):
        log_of(data)


def test_a_file_that_is_missing_is_told() -> None:
    first, checksum = file_of([entry(1)])
    second, _ = file_of([entry(2)], checksum)
    files = [(f"w/{at:016x}-{at:016x}.wal", io.BytesIO(data)) for at, data in ((0, first), (2, second))]
    with pytest.raises(CorruptData, match=r"2\.wal: offset 0: the file of the log before it is missing"):
        RaftLog(files)
    with pytest.raises(CorruptData, match="the checksum of the file before it does not fit"):
        log_of(first, file_of([entry(2)], checksum ^ 1)[0])


def test_each_changed_byte_of_a_record_is_told_or_changes_nothing() -> None:
    data, _ = file_of([entry(1, b"abc"), entry(2, b"def"), state(2), entry(3, b"ghi")])
    whole = contents(log_of(data))
    later, _ = file_of([], 0)
    told = 0
    for at in range(len(data)):
        damaged = data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]
        try:
            found = contents(log_of(damaged, later))
        except CorruptData as error:
            told += 1
            place = str(error)
        else:
            place = "offset 0"
            assert found == whole[: len(found)], at
        assert "offset" in place
    assert told > len(data) * 2 // 3


def test_a_write_that_was_torn_is_left_out() -> None:
    data, _ = file_of([entry(1), entry(2)])
    last, _ = file_of([entry(1), entry(2), entry(3, b"z" * 2000)])
    torn = last[: len(data) + 700] + bytes(len(last) - len(data) - 700)
    log = log_of(torn)
    assert contents(log) == [(1, b"x"), (2, b"x")]
    assert log.torn == f"w/{0:016x}-{0:016x}.wal: offset {len(data)}"
    with pytest.raises(CorruptData, match=f"offset {len(data)}: the checksum does not fit"):
        log_of(last[: len(data) + 700] + b"y" * 8 + last[len(data) + 708 :])


def test_a_write_may_end_anywhere() -> None:
    """Where a crash stops a write of 2 KiB: the file ends there, or zeros follow from the next sector on."""
    data, _ = file_of([entry(1), entry(2)])
    last, _ = file_of([entry(1), entry(2), entry(3, b"z" * 2000)])
    for end in range(len(data) + 1, len(last)):
        assert contents(log_of(last[:end])) == [(1, b"x"), (2, b"x")], end
    for end in range(512, len(last), 512):
        log = log_of(last[:end].ljust(8192, b"\0"))
        assert contents(log) == [(1, b"x"), (2, b"x")], end
        assert log.torn.endswith(f"offset {len(data)}")


@pytest.mark.parametrize("size", range(420, 520, 8))
def test_a_write_may_end_within_the_head_of_a_record(size: int) -> None:
    """A record begins before the end of a sector, and goes on in one that was not written."""
    data, _ = file_of([entry(1, b"x" * size)])
    last, _ = file_of([entry(1, b"x" * size), entry(2, b"z" * 600)])
    end = -(-(len(data) + 1) // 512) * 512
    log = log_of(last[:end].ljust(4096, b"\0"))
    assert [index for index, _ in contents(log)] == [1]
    assert log.torn


MIDDLE = file_of([entry(1), entry(2)])[0]
"""The log before the record that is damaged."""

WHOLE = file_of([entry(1), entry(2), entry(3, b"z" * 2000), entry(4), state(4)])[0]


def _flipped(at: int, bit: int) -> bytes:
    place = len(MIDDLE) + at
    return WHOLE[:place] + bytes((WHOLE[place] ^ bit,)) + WHOLE[place + 1 :]


def _emptied(start: int, end: int) -> bytes:
    return WHOLE[:start] + bytes(end - start) + WHOLE[end:]


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(_flipped(1, 0x10), id="a length beyond the records that follow"),
        pytest.param(_flipped(3, 0x10), id="a length beyond the file"),
        pytest.param(_flipped(5, 0x10), id="a length beyond all files"),
        pytest.param(_emptied(512, 1024), id="a sector of zeros"),
        pytest.param(_emptied(len(MIDDLE), len(MIDDLE) + 8), id="no length"),
        pytest.param(_emptied(len(MIDDLE), len(MIDDLE) + 1600), id="sectors of zeros"),
    ],
)
def test_what_intact_records_follow_is_damage(damaged: bytes) -> None:
    """And not the last write: what follows may have been acknowledged."""
    file = damaged.ljust(65536, b"\0")
    lost = len(WHOLE.rstrip(b"\0")) - len(MIDDLE)
    with pytest.raises(DamagedEnd, match=rf"offset {len(MIDDLE)}: .* {lost} bytes of the log from there on"):
        log_of(file)
    log = log_of(file, without_damaged_end=True)
    assert contents(log) == [(1, b"x"), (2, b"x")]
    assert log.lost is not None
    assert (log.lost.place, log.lost.size, log.torn) == (f"w/{LOG_FILE}: offset {len(MIDDLE)}", lost, "")


@pytest.mark.parametrize(("at", "bit"), [(1, 0x10), (3, 0x10), (5, 0x10)])
def test_the_last_write_with_a_length_that_lies_is_damage(at: int, bit: int) -> None:
    """It is whole, so it may have been acknowledged."""
    before, _ = file_of([entry(1)])
    data, _ = file_of([entry(1), entry(2, b"z" * 100)])
    place = len(before) + at
    damaged = data[:place] + bytes((data[place] ^ bit,)) + data[place + 1 :]
    with pytest.raises(DamagedEnd, match=rf"offset {len(before)}: "):
        log_of(damaged.ljust(65536, b"\0"))


def test_a_damaged_end_is_that_of_the_last_file() -> None:
    data, checksum = file_of([entry(1), entry(2)])
    damaged = data[:-9] + b"\xff" * 9
    with pytest.raises(CorruptData, match=r"0\.wal: offset") as told:
        log_of(damaged, file_of([entry(3)], checksum)[0], without_damaged_end=True)
    assert not isinstance(told.value, DamagedEnd)


def test_a_damaged_snapshot_is_told() -> None:
    made = snapshot(b'{"Root":{}}', (1,), 9, 3)
    for damaged in (made[:-1], made[:20] + b"!" + made[21:], b"", b"\xff" * 20):
        with pytest.raises(CorruptData, match=r"a\.snap: offset 0"):
            read_snapshot(io.BytesIO(damaged), "a.snap")
