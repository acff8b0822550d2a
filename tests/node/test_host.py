"""The host of a member alone: what is acknowledged and when, full disks, broken disks, restarts."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.disk.engine import MemoryEngine
from netstore.disk.frame import Identity
from netstore.disk.wal import Wal
from netstore.errors import CorruptData, Fault, Reason
from netstore.limits import Budget
from netstore.meter import Parts
from netstore.node import backpressure, forwards, host, logcompaction
from netstore.node.applier import TURN_UNITS
from netstore.node.background import BUSY_SECONDS
from netstore.node.backpressure import BEHIND_SECONDS, HELD_BYTES
from netstore.node.forwards import Why
from netstore.node.lessor import Lessor
from netstore.node.logcompaction import CATCH_UP_ENTRIES
from netstore.node.logsize import BYTES_PER_TURN, PAYLOADS_PER_TURN
from netstore.node.logwriter import DiskFailed
from netstore.node.member import OWN
from netstore.node.pacing import DEBT_SECONDS, SPARE_PART, Pacing
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.node.timekeeper import Deadlines
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, Entry, EntryKind, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Append, Forward, ForwardRefused, InstallSnapshot
from netstore.raft.progress import Progress
from netstore.raft.status import Fate, Proposed, Refusal
from netstore.seams import SyncFailed
from netstore.state.applying import UNIT_BYTES
from netstore.state.commands import encode
from netstore.state.envelope import request_of, seal
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Delete, QuorumGet, Set
from netstore.state.v3.commands import (
    BY_MOD,
    Compact,
    DeleteRange,
    Found,
    LeaseGrant,
    LeaseRenew,
    Put,
    PutDone,
    Range,
    SetAlarm,
    Txn,
)
from netstore.state.v3.reads import STEP_UNITS, RangeRead
from netstore.types import Event, Index, Nanos, NodeId, Term
from netstore.watch.hub import MAX_WAITING
from netstore.watch.watches import Watches
from tests.support.group import Group
from tests.support.local_member import HandClock
from tests.support.member import CLUSTER, ME, Solo
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.messages import Message
    from netstore.raft.status import Status
    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from netstore.state.v3.commands import V3Command

Outcomes = list["Outcome | Fault"]
FULL = OSError(errno.ENOSPC, "No space left on device")


def put(member: Solo, value: bytes = b"v", principal: bytes = b"") -> Outcomes:
    """Propose a set and give the list its outcome will appear in."""
    outcomes: Outcomes = []
    member.host.propose(encode(Set(path=b"/k", value=value)), outcomes.append, principal)
    return outcomes


def value(member: Solo) -> bytes | None:
    found = member.host.machine.v2.get(b"/k")
    return found.node.value if isinstance(found, Event) else None


def refusal(outcomes: Outcomes) -> str:
    [outcome] = outcomes
    assert isinstance(outcome, Fault)
    return outcome.cause.decode()


def test_nothing_is_acknowledged_before_it_is_synced() -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    assert member.device.waiting
    assert outcomes == []
    member.settle()
    assert isinstance(outcomes[0], Event)


def lone(member: Solo) -> Solo:
    """The batch before was a single entry in a turn that nobody waited for; the disk is fast from now on."""
    put(member)
    member.host.turn(alone=True)
    member.settle()
    member.device.fast = True
    return member


def test_a_lone_write_is_synced_applied_and_answered_in_one_turn() -> None:
    member = lone(Solo().lead())
    outcomes = put(member, b"lone")
    member.woken = False
    member.host.turn(alone=True)
    assert isinstance(outcomes[0], Event)
    assert value(member.crashed().lead()) == b"lone"
    assert not member.woken, "nothing is left to do"


@pytest.mark.parametrize("why", ["not alone", "two", "after two", "under way", "slow"])
def test_others_are_not_kept_waiting_for_a_sync(why: str) -> None:
    member = lone(Solo().lead())
    if why == "after two":
        member.device.fast = False
        put(member)
        put(member)
        member.host.turn(alone=True)
        member.settle()
        member.device.fast = True
    if why == "under way":
        put(member)
        member.turn()
    if why == "two":
        put(member)
    if why == "slow":
        member.device.fast = False
    outcomes = put(member)
    member.host.turn(alone=why != "not alone")
    assert outcomes == []
    assert member.device.waiting
    member.settle()
    assert isinstance(outcomes[0], Event)


def test_after_a_group_one_lone_write_goes_by_the_writer() -> None:
    """Two clients that write without pause never are alone for two writes in a row."""
    member = lone(Solo().lead())
    put(member)
    member.turn()
    member.settle()
    first = put(member)
    member.host.turn(alone=True)
    assert first == []
    member.settle()
    second = put(member)
    member.host.turn(alone=True)
    assert isinstance(second[0], Event)


def test_a_lone_write_that_fails_ends_the_member_before_anybody_is_told() -> None:
    member = lone(Solo().lead())
    outcomes = put(member)
    member.device.failure = SyncFailed(errno.EIO, "sync failed")
    with pytest.raises(DiskFailed):
        member.host.turn(alone=True)
    assert outcomes == []


def test_a_lone_write_that_finds_no_room_waits_for_some() -> None:
    member = lone(Solo().lead())
    outcomes = put(member, b"stuck")
    member.device.failure = FULL
    member.host.turn(alone=True)
    assert refusal(outcomes) == Reason.NO_SPACE.text
    member.device.failure = None
    member.host.retry_writes()
    member.settle()
    assert value(member) == b"stuck", "it was told that its outcome is not known"


def test_members_that_others_vote_beside_leave_each_sync_to_the_writer() -> None:
    """A disk that stalls is to stop the loop of no leader, and of nobody who may become it."""
    group = Group(3)
    leader, follower = group.leader, group[3]
    leader.device.fast = follower.device.fast = True
    for _ in range(3):
        outcomes: Outcomes = []
        leader.host.propose(encode(Set(path=b"/k")), outcomes.append, OWN)
        leader.host.turn(alone=True)
        assert leader.device.waiting
        brought = [each for each in group.sent if each.to == follower.id]
        group.sent[:] = [each for each in group.sent if each.to != follower.id]
        follower.host.receive(brought)
        follower.host.turn(alone=True)
        assert follower.device.waiting
        group.settle()
        assert isinstance(outcomes[0], Event)


def test_while_members_that_leave_still_vote_nothing_is_given_up_and_nobody_votes_alone() -> None:
    """In a joint configuration a majority of the old voters is needed too."""
    member = Solo().lead()
    member.settle()
    assert member.host.is_only_voter
    outcomes = put(member)
    member.turn()
    member.host._raft.conf = ConfState(voters=(ME,), voters_outgoing=(ME, NodeId(9)))
    assert not member.host.is_only_voter
    member.device.fail(FULL)
    assert member.host.problems() == ["log cannot be written: no space left on device"]
    assert outcomes == [], "the entry may be committed by the others"


def test_what_arrives_during_a_sync_is_the_next_batch() -> None:
    member = Solo().lead()
    put(member)
    member.turn()
    for _ in range(10):
        put(member)
    member.turn()
    assert len(member.device.waiting) == 2


def test_outcomes_come_in_the_order_of_the_log() -> None:
    member = Solo().lead()
    order: list[int] = []
    for number in range(5):
        member.host.propose(encode(Set(path=b"/k")), lambda _, number=number: order.append(number), OWN)  # type: ignore[misc]
    member.settle()
    assert order == [0, 1, 2, 3, 4]


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=12), st.data())
def test_a_crash_loses_nothing_that_was_acknowledged(values: list[bytes], data: st.DataObject) -> None:
    """Whatever the disk had let through and wherever the state's own commits stood."""
    member = Solo().lead()
    answers = []
    for each in values:
        answers.append((each, put(member, each)))
        member.turn()
        member.device.sync(data.draw(st.integers(0, len(member.device.waiting))))
        member.turn()
        if data.draw(st.booleans()):
            member.engine.commit(data.draw(st.integers(0, 3)))
    acknowledged = [each for each, outcomes in answers if outcomes]
    after = member.crashed().lead()
    assert value(after) in (values[len(acknowledged) - 1 :] if acknowledged else [None, *values])


def test_a_full_disk_refuses_writes_and_heals() -> None:
    member = Solo().lead()
    put(member, b"kept")
    member.settle()
    stuck = put(member, b"stuck")
    member.turn()
    member.device.fail(FULL)
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    assert value(member) == b"kept"
    member.host.retry_writes()
    member.device.fail(FULL)
    assert refusal(stuck) == Reason.NO_SPACE.text, "at once, and not when its time is over"
    assert isinstance(stuck[0], Fault)
    assert not stuck[0].outcome_known
    member.host.retry_writes()
    member.settle()
    assert len(stuck) == 1
    assert value(member) == b"stuck"
    assert member.lines.events.count("log_not_writable") == 2
    after = put(member, b"after")
    member.settle()
    assert isinstance(after[0], Event)
    assert value(member.crashed().lead()) == b"after"


def puts_without_memory(member: Solo, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcomes, Outcomes]:
    """A write that is under way, and one for whose record of the log there is no memory."""

    def short(*_arguments: object) -> None:
        raise MemoryError

    first = put(member, b"first")
    member.turn()
    monkeypatch.setattr("netstore.disk.wal.lay", short)
    second = put(member, b"second")
    member.turn()
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    return first, second


def test_no_memory_for_a_record_of_the_log_keeps_it_and_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    put(member, b"kept")
    member.settle()
    first, second = puts_without_memory(member, monkeypatch)
    member.host.retry_writes()
    assert len(member.device.waiting) == 1, "the first is still under way"
    member.settle()
    member.host.retry_writes()
    assert isinstance(first[0], Event)
    assert second == []
    monkeypatch.undo()
    member.host.retry_writes()
    member.settle()
    assert isinstance(second[0], Event)
    assert value(member.crashed().lead()) == b"second"


def test_want_of_room_is_told_also_where_memory_was_wanted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    first, second = puts_without_memory(member, monkeypatch)
    member.device.fail(FULL)
    assert [refusal(first), refusal(second)] == [Reason.NO_SPACE.text, Reason.NO_SPACE.text], (
        "at once, as where only that is wanted"
    )
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    assert member.host.problems() == ["log cannot be written: no space left on device"]
    monkeypatch.undo()
    member.host.retry_writes()
    member.settle()
    assert value(member) == b"second", "nobody was told that it did not happen"


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EMFILE])
def test_what_is_missing_for_now_is_waited_for(code: int) -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    member.device.fail(OSError(code, os.strerror(code)))
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    member.host.retry_writes()
    member.settle()
    assert isinstance(outcomes[0], Event)
    member.host.engine_failed(OSError(code, os.strerror(code)))
    member.turn()


def refusal_of_next(member: Solo) -> str:
    outcomes = put(member)
    member.turn()
    return refusal(outcomes)


@pytest.mark.parametrize("error", [SyncFailed(errno.EIO, "I/O error"), OSError(errno.EIO, "I/O error")])
def test_a_broken_disk_ends_the_member_before_it_answers(error: OSError) -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    member.device.fail(error)
    with pytest.raises(DiskFailed, match="nothing unsaved was acknowledged"):
        member.turn()
    member.host.stop()
    assert refusal(outcomes) == Reason.STOPPED.text


def test_a_state_that_finds_no_room_refuses_writes_until_it_does() -> None:
    member = Solo().lead()
    member.settle()
    member.host.engine_failed(FULL)
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    member.engine.commit()
    member.host.retry_writes()
    outcomes = put(member)
    member.settle()
    assert isinstance(outcomes[0], Event)


def test_while_the_state_finds_no_room_what_only_removes_is_done() -> None:
    member = Solo().lead()
    member.settle()
    put(member)
    member.settle()
    member.host.engine_failed(FULL)
    outcomes: Outcomes = []
    commands: list[Command | V3Command] = [
        Set(b"/other", b"v"),
        Delete(b"/k"),
        Set(b"/third", b"v"),
        DeleteRange(b"k"),
    ]
    for command in commands:
        member.host.propose(encode(command), outcomes.append, OWN)
    member.settle()
    refused = [each for each in outcomes if isinstance(each, Fault)]
    assert [refusal([each]) for each in refused] == [Reason.NO_SPACE.text] * 2
    assert len(outcomes) == 4
    assert value(member) is None


class _Room:
    """A disk without room for the next file of the log."""

    def __init__(self) -> None:
        self.low: OSError | None = FULL
        self.tries = 0

    def try_room(self) -> None:
        self.tries += 1


def test_a_log_that_is_low_on_room_takes_what_only_removes() -> None:
    member = Solo().lead()
    put(member)
    member.settle()
    room = member.host.space.room = _Room()
    outcomes: Outcomes = []
    wide = DeleteRange(b"a", b"b")
    commands: list[tuple[Command | V3Command, bool]] = [
        (Set(b"/other", b"v"), False),
        (Put(b"a"), False),
        (Delete(b"/k"), True),
        (wide, True),
        (Txn((), (wide, Range(b"a")), (Txn((), (wide,)),)), True),
        (Txn((), (wide,), (Txn((), (Put(b"a"),)),)), False),
        (Compact(1), True),
        (LeaseGrant(1, 60), False),
        (SetAlarm(1, 1, active=False), True),
    ]
    for command, possible in commands:
        outcomes.clear()
        member.host.propose(encode(command), outcomes.append, OWN)
        member.turn()
        refused = bool(outcomes) and isinstance(outcomes[0], Fault) and outcomes[0].reason is Reason.NO_SPACE
        assert refused is not possible, command
        member.settle()
        assert len(outcomes) == 1, command
    assert value(member) is None
    assert member.lines.events.count("log_low_on_room") == 1
    assert member.host.problems() == ["log has no room to grow: no space left on device"]
    member.host.retry_writes()
    assert room.tries == 1
    room.low = None
    put(member)
    member.settle()
    assert value(member) == b"v"
    assert member.lines.events.count("log_has_room") == 1


def test_while_the_log_finds_no_room_nothing_is_done() -> None:
    member = Solo().lead()
    member.settle()
    member.host.space.log_error = FULL
    outcomes: Outcomes = []
    member.host.propose(encode(Delete(b"/k")), outcomes.append, OWN)
    member.settle()
    assert refusal(outcomes) == Reason.NO_SPACE.text
    assert member.host.problems() == ["log cannot be written: no space left on device"]


class Slow(MemoryEngine):
    """An engine that says how far it is behind."""

    late = 0

    def behind(self) -> int:
        return self.late


def behind() -> tuple[Solo, Slow]:
    """A leader whose engine is behind."""
    engine = Slow(lambda call: call(), TABLES)
    member = Solo(engine=engine).lead()
    member.settle()
    engine.late = 1
    member.host.tick()
    turns(member, 2)
    assert member.host.holding
    assert not member.woken
    return member, engine


def pass_time(member: Solo, seconds: float) -> None:
    member.clock.now = Nanos(member.clock.now + int(seconds * 1e9))
    member.host.tick()
    turns(member, 1)


def catch_up(member: Solo, engine: Slow) -> None:
    """The engine makes a commit, and says so."""
    engine.late = 0
    engine.eased()
    member.settle()


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


def test_what_waits_for_the_engine_is_refused_when_it_has_been_behind_for_too_long() -> None:
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


def test_what_waits_for_an_engine_that_finds_no_room_is_refused_at_once() -> None:
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
            patch.setattr((leader if where == "put off" else other).engine, "behind", lambda: 1)
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


def forward(member: Solo, size: int = HELD_BYTES // 4 - 200, principal: bytes = b"") -> Forward:
    payload = member.host.proposals.open(encode(Set(b"/big", bytes(size))), lambda _: None, principal)
    assert payload is not None
    member.host.proposals.fail_all(Fault(300, b"only the payload is wanted"))
    return Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [payload])


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


def test_what_asks_for_nothing_is_not_put_off() -> None:
    member, _ = behind()
    message = replace(forward(member), payloads=[])
    member.host.receive([message] * 100)
    assert len(member.host.forwards.postponed) == 0


@pytest.mark.parametrize("why", ["late", "full", "term"])
def test_what_others_ask_waits_no_longer_than_what_is_asked_here(why: str) -> None:
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
        for asked in member.host.forwards.postponed._waiting:
            asked.term = Term(message.term - 1)
    if why != "term":
        member.host.receive([message])
    catch_up(member, engine)
    assert (len(member.host.forwards.postponed), member.host.forwards.postponed._held.size) == (0, 0)
    assert member.host.machine.applied == last + (why == "late")


def test_what_others_asked_is_taken_some_at_a_time() -> None:
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
def test_what_a_member_asks_of_a_leader_whose_engine_is_behind_is_done_when_it_is_no_more(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "behind", lambda: 1)
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


def test_what_was_put_off_waits_while_leadership_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "behind", lambda: 1)
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


def test_what_others_ask_waits_for_what_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_others_ask_waits_behind_what_waits_already(monkeypatch: pytest.MonkeyPatch) -> None:
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
            assert member.host.backpressure.crowded
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


@pytest.mark.parametrize("why", ["behind", "late"])
def test_what_waits_is_refused_only_when_nothing_could_be_proposed(
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
    monkeypatch.setattr(other.engine, "behind", lambda: 1)
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


@pytest.mark.parametrize("short", ["log", "low", "state"])
def test_a_leader_without_room_does_not_let_others_fill_the_log(short: str) -> None:
    member = Solo().lead()
    put(member)
    member.settle()
    last = member.host.status().last
    if short == "log":
        member.host.space.log_error = FULL
    elif short == "low":
        member.host.space.room = _Room()
    else:
        member.host.engine_failed(FULL)
    payloads = [*forward(member, 9).payloads, seal(encode(Delete(b"/k")), 1)]
    member.host.receive([Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, payloads)])
    member.settle()
    assert member.host.status().last == last + (short != "log")
    assert value(member) == (b"v" if short == "log" else None)


def test_a_state_that_failed_once_is_writable_after_the_next_commit_whatever_that_held() -> None:
    """Also one that moves no index, as of what a sweep erased."""
    member = Solo().lead()
    put(member)
    member.settle()
    member.engine.commit()
    member.host.machine.sweep()
    member.engine.fail(FULL)
    member.host.engine_failed(FULL)
    member.host.retry_writes()
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    member.engine.fail(None)
    member.engine.commit()
    member.host.retry_writes()
    outcomes = put(member)
    member.settle()
    assert [type(each) for each in outcomes] == [Event]
    assert member.lines.events.count("state_writable") == 1


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


def test_what_the_log_has_room_for_again_is_given_up_no_more() -> None:
    member = Solo().lead()
    outcomes = [put(member) for _ in range(2 * COMPLETED_AT_ONCE)]
    member.turn()
    member.device.fail(FULL)
    member.host.retry_writes()
    member.settle()
    assert [isinstance(each, Event) for [each] in outcomes] == [False] * COMPLETED_AT_ONCE + [
        True
    ] * COMPLETED_AT_ONCE


def test_what_is_held_is_counted_once_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    leader, late = group[1].host, group[2].host
    monkeypatch.setattr(group[2].engine, "behind", lambda: 1)
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


def turns(member: Solo, count: int) -> None:
    for _ in range(count):
        member.turn()
        member.device.sync()


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


def test_what_waits_is_proposed_in_the_turn_after_all_was_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "HELD_BYTES", 100)
    member = Solo().lead()
    member.settle()
    with monkeypatch.context() as patch:
        patch.setattr(host, "TURN_UNITS", 0)
        put(member, bytes(100))
        put(member, bytes(100))
        turns(member, 5)
        assert member.host.backpressure.crowded
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


def test_watchers_of_the_tree_hold_up_no_write() -> None:
    member = Solo().lead()
    ends: list[None] = []

    def deliver(event: Event | None) -> bool:
        if event is None:
            ends.append(None)
        return event is not None

    for _ in range(2_000):
        member.host.hub.watch(b"/k", False, True, 1, deliver)
    for number in range(2 * MAX_WAITING):
        outcomes = put(member, b"%d" % number)
        member.turn()
        member.device.sync()
        member.turn()
        assert len(outcomes) == 1
        assert len(member.host.hub._waiting) <= MAX_WAITING + 10, "while they are being ended"
    assert len(ends) == 2_000 - member.host.hub.count


def test_a_state_that_breaks_ends_the_member() -> None:
    member = Solo().lead()
    member.host.engine_failed(OSError(errno.EIO, "I/O error"))
    with pytest.raises(DiskFailed):
        member.turn()


def test_a_request_without_an_answer_is_told_so_in_time() -> None:
    member = Solo()
    outcomes = put(member)
    member.turn()
    member.clock.now += 6_000_000_000  # type: ignore[assignment]
    member.host.tick()
    assert outcomes == []
    member.clock.now += 2_000_000_000  # type: ignore[assignment]
    member.host.tick()
    assert refusal(outcomes) == Reason.TIMED_OUT.text
    member.lead()
    assert value(member) is None, "what timed out before it was proposed is never proposed"


def test_a_stopped_member_answers_at_once() -> None:
    member = Solo().lead()
    waiting = put(member)
    member.host.stop()
    assert refusal(waiting) == refusal(put(member)) == Reason.STOPPED.text


def test_a_read_waits_for_the_log() -> None:
    member = Solo().lead()
    reads: list[Fault | None] = []
    put(member)
    member.host.read(reads.append)
    member.settle()
    assert reads == [None]
    assert value(member) == b"v"


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
    member.host.snapshot_sending.ended(ME, ok=False, begun=False)


@pytest.mark.parametrize("fault", [KeyError("x"), CorruptData("x"), MemoryError()])
def test_a_copy_that_is_taken_half_ends_the_member(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def step(*_: object) -> NoReturn:
        raise fault

    member = Solo().lead()
    monkeypatch.setattr(Raft, "step", step)
    wish = InstallSnapshot(NodeId(9), ME, Term(9), SnapshotMeta())
    with pytest.raises(InvariantBroken, match="taken half"):
        member.host.snapshot_install.receive(wish, None)


def test_a_read_without_a_leader_is_refused() -> None:
    member = Solo()
    reads: list[Fault | None] = []
    member.host.read(reads.append)
    member.turn()
    member.clock.now += 8_000_000_000  # type: ignore[assignment]
    member.host.tick()
    assert reads
    assert isinstance(reads[0], Fault)


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


def forgetting() -> Solo:
    """A member whose log is marked, which the disk has not kept yet."""
    member = Solo(snapshot_count=10, log_budget=Budget(20_000)).lead()
    for _ in range(50):
        member.host.propose(encode(QuorumGet(path=b"/" + b"x" * 1000)), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    assert member.host.compaction.compact()
    assert len(member.device.waiting) == 1
    return member


def test_what_is_given_behind_a_mark_that_finds_no_room_waits_for_it() -> None:
    """The disk reports one failure after the other: what comes between two of them must not be kept while
    what was given before it is not.
    """
    member = forgetting()
    lost = put(member, b"lost")
    member.turn()
    persisted = member.host._raft.log.persisted
    member.device.fail(FULL, writes=1)
    between = put(member, b"between")
    member.host.campaign()
    member.turn()
    assert refusal(between) == Reason.NO_SPACE.text
    assert len(member.device.waiting) == 1, "nothing is given until all that failed is reported"
    member.device.fail(FULL)
    member.turn()
    assert member.host._raft.log.persisted == persisted
    member.host.retry_writes()
    after = put(member, b"after")
    member.settle()
    assert isinstance(after[0], Event)
    assert len(lost) == 1
    assert member.host._raft.log.persisted == persisted + 2
    again = member.crashed()
    assert again.host.compaction.compacted == member.host.compaction.compacted
    assert value(again.lead()) == b"after"


@pytest.mark.parametrize("lack", ["room", "memory"])
def test_a_mark_that_could_not_be_written_is_written_when_it_can(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Solo(snapshot_count=10, log_budget=Budget(20_000)).lead()
    for _ in range(50):
        member.host.propose(encode(QuorumGet(path=b"/" + b"x" * 1000)), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    dropped: list[Index] = []
    monkeypatch.setattr(member.host._writer._wal, "drop_before", dropped.append)
    if lack == "memory":

        def short(*_arguments: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr("netstore.disk.wal.lay", short)
            assert member.host.compaction.compact()
    else:
        assert member.host.compaction.compact()
        member.device.fail(FULL)
    assert not member.device.waiting
    assert member.lines.events[-2:].count("log_not_writable") == 1
    assert member.crashed().host.compaction.compacted == 0
    member.host.retry_writes()
    member.settle()
    assert dropped == [member.host.compaction.compacted + 1]
    assert member.crashed().host.compaction.compacted == member.host.compaction.compacted > 0


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), SyncFailed(errno.EIO, "gone")])
def test_a_mark_that_a_broken_disk_did_not_take_ends_the_member(error: OSError) -> None:
    member = forgetting()
    member.device.fail(error)
    with pytest.raises(DiskFailed):
        member.host.turn()


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


LIGHT = Budget(1_000_000)
"""Of a log in which an entry of 1,000 bytes is a thousandth."""


def paced(seconds: float = 3.4) -> Solo:
    """A leader that has made a copy for another member for so long: it writes a tenth of its log a second, or
    less.
    """
    member = Solo(log_budget=LIGHT).lead()
    member.settle()
    raft = member.host._raft
    raft.progress[NodeId(9)] = Progress(Index(1), 0)
    raft.progress[NodeId(9)].last_heard = 1 << 40
    member.host.snapshot_sending.begun(Index(member.host.status().applied), NodeId(9))
    for _ in range(round(seconds / 0.1)):
        pass_time(member, 0.1)
    assert member.host._pacing.rate is not None
    assert not member.host.backed_up
    return member


def tick(member: Solo) -> None:
    pass_time(member, 0.1)
    member.settle()


def test_writes_that_are_paced_wait_and_all_are_done() -> None:
    member = paced()
    outcomes = [put(member, bytes(1_000), b"ann") for _ in range(100)]
    member.settle()
    assert not member.woken, "it does not turn for what has to wait"
    assert member.host.backed_up
    done = sum(map(bool, outcomes))
    assert 5 <= done <= 25, "what a tick has room for, and what is kept for small ones"
    assert [bool(each) for each in outcomes] == [True] * done + [False] * (100 - done)
    assert 0 < member.host.paced_to <= 100_000
    for _ in range(60):
        before = member.host._raft.log_bytes
        tick(member)
        rate = member.host._pacing.rate
        assert rate is not None
        most = rate * 0.1 + 1_200 + rate / SPARE_PART
        assert 0 <= member.host._raft.log_bytes - before <= most
    assert [len(each) for each in outcomes] == [1] * 100
    assert all(isinstance(outcome, Event) for [outcome] in outcomes), "and none is refused"
    assert member.host._raft.log_bytes > 100_000
    assert member.lines.events.count("writes_paced") == 1
    for _ in range(60):
        tick(member)
    assert (member.host.paced_to, member.host.backed_up) == (0, False)
    assert [each for each in member.lines.events if "paced" in each] == ["writes_paced", "writes_not_paced"]


def test_own_writes_and_those_of_others_are_paced_together_and_take_turns() -> None:
    member = paced()
    message = forward(member, 1_000, b"bob")
    for _ in range(40):
        member.host.receive([message])
        put(member, bytes(1_000), b"ann")
    before = member.host.status().last
    tick(member)
    assert 0 < member.host.status().last - before <= 25
    own, others = len(member.host.proposals), len(member.host.forwards.postponed)
    while member.host.proposals:
        tick(member)
    assert own > 20 < others
    assert len(member.host.forwards.postponed) <= 14, "neither waited for all of the other"
    assert member.host.backed_up, "renewals may be among them"


def test_what_others_asked_and_is_not_done_in_time_is_refused_to_them() -> None:
    """So early that nobody is told that it took too long, and it is written after that."""
    member = paced(20.0)
    host = member.host
    sent: list[Message] = []
    host._send = sent.extend
    for number in range(40):
        host.receive([forward(member, 30_000, b"%d" % number)])
    last = host.status().last
    done: list[int] = []
    while host.forwards.postponed:
        tick(member)
        done.append(host.status().last - last)
    seconds = len(done) / 10
    assert host.proposals.time_limit / 2 - 0.2 <= seconds <= host.proposals.time_limit / 2 + 0.2
    refused = [each for each in sent if isinstance(each, ForwardRefused)]
    assert {each.why for each in refused} == {Why.TOO_MANY}
    assert 0 < done[-1] < 10
    assert done[-1] + sum(len(each.requests) for each in refused) == 40, "each is the one or the other"
    assert host.forwards.postponed._held.size == 0
    for _ in range(100):
        tick(member)
    assert host.status().last == last + done[-1]


def test_what_would_not_have_its_turn_in_time_is_refused_at_once() -> None:
    member = paced(20.0)
    host = member.host
    rate = host._pacing.rate
    assert rate is not None
    fits = int(rate * host.proposals.time_limit / 2 / 1_150)
    [payload] = forward(member, 1_000, b"busy").payloads
    for _ in range(fits + 20):
        host.receive([Forward(NodeId(9), ME, host.term, EntryKind.NORMAL, [payload])])
    assert fits <= len(host.forwards.postponed) < fits + 20
    refused = told(member)
    assert sum(len(each.requests) for each in refused) == fits + 20 - len(host.forwards.postponed) - (
        host.status().last - host.commit_index
    )
    for each in (forward(member, 90_000, b"calm"), *[forward(member, 1_000)] * 20):
        host.receive([each])
    assert told(member) == [], "neither what comes alone nor what a member asks for itself"


def test_who_overloads_a_follower_delays_nobody_else_while_writes_are_paced() -> None:
    """Of three times what may be written all that is written is done in time, and who asks little waits for a
    moment only, with its lease for as long as it renews it.
    """
    member = Solo(log_budget=LIGHT).lead()
    member.settle()
    host, pacing = member.host, member.host._pacing
    rate = 20_000.0
    pacing.look = partial(_look_at, pacing, rate)  # type: ignore[method-assign]
    lessor = Lessor(host, 1.0)
    host.propose(encode(LeaseGrant(7, 20)), lambda _: None, OWN)
    member.settle()
    asked: dict[int, float] = {}
    waited: dict[int, float] = {}
    begin = host.machine.begin

    def note(index: Index, payload: bytes) -> object:
        request = request_of(payload) if payload else 0
        if request in asked:
            waited[request] = member.clock.monotonic() - asked[request]
        return begin(index, payload)

    host.machine.begin = note  # type: ignore[method-assign,assignment]
    renewals: list[int] = []

    def ask(command: Command | V3Command, principal: bytes) -> None:
        request = len(asked) + 1
        asked[request] = member.clock.monotonic()
        payload = seal(encode(command), request, principal=principal)
        host.receive([Forward(NodeId(9), ME, host.term, EntryKind.NORMAL, [payload])])

    for step in range(1_500):
        if step % 10 == 0:
            renewals.append(len(asked) + 1)
            ask(LeaseRenew(7), b"calm")
        for _ in range(6):
            ask(Set(b"/k", bytes(1_000)), b"busy")
        tick(member)
        if step % 5 == 0:
            lessor.look()
            lessor.count()
            member.settle()
        assert host.machine.leases.get(7) is not None
    assert host.backed_up
    assert max(waited[each] for each in renewals) <= 1.0
    assert max(waited.values()) <= host.proposals.time_limit / 2 + 0.2
    assert len(waited) >= 0.8 * 150 * rate / 1_060


def _look_at(pacing: Pacing, rate: float, now: float, _: Status) -> None:
    """In place of `Pacing.look`: a fixed rate."""
    seconds = now - (pacing._looked or now)
    pacing._looked = now
    if pacing._held:
        pacing._held_at = now
    pacing._held, pacing.rate = False, rate
    pacing._give(rate, seconds)


def test_one_large_write_stops_no_others_while_writes_are_paced() -> None:
    """What is small goes on, of the member itself whatever it weighs, and the rest does before its time."""
    member = paced(20.0)
    rate = member.host._pacing.rate
    assert rate is not None
    log = member.host._raft.log_bytes
    large = put(member, bytes(20 * int(rate)), b"large")
    tick(member)
    assert large
    again = put(member, bytes(20 * int(rate)), b"large")
    usual = put(member, bytes(int(rate) // 2), b"usual")
    own = put(member, bytes(int(rate)))
    tick(member)
    for _ in range(20):
        small = put(member, b"1", b"small")
        tick(member)
        assert small
    assert (bool(own), usual, again) == (True, [], [])
    for _ in range(round(2 * DEBT_SECONDS / 0.1)):
        tick(member)
        if usual:
            break
    assert isinstance(usual[0], Event)
    assert log < member.host._raft.log_bytes


def test_writes_that_are_paced_leave_others_their_turn() -> None:
    """What one writer asks is not taken, and put back, before what another one does."""
    member = paced(20.0)
    order: list[str] = []

    def ask(who: str) -> None:
        command = encode(Set(b"/k", bytes(1_000)))
        member.host.propose(command, lambda _: order.append(who), who.encode())

    for _ in range(400):
        ask("busy")
    tick(member)
    ask("calm")
    for _ in range(20):
        tick(member)
    assert "calm" in order
    assert order.index("calm") < 60


def test_while_writes_are_paced_nothing_ends_whose_renewal_waits() -> None:
    """A key of the v2 tree is renewed by a write like others, which may wait behind them."""
    member = paced(20.0)
    lessor = Lessor(member.host, 1.0)

    def renew() -> Outcomes:
        outcomes: Outcomes = []
        command = encode(Set(b"/short", b"v", expires=1 << 60, ttl=2))
        member.host.propose(command, outcomes.append, b"ann")
        return outcomes

    def is_there() -> bool:
        return isinstance(member.host.machine.v2.get(b"/short"), Event)

    def go_on(seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            for _ in range(5):
                tick(member)
            lessor.look()
            member.settle()

    renew()
    go_on(1.0)
    for _ in range(2):
        put(member, bytes(50_000), b"ann")
    tick(member)
    renewed = renew()
    go_on(3.0)
    assert (renewed, is_there()) == ([], True)
    while not renewed:
        go_on(0.5)
    [outcome] = renewed
    assert isinstance(outcome, Event)
    assert outcome.prev is not None, "it was there all the time"
    go_on(30.0)
    assert not is_there(), "it ends when nobody renews it"


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
    assert (behind.id, behind.is_copying, behind.counts) == (9, True, True)
    peer.match = member.host.status().last
    tick(member)
    assert member.host.behind() == []
    assert member.host._pacing.rate is None


def test_jobs_get_their_steps_after_turns_until_they_are_over() -> None:
    class Work:
        left = 7

        def step(self) -> bool:
            self.left -= 1
            return not self.left

        def failed(self, fault: Exception) -> None:
            raise fault

    work = Work()
    alone = Solo().lead()
    assert alone.host.jobs.start("ann", work) is None
    alone.turn()
    assert 0 < work.left < 7
    alone.settle()
    assert not work.left


class Walking:
    """A job that goes through a range of keys again and again; notes the units of each step."""

    def __init__(self, member: Solo) -> None:
        self._mvcc = member.host.machine.mvcc
        self.flushed: list[int] = []
        """How often the member had sent what it had to send, at each step."""
        self.units = 0
        self._member = member
        self._begin()

    def _begin(self) -> None:
        read = self._mvcc.read(Range(b"k", b"l", sort_target=BY_MOD))
        assert isinstance(read, RangeRead)
        self._read = read

    def step(self) -> bool:
        self.flushed.append(self._member.flushed)
        done = self._read.measure()
        self.units += STEP_UNITS - self._read.units_left
        if done:
            self._read.close()
            self._begin()
        return False

    def failed(self, fault: Exception) -> None:
        raise fault


def worked(member: Solo, work: Walking, turns: int = 20) -> float:
    """Units of one turn, on average."""
    before = work.units
    for _ in range(turns):
        member.turn()
    return (work.units - before) / turns


def walked(keys: int = 5_000) -> tuple[Solo, Walking]:
    member = Solo().lead()
    mvcc = member.host.machine.mvcc
    for number in range(keys):
        mvcc.put(b"k%05d" % number, b"", 0)
    mvcc.finish()
    work = Walking(member)
    assert member.host.jobs.start("ann", work) is None
    return member, work


def test_long_work_is_done_in_shorter_pieces_while_others_ask() -> None:
    """For a read, for a write that waits, for a while after either, and where the sockets say so."""
    member, work = walked()
    host = member.host
    alone = worked(member, work)
    assert 1.5 * STEP_UNITS < alone < 3 * STEP_UNITS
    host.read(lambda _: None, "bob")
    assert worked(member, work) <= 1.5 * STEP_UNITS, "he will ask again"
    member.clock.now += int(BUSY_SECONDS * 1e9) + 1  # type: ignore[assignment]
    assert worked(member, work) == pytest.approx(alone, rel=0.2)
    put(member)
    member.clock.now += int(BUSY_SECONDS * 2e9)  # type: ignore[assignment]
    assert worked(member, work) <= 1.5 * STEP_UNITS, "it waits for the disk"
    member.device.sync()
    member.turn()
    assert worked(member, work) == pytest.approx(alone, rel=0.2)
    host.background.contended = lambda: True
    assert worked(member, work) <= 1.5 * STEP_UNITS


def test_while_others_ask_chores_and_jobs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    member, work = walked()
    host = member.host
    swept = 0

    def sweep() -> None:
        nonlocal swept
        swept += 1

    monkeypatch.setattr(Machine, "sweeping", True)
    monkeypatch.setattr(host.machine, "sweep", sweep)
    host.background.contended = lambda: True
    done: list[tuple[int, int]] = []
    for _ in range(4):
        member.turn()
        done.append((swept, len(work.flushed)))
    assert [sum(each) for each in done] == [1, 2, 3, 4]
    assert done[-1] == (2, 2)
    host.background.contended = lambda: False
    member.turn()
    assert (swept, len(work.flushed)) == (3, 4)


def test_answers_leave_before_long_work_is_gone_on_with() -> None:
    member, work = walked()
    told: list[int] = []
    member.host.read(lambda _: told.append(member.flushed), "bob")
    member.turn()
    assert work.flushed == [told[0] + 1]


@pytest.mark.parametrize("hopeless", [False, True])
def test_an_answer_that_cannot_be_made_fails_that_request_only(hopeless: bool) -> None:
    """Of a write and of a read; who can still be told is told that the outcome is not known."""
    member = Solo().lead()
    member.lines.failures_meant = True
    told: list[Outcome | Fault | None] = []

    def done(outcome: Outcome | Fault | None) -> None:
        told.append(outcome)
        if hopeless or len(told) == 1:
            raise MemoryError

    member.host.propose(encode(Set(path=b"/k", value=b"v")), done, OWN)
    good = put(member, b"w")
    member.settle()
    first, second = told
    assert isinstance(first, Event)
    assert isinstance(second, Fault)
    assert second.outcome_known is False
    assert isinstance(good[0], Event)
    told.clear()
    reads: list[Fault | None] = []
    member.host.read(done)
    member.host.read(reads.append)
    member.settle()
    assert [isinstance(each, Fault) for each in told] == [False, True]
    assert reads == [None]
    assert member.lines.events.count("request_failed") == (4 if hopeless else 2)


def test_a_slot_that_finds_the_members_state_broken_ends_it() -> None:
    member = Solo().lead()

    def done(_: Outcome | Fault) -> None:
        raise InvariantBroken("found while answering")

    member.host.propose(encode(Set(path=b"/k", value=b"v")), done, OWN)
    with pytest.raises(InvariantBroken):
        member.settle()


def test_a_message_that_was_taken_half_ends_the_member() -> None:
    member = Solo().lead()
    with pytest.raises(InvariantBroken, match="half"):
        member.host.receive([cast("Message", object())])


def test_a_deadline_that_raises_does_not_keep_the_others_from_being_called() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    called: list[int] = []
    faults: list[Exception] = []
    deadlines.failed = faults.append

    def fail() -> None:
        raise MemoryError

    deadlines.after(1.0, fail)
    deadlines.after(1.0, lambda: called.append(1))
    clock.now = Nanos(clock.now + 2_000_000_000)
    assert deadlines.run_due()
    assert (called, len(faults)) == ([1], 1)


def put_many(member: Solo, keys: int) -> None:
    for number in range(keys):
        member.host.propose(encode(Put(b"%05d" % number)), lambda _: None, OWN)
    member.settle()


def test_what_comes_after_a_long_command_waits_for_it_and_nothing_else_does() -> None:
    alone = Solo().lead()
    put_many(alone, 3_000)
    deleted: Outcomes = []
    later: Outcomes = []
    alone.host.propose(encode(DeleteRange(b"\0", b"\0")), deleted.append, OWN)
    alone.turn()
    alone.device.sync()
    alone.turn()
    assert not deleted
    applied = alone.host.machine.applied
    alone.host.propose(encode(Put(b"a")), later.append, OWN)
    turns = 0
    while not deleted:
        count = alone.host.machine.mvcc.range(Range(b"\0", b"\0", count_only=True))
        assert isinstance(count, Found)
        assert count.count == 3_000
        assert alone.host.machine.applied == applied
        alone.host.tick()
        alone.turn()
        turns += 1
    assert turns > 2
    alone.settle()
    assert len(later) == 1
    assert alone.host.machine.applied == applied + 2
    assert alone.crashed().host.machine.applied <= applied + 2


def test_between_two_long_commands_the_state_is_saved_swept_and_hashed() -> None:
    """Nothing but commands that are longer than one piece and shorter than a turn: were the next one begun in
    the turn in which the one before ended, every turn would end in the middle of one.
    """
    member = Solo().lead()
    host, machine = member.host, member.host.machine
    for _ in range(30):
        host.propose(encode(Put(b"old")), lambda _: None, OWN)
    member.settle()
    puts = [Put(b"%d" % number, b"v") for number in range(410)]
    long = encode(Txn(success=tuple(Txn(success=tuple(puts[at : at + 100])) for at in range(0, 410, 100))))
    host.propose(encode(Compact(25)), lambda _: None, OWN)
    hashed: list[object] = []
    halves = saved = 0
    for turn in range(60):
        while len(host.proposals) < 5:
            host.propose(long, lambda _: None, OWN)
        if turn == 5:
            machine.mvcc.hash_kv(0, hashed.append)
        host.turn()
        member.device.sync()
        halves = halves + 1 if member.engine.applied() == saved else 0
        saved = member.engine.applied()
        assert halves <= 3  # one that is waited for, and two pieces of a command
    assert saved > 40
    assert machine.mvcc.swept == 25
    assert hashed


def test_a_crash_in_the_middle_of_a_long_command_does_it_again() -> None:
    alone = Solo().lead()
    put_many(alone, 3_000)
    alone.host.propose(encode(DeleteRange(b"\0", b"\0")), lambda _: None, OWN)
    alone.turn()
    alone.device.sync()
    alone.turn()
    alone.turn()
    again = alone.crashed().lead()
    found = again.host.machine.mvcc.range(Range(b"\0", b"\0", count_only=True))
    assert isinstance(found, Found)
    assert found.count == 0


def test_a_change_is_asked_for_in_the_term_of_the_leader_only() -> None:
    """What was forwarded in an earlier term may have been sent again since."""
    member = Solo().lead()
    asked: list[Change] = []
    member.host.change_asked = asked.append
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(9)),))
    for term in (member.host.term - 1, member.host.term):
        member.host.receive((Forward(NodeId(9), ME, Term(term), EntryKind.CHANGE, [change.encode()]),))
    assert asked == [change]


class SlowJob:
    """One step, and it is over."""

    def step(self) -> bool:
        return True

    def failed(self, fault: Exception) -> None:
        raise fault


@pytest.mark.parametrize(
    ("slow", "part"),
    [
        ("_writer._wal.append", "log"),
        ("machine.begin", "apply"),
        ("watches.publish", "watches"),
        ("reads.serve", "reads"),
        ("machine.save", "save"),
        ("machine.sweep", "sweep"),
        ("watches.step", "watches"),
        ("jobs.run", "jobs"),
        ("_flush", "answers"),
    ],
)
def test_a_turn_tells_which_part_of_it_took_longest(
    slow: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Solo().lead()
    for revision in range(3):
        member.host.propose(encode(Put(b"k", b"%d" % revision)), lambda _: None, OWN)
    member.settle()
    owner: object = member.host
    *path, name = slow.split(".")
    for each in path:
        owner = getattr(owner, each)
    real = getattr(owner, name)

    def slowly(*given: object, **named: object) -> object:
        member.clock.now = Nanos(member.clock.now + 1_000_000)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, slowly)
    monkeypatch.setattr(Watches, "behind", True)
    monkeypatch.setattr(Raft, "read_index_alone", lambda _: None)
    found: list[str] = []
    member.host.read(lambda _: None)
    assert member.host.jobs.start("somebody", SlowJob()) is None
    member.host.propose(encode(Compact(3) if part == "sweep" else Put(b"k")), lambda _: None, OWN)
    while member.woken and len(found) < 9:
        member.turn()
        found.append(member.host.parts.longest)
        member.device.sync()
    assert set(found) - {""} == {part}


def test_a_turn_reads_the_clock_once_more_for_each_part_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, because this is on the way of every write."""
    member = Solo().lead()
    readings: list[str] = []
    monkeypatch.setattr(Parts, "ran", lambda _, part: readings.append(part))
    put(member)
    member.turn()
    member.device.sync()
    member.turn()
    first, second = ["log", "log", "answers", "answers"], ["log", "apply", "watches", "save"]
    assert readings == [*first, *second, "answers", "answers"]
    readings.clear()
    member.woken = True
    member.turn()
    assert readings == ["answers", "answers"]


def test_a_turn_applies_as_many_large_puts_as_it_has_time_for() -> None:
    member = Solo().lead()
    answers: list[object] = []
    size = 500 * UNIT_BYTES
    for number in range(25):
        member.host.propose(encode(Put(b"%d" % number, bytes(size))), answers.append, OWN)
    member.turn()
    assert not answers
    member.device.sync()
    member.turn()
    assert 0 < len(answers) <= TURN_UNITS // 500 + 1
    member.settle()
    assert [type(each) for each in answers] == [PutDone] * 25


def test_a_read_in_the_log_lists_only_where_somebody_waits_for_it() -> None:
    member = Solo().lead()
    for number in range(100):
        member.host.propose(encode(Set(b"/d/%d" % number, b"v", False)), lambda _: None, OWN)
    member.settle()
    machine = member.host.machine
    answers: list[object] = []
    gets = machine.statistics.gets_success
    for _ in range(3):
        member.host.propose(encode(QuorumGet(b"/d", True)), answers.append, OWN)
        listed = machine.tree.listed
        member.settle()
        assert machine.tree.listed - listed == 100
    member.host.propose(encode(QuorumGet(b"/d", True)), answers.append, OWN)
    member.turn()  # proposed, and not on the disk yet
    member.host.proposals.fail_all(Fault(300, b"stopped"))
    listed = machine.tree.listed
    member.settle()
    assert machine.tree.listed == listed
    assert [type(each) for each in answers] == [Event] * 3 + [Fault]
    assert machine.statistics.gets_success - gets == 4


def test_a_turn_writes_and_sends_what_one_ready_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is the next turn's: a follower may be sent much in one round, and a leader owe it much."""
    group = Group(3)
    follower = group[2]
    leader = group.leader
    first = leader.host.status().last + 1
    room = follower.host._raft.config.max_ready_bytes
    entries = [
        Entry(Index(first + place), leader.host.term, EntryKind.NORMAL, bytes(room // 4))
        for place in range(9)
    ]
    last = entries[0].index - 1
    written: list[int] = []
    write = follower.host._writer._wal.append

    def note(state: Any, some: Sequence[Entry], done: Any, *, held: bool) -> None:
        written.append(len(some))
        write(state, some, done, held=held)

    monkeypatch.setattr(follower.host._writer._wal, "append", note)
    term = leader.host.term
    follower.host.receive(
        [Append(leader.id, follower.id, term, Index(last), term, leader.host.commit_index, entries)]
    )
    turns = 0
    while follower.woken:
        follower.woken = False
        follower.host.turn()
        turns += 1
        assert len(written) <= turns
    assert written == [3, 3, 3]


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


def test_what_was_to_be_written_is_not_when_a_copy_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_the_log_had_no_room_for_is_written_some_in_each_turn() -> None:
    member = Solo().lead()
    put(member)
    member.turn()
    member.host.retry_writes()
    stuck = [put(member, bytes(BYTES_PER_TURN // 2)) for _ in range(5)]
    for _ in range(5):
        member.turn()
    member.device.fail(FULL)
    member.host.retry_writes()
    seen = [len(member.device.waiting)]
    last = put(member, b"last")
    while member.woken:
        member.turn()
        seen.append(len(member.device.waiting))
    assert seen[0] < seen[1] < seen[-1]
    member.settle()
    assert all(isinstance(outcomes[0], Fault) for outcomes in stuck), "they were given up when it was full"
    assert isinstance(last[0], Event)
    assert value(member) == b"last"
    assert value(member.crashed().lead()) == b"last"


def told(member: Solo, number: int = 1) -> list[ForwardRefused]:
    """What the member tells others of what it does not take, in so many turns."""
    sent: list[Message] = []
    member.host._send = sent.extend
    for _ in range(number):
        member.turn()
    return [message for message in sent if isinstance(message, ForwardRefused)]


def decoding(member: Solo, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the member decodes from now on."""
    decoded: list[bytes] = []
    understand = member.host.machine.understand

    def note(payload: bytes) -> object:
        decoded.append(payload)
        return understand(payload)

    monkeypatch.setattr(member.host.machine, "understand", note)
    return decoded


def test_what_was_put_off_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
    member.host.space.room = _Room()
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


def test_own_requests_that_are_put_back_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    member.settle()
    member.host.space.room = _Room()
    decoded = decoding(member, monkeypatch)
    busy = Proposed(Fate.REFUSED, refusal=Refusal.TRANSFERRING)
    monkeypatch.setattr(Raft, "propose", lambda _self, _payloads: busy)
    member.host.propose(encode(Delete(b"/k")), lambda _: None, OWN)
    for _ in range(5):
        member.host.tick()
        member.turn()
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("short", "why"), [(FULL, Why.NO_SPACE), (OSError(errno.ENOMEM, "no memory"), Why.TOO_MANY)]
)
def test_who_asks_a_leader_without_room_is_told_so(short: OSError, why: Why) -> None:
    member = Solo().lead()
    member.settle()
    message = forward(member, 9)
    member.host.space.log_error = short
    member.host.receive([message])
    assert told(member) == [
        ForwardRefused(ME, NodeId(9), message.term, why, tuple(map(request_of, message.payloads)))
    ]


def test_who_asks_what_no_log_takes_is_told_so() -> None:
    member = Solo().lead()
    member.settle()
    message = Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [seal(b"nonsense", 5)])
    member.host.receive([message])
    assert [(each.why, list(each.requests)) for each in told(member)] == [(Why.FAILED, [5])]


def test_more_than_may_be_put_off_is_refused_to_who_asks_it() -> None:
    member, _ = behind()
    member.host.receive([forward(member, principal=b"%d" % number) for number in range(9)])
    assert len(member.host.forwards.postponed) == 8
    assert [each.why for each in told(member)] == [Why.TOO_MANY]


@pytest.mark.parametrize("full", [False, True])
def test_what_others_asked_is_refused_some_at_a_time(full: bool) -> None:
    member, _ = behind()
    [payload] = forward(member, 1).payloads
    many = Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [payload] * PAYLOADS_PER_TURN)
    member.host.receive([many] * 3)
    for asked in list(member.host.forwards.postponed._waiting)[2 * PAYLOADS_PER_TURN :]:
        asked.term = Term(many.term - 1)
    if full:
        member.host.engine_failed(FULL)
        turn = told(member)
    else:
        turns(member, 1)
        member.clock.now = Nanos(member.clock.now + int((BEHIND_SECONDS + 0.1) * 1e9))
        member.host.tick()
        turn = told(member)
    why = Why.NO_SPACE if full else Why.TOO_MANY
    assert [(each.why, len(each.requests)) for each in turn] == [(why, PAYLOADS_PER_TURN)]
    assert len(member.host.forwards.postponed) == 2 * PAYLOADS_PER_TURN
    assert member.woken
    assert len(told(member)) == 1
    assert told(member) == [], "the leader of another term was asked, and who asked asks again"
    assert (len(member.host.forwards.postponed), member.host.forwards.postponed._held.size) == (0, 0)


@pytest.mark.parametrize(("full", "cause"), [(False, Reason.TOO_MANY.text), (True, Reason.NO_SPACE.text)])
def test_who_asked_a_follower_is_told_at_once_that_its_leader_does_not_take_it(
    full: bool, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(3)
    leader, other = group[1], group[2]
    monkeypatch.setattr(leader.engine, "behind", lambda: 1)
    group.tick()
    done: list[Outcome | Fault] = []
    other.host.propose(encode(Set(b"/k", b"v")), done.append, OWN)
    group.settle()
    assert done == []
    if full:
        leader.host.engine_failed(FULL)
        group.settle()
        assert leader.host.problems() == ["state cannot be written: no space left on device"]
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
    other.host.receive([ForwardRefused(leader.id, other.id, other.host.term, Why.TOO_MANY, requests)] * 2)
    seen = []
    while other.woken:
        other.woken = False
        other.host.turn()
        seen.append(len(done))
    assert seen[:3] == [COMPLETED_AT_ONCE, 2 * COMPLETED_AT_ONCE, 2 * COMPLETED_AT_ONCE + 1]
    assert len(done) == seen[2]
    unknown = ForwardRefused(leader.id, other.id, other.host.term, 200, (1,))
    other.host.receive([unknown])


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
