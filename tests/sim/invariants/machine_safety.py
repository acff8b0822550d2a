"""State machine safety: members that have applied the same entries are in the same state (Ongaro's
dissertation, section 3.6.3; P9). At every turn the scalars and what all entries came to are compared, at some
the whole image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.image import digest
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.types import Index, NodeId
    from tests.sim.member import Member
    from tests.sim.world import World

WHOLE_EVERY = 61
"""At applied indexes that this divides, the whole image is compared."""


class MachineSafety(Invariant):
    """The first member at an index says what its state is; all others must agree."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._at: dict[Index, tuple[int, ...]] = {}
        self._images: dict[Index, str] = {}
        self._seen: dict[NodeId, Index] = {}

    def booted(self, member: Member) -> None:
        self._seen.pop(member.id, None)
        self.turned(member)

    def turned(self, member: Member) -> None:
        if member.machine._work is not None:
            return  # amid a command, which nobody sees
        if self._seen.get(member.id) != member.machine.applied and member.raft.installing is None:
            self._seen[member.id] = member.machine.applied
            self._compare(member)

    def _compare(self, member: Member) -> None:
        machine = member.machine
        applied = machine.applied
        scalars = (machine.tree.index, machine.checksum.value, *machine.statistics.replicated())
        first = self._at.setdefault(applied, scalars)
        require(
            first == scalars, "states differ", member=member.id, applied=applied, first=first, here=scalars
        )
        if applied % WHOLE_EVERY == 0:
            image = digest(machine)
            known = self._images.setdefault(applied, image)
            require(known == image, "images differ", member=member.id, applied=applied)
