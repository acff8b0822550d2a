"""The archiver: entries and states get into the folder, and whatever the folder does, nobody waits for it."""

from __future__ import annotations

import errno
import os
import queue
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from netstore.disk import archivefile, archiveretention
from netstore.disk.archivefile import ArchiveWriter, listing, read_entries
from netstore.disk.datadir import DataDir, MemberIdentity
from netstore.errors import NetstoreError
from netstore.node import archive
from netstore.node.archive import Archiver
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.log import Log as RaftLog
from netstore.state.envelope import seal
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.links import Quiet
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLUSTER = ClusterId(0xC1)


class Source:
    """An engine whose state has applied one index."""

    def __init__(self) -> None:
        self.index = 1
        self.copies = 0

    def applied(self) -> Index:
        return Index(self.index)

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        done(None)

    def copy_to(self, file: int) -> Index:
        self.copies += 1
        os.write(file, b"state")
        return Index(self.index)

    def sizes(self) -> tuple[int, int]:
        return 5, 5


class Home:
    """A data folder that knows where its archive is."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.noted = ""

    def instance(self) -> str:
        return self.store

    def archive_folder(self) -> str:
        return self.noted

    def note_archive_folder(self, folder: Path) -> None:
        self.noted = str(folder)


class Member:
    """A log, and an archiver whose threads report to a queue."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        store: str = "5a",
        noted: str = "",
        home: DataDir | None = None,
    ) -> None:
        self.home = Home(store)
        self.home.noted = noted
        self.now = 100.0
        self.wall = 10**6
        self.ahead = 0
        """Nanoseconds that the times of new entries are ahead."""
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.raft = RaftLog(Index(0), Term(0), [])
        self.source = Source()
        self.folder = folder
        self.log = Quiet()
        self.archiver = Archiver(
            folder,
            CLUSTER,
            home or self.home,
            self.raft,
            self.source,
            lag_seconds=5.0,
            call_soon=self.calls.put,
            monotonic=lambda: self.now,
            wall=lambda: self.wall,
            log=self.log,
        )
        self.archiver._remove_at = float("inf")

    def write(self, number: int, size: int = 10) -> None:
        """Append and apply so many entries."""
        first = self.raft.last + 1
        entries = [
            Entry(Index(index), Term(1), EntryKind.NORMAL, seal(b"x" * size, wall=index + self.ahead))
            for index in range(first, first + number)
        ]
        self.raft.append(entries)
        last = entries[-1].index
        self.raft.commit = self.raft.applying = self.raft.applied = self.raft.handed = self.raft.persisted = (
            last
        )
        self.source.index = last

    def compact(self, index: int) -> None:
        self.raft.compact(Index(index))

    def look(self, reports: int = 1) -> None:
        """A round in which so many threads report."""
        self.archiver.look()
        for _ in range(reports):
            self.calls.get(timeout=seconds(20))()

    def settle(self) -> None:
        """Rounds until nothing is left to do."""
        for _ in range(50):
            self.now += 6.0
            self.archiver.look()
            while self.is_busy:
                self.calls.get(timeout=seconds(20))()
            if not self.archiver.waiting and self.archiver.listing.has_usable_base:
                return
        raise AssertionError(f"{self.archiver.waiting} entries wait: {self.archiver.problems()}")

    @property
    def is_busy(self) -> bool:
        archiver = self.archiver
        return archiver._busy_since is not None or archiver._makes_base or archiver._removes

    def stored(self) -> list[int]:
        return [each.entry.index for part in listing(self.folder).parts for each in read_entries(part.path)]


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    return Member(tmp_path / "archive", monkeypatch)


def test_entries_are_archived_within_their_lag_and_a_state_with_them(member: Member) -> None:
    assert member.archiver.needed() is None, "before the folder is open"
    member.look()
    member.write(10)
    member.look(reports=1)  # the state: entries wait for their lag
    assert (member.source.copies, member.stored(), member.archiver.waiting) == (1, [], 10)
    member.now += 5.0
    member.look(reports=1)
    assert member.stored() == list(range(1, 11))
    assert (member.archiver.archived, member.archiver.wall, member.archiver.waiting) == (10, 10, 0)
    assert member.archiver.needed() == 10
    assert [base.applied for base in member.archiver.listing.bases] == [10]
    member.write(archive.DUE_ENTRIES)
    member.look()
    assert member.archiver.waiting == 0, "many do not wait"
    assert member.archiver.problems() == []


def test_what_is_given_to_the_disk_at_once_is_bounded(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 3000)
    monkeypatch.setattr(archive, "DUE_ENTRIES", 1)
    monkeypatch.setattr(archivefile, "MERGED_FILES", 1000)
    member.look()
    member.write(5, size=900)
    member.settle()
    member.write(3, size=5000)
    member.settle()
    parts = [part.last - part.first + 1 for part in member.archiver.listing.parts]
    assert parts == [3, 2, 1, 1, 1]


def test_a_restarted_member_goes_on_where_the_archive_ends(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(7)
    member.settle()
    member.archiver.listing  # noqa: B018 - as a scrape
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    again = Member(member.folder, monkeypatch)
    again.look()
    assert again.archiver.archived == 7
    again.write(5)  # it replays its log
    again.now += 10.0
    again.look(reports=0)
    assert again.archiver.waiting == 0
    again.write(4)
    again.settle()
    assert again.stored() == list(range(1, 10))


def test_another_store_with_the_same_id_is_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    member.look()
    member.write(7)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    anew = Member(member.folder, monkeypatch)
    anew.write(5)
    anew.look()
    anew.look(reports=0)
    (problem,) = anew.archiver.problems()
    assert "ends with entry 7, and the log of this member with 5: if the store was begun anew" in problem
    assert anew.archiver.needed() == 6, "entry 7 is kept until it was compared"
    anew.write(1, size=3)
    anew.write(5, size=3)
    anew.now += 10.0
    anew.look()
    ArchiveWriter.open(member.folder, CLUSTER, "5a").close()  # it was given back to whose it is
    assert anew.archiver.problems() == [
        f"the log is not archived: {member.folder} has the archive of another store: name an empty folder"
    ]
    assert anew.archiver.needed() is None, "the log is not held up for it"
    anew.compact(9)
    anew.now += 10.0
    anew.look(reports=0)
    assert "another store" in anew.archiver.problems()[0], "also once the entry is compacted"
    assert anew.archiver.stopped
    early, late = anew.log.events("archive_refused")
    assert "the log of this member with 5" in early
    assert "has the archive of another store" in late, "each cause is logged once"
    (over,) = anew.log.events("archive_problem_over")
    assert "the log of this member with 5" in over
    assert anew.stored() == list(range(1, 8))
    assert anew.source.copies == 0


def test_a_cause_with_figures_that_change_is_told_once(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(50)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    anew = Member(member.folder, monkeypatch)
    anew.write(5)
    anew.look()
    for _ in range(20):
        anew.write(1)
        anew.look(reports=0)
    (refused,) = anew.log.events("archive_refused")
    assert "and the log of this member with 6" in refused
    assert anew.log.events("archive_problem_over") == []
    assert "and the log of this member with 25" in anew.archiver.problems()[0], "the status has them"


def test_a_lasting_want_of_room_is_told_once_while_the_state_grows(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(2)
    for gibibytes in range(1 << 32, (1 << 32) + 5):
        monkeypatch.setattr(member.source, "sizes", lambda size=gibibytes << 30: (size, 5))
        member.now += 6.0
        member.archiver._base_retry_at = 0.0
        member.archiver.look()
        while member.is_busy:
            member.calls.get(timeout=seconds(20))()
        member.look(reports=0)
    assert f"{((1 << 32) + 4) * 1024 + 65} MiB have to be free" in member.archiver.problems()[0]
    assert len(member.log.events("archive_state_not_written")) == 1
    assert member.log.events("archive_problem_over") == []


def test_each_damaged_file_is_told_once_and_many_as_one(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    for _ in range(archive.DAMAGED_TOLD + 3):
        member.write(1)
        member.settle()
    writer = member.archiver._writer
    assert writer is not None
    for part in member.archiver.listing.parts:
        part.path.write_bytes(part.path.read_bytes()[:-1] + b"\0")
        writer.damaged[part.path] = f"{part.path}: damaged at offset 84"
        member.look(reports=0)
    told = member.log.events("archive_damaged")
    assert len(told) == archive.DAMAGED_TOLD + 1
    assert "1 more files are damaged" in told[-1]
    assert "3 more files are damaged" in member.archiver.problems()[-1]
    writer._is_tidy = False
    writer.tidy()
    member.look(reports=0)
    assert "it was renamed to" in member.archiver.problems()[0]
    assert member.log.events("archive_damaged") == told, "a name is changed, and no other file is damaged"
    assert member.log.events("archive_problem_over") == []
    writer.damaged.clear()
    member.look(reports=0)
    assert len(member.log.events("archive_problem_over")) == len(told)


def test_the_archive_of_another_store_is_given_back_also_without_threads_at_first(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    member.look()
    member.write(7)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    anew = Member(member.folder, monkeypatch)
    anew.write(9, size=3)
    anew.look()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        anew.look(reports=0)
    with pytest.raises(NetstoreError, match="another member writes its archive there"):
        ArchiveWriter.open(member.folder, CLUSTER, "5a")
    anew.now += archive.RETRY_SECONDS
    anew.look()
    ArchiveWriter.open(member.folder, CLUSTER, "5a").close()
    assert "has the archive of another store" in anew.archiver.problems()[0]
    assert anew.archiver.needed() is None
    anew.look(reports=0)
    assert not anew.is_busy


@pytest.mark.parametrize("compacted", [7, 15])
@pytest.mark.parametrize("store", ["5a", "5b", ""])
def test_an_archive_whose_last_entry_was_compacted(
    member: Member, monkeypatch: pytest.MonkeyPatch, store: str, compacted: int
) -> None:
    member.look()
    member.write(7)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    if not store:
        (member.folder / "identity").unlink()  # as of an earlier release
    again = Member(member.folder, monkeypatch, store or "5c")
    again.write(20)
    again.compact(compacted)
    again.look()
    if store == "5b":
        again.look(reports=0)
        again.calls.get(timeout=seconds(20))()
        (problem,) = again.archiver.problems()
        assert "has the archive of another store: name an empty folder; if this member took the" in problem
        assert again.stored() == list(range(1, 8))
        assert again.archiver.needed() is None
        return
    again.settle()
    assert again.stored() == [*range(1, 8), *range(compacted + 1, 21)]
    assert f"store {store or '5c'}" in (member.folder / "identity").read_text()


def test_an_archive_of_the_member_that_this_one_replaced(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(7)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    again = Member(member.folder, monkeypatch, "5b")
    again.write(10)
    again.look()
    again.settle()
    assert again.stored() == list(range(1, 11)), "its last entry is in this log"
    assert "store 5b" in (member.folder / "identity").read_text()
    assert again.archiver._writer is not None
    again.archiver._writer.close()
    for part in again.archiver.listing.parts:
        part.path.unlink()
    third = Member(member.folder, monkeypatch, "5c")
    third.write(3)
    third.look()
    third.look(reports=0)
    assert "another store" in third.archiver.problems()[0], "it has a state"


def test_a_gap_gets_a_new_state(member: Member) -> None:
    member.look()
    member.write(10)
    member.settle()
    member.write(10)
    member.compact(15)
    member.settle()
    assert member.archiver.listing.gaps == [(11, 15)]
    assert [base.applied for base in member.archiver.listing.bases] == [10, 20]
    assert member.stored() == [*range(1, 11), *range(16, 21)]
    assert member.archiver.problems() == []


def test_a_folder_that_cannot_be_written_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Member(tmp_path / "mount" / "archive", monkeypatch)
    member.look()
    (problem,) = member.archiver.problems()
    assert problem.startswith("the log is not archived: ")
    assert problem.endswith("No such file or directory")
    member.write(3)
    member.look(reports=0)
    assert member.archiver.needed() is None, "the log is not held up for it"
    (tmp_path / "mount").mkdir()
    member.settle()
    assert (member.archiver.problems(), member.stored()) == ([], [1, 2, 3])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(archivefile, "_write_synced", full)
        member.write(3)
        member.now += 1.0
        member.look(reports=0)
        member.now += 6.0
        member.look()
        assert member.archiver.problems() == [
            f"the log is not archived: {member.folder}: No space left on device"
        ]
        assert member.archiver.needed() is None
    member.settle()
    assert member.stored() == list(range(1, 7))
    member.look(reports=0)
    missing, is_full = member.log.events("archive_not_written")
    assert ("No such file" in missing, "No space left" in is_full) == (True, True), "each once"
    assert len(member.log.events("archive_problem_over")) == 2
    assert not member.archiver.stopped


def test_an_archive_that_does_not_keep_up_is_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_ENTRIES", 1)
    member.look()
    member.write(2)
    member.settle()
    assert member.archiver.lag_seconds() == 0
    member.write(100)
    member.look(reports=0)
    for _ in range(14):
        member.now += 5.0
        member.write(100)
        member.look()
    (problem,) = member.archiver.problems()
    assert problem.startswith("the archive is 70 s behind: 1486 entries wait, and ")
    assert len(member.log.events("archive_behind")) == 1
    assert member.archiver.needed() == member.archiver.archived, "what waits stays in the log"
    monkeypatch.setattr(archive, "MOST_ENTRIES", 5_000)
    member.look()
    member.look(reports=0)
    assert (member.archiver.problems(), member.archiver.lag_seconds()) == ([], 0)
    (over,) = member.log.events("archive_problem_over")
    assert "archive_behind" in over


def test_a_folder_of_which_each_write_seems_stuck_is_told_as_behind_too(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_ENTRIES", 1)
    member.look()
    member.write(2)
    member.settle()
    member.write(100)
    member.look(reports=0)
    for _ in range(5):
        member.archiver.look()
        member.now += archive.SLOW_SECONDS + 40.0
        member.archiver.look()
        while member.is_busy:
            member.calls.get(timeout=seconds(20))()
    member.archiver.look()
    assert len(member.log.events("archive_stuck")) > 1
    assert len(member.log.events("archive_behind")) == 1


def test_what_waits_because_nothing_can_be_archived_is_not_told_as_slow(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    member.look()
    member.write(2)
    member.settle()
    member.write(10)
    with monkeypatch.context() as patched:
        patched.setattr(ArchiveWriter, "add", full)
        for _ in range(20):
            member.now += archive.RETRY_SECONDS
            member.archiver.look()
            while member.is_busy:
                member.calls.get(timeout=seconds(20))()
    assert member.archiver.lag_seconds() > archive.SLOW_SECONDS + 5
    member.look(reports=0)
    member.settle()
    member.look(reports=0)
    begun, over = [event for event, _ in member.log.lines if event.startswith("archive_")][-2:]
    assert (begun, over) == ("archive_not_written", "archive_problem_over")
    assert member.log.events("archive_behind") == []


def test_without_threads_and_memory_the_member_goes_on(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        member.look(reports=0)
        assert "no thread can be started" in member.archiver.problems()[0]
    member.now += archive.RETRY_SECONDS
    member.look()
    member.write(archive.DUE_ENTRIES)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        member.look(reports=0)
        assert "no thread can be started" in member.archiver.problems()[0]
    with monkeypatch.context() as patched:
        patched.setattr(member.source, "sync", no_memory)
        member.now += archive.RETRY_SECONDS
        member.look()
        assert not member.archiver._makes_base
    with monkeypatch.context() as patched:
        patched.setattr(RaftLog, "between", no_memory)
        patched.setattr(member.log, "warning", no_memory)
        member.write(archive.DUE_ENTRIES)
        member.now += archive.RETRY_SECONDS
        member.look(reports=0)
        assert "not enough memory" in member.archiver.problems()[0]
    told = member.log.events("archive_not_written")
    member.look(reports=0)
    (later,) = member.log.events("archive_not_written")[len(told) :]
    assert "not enough memory" in later, "it is told once there is memory for that"
    member.settle()
    assert (member.archiver.problems(), member.archiver.waiting) == ([], 0)


def test_a_damaged_file_is_told_and_archiving_goes_on(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archivefile, "MERGED_FILES", 3)
    member.look()
    for _ in range(2):
        member.write(1)
        member.settle()
    path = member.archiver.listing.parts[0].path
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    for _ in range(4):
        member.write(1)
        member.settle()
    (problem,) = member.archiver.problems()
    assert problem.startswith("the archive is damaged, and nothing is restored across that: ")
    assert path.name in problem
    assert member.archiver.needed() == member.archiver.archived == 6
    assert member.archiver.listing.last == 6


def test_a_write_that_hangs_is_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    member.look()
    member.write(3)
    member.settle()
    goes_on = threading.Event()
    real = ArchiveWriter.add

    def hanging(self: ArchiveWriter, entries: list[Entry]) -> int:
        assert goes_on.wait(seconds(20))
        return real(self, entries)

    monkeypatch.setattr(ArchiveWriter, "add", hanging)
    member.write(archive.DUE_ENTRIES)
    member.look(reports=0)
    assert member.archiver.problems() == []
    member.now += archive.SLOW_SECONDS + 1
    assert member.archiver.problems() == [
        f"the log is not archived: a write to {member.folder} has taken 61 s so far"
    ]
    assert member.archiver.needed() is None
    member.look(reports=0)
    assert "has taken more than 60 s" in member.log.events("archive_stuck")[0]
    goes_on.set()
    member.calls.get(timeout=seconds(20))()
    assert (member.archiver.problems(), member.archiver.waiting) == ([], 0)
    member.look(reports=0)
    assert "archive_stuck" in member.log.events("archive_problem_over")[0]


def test_a_state_that_takes_long_is_told_and_entries_are_archived_meanwhile(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    real = member.source.copy_to

    def hanging(file: int) -> Index:
        assert goes_on.wait(seconds(20))
        return real(file)

    monkeypatch.setattr(member.source, "copy_to", hanging)
    member.look()
    member.write(3)
    member.look(reports=0)
    member.now += 5.0
    member.look()
    assert member.stored() == [1, 2, 3]
    member.now += archive.LONG_SECONDS - 5.0
    assert member.archiver.problems() == []
    member.now += 1.0
    assert member.archiver.problems() == [
        f"a state is being archived for 601 s so far: {member.folder} does not answer, or is slow"
    ]
    assert member.archiver.needed() == 3, "it is archived as before"
    goes_on.set()
    member.calls.get(timeout=seconds(20))()
    assert (member.archiver.problems(), len(member.archiver.listing.bases)) == ([], 1)


def test_a_state_that_cannot_be_copied_is_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise ValueError("a broken copy")

    with monkeypatch.context() as patched:
        patched.setattr(member.source, "copy_to", broken)
        member.look()
        member.write(2)
        member.look()
        assert "a broken copy" in member.archiver.problems()[0]
    member.settle()
    assert member.archiver.listing.bases


def test_a_state_that_fails_is_tried_again_after_longer_and_longer_pauses(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def given_up(_: int) -> None:
        tries.append(member.now)
        raise OSError(errno.EAGAIN, "the copy was given up")

    member.look()
    member.write(2)
    with monkeypatch.context() as patched:
        patched.setattr(member.source, "copy_to", given_up)
        for _ in range(5_000):
            member.now += 5.0
            member.archiver.look()
            while member.is_busy:
                member.calls.get(timeout=seconds(20))()
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:4] == [10.0, 20.0, 40.0, 80.0]
    assert pauses[-1] == archive.LONGEST_RETRY_SECONDS
    member.now += archive.LONGEST_RETRY_SECONDS
    member.settle()
    assert member.archiver._base_pause == archive.RETRY_SECONDS


def test_a_folder_without_room_for_a_state_is_left_to_the_entries(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(2)
    with monkeypatch.context() as patched:
        patched.setattr(member.source, "sizes", lambda: (1 << 62, 5))
        member.look()
        member.now += 6.0
        member.look()
        (problem,) = member.archiver.problems()
        assert problem.startswith(f"the state is not archived: {member.folder}: no room for a state, ")
        assert (member.source.copies, member.stored(), member.archiver.needed()) == (0, [1, 2], 2)
    member.now += archive.RETRY_SECONDS
    member.settle()
    assert (member.archiver.problems(), member.source.copies) == ([], 1)


def test_an_idle_member_tells_that_its_folder_is_away(member: Member, tmp_path: Path) -> None:
    member.look()
    member.write(3)
    member.settle()
    member.folder.rename(tmp_path / "away")
    member.folder.mkdir()
    member.now += archive.PLACE_SECONDS
    member.look()
    (problem,) = member.archiver.problems()
    assert "another folder lies there" in problem
    member.folder.rmdir()
    (tmp_path / "away").rename(member.folder)
    member.now += archive.RETRY_SECONDS
    member.look()
    assert member.archiver.problems() == []
    member.now += 1.0
    member.look(reports=0)
    assert not member.is_busy, "it is looked at times only"


def test_the_folder_is_looked_at_while_entries_wait_for_a_long_lag(member: Member, tmp_path: Path) -> None:
    member.look()
    member.write(3)
    member.settle()
    member.archiver._lag = 3600.0
    member.write(1)
    member.look(reports=0)
    member.folder.rename(tmp_path / "away")
    member.folder.mkdir()
    member.now += archive.PLACE_SECONDS
    member.look()
    assert member.archiver.waiting == 1
    (problem,) = member.archiver.problems()
    assert "another folder lies there" in problem
    assert "for a new archive name another folder, or empty this one" in problem


def test_a_member_restarted_while_its_archive_is_away_begins_no_new_one(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarted(folder: Path = member.folder) -> Member:
        again = Member(folder, monkeypatch, noted=member.home.noted)
        again.write(5)
        again.look()
        return again

    member.look()
    assert member.home.noted == str(member.folder), "from the start on"
    member.write(3)
    member.settle()
    assert member.archiver._writer is not None
    member.archiver._writer.close()
    away = tmp_path / "away"
    member.folder.rename(away)
    for is_there in (False, True):
        if is_there:
            member.folder.mkdir()
        again = restarted()
        (problem,) = again.archiver.problems()
        assert "the archive that this member wrote there is gone: mount or move it back" in problem
        again.look(reports=0)
        assert again.log.events("archive_not_written")
        assert not is_there or list(member.folder.iterdir()) == []
    member.folder.rmdir()
    away.rename(member.folder)
    again.now += archive.RETRY_SECONDS
    again.settle()
    assert (again.stored(), again.archiver.problems()) == ([1, 2, 3, 4, 5], []), "it goes on once it is back"
    assert again.archiver._writer is not None
    again.archiver._writer.close()

    moved = tmp_path / "moved"
    member.folder.rename(moved)
    again = restarted(moved)
    assert (again.archiver.archived, again.home.noted) == (5, str(moved)), "it was moved, and its path named"
    elsewhere = restarted(tmp_path / "elsewhere")
    assert (elsewhere.archiver.problems(), elsewhere.home.noted) == ([], str(elsewhere.folder))

    member.folder.mkdir()
    (member.folder / "new").touch()
    anew = restarted()
    anew.settle()
    assert (anew.archiver.problems(), (member.folder / "new").exists()) == ([], False), "it was asked for"
    assert anew.archiver._writer is not None
    anew.archiver._writer.close()
    for path in (*member.folder.glob("*.entries"), *member.folder.glob("*.state")):
        path.unlink()
    (problem,) = restarted().archiver.problems()
    assert "has no file of the archive that this member began there" in problem, "its identity is left"


@pytest.mark.parametrize("is_old", [False, True])
def test_an_archive_in_the_data_folder_itself_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_old: bool
) -> None:
    """Also that of a data folder that does not keep yet where its archive is."""
    data = tmp_path / "data"
    for number in (1, 2, 3):
        home = DataDir.lock(data)
        if home.found is None:
            home.adopt(MemberIdentity(CLUSTER, NodeId(1), "one"))
        member = Member(data / "archive", monkeypatch, home=home)
        member.write(3 * number)
        member.settle()
        assert (member.archiver.problems(), home.archive_folder()) == ([], str(data / "archive"))
        assert member.stored() == list(range(1, 3 * number + 1))
        assert member.archiver._writer is not None
        member.archiver._writer.close()
        home.close()
        if is_old:
            (data / "archive-place").unlink()


def test_the_place_of_a_state_is_told_before_its_room(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.look()
    member.write(2)
    monkeypatch.setattr(member.source, "sizes", lambda: (1 << 62, 5))
    member.folder.rename(tmp_path / "away")
    member.folder.mkdir()
    member.look()
    (problem,) = member.archiver.problems()
    assert problem.startswith("the state is not archived: ")
    assert "another folder lies there" in problem


def test_a_write_for_which_there_is_no_memory_does_not_seem_to_be_under_way(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(archive, "start_thread", no_memory)
        member.look(reports=0)
        assert "not enough memory" in member.archiver.problems()[0]
    member.write(3)
    member.now += archive.RETRY_SECONDS
    member.settle()
    assert member.stored() == [1, 2, 3]


def retained(member: Member, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Old files are removed; entries have their index as their time, and the last 20 are kept."""
    verified: list[Path] = []
    monkeypatch.setattr(archiveretention, "verify", verified.append)
    member.archiver.keep_seconds = 20 / 1e9
    member.look()
    return verified


def remove_now(member: Member) -> None:
    member.archiver._remove_at = 0.0
    member.look()
    member.archiver._remove_at = float("inf")


def test_what_is_too_old_is_removed_and_states_are_made_for_that(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = retained(member, monkeypatch)
    for _ in range(4):
        member.write(10)
        member.settle()
    assert [base.applied for base in member.archiver.listing.bases] == [10]
    remove_now(member)
    assert (member.archiver.removed, member.archiver.oldest) == (1, 11), "the state at 10 leads to 20"
    member.look()  # the newest state is older than that, so there is a new one
    assert [base.applied for base in member.archiver.listing.bases] == [10, 40]
    member.look(reports=0)
    for _ in range(2):
        member.write(10)
        member.settle()
    remove_now(member)
    assert (member.archiver.removed, member.archiver.oldest) == (1, 11), "the state at 40 does not lead to 39"
    member.write(10)
    member.settle()
    remove_now(member)
    assert [path.name[-8:] for path in verified] == ["0a.state", "28.state"]
    assert (member.archiver.removed, member.archiver.oldest) == (1 + 1 + 3, 41)
    assert member.stored() == list(range(41, 71))
    assert member.archiver.problems() == []


def test_nothing_is_removed_where_all_is_kept_or_the_clock_is_ahead(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    retained(member, monkeypatch)
    for _ in range(5):
        member.write(10)
        member.settle()
        member.source.copies = 0
    member.archiver.keep_seconds = 0
    remove_now(member)
    member.archiver.keep_seconds = 60 / 1e9
    member.wall = 10**18
    remove_now(member)
    assert (member.archiver.removed, member.archiver.oldest, len(member.archiver.listing.parts)) == (0, 1, 5)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_goes_ahead_removes_nothing_before_its_time(
    member: Member, monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    retained(member, monkeypatch)
    member.wall = 10**18
    keep = member.archiver.keep_seconds = 1_000.0
    for _ in range(4):
        member.write(10)
        member.settle()
        remove_now(member)
    log = member.archiver._log
    if restarted:
        assert member.archiver._writer is not None
        member.archiver._writer.close()
        raft, source, now = member.raft, member.source, member.now
        member = Member(member.folder, monkeypatch)
        member.raft, member.source, member.now, member.wall = raft, source, now, 10**18
        member.archiver._raft, member.archiver._source, member.archiver._log = raft, source, log
        member.archiver.keep_seconds = keep
        member.look()
    member.ahead = 30 * 86400 * 10**9
    told: list[str] = []
    monkeypatch.setattr(log, "warning", lambda event, **_: told.append(event))
    for _ in range(3):
        member.write(10)
        member.settle()
        remove_now(member)
    member.settle()
    assert told == ["archive_clock_went_ahead"]
    assert member.archiver.removed == 0
    assert member.stored() == list(range(1, 71))
    member.archiver._base_at = -archive.BASE_ENTRIES  # a state that leads to what follows
    member.look()
    member.now += keep
    remove_now(member)
    member.now += keep
    member.write(10)
    member.settle()
    remove_now(member)
    assert member.archiver.removed, "it is believed"
    assert told == ["archive_clock_went_ahead"]


def test_an_oldest_file_that_cannot_be_read_is_told_where_nothing_is_removed(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, *_: object) -> None:
        raise NetstoreError(f"{path.name}: cannot be read: Input/output error")

    member.look()
    member.write(3)
    member.settle()
    with monkeypatch.context() as patched:
        patched.setattr(archiveretention, "read_head", refusing)
        remove_now(member)
    (problem,) = member.archiver.problems()
    assert problem.startswith("how far back the archive leads is not known: ")
    assert problem.endswith(".entries: cannot be read: Input/output error")
    remove_now(member)
    assert (member.archiver.problems(), member.archiver.oldest) == ([], 1)


def test_files_that_cannot_be_removed_are_told(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    retained(member, monkeypatch)
    for _ in range(4):
        member.write(10)
        member.settle()

    def refusing(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted", "1.entries")

    with monkeypatch.context() as patched:
        patched.setattr(ArchiveWriter, "remove", refusing)
        remove_now(member)
    assert member.archiver.problems() == [
        "old files of the archive are not removed: 1.entries: Operation not permitted"
    ]
    assert member.archiver.needed() == 40, "it is archived as before"
    remove_now(member)
    assert (member.archiver.problems(), member.archiver.removed) == ([], 1)

    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    member.archiver._remove_at = 0.0
    member.look(reports=0)
    assert "no thread can be started" in member.archiver.problems()[0]
    assert not member.archiver._removes
