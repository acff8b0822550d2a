"""What a leader commits is on the disks of a majority, of both majorities in a joint configuration (Ongaro's
dissertation, sections 3.6.2 and 4.3), and it commits by counting only entries of its own term. The disks
are asked, not the members: `LogRecord` has what they promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.status import Role
from netstore.types import Index
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.raft.entry import ConfState
    from netstore.types import NodeId, Term
    from tests.sim.member import Member
    from tests.sim.world import World


class CommitQuorum(Invariant):
    """Looks at the last entry each turn commits: with log matching it stands for those before it."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._highest = Index(0)
        self._led: dict[NodeId, Term] = {}
        """Which term each member led at the end of its last turn."""

    def turned(self, member: Member) -> None:
        raft = member.raft
        commit = raft.log.commit
        led = self._led.pop(member.id, None)
        if raft.role is Role.LEADER:
            self._led[member.id] = raft.term
        if commit <= self._highest:
            return
        before, self._highest = self._highest, commit
        if raft.role is not Role.LEADER:
            return
        require(
            led != raft.term or raft.log.term(commit) == raft.term,
            "a leader committed an entry of an earlier term by counting",
            leader=raft.id,
            term=raft.term,
            index=commit,
            of=raft.log.term(commit),
        )
        # A leader leaves a joint configuration in the very step that commits it: then the one before counts.
        latest = [conf for since, conf in raft.conf_history if since <= commit][-2:]
        # And nothing but both its majorities can have committed the entry that entered it.
        history = raft.conf_history
        joint = [(since, conf) for since, conf in history if conf.joint and before < since <= commit]
        require(
            any(self._held(conf, member, commit) for conf in (*latest, raft.conf))
            and all(self._held(conf, member, since) for since, conf in joint),
            "committed without a majority of disks",
            leader=raft.id,
            index=commit,
            conf=raft.conf,
        )

    def _held(self, conf: ConfState, leader: Member, index: Index) -> bool:
        term = leader.raft.log.term(index)
        members = self.world.members

        def holds(node: NodeId) -> bool:
            there = members[node].record.term_at(index)
            return there in (term, 0)

        halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
        return all(2 * sum(map(holds, half)) > len(half) for half in halves)
