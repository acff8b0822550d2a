"""Whatever an entry holds, applying it gives an outcome, the same on every member and at every replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import CannotApply, CorruptData, Fault
from netstore.state import tables
from netstore.state.commands import decode, encode
from netstore.state.digest import digest
from netstore.state.machine import Machine
from netstore.state.v2.commands import Create, Delete, Set
from netstore.state.v3.commands import MAX_DEPTH, Compare, LeaseGrant, Put, Range, SetAlarm, Txn, TxnDone
from netstore.types import Index
from tests.state.extremes import every_command, every_edge, nested
from tests.state.strategies import all_commands
from tests.state.v3.strategies import v3_commands
from tests.support.contents import nodes_of
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine
    from netstore.state.commands import Command

FAR: int = 2**63 - 1


class _Replica:
    """A machine on an engine, and what it has stored."""

    def __init__(self, engine: MemoryEngine | None = None) -> None:
        self.engine = engine or memory_engine()
        self.machine = Machine(self.engine)
        self.machine.load()

    def apply(self, entry: bytes) -> object:
        try:
            outcome = self.machine.apply(Index(self.machine.applied + 1), entry)
        except CannotApply as error:
            return str(error).partition("log:")[2]  # the member stops here; another entry takes its place
        self.machine.v2.take_events()
        self.machine.take_changes()
        return outcome

    def image(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """What members have alike: not when they saved, which the records of origins show."""
        self.machine.save()
        alike = (table for table in tables.TABLES if table != tables.ORIGINS)
        return {table: list(self.engine.scan(table, b"", None)) for table in alike}

    def digest(self) -> bytes:
        return digest(self.machine)


def entries() -> st.SearchStrategy[list[bytes]]:
    """Commands at their edges among ordinary ones, which make what they can be about; and any bytes."""
    ordinary: st.SearchStrategy[Command] = st.one_of(all_commands(), v3_commands(alarms=False))
    commands = st.one_of(every_command(), ordinary).map(encode)
    return st.lists(st.one_of(commands, commands, commands, st.binary(max_size=12)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(entries(), st.integers(0, 25))
def test_every_entry_has_one_outcome_everywhere_and_at_every_replay(log: list[bytes], saved: int) -> None:
    one, other = _Replica(), _Replica()
    outcomes = []
    for place, entry in enumerate(log):
        outcomes.append(one.apply(entry))
        if place == saved:
            one.machine.save()
        assert outcomes[-1] == other.apply(entry)
        other.machine.save()
    assert one.digest() == other.digest()
    again = _Replica(one.engine)
    at = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    since = at[again.machine.applied] if again.machine.applied < len(at) else len(log)
    for entry, outcome in zip(log[since:], outcomes[since:], strict=True):
        assert again.apply(entry) == outcome
    assert again.digest() == other.digest()
    assert again.image() == other.image()
    assert _Replica(other.engine).digest() == other.digest()


def test_each_edge_of_each_field_of_each_command_has_one_outcome_everywhere() -> None:
    one, other = _Replica(), _Replica()
    looked_at = 0
    log = [encode(Put(b"a", b"1")), encode(Put(b"b")), encode(Set(b"/a", b"1")), encode(LeaseGrant(7, 60))]
    for entry in (*log, *map(encode, every_edge())):
        looked_at += 1
        if looked_at % 40 == 0:  # what raised an alarm or removed the keys must not hide what comes after it
            for member, kind in other.machine.alarms.active:
                clear = encode(SetAlarm(member, kind, active=False))
                assert one.apply(clear) == other.apply(clear)
            for again in log:
                assert one.apply(again) == other.apply(again)
        assert one.apply(entry) == other.apply(entry)
        if looked_at % 100 == 0:
            one.machine.save()
            one = _Replica(one.engine)
    assert looked_at > 1_000
    assert one.digest() == other.digest()
    assert one.image() == other.image()


@pytest.mark.parametrize("limit", [FAR, FAR - 1, 2**62, -FAR - 1])
@pytest.mark.parametrize(("sort_order", "sort_target"), [(0, 0), (0, 4), (1, 3), (2, 0)])
def test_a_limit_beyond_all_numbers_is_none(limit: int, sort_order: int, sort_target: int) -> None:
    replica = _Replica()
    for key in (b"a", b"b"):
        replica.apply(encode(Put(key)))
    limited = Range(b"a", b"z", limit, sort_order=sort_order, sort_target=sort_target)
    plain = Range(b"a", b"z", sort_order=sort_order, sort_target=sort_target)
    assert replica.machine.mvcc.range(limited) == replica.machine.mvcc.range(plain)
    outcome = replica.apply(encode(Txn((), (Put(b"c"), limited))))
    assert isinstance(outcome, TxnDone)
    assert outcome.succeeded


def test_transactions_in_one_another_end_at_a_stated_depth() -> None:
    put = encode(Put(b"k"))
    assert isinstance(decode(nested(MAX_DEPTH, put)), Txn)
    for depth in (MAX_DEPTH + 1, MAX_DEPTH + 2, 300, 100_000):
        with pytest.raises(CorruptData, match=f"more than {MAX_DEPTH} transactions in one another"):
            decode(nested(depth, put))
    one, other = _Replica(), _Replica()

    def deeper(frames: int) -> object:
        return deeper(frames - 1) if frames else other.apply(nested(300, put))

    assert one.apply(nested(300, put)) == deeper(250)
    assert isinstance(one.apply(nested(MAX_DEPTH, put)), TxnDone)


def test_a_transaction_that_no_door_would_let_in_is_carried_out() -> None:
    replica = _Replica()
    compares = tuple(Compare(b"k%d" % number, number=FAR) for number in range(5_000))
    puts = tuple(Put(b"same") for _ in range(300))
    outcome = replica.apply(encode(Txn(compares, (), puts)))
    assert isinstance(outcome, TxnDone)
    assert len(outcome.responses) == 300


def test_a_path_of_many_names_is_made_and_taken_away() -> None:
    replica, path = _Replica(), b"/d" * 2_000
    replica.apply(encode(Create(path)))
    assert replica.machine.tree.get(b"/d", recursive=True)
    assert not isinstance(replica.apply(encode(Delete(b"/d", recursive=True))), Fault)
    assert not list(nodes_of(replica.machine.tree))


@pytest.mark.parametrize(
    "fields",
    [[1, b"/a", b"", False, 2**63], [64, b""], [66, b"k", b"", 2**63], [72, [[1, 2**63]]], [69, 2**63, 1]],
)
def test_a_number_beyond_its_field_is_refused_alike(fields: list[object]) -> None:
    outcomes = [_Replica().apply(msgspec.msgpack.encode(fields)) for _ in range(2)]
    assert isinstance(outcomes[0], Fault)
    assert outcomes[0] == outcomes[1]


def test_a_number_that_does_not_fit_is_refused_when_encoded() -> None:
    with pytest.raises(OverflowError):
        encode(Set(b"/a", expires=2**64))
