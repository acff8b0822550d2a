"""What a Ready has, and what must wait for the disk."""

from __future__ import annotations

from netstore.raft.entry import (
    ConfState,
    HardState,
    SnapshotMeta,
)
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    Heartbeat,
    InstallSnapshot,
    Message,
)
from netstore.raft.status import Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, member
from tests.support.raft_members import ONE, THREE, TRIO, TWO, following, leading


def test_a_sole_voter_sends_nothing_to_learners_before_its_vote_is_on_disk() -> None:
    raft = member(1, ConfState(voters=(ONE,), learners=(TWO,)))
    raft.campaign()
    ready = raft.take_ready()
    assert (raft.role, list(ready.messages)) == (Role.LEADER, [])
    assert [type(m) for m in ready.after_sync] == [Append]
    raft.propose([b"x"])
    raft.tick()
    later = raft.take_ready()
    assert list(later.messages) == []
    raft.persisted(Index(1), Term(1))
    raft.tick()
    assert [type(m) for m in raft.take_ready().messages] == [Heartbeat]


def test_after_sync_always_comes_with_a_sync() -> None:
    raft = following()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    first = raft.take_ready()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    second = raft.take_ready()
    assert (list(first.entries), list(second.entries)) == ([entry(2, 1)], [])
    assert first.after_sync == second.after_sync
    assert second.must_sync


def test_a_commit_index_alone_needs_no_sync() -> None:
    raft = following()
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    ready = raft.take_ready()
    assert ready.hard_state == HardState(Term(1), NodeId(0), Index(1))
    assert not ready.must_sync


def test_a_commit_index_that_moved_alone_makes_no_ready_and_goes_with_the_next_one() -> None:
    raft = following()
    raft.apply_paused = True
    last = raft.last_index
    raft.step(Append(TWO, ONE, Term(1), last, Term(1), Index(1), []))
    assert raft.commit == 1
    assert not raft.has_ready()
    raft.step(Append(TWO, ONE, Term(1), last, Term(1), Index(1), [entry(last + 1, 1)]))
    assert raft.take_ready().hard_state == HardState(Term(1), NodeId(0), Index(1))


def test_nothing_is_ready_twice() -> None:
    raft = leading()
    assert not raft.has_ready()
    ready = raft.take_ready()
    assert ready.hard_state is None
    assert not ready.must_sync
    assert not any((ready.entries, ready.messages, ready.after_sync, ready.committed, ready.reads))


def test_a_ready_has_a_bounded_number_of_bytes_for_the_disk_and_no_later_commit_index() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(5), entries))
    given: list[list[int]] = []
    kept: list[int] = []
    told: list[Message] = []
    while raft.has_ready():
        ready = raft.take_ready()
        given.append([each.index for each in ready.entries])
        assert ready.hard_state is not None
        kept.append(ready.hard_state.commit)
        told += ready.after_sync
        assert raft.has_more == (len(given) < 3)
    assert given == [[1, 2], [3, 4], [5]]
    assert kept == [2, 4, 5], "no log on disk is behind the commit index beside it"
    assert told == [AppendAccepted(ONE, TWO, Term(1), Index(index)) for index in (2, 4, 5)]
    raft.persisted(Index(2), Term(1))
    assert [each.index for each in raft.take_ready().committed] == [1, 2]


def test_while_a_snapshot_replaces_the_log_no_entries_are_given_to_the_disk() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(5), entries))
    assert len(raft.take_ready().entries) == 2
    assert raft.log.handed < raft.last_index
    meta = SnapshotMeta(Index(9), Term(1), TRIO)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    assert not raft.has_more
    ready = raft.take_ready()
    assert (ready.snapshot, ready.entries) == (meta, [])
    assert ready.hard_state is None
    raft.persisted(Index(2), Term(1))
    assert not raft.has_ready()
    raft.snapshot_installed(meta)
    assert list(raft.take_ready().messages) == [AppendAccepted(ONE, TWO, Term(1), Index(9))]
    raft.step(Append(TWO, ONE, Term(1), Index(9), Term(1), Index(9), [entry(10, 1)]))
    assert [each.index for each in raft.take_ready().entries] == [10]
    assert not raft.has_more


def test_a_larger_entry_is_given_to_the_disk_alone() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    sizes = (10, 500, 10)
    entries = [entry(index, 1, bytes(size)) for index, size in enumerate(sizes, 1)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    given = []
    while raft.has_ready():
        given.append([each.index for each in raft.take_ready().entries])
    assert given == [[1], [2], [3]]


def test_entries_truncated_before_they_were_given_to_the_disk_are_not_given_to_it() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    assert len(raft.take_ready().entries) == 2
    raft.step(Append(THREE, ONE, Term(2), Index(1), Term(1), Index(0), [entry(2, 2)]))
    ready = raft.take_ready()
    assert list(ready.entries) == [entry(2, 2)]
    assert list(ready.after_sync) == [AppendAccepted(ONE, THREE, Term(2), Index(2))]
    assert not raft.has_more
