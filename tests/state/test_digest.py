"""Equal logs give equal digests, however they were cut into batches and wherever a member was restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.state.commands import encode
from netstore.state.digest import StateDigest
from netstore.state.machine import Machine
from netstore.state.mirror import NODES
from netstore.state.v3commands import Compact, Put
from netstore.types import Index
from tests.state.strategies import all_commands
from tests.state.v3_strategies import v3_commands
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.state.commands import Command
    from netstore.state.v3commands import V3Command

histories = st.lists(st.one_of(all_commands(), v3_commands()), max_size=40)


def digest(machine: Machine, most: int = 3) -> bytes:
    working = StateDigest(machine)
    while not working.finished:
        working.step(most)
    assert not working.void
    return working.value


def feed(machine: Machine, commands: list[Command | V3Command]) -> None:
    for command in commands:
        machine.apply(Index(machine.applied + 1), encode(command))


@given(histories, st.integers(0, 40), st.integers(1, 5))
def test_a_restart_and_other_batches_change_nothing(
    history: list[Command | V3Command], cut: int, most: int
) -> None:
    one, other = Machine(memory_engine()), memory_engine()
    first = Machine(other)
    feed(one, history)
    one.save()
    feed(first, history[:cut])
    first.save()
    second = Machine(other)
    second.load()
    for command in history[cut:]:
        feed(second, [command])
        second.save()
        while second.sweeping:
            second.sweep()
    assert digest(second, most) == digest(one)


@given(histories, histories)
def test_it_is_of_the_moment_it_was_begun(
    before: list[Command | V3Command], after: list[Command | V3Command]
) -> None:
    machine = Machine(memory_engine())
    feed(machine, before)
    machine.save()
    then = digest(machine)
    working = StateDigest(machine)
    for command in after:
        working.step(1)
        feed(machine, [command])
        machine.save()
    while not working.finished:
        working.step(1)
    assert working.void or working.value == then


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


def test_a_value_that_rotted_on_the_disk_shows() -> None:
    engine = memory_engine()
    machine = Machine(engine)
    feed(machine, [Put(b"k", b"v", 0)])
    machine.save()
    sound = digest(machine)
    (key, record) = next(iter(engine.scan("v3", b"", None)))
    engine.write(machine.applied, {("v3", key): record.replace(b"v", b"w")})
    assert digest(machine) != sound
    assert next(iter(engine.scan(NODES, b"", None)), None) is None


def test_it_is_void_when_its_revision_is_compacted_under_it() -> None:
    machine = Machine(memory_engine())
    feed(machine, [Put(b"%d" % number, b"v", 0) for number in range(9)])
    machine.save()
    working = StateDigest(machine)
    working.step(2)
    feed(machine, [Put(b"k", b"v", 0), Compact(machine.mvcc.revision)])
    feed(machine, [Put(b"k", b"v", 0), Compact(machine.mvcc.revision)])
    machine.save()
    while not working.finished:
        working.step(2)
    assert working.void
