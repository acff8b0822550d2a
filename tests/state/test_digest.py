"""Equal logs give equal digests, however they were cut into batches and wherever a member was restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.state.commands import encode
from netstore.state.digest import DIGEST_BYTES, digest
from netstore.state.machine import Machine
from netstore.state.tables import LEASES, NODES
from netstore.state.v2.commands import Set
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER
from netstore.state.v3.commands import Compact, DeleteRange, LeaseGrant, Put
from netstore.state.v3.lease import Leases
from netstore.state.v3.mvcc import Mvcc
from netstore.types import Index
from tests.state.strategies import all_commands
from tests.state.v3.strategies import v3_commands
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.state.commands import Command
    from netstore.state.v3.commands import V3Command

histories = st.lists(st.one_of(all_commands(), v3_commands()), max_size=40)


def feed(machine: Machine, commands: list[Command | V3Command]) -> None:
    for command in commands:
        machine.apply(Index(machine.applied + 1), encode(command))


@given(histories, st.integers(0, 40))
def test_a_restart_and_other_batches_change_nothing(history: list[Command | V3Command], cut: int) -> None:
    one, other = Machine(memory_engine()), memory_engine()
    first = Machine(other)
    feed(one, history)
    one.save()
    feed(first, history[:cut])
    first.save()
    second = Machine(other)
    second.load()
    assert digest(second) == digest(first)
    for command in history[cut:]:
        feed(second, [command])
        second.save()
        while second.sweeping:
            second.sweep()
    assert digest(second) == digest(one)
    assert len(digest(one)) == DIGEST_BYTES


@given(histories, histories)
def test_other_states_have_other_digests(
    history: list[Command | V3Command], more: list[Command | V3Command]
) -> None:
    one, two = Machine(memory_engine()), Machine(memory_engine())
    feed(one, history)
    feed(two, history)
    before = digest(two)
    assert before == digest(one)
    feed(two, more)
    if more:
        assert digest(two) != before, "the index alone tells them apart"


def _other_value(machine: Machine) -> None:
    machine.apply(Index(machine.applied + 1), encode(Put(b"k", b"w", 0)))


def _other_node(machine: Machine) -> None:
    machine.apply(Index(machine.applied + 1), encode(Set(b"/k", b"w")))


@pytest.mark.parametrize("goes_wrong", [_other_value, _other_node])
def test_a_difference_is_never_forgotten(goes_wrong: Callable[[Machine], None]) -> None:
    right, wrong = Machine(memory_engine()), Machine(memory_engine())
    feed(right, [Put(b"k", b"v", 0) if goes_wrong is _other_value else Set(b"/k", b"v")])
    goes_wrong(wrong)
    same: list[Command | V3Command] = [
        Put(b"k", b"same", 0),
        Set(b"/k", b"same"),
        DeleteRange(b"k"),
        Compact(3),
    ]
    for command in same * 3:
        feed(right, [command])
        feed(wrong, [command])
        assert right.mvcc.revision == wrong.mvcc.revision
        assert digest(right) != digest(wrong)


def test_the_same_command_with_another_result_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = Machine(memory_engine()), Machine(memory_engine())
    history: list[Command | V3Command] = [Put(b"a", b"1", 0), Set(b"/a", b"1")]
    feed(right, history)
    with monkeypatch.context() as patch:
        patch.setattr(Mvcc, "put", lambda *_: 0)
        feed(wrong, history)
    assert digest(right) != digest(wrong)
    twin = Machine(memory_engine())
    with monkeypatch.context() as patch:
        patch.setattr(Tree, "set", lambda tree, path, value, *_: tree.create(path, value, False, FOR_EVER))
        feed(twin, history)
    assert digest(right) != digest(twin)


@pytest.mark.parametrize("table", [NODES, LEASES, "v3"])
def test_a_record_missing_after_loading_changes_the_digest(table: str) -> None:
    engine = memory_engine()
    machine = Machine(engine)
    feed(machine, [Put(b"k", b"v", 0), Set(b"/k", b"v"), LeaseGrant(7, 60)])
    machine.save()
    (key, _) = next(iter(engine.scan(table, b"", None)))
    engine.write(machine.applied, {(table, key): None})
    other = Machine(engine)
    other.load()
    assert digest(other) != digest(machine)


def test_it_counts_leases_that_were_only_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = Machine(memory_engine()), Machine(memory_engine())
    feed(right, [LeaseGrant(7, 60)])
    monkeypatch.setattr(Leases, "__len__", lambda _: 0)
    feed(wrong, [LeaseGrant(8, 60)])
    assert digest(right) != digest(wrong)
