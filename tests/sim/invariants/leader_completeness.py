"""Leader completeness: a leader's log holds every entry committed before its term (Ongaro's dissertation,
section 3.6.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.status import Role
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.types import NodeId, Term
    from tests.sim.member import Member
    from tests.sim.world import World


class LeaderCompleteness(Invariant):
    """Looks through a log once for each term its member leads."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._seen: set[tuple[NodeId, Term]] = set()

    def turned(self, member: Member) -> None:
        raft = member.raft
        if raft.role is not Role.LEADER or (raft.id, raft.term) in self._seen:
            return
        self._seen.add((raft.id, raft.term))
        log = raft.log
        for entry in self.world.ledger.committed_before(raft.term, log.compacted + 1):
            require(
                entry.index <= log.last and log.term(entry.index) == entry.term,
                "a leader lacks a committed entry",
                leader=raft.id,
                term=raft.term,
                entry=entry,
            )
