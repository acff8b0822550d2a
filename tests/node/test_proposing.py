"""Which requests a turn proposes, and what becomes of those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import Fault, Reason, stopped
from netstore.node.forwards import RefusalReason
from netstore.node.logsize import BYTES_PER_TURN, PAYLOADS_PER_TURN
from netstore.node.member import OWN
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.core import Raft
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward, ForwardRefused
from netstore.raft.progress import Progress
from netstore.raft.status import Fate, Proposed, Refusal
from netstore.state.commands import encode
from netstore.state.v2.commands import Delete, Set
from netstore.types import Event, Index, NodeId, Term
from tests.support.group import Group
from tests.support.member import ME, Solo
from tests.support.solo import FULL, Room, decoding, put, refusal, turns

if TYPE_CHECKING:
    import pytest

    from netstore.state.machine import Outcome


def test_while_leadership_is_handed_over_what_waits_makes_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    with monkeypatch.context() as patch:
        handing = Proposed(Fate.REFUSED, refusal=Refusal.TRANSFERRING)
        patch.setattr(Raft, "propose", lambda _self, _payloads: handing)
        outcomes = [put(member) for _ in range(2 * PAYLOADS_PER_TURN)]
        turns(member, 2)
        assert not member.woken
    member.host.tick()
    member.settle()
    assert [type(each) for [each] in outcomes] == [Event] * len(outcomes)


def test_writes_the_log_finds_no_room_for_are_given_up_some_at_a_time() -> None:
    member = Solo().lead()
    outcomes = [put(member) for _ in range(3 * COMPLETED_AT_ONCE)]
    member.turn()
    member.turn()
    member.device.fail(FULL)
    told = [sum(map(len, outcomes))]
    for _ in range(2):
        member.turn()
        told.append(sum(map(len, outcomes)))
    assert told == [COMPLETED_AT_ONCE, 2 * COMPLETED_AT_ONCE, 3 * COMPLETED_AT_ONCE]
    assert {refusal(each) for each in outcomes} == {Reason.NO_SPACE.text}
    turns(member, 1)
    assert not member.woken


def test_requests_the_log_has_room_for_again_are_not_given_up() -> None:
    member = Solo().lead()
    outcomes = [put(member) for _ in range(2 * COMPLETED_AT_ONCE)]
    member.turn()
    member.device.fail(FULL)
    member.host.retry_writes()
    member.settle()
    assert [isinstance(each, Event) for [each] in outcomes] == [False] * COMPLETED_AT_ONCE + [
        True
    ] * COMPLETED_AT_ONCE


def test_a_turn_proposes_few_large_requests_in_their_order() -> None:
    member = Solo().lead()
    member.settle()
    start = member.host.status().last
    outcomes = [put(member, bytes(BYTES_PER_TURN * 2 // 3)) for _ in range(5)]
    seen = []
    for _ in range(4):
        member.turn()
        seen.append(member.host.status().last - start)
    assert seen == [2, 4, 5, 5]
    member.settle()
    events = [outcome for [outcome] in outcomes if isinstance(outcome, Event)]
    indexes = [event.node.modified for event in events]
    assert (len(indexes), sorted(indexes)) == (5, indexes)


def test_a_change_is_asked_for_in_the_term_of_the_leader_only() -> None:
    """What was forwarded in an earlier term may have been sent again since."""
    member = Solo().lead()
    asked: list[Change] = []
    member.host.change_asked = asked.append
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(9)),))
    for term in (member.host.term - 1, member.host.term):
        member.host.receive((Forward(NodeId(9), ME, Term(term), EntryKind.CHANGE, [change.encode()]),))
    assert asked == [change]


def test_whoever_forwards_a_change_waits_for_commits() -> None:
    member = Solo().lead()
    asked: list[Change] = []
    member.host.change_asked = asked.append
    progress = member.host._raft.progress[NodeId(9)] = Progress(Index(1), 0)
    progress.waits = False
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(9)),))
    forward = Forward(NodeId(9), ME, Term(member.host.term), EntryKind.CHANGE, [change.encode()])
    member.host.receive((forward,))
    assert asked == [change]
    assert progress.waits


def test_own_requests_that_are_put_back_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    member.settle()
    member.host.space.next_segment = Room()
    decoded = decoding(member, monkeypatch)
    busy = Proposed(Fate.REFUSED, refusal=Refusal.TRANSFERRING)
    monkeypatch.setattr(Raft, "propose", lambda _self, _payloads: busy)
    member.host.propose(encode(Delete(b"/k")), lambda _: None, OWN)
    for _ in range(5):
        member.host.tick()
        member.turn()
    assert len(decoded) == 1


def test_many_that_a_leader_did_not_take_are_told_some_at_a_time() -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    done: list[Outcome | Fault] = []
    for _ in range(2 * COMPLETED_AT_ONCE + 1):
        other.host.propose(encode(Set(b"/k", b"v")), done.append, OWN)
    other.woken = False
    other.host.turn()
    requests = tuple(other.host.proposals._slots)
    group.sent.clear()
    other.host.receive(
        [ForwardRefused(leader.id, other.id, other.host.term, RefusalReason.TOO_MANY, requests)] * 2
    )
    seen = []
    while other.woken:
        other.woken = False
        other.host.turn()
        seen.append(len(done))
    assert seen[:3] == [COMPLETED_AT_ONCE, 2 * COMPLETED_AT_ONCE, 2 * COMPLETED_AT_ONCE + 1]
    assert len(done) == seen[2]
    unknown = ForwardRefused(leader.id, other.id, other.host.term, 200, (1,))
    other.host.receive([unknown])


def test_a_stopped_member_refuses_writes_and_changes_of_the_members() -> None:
    member = Solo().lead()
    member.host.stop()
    last = member.host.status().last
    told: list[Outcome | Fault] = []
    member.host.propose(encode(Set(b"/k")), told.append, b"ann")
    member.host.proposer.change_members((Step(StepKind.ADD_LEARNER, NodeId(9)),), b"", told.append)
    member.settle()
    assert told == [stopped(), stopped()]
    assert member.host.status().last == last
