"""How long the files of an archive are kept: what leads to a point of that time stays."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from netstore.disk import archivefile, archiveretention
from netstore.disk.archivefile import ArchiveWriter, listing
from netstore.disk.archiveretention import Outcome, Pace, Retention, newest_as_old, oldest_instant
from netstore.errors import NetstoreError, StateDamaged
from netstore.raft.entry import Entry, EntryKind
from netstore.state.envelope import seal
from netstore.types import ClusterId, Index, Term

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CLUSTER = ClusterId(0xC1)
STORE = "5a"
NOW = 1_000


@pytest.fixture(autouse=True)
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The states that were verified. All are good."""
    seen: list[Path] = []
    monkeypatch.setattr(archiveretention, "verify", seen.append)
    return seen


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[ArchiveWriter]:
    opened = ArchiveWriter.open(tmp_path / "a", CLUSTER, STORE)
    yield opened
    opened.close()


def add(writer: ArchiveWriter, first: int, walls: Sequence[int]) -> None:
    """A file of entries with these times, 0 for none."""
    writer.add(
        [
            Entry(
                Index(index), Term(1), EntryKind.NORMAL, seal(b"x", wall=wall, principal=b"") if wall else b""
            )
            for index, wall in enumerate(walls, first)
        ]
    )


def add_state(writer: ArchiveWriter, applied: int) -> None:
    def copy(file: int) -> Index:
        os.write(file, b"state")
        return Index(applied)

    writer.add_base(copy)


def filled(writer: ArchiveWriter, *states: int) -> Retention:
    """Files of ten entries, 1 to 100, each with its index as its time."""
    for first in range(1, 100, 10):
        add(writer, first, range(first, first + 10))
    for applied in states:
        add_state(writer, applied)
    return Retention(writer)


def held(writer: ArchiveWriter) -> tuple[list[int], list[int]]:
    """States, and the first entries of files; as they are in the folder too."""
    found = listing(writer.listing.folder)
    assert writer.listing == found
    return [base.applied for base in found.bases], [part.first for part in found.parts]


def test_what_leads_to_the_border_stays(writer: ArchiveWriter, verified: list[Path]) -> None:
    retention = filled(writer, 0, 35, 50, 58, 90)
    assert retention.run(0, NOW) == Outcome(), "all is kept"
    assert retention.oldest == 1
    # The state at 55 is that after entry 55: its file, and what leads there from the state at 50.
    assert retention.run(55, NOW) == Outcome(7)
    assert held(writer) == ([50, 58, 90], [51, 61, 71, 81, 91])
    assert retention.oldest == 51
    assert verified == [listing(writer.listing.folder).bases[0].path]
    assert retention.run(60, NOW) == Outcome()
    assert retention.run(100, NOW) == Outcome(2 + 4, is_state_old=True), "the newest state stays"
    assert held(writer) == ([90], [91])


def test_the_file_at_the_border_stays_for_its_times_though_a_state_covers_it(writer: ArchiveWriter) -> None:
    for first, walls in ((1, (1, 2)), (3, (3, 4)), (5, (500, 501))):
        add(writer, first, walls)
    for applied in (0, 3):
        add_state(writer, applied)
    retention = Retention(writer)
    assert retention.run(450, NOW) == Outcome(2)
    assert held(writer) == ([3], [3, 5])
    assert retention.oldest == 3, "at 450 the state is that after entry 4"


def test_nothing_goes_before_a_state_leads_to_the_border(writer: ArchiveWriter) -> None:
    retention = filled(writer)
    assert retention.run(55, NOW) == Outcome(), "there is no state, and none is needed"
    add_state(writer, 0)
    assert retention.run(55, NOW) == Outcome(is_state_old=True)
    add_state(writer, 100)
    assert retention.run(55, NOW) == Outcome(), "the new one leads to later points"
    assert held(writer) == ([0, 100], [*range(1, 100, 10)])
    assert retention.oldest == 1


def test_an_archive_without_its_beginning_begins_at_its_oldest_state(writer: ArchiveWriter) -> None:
    add(writer, 21, (0, 22, 0, 24))
    assert oldest_instant(writer.listing) == 0
    for applied, oldest in ((30, 0), (24, 24), (23, 22), (20, 22)):
        add_state(writer, applied)
        assert oldest_instant(writer.listing) == oldest, applied
    add(writer, 25, (25,))
    assert oldest_instant(writer.listing) == 22


def test_a_gap(writer: ArchiveWriter) -> None:
    add(writer, 1, range(1, 11))
    add_state(writer, 5)
    add(writer, 21, range(21, 31))
    retention = Retention(writer)
    assert retention.run(25, NOW) == Outcome(is_state_old=True), "the newest state stays, useless or not"
    add_state(writer, 24)
    assert retention.run(25, NOW) == Outcome(2)
    assert held(writer) == ([24], [21])
    assert (writer.listing.gaps, retention.oldest) == ([], 24)


def test_times_of_wrong_clocks_remove_nothing_that_is_kept(writer: ArchiveWriter) -> None:
    retention = filled(writer, 0, 15, 45)
    add(writer, 101, (3,))  # of a clock that was behind
    add_state(writer, 101)
    assert retention.run(55, 110) == Outcome(2 + 4)
    assert held(writer)[0] == [45, 101]
    add(writer, 102, (5_000,))  # of one that is ahead
    add(writer, 103, (120,))
    assert retention.run(105, 120) == Outcome(1 + 6)
    assert held(writer) == ([101], [101, 102, 103])
    add(writer, 104, (300,))
    add_state(writer, 104)
    add(writer, 105, (301,))
    assert retention.run(300, 310) == Outcome(1 + 3), "it is not kept until that time comes"
    assert retention.run(105, 310) == Outcome(), "a clock was set back"


def test_files_without_times_and_unreadable_ones_are_passed_over(writer: ArchiveWriter) -> None:
    retention = filled(writer, 0, 50, 95)
    add(writer, 101, (0, 0))
    found = writer.listing.parts
    found[6].path.write_bytes(b"damaged")
    found[7].path.unlink()
    border = newest_as_old(writer.listing, 85, NOW)
    assert border is not None
    assert border.first == 81
    border = newest_as_old(writer.listing, 75, NOW)
    assert border is not None
    assert border.first == 51, "what the files between have is not known"
    assert newest_as_old(writer.listing, 75, NOW, begin=100) is None
    assert retention.run(75, NOW) == Outcome(1 + 5)


@pytest.mark.parametrize("read_again", [False, True])
def test_a_damaged_state_is_told_and_what_is_older_stays(
    writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch, *, read_again: bool
) -> None:
    def damaged(path: Path) -> None:
        raise StateDamaged(f"{path}: a page is damaged")

    retention = filled(writer, *((0, 50, 58, 90) if read_again else (0, 50, 80)))
    with monkeypatch.context() as patched:
        patched.setattr(archiveretention, "verify", damaged)
        assert retention.run(55, NOW) == Outcome()
    assert held(writer)[1] == [*range(1, 100, 10)]
    ((path, words),) = writer.damaged.items()
    assert (path.name, "a page is damaged" in words) == ("0000000000000032.state", True)
    if read_again:
        assert retention.run(55, NOW) == Outcome(1 + 5)
        assert writer.damaged == {}, "it could not be read at that time"
        return
    assert retention.run(85, NOW) == Outcome(2 + 8, is_state_old=True), "the next one is good"
    assert writer.damaged == {}


def test_a_round_is_bounded_and_goes_on(writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiveretention, "REMOVED_FILES", 4)
    retention = filled(writer, 0, 10, 20, 91)
    assert retention.run(95, NOW) == Outcome(4, has_more=True)
    assert held(writer) == ([91], [*range(11, 100, 10)]), "states go first: none is left that leads nowhere"
    assert retention.run(95, NOW) == Outcome(4, has_more=True)
    assert retention.run(95, NOW) == Outcome(4, has_more=True)
    assert retention.run(95, NOW) == Outcome()
    assert held(writer) == ([91], [91])


def test_a_failure_to_remove_is_raised_and_what_went_is_known(
    writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = filled(writer, 0, 90)
    real = type(writer.listing.folder).unlink

    def refusing(self: Path, *, missing_ok: bool = False) -> None:
        if self.name.startswith("0000000000000015"):
            raise PermissionError(1, "Operation not permitted", str(self))
        real(self, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(type(writer.listing.folder), "unlink", refusing)
        with pytest.raises(PermissionError):
            retention.run(95, NOW)
    assert held(writer) == ([90], [*range(21, 100, 10)])
    assert retention.run(95, NOW).removed == 7


def test_files_are_not_removed_while_others_are_merged(
    writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = filled(writer, 0, 90)
    folder = type(writer.listing.folder)
    real = folder.unlink
    steps = 0

    def checked(self: Path, *, missing_ok: bool = False) -> None:
        nonlocal steps
        steps += 1
        assert writer._rewriting.locked()
        real(self, missing_ok=missing_ok)

    monkeypatch.setattr(folder, "unlink", checked)
    monkeypatch.setattr(archivefile, "_unfinished", _plain)
    assert retention.run(95, NOW).removed == steps == 10
    monkeypatch.setattr(archivefile, "MERGED_FILES", 3)
    add(writer, 101, (101,))
    add(writer, 102, (102,))
    assert [part.first for part in writer.listing.parts] == [91]
    assert steps == 10 + 3


@contextmanager
def _plain(path: Path) -> Iterator[int]:
    """A file that is written without removing another one."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    yield file
    os.close(file)


def test_a_clock_that_is_set_ahead_is_believed_when_all_before_it_is_old() -> None:
    second = 10**9
    pace = Pace(1_000 * second, 5.0)
    assert pace.read(1_000 * second, 5.0, 100) == 1_000 * second
    assert pace.read(1_010 * second, 20.0, 100) == 1_010 * second, "as the clock says"
    assert pace.read(5_000 * second, 30.0, 100) == 1_025 * second
    assert pace.ahead_seconds(5_000 * second, 30.0) == 3_975
    assert pace.read(1_030 * second, 40.0, 100) == 1_030 * second, "it was set back"
    assert pace.ahead_seconds(1_030 * second, 40.0) == 0
    for now in range(50, 150):
        assert pace.read((5_000 + now) * second, now, 100) == (995 + now) * second
    assert pace.read(5_150 * second, 150.0, 100) == 5_150 * second
    assert pace.read(9_160 * second, 160.0, 100) == 5_160 * second, "the next step"


def test_a_step_that_is_waited_for_does_not_hide_another_one() -> None:
    second = 10**9
    pace = Pace(1_000 * second, 0.0)
    assert pace.read(1_050 * second, 10.0, 100) == 1_010 * second
    assert pace.read(9_999 * second, 109.0, 100) == 1_109 * second
    assert pace.read(9_999 * second, 110.0, 100) == 1_150 * second
    assert pace.read(9_999 * second, 209.0, 100) == 1_249 * second


def test_a_later_format_is_raised(writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def later(_: Path) -> None:
        raise NetstoreError("is of format 9, this version reads 1: upgrade")

    retention = filled(writer, 0, 90)
    monkeypatch.setattr(archiveretention, "read_head", later)
    with pytest.raises(NetstoreError, match="of format 9"):
        retention.run(95, NOW)
    assert len(writer.listing.parts) == 10
