"""What follows is asked for once in a while, before it is read, and never less than half a window ahead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from netstore.disk.readahead import AHEAD_BYTES, read_ahead

if TYPE_CHECKING:
    import pytest

PIECE = 32 * 1024


def test_each_read_finds_what_was_asked_for_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, at, size, _how: asked.append((at, at + size)))
    for at in range(0, 4 * AHEAD_BYTES, PIECE):
        read_ahead(3, at, PIECE)
        assert asked[-1][0] <= at
        assert asked[-1][1] >= at + PIECE + AHEAD_BYTES // 2
    assert len(asked) <= 9


def test_a_read_that_does_not_begin_at_the_start_asks_at_the_next_boundary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, at, _size, _how: asked.append(at))
    for at in range(1_000, AHEAD_BYTES, PIECE):
        read_ahead(3, at, PIECE)
    assert len(asked) == 2


def test_a_file_that_takes_no_advice_is_no_fault() -> None:
    reader, writer = os.pipe()
    try:
        read_ahead(reader, 0, PIECE)
    finally:
        os.close(reader)
        os.close(writer)
