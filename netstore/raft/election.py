"""Elections: terms, timeouts, pre-votes, votes and leases (Ongaro's dissertation, sections 3.4, 3.6, 3.8,
6.2, 9.6).

Invariants: a term has at most one leader; a member votes once in a term, and neither its vote nor its request
for votes is sent before the vote is on its disk; the term never falls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.raft import commit, confchange, quorum, readindex, roles, sending
from netstore.raft.entry import EntryKind
from netstore.raft.messages import (
    MAX_NUMBER,
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
from netstore.raft.quorum import Verdict
from netstore.raft.state import NOBODY
from netstore.raft.status import Role
from netstore.types import Term

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.raft.state import RaftState
    from netstore.types import NodeId

MAX_TERMS_AHEAD: Final = 1 << 32
"""How far the term of a message may be ahead of this member's, unless this is 0. A member that was away falls
behind by one term for each election since; this many are an election in every second of 136 years. A term
further ahead is damage or a lie, and could never be undone, since terms never fall."""


# --- terms


def admit(raft: RaftState, message: Message) -> bool:
    """Whether to handle a message of another term (section 3.3): a later term is adopted, messages of an
    earlier one are ignored or answered here. MessageRefused for an impossible term (`MAX_TERMS_AHEAD`)."""
    if message.term > raft.term:
        if raft.term and message.term - raft.term > MAX_TERMS_AHEAD:
            raise MessageRefused(
                f"member {message.sender:x} sent term {message.term}, but this is term {raft.term}, and no"
                f" more than {MAX_TERMS_AHEAD} can have passed: if the sender is that member, remove it and"
                " its data"
            )
        return _admit_later(raft, message)
    if isinstance(message, Append | Heartbeat | InstallSnapshot):
        # The leader of an old term learns the later term from the answer and steps down. Without it, a member
        # whose term ran ahead could never follow that leader.
        raft.send(HeartbeatAnswer(raft.id, message.sender, raft.term, 0))
        return False
    if isinstance(message, VoteRequest):
        raft.send(VoteAnswer(raft.id, message.sender, raft.term, granted=False))
        return False
    # Not a Forward: its sender may have sent it again in a later term.
    return isinstance(message, PreVoteRequest | PreVoteAnswer | ReadRequest)


def _admit_later(raft: RaftState, message: Message) -> bool:
    if isinstance(message, PreVoteRequest) or (isinstance(message, PreVoteAnswer) and message.granted):
        return True
    if isinstance(message, VoteRequest) and not message.forced and in_lease(raft):
        return False
    leads = isinstance(message, Append | Heartbeat | InstallSnapshot)
    roles.become_follower(raft, message.term, message.sender if leads else NOBODY)
    return True


def in_lease(raft: RaftState) -> bool:
    """Whether the leader was heard less than the shortest election timeout ago: then votes are refused
    (section 4.2.3)."""
    return raft.leader != NOBODY and raft.elapsed < raft.config.election_ticks


# --- campaigns


def may_campaign(raft: RaftState) -> bool:
    """Whether this member may campaign: not while a snapshot replaces its log, nor if it is no voter, nor for
    a term that others would refuse."""
    return raft.installing is None and raft.term < MAX_NUMBER and confchange.may_be_needed(raft)


def campaign(raft: RaftState, *, forced: bool = False) -> None:
    """Start an election; with a pre-vote first (section 9.6), unless `forced` by the leader (section
    3.10)."""
    if raft.role is Role.LEADER or not may_campaign(raft):
        return
    if forced:
        _start_election(raft, forced=True)
    else:
        _start_pre_vote(raft)


def _start_pre_vote(raft: RaftState) -> None:
    roles.become_pre_candidate(raft)
    log = raft.log
    for voter in _other_voters(raft):
        raft.send(PreVoteRequest(raft.id, voter, Term(raft.term + 1), log.last, log.last_term))
    _count_votes(raft)


def _start_election(raft: RaftState, *, forced: bool) -> None:
    roles.become_candidate(raft)
    log = raft.log
    for voter in _other_voters(raft):
        raft.after_sync.append(VoteRequest(raft.id, voter, raft.term, log.last, log.last_term, forced))
    _count_votes(raft)


def _other_voters(raft: RaftState) -> list[NodeId]:
    return [node for node in raft.conf.members() if node != raft.id and raft.conf.votes(node)]


def _count_votes(raft: RaftState) -> None:
    verdict = quorum.tally(raft.conf, raft.votes)
    if verdict is Verdict.LOST:
        roles.become_follower(raft, raft.term, NOBODY)
    elif verdict is Verdict.WON and raft.role is Role.PRE_CANDIDATE:
        _start_election(raft, forced=False)
    elif verdict is Verdict.WON:
        roles.become_leader(raft)
        # Only entries of the own term commit by counting (section 3.6.2), so there must be one, and reads
        # wait for it (section 6.4).
        commit.append(raft, (b"",), EntryKind.NORMAL)
        commit.advance(raft)


# --- answers


def _is_up_to_date(raft: RaftState, message: PreVoteRequest | VoteRequest) -> bool:
    """Whether the sender's log is at least as up to date as this one (section 3.6.1)."""
    return (message.last_term, message.last_index) >= (raft.log.last_term, raft.log.last)


def _can_vote_for(raft: RaftState, sender: NodeId) -> bool:
    return raft.vote == sender or (raft.vote == NOBODY and raft.leader == NOBODY)


def answer_pre_vote(raft: RaftState, message: PreVoteRequest) -> None:
    """Any role: answer what the vote would be; changes nothing."""
    later = message.term > raft.term or (message.term == raft.term and _can_vote_for(raft, message.sender))
    granted = later and not in_lease(raft) and _is_up_to_date(raft, message)
    raft.send(PreVoteAnswer(raft.id, message.sender, raft.term, message.term, granted))


def answer_vote(raft: RaftState, message: VoteRequest) -> None:
    """Any role, same term: vote at most once (section 3.6). Leader and candidate have voted for
    themselves."""
    if _can_vote_for(raft, message.sender) and _is_up_to_date(raft, message):
        raft.vote = message.sender
        raft.elapsed = 0
        raft.after_sync.append(VoteAnswer(raft.id, message.sender, raft.term, granted=True))
    else:
        raft.send(VoteAnswer(raft.id, message.sender, raft.term, granted=False))


def count_pre_vote(raft: RaftState, message: PreVoteAnswer) -> None:
    """Pre-candidate: an answer for the term it asked about."""
    if message.asked == raft.term + 1 and raft.conf.votes(message.sender):
        raft.votes.setdefault(message.sender, message.granted)
        _count_votes(raft)


def count_vote(raft: RaftState, message: VoteAnswer) -> None:
    """Candidate: an answer of this term. A vote for it proves that its own vote, which must be on disk before
    the request is sent, is on disk."""
    if not raft.conf.votes(message.sender):
        return
    raft.votes.setdefault(message.sender, message.granted)
    raft.term_durable = raft.term_durable or message.granted
    _count_votes(raft)


def handle_timeout_now(raft: RaftState, message: TimeoutNow) -> None:
    """Follower: the leader transfers leadership to this member (section 3.10)."""
    if message.sender == raft.leader:
        campaign(raft, forced=True)


def refuse_second_leader(raft: RaftState, message: Append | Heartbeat | InstallSnapshot) -> None:
    """Leader: another leader of this term is impossible."""
    raise MessageRefused(f"{message.sender:x} says that it leads term {raft.term}, and {raft.id:x} does")


# --- time


def tick(raft: RaftState) -> None:
    """One tick of a member that does not lead."""
    raft.elapsed += 1
    readindex.expire(raft)
    if raft.elapsed < raft.timeout:
        return
    if may_campaign(raft):
        campaign(raft)
    elif raft.leader != NOBODY:
        roles.become_follower(raft, raft.term, NOBODY)


def tick_leader(raft: RaftState) -> None:
    """One tick of a leader: check the quorum, give up a late transfer, send heartbeats."""
    raft.heartbeat_elapsed += 1
    if not quorum.reached(raft.conf, raft.active_at):
        # Section 6.2: a leader without a majority must not keep clients waiting.
        roles.become_follower(raft, raft.term, NOBODY)
        return
    if raft.transfer_to and raft.ticks >= raft.transfer_deadline:
        raft.transfer_to = NOBODY
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        sending.send_heartbeats(raft)
