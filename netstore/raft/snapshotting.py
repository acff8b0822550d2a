"""Snapshots instead of log entries, and log compaction (Ongaro's dissertation, chapter 5).

Invariant: a member's log changes only when its host reports that the snapshot is in place, not when it has
arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import confchange, roles
from netstore.raft.entry import SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import InstallSnapshot
from netstore.raft.progress import ProgressState
from netstore.raft.state import NOBODY
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState
    from netstore.types import NodeId


def meta_at(raft: RaftState, index: Index) -> SnapshotMeta:
    """The description of a snapshot at `index`, which must be applied and not compacted."""
    if not raft.log.compacted <= index <= raft.log.applied:
        raise InvariantBroken(f"snapshot at {index} asked of {raft.log.compacted}..{raft.log.applied}")
    return SnapshotMeta(index, raft.log.term(index), confchange.conf_at(raft, index))


def send(raft: RaftState, peer: NodeId, progress: Progress) -> None:
    """Leader: this follower needs entries that are compacted. Only if it was heard from lately, because
    snapshots are expensive."""
    applied = raft.log.applied
    if not progress.active(raft.ticks, raft.config.election_ticks) or applied == 0:
        progress.paused = True
        return
    progress.become_snapshot(applied)
    raft.send(InstallSnapshot(raft.id, peer, raft.term, meta_at(raft, applied)))


def report(raft: RaftState, peer: NodeId, *, ok: bool, index: int) -> None:
    """Leader: the host has sent the snapshot, or gave up; the follower is probed once it answers. A snapshot
    that was made after it was asked for has a later `index`: the log may be compacted up to there, so a probe
    before it would lead to another snapshot."""
    progress = raft.progress.get(peer)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    sent = max(progress.snapshot, index)
    progress.become_probe()
    if ok:
        progress.next = Index(max(progress.next, sent + 1))
    progress.paused = True


def handle_install(raft: RaftState, message: InstallSnapshot) -> None:
    """Follower: a complete, verified snapshot has arrived. Ask the host to put it in place, unless this log
    already has what it stands for."""
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
    """The snapshot is in place and durable: the log starts after it, with its configuration."""
    if raft.installing is None or raft.installing != meta:
        raise InvariantBroken(f"snapshot at {meta.index} was not asked for")
    raft.installing = None
    raft.log.restart_after(meta.index, meta.term)
    raft.conf_history = [(meta.index, meta.conf)]
    confchange.switch_to(raft, meta.conf)
    if raft.leader != NOBODY:
        raft.accept(meta.index)


def compact(raft: RaftState, index: Index) -> None:
    """Drop the log up to `index`, and the configurations before the one that holds there."""
    raft.log.compact(index)
    history = raft.conf_history
    while len(history) > 1 and history[1][0] <= raft.log.compacted:
        history.pop(0)
