"""ReadIndex (Ongaro's dissertation, section 6.4): at which index a read may be served without a log entry.

Invariant: a read is served at a commit index that was taken after the read began, by a leader that had
committed an entry of its own term, and after a majority confirmed *afterwards* that it still leads. One
round of heartbeats serves all reads that wait when it starts; rounds are numbered, and an answer to a round
confirms all rounds before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import quorum
from netstore.raft.messages import Heartbeat, ReadAnswer, ReadRequest
from netstore.raft.reads import ReadBatch, ReadRound
from netstore.raft.status import Role
from netstore.types import Index, NodeId

if TYPE_CHECKING:
    from netstore.raft.progress import Progress
    from netstore.raft.state import RaftState


def ask(raft: RaftState, token: int) -> None:
    """A read of this member; it fails with the next Ready if no leader is known or too many reads wait."""
    reads = raft.reads
    if raft.leader == 0 or reads.count >= raft.config.max_waiting_reads:
        raft.reads_failed.append(token)
        return
    reads.count += 1
    if raft.role is Role.LEADER:
        reads.waiting.append((NodeId(0), token))
    else:
        reads.unsent.append(token)


def can_start_round(raft: RaftState) -> bool:
    """Whether a round may start: reads wait, and an entry of this leader's term is committed (step 1 of
    section 6.4)."""
    log = raft.log
    return bool(raft.reads.waiting) and raft.role is Role.LEADER and log.term(log.commit) == raft.term


def start_round(raft: RaftState) -> None:
    """Start a round for all reads that wait: one heartbeat to each other voter."""
    reads = raft.reads
    reads.round += 1
    reads.rounds.append(ReadRound(reads.round, raft.log.commit, reads.waiting))
    reads.waiting = []
    for peer, progress in raft.progress.items():
        if raft.conf.votes(peer):
            raft.send(Heartbeat(raft.id, peer, raft.term, progress.tell(raft.log.commit), reads.round))
    _complete_rounds(raft)


def handle_round(raft: RaftState, progress: Progress, number: int) -> None:
    """Leader: a follower answered round `number`."""
    if progress.read_round < number <= raft.reads.round:
        progress.read_round = number
        _complete_rounds(raft)


def _complete_rounds(raft: RaftState) -> None:
    reads = raft.reads
    rounds = reads.rounds
    if not rounds:
        return
    confirmed = quorum.reached(raft.conf, raft.round_at)
    while rounds and rounds[0].number <= confirmed:
        done = rounds.popleft()
        reads.count -= len(done.reads)
        for peer, token in done.reads:
            if peer:
                raft.send(ReadAnswer(raft.id, peer, raft.term, token, done.index))
            else:
                raft.reads_done.append((token, done.index))


# --- forwarded


def forward_reads(raft: RaftState) -> None:
    """Follower: one ReadRequest for all reads since the last one."""
    reads = raft.reads
    reads.sequence += 1
    deadline = raft.ticks + raft.config.election_ticks
    reads.batches.append(ReadBatch(reads.sequence, deadline, reads.unsent))
    reads.unsent = []
    raft.send(ReadRequest(raft.id, raft.leader, raft.term, reads.sequence))


def handle_request(raft: RaftState, message: ReadRequest) -> None:
    """Leader: the reads of a follower's request count as one read."""
    if raft.reads.count >= raft.config.max_waiting_reads:
        refuse_request(raft, message)
        return
    raft.reads.count += 1
    raft.reads.waiting.append((message.sender, message.sequence))
    raft.waits_at(message.sender)


def refuse_request(raft: RaftState, message: ReadRequest) -> None:
    """Not the leader, or too many reads wait: index 0 says so."""
    raft.send(ReadAnswer(raft.id, message.sender, raft.term, message.sequence, Index(0)))


def handle_answer(raft: RaftState, message: ReadAnswer) -> None:
    """Follower: the read index for all reads up to a sequence number, which began no later than the request
    of that number."""
    reads = raft.reads
    batches = reads.batches
    if message.sender != raft.leader or message.sequence > reads.sequence:
        return
    while batches and batches[0].sequence <= message.sequence:
        tokens = batches.popleft().tokens
        reads.count -= len(tokens)
        if message.index:
            raft.reads_done.extend((token, message.index) for token in tokens)
        else:
            raft.reads_failed.extend(tokens)


def expire(raft: RaftState) -> None:
    """Fail forwarded reads without an answer for an election timeout: a message was lost."""
    reads = raft.reads
    while reads.batches and reads.batches[0].deadline <= raft.ticks:
        tokens = reads.batches.popleft().tokens
        reads.count -= len(tokens)
        raft.reads_failed.extend(tokens)


def fail_all(raft: RaftState) -> None:
    """Role, term or leader changed: fail all reads of this member. Forwarded reads expire where they came
    from."""
    reads = raft.reads
    failed = raft.reads_failed
    for done in reads.rounds:
        failed.extend(token for peer, token in done.reads if not peer)
    failed.extend(token for peer, token in reads.waiting if not peer)
    for batch in reads.batches:
        failed.extend(batch.tokens)
    failed.extend(reads.unsent)
    reads.rounds.clear()
    reads.waiting = []
    reads.batches.clear()
    reads.unsent = []
    reads.count = 0
