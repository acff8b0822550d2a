"""Who hears of a later term takes it over (Ongaro's dissertation, section 3.3). Not from a pre-vote, which
names a term that nobody has entered, nor from a candidate while a leader is heard (sections 9.6 and 4.2.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import PreVoteAnswer, PreVoteRequest, VoteRequest
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.member import Member
    from tests.sim.world import World


class LaterTerm(Invariant):
    """Looks at the next occasion whether the term that was heard was taken over."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._heard: dict[NodeId, int] = {}

    def booted(self, member: Member) -> None:
        self._heard.pop(member.id, None)

    def ticked(self, member: Member) -> None:
        term = self._heard.pop(member.id, 0)
        require(member.raft.term >= term, "heard of a later term and stayed", member=member.id, term=term)

    def heard(self, member: Member, message: Message) -> None:
        self.ticked(member)
        if isinstance(message, PreVoteRequest | VoteRequest):
            return
        if not isinstance(message, PreVoteAnswer) or not message.granted:
            self._heard[member.id] = message.term
