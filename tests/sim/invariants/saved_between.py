"""What one long command did is saved before another is half done: else a log of nothing but such commands is
applied and never saved, kept whole and never compacted (`Host._apply`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.types import Index, NodeId
    from tests.sim.member import Member
    from tests.sim.world import World


class SavedBetween(Invariant):
    """Remembers the command that each member had half done at the end of its last turn."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._half_done: dict[NodeId, Index] = {}

    def booted(self, member: Member) -> None:
        self._half_done.pop(member.id, None)

    def turned(self, member: Member) -> None:
        machine = member.machine
        if machine._work is None:
            self._half_done.pop(member.id, None)
            return
        before, now = self._half_done.get(member.id), machine._work_index
        if before is not None and before != now:
            saved = member.engine.applied()
            require(saved >= before, "a long command was not saved", member=member.id, at=before, saved=saved)
        self._half_done[member.id] = now
