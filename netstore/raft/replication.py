"""How entries travel: proposals, appends and their answers, on both sides (Ongaro's dissertation, sections
3.5 and 10.2.1).

Invariants: log matching; a leader never changes or removes an entry of its own log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.raft import commit, confchange, readindex, roles, sending, snapshotting, transfer
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, MAX_DATA_BYTES, EntryKind
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
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.state import RaftState
    from netstore.types import NodeId

DENIALS_TOLD: Final = 3
"""Probes in a row that a follower denies before it counts as forgetful: one denial may have been on its way
since before it had what it acknowledged. Between two probes lies a heartbeat."""


# --- proposing


def propose(raft: RaftState, payloads: Sequence[bytes]) -> Proposed:
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
        commit.append(raft, payloads, EntryKind.NORMAL, size)
        return Proposed(Fate.APPENDED, first, raft.term)
    if not raft.leader:
        return Proposed(Fate.REFUSED, refusal=Refusal.NO_LEADER)
    if raft.forwarded_bytes and raft.forwarded_bytes + size > limit:
        return Proposed(Fate.REFUSED, refusal=Refusal.BACKLOG_FULL)
    raft.forwarded_bytes += size
    raft.send(Forward(raft.id, raft.leader, raft.term, EntryKind.NORMAL, payloads))
    return Proposed(Fate.FORWARDED)


# --- the leader's side


def take_accepted(raft: RaftState, message: AppendAccepted) -> None:
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
        commit.advance(raft)
        if message.sender == raft.transfer_to:
            transfer.hand_over(raft)


def take_rejected(raft: RaftState, message: AppendRejected) -> None:
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


def lose(raft: RaftState, peer: NodeId) -> None:
    """Leader: messages to this follower were lost. Stop streaming until it says where it is."""
    progress = raft.progress.get(peer)
    if progress is not None and progress.flow is Flow.REPLICATE:
        progress.probe()
        raft.send_due = True


def take_heartbeat_answer(raft: RaftState, message: HeartbeatAnswer) -> None:
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
        sending.send_append(raft, message.sender, progress, 0)
    else:
        raft.send_due = True


# --- the follower's side


def check_committed(raft: RaftState, message: Append) -> None:
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


def take_append(raft: RaftState, message: Append) -> None:
    """Follower: AppendEntries (section 3.5). The answer waits for the disk; several before the next Ready
    become one."""
    roles.hear_leader(raft, message.sender)
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
        confchange.follow_log(raft, first)
    log.commit_to(min(message.commit, end))
    raft.accept(end)


def _reject(raft: RaftState, message: Append, hint: Index, *, needs_snapshot: bool) -> None:
    term = raft.log.term(hint)
    previous = message.previous_index
    raft.send(AppendRejected(raft.id, message.sender, raft.term, previous, hint, term, needs_snapshot))


def answer_appends(raft: RaftState) -> None:
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


def take_heartbeat(raft: RaftState, message: Heartbeat) -> None:
    """Follower: the leader is there and says what is committed of what this log is known to hold."""
    roles.hear_leader(raft, message.sender)
    if raft.installing is None:
        raft.log.commit_to(min(message.commit, raft.log.last))
    raft.send(HeartbeatAnswer(raft.id, message.sender, raft.term, message.round))
