"""Log and state are opened together, and are found to belong together."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.disk import compacting, verification
from netstore.disk.datadir import STATE_FILE, DataDir, MemberIdentity
from netstore.disk.keptindex import KEPT_FILE
from netstore.disk.tables import Tables
from netstore.disk.verification import NotVerified, OpenMarker
from netstore.errors import NetstoreError, StateDamaged
from netstore.limits import SMALLEST, Shares
from netstore.node.etcdexport import open_state
from netstore.node.inspection import Inspection
from netstore.node.storage import Storage, readable_members
from netstore.raft.entry import ConfState
from netstore.state.commands import encode
from netstore.state.tables import RECORDS
from netstore.state.v3.commands import Put, Txn
from netstore.state.v3.savedkeys import Sleeping
from netstore.types import ClusterId, Index, NodeId
from tests.support import kept
from tests.support.folders import adopted
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWN, OTHER = NodeId(1), NodeId(2)
MEMBERS = {OWN: ("http://a:1",), OTHER: ("http://b:1",)}


class Reports:
    """`node.storage.Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def moved(self, doing: str, size: int) -> None:
        self.told.append((doing, size))

    def verifying(self, size: int) -> None:
        self.told.append(("verifying", size))

    def loading(self, records: int, size: int) -> None:
        self.told.append(("loading", records, size))

    def loaded(self, records: int) -> None:
        self.told.append(("loaded", records))


class Calls:
    """Runs what the threads of log and engine deliver, when it is told to."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def run(self) -> None:
        while not self.queue.empty():
            self.queue.get()()


@contextmanager
def opened(path: Path, log: Quiet | None = None, reports: Reports | None = None) -> Iterator[Storage]:
    """The storage in this folder, which is member `OWN`'s if it was nobody's; closed afterwards."""
    folder, calls = adopted(path, MemberIdentity(ClusterId(5), OWN, "a")), Calls()
    try:
        storage = Storage(folder, calls.queue.put, Shares.of(SMALLEST), reports or Reports(), log or Quiet())
        try:
            yield storage
        finally:
            storage.close()
            calls.run()
    finally:
        folder.close()


def test_a_new_cluster_begins_with_all_its_members(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as storage:
        boot = storage.boot(MEMBERS)
        assert boot.snapshot.conf == ConfState(voters=(OWN, OTHER))
        assert [entry.index for entry in boot.entries] == [1, 2]
    with opened(tmp_path / "data") as storage:
        assert storage.boot({}) == boot, "what was written is what the next start finds"


def test_a_member_without_a_cluster_waits_for_a_copy(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as storage:
        boot = storage.boot({})
        assert boot.snapshot.conf.voters == ()
        assert boot.entries == []


def test_stored_data_is_loaded_and_reported(tmp_path: Path) -> None:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    reports = Reports()
    with opened(tmp_path / "data", reports=reports) as storage:
        boot = storage.boot(MEMBERS)
        assert boot.applied == storage.machine.applied > 0
        assert boot.entries[-1].index > boot.applied
        assert OWN not in storage.machine.members, "it is another cluster's, and stays that"
        stored = storage.machine.stored
    assert [each[:2] for each in reports.told if each[0] == "loading"] == [("loading", stored)]
    assert ("loaded", stored) in reports.told


async def test_the_only_member_left_votes_alone_and_keeps_everything(tmp_path: Path) -> None:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    folder = DataDir.lock(tmp_path / "data")
    own = folder.identity.member_id
    token = trio.lowlevel.current_trio_token()
    storage = Storage(folder, token.run_sync_soon, Shares.of(SMALLEST), Reports(), Quiet())
    last = storage.replay.last
    await storage.begin_anew(own)
    boot = storage.boot({})
    assert (boot.applied, boot.snapshot.index, boot.entries) == (last, last, [])
    assert boot.snapshot.conf == ConfState(voters=(own,))
    storage.close()
    folder.close()


def test_a_log_that_was_not_finished_is_cut_and_told(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as storage:
        storage.boot(MEMBERS)
    (file,) = (tmp_path / "data" / "wal").glob("*.wal")
    with file.open("r+b") as opened_file:
        content = opened_file.read()
        end = len(content.rstrip(b"\0"))
        opened_file.seek(end)
        opened_file.write(b"torn")
    lines = Quiet()
    with opened(tmp_path / "data", lines) as storage:
        assert len(storage.boot({}).entries) == 2
    assert len(lines.events("log_tail_cut")) == 1


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("synced", "{file}: is a pipe, not a regular file; nothing was changed: move it away, or choose"),
        ("*.wal", "write-ahead log: {file.name} cannot be read: is a pipe, not a regular file"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_of_the_log_is_told(tmp_path: Path, pattern: str, words: str) -> None:
    folder = tmp_path / "data"
    with opened(folder) as storage:
        storage.boot(MEMBERS)
    (file,) = (folder / "wal").glob(pattern)
    file.unlink()
    os.mkfifo(file)
    words = re.escape(words.format(file=file))
    with pytest.raises(NetstoreError, match=words), opened(folder):
        pass
    with pytest.raises(NetstoreError, match=words):
        Inspection(folder, None)
    with pytest.raises(NetstoreError, match=words), ExitStack() as parts:
        open_state(folder, parts)
    assert file.is_fifo()


def test_a_damaged_state_is_not_opened_and_still_names_the_members(tmp_path: Path) -> None:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    with opened(tmp_path / "data") as storage:
        members = set(storage.machine.members.values())
    state = tmp_path / "data" / "state" / STATE_FILE
    content = state.read_bytes()
    folder = DataDir.lock(tmp_path / "data")
    assert set(readable_members(folder)) == members
    state.write_bytes(content[:4096])
    assert readable_members(folder) == []
    folder.close()
    with pytest.raises(StateDamaged), opened(tmp_path / "data"):
        pass
    assert state.stat().st_size == 4096, "it was left as it was"
    state.unlink()
    with opened(tmp_path / "data") as storage:
        assert storage.machine.applied == 0, "the log has everything from the first entry"


def put_some(storage: Storage) -> None:
    """Apply one entry; the log of a new cluster has two."""
    storage.boot(MEMBERS)
    machine = storage.machine
    puts = tuple(Put(b"key %d of %d" % (number, machine.applied), b"value") for number in range(5))
    machine.apply(Index(machine.applied + 1), encode(Txn((), puts)))
    machine.save()


def is_from_saved_keys(storage: Storage) -> bool:
    return isinstance(storage.machine.mvcc._index.items, Sleeping)


def test_a_clean_stop_saves_the_keys_for_the_next_start(tmp_path: Path) -> None:
    path, lines = tmp_path / "data", Quiet()
    file = path / "state" / KEPT_FILE
    with opened(path) as storage:
        put_some(storage)
    assert not file.exists(), "a fault ended the member, for all that is known"
    with opened(path) as storage:
        assert not is_from_saved_keys(storage)
        storage.stops_cleanly = True
    saved = file.stat()
    with opened(path, lines) as storage:
        assert is_from_saved_keys(storage)
        assert storage.machine.mvcc.get(b"key 3 of 0") is not None
        storage.stops_cleanly = True
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (saved.st_ino, saved.st_mtime_ns), "it still fits"
    with opened(path, lines) as storage:
        put_some(storage)
    with opened(path, lines) as storage:
        assert not is_from_saved_keys(storage), "it is of an earlier state"
        storage.stops_cleanly = True
    with opened(path, lines) as storage:
        assert is_from_saved_keys(storage)
    assert not lines.events("saved_keys_ignored")


def test_damaged_saved_keys_are_told_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with opened(path) as storage:
        put_some(storage)
        storage.stops_cleanly = True
    file = path / "state" / KEPT_FILE
    whole = file.read_bytes()
    for at in (0, 25, 40, len(whole) // 2, -1):  # all bytes: `tests.disk.test_keptindex`
        damaged = bytearray(whole)
        damaged[at] ^= 4
        file.write_bytes(damaged)
        lines = Quiet()
        with opened(path, lines) as storage:
            assert not is_from_saved_keys(storage)
            assert storage.machine.mvcc.get(b"key 3 of 0") is not None
        assert len(lines.events("saved_keys_ignored")) == 1


def test_damaged_saved_keys_are_replaced_by_the_next_stop(tmp_path: Path) -> None:
    """Also where the state is the same, and where the head alone is whole."""
    path, lines = tmp_path / "data", Quiet()
    with opened(path) as storage:
        put_some(storage)
        storage.stops_cleanly = True
    file = path / "state" / KEPT_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    with opened(path, lines) as storage:
        storage.stops_cleanly = True
    assert len(lines.events("saved_keys_ignored")) == 1
    assert not lines.events("saved_keys_used")
    assert file.read_bytes() == whole
    with opened(path, lines) as storage:
        assert is_from_saved_keys(storage)
    assert len(lines.events("saved_keys_used")) == 1


def test_a_stop_without_memory_saves_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    lines = Quiet()
    with opened(tmp_path / "data", lines) as storage:
        put_some(storage)
        monkeypatch.setattr(storage.machine, "saved_keys", fail)
        storage.stops_cleanly = True
    (told,) = lines.events("keys_not_saved")
    assert "'reason': 'no memory'" in told


def test_keys_that_cannot_be_saved_are_told(tmp_path: Path) -> None:
    path, lines = tmp_path / "data", Quiet()
    with opened(path, lines) as storage:
        put_some(storage)
        (path / "state" / f"{KEPT_FILE}.new").mkdir()
        storage.stops_cleanly = True
    (told,) = lines.events("keys_not_saved")
    assert "'reason': 'Is a directory'" in told
    assert "'fix': " in told
    with opened(path, lines) as storage:
        assert storage.machine.mvcc.get(b"key 0 of 0") is not None


def test_a_damaged_state_saves_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with opened(path) as storage:
        put_some(storage)
        with pytest.raises(StateDamaged):
            raise storage.engine.lost(RECORDS, b"x")
        storage.stops_cleanly = True
    assert not (path / "state" / KEPT_FILE).exists()


def test_before_there_is_a_member_a_failure_ends_the_start(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as storage:
        with pytest.raises(NetstoreError, match=r"data_dir: the state cannot be written: .*free disk space"):
            storage.failed(OSError(28, "No space left on device"))
        storage.damaged(StateDamaged("the read raises this, too"))


def empty_some(path: Path, log: Quiet) -> Index:
    """Have a state with a few keys and 5 MB of free pages in this folder; what it has applied."""
    with opened(path, log) as storage:
        put_some(storage)
    tables = Tables.open(path / "state" / STATE_FILE, (), 1 << 24)
    for value in bytes(5_000_000), None:
        tables.write(tables.summary.applied, tables.summary.log, {(RECORDS, b"large"): value})
    tables.close()
    return tables.summary.applied


def test_a_state_that_was_emptied_is_made_smaller_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 1 << 20)
    log, path = Quiet(), tmp_path / "data"
    before = empty_some(path, log)
    assert log.events("state_compacted") == []
    with opened(path, log) as storage:
        assert storage.engine.sizes()[0] < 1_000_000
        assert (storage.machine.applied, storage.machine.mvcc.count(b"\0", b"\0")) == (before, 5)
    [line] = log.events("state_compacted")
    assert "'bytes': 5" in line


@pytest.mark.parametrize("reason", ["no process could be started", "ended with -9"])
def test_a_state_that_cannot_be_verified_is_not_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 1 << 20)
    log, path = Quiet(), tmp_path / "data"
    before = empty_some(path, log)
    state = path / "state" / STATE_FILE
    OpenMarker(state).set()
    number = state.stat().st_ino

    def cannot(file: Path) -> None:
        raise NotVerified(f"{file}: not verified: {reason}")

    with monkeypatch.context() as patch:
        patch.setattr(verification, "verify", cannot)
        with opened(path, log) as storage:
            assert storage.machine.applied == before
    assert (state.stat().st_ino, log.events("state_compacted")) == (number, [])
    [line] = log.events("state_not_verified")
    assert reason in line
    with opened(path, log):
        assert len(log.events("state_compacted")) == 1
