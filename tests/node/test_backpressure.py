"""While entries cannot be applied fast enough: what waits, what is refused, and what is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.errors import Fault, Reason
from netstore.node import backpressure, host
from netstore.node.backpressure import BEHIND_SECONDS, HELD_BYTES
from netstore.node.lessor import Lessor
from netstore.node.logsize import PAYLOADS_PER_TURN
from netstore.node.member import OWN
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.messages import Append
from netstore.state.commands import encode
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import (
    LeaseGrant,
)
from netstore.types import Event, Index, Term
from tests.support.group import Group
from tests.support.member import Solo
from tests.support.solo import (
    FULL,
    Slow,
    behind,
    catch_up,
    pass_time,
    put,
    refusal,
    refusal_of_next,
    turns,
    value,
)
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.state.machine import Outcome


def test_while_the_engine_is_behind_nothing_is_applied_and_what_is_asked_waits() -> None:
    engine = Slow(lambda call: call(), TABLES)
    member = Solo(engine=engine).lead()
    member.settle()
    outcomes = put(member)
    member.turn()
    engine.late = 1
    member.device.sync()
    turns(member, 3)
    status = member.host.status()
    assert outcomes == [], "committed, and kept by the log alone"
    assert member.host.commit_index == member.host.machine.applied + 1
    later = [put(member, b"%d" % number) for number in range(2 * PAYLOADS_PER_TURN)]
    for _ in range(9):
        turns(member, 1)
        assert not member.woken, "there is nothing to do before the engine has made a commit"
        pass_time(member, 0.1)
    assert later == [[]] * len(later)
    assert member.host.status().last == status.last
    catch_up(member, engine)
    assert [len(each) for each in (outcomes, *later)] == [1] * (1 + len(later))
    assert not any(isinstance(each[0], Fault) for each in later)
    assert value(member) == b"%d" % (len(later) - 1)
    assert member.lines.events.count("state_behind") == member.lines.events.count("state_caught_up") == 1


def test_requests_are_refused_when_the_engine_has_been_behind_for_too_long() -> None:
    member, engine = behind()
    pass_time(member, 2 * BEHIND_SECONDS)
    waiting = [put(member) for _ in range(2 * COMPLETED_AT_ONCE)]
    turns(member, 1)
    pass_time(member, BEHIND_SECONDS - 0.1)
    assert waiting == [[]] * len(waiting)
    pass_time(member, 0.2)
    assert [len(each) for each in waiting] == [1] * COMPLETED_AT_ONCE + [0] * COMPLETED_AT_ONCE, (
        "some at a time"
    )
    turns(member, 2)
    assert {refusal(each) for each in waiting} == {Reason.TOO_MANY.text}
    assert all(isinstance(each[0], Fault) and each[0].outcome_known for each in waiting)
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    catch_up(member, engine)
    engine.late = 1
    member.host.tick()
    after = put(member)
    turns(member, 2)
    assert after == [], "its time begins anew"
    catch_up(member, engine)
    assert isinstance(after[0], Event)


def test_requests_are_refused_at_once_when_the_engine_has_no_space() -> None:
    member, engine = behind()
    waiting = put(member)
    turns(member, 1)
    assert waiting == []
    member.host.engine_failed(FULL)
    turns(member, 1)
    assert refusal(waiting) == Reason.NO_SPACE.text, "without a tick"
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    catch_up(member, engine)


def test_while_the_engine_is_behind_reads_go_on() -> None:
    member, _ = behind()
    waiting = put(member)
    reads: list[Fault | None] = []
    member.host.read(reads.append, "bob")
    turns(member, 2)
    assert (waiting, reads) == ([], [None])


def test_while_the_engine_is_behind_no_lease_ends_whose_renewal_waits() -> None:
    engine = Slow(lambda call: call(), TABLES)
    member = Solo(engine=engine).lead()
    lessor = Lessor(member.host, 0.0)
    member.host.propose(encode(LeaseGrant(1, 2)), lambda _: None, OWN)
    member.settle()
    lessor.look()
    pass_time(member, 1.7)
    engine.late = 1
    pass_time(member, 0.1)
    told: list[int | Fault] = []
    lessor.keep_alive(1, told.append, "ann")
    pass_time(member, 0.7)
    lessor.look()
    turns(member, 1)
    assert told == []
    catch_up(member, engine)
    assert told == [2]
    lessor.look()
    member.settle()
    assert list(member.host.machine.leases.timed_keys()) == [1]
    pass_time(member, 2.1)
    lessor.look()
    member.settle()
    assert list(member.host.machine.leases.timed_keys()) == []


@pytest.mark.parametrize("where", ["queued", "put off", "passed on"])
def test_no_lease_ends_whose_renewal_waits_somewhere(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a leader that has much to apply, or at one whose engine is behind, of a follower; or at a follower
    whose own engine is behind.
    """
    group = Group(3)
    leader, other = group[1], group[2]
    asked_of = leader if where == "queued" else other
    lessors = Lessor(leader.host, 0.0), Lessor(asked_of.host, 0.0)
    other.host.propose(encode(LeaseGrant(5, 2)), lambda _: None, OWN)
    group.settle()
    lessors[0].look()
    group.pass_time(1.7)
    with monkeypatch.context() as patch:
        if where == "queued":
            patch.setattr(leader.host.applier, "waiting_bytes", HELD_BYTES + 1)
        else:
            patch.setattr((leader if where == "put off" else other).engine, "excess_bytes", lambda: 1)
        group.tick()
        told: list[int | Fault] = []
        lessors[1].keep_alive(5, told.append, "ann")
        group.settle()
        group.pass_time(0.4)
        lessors[0].look()
        group.settle()
        assert told == []
    if where == "put off":
        leader.host.backpressure.look()  # what was put off waits still
        leader.host.proposer._own_is_first = True
        lessors[0].look()
    group.tick()
    group.settle()
    assert told == [2]
    lessors[0].look()
    group.pass_time(2.5)
    lessors[0].look()
    group.settle()
    assert leader.machine.leases.get(5) is None


@pytest.mark.parametrize("why", ["behind", "late"])
def test_requests_are_refused_only_when_nothing_could_be_proposed(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is slow for long, but lets something through now and then, refuses nothing."""
    member = Solo(engine=(engine := Slow(lambda call: call(), TABLES))).lead()
    member.settle()
    member.host.tick()

    def crowd(is_crowded: int) -> None:
        if why == "behind":
            engine.late = is_crowded
        else:
            member.host.applier.waiting_bytes = is_crowded * (HELD_BYTES + 1)
        member.host.tick()

    for _ in range(5):
        crowd(1)
        waiting = put(member)
        turns(member, 1)
        pass_time(member, BEHIND_SECONDS - 0.1)
        assert waiting == []
        crowd(0)
        member.settle()
        assert [type(each) for each in waiting] == [Event]
    crowd(1)
    pass_time(member, 5.0)
    waiting = put(member)
    turns(member, 1)
    pass_time(member, BEHIND_SECONDS - 0.1)
    assert waiting == []
    pass_time(member, 0.2)
    assert refusal(waiting) == Reason.TOO_MANY.text
    crowd(0)
    member.settle()


def test_a_follower_passes_on_what_it_is_asked_whatever_its_engine_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(other.engine, "excess_bytes", lambda: 1)
    group.tick()
    done: list[Outcome | Fault] = []
    other.host.propose(encode(Set(b"/k", b"v")), done.append, OWN)
    group.settle()
    assert file_at(leader.machine.tree, b"/k") is not None
    assert done == [], "it answers by its own state"
    monkeypatch.undo()
    other.engine.eased()
    group.settle()
    assert [type(each) for each in done] == [Event]


def test_messages_held_are_counted_once_however_often_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    leader, late = group[1].host, group[2].host
    group.pass_time(1)  # the feature level is raised, which is an entry
    monkeypatch.setattr(group[2].engine, "excess_bytes", lambda: 1)
    group.tick()
    applied = late.machine.applied
    big = encode(Set(b"/big", bytes(HELD_BYTES // 5)))
    leader.propose(big, lambda _: None, OWN)
    leader.turn()
    [append] = [each for each in group.sent if isinstance(each, Append) and each.to == late.id]
    for _ in range(10):
        late.receive([append])
    for _ in range(6):
        leader.propose(big, lambda _: None, OWN)
        group.settle()
    assert late.machine.applied == applied
    assert late.status().last == applied + 4, "a fifth does not fit"
    monkeypatch.undo()
    group.pass_time(1)
    assert late.machine.applied == leader.machine.applied == applied + 7


def test_while_much_is_committed_and_not_applied_own_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    member.settle()
    monkeypatch.setattr(host, "TURN_UNITS", 0)
    start = member.host.status().last
    outcomes = [put(member, bytes(HELD_BYTES // 4)) for _ in range(5)]
    turns(member, 5)
    later = [put(member, b"%d" % number) for number in range(3)]
    turns(member, 5)
    status = member.host.status()
    assert (status.last, status.commit, status.applied) == (start + 5, start + 5, start)
    assert outcomes == [[]] * 5
    assert later == [[]] * 3, "neither proposed nor refused"
    monkeypatch.undo()
    member.settle()
    assert [len(each) for each in outcomes + later] == [1] * 8
    assert value(member) == b"2"
    assert member.host.applier.waiting_bytes == 0


def test_requests_are_proposed_in_the_turn_after_all_was_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "HELD_BYTES", 100)
    member = Solo().lead()
    member.settle()
    with monkeypatch.context() as patch:
        patch.setattr(host, "TURN_UNITS", 0)
        put(member, bytes(100))
        put(member, bytes(100))
        turns(member, 5)
        assert member.host.backpressure.is_overloaded
        later = put(member)
        turns(member, 1)
    member.settle()
    assert [type(each) for each in later] == [Event]


def test_while_more_is_not_applied_what_others_send_is_lost_and_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group(3)
    leader, late = group[1].host, group[2].host
    group.tick()
    start = late.machine.applied
    monkeypatch.setattr(backpressure, "UNAPPLIED_BYTES", 1 << 20)
    apply = late.applier.apply

    def only_queue(committed: Sequence[Entry] = ()) -> bool:
        late.applier.work_limit = 0
        return apply(committed)

    monkeypatch.setattr(late.applier, "apply", only_queue)
    monkeypatch.setattr(late, "_wake", lambda: None)
    entry = Entry(Index(1), late.term, EntryKind.NORMAL, b"payload")
    message = Append(leader.id, late.id, late.term, Index(0), Term(0), Index(0), [entry])
    assert late.backpressure.accepts(message)
    big = encode(Set(b"/big", bytes((1 << 20) // 64)))
    for _ in range(80):
        leader.propose(big, lambda _: None, OWN)
        for _ in range(3):
            group.settle()
            late.turn()
            group[2].device.sync()
    assert leader.machine.applied == start + 80
    assert start + 63 <= late.status().last <= start + 66
    assert late.machine.applied == start
    assert not late.backpressure.accepts(message)
    monkeypatch.undo()
    group.pass_time(1)
    assert late.machine.applied == leader.machine.applied == start + 80
    assert late.backpressure.accepts(message)


def test_a_stall_counts_from_when_something_waits() -> None:
    """Not from when something else did, which went before."""
    member, engine = behind()
    early = put(member)
    turns(member, 1)
    assert member.host.proposer.stalled_since is not None
    member.host.proposals.refuse(member.host.proposals.take(9), Fault(300, b"gone"))
    assert len(early) == 1
    turns(member, 1)
    pass_time(member, 5 * BEHIND_SECONDS)
    late = put(member)
    turns(member, 1)
    assert late == []
    pass_time(member, BEHIND_SECONDS - 0.1)
    assert late == []
    pass_time(member, 0.2)
    assert refusal(late) == Reason.TOO_MANY.text
    pass_time(member, 5 * BEHIND_SECONDS)
    last = put(member)
    turns(member, 1)
    assert last == [], "what was refused waits no more"
    catch_up(member, engine)
    assert [type(each) for each in last] == [Event]
