"""What a leader sends to its followers: appends within their windows, snapshots in place of what the log no
longer has, heartbeats (Ongaro's dissertation, sections 3.5 and 10.2.1)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING

from netstore.raft import snapshotting
from netstore.raft.messages import Append, Heartbeat
from netstore.raft.progress import Flow
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState
    from netstore.types import NodeId


def send_all(raft: RaftState) -> None:
    """Give every follower what its window allows, one message each by turns, until `max_ready_bytes` are on
    their way. What is left is for the next Ready, which goes on with whose turn it is then: one that was
    away, and lacks much, delays no other.
    """
    raft.send_due = False
    config = raft.config
    sent = 0
    waiting = deque(_from(raft.progress, raft.send_next))
    while waiting:
        peer, progress = turn = waiting.popleft()
        if not _lacks(raft, progress):
            continue
        if sent >= config.max_ready_bytes:
            raft.send_due, raft.send_next = True, peer
            return
        sent += send_append(raft, peer, progress, 0 if progress.denials else config.max_append_bytes)
        waiting.append(turn)


def _from(progress: dict[NodeId, Progress], first: NodeId) -> list[tuple[NodeId, Progress]]:
    """All of them in the order of their ids, from this one on and round."""
    turns = list(progress.items())
    place = bisect_left(turns, first, key=itemgetter(0))
    return turns[place:] + turns[:place]


def _lacks(raft: RaftState, progress: Progress) -> bool:
    """Whether a follower is to be sent something, and may be."""
    if progress.flow is Flow.SNAPSHOT or progress.waiting:
        return False
    if progress.flow is Flow.PROBE:
        return True
    log, config = raft.log, raft.config
    if progress.next > log.last and progress.commit_sent >= log.commit:
        return False
    return not progress.full(config.max_inflight_messages, config.max_inflight_bytes)


def send_append(raft: RaftState, peer: NodeId, progress: Progress, max_bytes: int) -> int:
    """One Append after `progress.next`, empty if `max_bytes` is 0; a state copy if that place is forgotten.
    What its entries weigh."""
    log = raft.log
    previous = Index(progress.next - 1)
    if not log.holds(previous):
        snapshotting.send(raft, peer, progress)
        return 0
    entries, size = log.from_(progress.next, max_bytes) if max_bytes else ([], 0)
    raft.send(Append(raft.id, peer, raft.term, previous, log.term(previous), log.commit, entries))
    progress.commit_sent = log.commit
    if entries or progress.flow is Flow.PROBE:
        progress.sent(Index(previous + len(entries)), size)
    return size


def send_heartbeats(raft: RaftState) -> None:
    """Tell everyone that this leader is there, with the newest read round."""
    for peer, progress in raft.progress.items():
        commit = min(progress.match, raft.log.commit)
        raft.send(Heartbeat(raft.id, peer, raft.term, commit, raft.reads.round))
