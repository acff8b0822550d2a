"""The files that name entries which are skipped, and the one that ended the member."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.disk.skipped import read_skipped, read_stopped, write_skipped, write_stopped
from netstore.errors import CorruptData
from netstore.types import Index

if TYPE_CHECKING:
    from pathlib import Path


def test_skipped_entries_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert (read_skipped(tmp_path), read_stopped(tmp_path)) == ({}, {})
    write_skipped(tmp_path, {Index(3): "ab", Index(12): "cd"})
    write_stopped(tmp_path, Index(14), "ef")
    assert (read_skipped(tmp_path), read_stopped(tmp_path)) == ({3: "ab", 12: "cd"}, {14: "ef"})


@pytest.mark.parametrize(
    ("name", "fix"), [("skipped", "skip the entries"), ("stopped-at", "start the member")]
)
def test_a_damaged_list_is_refused(tmp_path: Path, name: str, fix: str) -> None:
    write_skipped(tmp_path, {Index(3): "ab"})
    write_stopped(tmp_path, Index(3), "ab")
    path = tmp_path / name
    path.write_bytes(path.read_bytes().replace(b"entry 3", b"entry 4"))
    with pytest.raises(CorruptData, match=f"{name}: damaged; nothing was changed: remove it and {fix}"):
        (read_skipped if name == "skipped" else read_stopped)(tmp_path)
