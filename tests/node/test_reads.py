"""Linearizable reads that wait: how many there may be, who is next, and how much of them a turn does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from netstore.node import reads
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.node.reads import READ_UNITS, UNITS_A_READ
from netstore.raft.core import Raft
from netstore.state.v3.commands import GREATER, MOD, Compare, Range, Txn, TxnDone
from netstore.state.v3.txn import READ_UNITS as TXN_UNITS
from netstore.types import Index
from tests.support.member import Solo

if TYPE_CHECKING:
    import pytest

    from netstore.errors import Fault
    from netstore.state.machine import Machine


@dataclass
class Reader:
    """Reads of one host at an index that the test tells, in place of a leader's word."""

    member: Solo
    told: list[str]

    @classmethod
    def of(cls, monkeypatch: pytest.MonkeyPatch) -> Reader:
        member = Solo().lead()
        monkeypatch.setattr(Raft, "read", lambda *_: None)
        monkeypatch.setattr(Raft, "local_read_index", lambda _: None)
        return cls(member, [])

    def ask(self, principal: str, count: int = 1) -> None:
        for _ in range(count):
            self.member.host.read(partial(self._take, principal), principal)

    def _take(self, principal: str, fault: Fault | None) -> None:
        self.told.append(principal if fault is None else f"{principal}: {fault.cause.decode()}")

    def turn(self) -> list[str]:
        """The leader lets all be answered; who is in the next turn."""
        reads = self.member.host.reads
        for number in list(reads._asked):
            reads.confirm(number, self.member.host.machine.applied)
        self.told.clear()
        self.member.host.turn()
        return list(self.told)


def test_one_principal_leaves_half_of_the_waiting_reads_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reads, "MAX_WAITING", 64)
    reader = Reader.of(monkeypatch)
    reader.ask("flood", 40)
    reader.ask("2001:db8::1", 5)
    reader.ask("2001:db8::2", 5)
    assert (
        reader.told
        == ["flood: etcdserver: too many requests"] * 8 + ["2001:db8::2: etcdserver: too many requests"] * 2
    )
    assert sorted(set(reader.turn())) == ["2001:db8::1", "2001:db8::2", "flood"]
    reader.ask("flood", 32)
    reader.member.host.stop()
    assert len(reader.member.host.reads) == reader.member.host.reads._places.taken == 0


def test_reads_that_can_be_answered_take_turns_and_a_turn_has_so_much_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is counted with what it looked at."""
    reader = Reader.of(monkeypatch)
    host = reader.member.host
    reader.ask("flood", 1_000)
    reader.ask("other")
    first = reader.turn()
    assert first.index("other") == 1
    assert len(first) == READ_UNITS // UNITS_A_READ
    assert reader.member.woken
    turns = 1
    while len(host.reads):
        host.turn()
        turns += 1
    assert turns == -(-1_001 * UNITS_A_READ // READ_UNITS)
    reader.member.settle()
    assert not host.reads.ready

    def look(_: Fault | None) -> None:
        host.machine.mvcc.read_units += READ_UNITS // 2

    for _ in range(5):
        host.read(look, "ann")
    reader.turn()
    assert len(host.reads) == 3


def test_a_small_list_is_counted_by_what_it_holds() -> None:
    mvcc = Solo().lead().host.machine.mvcc
    for number in range(1_000):
        mvcc.put(b"k%04d" % number, bytes(100), 0)
    mvcc.finish()
    for query, least, most in (
        (Range(b"k0007"), 0, 0),
        (Range(b"k", b"l"), 2_000, 2_100),
        (Range(b"k", b"l", limit=10), 20, 30),
    ):
        before = mvcc.read_units
        assert mvcc.read_small(query) is not None
        assert least <= mvcc.read_units - before <= most


def test_a_read_that_was_given_up_waits_for_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader may name an index that never comes."""
    reader = Reader.of(monkeypatch)
    waiting = reader.member.host.reads
    waiting.confirm(77, Index(2**61))
    reader.ask("ann")
    waiting.confirm(1, Index(2**61))
    assert len(waiting._behind) == 1
    reader.member.clock.now += 8_000_000_000  # type: ignore[assignment]
    reader.member.host.tick()
    assert reader.told == ["ann: etcdserver: request timed out"]
    assert (len(waiting), waiting._behind, waiting._places.taken) == (0, {}, 0)
    assert not waiting._index_of


def test_the_addresses_of_one_ipv6_network_have_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader.of(monkeypatch)
    for number in range(8):
        reader.ask(f"2001:db8::{number:x}")
    reader.ask("2001:db8:0:1::1")
    assert reader.turn().index("2001:db8:0:1::1") == 1


def test_many_that_waited_too_long_are_told_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader.of(monkeypatch)
    host = reader.member.host
    reader.ask("ann", 4 * COMPLETED_AT_ONCE)
    for number in list(host.reads._asked):
        host.reads.confirm(number, Index(2**61))
    reader.member.clock.now += 8_000_000_000  # type: ignore[assignment]
    reader.ask("bob")
    seen: list[int] = []
    host.tick()
    while reader.member.woken and len(seen) < 20:
        reader.member.woken = False
        seen.append(len(reader.told))
        host.turn()
    assert seen == [COMPLETED_AT_ONCE * number for number in (1, 2, 3, 4)]
    assert len(host.reads) == 1


def test_reads_that_were_given_up_do_not_accumulate() -> None:
    """However long what has to be applied does not come."""
    waiting = reads.Reads(5.0)
    for second in range(0, 1000, 10):
        for _ in range(20):
            number = waiting.ask(lambda _: None, "ann", float(second))
            assert number is not None
            waiting.confirm(number, Index(second + 1))
        waiting.take_late(second + 9.0, 19)
        assert sum(map(len, waiting._behind.values())) == len(waiting) == len(waiting._index_of)
        for number in list(waiting._asked)[:-1]:
            waiting.drop(number)


def test_a_transaction_that_reads_is_counted_by_what_it_reads_and_compares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many are answered in one turn as there is work for."""
    reader = Reader.of(monkeypatch)
    host = reader.member.host
    machine = host.machine
    for number in range(200):
        machine.mvcc.put(b"k%04d" % number, b"", 0)
    machine.mvcc.finish()
    gets = tuple(Range(b"k%04d" % number) for number in range(100))
    compares = (Compare(b"k", MOD, GREATER, 0, b"", b"l"),)
    for command, units in (
        (Txn((), gets, ()), 100 * TXN_UNITS),
        (Txn(compares, (), gets[:1]), TXN_UNITS + 1 + 200),
        (Txn((), (), ()), 0),
    ):
        before = machine.mvcc.read_units
        assert isinstance(machine.v3.read_txn(command), TxnDone)
        assert machine.mvcc.read_units - before == units
        for _ in range(300):
            host.read(partial(_read_txn, machine, command), "ann")
        reader.turn()
        assert 300 - len(host.reads) == -(-READ_UNITS // (UNITS_A_READ + units))
        reader.member.settle()


def _read_txn(machine: Machine, command: Txn, _: Fault | None) -> None:
    machine.v3.read_txn(command)
