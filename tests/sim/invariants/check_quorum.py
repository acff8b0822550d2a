"""A leader that hears no majority gives up (Ongaro's dissertation, section 6.2): otherwise clients wait for
one that can commit nothing, and nobody else may be elected while some still hear it.

Seen on the wire and in the member's own ticks: who has led under one configuration for two election
timeouts has heard a majority within them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.status import Role
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.entry import ConfState
    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.member import Member
    from tests.sim.world import World


class CheckQuorum(Invariant):
    """Counts each member's ticks, and notes at which of them it heard whom."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._ticks: dict[NodeId, int] = {}
        self._heard: dict[NodeId, dict[NodeId, int]] = {}
        self._since: dict[NodeId, tuple[int, int, ConfState]] = {}
        """Since which tick a member leads which term under which configuration."""

    def booted(self, member: Member) -> None:
        self._ticks[member.id] = 0
        self._heard[member.id] = {}
        self._since.pop(member.id, None)

    def ticked(self, member: Member) -> None:
        self._ticks[member.id] += 1

    def heard(self, member: Member, message: Message) -> None:
        self._heard[member.id][message.sender] = self._ticks[member.id]

    def turned(self, member: Member) -> None:
        raft = member.raft
        if raft.role is not Role.LEADER:
            self._since.pop(member.id, None)
            return
        now = self._ticks[member.id]
        since = self._since.get(member.id)
        if since is None or since[1] != raft.term or since[2] is not raft.conf:
            self._since[member.id] = (now, raft.term, raft.conf)
            return
        oldest = now - 2 * self.world.plan.election_ticks
        if since[0] > oldest:
            return
        heard = self._heard[member.id]
        near = {node for node, at in heard.items() if at >= oldest} | {member.id}
        conf = raft.conf
        halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
        require(
            all(2 * len(near & {*half}) > len(half) for half in halves),
            "a leader without a majority leads on",
            member=member.id,
            term=raft.term,
            near=sorted(near),
        )
