"""Snapshots that replace the log, and those that are sent."""

from __future__ import annotations

import pytest

from netstore.raft.entry import (
    HardState,
    SnapshotMeta,
)
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
)
from netstore.raft.progress import ProgressState
from netstore.raft.status import Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, group, member, said
from tests.support.raft_members import ONE, THREE, TRIO, TWO, following, leading


@pytest.mark.parametrize("handed", [0, 2, 4])
def test_entries_that_a_snapshot_replaces_are_not_written_after_it(handed: int) -> None:
    """Otherwise the log on disk would go back behind the mark of the snapshot, and could not be read."""
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    for _ in range(handed // 2):
        raft.take_ready()
    meta = SnapshotMeta(Index(20), Term(2), TRIO)
    raft.step(InstallSnapshot(THREE, ONE, Term(2), meta))
    snapshots = []
    while raft.has_ready():
        ready = raft.take_ready()
        snapshots.append(ready.snapshot)
        assert (list(ready.entries), list(ready.after_sync)) == ([], [])
        assert ready.hard_state is None or ready.hard_state.commit == 0
        assert not raft.has_more
    assert snapshots[0] == meta
    raft.snapshot_installed(meta)
    ready = raft.take_ready()
    assert (list(ready.entries), ready.hard_state) == ([], HardState(Term(2), NodeId(0), Index(20)))
    assert list(ready.messages) == [AppendAccepted(ONE, THREE, Term(2), Index(20))]
    raft.step(Append(THREE, ONE, Term(2), Index(20), Term(2), Index(20), [entry(21, 2)]))
    assert list(raft.take_ready().entries) == [entry(21, 2)]


def test_only_the_requested_snapshot_can_be_installed() -> None:
    raft = following()
    meta = SnapshotMeta(Index(5), Term(1), TRIO)
    with pytest.raises(InvariantBroken):
        raft.snapshot_installed(meta)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(6), Term(1), TRIO)))
    assert raft.take_ready().snapshot == meta
    with pytest.raises(InvariantBroken):
        raft.snapshot_installed(SnapshotMeta(Index(6), Term(1), TRIO))
    raft.snapshot_installed(meta)
    assert raft.last_index == 5


def test_while_a_snapshot_is_put_in_place_the_log_does_not_change() -> None:
    raft = following()
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(5), Term(1), TRIO)))
    said(raft)
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(1), [entry(2, 1)]))
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    raft.campaign()
    assert (raft.last_index, raft.commit, raft.role) == (1, 0, Role.FOLLOWER)
    assert said(raft) == [HeartbeatAnswer(ONE, TWO, Term(1), 0)]


def test_nothing_is_handed_out_to_be_applied_while_a_snapshot_is_put_in_place() -> None:
    """Entries that a slow disk reports meanwhile would be applied to the state that the snapshot replaces."""
    raft = following()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(2), [entry(2, 1)]))
    raft.take_ready()
    meta = SnapshotMeta(Index(5), Term(1), TRIO)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    assert raft.take_ready().snapshot == meta
    raft.persisted(Index(2), Term(1))
    assert raft.take_ready().committed == []
    raft.snapshot_installed(meta)
    assert (raft.log.applied, raft.take_ready().committed) == (5, [])


def test_an_old_snapshot_is_answered_with_the_commit_index() -> None:
    raft = member(1, TRIO, [1, 1], hard_state=HardState(Term(1), commit=Index(2)))
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(1), Term(1), TRIO)))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))]


def test_a_snapshot_is_sent_to_active_members_only() -> None:
    cluster = group(3, election_ticks=3)
    leader = cluster.hosts[ONE]
    leader.raft.propose([b"a"])
    cluster.settle(lambda message: THREE not in (message.sender, message.to))
    leader.compact(Index(2))
    for _ in range(4):
        leader.raft.tick()
        cluster.settle(lambda message: THREE not in (message.sender, message.to))
    leader.raft.report_unreachable(THREE)
    assert not any(isinstance(m, InstallSnapshot) for m in said(leader.raft))
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    assert any(isinstance(m, InstallSnapshot) for m in said(leader.raft))
    leader.raft.report_snapshot(THREE, ok=False)
    assert leader.raft.progress[THREE].state is ProgressState.PROBE


def test_after_a_snapshot_later_than_requested_appends_go_on_after_it() -> None:
    """The log before it is compacted: a probe there would lead to another snapshot."""
    cluster = group(3, election_ticks=3)
    leader = cluster.hosts[ONE]

    def without_three(message: Message) -> bool:
        return THREE not in (message.sender, message.to)

    leader.raft.propose([b"a"])
    cluster.settle(without_three)
    leader.compact(Index(2))
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    leader.raft.report_unreachable(THREE)
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    [asked] = [m for m in said(leader.raft) if isinstance(m, InstallSnapshot)]
    leader.raft.propose([b"b", b"c"])
    cluster.settle(without_three)
    made = leader.raft.log.applied
    assert made > asked.meta.index
    leader.compact(made)
    leader.raft.report_snapshot(THREE, ok=True, index=made)
    leader.raft.propose([b"d"])
    cluster.settle(without_three)
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    [sent] = [m for m in said(leader.raft) if isinstance(m, Append) and m.to == THREE]
    assert (sent.previous_index, len(sent.entries)) == (made, 1)


def test_a_snapshot_is_described_at_an_applied_index_that_is_not_compacted() -> None:
    raft = leading()
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(1)))
    said(raft)
    raft.compact(Index(1))
    assert raft.snapshot_meta(Index(1)) == SnapshotMeta(Index(1), Term(1), TRIO)
    for index in (0, 2):
        with pytest.raises(InvariantBroken):
            raft.snapshot_meta(Index(index))
