"""Every crash point of a history of ten entries on three members: each member is switched off at each of
its effects, with each subset of the sectors of the write under way, starts again, and the cluster is judged.

An effect is a write handed to a disk, a message or an answer that leaves, a change of the state: between any
two of them the power may go (`Member.effect`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from netstore.disk.diagnose import segment_name
from netstore.errors import Fault
from netstore.state.v2 import commands
from netstore.types import NodeId
from tests.check.history import Door
from tests.sim.plan import Plan
from tests.sim.world import World

if TYPE_CHECKING:
    from netstore.state.machine import Outcome
    from tests.check.history import Operation

ENTRIES: Final = 10
SIZES: Final = (1, 1800, 1, 300, 1, 1, 1000, 1, 1, 1)
"""Bytes of each value: some writes are of several sectors, some open a segment."""

MASKS: Final = 1 << 8
"""Subsets of sectors that are tried of one write, at most."""

PLAN: Final = Plan(
    duration=1.2,
    tick=0.05,
    election_ticks=3,
    snapshot_count=2,
    catch_up_entries=1,
    segment_bytes=1024,
    commit_interval=0.03,
    time_limit=0.3,
    chores=0.05,
    disk_latency=0.004,
    clients=0,
    watchers=1,
)


class Script:
    """Ten writes, one after the other, each through the next member."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answered = 0
        self._left = list(enumerate(SIZES))
        world.timeline.after(0.35, self._next)

    def _next(self) -> None:
        if not self._left:
            return
        number, size = self._left.pop(0)
        load = self.world.workload
        member = self.world.members[NodeId(1 + number % 3)]
        operation = load.begin(0, member, Door.LOG, commands.Set(b"/r/0", b"%d" % number * size))
        member.propose(lambda _: operation.command, partial(self._told, operation))

    def _told(self, operation: Operation, outcome: Outcome | Fault) -> None:
        self.world.workload._finished(operation, outcome)
        self.answered += not isinstance(outcome, Fault)
        self.world.timeline.after(0.01, self._next)


def life(node: NodeId, fuse: int | None, kept: int | None) -> tuple[World, Script]:
    """One run in which a member is switched off at an effect, if it comes so far."""
    world = World(1, replace(PLAN))
    script = Script(world)
    member = world.members[node]
    member.fuse, member.disk.kept = fuse, kept
    world.run()
    return world, script


def test_without_a_crash_all_is_answered() -> None:
    world, script = life(NodeId(1), None, None)
    assert script.answered == ENTRIES
    assert world.reach["restarts"] == 0
    assert world.reach["compactions"] >= 3
    assert all(segment_name(3) <= max(member.disk.files) for member in world.members.values())


@pytest.mark.parametrize("node", [NodeId(1), NodeId(2), NodeId(3)])
def test_every_crash_point_of_ten_entries(node: NodeId) -> None:
    fuse = runs = torn = 0
    while True:
        world, _ = life(node, fuse, 0)
        member = world.members[node]
        if world.reach["restarts"] == 0:
            break  # the run has fewer effects than that
        runs += 1
        torn = max(torn, member.disk.torn)
        for kept in range(1, min(MASKS, 1 << member.disk.torn)):
            life(node, fuse, kept)
            runs += 1
        fuse += 1
    assert fuse > 60
    assert torn >= 4
    assert runs > 1.5 * fuse
