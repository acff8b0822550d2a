"""A snapshot that is opened to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.disk.statefile import StateFile
from netstore.errors import NetstoreError, StateDamaged
from tests.disk.states import spoil, write

if TYPE_CHECKING:
    from pathlib import Path


def test_tables_are_read_in_ranges_and_long_keys_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"a"): b"1", ("plain", b"b"): b"2"}, {("plain", b"k" * 600): b"long"})
    with StateFile(path) as state:
        assert state.applied == 2
        assert list(state.scan("plain")) == [(b"a", b"1"), (b"b", b"2")]
        assert list(state.scan("plain", b"b")) == [(b"b", b"2")]
        assert list(state.scan("plain", b"", b"b")) == [(b"a", b"1")]
        assert list(state.scan("no such table")) == []


def test_a_damaged_record_is_not_returned(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"a"): b"intact", ("plain", b"b"): b"to be spoiled"})
    spoil(path, b"to be spoiled")
    with StateFile(path) as state:
        pairs = state.scan("plain")
        assert next(pairs) == (b"a", b"intact")
        with pytest.raises(StateDamaged, match="table plain, key b'b'"):
            next(pairs)


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no state" * 1000)
    with pytest.raises(NetstoreError, match="not a state that can be read"):
        StateFile(tmp_path / "x")
