"""A member that is short of disk space: what it refuses, what it still does, and what it says."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from netstore.errors import Fault, Reason
from netstore.node.member import OWN
from netstore.state.commands import encode
from netstore.state.v2.commands import Delete, Set
from netstore.state.v3.commands import (
    Compact,
    DeleteRange,
    LeaseGrant,
    Put,
    Range,
    SetAlarm,
    Txn,
)
from netstore.types import Event
from tests.support.member import Solo
from tests.support.solo import FULL, Outcomes, Room, put, refusal, refusal_of_next, value

if TYPE_CHECKING:
    from netstore.state.commands import Command
    from netstore.state.v3.commands import V3Command


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


def test_a_state_that_finds_no_descriptors_is_not_said_to_lack_space() -> None:
    member = Solo().lead()
    member.settle()
    member.host.engine_failed(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    member.host.space.log_error = FULL
    assert member.host.space.refusal().reason is Reason.NO_SPACE, "one of the two lacks space"
    member.host.space.log_error = None
    member.host.space.next_segment = Room()
    assert refusal_of_next(member) == Reason.NO_SPACE.text


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


def test_a_log_that_is_low_on_room_takes_what_only_removes() -> None:
    member = Solo().lead()
    put(member)
    member.settle()
    room = member.host.space.next_segment = Room()
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
    assert member.host.problems() == {"log has no room to grow: no space left on device": "free disk space"}
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
    assert member.host.problems() == {"log cannot be written: no space left on device": "free disk space"}


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
