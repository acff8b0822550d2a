"""Clients that send every command with the values at the edges of its fields, and read at such places: an
entry that some member cannot apply would end that member in the run, one that two apply differently would be
found where states are compared, one that cannot be replayed where the log is replayed.

What they do to the keys of others is no client's history; so the runs with them are not judged by what
clients were told.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.state import commands
from netstore.state.v2 import commands as v2
from netstore.state.v2.commands import KeyCommand
from netstore.state.v3.commands import Range
from tests.state.extremes import BYTES, every_edge

if TYPE_CHECKING:
    from random import Random

    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

LONG_TEXT: Final = 4096
"""Names longer than this come up in one of ten commands only: each is in the log of every member."""


class Hostile:
    """All of them. Without `Plan.hostile` nothing happens."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def start(self) -> None:
        """From now on."""
        for _ in range(self._world.plan.hostile):
            self._later()

    def _later(self) -> None:
        self._world.timeline.after(2 * self._world.plan.think * self._random.random(), self._step)

    def _step(self) -> None:
        world, random = self._world, self._random
        if world.workload.over:
            return
        member = world.workload.someone()
        command = self._command()
        if isinstance(command, Range) and random.random() < 0.5:
            world.reach["extreme_reads"] += 1
            member.read_pairs(command, self._read)
        elif isinstance(command, KeyCommand) and random.random() < 0.2:
            world.reach["extreme_reads"] += 1
            member.look(command.path, random.random() < 0.5, self._read)
        else:
            world.reach["extreme_commands"] += 1
            member.propose(partial(_given, command), self._told)
        self._later()

    def _command(self) -> Command:
        random = self._random
        kinds = edges()
        command = random.choice(kinds[random.choice(tuple(kinds))])
        if len(commands.encode(command)) > LONG_TEXT and random.random() < 0.9:
            return v2.Set(b"/" + random.choice(BYTES[1:5]).replace(b"/", b""), random.choice(BYTES[:8]))
        return command

    def _told(self, outcome: Outcome | Fault) -> None:
        self._world.reach["extremes_refused" if isinstance(outcome, Fault) else "extremes_taken"] += 1

    def _read(self, _: Outcome | Fault) -> None:
        """That there is an answer is enough."""


@cache
def edges() -> dict[str, tuple[Command, ...]]:
    """The commands by their kind, so that each kind comes up as often as any other. No client's request
    becomes a `RaiseLevel`, and one to a level that nobody knows stops every member, as it should.
    """
    kinds: dict[str, list[Command]] = {}
    for command in every_edge():
        if isinstance(command, commands.RaiseLevel):
            continue
        kinds.setdefault(type(command).__name__, []).append(command)
    return {kind: tuple(of) for kind, of in kinds.items()}


def _given(command: Command, _: MachineClock) -> Command:
    return command
