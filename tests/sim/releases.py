"""Members that are upgraded one by one while clients ask for what only the later release can do: it must be
refused until all members know it, be done by all from then on, and end none of those that do not know it yet.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.state import features
from netstore.state.commands import PublishMember
from tests.support.later import appending

if TYPE_CHECKING:
    from random import Random

    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from tests.sim.member import Member
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

LOOK_SECONDS: Final = 0.2
ASK_SECONDS: Final = 0.1

COMMAND: Final = appending(b"a")
"""Its key comes before those of all other clients."""


class Releases:
    """The operator who upgrades, and the client. Without `Plan.upgrades` nothing happens."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def start(self) -> None:
        """From now on: members tell which level they know, as they do when they start, until all know it."""
        world, random = self._world, self._random
        if not world.plan.upgrades:
            return
        for member in world.members.values():
            self._publish(member)
            world.timeline.after(random.random() * world.plan.duration * 0.8, partial(self._upgrade, member))
        self._ask()

    def _upgrade(self, member: Member) -> None:
        """Restart it, once it knows of everybody: a real cluster's log begins with that."""
        world = self._world
        if not member.up or member.paused or len(member.machine.members) < world.plan.size:
            world.timeline.after(LOOK_SECONDS, partial(self._upgrade, member))
            return
        member.later = True
        world.reach["members_upgraded"] += 1
        member.crash()
        member.boot()

    def _publish(self, member: Member) -> None:
        """Propose it and look again once that has an end, as `netstore.node.publication` does."""
        machine = member.machine
        known = machine.members.get(member.id)
        if member.up and not member.paused and (known is None or known.level < machine.LEVEL):
            command = PublishMember(member.id, f"m{member.id:x}", (), (), machine.LEVEL)
            member.propose(partial(_given, command), partial(self._look_again, member))
        else:
            self._look_again(member)

    def _look_again(self, member: Member, _: Outcome | Fault | None = None) -> None:
        self._world.timeline.after(LOOK_SECONDS, partial(self._publish, member))

    def _ask(self) -> None:
        world, random = self._world, self._random
        if world.workload.over:
            return
        able = [member for member in world.running() if member.machine.LEVEL > features.LEVEL]
        if able:
            random.choice(able).propose_bytes(COMMAND, self._told)
        world.timeline.after(2 * ASK_SECONDS * random.random(), self._ask)

    def _told(self, outcome: Outcome | Fault) -> None:
        what = "later_commands_refused" if isinstance(outcome, Fault) else "later_commands_done"
        self._world.reach[what] += 1


def _given(command: Command, _: MachineClock) -> Command:
    return command
