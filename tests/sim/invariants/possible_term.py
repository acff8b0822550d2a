"""No member takes over a term that elections cannot have come to: it would be kept for ever, since terms
never fall (`raft.election.MAX_TERMS_AHEAD`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.election import MAX_TERMS_AHEAD
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.member import Member


class PossibleTerm(Invariant):
    """A run has a few hundred elections."""

    def turned(self, member: Member) -> None:
        term = member.raft.term
        require(term < MAX_TERMS_AHEAD, "a term that cannot be was taken over", member=member.id, term=term)
