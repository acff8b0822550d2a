"""The host of a member alone: restarts, reads, time limits, and the parts of a turn."""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import Fault, Reason
from netstore.meter import Parts
from netstore.node.logwriter import QUICK_SYNCS, DiskFailed
from netstore.node.member import OWN
from netstore.node.timekeeper import Deadlines
from netstore.raft.core import Raft
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Append
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import (
    Compact,
    Put,
)
from netstore.types import Event, Index, Nanos
from netstore.watch.watches import Watches
from tests.support.group import Group
from tests.support.local_member import HandClock
from tests.support.member import Solo
from tests.support.solo import put, refusal, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.messages import Message
    from netstore.state.machine import Outcome


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


def test_a_read_without_a_leader_is_refused() -> None:
    member = Solo()
    reads: list[Fault | None] = []
    member.host.read(reads.append)
    member.turn()
    member.clock.now += 8_000_000_000  # type: ignore[assignment]
    member.host.tick()
    assert reads
    assert isinstance(reads[0], Fault)


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


def test_a_message_that_was_processed_in_part_ends_the_member() -> None:
    member = Solo().lead()
    with pytest.raises(InvariantBroken, match="in part"):
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
    monkeypatch.setattr(Watches, "has_work", True)
    monkeypatch.setattr(Machine, "is_save_due", True)
    monkeypatch.setattr(Raft, "local_read_index", lambda _: None)
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

    def ran(_: Parts, part: str) -> float:
        readings.append(part)
        return 0.0

    monkeypatch.setattr(Parts, "ran", ran)
    put(member)
    member.turn()
    member.device.sync()
    member.turn()
    assert readings == ["log", "answers", "log", "apply", "watches", "answers"]
    readings.clear()
    member.woken = True
    member.turn()
    assert readings == ["answers"]


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


def test_a_write_costs_a_member_one_turn_for_what_it_is_told_and_four_messages() -> None:
    """Turns and messages are counted while one write follows another, and fast disks are synced at once."""
    group = Group(3)
    for peer in group.peers.values():
        peer.device.fast, peer.device.quick_syncs = True, QUICK_SYNCS
    turns: Counter[int] = Counter()
    sent = 0
    for number in range(12):
        if number == 2:
            turns.clear()
            sent = 0
        group.leader.host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
        while any(peer.woken for peer in group.peers.values()):
            for peer in group.peers.values():
                if peer.woken:
                    peer.woken = False
                    turns[peer.id] += 1
                    peer.host.turn(is_idle=True)
                    assert not peer.device.waiting or number == 0
                    peer.device.sync()
                messages = group.sent.copy()
                group.sent.clear()
                sent += len(messages)
                for message in messages:
                    group.carry(message)
    assert sent == 10 * 4
    assert turns == {1: 20, 2: 10, 3: 10}


@pytest.mark.parametrize("what", ["request", "read", "watcher", "v3 watch"])
def test_a_follower_where_somebody_waits_says_so(what: str) -> None:
    group = Group(3)
    follower = group[3]
    follower.host.turn()
    assert not follower.host._raft.waits
    if what == "request":
        follower.host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
    elif what == "read":
        follower.host.read(lambda _: None)
    elif what == "watcher":
        follower.host.hub.watch(b"/k", recursive=False, stream=True, since=1, deliver=lambda _: True)
    else:
        follower.host.watches.enter("", b"k", b"")
    follower.host.turn()
    assert follower.host._raft.waits


def test_a_member_of_another_cluster_tells_it_while_it_has_no_leader() -> None:
    solo = Solo()
    assert solo.host.problems() == {}
    solo.host.estranged = lambda: ("b1 says: refused: belongs to cluster c1, this member to c2", "restore")
    [(told, fix)] = solo.host.problems().items()
    assert told == "knows no leader, and member b1 says: refused: belongs to cluster c1, this member to c2"
    assert fix == "restore"
    assert solo.lead().host.problems() == {}
