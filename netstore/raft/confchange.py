"""The configuration that a change leads to, and the configurations along a member's log (Ongaro's
dissertation, chapter 4).

Invariant: a member decides by the newest configuration in its log, committed or not (section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.change import MAX_CHANGE_STEPS, Change, StepKind
from netstore.raft.entry import ConfState, EntryKind
from netstore.raft.progress import Progress
from netstore.raft.state import NOBODY
from netstore.raft.status import Refusal, Role
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.state import RaftState


def after(conf: ConfState, change: Change) -> ConfState | Refusal:
    """The configuration that `change` leads to from `conf`, or why it is refused. A pure function, so that
    all members decide the same.

    A change without steps leaves a joint configuration. One with steps that keeps the voters takes effect at
    once; any other enters a joint configuration, even for one voter.
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
    )


def _left(conf: ConfState) -> ConfState:
    return ConfState(voters=conf.voters, learners=tuple(sorted({*conf.learners, *conf.learners_next})))


def follow_log(raft: RaftState, first: Index) -> None:
    """Entries from `first` on are new: drop the configurations of entries that were there before, and use the
    newest one of the new entries.

    A change that `after` refuses changes nothing, on all members alike. Costs the number of new entries.
    """
    history = raft.conf_history
    while history[-1][0] >= first:
        history.pop()
    for entry in raft.log.between(first, raft.log.last):
        if entry.kind is EntryKind.CHANGE:
            conf = after(history[-1][1], Change.decode(entry.data))
            if isinstance(conf, ConfState):
                history.append((entry.index, conf))
    if raft.conf is not history[-1][1]:
        switch_to(raft, history[-1][1])


def switch_to(raft: RaftState, conf: ConfState) -> None:
    """Use `conf` from now on. A leader replicates to its members, and drops the progress of others."""
    raft.conf = conf
    if raft.role is not Role.LEADER:
        return
    known = raft.progress
    raft.progress = {}
    for peer in conf.members():
        if peer != raft.id:
            raft.progress[peer] = known.get(peer) or Progress(Index(raft.log.last + 1), raft.ticks)
    if raft.transfer_to and not conf.votes(raft.transfer_to):
        raft.transfer_to = NOBODY
    raft.send_due = True


def conf_at(raft: RaftState, index: Index) -> ConfState:
    """The configuration at `index`, which must not be compacted."""
    return next(conf for since, conf in reversed(raft.conf_history) if since <= index)


def may_be_needed(raft: RaftState) -> bool:
    """Whether this member is a voter in the newest configuration known to be committed, or in a later one.

    A member that is removed by an entry of its own log must still campaign until that entry is committed
    (section 4.2.2): it may be the only one whose log is complete enough. Its own vote does not count then.
    """
    for since, conf in reversed(raft.conf_history):
        if conf.votes(raft.id):
            return True
        if since <= raft.log.commit:
            break
    return False
