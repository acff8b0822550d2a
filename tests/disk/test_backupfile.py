"""The file of a full backup: what was written is read again, all else is refused with an offset."""

from __future__ import annotations

import io
import re
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c, u32
from netstore.disk.backupfile import BLOCK_BYTES, MAGIC, BackupReader, BackupWriter, Header, Kind, is_backup
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.entry import MAX_DATA_BYTES
from tests.support.dump import dump, dumped

HEADER = Header(
    id="00ff",
    cluster="c1",
    member="a",
    name="one",
    version="1",
    made="2026-01-31T04:05:06Z",
    index=7,
    revision=3,
    compacted=-1,
    v2_index=5,
    level=2,
)

Records = list[tuple[str, bytes, bytes]]


def written(records: Records, header: Header = HEADER) -> bytes:
    file = io.BytesIO()
    writer = BackupWriter(file, header)
    for record in records:
        writer.add(*record)
    digest = writer.finish()
    data = file.getvalue()
    assert data.endswith(digest)
    assert writer.size == len(data)
    return data


def read(data: bytes) -> tuple[BackupReader, Records]:
    reader = BackupReader(io.BytesIO(data), "FILE")
    return reader, list(reader.records())


@given(
    st.dictionaries(
        st.sampled_from(["v2", "v3", "leases"]),
        st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=3 * BLOCK_BYTES)), max_size=4),
    )
)
def test_what_is_written_is_read(tables: dict[str, list[tuple[bytes, bytes]]]) -> None:
    records = [(name, *pair) for name, pairs in tables.items() for pair in pairs]
    data = written(records)
    reader, found = read(data)
    assert found == records
    assert reader.header == HEADER
    assert reader.counts == {name: len(pairs) for name, pairs in tables.items() if pairs}
    assert reader.offset == len(data)
    assert is_backup(data)


SAMPLE = written(
    [("v2", b"/a", b"1"), ("v3", b"k", b"x" * 100_000), ("v3", b"l", b"y" * 70_000), ("v3", b"m", b"z")]
)


def test_the_digest_is_that_of_all_before_the_last_block() -> None:
    reader, _ = read(SAMPLE)
    last = SAMPLE.rindex(bytes((Kind.END,)) + b"\x02\x02v2\x01")
    assert sha256(SAMPLE[: last - 8]).digest() == reader.digest == SAMPLE[-32:]


@given(st.integers(min_value=0, max_value=len(SAMPLE) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_found(at: int, mask: int) -> None:
    damaged = bytearray(SAMPLE)
    damaged[at] ^= mask
    with pytest.raises(NetstoreError) as told:
        read(bytes(damaged))
    if at >= len(MAGIC):
        found = re.search(r"FILE: damaged at offset (\d+): ", str(told.value))
        assert isinstance(told.value, CorruptData)
        assert found is not None
        assert int(found[1]) <= at


@given(st.integers(min_value=0, max_value=len(SAMPLE) - 1))
def test_a_file_that_is_cut_is_refused(size: int) -> None:
    with pytest.raises(NetstoreError):
        read(SAMPLE[:size])


def test_what_follows_the_end_is_refused() -> None:
    with pytest.raises(CorruptData, match=f"offset {len(SAMPLE)}: something follows"):
        read(SAMPLE + b"\0")


def test_a_block_may_have_two_values_of_the_largest_entry() -> None:
    """An event of the v2 window has the new value and the one before. The file is cut, to spare memory."""
    start = written([])[: -8 - 2 - 32]
    largest = 2 * MAX_DATA_BYTES + BLOCK_BYTES
    with pytest.raises(CorruptData, match=f"cut short: 0 bytes of the block that begins there, of {largest}"):
        read(start + u32(largest) + u32(0))
    with pytest.raises(CorruptData, match=f"a block of {1 << 30} bytes"):
        read(start + u32(1 << 30) + u32(0))


def test_blocks_in_another_order_are_refused() -> None:
    data = written([("v3", b"a", b"x" * BLOCK_BYTES), ("v3", b"b", b"y" * BLOCK_BYTES)])
    starts = [len(MAGIC)]
    while starts[-1] < len(data):
        starts.append(starts[-1] + 8 + int.from_bytes(data[starts[-1] : starts[-1] + 4], "little"))
    _, first, second, third, _ = starts
    with pytest.raises(CorruptData, match=f"offset {first}: "):
        read(data[:first] + data[second:third] + data[first:second] + data[third:])


def test_a_later_format_is_named() -> None:
    header = b'{"format":2}'
    body = bytes((Kind.HEADER,)) + header
    block = u32(len(body)) + u32(crc32c(body, crc32c(u32(len(body)), crc32c(MAGIC)))) + body
    with pytest.raises(NetstoreError, match=r"in format 2, and this version reads up to 1: upgrade"):
        read(MAGIC + block)


def test_another_file_is_named() -> None:
    with pytest.raises(NetstoreError, match="is no backup of netstore"):
        read(b"\x7fELF" + b"\0" * 100)


def test_a_backup_is_as_documented() -> None:
    data = written([("v2_state", b"state", b"\x95"), ("v3", b"k", b"v")])
    assert dumped("format-backup.md", "## A worked dump") == data, f"it is\n{dump(data)}"
