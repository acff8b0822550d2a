"""Committed entries are applied in order, a bounded amount in each turn."""

from __future__ import annotations

from netstore.errors import Fault
from netstore.node.applier import TURN_UNITS
from netstore.node.member import OWN
from netstore.state.applying import UNIT_BYTES
from netstore.state.commands import encode
from netstore.state.v2.commands import QuorumGet, Set
from netstore.state.v3.commands import (
    Compact,
    DeleteRange,
    Found,
    Put,
    PutDone,
    Range,
    Txn,
)
from netstore.types import Event
from netstore.watch.hub import MAX_WAITING
from tests.support.member import Solo
from tests.support.solo import Outcomes, put


def test_outcomes_come_in_the_order_of_the_log() -> None:
    member = Solo().lead()
    order: list[int] = []
    for number in range(5):
        member.host.propose(encode(Set(path=b"/k")), lambda _, number=number: order.append(number), OWN)  # type: ignore[misc]
    member.settle()
    assert order == [0, 1, 2, 3, 4]


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


def put_many(member: Solo, keys: int) -> None:
    for number in range(keys):
        member.host.propose(encode(Put(b"%05d" % number)), lambda _: None, OWN)
    member.settle()


def test_entries_after_a_long_command_wait_for_it_and_nothing_else_does() -> None:
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
