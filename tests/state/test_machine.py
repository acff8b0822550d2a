"""The door: any bytes, one applied index, and an engine that always holds a state that once was."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import CannotApply, CorruptData, Fault, NetstoreError
from netstore.state import commands, tables
from netstore.state.applying import COMMAND_UNITS, NODE_UNITS, UNIT_BYTES
from netstore.state.commands import Command, encode
from netstore.state.digest import digest
from netstore.state.envelope import seal
from netstore.state.machine import APPLY_UNITS, UNFINISHED, Machine
from netstore.state.members import MemberInfo
from netstore.state.tables import LOAD_STEP
from netstore.state.v2 import commands as v2
from netstore.state.v2 import records
from netstore.state.v2.commands import Delete, ExpireNodes, NoteTtl, QuorumGet, Set
from netstore.state.v2.ttl import Timed
from netstore.state.v3.commands import LeaseCheckpoint, Put, Txn
from netstore.types import EtcdIndex, Event, Index, Nanos, NodeId
from tests.state.strategies import BASE, all_commands
from tests.support.contents import nodes_of
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine
    from netstore.state.v3.commands import V3Command


def machine_on(engine: MemoryEngine) -> Machine:
    machine = Machine(engine)
    machine.load()
    return machine


def apply(machine: Machine, command: Command | bytes) -> object:
    data = command if isinstance(command, bytes) else encode(command)
    try:
        return machine.apply(Index(machine.applied + 1), data)
    except CannotApply:  # a later version's, it may be; the member would stop
        machine.applied = Index(machine.applied + 1)
        return None


def test_what_a_command_of_the_tree_works_is_counted_by_the_nodes_it_touches() -> None:
    machine = machine_on(memory_engine())

    def work(command: Command) -> int:
        before = machine.applying.worked
        apply(machine, command)
        return machine.applying.worked - before

    assert work(Set(b"/d" * 200 + b"/file")) >= 200 * NODE_UNITS
    assert work(Set(b"/d" * 200 + b"/file")) == COMMAND_UNITS
    assert work(Delete(b"/d", dir=True, recursive=True)) >= 200 * NODE_UNITS
    assert work(ExpireNodes(((b"/gone", 1),) * 50)) >= 50 * COMMAND_UNITS
    assert work(NoteTtl(((b"/gone", 1, 1),) * 50)) >= 50 * NODE_UNITS
    assert work(LeaseCheckpoint(((1, 1, 1),) * 50)) >= 50 * NODE_UNITS


def test_what_is_large_is_counted_by_its_bytes() -> None:
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


def test_one_piece_of_an_expiry_is_as_long_as_what_it_ends_is_large() -> None:
    machine = machine_on(memory_engine())
    ends = []
    for number in range(20):
        path = b"/%d" % number
        apply(machine, Set(path, b"1" * (APPLY_UNITS // 4 * UNIT_BYTES), expires=Nanos(1), ttl=1))
        ends.append((path, int(machine.tree.index)))
    outcome = machine.begin(Index(machine.applied + 1), seal(encode(ExpireNodes(tuple(ends))), 1))
    left = [len(machine.tree)]
    while outcome is UNFINISHED:
        outcome = machine.go_on()
        left.append(len(machine.tree))
    assert left[0] >= 15
    assert max(before - after for before, after in pairwise(left)) <= 5
    assert left[-1] == 0


def test_a_read_through_the_log_is_counted_by_what_it_lists() -> None:
    machine = machine_on(memory_engine())
    for number in range(200):
        apply(machine, Set(b"/d/%d" % number, b"1" * UNIT_BYTES))
    apply(machine, Set(b"/f", b"1" * 100 * UNIT_BYTES))
    for path, units in ((b"/d", 200 * (NODE_UNITS + 1)), (b"/f", 100)):
        before = machine.applying.worked
        assert isinstance(apply(machine, QuorumGet(path)), Event)
        assert machine.applying.worked - before >= units


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
def test_what_was_saved_is_what_is_loaded(entries: list[bytes], data: st.DataObject) -> None:
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
    assert machine.members == {7: MemberInfo(NodeId(7), "one", ("http://c",), ("http://p",), level=1)}
    assert machine.roster.cluster_version == "3.4.0"
    assert machine.history.scan(b"/", True, 1) is None
    assert apply(machine, v2.Set(b"/members", b"1"))
    found = machine.history.scan(b"/members", True, 1)
    assert isinstance(found, Event)
    assert found.index == 5


def test_expiry_gives_an_event_for_each_node_and_no_outcome() -> None:
    machine = machine_on(memory_engine())
    for path in (b"/a", b"/b", b"/c"):
        apply(machine, v2.Set(path, b"", expires=BASE, ttl=5))
    assert apply(machine, v2.Set(b"/c", b"", expires=BASE, ttl=5)) is not None
    machine.v2.take_events()
    first = machine.tree.index - 3
    nodes = ((b"/b", first + 1), (b"/a", first), (b"/c", first + 2), (b"/gone", 1))
    assert apply(machine, v2.ExpireNodes(nodes)) is None
    assert [(event.action, event.node.key) for event in machine.v2.take_events()] == [
        ("expire", b"/b"),
        ("expire", b"/a"),
    ]
    assert list(machine.tree.timed.timed_keys()) == [b"/c"], "it was written again"
    assert machine.statistics.expire_count == 2


def test_what_a_note_left_of_a_ttl_is_stored_and_loaded() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a", b"", expires=BASE, ttl=50))
    timed = machine.tree.timed.get(b"/a")
    assert timed is not None
    apply(machine, v2.NoteTtl(((b"/a", timed.since, 20), (b"/a", timed.since + 1, 7))))
    machine.save()
    engine.commit()
    other = machine_on(engine)
    assert other.tree.timed.get(b"/a") == Timed(50, timed.since, 20)
    assert list(other.tree.timed.ttl_changes.take_renewed(10)) == [b"/a"]


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


def test_a_path_of_any_length_is_kept() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    paths = {b"/" + b"x" * 4_000 + tail for tail in (b"1", b"2", b"2/3")}
    for path in paths:
        apply(machine, v2.Set(path, b"1", dir=True))
    machine.save()
    assert {node.key for node in nodes_of(machine_on(engine).tree)} == paths


def refusal(engine: MemoryEngine) -> str:
    with pytest.raises(CorruptData, match="restore this member") as caught:
        Machine(engine).load()
    return str(caught.value)


@pytest.mark.parametrize("table", tables.TABLES)
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


def test_a_node_without_its_directory_is_named() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a/b", b"1"))
    machine.save()
    engine.write(Index(1), {(tables.NODES, b"/a"): None})
    assert "key b'/a/b' lies in no directory" in refusal(engine)
    with pytest.raises(CorruptData, match="lies in no directory"):
        list(Machine(engine).load_steps())


def test_a_window_that_does_not_end_at_the_state_is_named() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a", b"1"))
    machine.save()
    engine.write(Index(1), {(tables.WINDOW, records.window_key(EtcdIndex(1))): None})
    assert "ends at 0, the state is at 1" in refusal(engine)


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


COUNTED = [
    (v2.Set(b"/f", b""), "sets_success"),
    (v2.Set(b"/d"), "sets_fail"),
    (v2.Create(b"/new"), "create_success"),
    (v2.Create(b"/f"), "create_fail"),
    (v2.InOrder(b"/d"), "create_success"),
    (v2.Update(b"/f"), "update_success"),
    (v2.Update(b"/none"), "update_fail"),
    (v2.Update(b"/d", b"x"), "update_success"),  # refused, and still
    (v2.Update(b"/"), "update_success"),  # refused, and still
    (v2.CompareAndSwap(b"/f", b"", b"1"), "compare_and_swap_success"),
    (v2.CompareAndSwap(b"/f", b"", b"2"), "compare_and_swap_fail"),
    (v2.CompareAndSwap(b"/d", b"", b"2"), "compare_and_swap_fail"),
    (v2.CompareAndSwap(b"/", b"", b"2"), "compare_and_swap_success"),  # refused, and still
    (v2.Delete(b"/f"), "delete_success"),
    (v2.Delete(b"/d"), "delete_fail"),
    (v2.Delete(b"/"), "delete_success"),  # refused, and still
    (v2.CompareAndDelete(b"/f", b"1"), "compare_and_delete_success"),
    (v2.CompareAndDelete(b"/f", b"2"), "compare_and_delete_success"),  # refused, and still
    (v2.CompareAndDelete(b"/d", b"2"), "compare_and_delete_success"),  # refused, and still
    (v2.CompareAndDelete(b"/none", b"2"), "compare_and_delete_fail"),
    (v2.QuorumGet(b"/f"), "gets_success"),
    (v2.QuorumGet(b"/none"), "gets_fail"),
]


def test_what_an_earlier_build_left_out_is_not_guessed() -> None:
    """A node without a TTL would end at once; a missing checksum would not be the same on all members."""
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/held", b"1", expires=v2.LATEST, ttl=5))
    machine.save()
    record = msgspec.msgpack.decode(engine.get(tables.NODES, b"/held") or b"")
    engine.write(Index(2), {(tables.NODES, b"/held"): tables.encode(record[:5])})
    with pytest.raises(CorruptData, match="table v2, key b'/held': it ends at an instant, and has no TTL"):
        machine_on(engine)
    engine = memory_engine()
    engine.write(Index(1), {(tables.V3_STATE, tables.STATE_KEY): tables.encode((1, 0, 0))})
    with pytest.raises(CorruptData, match="table v3_state"):
        machine_on(engine)


@pytest.mark.parametrize(("command", "counter"), COUNTED, ids=lambda value: str(value)[:40])
def test_counters_are_those_of_etcd(command: Command, counter: str) -> None:
    """v2 API, statistics."""
    machine = machine_on(memory_engine())
    apply(machine, v2.Set(b"/f", b"1"))
    apply(machine, v2.Create(b"/d/x"))
    before = msgspec.structs.asdict(machine.statistics)
    apply(machine, command)
    after = msgspec.structs.asdict(machine.statistics)
    assert {name for name in after if after[name] != before[name]} == {counter}


def test_creating_below_a_file_counts_twice() -> None:
    machine = machine_on(memory_engine())
    apply(machine, v2.Set(b"/f", b"1"))
    assert apply(machine, v2.Create(b"/f/x")) == Fault(104, b"/f", 1)
    assert apply(machine, v2.InOrder(b"/f")) == Fault(104, b"/f", 1)
    assert (machine.statistics.create_fail, machine.statistics.sets_fail) == (2, 2)
