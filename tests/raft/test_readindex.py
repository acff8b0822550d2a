"""Reads that fail or are refused, and reads without a round."""

from __future__ import annotations

import pytest

from netstore.raft.entry import (
    ConfState,
)
from netstore.raft.messages import (
    AppendAccepted,
    Heartbeat,
    ReadAnswer,
    ReadRequest,
    VoteAnswer,
)
from netstore.raft.status import Role
from netstore.types import Index, Term
from tests.support.raft_cluster import member, said, stand, voters
from tests.support.raft_members import ONE, THREE, TWO, following, leading


def test_waiting_reads_are_bounded() -> None:
    raft = leading(max_waiting_reads=2)
    for token in (1, 2, 3):
        raft.read(token)
    assert raft.take_ready().reads_failed == [3]
    raft.step(ReadRequest(TWO, ONE, Term(1), 5))
    assert raft.take_ready().messages == [ReadAnswer(ONE, TWO, Term(1), 5, Index(0))]
    assert raft.reads.count == 2


def test_a_member_that_does_not_lead_refuses_to_answer_for_others() -> None:
    raft = following()
    raft.step(ReadRequest(THREE, ONE, Term(1), 5))
    assert said(raft) == [ReadAnswer(ONE, THREE, Term(1), 5, Index(0))]


def test_a_refused_request_fails_all_its_reads() -> None:
    raft = following()
    raft.read(1)
    raft.read(2)
    (request,) = raft.take_ready().messages
    assert isinstance(request, ReadRequest)
    raft.read(3)
    raft.step(ReadAnswer(TWO, ONE, Term(1), request.sequence, Index(0)))
    assert raft.take_ready().reads_failed == [1, 2]
    assert raft.reads.count == 1


def test_losing_the_lead_or_the_leader_fails_all_reads() -> None:
    leader = leading()
    leader.read(1)
    leader.step(ReadRequest(TWO, ONE, Term(1), 5))
    leader.step(Heartbeat(TWO, ONE, Term(2), Index(0), 0))
    assert leader.take_ready().reads_failed == [1]
    follower = following()
    follower.read(1)
    follower.take_ready()
    follower.read(2)
    follower.step(Heartbeat(THREE, ONE, Term(2), Index(0), 0))
    assert follower.take_ready().reads_failed == [1, 2]
    assert follower.reads.count == 0


def test_a_round_in_flight_fails_with_its_leader() -> None:
    raft = leading()
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(1)))
    raft.read(1)
    raft.step(ReadRequest(THREE, ONE, Term(1), 5))
    assert [type(m) for m in said(raft)].count(Heartbeat) == 2
    raft.step(Heartbeat(TWO, ONE, Term(2), Index(0), 0))
    assert raft.take_ready().reads_failed == [1]


@pytest.mark.parametrize(
    ("conf", "is_only"),
    [
        (voters(1), True),
        (ConfState(voters=(ONE,), learners=(TWO,)), True),
        (voters(1, 2), False),
        (ConfState(voters=(ONE,), voters_outgoing=(ONE, TWO)), False),
    ],
)
def test_only_the_only_voter_reads_without_a_round(conf: ConfState, is_only: bool) -> None:
    """And only once it has committed an entry of its own term (Ongaro's dissertation, section 6.4)."""
    raft = member(1, conf, (1,))
    assert raft.is_only_voter is is_only
    assert raft.local_read_index() is None, "it does not lead"
    stand(raft)
    if not is_only:
        raft.step(VoteAnswer(TWO, ONE, raft.term, granted=True))
    assert raft.role is Role.LEADER
    assert raft.local_read_index() is None, "what it has committed may not be the newest"
    said(raft)
    assert raft.local_read_index() == (2 if is_only else None)
    if is_only:
        raft.propose([b"x"])
        assert raft.local_read_index() == 2, "the entry is not committed"
        said(raft)
        assert raft.local_read_index() == 3
