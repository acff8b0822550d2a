"""When entries are dropped from the log, and which are kept."""

from __future__ import annotations

import msgspec
import pytest

from netstore.limits import Budget
from netstore.node import logcompaction
from netstore.node.logcompaction import ALONE_ENTRIES, CATCH_UP_ENTRIES, TOLD_SECONDS
from netstore.node.member import OWN
from netstore.raft.core import Raft
from netstore.raft.invariant import InvariantBroken
from netstore.state.commands import encode
from netstore.state.v2.commands import QuorumGet
from netstore.types import Event, Index, NodeId
from tests.support.member import ME, Solo
from tests.support.solo import LIGHT, paced, pass_time, put, tick, value


def test_a_copy_that_stands_for_nothing_keeps_no_log() -> None:
    member = Solo().lead()
    put(member)
    member.settle()
    applied = member.host.machine.applied
    assert member.host.snapshot_sending.is_usable(applied)
    assert not member.host.snapshot_sending.is_usable(Index(applied + 1))
    with pytest.raises(InvariantBroken):
        member.host.snapshot_sending.begun(Index(applied + 1), ME)
    assert member.host.behind() == []
    member.host.snapshot_sending.ended(ME, ok=False, was_begun=False)


def test_the_log_forgets_what_the_durable_state_covers() -> None:
    member = Solo(snapshot_count=10).lead()
    for _ in range(CATCH_UP_ENTRIES + 20):
        member.host.propose(encode(QuorumGet(path=b"/")), lambda _: None, OWN)
    member.settle()
    assert not member.host.compaction.compact(), "the state is not durable yet"
    member.engine.commit()
    assert member.host.compaction.compact()
    member.settle()
    assert member.host.status().compacted > 0
    outcomes = put(member)
    member.settle()
    assert isinstance(outcomes[0], Event)
    assert value(member.crashed().lead()) == b"v"


@pytest.mark.parametrize("others", [(), (NodeId(2),)])
def test_the_only_member_keeps_a_short_log(others: tuple[NodeId, ...]) -> None:
    """A learner may come to need it."""
    member = Solo(snapshot_count=100_000).lead()
    member.host._raft.conf = msgspec.structs.replace(member.host._raft.conf, learners=others)
    for _ in range(ALONE_ENTRIES + CATCH_UP_ENTRIES):
        member.host.propose(encode(QuorumGet(path=b"/")), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    assert member.host.compaction.compact() is (not others)
    assert member.host.compaction.compacted == (0 if others else member.engine.durable() - CATCH_UP_ENTRIES)


def test_the_only_member_tells_of_it_once_a_minute() -> None:
    member = Solo(snapshot_count=5).lead()
    pass_time(member, 0)
    compacted, told = 0, []
    for _ in range(4):
        for _ in range(CATCH_UP_ENTRIES + 5):
            member.host.propose(encode(QuorumGet(path=b"/")), lambda _: None, OWN)
        member.settle()
        member.engine.commit()
        compacted += member.host.compaction.compact()
        while member.host.compaction.is_dropping:
            member.host.compaction.compact()
        told.append(member.lines.events.count("log_compacted"))
        pass_time(member, TOLD_SECONDS / 2 + 1)
    assert compacted == 4
    assert told == [1, 1, 2, 2]


def test_a_long_log_is_forgotten_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logcompaction, "DROPPED_AT_ONCE", 40)
    member = Solo(snapshot_count=100).lead()
    for _ in range(CATCH_UP_ENTRIES + 110):
        member.host.propose(encode(QuorumGet(path=b"/")), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    kept = [member.host.status().compacted]
    while member.host.compaction.compact():
        kept.append(member.host.status().compacted)
        assert 0 < kept[-1] - kept[-2] <= 40
        assert member.host.compaction.is_dropping is (kept[-1] < member.host.compaction.compacted)
    assert len(kept) > 3
    assert kept[-1] == member.host.compaction.compacted
    outcomes = put(member)
    member.settle()
    assert isinstance(outcomes[0], Event)
    assert value(member.crashed().lead()) == b"v"


def test_a_log_that_weighs_too_much_is_forgotten_before_its_count_and_whatever_copies_need() -> None:
    member = Solo(snapshot_count=100_000, log_budget=Budget(100_000)).lead()

    def grow(count: int) -> None:
        for _ in range(count):
            member.host.propose(encode(QuorumGet(path=b"/" + b"x" * 1000)), lambda _: None, OWN)
        member.settle()
        member.engine.commit()

    grow(50)
    meta = member.host.snapshot_sending.begun(member.engine.durable(), NodeId(2))
    assert not member.host.compaction.compact()
    grow(30)
    assert not member.host.compaction.compact(), "neither too long nor too heavy"
    grow(100)
    assert member.host.compaction.compact()
    status = member.host.status()
    assert member.host.compaction.compacted == status.compacted > meta.index
    assert 0 < member.host._raft.log_bytes <= 50_000
    assert status.last - status.compacted > 30
    member.host.snapshot_sending.ended(NodeId(2), ok=False)
    assert value(member.crashed().lead()) is None


def test_the_log_keeps_what_follows_the_oldest_copy_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo(snapshot_count=10).lead()

    def grow() -> None:
        for _ in range(CATCH_UP_ENTRIES + 20):
            member.host.propose(encode(QuorumGet(path=b"/")), lambda _: None, OWN)
        member.settle()
        member.engine.commit()

    grow()
    first = member.host.snapshot_sending.begun(Index(15), NodeId(2))
    member.host.snapshot_sending.begun(Index(18), NodeId(3))
    grow()
    assert member.host.compaction.compact()
    assert member.host.compaction.compacted == first.index
    assert not member.host.compaction.compact()
    member.host.snapshot_sending.made(Index(20), NodeId(3))
    reported: list[tuple[NodeId, bool, Index]] = []
    monkeypatch.setattr(Raft, "report_snapshot", lambda _, *told: reported.append(told))
    member.host.snapshot_sending.ended(NodeId(2), ok=True)
    assert not member.host.compaction.compact()
    member.host.snapshot_sending.ended(NodeId(3), ok=True)
    assert reported == [(2, True, 15), (3, True, 20)]
    assert not member.host.compaction.compact(), "they need what follows the copies"
    member.host.tick()  # and turn out to be no members
    assert member.host.compaction.compact()
    assert member.host.compaction.compacted > 18


def test_a_log_that_outgrows_its_bound_between_two_chores_is_shortened_at_a_tick() -> None:
    member = Solo(log_budget=LIGHT).lead()
    for _ in range(100):
        for _ in range(100):
            put(member, bytes(1_000))
        member.settle()
        member.engine.commit()
        pass_time(member, 0.1)
        member.settle()
        while member.host.compaction.is_dropping:
            member.host.compaction.compact()
        assert member.host._raft.log_bytes <= LIGHT.limit
    assert member.host.compaction.compacted > 0


def test_the_log_keeps_what_a_member_needs_that_takes_it_as_far_as_it_may() -> None:
    member = paced()
    peer = member.host._raft.progress[NodeId(9)]
    place = member.host.status().last
    member.host.snapshot_sending.ended(NodeId(9), ok=True)
    for _ in range(200):
        put(member, bytes(1_000))
    for _ in range(120):
        tick(member)
        member.engine.commit()
        member.host.compaction.compact()
        assert member.host._raft.log_bytes <= LIGHT.limit
    assert member.host.compaction.compacted <= place
    [behind] = member.host.behind()
    assert (behind.id, behind.gets_snapshot, behind.counts) == (9, True, True)
    peer.match = member.host.status().last
    tick(member)
    assert member.host.behind() == []
    assert member.host._pacing.rate is None
