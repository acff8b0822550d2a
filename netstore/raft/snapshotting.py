"""State copies instead of log entries, and forgetting the log (Ongaro's dissertation, chapter 5).

Invariant: a member's log and position change only when its host says that the copy is in place, never when
one merely arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import confchange, roles
from netstore.raft.entry import SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import InstallSnapshot
from netstore.raft.progress import Flow
from netstore.raft.state import NOBODY
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState
    from netstore.types import NodeId


def meta_at(raft: RaftState, index: Index) -> SnapshotMeta:
    """What a state copy at `index` stands for; for what is applied and not forgotten."""
    if not raft.log.compacted <= index <= raft.log.applied:
        raise InvariantBroken(f"state copy at {index} asked of {raft.log.compacted}..{raft.log.applied}")
    return SnapshotMeta(index, raft.log.term(index), confchange.at(raft, index))


def send(raft: RaftState, peer: NodeId, progress: Progress) -> None:
    """Leader: this follower needs what the log no longer has. Only if it was heard of lately: copies are
    expensive."""
    applied = raft.log.applied
    if not progress.active(raft.ticks, raft.config.election_ticks) or applied == 0:
        progress.waiting = True
        return
    progress.await_snapshot(applied)
    raft.send(InstallSnapshot(raft.id, peer, raft.term, meta_at(raft, applied)))


def report(raft: RaftState, peer: NodeId, *, ok: bool, index: int) -> None:
    """Leader: the host has sent the copy, or gave up. Either way the follower's next answer tells where it
    is. A copy that was made later than it was asked for is at a later `index`: the log may have been
    forgotten up to there, and an attempt before that place would end in the next copy."""
    progress = raft.progress.get(peer)
    if progress is None or progress.flow is not Flow.SNAPSHOT:
        return
    copied = max(progress.snapshot, index)
    progress.probe()
    if ok:
        progress.next = Index(max(progress.next, copied + 1))
    progress.waiting = True


def take_install(raft: RaftState, message: InstallSnapshot) -> None:
    """Follower: a complete, verified copy is at hand. Ask the host to put it in place, unless this log is as
    far already."""
    roles.hear_leader(raft, message.sender)
    log = raft.log
    meta = message.meta
    if raft.installing is not None:
        return
    if meta.index <= log.commit:
        raft.accept(log.commit)
    elif log.matches(meta.index, meta.term):
        log.commit_to(meta.index)
        raft.accept(meta.index)
    else:
        raft.installing = meta
        raft.snapshot = meta


def installed(raft: RaftState, meta: SnapshotMeta) -> None:
    """The copy is in place and durable: the log starts after it, its configuration is in force."""
    if raft.installing is None or raft.installing != meta:
        raise InvariantBroken(f"state copy at {meta.index} was not asked for")
    raft.installing = None
    raft.log.restart_after(meta.index, meta.term)
    raft.conf_history = [(meta.index, meta.conf)]
    confchange.use(raft, meta.conf)
    if raft.leader != NOBODY:
        raft.accept(meta.index)


def compact(raft: RaftState, index: Index) -> None:
    """Forget the log up to `index` and configurations before the one in force there."""
    raft.log.compact(index)
    history = raft.conf_history
    while len(history) > 1 and history[1][0] <= raft.log.compacted:
        history.pop(0)
