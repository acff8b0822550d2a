"""The running checksum: the same as one of everything joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c
from netstore.state.checksum import LARGE_BYTES, RunningChecksum

if TYPE_CHECKING:
    import pytest


@given(
    st.lists(st.sampled_from([0, 1, 100, LARGE_BYTES - 1, LARGE_BYTES, 1 << 20, 0]), max_size=12),
    st.sets(st.integers(0, 12)),
)
def test_the_checksum_is_that_of_all_joined(sizes: list[int], asked: set[int]) -> None:
    checksum, everything = RunningChecksum(), b""
    for place, size in enumerate(sizes):
        data = bytes([place + 1]) * size
        checksum.add(b"taken back" * size)
        checksum.take_back()
        checksum.add(data)
        everything += data
        if place in asked:
            assert checksum.value == crc32c(everything)
    assert checksum.value == crc32c(everything)


def test_only_small_pieces_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def counted(data: bytes, start: int = 0) -> int:
        given.append(len(data))
        return crc32c(data, start)

    monkeypatch.setattr("netstore.state.checksum.crc32c", counted)
    checksum = RunningChecksum()
    for size in (1, 2, 3, LARGE_BYTES, 4, LARGE_BYTES + 1, LARGE_BYTES + 2, 5, 6):
        checksum.add(bytes(size))
    checksum.settle()
    assert given == [6, LARGE_BYTES, 4, LARGE_BYTES + 1, LARGE_BYTES + 2, 11]
