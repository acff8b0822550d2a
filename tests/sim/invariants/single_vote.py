"""One vote in a term, as seen on the wire and over crashes (Ongaro's dissertation, section 3.4; watching
the wire and not the members is hashicorp/raft's `fuzzy/verifier.go`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import VoteAnswer, VoteRequest
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.types import NodeId, Term
    from tests.sim.member import Member
    from tests.sim.world import World


class SingleVote(Invariant):
    """Who asks for votes has given its own to itself."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}

    def sent(self, member: Member, message: Message) -> None:
        if isinstance(message, VoteAnswer) and message.granted:
            chosen = message.to
        elif isinstance(message, VoteRequest):
            chosen = message.sender
        else:
            return
        first = self._votes.setdefault((message.sender, message.term), chosen)
        require(
            first == chosen,
            "two votes in a term",
            voter=message.sender,
            term=message.term,
            votes=(first, chosen),
        )
