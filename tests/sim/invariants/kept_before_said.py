"""What a member says of its disk is on its disk: its vote before the vote or a request for votes leaves,
entries before they are acknowledged (Ongaro's dissertation, section 3.8). The disk is asked, not the
member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import AppendAccepted, VoteAnswer, VoteRequest
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.member import Member


class KeptBeforeSaid(Invariant):
    """Compares what leaves with `LogRecord`, which has what the disk reported safe."""

    def sent(self, member: Member, message: Message) -> None:
        if isinstance(message, VoteAnswer):
            if message.granted:
                self._voted(member, message, message.to)
        elif isinstance(message, VoteRequest):
            self._voted(member, message, message.sender)
        elif isinstance(message, AppendAccepted) and message.term == member.raft.term:
            require(
                member.record.term_at(message.index) is not None,
                "acknowledged what the disk does not hold",
                member=member.id,
                index=message.index,
            )

    @staticmethod
    def _voted(member: Member, message: VoteAnswer | VoteRequest, chosen: NodeId) -> None:
        kept = member.record.hard_state
        require(
            kept is not None
            and (kept.term > message.term or (kept.term == message.term and kept.vote == chosen)),
            "a vote left that the disk does not hold",
            member=member.id,
            term=message.term,
            vote=chosen,
            kept=kept,
        )
