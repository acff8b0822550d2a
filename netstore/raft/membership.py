"""Membership changes that are proposed: which ones a leader accepts (Ongaro's dissertation, chapter 4).

Invariant: a leader appends a configuration only when the one before it is committed. Then the majorities of
any two configurations that are in use at the same time overlap; DESIGN.md shows why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import commit, confchange, quorum
from netstore.raft.change import MAX_CONTEXT_BYTES, Change, StepKind
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward
from netstore.raft.status import Fate, Proposed, Refusal, Role

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState


def propose(raft: RaftState, change: Change) -> Proposed:
    """Append a change if the leader may do so now; a follower forwards it to the leader."""
    if len(change.context) > MAX_CONTEXT_BYTES:
        return Proposed(Fate.REFUSED, refusal=Refusal.TOO_LARGE)
    if raft.role is not Role.LEADER:
        if not raft.leader:
            return Proposed(Fate.REFUSED, refusal=Refusal.NO_LEADER)
        raft.send(Forward(raft.id, raft.leader, raft.term, EntryKind.CHANGE, (change.encode(),)))
        return Proposed(Fate.FORWARDED)
    refusal = refuse(raft, change)
    if refusal is not None:
        return Proposed(Fate.REFUSED, refusal=refusal)
    index = commit.append_change(raft, change)
    return Proposed(Fate.APPENDED, index, raft.term)


def refuse(raft: RaftState, change: Change) -> Refusal | None:
    """Why the leader may not append `change` now, or None."""
    if raft.transfer_to:
        return Refusal.TRANSFERRING
    if raft.pending_change > raft.log.commit:
        return Refusal.CHANGE_PENDING
    conf = confchange.after(raft.conf, change)
    if isinstance(conf, Refusal):
        return conf
    for step in change.steps:
        if step.kind is StepKind.ADD_VOTER and step.node in raft.conf.learners:
            learner = raft.progress.get(step.node)
            if learner is not None and not caught_up(raft, learner):
                return Refusal.LEARNER_BEHIND
    if change.steps and not quorum.reached(conf, raft.active_at):
        return Refusal.QUORUM_AT_RISK
    return None


def caught_up(raft: RaftState, learner: Progress) -> bool:
    """Whether the learner may be promoted without delaying commits (section 4.2.1)."""
    return learner.is_caught_up(raft.log.last, raft.ticks, raft.config.election_ticks)
