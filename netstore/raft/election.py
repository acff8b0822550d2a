"""Who leads: terms, timeouts, pre-votes, votes, leases, transfer (Ongaro's dissertation, sections 3.4, 3.6,
3.8, 3.10, 6.2, 9.6).

Invariants: a term has at most one leader; a member votes once in a term, and neither its vote nor its request
for votes leaves before the vote is on its disk; terms never fall.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.raft import membership, quorum, readindex, replication
from netstore.raft.entry import EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import (
    MOST,
    Append,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    MessageRefused,
    PreVoteAnswer,
    PreVoteRequest,
    ReadRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from netstore.raft.progress import Progress
from netstore.raft.quorum import Verdict
from netstore.raft.status import Refusal, Role
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from netstore.raft.core import Raft
    from netstore.raft.messages import Message

NOBODY: Final = NodeId(0)

MOST_TERMS_AHEAD: Final = 1 << 32
"""How far a term may lie beyond that of a member that has one. Who was away is overtaken by a term for each
election won or lost since, so by what an election in every second of 136 years gives; more is damage or a
lie, and would be kept for ever, since terms never fall. A member that has no term yet takes what comes."""


# --- terms


def admit(raft: Raft, message: Message) -> bool:
    """Section 3.3: a later term is taken over, an earlier one is not listened to. True if the message is to
    be handled. MessageRefused for a term that cannot be (`MOST_TERMS_AHEAD`)."""
    if message.term > raft.term:
        if raft.term and message.term - raft.term > MOST_TERMS_AHEAD:
            raise MessageRefused(
                f"member {message.sender:x} speaks of term {message.term}; this is term {raft.term}, and no"
                f" more than {MOST_TERMS_AHEAD} can have passed: if it is no lie, remove that member and its"
                " data"
            )
        return _admit_later(raft, message)
    if isinstance(message, Append | Heartbeat | InstallSnapshot):
        # Its leader is overtaken and learns so from our term; without an answer a member that once ran ahead
        # could never come back.
        raft.send(HeartbeatAnswer(raft.id, message.sender, raft.term, 0))
        return False
    if isinstance(message, VoteRequest):
        raft.send(VoteAnswer(raft.id, message.sender, raft.term, granted=False))
        return False
    # Not a Forward: its sender may have sent it again in a later term, having seen that this one ended.
    return isinstance(message, PreVoteRequest | PreVoteAnswer | ReadRequest)


def _admit_later(raft: Raft, message: Message) -> bool:
    if isinstance(message, PreVoteRequest) or (isinstance(message, PreVoteAnswer) and message.granted):
        return True
    if isinstance(message, VoteRequest) and not message.forced and in_lease(raft):
        return False
    leads = isinstance(message, Append | Heartbeat | InstallSnapshot)
    become_follower(raft, message.term, message.sender if leads else NOBODY)
    return True


def in_lease(raft: Raft) -> bool:
    """Whether a leader was heard less than the shortest election timeout ago, so that nobody needs another
    (section 4.2.3)."""
    return raft.config.check_quorum and raft.leader != NOBODY and raft.elapsed < raft.config.election_ticks


# --- roles


def become_follower(raft: Raft, term: Term, leader: NodeId) -> None:
    """Follow `leader` (NOBODY: whoever comes) in `term`."""
    _enter(raft, Role.FOLLOWER, term, leader)


def _enter(raft: Raft, role: Role, term: Term, leader: NodeId) -> None:
    if term < raft.term:
        raise InvariantBroken(f"term would fall from {raft.term} to {term}")
    if leader != raft.leader or role is not raft.role or term != raft.term:
        readindex.abort(raft)
    if term != raft.term:
        raft.term = term
        raft.vote = NOBODY
    raft.role = role
    raft.leader = leader
    raft.elapsed = 0
    raft.timeout = raft.config.election_ticks + raft.draw(raft.config.election_ticks)
    raft.votes = {}
    raft.progress = {}
    raft.transfer_to = NOBODY
    raft.accepted = None
    raft.term_durable = True
    raft.send_due = False
    replication.forget_backlog(raft)


def _become_leader(raft: Raft) -> None:
    if raft.role is not Role.CANDIDATE:
        raise InvariantBroken(f"a {raft.role.value} became leader of term {raft.term}")
    durable = raft.term_durable
    _enter(raft, Role.LEADER, raft.term, raft.id)
    raft.term_durable = durable
    raft.heartbeat_elapsed = 0
    last = raft.log.last
    raft.progress = {
        peer: Progress(Index(last + 1), raft.ticks) for peer in raft.conf.members() if peer != raft.id
    }
    # A change of an earlier term may be among the entries not committed yet: no other before those are.
    raft.pending_change = last
    replication.count_backlog(raft)
    # Only entries of the own term commit by counting (section 3.6.2), so there must be one, and reads wait
    # for it (section 6.4).
    replication.append(raft, (b"",), EntryKind.NORMAL)
    replication.advance_commit(raft)


# --- campaigns


def may_campaign(raft: Raft) -> bool:
    """Whether this member may ask for votes: not while a state copy replaces its log, nor without a need, nor
    for a term that nobody would listen to."""
    return raft.installing is None and raft.term < MOST and membership.may_be_needed(raft)


def campaign(raft: Raft, *, forced: bool = False) -> None:
    """Try to lead; asks first whether it could win (section 9.6), unless `forced` by the leader (section
    3.10)."""
    if raft.role is Role.LEADER or not may_campaign(raft):
        return
    if raft.config.pre_vote and not forced:
        _ask_first(raft)
    else:
        _run(raft, forced=forced)


def _ask_first(raft: Raft) -> None:
    _enter(raft, Role.PRE_CANDIDATE, raft.term, NOBODY)
    raft.votes[raft.id] = True
    log = raft.log
    for voter in _other_voters(raft):
        raft.send(PreVoteRequest(raft.id, voter, Term(raft.term + 1), log.last, log.last_term))
    _judge(raft)


def _run(raft: Raft, *, forced: bool) -> None:
    _enter(raft, Role.CANDIDATE, Term(raft.term + 1), NOBODY)
    raft.vote = raft.id
    raft.term_durable = False
    raft.votes[raft.id] = True
    log = raft.log
    for voter in _other_voters(raft):
        raft.after_sync.append(VoteRequest(raft.id, voter, raft.term, log.last, log.last_term, forced))
    _judge(raft)


def _other_voters(raft: Raft) -> list[NodeId]:
    return [node for node in raft.conf.members() if node != raft.id and raft.conf.votes(node)]


def _judge(raft: Raft) -> None:
    verdict = quorum.tally(raft.conf, raft.votes)
    if verdict is Verdict.LOST:
        become_follower(raft, raft.term, NOBODY)
    elif verdict is Verdict.WON and raft.role is Role.PRE_CANDIDATE:
        _run(raft, forced=False)
    elif verdict is Verdict.WON:
        _become_leader(raft)


# --- answers


def _complete_enough(raft: Raft, message: PreVoteRequest | VoteRequest) -> bool:
    """Section 3.6.1: only a log at least as complete as this one may lead."""
    return (message.last_term, message.last_index) >= (raft.log.last_term, raft.log.last)


def _free_to_vote(raft: Raft, sender: NodeId) -> bool:
    return raft.vote == sender or (raft.vote == NOBODY and raft.leader == NOBODY)


def answer_pre_vote(raft: Raft, message: PreVoteRequest) -> None:
    """Any role: say what the vote would be, and change nothing."""
    later = message.term > raft.term or (message.term == raft.term and _free_to_vote(raft, message.sender))
    granted = later and not in_lease(raft) and _complete_enough(raft, message)
    raft.send(PreVoteAnswer(raft.id, message.sender, raft.term, message.term, granted))


def answer_vote(raft: Raft, message: VoteRequest) -> None:
    """Any role, same term: vote once (section 3.6). A leader or candidate of this term has voted for
    itself."""
    if _free_to_vote(raft, message.sender) and _complete_enough(raft, message):
        raft.vote = message.sender
        raft.elapsed = 0
        raft.after_sync.append(VoteAnswer(raft.id, message.sender, raft.term, granted=True))
    else:
        raft.send(VoteAnswer(raft.id, message.sender, raft.term, granted=False))


def count_pre_vote(raft: Raft, message: PreVoteAnswer) -> None:
    """Pre-candidate: one answer, for the term it asked about."""
    if message.asked == raft.term + 1 and raft.conf.votes(message.sender):
        raft.votes.setdefault(message.sender, message.granted)
        _judge(raft)


def count_vote(raft: Raft, message: VoteAnswer) -> None:
    """Candidate: one answer of this term. A vote given proves that the request, and so the own vote before
    it, is on disk."""
    if not raft.conf.votes(message.sender):
        return
    raft.votes.setdefault(message.sender, message.granted)
    raft.term_durable = raft.term_durable or message.granted
    _judge(raft)


def lead_now(raft: Raft, message: TimeoutNow) -> None:
    """Follower: the leader hands over (section 3.10)."""
    if message.sender == raft.leader:
        campaign(raft, forced=True)


def yield_to_leader(raft: Raft, message: Append | Heartbeat | InstallSnapshot) -> None:
    """Candidate or pre-candidate: somebody leads this term already (section 3.4)."""
    become_follower(raft, message.term, message.sender)
    raft.step(message)


def refuse_second_leader(raft: Raft, message: Append | Heartbeat | InstallSnapshot) -> None:
    """Leader: nobody else can lead this term."""
    raise MessageRefused(f"{message.sender:x} says that it leads term {raft.term}, and {raft.id:x} does")


def hear_leader(raft: Raft, sender: NodeId) -> None:
    """Follower: the leader of this term spoke."""
    if raft.leader != sender:
        if raft.leader != NOBODY:
            raise MessageRefused(f"{sender:x} says that it leads term {raft.term}, and {raft.leader:x} does")
        raft.leader = sender
    raft.elapsed = 0


# --- time


def tick(raft: Raft) -> None:
    """One tick of a member that does not lead."""
    raft.elapsed += 1
    readindex.expire(raft)
    if raft.elapsed < raft.timeout:
        return
    if may_campaign(raft):
        campaign(raft)
    elif raft.leader != NOBODY:
        become_follower(raft, raft.term, NOBODY)


def tick_leader(raft: Raft) -> None:
    """One tick of a leader: is a majority still there, has a transfer taken too long, are heartbeats due?"""
    raft.heartbeat_elapsed += 1
    if raft.config.check_quorum and not quorum.reached(raft.conf, raft.active_at):
        # Section 6.2: who cannot reach a majority any more must not keep clients waiting.
        become_follower(raft, raft.term, NOBODY)
        return
    if raft.transfer_to and raft.ticks >= raft.transfer_deadline:
        abort_transfer(raft)
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        replication.send_heartbeats(raft)


# --- transfer


def transfer(raft: Raft, to: NodeId) -> Refusal | None:
    """Start to hand over (section 3.10): no new proposals, bring `to` up to date, then let it campaign at
    once.

    Given up after an election timeout. None if it was started or `to` leads already.
    """
    if raft.role is not Role.LEADER:
        return Refusal.NOT_LEADER
    if not raft.conf.votes(to):
        return Refusal.NOT_A_VOTER
    if to == raft.id:
        abort_transfer(raft)
        return None
    raft.transfer_to = to
    raft.transfer_deadline = raft.ticks + raft.config.election_ticks
    raft.send_due = True
    hand_over_when_due(raft)
    return None


def hand_over_when_due(raft: Raft) -> None:
    """Send TimeoutNow once the member to lead has the whole log."""
    to = raft.transfer_to
    if to and raft.progress[to].match == raft.log.last:
        raft.send(TimeoutNow(raft.id, to, raft.term))


def abort_transfer(raft: Raft) -> None:
    """Go on leading."""
    raft.transfer_to = NOBODY
