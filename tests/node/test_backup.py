"""Copies of the state as bbolt files: what is in them, one at a time, and what can go wrong."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lmdb
import msgspec
import pytest

from netstore.disk import closer
from netstore.disk.backupfile import LogPart
from netstore.disk.logpart import MOST_ENTRIES, joined, piece_of
from netstore.disk.statefile import StateFile
from netstore.disk.threads import start_thread
from netstore.errors import Fault, Reason
from netstore.etcdfile.boltreader import Database
from netstore.node import backup
from netstore.node.backup import BoltCopy, FullCopy, buckets, log_part
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.log import Log as RaftLog
from netstore.state.commands import PublishMember, RemoveMember, SetClusterVersion
from netstore.state.envelope import seal
from netstore.state.v3 import commands as v3
from netstore.types import Index, Term
from tests.support.backups import Place
from tests.support.closing import held, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.closer.stop()
    place.engine.close()


def revision(main: int, sub: int = 0, end: bytes = b"") -> bytes:
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + end


def test_a_sync_without_memory_does_not_leave_a_backup_under_way_for_ever(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short() -> bytes:
        raise MemoryError

    place.apply(v3.Put(b"a", b"1"))
    monkeypatch.setattr(place.engine, "log_position", short)
    with pytest.raises(MemoryError):
        place.backups.make(lambda _: None)
    monkeypatch.setattr(place.engine, "log_position", bytes)
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    copy.close()


def test_the_contents_of_a_backup(place: Place) -> None:
    place.apply(
        PublishMember(7, "seven", ("http://c:1",), ("http://p:1",)),
        PublishMember(8, "gone", (), ("http://p:2",)),
        RemoveMember(8),
        SetClusterVersion("3.5.0"),
        v3.LeaseGrant(5, 60),
        v3.LeaseGrant(-5, 60),
        v3.Put(b"a", b"1", 5),
        v3.Put(b"b", b"2"),
        v3.DeleteRange(b"b"),
        v3.SetAlarm(7, v3.NOSPACE, active=True),
        v3.Compact(3),
    )
    place.machine.sweep()
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    with (place.folder / "again.lmdb").open("w+b") as file:
        place.engine.copy_to(file.fileno())
    with StateFile(place.folder / "again.lmdb") as source:
        found = {name: dict(pairs) for name, pairs in buckets(source).items()}
    assert list(found[b"key"]) == [revision(2), revision(3), revision(4, 0, b"t")]
    assert found[b"key"][revision(4, 0, b"t")] == b"\n\x01b"
    assert found[b"key"][revision(2)] == place.machine.mvcc.get(b"a")
    assert found[b"lease"] == {
        (5).to_bytes(8, "big"): b"\x08\x05\x10\x3c",
        (2**64 - 5).to_bytes(8, "big"): b"\x08\xfb\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x3c",
    }
    assert found[b"alarm"] == {b"\x08\x07\x10\x01": b""}
    assert found[b"members"] == {
        b"7": b'{"id": 7, "peerURLs": ["http://p:1"], "name": "seven", "clientURLs": ["http://c:1"]}'
    }
    assert found[b"members_removed"] == {b"8": b"removed"}
    assert found[b"cluster"] == {b"clusterVersion": b"3.5.0"}
    assert found[b"meta"][b"scheduledCompactRev"] == found[b"meta"][b"finishedCompactRev"] == revision(3)
    assert copy.size % 4096 == 0
    assert len(copy.read(copy.size + 1)) == copy.size
    assert copy.read(1) == b""
    copy.close()
    copy.close()
    assert place.lines.events == ["snapshot_made"]
    left = {path.name for path in place.folder.iterdir()}
    assert left == {"state.lmdb", "state.lmdb-lock", "state.lmdb-open", "again.lmdb"}, "copies have no names"


def test_an_empty_store_can_be_copied(place: Place) -> None:
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    copy.close()


def test_one_copy_at_a_time(place: Place) -> None:
    made: list[BoltCopy | Fault] = []
    place.backups.make(made.append)
    second: list[BoltCopy | Fault] = []
    place.backups.make(second.append)
    assert isinstance(second[0], Fault)
    assert second[0].reason is Reason.SNAPSHOT_BUSY
    place.turn_until(lambda: made)
    assert isinstance(made[0], BoltCopy)
    made[0].close()
    third = place.make()
    assert isinstance(third, BoltCopy)
    third.close()


def test_the_loop_does_not_wait_until_a_copy_is_freed(place: Place) -> None:
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    with held(place.closer):
        copy.close()
        copy.close()
        assert unnamed(place.folder) == [copy.size], "the thread has not come to it"
        with pytest.raises(ValueError, match="was closed"):
            copy.read(1)
    assert unnamed(place.folder) == []


def test_no_copy_is_made_while_too_many_wait_to_be_freed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closer, "MOST_WAITING", 1)
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    with held(place.closer):
        copy.close()
        fault = place.make()
        assert isinstance(fault, Fault)
        assert fault.reason is Reason.SNAPSHOT_BUSY
    another = place.make()
    assert isinstance(another, BoltCopy)
    another.close()


def test_a_copy_of_the_state_for_which_no_thread_writes_a_backup_is_removed_off_the_loop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def only_once(work: Callable[[], object], name: str) -> OSError | None:
        begun.append(name)
        return start_thread(work, name) if len(begun) == 1 else OSError(11, "no thread can be started")

    monkeypatch.setattr(backup, "start_thread", only_once)
    made: list[FullCopy | Fault] = []
    with held(place.closer):
        place.backups.make_full(made.append)
        place.turn_until(lambda: made)
        assert isinstance(made[0], Fault)
        assert len(list(place.folder.glob("*.state.part"))) == 1, "the thread has not come to it"
    assert list(place.folder.glob("*.part")) == []


def test_a_copy_that_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.engine, "copy_to", full)
    fault = place.make()
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.SNAPSHOT_FAILED
    assert place.lines.events == ["snapshot_not_made"]
    monkeypatch.undo()
    copy = place.make()
    assert isinstance(copy, BoltCopy), "the next one can be made"
    copy.close()


def test_a_backup_for_which_there_is_no_thread(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(backup, "start_thread", lambda *_: OSError(11, "no thread can be started"))
        place.backups.make(faults.append)
        place.turn_until(lambda: faults)
    (fault,) = faults
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.SNAPSHOT_FAILED
    copy = place.make()
    assert isinstance(copy, BoltCopy), "the next one can be made"
    copy.close()


def test_a_state_that_cannot_be_committed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(done: Callable[[OSError | None], None]) -> None:
        done(OSError(5, "Input/output error"))

    monkeypatch.setattr(place.engine, "sync", broken)
    fault = place.make()
    assert isinstance(fault, Fault)
    assert fault.cause == b"etcdserver: no space left on device"


def test_a_full_copy_is_left_to_who_asked(place: Place, tmp_path: Path) -> None:
    place.fill()
    copy = place.make_full()
    assert copy.path.match("backup-c1-7-*.full.part")
    assert copy.path.stat().st_size == copy.found.size
    assert copy.path.stat().st_mode & 0o777 == 0o600
    assert place.lines.events == ["backup_made"]
    assert list(place.folder.glob("*.part")) == [copy.path]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert place.make_full(elsewhere).path.parent == elsewhere
    again = place.make_full().path
    assert list(place.folder.glob("*.part")) == [again], "what a crash left is removed"


@pytest.mark.parametrize(("known", "told"), [((17,), 17), ((16, 17), 17), ((16,), 16), ((), 0)])
def test_a_full_backup_has_what_tells_of_which_log_it_is(
    place: Place, known: tuple[int, ...], told: int
) -> None:
    """Of the entry that the copy has last, or of one before the copy if the log has that one no more."""
    place.fill()
    last = place.machine.applied
    began = place.engine.applied
    shift = last - 17
    for each in known:
        place.parts[each + shift] = LogPart(first=1, last=each + shift, digest="d")
    place.engine.applied = lambda: Index(last - 1)  # type: ignore[method-assign]  # a write follows the begin
    header = place.make_full().found.header
    place.engine.applied = began  # type: ignore[method-assign]
    assert header.index == last
    assert header.log == (place.parts[told + shift] if told else msgspec.UNSET)


def test_the_part_of_a_log_that_tells_of_a_state() -> None:
    entries = [
        Entry(Index(at), Term(1), EntryKind.NORMAL, seal(b"x", wall=at if at < 200 else 0))
        for at in range(101, 301)
    ]
    log = RaftLog(Index(100), Term(1), entries)
    assert log_part(log, Index(100)) is None
    assert log_part(log, Index(301)) is None
    assert log_part(log, Index(101)) == joined([piece_of(entries[0])])
    assert log_part(log, Index(210)) == joined([piece_of(each) for each in entries[98:110]])
    assert log_part(log, Index(300)) == joined([piece_of(each) for each in entries[-MOST_ENTRIES:]])


def test_what_others_write_to_the_same_folder_is_left_alone(place: Place) -> None:
    place.fill()
    others = [place.folder / name for name in ("backup-c1-8-00.state.part", "backup-c1-70-00.full.part")]
    for each in others:
        each.write_bytes(b"of another member")
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    copy.close()
    full = place.make_full().path
    assert {each.read_bytes() for each in others} == {b"of another member"}
    assert sorted(place.folder.glob("*.part")) == sorted([*others, full])


def test_a_copy_follows_no_link_and_replaces_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "00")
    target = place.folder / "target"
    target.write_bytes(b"kept")
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [] if "part" in pattern else real(path, pattern))
    (place.folder / "backup-c1-7-00.state.part").symlink_to(target)
    assert isinstance(place.make(), Fault)
    assert target.read_bytes() == b"kept"


def test_a_copy_without_room_is_refused_before_anything_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 90, 10))
    made: list[FullCopy | Fault] = []
    place.backups.make_full(made.append)
    place.turn_until(lambda: made)
    assert isinstance(made[0], Fault)
    assert b"no room for a backup: 10 bytes are free" in made[0].cause
    assert isinstance(place.make(), Fault)
    assert "no room for a backup" in place.lines.told("snapshot_not_made")[1]["error"]
    assert not list(place.folder.glob("backup-*"))


def damaging(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage each copy of the state, as rot on the disk of the backups does."""
    whole = place.engine.copy_to

    def damaged(file: int) -> None:
        whole(file)
        content = os.pread(file, 1 << 24, 0)
        os.pwrite(file, b"/a/c", content.index(b"/a/b"))

    monkeypatch.setattr(place.engine, "copy_to", damaged)


def test_a_damaged_copy_is_a_failed_backup_and_the_state_is_verified(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill()
    damaging(place, monkeypatch)
    made: list[FullCopy | Fault] = []
    place.backups.make_full(made.append)
    place.turn_until(lambda: made)
    assert isinstance(made[0], Fault)
    assert b"the copy is damaged: " in made[0].cause
    assert b"not what was written; the scrubber, unless it is off" in made[0].cause
    assert place.suspected == [True]
    assert not list(place.folder.glob("backup-*"))


@pytest.mark.parametrize("failure", [MemoryError(), lmdb.ReadersFullError("no readers"), KeyError("x")])
def test_whatever_fails_is_told_and_the_next_one_can_be_made(
    place: Place, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(place.engine, "copy_to", fail)
    fault = place.make()
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.SNAPSHOT_FAILED
    assert place.lines.events == ["snapshot_not_made"]
    monkeypatch.undo()
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    copy.close()


def test_a_thread_that_cannot_be_started_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    made: list[FullCopy | Fault] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        place.backups.make_full(made.append)
        place.turn_until(lambda: made)
    assert isinstance(made[0], Fault)
    assert b"no thread can be started" in made[0].cause
    assert place.make_full().path.exists()


def test_removed_members_are_in_the_order_of_their_names(place: Place) -> None:
    ids = [0x0FEDCBA987654321, 0x1000000000000001]
    for id_ in ids:
        place.apply(PublishMember(id_, "gone", (), ("http://p:2",)), RemoveMember(id_))
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    content = copy.read(copy.size)
    copy.close()
    database = Database(io.BytesIO(content), "FILE", len(content))
    assert [name for name, _ in database.bucket(b"members_removed")] == [
        b"1000000000000001",
        b"fedcba987654321",
    ]
