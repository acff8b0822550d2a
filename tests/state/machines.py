"""Machines on engines in memory, and what they refuse to load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.errors import CannotApply, CorruptData
from netstore.state.commands import Command, encode
from netstore.state.machine import Machine
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine


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


def refusal(engine: MemoryEngine) -> str:
    with pytest.raises(CorruptData, match="restore this member") as caught:
        Machine(engine).load()
    return str(caught.value)
