"""The machine: any bytes may be applied, each entry once, and what is saved is what is loaded."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import Fault, NetstoreError
from netstore.state import commands, tables
from netstore.state.applying import COMMAND_UNITS, UNIT_BYTES
from netstore.state.commands import Command, encode
from netstore.state.digest import digest
from netstore.state.envelope import seal
from netstore.state.machine import SETTLE_UNITS, UNFINISHED, UNSAVED_UNITS, Machine
from netstore.state.members import MemberInfo
from netstore.state.tables import LOAD_STEP
from netstore.state.v2 import commands as v2
from netstore.state.v2.commands import QuorumGet, Set
from netstore.state.v2.ttl import FOR_EVER
from netstore.state.v3.commands import DeleteRange, Put, Txn
from netstore.types import EtcdIndex, Event, Index, NodeId
from tests.state.machines import apply, machine_on, refusal
from tests.state.strategies import BASE, all_commands
from tests.support.contents import nodes_of
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.state.v3.commands import V3Command


def test_the_work_of_a_large_command_is_counted_by_its_bytes() -> None:
    machine = machine_on(memory_engine())
    large = 1_000 * UNIT_BYTES

    def work(command: Command | V3Command) -> int:
        before = machine.applying.worked
        machine.apply(Index(machine.applied + 1), encode(command))
        return machine.applying.worked - before

    assert work(Put(b"k", b"1" * large)) >= 1_000
    assert work(Put(b"k", ignore_value=True)) >= 1_000, "it writes the value again"
    assert work(Txn((), (Put(b"k", b"1" * large),))) >= 1_000
    assert work(Set(b"/k", b"1" * large)) >= 1_000
    assert work(Set(b"/k", b"")) >= 1_000, "the event has the value before"
    assert work(Set(b"/k", b"")) == COMMAND_UNITS


def test_a_read_that_nobody_waits_for_is_counted_and_lists_nothing() -> None:
    """The state and the statistics are what they are where somebody waits."""
    here, elsewhere = machine_on(memory_engine()), machine_on(memory_engine())
    elsewhere.v2.awaited = lambda: False
    for machine in (here, elsewhere):
        for number in range(50):
            apply(machine, Set(b"/d/%d" % number, b"v"))
    listed = here.tree.listed
    for path in (b"/d", b"/d/1", b"/none", b"/d/1/below"):
        assert apply(here, QuorumGet(path, True)) is not None
        assert apply(elsewhere, QuorumGet(path, True)) is None
    assert here.tree.listed - listed == 51
    assert elsewhere.tree.listed == listed
    assert here.statistics == elsewhere.statistics
    assert state_of(here) == state_of(elsewhere)
    assert digest(here) == digest(elsewhere)


def state_of(machine: Machine) -> object:
    """Everything replicated that a machine can tell."""
    return (
        machine.applied,
        machine.tree.index,
        {node.key: node for node in nodes_of(machine.tree)},
        [msgspec.structs.replace(event, removed=()) for event in machine.history.since(0)],
        (machine.history.first, machine.history.last),
        machine.statistics.replicated(),
        dict(machine.members),
        set(machine.removed),
        machine.roster.cluster_version,
        {path: machine.tree.timed.get(path) for path in machine.tree.timed.timed_keys()},
    )


@settings(max_examples=200)
@given(st.lists(st.one_of(all_commands().map(encode), st.binary(max_size=8)), max_size=30), st.data())
def test_a_saved_state_is_loaded_unchanged(entries: list[bytes], data: st.DataObject) -> None:
    """Saved at random moments and loaded elsewhere, entries give the state they give in one go."""
    whole = machine_on(memory_engine())
    engine = memory_engine()
    part = machine_on(engine)
    for entry in entries:
        assert apply(part, entry) == apply(whole, entry)
        if data.draw(st.booleans()):
            part.save()
            if data.draw(st.booleans()):
                part = machine_on(engine)
                assert state_of(part) == state_of(whole)
    assert state_of(part) == state_of(whole)
    assert [event for event in whole.v2.take_events() if event.refresh or event.internal] == []


@given(st.lists(all_commands().map(encode), max_size=20), st.integers(0, 20))
def test_a_crash_between_saves_is_mended_by_replay(entries: list[bytes], saved: int) -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    for place, entry in enumerate(entries):
        apply(machine, entry)
        if place == saved:
            machine.save()
    survivor = machine_on(engine)
    for entry in entries[survivor.applied :]:
        apply(survivor, entry)
    assert state_of(survivor) == state_of(machine)


@given(st.binary(max_size=40))
def test_no_bytes_raise(data: bytes) -> None:
    machine = machine_on(memory_engine())
    outcome = apply(machine, data)
    assert outcome is None or isinstance(outcome, Event | Fault)
    assert machine.applied == 1


def test_bytes_that_are_no_command_change_nothing_but_the_applied_index() -> None:
    machine = machine_on(memory_engine())
    before = state_of(machine)
    outcome = apply(machine, b"\xc1")
    assert isinstance(outcome, Fault)
    assert outcome.code == 300
    assert apply(machine, b"") is None
    assert machine.applied == 2
    machine.applied = Index(0)
    assert state_of(machine) == before


def test_an_entry_is_applied_once() -> None:
    machine = machine_on(memory_engine())
    apply(machine, b"")
    with pytest.raises(NetstoreError, match="entry 1 after 1"):
        machine.apply(Index(1), b"")


def test_a_new_cluster_stands_at_three_and_a_restart_adds_one() -> None:
    """v2 API, indexes: the member added, its publication, the version."""
    machine = machine_on(memory_engine())
    publish = commands.PublishMember(7, "one", ("http://c",), ("http://p",))
    assert apply(machine, publish) is None
    assert apply(machine, commands.SetClusterVersion("3.4.0")) is None
    assert machine.tree.index == 3
    assert machine.v2.take_events() == []
    assert apply(machine, publish) is None
    assert machine.tree.index == 4
    assert machine.members == {
        7: MemberInfo(NodeId(7), "one", ("http://c",), ("http://p",), level=machine.LEVEL)
    }
    assert machine.roster.cluster_version == "3.4.0"
    assert machine.history.scan(b"/", True, 1) is None
    assert apply(machine, v2.Set(b"/members", b"1"))
    found = machine.history.scan(b"/members", True, 1)
    assert isinstance(found, Event)
    assert found.index == 5


def test_a_batch_writes_each_node_and_slot_once() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    for _ in range(2_500):
        apply(machine, v2.Set(b"/a", b"1"))
    machine.save()
    machine.save()
    (applied, changes), (_, unchanged) = engine._journal
    assert applied == 2_500
    written = {tables.NODES: 1, tables.WINDOW: 1_000, tables.STATE: 1, tables.V3_STATE: 1}
    assert Counter(table for table, _ in changes) == written
    assert unchanged == {}


def test_data_pending_for_the_checksum_is_bounded() -> None:
    machine = machine_on(memory_engine())
    most = (SETTLE_UNITS + COMMAND_UNITS) * UNIT_BYTES
    for size in (1, 1_000, 100_000, 1 << 20):
        held = count = 0
        for _ in range(64):
            apply(machine, encode(Put(b"k", bytes(size))))
            held = max(held, sum(map(len, machine.checksum._waiting)))
            count = max(count, len(machine.checksum._waiting))
        assert held <= most + 2 * size
        assert count <= 2 * SETTLE_UNITS


def test_a_save_is_due_after_some_work_and_after_a_command_in_pieces() -> None:
    machine = machine_on(memory_engine())
    few = UNSAVED_UNITS // COMMAND_UNITS
    for _ in range(2):
        for number in range(few):
            assert not machine.is_save_due
            apply(machine, encode(Put(b"%d" % number, b"1")))
        assert machine.is_save_due
        machine.save()
    assert machine.begin(Index(machine.applied + 1), seal(encode(DeleteRange(b"0", b"\0"))), 1) is UNFINISHED
    while machine.go_on(1) is UNFINISHED:
        pass
    assert machine.is_save_due, "or nothing would ever be saved between many such commands"


def test_what_a_failed_command_has_changed_is_not_saved() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a", b"1"))
    machine.save()

    def fails(_: object) -> None:
        machine.tree.set(b"/a", b"2", False, FOR_EVER)
        raise MemoryError

    machine._handlers[v2.Set] = fails
    with pytest.raises(MemoryError):
        apply(machine, v2.Set(b"/a", b"2"))
    machine.save()
    assert engine.applied() == 1
    machine.load()
    assert [node.value for node in nodes_of(machine.tree)] == [b"1"]
    apply(machine, encode(Put(b"k", b"2")))
    machine.save()
    assert engine.applied() == 2


@pytest.mark.parametrize("table", sorted(set(tables.TABLES) - {tables.WHEELS, tables.ORIGINS}))
def test_rot_in_the_engine_is_named(table: str) -> None:
    for rot in (b"\xc1", b"\x93\x01\x90\xa2\xff\xff", b""):
        engine = memory_engine()
        engine.write(Index(1), {(table, b"key"): rot})
        assert f"table {table}, key b'key'" in refusal(engine)


def test_counters_of_another_kind_are_named() -> None:
    engine = memory_engine()
    scalars = tables.Scalars(EtcdIndex(0), (1, 2, 3), "")
    engine.write(Index(1), {(tables.STATE, tables.STATE_KEY): tables.encode(scalars)})
    assert "3 counters, and there are 13" in refusal(engine)


def test_loading_starts_from_nothing() -> None:
    machine = machine_on(memory_engine())
    apply(machine, v2.Set(b"/a", b"1", expires=BASE))
    apply(machine, commands.PublishMember(7, "one", (), ()))
    machine.load()
    assert state_of(machine) == state_of(machine_on(memory_engine()))
    assert machine.v2.take_events() == []
    machine.save()


def test_loading_tells_how_far_it_is() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    for number in range(2 * LOAD_STEP):
        apply(machine, v2.Set(b"/n%d" % number, b"1"))
        apply(machine, encode(Put(b"k%d" % number, b"1")))
    machine.save()
    told: list[int] = []
    again = Machine(engine)
    again.load(told.append)
    assert told == sorted(told)
    steps = [after - before for before, after in pairwise((0, *told))]
    assert max(steps) <= LOAD_STEP, "never long without a word"
    assert again.stored == told[-1] >= 4 * LOAD_STEP
