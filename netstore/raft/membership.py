"""Joint changes: validate, enter, leave; learners and their promotion (Ongaro's dissertation, chapter 4).

Invariant: a member decides by the newest configuration in its log, committed or not (section 4.1), and a
leader adds one only when the one before is committed. Any two configurations in use at once then have no
majorities apart; DESIGN.md shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import election, quorum, replication
from netstore.raft.change import MAX_CHANGE_STEPS, MAX_CONTEXT_BYTES, Change, StepKind
from netstore.raft.entry import ConfState, EntryKind
from netstore.raft.messages import Forward, TimeoutNow
from netstore.raft.progress import Progress
from netstore.raft.status import Fate, Proposed, Refusal, Role
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.core import Raft


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
    if raft.pending_change > raft.log.commit:
        return Refusal.CHANGE_PENDING
    conf = after(raft.conf, change)
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


def caught_up(raft: Raft, learner: Progress) -> bool:
    """Whether promoting it would hold up nobody (section 4.2.1)."""
    return learner.is_caught_up(raft.log.last, raft.ticks, raft.config.election_ticks)


def _append(raft: Raft, change: Change) -> Index:
    index = replication.append(raft, (change.encode(),), EntryKind.CHANGE)
    raft.pending_change = index
    follow_log(raft, index)
    return index


def follow_log(raft: Raft, first: Index) -> None:
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


def use(raft: Raft, conf: ConfState) -> None:
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
        election.abort_transfer(raft)
    raft.send_due = True


def settle(raft: Raft) -> None:
    """Leader, the commit index moved: leave a joint configuration that asks for it; give up once removed
    (section 4.2.2), telling the others first what is committed.
    """
    since, conf = raft.conf_history[-1]
    if since > raft.log.commit:
        return
    if conf.joint:
        if conf.auto_leave:
            replication.send_all(raft)  # who goes hears of it while it is still spoken to
            _append(raft, Change())
    elif not conf.votes(raft.id):
        replication.send_all(raft)
        for voter in conf.voters:
            if raft.progress[voter].match == raft.log.last:
                raft.send(TimeoutNow(raft.id, voter, raft.term))
                break
        election.become_follower(raft, raft.term, election.NOBODY)


def at(raft: Raft, index: Index) -> ConfState:
    """The configuration that the log up to `index` leads to; not for what is forgotten."""
    return next(conf for since, conf in reversed(raft.conf_history) if since <= index)


def may_be_needed(raft: Raft) -> bool:
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
