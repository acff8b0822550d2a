"""Terms never fall, not even over a crash, once anyone heard of them; a vote never changes within its term;
commit and applied never fall within a life (Ongaro's dissertation, sections 3.3 and 3.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.member import Member
    from tests.sim.world import World


class Monotone(Invariant):
    """Remembers the last marks of every life, and the highest term each member spoke in."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._last: dict[NodeId, tuple[int, int, int, int, int]] = {}
        self._spoke: dict[NodeId, int] = {}

    def booted(self, member: Member) -> None:
        raft = member.raft
        self._last[member.id] = (raft.term, raft.vote, raft.log.commit, raft.log.applied, 0)

    def sent(self, member: Member, message: Message) -> None:
        if message.term > self._spoke.get(message.sender, 0) and message.term <= member.raft.term:
            self._spoke[message.sender] = message.term

    def turned(self, member: Member) -> None:
        raft = member.raft
        log = raft.log
        last = self._last[member.id]
        now = (raft.term, raft.vote, log.commit, log.applied, raft.reads.round)
        if now == last:
            return
        require(now[0] >= last[0], "the term fell", member=member.id, last=last, now=now)
        require(
            now[0] > last[0] or last[1] in {0, now[1]},
            "the vote changed within a term",
            member=member.id,
            last=last,
            now=now,
        )
        require(
            now[2] >= last[2] and now[3] >= last[3] and now[4] >= last[4],
            "commit, applied or read round fell",
            member=member.id,
            last=last,
            now=now,
        )
        self._last[member.id] = now
