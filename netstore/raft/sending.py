"""What a leader sends to its followers: appends within their windows, a snapshot where the log is compacted,
heartbeats (Ongaro's dissertation, sections 3.5 and 10.2.1).

A commit index that moved goes with the next entries. A follower where somebody waits for it
(`Progress.waits`) gets it at once, in a message of its own; the others when the host says that nothing
follows soon (`RaftState.commits_due`), or with a heartbeat. So a write that is followed by another one costs
each follower one message and one answer instead of two.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING

from netstore.raft import snapshotting
from netstore.raft.messages import Append, Heartbeat
from netstore.raft.progress import ProgressState
from netstore.types import Index

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState
    from netstore.types import NodeId


def send_all(raft: RaftState) -> None:
    """Send every follower what its window allows, one message each in turn, until `max_ready_bytes` of
    entries are sent. The next Ready goes on with the follower that is next then: one that is far behind
    delays no other.
    """
    raft.send_due = False
    config = raft.config
    sent = 0
    waiting = deque(_rotated(raft.progress, raft.send_next)) if raft.progress else ()
    while waiting:
        peer, progress = turn = waiting.popleft()
        if not may_send(raft, progress):
            continue
        if sent >= config.max_ready_bytes:
            raft.send_due, raft.send_next = True, peer
            return
        sent += send_append(raft, peer, progress, 0 if progress.match_rejections else config.max_append_bytes)
        waiting.append(turn)
    raft.commits_due = False


def _rotated(progress: dict[NodeId, Progress], first: NodeId) -> list[tuple[NodeId, Progress]]:
    """All followers in the order of their ids, beginning with `first` and wrapping around."""
    turns = list(progress.items())
    start = bisect_left(turns, first, key=itemgetter(0))
    return turns[start:] + turns[:start]


def may_send(raft: RaftState, progress: Progress) -> bool:
    """Whether there is something to send to a follower, and it may be sent now."""
    if progress.state is ProgressState.SNAPSHOT or progress.paused:
        return False
    if progress.state is ProgressState.PROBE:
        return True
    log, config = raft.log, raft.config
    if progress.next > log.last and (
        progress.commit_sent >= log.commit or not (progress.waits or raft.commits_due)
    ):
        return False
    return not progress.full(config.max_inflight_messages, config.max_inflight_bytes)


def has_untold_commits(raft: RaftState) -> bool:
    """Leader: whether a follower that was sent the whole log was not told of the commit index, and may be."""
    log, config = raft.log, raft.config
    return any(
        progress.commit_sent < log.commit
        and progress.state is ProgressState.REPLICATE
        and progress.next > log.last
        and not progress.full(config.max_inflight_messages, config.max_inflight_bytes)
        for progress in raft.progress.values()
    )


def send_append(raft: RaftState, peer: NodeId, progress: Progress, max_bytes: int) -> int:
    """Send one Append from `progress.next` on, without entries if `max_bytes` is 0, or a snapshot if that
    part of the log is compacted; returns the size of the entries. One without entries that is not for the
    commit index is a probe, and has none, so that it is answered."""
    log = raft.log
    previous = Index(progress.next - 1)
    if not log.holds(previous):
        snapshotting.send(raft, peer, progress)
        return 0
    entries, size = log.entries_from(progress.next, max_bytes) if max_bytes else ([], 0)
    is_probe = not entries and (not max_bytes or progress.state is ProgressState.PROBE)
    commit = Index(0) if is_probe else log.commit
    raft.send(Append(raft.id, peer, raft.term, previous, log.term(previous), commit, entries))
    progress.commit_sent = max(progress.commit_sent, commit)
    if entries or progress.state is ProgressState.PROBE:
        progress.sent(Index(previous + len(entries)), size)
    return size


def send_heartbeats(raft: RaftState) -> None:
    """Send a heartbeat to every follower, with the newest read round."""
    for peer, progress in raft.progress.items():
        raft.send(Heartbeat(raft.id, peer, raft.term, progress.tell(raft.log.commit), raft.reads.round))
