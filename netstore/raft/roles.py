"""Becoming follower, candidate or leader: the fields that change with the role and the term (Ongaro's
dissertation, sections 3.3 and 3.4).

Invariants: the term never falls; a new term begins without a vote; only a candidate becomes leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import readindex
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import MessageRefused
from netstore.raft.progress import Progress
from netstore.raft.state import NOBODY
from netstore.raft.status import Role
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from netstore.raft.state import RaftState


def become_follower(raft: RaftState, term: Term, leader: NodeId) -> None:
    """Follow `leader` in `term`; NOBODY if the leader of the term is not known yet."""
    _enter(raft, Role.FOLLOWER, term, leader)


def become_pre_candidate(raft: RaftState) -> None:
    """Begin a pre-vote (section 9.6): the term stays."""
    _enter(raft, Role.PRE_CANDIDATE, raft.term, NOBODY)
    raft.votes[raft.id] = True


def become_candidate(raft: RaftState) -> None:
    """Begin the next term, with a vote for this member."""
    _enter(raft, Role.CANDIDATE, Term(raft.term + 1), NOBODY)
    raft.vote = raft.id
    raft.term_durable = False
    raft.votes[raft.id] = True


def become_leader(raft: RaftState) -> None:
    """Lead the term. The progress of the followers is not known yet; entries that are not committed count as
    backlog. Costs the number of these entries."""
    if raft.role is not Role.CANDIDATE:
        raise InvariantBroken(f"a {raft.role.value} became leader of term {raft.term}")
    durable = raft.term_durable
    _enter(raft, Role.LEADER, raft.term, raft.id)
    raft.term_durable = durable
    raft.heartbeat_elapsed = 0
    log = raft.log
    raft.progress = {
        peer: Progress(Index(log.last + 1), raft.ticks) for peer in raft.conf.members() if peer != raft.id
    }
    # The uncommitted entries may include a change of an earlier term: no other change before they are
    # committed.
    raft.pending_change = log.last
    entries = log.between(log.commit + 1, log.last)
    size = sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in entries)
    if size:
        raft.backlog.append((log.last, size))
        raft.backlog_bytes = size


def _enter(raft: RaftState, role: Role, term: Term, leader: NodeId) -> None:
    if term < raft.term:
        raise InvariantBroken(f"term would fall from {raft.term} to {term}")
    if leader != raft.leader or role is not raft.role or term != raft.term:
        readindex.fail_all(raft)
    if term != raft.term:
        raft.term = term
        raft.vote = NOBODY
    raft.role = role
    raft.leader = leader
    raft.elapsed = 0
    raft.timeout = raft.config.election_ticks + raft.draw(raft.config.election_ticks)
    raft.votes = {}
    raft.progress = {}
    raft.transfer_to = NOBODY
    raft.accepted = None
    raft.term_durable = True
    raft.send_due = False
    raft.backlog.clear()
    raft.backlog_bytes = 0
    raft.forwarded_bytes = 0


def hear_leader(raft: RaftState, sender: NodeId) -> None:
    """Follower: the leader of this term sent a message. MessageRefused if another one leads it."""
    if raft.leader != sender:
        if raft.leader != NOBODY:
            raise MessageRefused(f"{sender:x} says that it leads term {raft.term}, and {raft.leader:x} does")
        raft.leader = sender
    raft.elapsed = 0
