"""Log and state are opened together, and are found to belong together."""

from __future__ import annotations

from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.disk.datadir import STATE_FILE, DataDir, MemberIdentity
from netstore.errors import NetstoreError, StateDamaged
from netstore.limits import SMALLEST, Shares
from netstore.node.storage import Storage, readable_members
from netstore.raft.entry import ConfState
from netstore.types import ClusterId, NodeId
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


def test_before_there_is_a_member_a_failure_ends_the_start(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as storage:
        with pytest.raises(NetstoreError, match=r"data_dir: the state cannot be written: .*free disk space"):
            storage.failed(OSError(28, "No space left on device"))
        storage.damaged(StateDamaged("the read raises this, too"))
