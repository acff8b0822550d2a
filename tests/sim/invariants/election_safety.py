"""Election safety: at most one leader in a term (Ongaro's dissertation, section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.status import Role
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.types import NodeId, Term
    from tests.sim.member import Member
    from tests.sim.world import World


class ElectionSafety(Invariant):
    """Remembers who led each term, whether it still runs or not."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._leader_of: dict[Term, NodeId] = {}

    def turned(self, member: Member) -> None:
        raft = member.raft
        if raft.role is Role.LEADER:
            first = self._leader_of.get(raft.term)
            if first is None:
                self._leader_of[raft.term] = raft.id
                self.world.reach["elections"] += 1
            else:
                require(first == raft.id, "two leaders in a term", term=raft.term, members=(first, raft.id))
