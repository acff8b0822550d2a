"""The summary record: its form and its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import Malformed
from netstore.disk.summary import Sum, Summary
from netstore.disk.tables import Tables
from netstore.errors import NetstoreError
from netstore.types import Index
from tests.disk.states import write

if TYPE_CHECKING:
    from pathlib import Path

u64 = st.integers(0, 2**64 - 1)

sums = st.dictionaries(st.text(max_size=9), st.builds(Sum, u64, u64), max_size=4)


@given(u64, st.binary(max_size=20), sums)
def test_a_summary_is_read_as_it_was_written_and_not_otherwise(
    applied: int, log: bytes, sums: dict[str, Sum]
) -> None:
    summary = Summary(Index(applied), log, sums)
    assert Summary.decode(summary.encode()) == summary
    for wrong in (summary.encode() + b"x", summary.encode()[:-1]):
        with pytest.raises(Malformed):
            Summary.decode(wrong)


def test_a_state_of_a_later_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    monkeypatch.setattr("netstore.disk.summary.FORMAT", 2)
    write(path, {("plain", b"a"): b"1"})
    monkeypatch.undo()
    with pytest.raises(NetstoreError, match="written in format 2, this version reads up to 1: upgrade"):
        Tables.read(path)
