"""A member that was away never raises the term of a healthy cluster (Ongaro's dissertation, sections 9.6 and
4.2.3).

Two halves, both on the wire: who asks for votes unbidden was first promised them by a majority, in
pre-votes for that very term; and nobody promises a vote while the leader was heard within the shortest
election timeout, by the member's own ticks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import (
    Append,
    Heartbeat,
    InstallSnapshot,
    PreVoteAnswer,
    PreVoteRequest,
    VoteRequest,
)
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.entry import ConfState
    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.member import Member
    from tests.sim.world import World


class PreVote(Invariant):
    """Counts promises that arrived, and ticks since each member heard its leader."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._promised: dict[tuple[NodeId, int, int], set[NodeId]] = {}
        self._quiet: dict[NodeId, int] = {}
        self._free: set[tuple[NodeId, int, NodeId, int]] = set()
        """Who may be promised a vote by whom: the request came when no leader was heard."""

    def booted(self, member: Member) -> None:
        self._quiet.pop(member.id, None)

    def ticked(self, member: Member) -> None:
        if member.id in self._quiet:
            self._quiet[member.id] += 1

    def heard(self, member: Member, message: Message) -> None:
        if isinstance(message, PreVoteAnswer):
            if message.granted:
                asked = (member.id, member.life, message.asked)
                self._promised.setdefault(asked, {member.id}).add(message.sender)
        elif isinstance(message, PreVoteRequest):
            quiet = self._quiet.get(member.id)
            if quiet is None or member.raft.leader == 0 or quiet >= self.world.plan.election_ticks:
                self._free.add((member.id, member.life, message.sender, message.term))
        elif isinstance(message, Append | Heartbeat | InstallSnapshot) and message.term >= member.raft.term:
            self._quiet[member.id] = 0

    def turned(self, member: Member) -> None:
        if member.raft.leader == 0:
            # It gave its leader up, for a later term or because it waited long enough.
            self._quiet.pop(member.id, None)

    def sent(self, member: Member, message: Message) -> None:
        if isinstance(message, PreVoteAnswer) and message.granted:
            require(
                (member.id, member.life, message.to, message.asked) in self._free,
                "a vote was promised in spite of a leader",
                member=member.id,
                to=message.to,
                term=message.asked,
            )
        elif isinstance(message, VoteRequest) and not message.forced:
            voters = self._promised.get((member.id, member.life, message.term), set())
            # Its configuration may have changed while the request waited for the disk.
            enough = any(_is_majority(voters, conf) for _, conf in member.raft.conf_history)
            require(
                enough or member.raft.term != message.term,
                "asked for votes without the promise of a majority",
                member=member.id,
                term=message.term,
                promised=sorted(voters),
            )


def _is_majority(nodes: set[NodeId], conf: ConfState) -> bool:
    halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
    return all(2 * len(nodes & {*half}) > len(half) for half in halves)
