"""How entries travel: append, send, answer, commit (Ongaro's dissertation, sections 3.5, 3.6.2, 10.2.1).

Invariants: log matching; a leader never changes or removes an entry of its own log; an entry is committed by
counting only if it is of the leader's own term. The leader's own disk is one of those counted, and writes
while the messages are on their way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Final, cast

from netstore.raft import election, membership, quorum, readindex, snapshotting
from netstore.raft.change import Change
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, MAX_DATA_BYTES, Entry, EntryKind
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    Heartbeat,
    HeartbeatAnswer,
    MessageRefused,
)
from netstore.raft.progress import Flow
from netstore.raft.status import Fate, Proposed, Refusal, Role
from netstore.types import Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.raft.core import Raft
    from netstore.raft.progress import Progress


DENIALS_TOLD: Final = 3
"""Probes in a row that a follower denies before it counts as forgetful: one denial may have been on its way
since before it had what it acknowledged. Between two probes lies a heartbeat."""


# --- proposing


def propose(raft: Raft, payloads: Sequence[bytes]) -> Proposed:
    """Append at the leader, or one message to it. All of `payloads` share one fate. Costs their number."""
    size = sum(map(len, payloads))
    if size > MAX_DATA_BYTES and max(map(len, payloads)) > MAX_DATA_BYTES:
        return Proposed(Fate.REFUSED, refusal=Refusal.TOO_LARGE)
    size += len(payloads) * ENTRY_OVERHEAD_BYTES
    limit = raft.config.max_uncommitted_bytes
    if raft.role is Role.LEADER:
        if raft.transfer_to:
            return Proposed(Fate.REFUSED, refusal=Refusal.TRANSFERRING)
        if raft.backlog_bytes and raft.backlog_bytes + size > limit:
            return Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
        first = Index(raft.log.last + 1)
        append(raft, payloads, EntryKind.NORMAL, size)
        return Proposed(Fate.APPENDED, first, raft.term)
    if not raft.leader:
        return Proposed(Fate.REFUSED, refusal=Refusal.NO_LEADER)
    if raft.forwarded_bytes and raft.forwarded_bytes + size > limit:
        return Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
    raft.forwarded_bytes += size
    raft.send(Forward(raft.id, raft.leader, raft.term, EntryKind.NORMAL, payloads))
    return Proposed(Fate.FORWARDED)


def append(raft: Raft, payloads: Sequence[bytes], kind: EntryKind, size: int | None = None) -> Index:
    """Put entries of the own term at the end of the leader's log; returns the last one's index. `size` saves
    counting again."""
    log = raft.log
    first = log.last + 1
    count = len(payloads)
    places = cast("Iterable[Index]", range(first, first + count))
    log.append(list(map(Entry, places, repeat(raft.term), repeat(kind), payloads)))
    if size is None:
        size = sum(map(len, payloads)) + count * ENTRY_OVERHEAD_BYTES
    raft.backlog.append((log.last, size))
    raft.backlog_bytes += size
    raft.send_due = True
    return log.last


def take_forward(raft: Raft, message: Forward) -> None:
    """Leader: what a follower was asked to propose. A refusal is not told here: a host that wants it told
    takes these messages itself, and says `ForwardRefused`."""
    if message.kind is EntryKind.NORMAL:
        propose(raft, message.payloads)
        return
    for payload in message.payloads:
        raft.propose_change(Change.decode(payload))


def count_backlog(raft: Raft) -> None:
    """A new leader owes the commit of everything after its commit index. Costs that many entries."""
    log = raft.log
    entries = log.between(log.commit + 1, log.last)
    size = sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in entries)
    if size:
        raft.backlog.append((log.last, size))
        raft.backlog_bytes = size


def forget_backlog(raft: Raft) -> None:
    """Not leading: nothing is owed."""
    raft.backlog.clear()
    raft.backlog_bytes = 0
    raft.forwarded_bytes = 0


# --- committing


def advance_commit(raft: Raft) -> None:
    """Leader: commit what a majority holds, if it is of this term (section 3.6.2: earlier terms commit with
    it, never alone)."""
    log = raft.log
    index = quorum.reached(raft.conf, raft.match_at)
    if index <= log.commit or log.term(index) != raft.term:
        return
    log.commit_to(index)
    raft.send_due = True
    backlog = raft.backlog
    while backlog and backlog[0][0] <= index:
        raft.backlog_bytes -= backlog.popleft()[1]
    membership.settle(raft)


# --- the leader's side


def send_all(raft: Raft) -> None:
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
        sent += _send_append(raft, peer, progress, 0 if progress.denials else config.max_append_bytes)
        waiting.append(turn)


def _from(progress: dict[NodeId, Progress], first: NodeId) -> list[tuple[NodeId, Progress]]:
    """All of them in the order of their ids, from this one on and round."""
    turns = list(progress.items())
    place = bisect_left(turns, first, key=itemgetter(0))
    return turns[place:] + turns[:place]


def _lacks(raft: Raft, progress: Progress) -> bool:
    """Whether a follower is to be sent something, and may be."""
    if progress.flow is Flow.SNAPSHOT or progress.waiting:
        return False
    if progress.flow is Flow.PROBE:
        return True
    log, config = raft.log, raft.config
    if progress.next > log.last and progress.commit_sent >= log.commit:
        return False
    return not progress.full(config.max_inflight_messages, config.max_inflight_bytes)


def _send_append(raft: Raft, peer: NodeId, progress: Progress, max_bytes: int) -> int:
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


def take_accepted(raft: Raft, message: AppendAccepted) -> None:
    """Leader: a follower holds the log up to an index."""
    progress = raft.progress.get(message.sender)
    if progress is None or message.index > raft.log.last:
        return
    progress.heard = raft.ticks
    news = progress.accepted(message.index)
    if progress.flow is Flow.PROBE or (progress.flow is Flow.SNAPSHOT and raft.log.holds(progress.match)):
        progress.replicate()
    raft.send_due = True
    if news:
        if message.sender in raft.conf.learners:
            progress.count_round(raft.log.last, raft.ticks, raft.config.election_ticks)
        advance_commit(raft)
        if message.sender == raft.transfer_to:
            election.hand_over_when_due(raft)


def take_rejected(raft: Raft, message: AppendRejected) -> None:
    """Leader: a follower has no match there; go back past everything that is known to differ (end of section
    3.5)."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.heard = raft.ticks
    if message.needs_snapshot:
        if progress.flow is not Flow.SNAPSHOT:
            snapshotting.send(raft, message.sender, progress)
        return
    if progress.denied(message.previous_index):
        if progress.denials == DENIALS_TOLD:
            raft.forgetful[message.sender] = progress.match, message.hint_index
        return
    retry, _ = raft.log.last_not_above(message.hint_index, message.hint_term)
    if progress.rejected(message.previous_index, retry):
        raft.send_due = True


def lose(raft: Raft, peer: NodeId) -> None:
    """Leader: messages to this follower were lost. Stop streaming until it says where it is."""
    progress = raft.progress.get(peer)
    if progress is not None and progress.flow is Flow.REPLICATE:
        progress.probe()
        raft.send_due = True


def send_heartbeats(raft: Raft) -> None:
    """Tell everyone that this leader is there, with the newest read round."""
    for peer, progress in raft.progress.items():
        commit = min(progress.match, raft.log.commit)
        raft.send(Heartbeat(raft.id, peer, raft.term, commit, raft.reads.round))


def take_heartbeat_answer(raft: Raft, message: HeartbeatAnswer) -> None:
    """Leader: a follower is there. If it is behind, find out whether messages were lost."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.heard = raft.ticks
    progress.waiting = False
    readindex.take_round(raft, progress, message.round)
    if progress.match >= raft.log.last or progress.flow is Flow.SNAPSHOT:
        return
    config = raft.config
    stalled = progress.next > raft.log.last or progress.full(
        config.max_inflight_messages, config.max_inflight_bytes
    )
    if progress.flow is Flow.REPLICATE and stalled:
        # Accepted, this acknowledges all that was sent; rejected, it shows that something was lost.
        _send_append(raft, message.sender, progress, 0)
    else:
        raft.send_due = True


# --- the follower's side


def check_committed(raft: Raft, message: Append) -> None:
    """MessageRefused when a leader of this term or a later one has another entry than what is committed here:
    no leader can (leader completeness, section 3.6.3). Looks at one entry, since terms never fall along a log
    and equal entries follow equal ones.
    """
    log, previous = raft.log, message.previous_index
    if previous >= log.commit:
        return
    count = min(len(message.entries), log.commit - previous)
    place = previous + count
    term = message.entries[count - 1].term if count else message.previous_term
    if place >= log.compacted and term != log.term(place):
        raise MessageRefused(
            f"leader {message.sender:x} has entry {place} of term {term}; here it is committed, of term"
            f" {log.term(place)}"
        )


def take_append(raft: Raft, message: Append) -> None:
    """Follower: AppendEntries (section 3.5). The answer waits for the disk; several before the next Ready
    become one."""
    election.hear_leader(raft, message.sender)
    log = raft.log
    if raft.installing is not None:
        return
    if not raft.conf.voters:
        _reject(raft, message, Index(0), needs_snapshot=True)
        return
    entries = message.entries
    previous = message.previous_index
    end = Index(previous + len(entries))
    if previous < log.commit:
        # What is committed matches (`check_committed`), and may be forgotten here.
        entries = entries[log.commit - previous :]
        end = max(end, log.commit)
    elif not log.matches(previous, message.previous_term):
        hint, _ = log.last_not_above(previous, message.previous_term)
        _reject(raft, message, hint, needs_snapshot=False)
        return
    first = log.merge(entries)
    if first is not None:
        membership.follow_log(raft, first)
    log.commit_to(min(message.commit, end))
    accept(raft, end)


def accept(raft: Raft, index: Index) -> None:
    """Follower: this log equals the leader's up to `index`; the next Ready tells it."""
    raft.accepted = index if raft.accepted is None else max(raft.accepted, index)


def _reject(raft: Raft, message: Append, hint: Index, *, needs_snapshot: bool) -> None:
    term = raft.log.term(hint)
    previous = message.previous_index
    raft.send(AppendRejected(raft.id, message.sender, raft.term, previous, hint, term, needs_snapshot))


def answer_appends(raft: Raft) -> None:
    """Tell the leader how far this log matches its own: at once if that is on disk, else after the sync. Of
    what was not given to the disk yet it is told later; never, if a state copy takes the place of that."""
    if raft.accepted is None:
        return
    index = Index(min(raft.accepted, raft.log.handed))
    if index == raft.accepted or raft.installing is not None:
        raft.accepted = None
    answer = AppendAccepted(raft.id, raft.leader, raft.term, index)
    if index <= raft.log.persisted:
        raft.messages.append(answer)
    else:
        raft.after_sync.append(answer)


def take_heartbeat(raft: Raft, message: Heartbeat) -> None:
    """Follower: the leader is there and says what is committed of what this log is known to hold."""
    election.hear_leader(raft, message.sender)
    if raft.installing is None:
        raft.log.commit_to(min(message.commit, raft.log.last))
    raft.send(HeartbeatAnswer(raft.id, message.sender, raft.term, message.round))
