"""What a stop has saved is read for that very state alone, and not if anything of it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.codec import Malformed
from netstore.disk import keptindex
from netstore.disk.summary import Sum, Summary
from netstore.types import Index

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY = Summary(Index(7), b"note", {"v3": Sum(3, 99), "v2": Sum(0, 0)})
HEAD, COLUMNS = b"head", [b"first column", b"", b"\0" * 9]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert keptindex.read(tmp_path, SUMMARY) is None
    assert not keptindex.is_kept(tmp_path, SUMMARY)
    keptindex.write(tmp_path, SUMMARY, HEAD, COLUMNS)
    assert keptindex.read(tmp_path, SUMMARY) == (HEAD, COLUMNS)
    assert keptindex.is_kept(tmp_path, SUMMARY)
    assert (tmp_path / keptindex.KEPT_FILE).stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [keptindex.KEPT_FILE]


@pytest.mark.parametrize(
    "other",
    [
        SUMMARY._replace(applied=Index(8)),
        SUMMARY._replace(log=b"other"),
        SUMMARY._replace(sums=SUMMARY.sums | {"v3": Sum(3, 98)}),
        SUMMARY._replace(sums=SUMMARY.sums | {"v2": Sum(1, 0)}),
        SUMMARY._replace(sums={"v3": Sum(3, 99)}),
    ],
)
def test_that_of_another_state_is_not_used(tmp_path: Path, other: Summary) -> None:
    keptindex.write(tmp_path, SUMMARY, HEAD, COLUMNS)
    assert keptindex.read(tmp_path, other) is None
    assert not keptindex.is_kept(tmp_path, other)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    keptindex.write(tmp_path, SUMMARY, HEAD, COLUMNS)
    file = tmp_path / keptindex.KEPT_FILE
    whole = file.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 0x80):
            file.write_bytes(whole[:at] + bytes((whole[at] ^ bit,)) + whole[at + 1 :])
            with pytest.raises(Malformed):
                keptindex.read(tmp_path, SUMMARY)


def test_a_file_that_is_cut_short_or_too_long_is_noticed(tmp_path: Path) -> None:
    keptindex.write(tmp_path, SUMMARY, HEAD, COLUMNS)
    file = tmp_path / keptindex.KEPT_FILE
    whole = file.read_bytes()
    for changed in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
        file.write_bytes(changed)
        with pytest.raises(Malformed):
            keptindex.read(tmp_path, SUMMARY)


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keptindex.write(tmp_path, SUMMARY, HEAD, COLUMNS)

    def full(_: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        keptindex.write(tmp_path, SUMMARY._replace(applied=Index(9)), HEAD, [])
    assert keptindex.read(tmp_path, SUMMARY) == (HEAD, COLUMNS)
    assert [each.name for each in tmp_path.iterdir()] == [keptindex.KEPT_FILE]
