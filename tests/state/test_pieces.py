"""Commands that are carried out in pieces: however small these are, the outcome is the same, and nobody sees
half a revision.
"""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore import errors, parted
from netstore.disk.engine import LmdbEngine
from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import Fault, NetstoreError, Reason
from netstore.state import tables
from netstore.state.commands import Command, encode
from netstore.state.countdown import Countdown
from netstore.state.envelope import seal
from netstore.state.machine import APPLY_UNITS, UNFINISHED, Machine, Outcome, Unfinished
from netstore.state.tables import LOAD_STEP
from netstore.state.v2 import nodes
from netstore.state.v2.commands import Delete, ExpireNodes, Set
from netstore.state.v2.store import CLEAR_UNITS
from netstore.state.v2.tree import CLEAR_STEP
from netstore.state.v3 import txn
from netstore.state.v3.commands import (
    EQUAL,
    LEASE,
    NOT_EQUAL,
    VALUE,
    Compare,
    Deleted,
    DeleteRange,
    Done,
    Found,
    LeaseExpire,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    Txn,
    TxnDone,
    V3Command,
)
from netstore.state.v3.mvcc import DELETE_STEP
from netstore.types import EtcdIndex, Event, Index, Nanos, Revision
from tests.disk.fakeloop import FakeLoop
from tests.state.v3.strategies import v3_commands
from tests.state.v3.twin import Twin
from tests.support.local_member import memory_engine
from tests.support.settled import settled
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sized
    from pathlib import Path

ALL = (b"\0", b"\0")
LEASES = tuple(LeaseGrant(id_, 5) for id_ in (1, 2, -3))


def machine_with(*commands: V3Command) -> Machine:
    machine = Machine(memory_engine())
    machine.load()
    for each in commands:
        apply(machine, each)
    machine.take_changes()
    machine.save()
    return machine


def apply(machine: Machine, command: Command) -> Outcome:
    return machine.apply(Index(machine.applied + 1), encode(command))


def begin(machine: Machine, command: Command, units: int = APPLY_UNITS) -> Outcome | Unfinished:
    return machine.begin(Index(machine.applied + 1), seal(encode(command)), units)


def held_by_leases(machine: Machine) -> dict[int, set[bytes]]:
    return {lease.id: set(machine.leases.keys_of(lease)) for lease in machine.leases}


def crashed(machine: Machine) -> MemoryEngine:
    """What is left when the process ends after a commit of everything that may be committed."""
    engine = machine._engine
    assert isinstance(engine, MemoryEngine)
    engine.commit()
    return engine.crash()


def many(keys: int, lease: int = 0) -> list[Put]:
    return [Put(b"%05d" % number, b"x", lease) for number in range(keys)]


@settings(max_examples=60, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=1, max_size=15), st.integers(1, 3), st.integers(1, 20))
def test_pieces_of_any_size_do_the_same_and_show_nothing_before_the_last(
    commands: list[V3Command], step: int, units: int
) -> None:
    twin = Twin()
    machine = machine_with()
    for lease in LEASES:
        apply(machine, lease)
        twin.apply(lease)
    machine.save()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netstore.state.v3.mvcc.Mvcc.delete_step", step)
        for command in commands:
            applied, before = machine.applied, machine.mvcc.range(Range(*ALL))
            assert isinstance(before, Found)
            held = held_by_leases(machine)
            outcome = begin(machine, command, units)
            while outcome is UNFINISHED:
                assert machine.applied == applied
                assert machine.mvcc.range(Range(*ALL)) == before
                assert held_by_leases(machine) == held
                assert all(change.revision <= machine.mvcc.revision for change in machine.take_changes())
                machine.save()
                machine.sweep()
                assert machine._engine.applied() == applied
                start = Revision(max(1, machine.mvcc.compacted))
                for told, following in machine.mvcc.history(start, *ALL, looked=9, told=9, size=999):
                    assert all(change.revision <= machine.mvcc.revision for change in told)
                    assert following <= machine.mvcc.revision + 1
                outcome = machine.go_on(units)
            assert machine.applied == applied + 1
            assert settled(machine, outcome) == twin.apply(command)
            machine.save()
        fresh = Machine(machine._engine)
        fresh.load()
        assert fresh.mvcc._index.items == machine.mvcc._index.items


def test_a_wide_deletion_is_done_in_bounded_pieces() -> None:
    machine = machine_with(*many(3_000))
    log = machine.mvcc._index.log
    end = log.end
    outcome = begin(machine, DeleteRange(*ALL, prev_kv=True))
    pieces = 1
    while outcome is UNFINISHED:
        assert log.end - end <= APPLY_UNITS // 10 + DELETE_STEP
        end = log.end
        outcome = machine.go_on()
        pieces += 1
    assert pieces > 10
    assert isinstance(outcome, Deleted)
    assert outcome.deleted == 3_000
    assert len(machine.take_changes()) == 3_000


@pytest.mark.parametrize("command", [LeaseRevoke(1), LeaseExpire(((1, 1), (2, 2)))])
def test_the_keys_of_a_lease_end_in_bounded_pieces(command: V3Command) -> None:
    machine = machine_with(*LEASES, *many(2_000, lease=1), Put(b"z", lease=2))
    log = machine.mvcc._index.log
    end = log.end
    outcome = begin(machine, command)
    while outcome is UNFINISHED:
        assert log.end - end <= APPLY_UNITS // 10 + 1
        end = log.end
        outcome = machine.go_on()
    assert isinstance(outcome, Done)
    assert machine.leases.get(1) is None
    deleted = [change.key for change in machine.take_changes()]
    assert deleted[:2_000] == sorted(deleted[:2_000])


def test_leases_that_end_together_end_for_all_to_see_at_once_each_in_its_revision() -> None:
    """One of them named twice: it ends once."""
    machine = machine_with(*LEASES, *many(600, lease=1), *[Put(b"z%d" % n, lease=2) for n in range(600)])
    before, held = machine.mvcc.revision, held_by_leases(machine)
    outcome = begin(machine, LeaseExpire(((1, 1), (2, 2), (1, 1), (-3, 3))))
    pieces = 1
    while outcome is UNFINISHED:
        assert machine.mvcc.revision == before
        assert held_by_leases(machine) == held
        assert not machine.take_changes()
        outcome = machine.go_on()
        pieces += 1
    assert pieces > 5
    assert isinstance(outcome, Done)
    assert outcome.revision == machine.mvcc.revision == before + 2
    assert not list(machine.leases)
    assert [change.revision - before for change in machine.take_changes()] == [1] * 600 + [2] * 600


def test_keys_that_a_transaction_gives_to_a_lease_are_its_when_it_is_over() -> None:
    machine = machine_with(*LEASES, *many(100, lease=1))
    puts = many(100, lease=2)
    outcome = begin(machine, Txn(success=(DeleteRange(b"0009", b"0010"), *puts[:90])), 10)
    held = {1: {put.key for put in many(100)}, 2: set(), -3: set()}
    assert outcome is UNFINISHED
    while outcome is UNFINISHED:
        assert held_by_leases(machine) == held
        outcome = machine.go_on(10)
    assert {id_: len(keys) for id_, keys in held_by_leases(machine).items()} == {1: 0, 2: 90, -3: 0}


def test_a_crash_in_the_middle_leaves_the_state_before() -> None:
    machine = machine_with(*many(1_000))
    applied, revision = machine.applied, machine.mvcc.revision
    assert begin(machine, DeleteRange(*ALL)) is UNFINISHED
    machine.go_on()
    machine.save()
    again = Machine(crashed(machine))
    again.load()
    assert (again.applied, again.mvcc.revision) == (applied, revision)
    found = again.mvcc.range(Range(*ALL, count_only=True))
    assert isinstance(found, Found)
    assert found.count == 1_000


def test_nothing_is_applied_before_what_is_half_done() -> None:
    machine = machine_with(*many(1_000))
    at = machine.applied
    assert begin(machine, DeleteRange(*ALL)) is UNFINISHED
    with pytest.raises(NetstoreError, match=r"before entry .* is finished"):
        machine.apply(Index(at + 2), encode(Put(b"a")))


def test_a_half_done_command_is_not_saved() -> None:
    machine = machine_with(*many(1_000))
    machine.save()
    written: list[Index] = []
    machine._engine.write = lambda applied, changes: written.append(applied)  # type: ignore[method-assign]
    assert begin(machine, DeleteRange(*ALL)) is UNFINISHED
    machine.save()
    assert written == []
    while machine.go_on() is UNFINISHED:
        machine.save()
        assert written == []
    machine.save()
    assert written == [machine.applied]


def test_a_state_that_is_loaded_has_nothing_half_done() -> None:
    machine = machine_with(*many(1_000))
    assert begin(machine, DeleteRange(*ALL)) is UNFINISHED
    machine._engine.install(crashed(machine), lambda _: None)
    machine.load()
    assert apply(machine, Put(b"a")) is not None
    with pytest.raises(NetstoreError, match="no entry is half applied"):
        machine.go_on()


def test_compares_over_many_keys_are_done_in_pieces_and_end_early() -> None:
    machine = machine_with(*many(2_000))
    lease_is_none = Compare(b"\0", LEASE, EQUAL, 0, b"", b"\0")
    differs = Compare(b"\0", VALUE, NOT_EQUAL, 0, b"x", b"\0")
    outcome = begin(machine, Txn((lease_is_none,) * 5, (Put(b"a"),)))
    assert outcome is UNFINISHED
    while outcome is UNFINISHED:
        outcome = machine.go_on()
    assert isinstance(outcome, TxnDone)
    assert outcome.succeeded
    worked = machine.applying.worked
    outcome = begin(machine, Txn((differs,) * 40, (Put(b"a"),)))
    assert isinstance(outcome, TxnDone)
    assert machine.applying.worked - worked < 100


def test_more_compares_than_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txn, "MAX_COMPARED", 1_000)
    machine = machine_with(*many(501))
    over_all = Compare(b"\0", LEASE, EQUAL, 0, b"", b"\0")
    nested = Txn((over_all,), (Txn((over_all,)), Put(b"a")))
    outcome = apply(machine, nested)
    assert isinstance(outcome, Fault)
    assert outcome == errors.refusal(Reason.TOO_MANY_OPS)
    assert isinstance(apply(machine, Txn((over_all,), (Put(b"a"),))), TxnDone)


def test_loading_in_steps_gives_what_loading_gives() -> None:
    machine = machine_with(*LEASES, *many(1_200, lease=2), DeleteRange(b"00", b"005"))
    again = Machine(machine._engine)
    steps = 0
    for _ in again.load_steps():
        steps += 1
        assert again.mvcc.suspended
        assert again.applied == 0
    assert steps > 4
    assert not again.mvcc.suspended
    mine, others = again.mvcc._index, machine.mvcc._index
    assert mine.items == others.items
    assert (list(mine.live), list(mine.dead)) == (list(others.live), list(others.dead))
    assert {lease.id: lease.keys for lease in again.leases} == {
        lease.id: lease.keys for lease in machine.leases
    }


def test_long_paths_are_loaded_in_steps_of_their_own_number(tmp_path: Path) -> None:
    """Directories with short and with long paths, below one another, from an engine that sorts long ones its
    own way.
    """
    loop = FakeLoop()
    engine = LmdbEngine(tmp_path / "state", loop, tables.TABLES, lambda _: None)
    machine = Machine(engine)
    machine.load()
    for number in range(400):
        name = b"x" * (number % 2 * 600) + b"%d" % number
        apply(machine, Set(b"/d/%b/%b/file" % (name, b"y" * 600), b"v", False))
    machine.save()
    durable: list[object] = []
    engine.sync(durable.append)
    loop.run_until(lambda: bool(durable))
    again = Machine(engine)
    steps = sum(1 for _ in again.load_steps())
    assert steps >= 1_201 // LOAD_STEP
    assert again.tree._children == machine.tree._children
    assert again.tree._nodes == machine.tree._nodes
    engine.close()


def test_a_read_between_two_operations_counts_what_is_there_then() -> None:
    """New keys and old ones, before, between and after the operations that make and delete them."""
    everything, count = Range(*ALL), Range(*ALL, count_only=True)
    operations = (
        everything,
        Put(b"e"),
        Put(b"b"),
        everything,
        count,
        Range(*ALL, limit=1),
        DeleteRange(b"a"),
        everything,
        Put(b"c"),
        count,
        everything,
        DeleteRange(b"b"),
        everything,
        Range(*ALL, sort_target=1, sort_order=2),
    )
    twin = Twin()
    machine = machine_with()
    for command in (Put(b"a"), Txn((), operations), Put(b"d"), DeleteRange(*ALL)):
        outcome, expected = apply(machine, command), twin.apply(command)
        assert settled(machine, outcome) == expected


class Counting(MemoryEngine):
    """Knows how many changes it was given at once."""

    most = 0

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        self.most = max(self.most, len(changes))
        super().prepare(changes)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        self.most = max(self.most, len(changes))
        super().write(applied, changes)


def test_changes_of_many_pieces_are_given_to_the_engine_piece_by_piece() -> None:
    engine = Counting(lambda call: call(), tables.TABLES)
    machine = Machine(engine)
    machine.load()
    for put in many(2_000):
        apply(machine, put)
        machine.save()
    for number in range(2_000):
        apply(machine, Set(b"/d/%d" % number, b"", False))
        machine.save()
    engine.most = 0
    for command in (DeleteRange(*ALL), Delete(b"/d", False, True)):
        outcome = begin(machine, command)
        while outcome is UNFINISHED:
            machine.save()
            assert engine.applied() < machine._work_index
            outcome = machine.go_on()
        machine.save()
        assert engine.applied() == machine.applied
    assert engine.most <= APPLY_UNITS // CLEAR_UNITS + CLEAR_STEP
    assert not engine._seen[tables.NODES]
    assert len(engine._seen["v3"]) == 4_000


@pytest.mark.parametrize("kind", ["delete", "expire"])
def test_a_directory_goes_in_bounded_pieces_and_for_all_to_see_at_once(kind: str) -> None:
    machine = machine_with()
    apply(machine, Set(b"/d", b"", True, Nanos(9), ttl=5))
    for number in range(3_000):
        apply(machine, Set(b"/d/%d/x" % (number % 50), b"", False))
        apply(machine, Set(b"/d/%d/%d" % (number % 50, number), b"", False))
    machine.v2.take_events()
    machine.save()
    count, index = len(machine.tree), EtcdIndex(machine.tree.index + 1)
    machine.v2.watched = lambda path: path == b"/d/7/7"
    remove = Delete(b"/d", False, True) if kind == "delete" else ExpireNodes(((b"/d", 1),))
    outcome = begin(machine, remove)
    pieces = 1
    while outcome is UNFINISHED:
        assert count - len(machine.tree) <= APPLY_UNITS // CLEAR_UNITS + CLEAR_STEP + 1
        count = len(machine.tree)
        assert machine.v2.look(b"/d/7/7") == Fault(100, b"/d", index)
        assert isinstance(machine.history.scan(b"/d/7/7", False, index), Event), "who waits is answered"
        assert not machine.v2.take_events()
        outcome = machine.go_on()
        pieces += 1
    assert pieces > 5
    assert len(machine.tree) == 0
    (event,) = machine.v2.take_events()
    assert (event.action, event.index, event.removed) == (kind, index, (b"/d/7/7",))


def test_nodes_that_expire_together_are_told_of_in_their_order() -> None:
    machine = machine_with()
    for name in (b"a", b"b", b"c"):
        apply(machine, Set(b"/" + name, b"", True, Nanos(9), ttl=5))
    for number in range(300):
        apply(machine, Set(b"/b/%d" % number, b"", False))
    machine.v2.take_events()
    outcome = begin(machine, ExpireNodes(((b"/a", 1), (b"/b", 2), (b"/c", 3))), units=10)
    told = machine.v2.take_events()
    while outcome is UNFINISHED:
        outcome = machine.go_on(10)
        told += machine.v2.take_events()
    assert [(event.node.key, event.index) for event in told] == [(b"/a", 304), (b"/b", 305), (b"/c", 306)]


@settings(max_examples=60, deadline=None)
@given(st.lists(v3_commands(alarms=False), max_size=25), st.integers(1, 3))
def test_the_keys_of_a_lease_are_listed_as_of_one_moment(commands: list[V3Command], at_once: int) -> None:
    """Whatever happens between two steps, and also while commands are half done."""
    machine = machine_with(*LEASES, *many(6, lease=1), *[Put(b"z%d" % n, lease=2) for n in range(4)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netstore.state.v3.lease.KEYS_AT_ONCE", at_once)
        patch.setattr("netstore.state.v3.mvcc.DELETE_STEP", 1)
        listings: dict[int, tuple[Iterator[list[bytes]], set[bytes], set[bytes]]] = {}

        def step() -> None:
            for lease in machine.leases:
                before = set(machine.leases.keys_of(lease))
                steps, expected, listed = listings.get(
                    lease.id, (machine.leases.listed(lease), before, set())
                )
                some = next(steps, None)
                if some is None:
                    assert listed == (expected if listed else before)
                    listings.pop(lease.id, None)
                    continue
                assert len(some) <= at_once
                listings[lease.id] = steps, expected if listed else before, listed | set(some)

        for command in commands:
            step()
            outcome = begin(machine, command, 1)
            while outcome is UNFINISHED:
                step()
                outcome = machine.go_on(1)
            held = {lease.id: set(lease.all_keys()) for lease in machine.leases}
            assert held == held_by_leases(machine)
            for item in machine.mvcc._index.items.values():
                assert all((item.key in keys) is (item.lease == id_) for id_, keys in held.items())


def test_no_step_of_loading_looks_at_more_than_its_share() -> None:
    machine = machine_with(*[LeaseGrant(number, 60) for number in range(1, 3_000)])
    for number in range(3_000):
        apply(machine, Set(b"/d/%d" % number, b"", False, Nanos(9), ttl=5))
    machine.save()
    engine = machine._engine
    assert isinstance(engine, MemoryEngine)
    engine.commit()
    copy = Machine(engine)
    apply(copy, Set(b"/old", b"", False))
    given = [0]

    def some(*arguments: Any, some: Any = engine.some) -> Any:
        found = some(*arguments)
        given[0] += len(found[0])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "some", some)
        before = 0
        for _ in copy.load_steps():
            assert given[0] - before <= LOAD_STEP
            assert file_at(copy.tree, b"/old") is not None, "it is what it was before"
            before = given[0]
    assert given[0] == 6_000
    assert len(copy.leases) == 2_999
    assert len(copy.tree) == 3_001
    assert file_at(copy.tree, b"/old") is None
    assert sum(1 for _ in copy.free_steps()) == 2
    assert sum(1 for _ in copy.free_steps()) == 0


def test_no_step_of_loading_lets_go_of_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what there was: nodes, leases, keys, whoever has many of whatever."""
    for room in ("parted", "state.v3.lease", "state.v2.ttl", "state.v2.loading", "state.v3.index"):
        monkeypatch.setattr(f"netstore.{room}.FREE_STEP", 10)
    monkeypatch.setattr("netstore.state.v3.index._BLOCK_BITS", 3)
    monkeypatch.setattr("netstore.state.v3.index._BLOCK", 8)
    monkeypatch.setattr(parted, "FIRST", 10)
    monkeypatch.setattr(nodes, "FIRST", 10)
    old = machine_with(*[LeaseGrant(number, 60) for number in range(1, 100)])
    for number in range(200):
        apply(old, Set(b"/d/%d" % number, b"", False, Nanos(9), ttl=5))
        apply(old, Put(b"%d" % number, b"", 1))
    assert isinstance(old._engine, MemoryEngine)
    old._engine.install(memory_engine(), lambda _: None)
    lease = old.leases.get(1)
    assert lease is not None
    tables: dict[str, Sized] = {
        "nodes": old.tree._nodes,
        "the children of a directory": old.tree._children[b"/d"],
        "what has a TTL": old.tree.timed._nodes,
        "leases": old.leases._leases,
        "the keys of a lease": lease.keys,
        "keys": old.mvcc._index.items,
        "living keys": old.mvcc._index.live,
    }
    held = [len(each) for each in tables.values()]
    for _ in (each for work in (old.load_steps, old.free_steps) for each in work()):
        before, held = held, [len(each) for each in tables.values()]
        for name, left, had in zip(tables, held, before, strict=True):
            assert left >= had - 10, name
    assert not any(held)
    assert old.tree.timed.ttl_changes.take_removed(1_000)
    assert len(old.leases.ttl_changes.take_removed(1_000)) == 99


def test_the_memory_of_a_finished_command_is_freed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("parted", "state.v3.lease"):
        monkeypatch.setattr(f"netstore.{room}.FREE_STEP", 10)
    monkeypatch.setattr(parted, "FIRST", 10)
    machine = machine_with(LeaseGrant(1, 60), *[LeaseGrant(number, 60) for number in range(2, 50)])
    for number in range(200):
        apply(machine, Put(b"%d" % number, b"", 1 if number < 150 else number - 148))
    outcome = begin(machine, DeleteRange(*ALL), 1)
    remembered: Any = None
    while outcome is UNFINISHED:
        remembered = machine.leases._moved
        outcome = machine.go_on(1)
    sizes = []
    while True:
        sizes.append(sum(map(len, remembered.values())))
        if not machine.sweeping:
            break
        machine.sweep()
    assert sizes[-1] == 0
    assert len(sizes) >= 10
    assert sizes == sorted(sizes, reverse=True)
    lease = machine.leases.get(1)
    assert lease is not None
    assert not lease.keys
    apply(machine, LeaseRevoke(1))
    steps = 0
    while machine.leases.spent:
        machine.sweep()
        steps += 1
    assert steps > 10, "the room that its keys took is given back"
    assert not lease.keys.is_large


@given(st.lists(v3_commands(), max_size=40))
@settings(max_examples=30)
def test_no_order_of_a_table_decides_anything(commands: list[V3Command]) -> None:
    """Members have other hashes: here other parts, and tables of many parts from the second entry on."""
    found = []
    for shift in (56, 48):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parted, "_SHIFT", shift)
            for room in (parted, nodes):
                patch.setattr(room, "FIRST", 1)
            machine = machine_with(*LEASES)
            for number, each in enumerate(commands):
                apply(machine, each)
                apply(machine, Set(b"/d/%d/%d" % (number % 3, number), b"", False, Nanos(9), ttl=number + 1))
                outcome = begin(machine, LeaseRevoke(2) if number % 5 == 4 else LeaseGrant(2, 5), 1)
                while outcome is UNFINISHED:
                    outcome = machine.go_on(1)
                machine.take_changes()
                if number % 7 == 6:
                    outcome = begin(machine, Delete(b"/d/1", True, True), 1)
                    while outcome is UNFINISHED:
                        outcome = machine.go_on(1)
                machine.save()
            engine = machine._engine
            assert isinstance(engine, MemoryEngine)
            engine.commit()
            found.append((machine.checksum.value, engine.kept()))
    assert found[0] == found[1]


def test_events_below_a_removed_directory_come_in_the_order_of_paths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in that of the table they lie in."""
    for room in (parted, nodes):
        monkeypatch.setattr(room, "FIRST", 10)
    machine = machine_with()
    machine.v2.watched = lambda path: path.endswith(b"7")
    for number in range(2_000):
        apply(machine, Set(b"/d/%04d" % number, b"", False))
    machine.v2.take_events()
    outcome = begin(machine, Delete(b"/d", True, True), 1)
    while outcome is UNFINISHED:
        outcome = machine.go_on(1)
    (event,) = machine.v2.take_events()
    assert event.removed == tuple(b"/d/%04d" % number for number in range(7, 2_000, 10))


def test_nothing_that_clients_make_many_of_lies_in_one_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be built anew in one piece. Looked at is all that a machine, and who counts its time, hold."""
    for room in (parted, nodes):
        monkeypatch.setattr(room, "FIRST", 50)
    machine = machine_with()
    clocks: list[Countdown[Any]] = [Countdown(machine.leases), Countdown(machine.tree.timed)]
    for number in range(1, 2_001):
        apply(machine, LeaseGrant(number, 60))
        apply(machine, Put(b"of one lease %d" % number, b"", 1))
        apply(machine, Put(b"of its own %d" % number, b"", number))
        apply(machine, Set(b"/d/%d" % number, b"", False, Nanos(9), ttl=5))
        apply(machine, Set(b"/%d/x" % number, b"", True))
        machine.take_changes()
        machine.v2.take_events()
        machine.save()
        if number % 100:
            assert isinstance(machine._engine, MemoryEngine)
            machine._engine.commit()
        for clock in clocks if number > 1_000 else ():
            clock.count(0.0)
    lease = machine.leases.get(1)
    assert lease is not None
    listing = machine.leases.listed(lease)
    next(listing)
    lists = machine.leases.ids()
    next(lists)
    outcome = begin(machine, DeleteRange(*ALL), 1)
    while outcome is UNFINISHED and len(lease.late or ()) < 500:
        outcome = machine.go_on(1)
    assert len(machine.leases._moved or ()) > 1_000
    for number in range(2_000, 3_000):
        machine.leases.grant(number + 1, 60, Index(1))
    beside: list[object] = [machine._engine, machine.mvcc._records._recent, machine.leases._touched]
    seen = {id(each) for each in beside}
    waiting: list[object] = [machine, *clocks]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        assert not isinstance(each, dict | set) or len(each) < 200, next(iter(each))
        waiting += gc.get_referents(each)
        if isinstance(each, msgspec.Struct):  # the collector does not look into some
            waiting += [getattr(each, name) for name in each.__struct_fields__]
    assert len(machine.leases._young) == 1_000
    lists.close()
