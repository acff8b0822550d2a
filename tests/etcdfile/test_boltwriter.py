"""The bbolt writer, read back by a simple reader; `tests/conformance` lets etcd's own tools read the file."""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.etcdfile.boltwriter import PAGE_BYTES, write

if TYPE_CHECKING:
    from collections.abc import Iterator

Pairs = dict[bytes, bytes]


class Reader:
    """Reads every page that is referenced, and records which those are."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.seen: set[int] = set()

    def buckets(self) -> dict[bytes, Pairs]:
        magic, version, page, _, root, _, freelist, pages, transaction = struct.unpack_from(
            "<IIIIQQQQQ", self.data, PAGE_BYTES + 16
        )
        assert (magic, version, page) == (0xED0CDAED, 2, PAGE_BYTES)
        assert pages * PAGE_BYTES == len(self.data)
        assert transaction == 2
        assert self.head(freelist) == (freelist, 0x10, 0, 0)
        self.seen |= {0, 1, freelist}
        found: dict[bytes, Pairs] = {}
        for name, value, flags in self.walk(root):
            assert flags == 1
            found[name] = {}
            for key, kept, inner in self.walk(struct.unpack("<QQ", value)[0]):
                assert inner == 0
                found[name][key] = kept
        assert self.seen == set(range(pages)), "every page is referenced"
        return found

    def head(self, number: int) -> tuple[int, int, int, int]:
        fields: tuple[int, int, int, int] = struct.unpack_from("<QHHI", self.data, number * PAGE_BYTES)
        return fields

    def walk(self, number: int) -> Iterator[tuple[bytes, bytes, int]]:
        own, kind, count, overflow = self.head(number)
        assert own == number
        pages = set(range(number, number + 1 + overflow))
        assert not pages & self.seen, "no page is used twice"
        self.seen |= pages
        start = number * PAGE_BYTES
        for element in range(start + 16, start + 16 + 16 * count, 16):
            if kind == 2:
                flags, at, key, value = struct.unpack_from("<IIII", self.data, element)
                begin = element + at
                yield self.data[begin : begin + key], self.data[begin + key : begin + key + value], flags
            else:
                assert kind == 1
                at, size, child = struct.unpack_from("<IIQ", self.data, element)
                below = list(self.walk(child))
                assert below[0][0] == self.data[element + at : element + at + size]
                yield from below


def written(buckets: dict[bytes, Pairs]) -> bytes:
    file = io.BytesIO()
    size = write(file, {name: sorted(pairs.items()) for name, pairs in buckets.items()})
    assert size == len(file.getvalue())
    return file.getvalue()


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=8),
        st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=3000), max_size=40),
        max_size=5,
    )
)
def test_what_was_written_is_read(buckets: dict[bytes, Pairs]) -> None:
    assert Reader(written(buckets)).buckets() == buckets


@pytest.mark.parametrize(("count", "key", "value"), [(20_000, 8, 8), (300, 2_500, 10), (3, 10, 1_000_000)])
def test_trees_of_several_levels(count: int, key: int, value: int) -> None:
    pairs = {number.to_bytes(key, "big"): bytes((number % 256,)) * value for number in range(count)}
    found = Reader(written({b"key": pairs})).buckets()
    assert found == {b"key": pairs}
    assert all(one < two for one, two in pairwise(found[b"key"]))


def test_both_metas_are_valid() -> None:
    data = written({b"a": {b"k": b"v"}})
    for number in (0, 1):
        start = number * PAGE_BYTES
        assert struct.unpack_from("<QHHI", data, start) == (number, 4, 0, 0)
        fields = data[start + 16 : start + 72]
        checksum = 0xCBF29CE484222325
        for byte in fields:
            checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
        assert struct.unpack_from("<Q", data, start + 72) == (checksum,)
        assert struct.unpack_from("<Q", fields, 48) == (number + 1,), "the second is the newer"
