"""Log replication: proposals, appends and their answers, at leader and follower (Ongaro's dissertation,
sections 3.5 and 10.2.1).

Invariants: log matching; a leader never changes or removes an entry of its own log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.raft import commit, confchange, readindex, roles, sending, snapshotting, transfer
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, MAX_DATA_BYTES, EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    Heartbeat,
    HeartbeatAnswer,
    LogContradicted,
)
from netstore.raft.progress import ProgressState
from netstore.raft.status import Fate, Proposed, Refusal, Role
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.state import RaftState
    from netstore.types import NodeId

REJECTIONS_REPORTED: Final = 3
"""How many probes in a row a follower must reject at its own match index to be reported as having lost
entries: one rejection may have been sent before it had what it acknowledged. Between two probes is a
heartbeat."""


# --- proposing


def propose(raft: RaftState, payloads: Sequence[bytes]) -> Proposed:
    """Append at the leader, or forward in one message to it. All of `payloads` share one fate. Costs their
    number."""
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


def handle_accepted(raft: RaftState, message: AppendAccepted) -> None:
    """Leader: a follower has acknowledged the log up to an index."""
    progress = raft.progress.get(message.sender)
    if progress is None or message.index > raft.log.last:
        return
    progress.last_heard = raft.ticks
    progress.waits = message.waits
    is_new = progress.accepted(message.index)
    if progress.state is ProgressState.PROBE or (
        progress.state is ProgressState.SNAPSHOT and raft.log.holds(progress.match)
    ):
        progress.become_replicate()
    if sending.may_send(raft, progress):
        raft.send_due = True
    if is_new:
        if message.sender in raft.conf.learners:
            progress.count_round(raft.log.last, raft.ticks, raft.config.election_ticks)
        commit.advance(raft)
        if message.sender == raft.transfer_to:
            transfer.hand_over(raft)


def handle_rejected(raft: RaftState, message: AppendRejected) -> None:
    """Leader: a follower has no matching entry there; go back past everything that is known to differ (end of
    section 3.5)."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.last_heard = raft.ticks
    if message.needs_snapshot:
        if progress.state is not ProgressState.SNAPSHOT:
            snapshotting.send(raft, message.sender, progress)
        return
    if progress.rejects_match(message.previous_index):
        if progress.match_rejections == REJECTIONS_REPORTED:
            raft.lost_entries[message.sender] = progress.match, message.hint_index
        return
    retry, _ = raft.log.find_conflict_by_term(message.hint_index, message.hint_term)
    if progress.rejected(message.previous_index, retry):
        raft.send_due = True


def report_unreachable(raft: RaftState, peer: NodeId) -> None:
    """Leader: messages to this follower were lost. Probe until it answers."""
    progress = raft.progress.get(peer)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()
        raft.send_due = True


def handle_heartbeat_answer(raft: RaftState, message: HeartbeatAnswer) -> None:
    """Leader: a follower is alive. If it is behind, find out whether messages were lost."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.last_heard = raft.ticks
    progress.paused = False
    readindex.handle_round(raft, progress, message.round)
    if progress.match >= raft.log.last or progress.state is ProgressState.SNAPSHOT:
        return
    config = raft.config
    stalled = progress.next > raft.log.last or progress.full(
        config.max_inflight_messages, config.max_inflight_bytes
    )
    if progress.state is ProgressState.REPLICATE and stalled:
        # If it is accepted, everything that was sent is acknowledged; if it is rejected, something was lost.
        sending.send_append(raft, message.sender, progress, 0)
    else:
        raft.send_due = True


# --- the follower's side


def check_committed(raft: RaftState, message: Append) -> None:
    """LogContradicted if a leader of this term or a later one has another entry where one is committed here:
    no leader can (leader completeness, section 3.6.3). One entry is compared: terms never fall along a log,
    and equal entries are preceded by equal ones (log matching).
    """
    log, previous = raft.log, message.previous_index
    if previous >= log.commit:
        return
    count = min(len(message.entries), log.commit - previous)
    index = previous + count
    term = message.entries[count - 1].term if count else message.previous_term
    if index >= log.compacted and term != log.term(index):
        raise LogContradicted(
            f"leader {message.sender:x} has entry {index} of term {term}; here it is committed, of term"
            f" {log.term(index)}: one of the two is of an earlier cluster with the same ids"
        )


def handle_append(raft: RaftState, message: Append) -> None:
    """Follower: AppendEntries (section 3.5). The answer waits for the disk; the appends before the next Ready
    are answered by one message. One that only moves the commit index is not answered."""
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
        # What is committed matches (`check_committed`), and may be compacted here.
        entries = entries[log.commit - previous :]
        end = max(end, log.commit)
    elif not log.matches(previous, message.previous_term):
        hint, _ = log.find_conflict_by_term(previous, message.previous_term)
        _reject(raft, message, hint, needs_snapshot=False)
        return
    first = log.merge(entries)
    if first is not None:
        confchange.follow_log(raft, first)
    if log.commit_to(min(message.commit, end)) and not message.entries:
        return  # it was for that alone, and is no probe: the log up to `end` was acknowledged before
    raft.accept(end)


def _reject(raft: RaftState, message: Append, hint: Index, *, needs_snapshot: bool) -> None:
    term = raft.log.term(hint)
    previous = message.previous_index
    raft.send(AppendRejected(raft.id, message.sender, raft.term, previous, hint, term, needs_snapshot))


def answer_appends(raft: RaftState) -> None:
    """Acknowledge how far this log matches the leader's: at once if that is on disk, else after the sync.
    What was not given to the disk yet is acknowledged later, or never if a snapshot replaces it."""
    if raft.accepted is None:
        return
    index = Index(min(raft.accepted, raft.log.handed))
    if index == raft.accepted or raft.installing is not None:
        raft.accepted = None
    elif raft.accepted > raft.log.last:
        raise InvariantBroken(f"appends up to {raft.accepted} were accepted, the log ends at {raft.log.last}")
    answer = AppendAccepted(raft.id, raft.leader, raft.term, index, raft.waits)
    if index <= raft.log.persisted:
        raft.messages.append(answer)
    else:
        raft.after_sync.append(answer)


def handle_heartbeat(raft: RaftState, message: Heartbeat) -> None:
    """Follower: the leader is alive; take the commit index, as far as this log is known to match."""
    roles.hear_leader(raft, message.sender)
    if raft.installing is None:
        raft.log.commit_to(min(message.commit, raft.log.last))
    raft.send(HeartbeatAnswer(raft.id, message.sender, raft.term, message.round))
