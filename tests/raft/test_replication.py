"""Proposals and appends: what is refused, what is bounded, and followers that lost entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.raft import replication
from netstore.raft.entry import (
    MAX_DATA_BYTES,
    EntryKind,
)
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    Heartbeat,
    HeartbeatAnswer,
    MessageRefused,
    VoteAnswer,
)
from netstore.raft.progress import ProgressState
from netstore.raft.status import Fate, Refusal
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, group, member, said, stand
from tests.support.raft_members import HERE, ONE, THREE, TRIO, TWO, following, leading

if TYPE_CHECKING:
    from netstore.raft.core import Raft


def test_an_acknowledgement_beyond_the_log_is_ignored() -> None:
    raft = leading()
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(5)))
    assert (raft.commit, raft.match_at(TWO)) == (0, 0)


def test_a_leader_that_contradicts_what_is_committed_is_refused() -> None:
    raft = member(1, TRIO, [1, 1, 1])
    raft.step(Heartbeat(*HERE, Term(1), Index(2), 0))
    said(raft)
    raft.compact(Index(2))
    for end in (5, 3):
        for term in (1, 5):
            wrong = Append(
                *HERE, Term(term), Index(0), Term(0), Index(0), [entry(i, 3) for i in range(1, end)]
            )
            with pytest.raises(
                MessageRefused, match="has entry 2 of term 3; here it is committed, of term 1"
            ):
                raft.step(wrong)
    assert (raft.last_index, raft.commit) == (3, 2)


@pytest.mark.parametrize("leader", [TWO, THREE])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_is_changed_by_a_leader_that_is_refused(leader: NodeId, count: int) -> None:
    """Otherwise one message could keep a member from voting for, or following, the real leader."""
    raft = member(1, TRIO, [1, 1, 1])
    raft.step(Heartbeat(*HERE, Term(1), Index(2), 0))
    said(raft)
    raft.tick()
    before = (raft.term, raft.leader, raft.vote, raft.elapsed, raft.role, raft.timeout)
    wrong = [entry(i, 3) for i in range(2, 2 + count)]
    with pytest.raises(MessageRefused, match="here it is committed"):
        raft.step(
            Append(leader, ONE, Term(5), Index(1), Term(1 if count else 3), Index(0), wrong),
        )
    assert (raft.term, raft.leader, raft.vote, raft.elapsed, raft.role, raft.timeout) == before
    assert said(raft) == []


def acknowledged_by_two(index: int) -> Raft:
    """A leader of term 1 with five entries, of which member 2 has acknowledged `index` and is probed anew."""
    raft = leading()
    raft.propose([b"x"] * 4)
    said(raft)
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(index)))
    said(raft)
    raft.report_unreachable(TWO)
    return raft


def test_a_member_that_lost_acknowledged_entries_is_reported_once_and_sent_no_entries() -> None:
    raft = acknowledged_by_two(3)
    denial = AppendRejected(TWO, ONE, Term(1), Index(3), Index(1), Term(1), needs_snapshot=False)
    sizes: list[int] = []
    for _ in range(6):
        assert raft.take_lost_entries() == (
            {TWO: (3, 1)} if len(sizes) == replication.REJECTIONS_REPORTED else {}
        )
        probes = [each for each in said(raft) if isinstance(each, Append) and each.to == TWO]
        assert [probe.previous_index for probe in probes] == [3], "one in each heartbeat, no more"
        sizes += [len(probe.entries) for probe in probes]
        for _ in range(4):  # the same answer again is none to another probe
            raft.step(denial)
            assert not [each for each in said(raft) if isinstance(each, Append) and each.to == TWO]
        raft.step(HeartbeatAnswer(TWO, ONE, Term(1), 0))
    assert sizes == [2, 0, 0, 0, 0, 0]


def test_a_late_rejection_at_the_match_index_pauses_a_follower_for_one_heartbeat() -> None:
    raft = acknowledged_by_two(3)
    said(raft)
    raft.step(AppendRejected(TWO, ONE, Term(1), Index(3), Index(1), Term(1), needs_snapshot=False))
    raft.step(HeartbeatAnswer(TWO, ONE, Term(1), 0))
    said(raft)
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3)))
    assert raft.progress[TWO].state is ProgressState.REPLICATE
    [append] = [each for each in said(raft) if isinstance(each, Append) and each.to == TWO]
    assert len(append.entries) == 2
    assert raft.take_lost_entries() == {}


def test_fates_of_a_proposal() -> None:
    raft = leading()
    first = raft.propose([b"a", b"b"])
    assert (first.fate, first.index, first.term) == (Fate.APPENDED, 2, 1)
    assert raft.propose([b"c"]).index == 4
    follower = following()
    assert follower.propose([b"a", b"b"]).fate is Fate.FORWARDED
    assert said(follower) == [Forward(ONE, TWO, Term(1), EntryKind.NORMAL, [b"a", b"b"])]
    assert member(1, TRIO).propose([b"a"]).refusal is Refusal.NO_LEADER
    with pytest.raises(ValueError, match="payloads is empty"):
        raft.propose([])


def test_a_payload_larger_than_an_entry_may_be_is_refused() -> None:
    raft = leading(max_uncommitted_bytes=MAX_DATA_BYTES * 4)
    assert raft.propose([b"", bytes(MAX_DATA_BYTES + 1)]).refusal is Refusal.TOO_LARGE
    assert raft.propose([bytes(MAX_DATA_BYTES), b"x"]).fate is Fate.APPENDED


def test_the_backlog_is_bounded_and_one_large_proposal_still_passes() -> None:
    raft = leading(max_uncommitted_bytes=100)
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(1)))
    assert raft.backlog_bytes == 0
    assert raft.propose([b"x" * 500]).fate is Fate.APPENDED
    assert raft.propose([b"x"]).refusal is Refusal.BACKLOG_FULL
    said(raft)
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(2)))
    assert raft.propose([b"x"]).fate is Fate.APPENDED


def test_a_new_leader_counts_the_backlog_it_inherits() -> None:
    raft = member(1, TRIO, [1, 1], max_uncommitted_bytes=48)
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(2), granted=True))
    assert raft.backlog_bytes == 48
    assert raft.propose([b""]).refusal is Refusal.BACKLOG_FULL


def test_forwards_of_a_follower_in_one_turn_are_bounded() -> None:
    raft = member(1, TRIO, [1], max_uncommitted_bytes=100)
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(0), 0))
    assert raft.propose([b"x" * 80]).fate is Fate.FORWARDED
    assert raft.propose([b"x" * 80]).refusal is Refusal.BACKLOG_FULL
    raft.take_ready()
    assert raft.propose([b"x" * 80]).fate is Fate.FORWARDED


def test_several_appends_get_one_answer() -> None:
    raft = following()
    for index in (2, 3, 4):
        raft.step(Append(TWO, ONE, Term(1), Index(index - 1), Term(1), Index(0), [entry(index, 1)]))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(4))]


@pytest.mark.parametrize(("away", "other"), [(TWO, THREE), (THREE, TWO)])
@pytest.mark.parametrize("most", [1, 2])
def test_a_follower_that_was_away_is_sent_a_bounded_number_of_bytes_at_once_and_delays_no_other(
    away: NodeId, other: NodeId, most: int
) -> None:
    """50 bytes are a message."""
    cluster = group(3, max_ready_bytes=most * 50, max_append_bytes=50)
    leader = cluster.hosts[ONE]
    for number in range(20):
        leader.raft.propose([bytes((number,)) * 34])
        cluster.settle(lambda message: away not in (message.sender, message.to))
    raft = leader.raft
    raft.report_unreachable(away)
    said(raft)
    raft.step(AppendAccepted(away, ONE, raft.term, Index(1)))
    sent: list[list[tuple[int, int]]] = []
    while raft.has_ready():
        if len(sent) == 3:
            raft.propose([bytes(34)])
        messages = raft.take_ready().messages
        appends = [each for each in messages if isinstance(each, Append) and each.entries]
        assert len(appends) <= most
        sent.append([(each.to, each.entries[0].index) for each in appends])
    assert (other, 22) in sent[3] + sent[4], "in its turn"
    assert [index for turn in sent for to, index in turn if to == away] == list(range(2, 23))
