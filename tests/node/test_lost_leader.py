"""A request survives the leader it was given to, and happens once at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.errors import Fault, timed_out
from netstore.node.member import OWN
from netstore.node.proposals import MAX_WAITING, Proposals
from netstore.state.commands import encode
from netstore.state.envelope import command_of, request_of
from netstore.state.v2.commands import InOrder
from netstore.types import Event, Term
from tests.support.contents import nodes_of
from tests.support.group import TIME_LIMIT, Group

if TYPE_CHECKING:
    from netstore.state.machine import Outcome

ENQUEUE = encode(InOrder(b"/queue", b"job"))


def jobs(group: Group, member: int) -> int:
    """How often the command was carried out: each time makes a node."""
    return sum(node.key.startswith(b"/queue/") for node in nodes_of(group[member].machine.tree))


def test_requests_sent_to_a_leader_that_died_are_sent_to_the_next() -> None:
    group = Group(3)
    outcomes: list[Outcome | Fault] = []
    group[1].cut_off = True
    group[2].host.propose(ENQUEUE, outcomes.append, OWN)
    group.settle()
    assert outcomes == []
    group.pass_time(4)
    assert group.leader.id in (2, 3)
    [outcome] = outcomes
    assert isinstance(outcome, Event)
    group[1].cut_off = False
    group.pass_time(1)
    assert [jobs(group, member) for member in (1, 2, 3)] == [1, 1, 1]


def test_requests_the_old_leader_could_not_commit_are_done_once_by_the_new_one() -> None:
    group = Group(3)
    outcomes: list[Outcome | Fault] = []
    group[1].cut_off = True
    group[1].host.propose(ENQUEUE, outcomes.append, OWN)
    group.pass_time(4)
    assert outcomes == []
    assert group.leader.id in (2, 3)
    group[1].cut_off = False
    group.pass_time(2)
    [outcome] = outcomes
    assert isinstance(outcome, Event)
    assert [jobs(group, member) for member in (1, 2, 3)] == [1, 1, 1]


def test_requests_the_old_leader_committed_are_not_done_again() -> None:
    group = Group(3)
    outcomes: list[Outcome | Fault] = []
    group[2].host.propose(ENQUEUE, outcomes.append, OWN)
    # The leader commits it with member 3; member 2, who asked, hears of nothing any more.
    for _ in range(20):
        for peer in group.peers.values():
            if peer.woken:
                peer.woken = False
                peer.host.turn()
            peer.device.sync()
        messages = group.sent.copy()
        group.sent.clear()
        for message in messages:
            if message.to != 2:
                group.carry(message)
        group.tell_commits()
    assert jobs(group, 3) == 1
    assert outcomes == []
    group[1].cut_off = True
    group.pass_time(5)
    [outcome] = outcomes
    assert isinstance(outcome, Event)
    assert [jobs(group, member) for member in (2, 3)] == [1, 1]


def test_a_request_does_not_wait_beyond_its_time() -> None:
    group = Group(3)
    outcomes: list[Outcome | Fault] = []
    group[2].cut_off = group[3].cut_off = True
    group[1].host.propose(ENQUEUE, outcomes.append, OWN)
    group.pass_time(TIME_LIMIT + 0.5)
    [outcome] = outcomes
    assert isinstance(outcome, Fault)
    assert not outcome.outcome_known
    group[2].cut_off = group[3].cut_off = False
    group.pass_time(4)
    assert jobs(group, 1) <= 1


@pytest.mark.parametrize(("term", "again"), [(4, []), (5, [b"first", b"second"]), (6, [b"first", b"second"])])
def test_only_what_is_overtaken_is_queued_again_and_in_order(term: int, again: list[bytes]) -> None:
    proposals = Proposals(1, TIME_LIMIT)
    answered: list[object] = []
    for word in (b"first", b"done", b"second"):
        proposals.add(word, answered.append, OWN)
    slots = proposals.take(9)
    proposals.sent(Term(4), slots)
    proposals.complete(slots[1].request, None)
    proposals.add(b"third", answered.append, OWN)
    proposals.requeue_lost(Term(term))
    assert [command_of(each.payload) for each in proposals.take(9)] == [*again, b"third"]
    assert answered == [None]


def test_lost_requests_are_queued_again_in_their_order() -> None:
    proposals = Proposals(1, TIME_LIMIT)
    old: list[bytes] = []
    for number in range(MAX_WAITING // 4):
        proposals.add(b"%d" % number, lambda _: None, b"ann")
    while batch := proposals.take(100):
        proposals.sent(Term(4), batch)
        old += [slot.payload for slot in batch]
    for payload in old[:-10:2]:
        proposals.complete(request_of(payload), None)
    proposals.add(b"own", lambda _: None, OWN)
    proposals.requeue_lost(Term(5))
    again: list[bytes] = []
    while proposals.queued:
        again += [slot.payload for slot in proposals.take(512)]
    left = [payload for payload in old if proposals.awaits(request_of(payload))]
    assert again[1:] == left
    assert command_of(again[0]) == b"own"


def test_lost_requests_that_timed_out_are_not_sent_again() -> None:
    proposals = Proposals(1, TIME_LIMIT)
    for word in (b"first", b"second"):
        proposals.add(word, lambda _: None, OWN)
    proposals.sent(Term(4), proposals.take(9))
    proposals.requeue_lost(Term(5))
    proposals.now = TIME_LIMIT + 1
    assert proposals.expire(timed_out, 1) == 1
    assert not proposals.take(0)
    assert [command_of(each.payload) for each in proposals._queue.first] == [b"second"]
    assert proposals.expire(timed_out, 9) == 1
    assert not proposals.take(9)


def test_after_a_state_copy_nothing_is_sent_again() -> None:
    proposals = Proposals(1, TIME_LIMIT)
    proposals.add(b"perhaps", lambda _: None, OWN)
    proposals.sent(Term(4), proposals.take(9))
    proposals.snapshot_installed()
    proposals.requeue_lost(Term(9))
    assert not proposals.queued
    assert len(proposals) == 1


def test_requests_known_to_be_lost_are_sent_again_after_a_snapshot_too() -> None:
    proposals = Proposals(1, TIME_LIMIT)
    proposals.add(b"lost", lambda _: None, OWN)
    proposals.sent(Term(4), proposals.take(9))
    proposals.requeue_lost(Term(5))
    proposals.snapshot_installed()
    assert [command_of(each.payload) for each in proposals.take(9)] == [b"lost"]


def test_a_sent_request_is_forgotten_once_it_is_answered() -> None:
    """Though what was sent before it is not."""
    proposals = Proposals(1, TIME_LIMIT)
    proposals.add(b"lost", lambda _: None, OWN)
    proposals.sent(Term(1), proposals.take(9))
    for number in range(100):
        proposals.add(b"%d" % number, lambda _: None, OWN)
        [slot] = proposals.take(9)
        proposals.sent(Term(1), [slot])
        proposals.complete(slot.request, None)
        assert not slot.payload
    assert len(proposals) == len(proposals._slots) == 1
