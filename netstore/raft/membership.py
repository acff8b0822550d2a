"""Joint changes: validate, enter, leave; learners and their promotion (Ongaro's dissertation, chapter 4).

Invariant: a member uses the configuration of the last change it *applied*, and at most one change is in the log that is not applied
at the leader. DESIGN.md shows why two configurations in use at once then always share a member of every two majorities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import election, replication
from netstore.raft.change import MAX_CHANGE_STEPS, MAX_CONTEXT_BYTES, Change, StepKind
from netstore.raft.entry import ConfState, EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Forward, TimeoutNow
from netstore.raft.progress import Progress
from netstore.raft.status import Fate, Proposed, Refusal, Role
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.core import Raft
    from netstore.raft.entry import Entry


def after(conf: ConfState, change: Change) -> ConfState | Refusal:
    """The configuration `change` leads to from `conf`, or why it does not fit. Pure: every member decides the same.

    Without steps a joint configuration is left. With steps, a change that keeps the voters as they are takes effect at once;
    any other, however small, enters a joint configuration.
    """
    if not change.steps:
        return _left(conf) if conf.joint else Refusal.NOTHING_TO_LEAVE
    if conf.joint:
        return Refusal.CHANGE_PENDING
    named = {step.node for step in change.steps}
    if len(named) != len(change.steps) or 0 in named or len(named) > MAX_CHANGE_STEPS:
        return Refusal.CONTRADICTION
    voters = {*conf.voters}
    learners = {*conf.learners}
    for step in change.steps:
        voters.discard(step.node)
        learners.discard(step.node)
        if step.kind is StepKind.ADD_VOTER:
            voters.add(step.node)
        elif step.kind is StepKind.ADD_LEARNER:
            learners.add(step.node)
    if not voters:
        return Refusal.NO_VOTER_LEFT
    incoming = tuple(sorted(voters))
    if incoming == conf.voters:
        quiet = ConfState(voters=incoming, learners=tuple(sorted(learners)))
        return Refusal.NOTHING_TO_CHANGE if quiet == conf else quiet
    demoted = learners & {*conf.voters}
    return ConfState(
        voters=incoming,
        voters_outgoing=conf.voters,
        learners=tuple(sorted(learners - demoted)),
        learners_next=tuple(sorted(demoted)),
        auto_leave=change.auto_leave,
    )


def _left(conf: ConfState) -> ConfState:
    return ConfState(voters=conf.voters, learners=tuple(sorted({*conf.learners, *conf.learners_next})))


def propose(raft: Raft, change: Change) -> Proposed:
    """Append a change if it may follow what is there; a follower sends it to the leader."""
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
    index = _append(raft, change)
    return Proposed(Fate.APPENDED, index, raft.term)


def refuse(raft: Raft, change: Change) -> Refusal | None:
    """Why the leader may not append `change` now, or None."""
    if raft.transfer_to:
        return Refusal.TRANSFERRING
    if raft.pending_change > raft.log.applied:
        return Refusal.CHANGE_PENDING
    conf = after(raft.conf, change)
    if isinstance(conf, Refusal):
        return conf
    for step in change.steps:
        if step.kind is StepKind.ADD_VOTER and step.node in raft.conf.learners:
            learner = raft.progress.get(step.node)
            if learner is not None and not caught_up(raft, learner):
                return Refusal.LEARNER_BEHIND
    return None


def caught_up(raft: Raft, learner: Progress) -> bool:
    """Whether promoting it would hold up nobody (section 4.2.1)."""
    return learner.is_caught_up(raft.log.last, raft.ticks, raft.config.election_ticks)


def _append(raft: Raft, change: Change) -> Index:
    index = replication.append(raft, (change.encode(),), EntryKind.CHANGE)
    raft.pending_change = index
    return index


def apply(raft: Raft, entry: Entry) -> ConfState:
    """Put the change in `entry` in force. One that does not fit changes nothing: on every member alike."""
    if entry.kind is not EntryKind.CHANGE or not raft.log.applied < entry.index <= raft.log.applying:
        raise InvariantBroken(f"entry {entry.index} is not a change that was handed out for applying")
    if entry.index <= raft.conf_history[-1][0]:
        raise InvariantBroken(f"change {entry.index} applied after change {raft.conf_history[-1][0]}")
    conf = after(raft.conf, Change.decode(entry.data))
    if isinstance(conf, ConfState):
        raft.conf_history.append((entry.index, conf))
        switch(raft, conf)
    return raft.conf


def switch(raft: Raft, conf: ConfState) -> None:
    """Use `conf` from now on. A leader that is no voter any more gives up; others it no longer knows are forgotten."""
    raft.conf = conf
    if raft.role is not Role.LEADER:
        return
    known = raft.progress
    raft.progress = {}
    for peer in conf.members():
        if peer != raft.id:
            raft.progress[peer] = known.get(peer) or Progress(Index(raft.log.last + 1), raft.ticks)
    if raft.transfer_to and not conf.votes(raft.transfer_to):
        election.abort_transfer(raft)
    if conf.votes(raft.id):
        replication.advance_commit(raft)
        raft.send_due = True
        return
    successor = _most_complete_voter(raft)
    if successor:
        raft.send(TimeoutNow(raft.id, successor, raft.term))
    election.become_follower(raft, raft.term, election.NOBODY)


def _most_complete_voter(raft: Raft) -> NodeId:
    """Who should lead after this leader removed itself (section 4.2.2): the voter with the whole log, if there is one."""
    for voter in raft.conf.voters:
        if raft.progress[voter].match == raft.log.last:
            return voter
    return election.NOBODY


def leave_when_due(raft: Raft) -> None:
    """Leave a joint configuration that is in force and asks to be left. Called when the applied index moved."""
    conf = raft.conf
    if (
        conf.joint
        and conf.auto_leave
        and raft.role is Role.LEADER
        and raft.pending_change <= raft.log.applied
    ):
        _append(raft, Change())
