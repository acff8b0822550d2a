"""Requests that other members forward to a leader: proposed, postponed or refused."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from netstore.errors import Fault, Reason
from netstore.node import backpressure, forwards, host
from netstore.node.backpressure import BEHIND_SECONDS, HELD_BYTES
from netstore.node.forwards import RefusalReason
from netstore.node.logsize import PAYLOADS_PER_TURN
from netstore.node.member import OWN
from netstore.raft.core import Raft
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward, ForwardRefused
from netstore.raft.status import Fate, Proposed, Refusal
from netstore.state.commands import encode
from netstore.state.envelope import request_of, seal
from netstore.state.v2.commands import Delete, Set
from netstore.types import Event, Index, Nanos, NodeId, Term
from tests.support.group import Group
from tests.support.member import ME, Solo
from tests.support.solo import (
    FULL,
    Outcomes,
    Room,
    behind,
    catch_up,
    decoding,
    forward,
    pass_time,
    put,
    told,
    turns,
    value,
)
from tests.support.tree import file_at

if TYPE_CHECKING:
    from netstore.state.machine import Outcome


def test_while_the_engine_is_behind_what_others_ask_waits_within_a_bound() -> None:
    """None of it is in the log: a read would have to wait for it."""
    member, engine = behind()
    last = member.host.status().last
    for number in range(10):
        member.host.receive([message := forward(member, principal=b"%d" % number)])
        turns(member, 2)
        assert not member.woken
    assert member.host.status().last == last
    assert (len(member.host.forwards.postponed), member.host.backed_up) == (8, True)
    catch_up(member, engine)
    assert member.host.machine.applied == last + 8
    postponed = member.host.forwards.postponed
    assert (len(postponed), postponed._held.size, member.host.backed_up) == (0, 0, False)
    member.host.receive([message])
    member.settle()
    assert member.host.machine.applied == last + 9


def test_a_message_without_requests_is_not_postponed() -> None:
    member, _ = behind()
    message = replace(forward(member), payloads=[])
    member.host.receive([message] * 100)
    assert len(member.host.forwards.postponed) == 0


@pytest.mark.parametrize("why", ["late", "full", "term"])
def test_forwarded_requests_wait_no_longer_than_own_ones(why: str) -> None:
    member, engine = behind()
    last = member.host.status().last
    message = forward(member)
    for _ in range(2):
        member.host.receive([message])
        turns(member, 1)
    assert len(member.host.forwards.postponed) == 2
    if why == "late":
        pass_time(member, BEHIND_SECONDS + 0.1)
    elif why == "full":
        member.host.engine_failed(FULL)
        turns(member, 1)
    else:
        for asked in member.host.forwards.postponed.waiting:
            asked.term = Term(message.term - 1)
    if why != "term":
        member.host.receive([message])
    catch_up(member, engine)
    assert (len(member.host.forwards.postponed), member.host.forwards.postponed._held.size) == (0, 0)
    assert member.host.machine.applied == last + (why == "late")


def test_postponed_requests_are_proposed_some_at_a_time() -> None:
    member, engine = behind()
    host = member.host
    [payload] = forward(member, 1).payloads
    many = Forward(NodeId(9), ME, host.term, EntryKind.NORMAL, [payload] * PAYLOADS_PER_TURN)
    host.receive([many] * 3)
    assert len(host.forwards.postponed) == 3 * PAYLOADS_PER_TURN
    last = host.status().last
    engine.late = 0
    engine.eased()
    member.turn()
    assert host.status().last == last + PAYLOADS_PER_TURN
    assert member.woken
    member.settle()
    assert host.status().last == last + 3 * PAYLOADS_PER_TURN


@pytest.mark.parametrize("size", [HELD_BYTES // 8, 9])
def test_forwarded_requests_are_done_once_the_leaders_engine_has_caught_up(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "excess_bytes", lambda: 1)
    group.tick()
    done: list[Outcome | Fault] = []
    for number in range(7):
        other.host.propose(encode(Set(b"/k", bytes(size if number < 6 else 1))), done.append, b"ann")
        group.settle()
    assert done == []
    monkeypatch.undo()
    leader.engine.eased()
    group.settle()
    sizes = [len(each.node.value or b"") for each in done if isinstance(each, Event)]
    assert sizes == [size] * 6 + [1], "in the order in which they were asked"


def test_postponed_requests_wait_while_leadership_is_transferred(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "excess_bytes", lambda: 1)
    group.tick()
    done: list[Outcome | Fault] = []
    other.host.propose(encode(Set(b"/k", b"early")), done.append, OWN)
    group.settle()
    group[3].cut_off = True
    term = leader.host.term
    assert leader.host.transfer(NodeId(3)) is None
    group.settle()
    monkeypatch.undo()
    group.tick()
    other.host.propose(encode(Set(b"/k", b"late")), done.append, OWN)
    group.settle()
    assert (len(leader.host.forwards.postponed), done) == (2, [])
    group.pass_time(2)
    assert [each.node.value for each in done if isinstance(each, Event)] == [b"early", b"late"]
    assert leader.host.term == term, "by the leader it was asked of"


def test_forwarded_requests_wait_while_too_much_is_uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    last = member.host.status().last
    with monkeypatch.context() as patch:
        full = Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
        patch.setattr(Raft, "propose", lambda _self, _payloads: full)
        member.host.receive([forward(member, 1)] * 2)
        turns(member, 3)
        assert not member.woken
        assert len(member.host.forwards.postponed) == 2
    member.host.tick()
    member.settle()
    assert member.host.machine.applied == last + 2


def test_forwarded_requests_wait_behind_postponed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there would be room for it."""
    member = Solo().lead()
    last = member.host.status().last
    real = Raft.propose

    def propose(raft: Raft, payloads: list[bytes]) -> Proposed:
        if len(payloads[0]) > 1_000:
            return Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
        return real(raft, payloads)

    with monkeypatch.context() as patch:
        patch.setattr(Raft, "propose", propose)
        member.host.receive([forward(member, 1_000), forward(member, 1)])
        turns(member, 3)
        assert member.host.status().last == last
    member.host.tick()
    member.settle()
    assert member.host.machine.applied == last + 2


def test_a_leader_serves_its_own_clients_however_much_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others ask waits as its own does while too much is not applied."""
    for module in (backpressure, forwards):
        monkeypatch.setattr(module, "HELD_BYTES", 100_000)
    monkeypatch.setattr(host, "TURN_UNITS", 100)
    member = Solo().lead()
    message = forward(member, 10_000)
    own: Outcomes = []
    start = member.host.machine.applied
    for step in range(300):
        member.clock.now = Nanos(member.clock.now + 10_000_000)
        if step % 10 == 0:
            member.host.tick()
        member.host.receive([message] * (30 if step == 0 else 5))
        if step == 5:
            assert member.host.backpressure.is_overloaded
            own = put(member)
        turns(member, 1)
        assert member.host.forwards.postponed._held.size <= 2 * backpressure.HELD_BYTES
    assert [type(each) for each in own] == [Event]
    assert member.host.machine.applied > start + 1_000


def test_own_requests_and_those_of_others_go_first_by_turns() -> None:
    order = []
    member, engine = behind()
    message = forward(member, 3)
    for _ in range(4):
        engine.late = 1
        member.host.tick()
        turns(member, 1)
        put(member, b"own")
        member.host.receive([message])
        last = member.host.status().last
        engine.late = 0
        engine.eased()
        turns(member, 1)
        assert member.host.status().last == last + 2
        payload = member.host._raft.log.between(Index(last + 1), Index(last + 1))[0].data
        order.append(b"/big" in payload)
        member.settle()
    assert order in ([True, False] * 2, [False, True] * 2)


@pytest.mark.parametrize("short", ["log", "low", "state"])
def test_a_leader_without_room_does_not_let_others_fill_the_log(short: str) -> None:
    member = Solo().lead()
    put(member)
    member.settle()
    last = member.host.status().last
    if short == "log":
        member.host.space.log_error = FULL
    elif short == "low":
        member.host.space.next_segment = Room()
    else:
        member.host.engine_failed(FULL)
    payloads = [*forward(member, 9).payloads, seal(encode(Delete(b"/k")), 1)]
    member.host.receive([Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, payloads)])
    member.settle()
    assert member.host.status().last == last + (short != "log")
    assert value(member) == (b"v" if short == "log" else None)


def test_postponed_requests_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried, and however short of room the member is."""
    member = Solo().lead()
    member.settle()
    message = Forward(
        NodeId(9),
        ME,
        member.host.term,
        EntryKind.NORMAL,
        [seal(encode(Set(b"/k", b"v")), 1), seal(encode(Delete(b"/k")), 2)],
    )
    member.host.space.next_segment = Room()
    decoded = decoding(member, monkeypatch)
    with monkeypatch.context() as patch:
        full = Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
        patch.setattr(Raft, "propose", lambda _self, _payloads: full)
        member.host.receive([message] * 2)
        assert [list(each.requests) for each in told(member)] == [[1], [1]], (
            "at once, and when it is looked at"
        )
        for _ in range(5):
            member.host.tick()
            assert told(member) == []
    assert decoded == [*message.payloads] * 2
    last = member.host.status().last
    member.host.tick()
    member.settle()
    assert member.host.status().last == last + 2
    assert len(decoded) == 4


@pytest.mark.parametrize(
    ("short", "why"),
    [(FULL, RefusalReason.NO_SPACE), (OSError(errno.ENOMEM, "no memory"), RefusalReason.TOO_MANY)],
)
def test_a_leader_without_space_refuses_forwarded_requests(short: OSError, why: RefusalReason) -> None:
    member = Solo().lead()
    member.settle()
    message = forward(member, 9)
    member.host.space.log_error = short
    member.host.receive([message])
    assert told(member) == [
        ForwardRefused(ME, NodeId(9), message.term, why, tuple(map(request_of, message.payloads)))
    ]


def test_a_forwarded_request_too_large_for_the_log_is_refused() -> None:
    member = Solo().lead()
    member.settle()
    message = Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [seal(b"nonsense", 5)])
    member.host.receive([message])
    assert [(each.why, list(each.requests)) for each in told(member)] == [(RefusalReason.FAILED, [5])]


def test_more_than_may_be_postponed_is_refused() -> None:
    member, _ = behind()
    member.host.receive([forward(member, principal=b"%d" % number) for number in range(9)])
    assert len(member.host.forwards.postponed) == 8
    assert [each.why for each in told(member)] == [RefusalReason.TOO_MANY]


@pytest.mark.parametrize("full", [False, True])
def test_postponed_requests_are_refused_some_at_a_time(full: bool) -> None:
    member, _ = behind()
    [payload] = forward(member, 1).payloads
    many = Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [payload] * PAYLOADS_PER_TURN)
    member.host.receive([many] * 3)
    for asked in list(member.host.forwards.postponed.waiting)[2 * PAYLOADS_PER_TURN :]:
        asked.term = Term(many.term - 1)
    if full:
        member.host.engine_failed(FULL)
        turn = told(member)
    else:
        turns(member, 1)
        member.clock.now = Nanos(member.clock.now + int((BEHIND_SECONDS + 0.1) * 1e9))
        member.host.tick()
        turn = told(member)
    why = RefusalReason.NO_SPACE if full else RefusalReason.TOO_MANY
    assert [(each.why, len(each.requests)) for each in turn] == [(why, PAYLOADS_PER_TURN)]
    assert len(member.host.forwards.postponed) == 2 * PAYLOADS_PER_TURN
    assert member.woken
    assert len(told(member)) == 1
    assert told(member) == [], "the leader of another term was asked, and who asked asks again"
    assert (len(member.host.forwards.postponed), member.host.forwards.postponed._held.size) == (0, 0)


@pytest.mark.parametrize(("full", "cause"), [(False, Reason.TOO_MANY.text), (True, Reason.NO_SPACE.text)])
def test_a_client_of_a_follower_is_told_at_once_that_the_leader_refused(
    full: bool, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "excess_bytes", lambda: 1)
    group.tick()
    done: list[Outcome | Fault] = []
    other.host.propose(encode(Set(b"/k", b"v")), done.append, OWN)
    group.settle()
    assert done == []
    if full:
        leader.host.engine_failed(FULL)
        group.settle()
        assert leader.host.problems() == {
            "state cannot be written: no space left on device": "free disk space"
        }
    else:
        group.pass_time(BEHIND_SECONDS + 0.2)
    [fault] = done
    assert isinstance(fault, Fault)
    assert (fault.cause.decode(), fault.outcome_known) == (cause, True)
    monkeypatch.undo()
    leader.host.space.state_error = None
    leader.engine.eased()
    group.pass_time(1)
    assert file_at(other.machine.tree, b"/k") is None, "it was not done, and is not"
    assert len(done) == 1
