"""The v2 store: what its commands count, in etcd's counters and in units of work."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from netstore.errors import Fault
from netstore.state.applying import COMMAND_UNITS, NODE_UNITS, UNIT_BYTES
from netstore.state.commands import Command, encode
from netstore.state.envelope import seal
from netstore.state.machine import APPLY_UNITS, UNFINISHED
from netstore.state.v2 import commands as v2
from netstore.state.v2.commands import Delete, ExpireNodes, QuorumGet, Set, TtlCheckpoint
from netstore.state.v3.commands import LeaseCheckpoint
from netstore.types import Event, Index, Nanos
from tests.state.machines import apply, machine_on
from tests.state.strategies import BASE
from tests.support.local_member import memory_engine


def test_the_work_of_a_command_of_the_tree_is_counted_by_the_nodes_it_touches() -> None:
    machine = machine_on(memory_engine())

    def work(command: Command) -> int:
        before = machine.applying.worked
        apply(machine, command)
        return machine.applying.worked - before

    assert work(Set(b"/d" * 200 + b"/file")) >= 200 * NODE_UNITS
    assert work(Set(b"/d" * 200 + b"/file")) == COMMAND_UNITS
    assert work(Delete(b"/d", dir=True, recursive=True)) >= 200 * NODE_UNITS
    assert work(ExpireNodes(((b"/gone", 1),) * 50)) >= 50 * COMMAND_UNITS
    assert work(TtlCheckpoint(((b"/gone", 1, 1),) * 50)) >= 50 * NODE_UNITS
    assert work(LeaseCheckpoint(((1, 1, 1),) * 50)) >= 50 * NODE_UNITS


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
