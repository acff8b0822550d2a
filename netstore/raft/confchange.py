"""Which configuration a change leads to, and which one the log of a member ends with (Ongaro's dissertation,
chapter 4).

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
    """The configuration `change` leads to from `conf`, or why it does not fit. Pure: every member decides the
    same.

    Without steps a joint configuration is left. With steps, a change that keeps the voters as they are takes
    effect at once; any other, however small, enters a joint configuration.
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
    """Entries from `first` on are new: forget the configurations of what stood there, use the newest of what
    stands there.

    A change that does not fit the configuration it meets changes nothing, on every member alike. Costs the
    number of new entries.
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
        use(raft, history[-1][1])


def use(raft: RaftState, conf: ConfState) -> None:
    """Decide by `conf` from now on. A leader replicates to everyone in it, and forgets others."""
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


def at(raft: RaftState, index: Index) -> ConfState:
    """The configuration that the log up to `index` leads to; not for what is forgotten."""
    return next(conf for since, conf in reversed(raft.conf_history) if since <= index)


def may_be_needed(raft: RaftState) -> bool:
    """Whether this member votes in the newest configuration known to be committed, or in any after it.

    One that its own log removes must still campaign until that is committed (section 4.2.2): it may be the
    only one whose log is complete enough. Its own vote does not count then.
    """
    for since, conf in reversed(raft.conf_history):
        if conf.votes(raft.id):
            return True
        if since <= raft.log.commit:
            break
    return False
