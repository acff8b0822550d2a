"""Terms and pre-votes beyond the claims of the dissertation (`test_paper`)."""

from __future__ import annotations

import pytest

from netstore.raft import election
from netstore.raft.entry import (
    HardState,
)
from netstore.raft.messages import (
    MAX_NUMBER,
    Append,
    Heartbeat,
    HeartbeatAnswer,
    MessageRefused,
    PreVoteAnswer,
    PreVoteRequest,
    VoteAnswer,
)
from netstore.raft.status import Role
from netstore.types import Index, Term
from tests.support.raft_cluster import entry, member, said, voters
from tests.support.raft_members import HERE, ONE, THREE, TRIO, TWO, following


def test_an_answer_to_an_earlier_question_is_not_counted() -> None:
    raft = member(1, TRIO, [1])
    raft.campaign()
    raft.step(PreVoteAnswer(TWO, ONE, Term(1), Term(1), granted=True))
    assert raft.role is Role.PRE_CANDIDATE


def test_a_refused_pre_vote_of_a_later_term_is_taken_over() -> None:
    raft = member(1, TRIO, [1])
    raft.campaign()
    raft.step(PreVoteAnswer(TWO, ONE, Term(5), Term(2), granted=False))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 5)


def test_an_impossible_term_is_refused_and_the_largest_possible_one_is_adopted() -> None:
    raft = following()
    most = raft.term + election.MAX_TERMS_AHEAD
    for message in (
        Heartbeat(THREE, ONE, Term(most + 1), Index(0), 0),
        VoteAnswer(THREE, ONE, Term(most + 1), granted=False),
        PreVoteRequest(THREE, ONE, Term(most + 1), Index(0), Term(0)),
    ):
        before = raft.status()
        with pytest.raises(MessageRefused, match=f"sent term {most + 1}, but this is term 1"):
            raft.step(message)
        assert raft.status() == before
        assert said(raft) == []
    raft.step(Heartbeat(THREE, ONE, Term(most), Index(0), 0))
    assert (raft.term, raft.leader) == (most, THREE)


def test_a_member_in_term_0_adopts_any_term() -> None:
    raft = member(1, voters())
    raft.step(Heartbeat(*HERE, Term(MAX_NUMBER), Index(0), 0))
    assert raft.term == MAX_NUMBER


def test_a_member_in_the_largest_term_does_not_campaign() -> None:
    raft = member(1, TRIO, hard_state=HardState(Term(MAX_NUMBER)))
    raft.campaign()
    assert (raft.role, raft.term) == (Role.FOLLOWER, MAX_NUMBER)
    assert said(raft) == []


def test_a_leader_of_an_old_term_is_answered_whatever_entries_it_has() -> None:
    """Its entries may differ from what another leader has committed since."""
    raft = member(1, TRIO, [1, 2, 2])
    raft.step(Heartbeat(*HERE, Term(2), Index(3), 0))
    said(raft)
    raft.step(Append(THREE, ONE, Term(1), Index(1), Term(1), Index(1), [entry(2, 1)]))
    assert said(raft) == [HeartbeatAnswer(ONE, THREE, Term(2), 0)]
