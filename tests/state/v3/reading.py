"""A machine and its twin to read from, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3.reads import STEP_UNITS, RangeRead
from netstore.types import Index
from tests.state.v3.twin import Twin
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.state.v3.commands import (
        Range,
        V3Command,
    )


ALL = (b"\0", b"\0")


class Store:
    """A machine and its twin."""

    def __init__(self, commands: Sequence[V3Command] = ()) -> None:
        self.machine = Machine(memory_engine())
        self.machine.load()
        self.twin = Twin()
        for command in commands:
            self.apply(command)

    def apply(self, command: V3Command) -> None:
        self.machine.apply(Index(self.machine.applied + 1), encode(command))
        self.twin.apply(command)
        self.machine.take_changes()

    def read(self, query: Range) -> RangeRead:
        read = self.machine.mvcc.read(query)
        assert isinstance(read, RangeRead)
        return read


def steps(read: RangeRead, units: int = STEP_UNITS) -> Iterator[list[bytes]]:
    """What each step of a read gives: nothing, of those that measure."""
    is_all = False
    while not is_all:
        is_all = read.measure(units)
        yield []
    is_all = False
    while not is_all:
        given, is_all = read.give(units)
        yield given
