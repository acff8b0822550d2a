"""A snapshot from the leader takes the place of log and state."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from netstore.disk.frame import Identity
from netstore.disk.wal import Wal
from netstore.errors import CorruptData
from netstore.raft.core import Raft
from netstore.raft.entry import Entry, EntryKind, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Append, InstallSnapshot
from netstore.types import Index, NodeId, Term
from tests.support.group import Group
from tests.support.member import CLUSTER, ME, Solo


@pytest.mark.parametrize("fault", [KeyError("x"), CorruptData("x"), MemoryError()])
def test_a_copy_that_is_processed_in_part_ends_the_member(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def step(*_: object) -> NoReturn:
        raise fault

    member = Solo().lead()
    monkeypatch.setattr(Raft, "step", step)
    wish = InstallSnapshot(NodeId(9), ME, Term(9), SnapshotMeta())
    with pytest.raises(InvariantBroken, match="processed in part"):
        member.host.snapshot_install.receive(wish, None)


def test_after_a_copy_in_the_place_of_another_log_the_log_takes_what_follows_the_copy() -> None:
    """Not what follows the entries that it had beyond: they are another leader's."""
    group = Group(3)
    follower, leader = group[2], group.leader
    first, term = follower.host._raft.log.last + 1, leader.host.term
    entries = [Entry(Index(first + place), term, EntryKind.NORMAL, b"") for place in range(9)]
    ends, commit = (leader.id, follower.id), leader.host.commit_index
    follower.host.receive([Append(*ends, term, Index(first - 1), term, commit, entries)])
    group.settle()
    later = Term(term + 1)
    meta = SnapshotMeta(Index(first + 2), later, follower.conf)
    image = leader.engine.crash()
    image.write(meta.index, {})
    follower.host.snapshot_install.receive(InstallSnapshot(*ends, later, meta), image)
    group.settle()
    assert follower.host._raft.log.last == meta.index
    after = Entry(Index(entries[-1].index + 1), later, EntryKind.NORMAL, b"")
    with pytest.raises(InvariantBroken, match=f"given to a log of entries {meta.index + 1} to {meta.index}"):
        follower.host._writer._wal.append(None, [after], lambda _: None)


def test_records_to_be_written_are_dropped_when_a_snapshot_takes_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would stand in the log behind the mark of the copy, and no start could read that."""
    group = Group(3)
    follower, leader = group[2], group.leader
    raft = follower.host._raft
    first = raft.log.last + 1
    room = raft.config.max_ready_bytes
    entries = [
        Entry(Index(first + place), leader.host.term, EntryKind.NORMAL, bytes(room // 4))
        for place in range(9)
    ]
    meta = SnapshotMeta(Index(first + 20), leader.host.term, follower.conf)
    image = leader.engine.crash()
    image.write(meta.index, {})
    installs: list[Any] = []
    monkeypatch.setattr(follower.engine, "install", lambda image, done: installs.append((image, done)))
    term, ends = leader.host.term, (leader.id, follower.id)
    message = Append(*ends, term, Index(first - 1), term, leader.host.commit_index, entries)
    follower.host.receive([message])
    follower.host.turn()
    assert raft.log.handed == first + 2
    follower.host.snapshot_install.receive(InstallSnapshot(*ends, term, meta), image)
    while follower.woken:
        follower.woken = False
        follower.host.turn()
        follower.device.sync()
    [(_, done)] = installs
    monkeypatch.undo()
    follower.engine.install(image, done)
    behind = Entry(Index(meta.index + 1), term, EntryKind.NORMAL, b"")
    follower.host.turn()
    while raft.installing is not None:
        follower.host.turn()
    follower.host.receive([Append(*ends, term, meta.index, term, meta.index, [behind])])
    while follower.woken or follower.device.waiting:
        follower.woken = False
        follower.host.turn()
        follower.device.sync()
    assert raft.log.persisted == behind.index
    replay = Wal.open(follower.device, Identity(CLUSTER, follower.id))[1]
    assert (replay.mark, replay.entries) == (meta, [behind])
