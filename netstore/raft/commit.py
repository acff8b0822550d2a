"""The leader's log from append to commit (Ongaro's dissertation, sections 3.5, 3.6.2 and 4.2.2).

Invariant: an entry is committed by counting only if it is of the leader's own term. The leader's own disk is
one of those counted, and writes while the messages are on their way.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, cast

from netstore.raft import confchange, quorum, roles, sending
from netstore.raft.change import Change
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, Entry, EntryKind
from netstore.raft.messages import TimeoutNow
from netstore.raft.state import NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.raft.state import RaftState
    from netstore.types import Index


def append(raft: RaftState, payloads: Sequence[bytes], kind: EntryKind, size: int | None = None) -> Index:
    """Append entries of the leader's term to its log; returns the index of the last one. `size` is their size
    with overhead, if known."""
    log = raft.log
    first = log.last + 1
    count = len(payloads)
    indexes = cast("Iterable[Index]", range(first, first + count))
    if size is None:
        size = sum(map(len, payloads)) + count * ENTRY_OVERHEAD_BYTES
    log.append(list(map(Entry, indexes, repeat(raft.term), repeat(kind), payloads)), size)
    raft.backlog.append((log.last, size))
    raft.backlog_bytes += size
    if raft.progress:
        raft.send_due = True
    return log.last


def append_change(raft: RaftState, change: Change) -> Index:
    """Append a membership change and use the configuration it leads to; returns its index."""
    index = append(raft, (change.encode(),), EntryKind.CHANGE)
    raft.pending_change = index
    confchange.follow_log(raft, index)
    return index


def advance(raft: RaftState) -> None:
    """Leader: commit what a majority has, if it is of this term (section 3.6.2: entries of earlier terms
    commit with it, never alone)."""
    log = raft.log
    index = quorum.reached(raft.conf, raft.match_at)
    if index <= log.commit or log.term(index) != raft.term:
        return
    log.commit_to(index)
    if raft.progress:
        raft.send_due = True
    backlog = raft.backlog
    while backlog and backlog[0][0] <= index:
        raft.backlog_bytes -= backlog.popleft()[1]
    _settle(raft)


def _settle(raft: RaftState) -> None:
    """Leader, after the commit index moved: leave a joint configuration that is committed; step down once
    removed (section 4.2.2), after sending the commit index to the others.
    """
    since, conf = raft.conf_history[-1]
    if since > raft.log.commit:
        return
    if conf.joint:
        # The commit index goes to the members being removed before they leave `progress`.
        raft.commits_due = True
        sending.send_all(raft)
        append_change(raft, Change())
    elif not conf.votes(raft.id):
        raft.commits_due = True
        sending.send_all(raft)
        for voter in conf.voters:
            if raft.progress[voter].match == raft.log.last:
                raft.send(TimeoutNow(raft.id, voter, raft.term))
                break
        roles.become_follower(raft, raft.term, NOBODY)
