"""One test per claim of Ongaro's dissertation ("Consensus: bridging theory and practice", 2014), whose
section is in the name. Longer than 500 lines, so that the claims can be compared with the text in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.raft.change import Change, Step, StepKind
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, EntryKind, HardState, SnapshotMeta
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
    PreVoteAnswer,
    PreVoteRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from netstore.raft.status import Fate, Refusal, Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import Cluster, Host, entry, group, member, said, stand, voters

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO, THREE, FOUR, FIVE = map(NodeId, range(1, 6))
TRIO = voters(1, 2, 3)


def leader_of_term_1(**options: int) -> Host:
    """Member 1 of three, leading term 1 with its first entry committed everywhere."""
    return group(3, 1, (), **options).hosts[ONE]


def ask(
    term: int, last_index: int, last_term: int, sender: NodeId = TWO, *, forced: bool = False
) -> VoteRequest:
    return VoteRequest(sender, ONE, Term(term), Index(last_index), Term(last_term), forced)


def append(
    term: int, previous: tuple[int, int], *terms: int, commit: int = 0, sender: NodeId = TWO
) -> Append:
    """Entries after (index, term) `previous`, one for each of `terms`."""
    index, before = previous
    entries = [entry(index + place, item) for place, item in enumerate(terms, 1)]
    return Append(sender, ONE, Term(term), Index(index), Term(before), Index(commit), entries)


def remove(node: NodeId) -> Change:
    return Change((Step(StepKind.REMOVE, node),))


def settle_without(cluster: Cluster, *cut: NodeId) -> None:
    cluster.settle(lambda message: message.sender not in cut and message.to not in cut)


# --- 3.3 Raft basics


def test_3_3_a_later_term_is_taken_over_by_any_role() -> None:
    for role in (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER):
        raft = member(1, TRIO)
        if role is not Role.FOLLOWER:
            stand(raft)
        if role is Role.LEADER:
            raft.step(VoteAnswer(TWO, ONE, Term(1), granted=True))
        assert raft.role is role
        raft.step(append(7, (0, 0)))
        assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 7, TWO)


def test_3_3_requests_of_an_earlier_term_are_refused() -> None:
    raft = member(1, TRIO, [1, 3])
    raft.step(append(2, (2, 3), 3))
    raft.step(ask(2, 9, 2))
    assert raft.last_index == 2
    assert said(raft) == [HeartbeatAnswer(ONE, TWO, Term(3), 0), VoteAnswer(ONE, TWO, Term(3), granted=False)]


# --- 3.4 Leader election


def test_3_4_members_begin_as_followers() -> None:
    raft = member(1, TRIO, [1, 1])
    assert (raft.role, raft.leader) == (Role.FOLLOWER, 0)


def test_3_4_a_leader_sends_heartbeats_to_all() -> None:
    host = leader_of_term_1(heartbeat_ticks=2)
    host.raft.tick()
    assert said(host.raft) == []
    host.raft.tick()
    assert [(type(m), m.to) for m in said(host.raft)] == [(Heartbeat, TWO), (Heartbeat, THREE)]


def test_3_4_a_follower_that_hears_nothing_campaigns() -> None:
    raft = member(1, TRIO, [2], election_ticks=5)
    for _ in range(4):
        raft.tick()
    assert said(raft) == []
    raft.tick()
    asked = [(type(m), m.to, m.term) for m in said(raft)]
    assert asked == [(PreVoteRequest, TWO, 3), (PreVoteRequest, THREE, 3)]
    raft.step(PreVoteAnswer(TWO, ONE, Term(2), Term(3), granted=True))
    asked = [(type(m), m.to, m.term) for m in said(raft)]
    assert asked == [(VoteRequest, TWO, 3), (VoteRequest, THREE, 3)]


def test_3_4_heartbeats_keep_a_follower_a_follower() -> None:
    raft = member(1, TRIO, [1], election_ticks=5)
    for _ in range(50):
        raft.tick()
        raft.step(Heartbeat(TWO, ONE, Term(1), Index(0), 0))
    assert raft.role is Role.FOLLOWER


def test_3_4_a_candidate_raises_its_term_and_votes_for_itself() -> None:
    raft = member(1, TRIO, [4])
    stand(raft)
    assert (raft.role, raft.term, raft.vote) == (Role.CANDIDATE, 5, ONE)


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 1, 0, Role.LEADER),
        (3, 0, 2, Role.FOLLOWER),
        (5, 1, 1, Role.CANDIDATE),
        (5, 2, 0, Role.LEADER),
        (5, 2, 2, Role.LEADER),
        (5, 1, 3, Role.FOLLOWER),
    ],
)
def test_3_4_a_majority_elects(size: int, granted: int, refused: int, role: Role) -> None:
    raft = member(1, voters(*range(1, size + 1)))
    stand(raft)
    for node in range(2, 2 + granted + refused):
        raft.step(VoteAnswer(NodeId(node), ONE, Term(1), granted=node < 2 + granted))
    assert raft.role is role


def test_3_4_a_vote_counts_once() -> None:
    raft = member(1, voters(1, 2, 3, 4, 5))
    stand(raft)
    for _ in range(3):
        raft.step(VoteAnswer(TWO, ONE, Term(1), granted=True))
    assert raft.role is Role.CANDIDATE


def test_3_4_a_member_votes_for_the_first_candidate_that_asks() -> None:
    raft = member(1, TRIO)
    raft.step(ask(2, 0, 0, TWO))
    raft.step(ask(2, 0, 0, THREE))
    raft.step(ask(2, 0, 0, TWO))
    answers = {(m.to, m.granted) for m in said(raft) if isinstance(m, VoteAnswer)}
    assert answers == {(TWO, True), (THREE, False)}


@pytest.mark.parametrize("campaign", [Raft.campaign, stand])
def test_3_4_a_candidate_follows_the_leader_of_its_term(campaign: Callable[[Raft], None]) -> None:
    raft = member(1, TRIO, [1])
    campaign(raft)
    raft.step(append(int(raft.term), (1, 1), int(raft.term)))
    assert (raft.role, raft.leader, raft.last_index) == (Role.FOLLOWER, TWO, 2)


def test_3_4_a_split_vote_ends_with_another_election() -> None:
    raft = member(1, TRIO, election_ticks=4)
    stand(raft)
    for _ in range(4):
        raft.tick()
    assert (raft.role, raft.term) == (Role.PRE_CANDIDATE, 1)
    stand(raft)
    assert (raft.role, raft.term) == (Role.CANDIDATE, 2)


def test_3_4_timeouts_are_drawn_anew_from_once_to_twice_the_shortest() -> None:
    draws = iter([0, 0, 9, 4, 0])
    raft = member(1, TRIO, draw=lambda _bound: next(draws))
    seen = [raft.timeout]
    raft.campaign()
    seen.append(raft.timeout)
    raft.campaign()
    seen.append(raft.timeout)
    assert seen == [10, 19, 14]


# --- 3.5 Log replication


def test_3_5_a_command_is_appended_sent_to_all_and_applied_when_a_majority_has_it() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    assert leader.propose([b"red"]).index == 2
    cluster.collect()
    assert [(m.to, [e.data for e in m.entries]) for m in cluster.wire if isinstance(m, Append)] == [
        (TWO, [b"red"]),
        (THREE, [b"red"]),
    ]
    assert leader.commit == 1
    settle_without(cluster, THREE)
    assert leader.commit == 2
    assert cluster.hosts[ONE].state[-1] == cluster.hosts[TWO].state[-1] == (2, 1, b"red")


def test_3_5_messages_carry_the_commit_index_and_followers_apply_in_order() -> None:
    raft = member(1, TRIO)
    raft.step(append(1, (0, 0), 1, 1, 1, commit=0))
    said(raft)
    assert raft.log.applied == 0
    raft.step(append(1, (3, 1), commit=2))
    said(raft)
    assert (raft.commit, raft.log.applied) == (2, 2)


def test_3_5_a_commit_index_is_used_up_to_the_entries_that_match() -> None:
    raft = member(1, TRIO, [1, 1, 1])
    raft.step(append(2, (1, 1), commit=3))
    assert raft.commit == 1


def test_3_5_a_leader_repeats_itself_until_a_slow_follower_has_everything() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    leader.propose([b"red"])
    settle_without(cluster, THREE)
    for _ in range(2):
        leader.tick()
        cluster.settle()
    assert cluster.hosts[THREE].state == cluster.hosts[ONE].state


@pytest.mark.parametrize(
    ("previous", "accepted"),
    [((0, 0), True), ((1, 1), True), ((2, 2), True), ((2, 1), False), ((3, 2), False), ((1, 2), False)],
)
def test_3_5_the_consistency_check(previous: tuple[int, int], accepted: bool) -> None:
    raft = member(1, TRIO, [1, 2])
    raft.step(append(3, previous))
    (answer,) = said(raft)
    assert isinstance(answer, AppendAccepted if accepted else AppendRejected)


@pytest.mark.parametrize(
    ("own", "previous", "sent", "left"),
    [
        ([1], (1, 1), [2], [1, 2]),
        ([1, 1, 1], (1, 1), [2], [1, 2]),
        ([1, 1, 1], (1, 1), [1], [1, 1, 1]),
        ([1, 1, 1], (1, 1), [], [1, 1, 1]),
        ([1, 2, 2], (1, 1), [2, 3], [1, 2, 3]),
        ([], (0, 0), [1, 2], [1, 2]),
    ],
)
def test_3_5_conflicting_entries_go_and_matching_ones_stay(
    own: list[int], previous: tuple[int, int], sent: list[int], left: list[int]
) -> None:
    raft = member(1, TRIO, own)
    raft.step(append(4, previous, *sent))
    assert [e.term for e in raft.log.between(1, raft.log.last)] == left


@pytest.mark.parametrize(
    "follower",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
)
def test_3_5_figure_3_6_any_follower_is_brought_into_line(follower: list[int]) -> None:
    """The six followers of figure 3.6, with the leader of term 8."""
    logs = {1: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], 2: follower, 3: []}
    rafts = {node: member(node, TRIO, terms, hard_state=HardState(Term(7))) for node, terms in logs.items()}
    stand(rafts[1])
    wire: list[Message] = said(rafts[1])
    wire.append(VoteAnswer(THREE, ONE, Term(8), granted=True))
    for _ in range(40):
        for message in wire:
            if message.to != THREE:
                rafts[int(message.to)].step(message)
        wire = [m for raft in rafts.values() for m in said(raft)]
    assert rafts[1].role is Role.LEADER
    leader_log, follower_log = (rafts[node].log for node in (1, 2))
    assert [e.term for e in follower_log.between(1, follower_log.last)] == [*logs[1], 8]
    assert leader_log.between(1, leader_log.last) == follower_log.between(1, follower_log.last)


def test_3_5_a_leader_only_appends_to_its_own_log() -> None:
    raft = member(1, TRIO, [1, 1, 2])
    before = raft.log.between(1, 3)
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(3), granted=True))
    raft.propose([b"red"])
    assert raft.log.between(1, 3) == before
    assert raft.last_index == 5


# --- 3.6 Safety


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(2, 2, True), (3, 2, True), (1, 3, True), (1, 2, False), (9, 1, False)],
)
def test_3_6_1_only_a_log_at_least_as_complete_gets_the_vote(
    last_index: int, last_term: int, granted: bool
) -> None:
    raft = member(1, TRIO, [1, 2])
    raft.step(ask(5, last_index, last_term))
    assert said(raft) == [VoteAnswer(ONE, TWO, Term(5), granted)]


def test_3_6_2_figure_3_7_an_entry_of_an_old_term_is_not_committed_by_counting() -> None:
    raft = member(1, TRIO, [1, 2], hard_state=HardState(Term(3)))
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(4), granted=True))
    said(raft)
    raft.step(AppendAccepted(TWO, ONE, Term(4), Index(2)))
    raft.step(AppendAccepted(THREE, ONE, Term(4), Index(2)))
    assert raft.commit == 0
    raft.step(AppendAccepted(TWO, ONE, Term(4), Index(3)))
    assert raft.commit == 3


# --- 3.7, 3.8 Crashes and persistent state


def test_3_7_requests_may_arrive_twice() -> None:
    raft = member(1, TRIO)
    message = append(1, (0, 0), 1, 1, commit=1)
    raft.step(message)
    once = said(raft), raft.status()
    raft.step(message)
    assert (said(raft), raft.status()) == (once[0], once[1])


def test_3_7_a_late_request_takes_nothing_away() -> None:
    raft = member(1, TRIO)
    raft.step(append(1, (0, 0), 1))
    raft.step(append(1, (1, 1), 1, 1))
    raft.step(append(1, (0, 0), 1))
    assert raft.last_index == 3


def test_3_8_the_vote_is_on_disk_before_it_is_sent() -> None:
    raft = member(1, TRIO)
    raft.step(ask(2, 0, 0))
    ready = raft.take_ready()
    assert ready.hard_state == HardState(Term(2), TWO, Index(0))
    assert ready.must_sync
    assert list(ready.messages) == []
    assert ready.after_sync == [VoteAnswer(ONE, TWO, Term(2), granted=True)]


def test_3_8_a_request_for_votes_waits_for_the_own_vote() -> None:
    raft = member(1, TRIO)
    stand(raft)
    ready = raft.take_ready()
    assert ready.hard_state == HardState(Term(1), ONE, Index(0))
    assert list(ready.messages) == []
    assert len(ready.after_sync) == 2


def test_3_8_a_restarted_member_votes_once_in_its_term() -> None:
    raft = member(1, TRIO, hard_state=HardState(Term(2), TWO))
    raft.step(ask(2, 9, 2, THREE))
    raft.step(ask(2, 0, 0, TWO))
    assert [(m.to, m.granted) for m in said(raft) if isinstance(m, VoteAnswer)] == [
        (THREE, False),
        (TWO, True),
    ]


def test_3_8_entries_are_on_disk_before_they_are_acknowledged() -> None:
    raft = member(1, TRIO)
    raft.step(append(1, (0, 0), 1))
    ready = raft.take_ready()
    assert [m for m in ready.messages if isinstance(m, AppendAccepted)] == []
    # The same request again, while the write is still under way.
    raft.step(append(1, (0, 0), 1))
    again = raft.take_ready()
    assert list(again.messages) == []
    assert again.must_sync
    raft.persisted(Index(1), Term(1))
    raft.step(append(1, (0, 0), 1))
    assert raft.take_ready().messages == [AppendAccepted(ONE, TWO, Term(1), Index(1))]


# --- 3.10 Leadership transfer


def test_3_10_the_old_leader_refuses_proposals_and_brings_the_target_up_to_date_before_timeout_now() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    leader.propose([b"red"])
    settle_without(cluster, TWO)
    assert leader.transfer(TWO) is None
    assert leader.propose([b"blue"]).refusal is Refusal.TRANSFERRING
    assert not any(isinstance(m, TimeoutNow) for m in cluster.collect())
    leader.tick()
    cluster.settle()
    assert cluster.leader().id == TWO
    assert cluster.hosts[TWO].raft.term == 2


def test_3_10_a_transfer_breaks_the_lease_of_the_others() -> None:
    raft = member(1, TRIO, [1])
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    raft.step(ask(2, 1, 1, THREE))
    assert (raft.term, raft.leader) == (1, TWO)
    raft.step(ask(2, 1, 1, THREE, forced=True))
    assert raft.term == 2
    assert VoteAnswer(ONE, THREE, Term(2), granted=True) in said(raft)


def test_3_10_a_transfer_that_takes_too_long_is_given_up() -> None:
    cluster = group(3, election_ticks=3)
    leader = cluster.hosts[ONE].raft
    leader.transfer(TWO)
    for _ in range(3):
        leader.tick()
        settle_without(cluster, TWO)
    assert leader.propose([b"red"]).fate is Fate.APPENDED


# --- 4 Membership changes


def test_4_1_the_newest_configuration_in_the_log_is_used_at_once_and_taken_back_with_its_entry() -> None:
    raft = member(1, TRIO, [1])
    change = Change((Step(StepKind.ADD_VOTER, FOUR),))
    message = append(1, (1, 1), 1)
    message.entries = [
        type(message.entries[0])(Index(2), Term(1), EntryKind.CHANGE, change.encode()),
    ]
    raft.step(message)
    assert raft.status().conf.voters == (1, 2, 3, 4)
    raft.step(append(2, (1, 1), 2, sender=THREE))
    assert raft.status().conf == TRIO


def test_4_1_one_change_at_a_time() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    assert leader.propose_change(remove(THREE)).fate is Fate.APPENDED
    assert leader.propose_change(remove(TWO)).refusal is Refusal.CHANGE_PENDING


def test_4_1_a_new_leader_changes_nothing_before_it_committed_an_entry_of_its_term() -> None:
    raft = member(1, TRIO, [1])
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(2), granted=True))
    said(raft)
    assert raft.propose_change(remove(THREE)).refusal is Refusal.CHANGE_PENDING
    raft.step(AppendAccepted(TWO, ONE, Term(2), Index(2)))
    assert raft.propose_change(remove(THREE)).fate is Fate.APPENDED


def test_4_2_1_learners_get_the_log_and_count_in_no_majority() -> None:
    cluster = group(2, learners=[3])
    cluster.hosts[ONE].raft.propose([b"red"])
    settle_without(cluster, TWO)
    assert cluster.hosts[THREE].raft.last_index == 2
    assert cluster.hosts[ONE].raft.commit == 1
    for _ in range(30):
        cluster.hosts[THREE].raft.tick()
    assert cluster.hosts[THREE].raft.role is Role.FOLLOWER


def test_4_2_1_a_learner_is_promoted_after_a_round_shorter_than_an_election_timeout() -> None:
    cluster = group(1, learners=[2], election_ticks=4)
    leader = cluster.hosts[ONE].raft
    promote = Change((Step(StepKind.ADD_VOTER, TWO),))
    leader.propose([b"red"])
    settle_without(cluster, TWO)
    for _ in range(4):
        leader.tick()
        settle_without(cluster, TWO)
    assert leader.propose_change(promote).refusal is Refusal.LEARNER_BEHIND
    leader.tick()
    cluster.settle()
    assert leader.propose_change(promote).fate is Fate.APPENDED


def test_4_2_2_a_leader_that_is_removed_does_not_count_itself_and_steps_down_when_it_is_committed() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    leader.propose_change(remove(ONE))
    for _ in range(3):
        cluster.collect()
        wire, cluster.wire = cluster.wire, []
        for message in wire:
            cluster.carry(message)
    cluster.collect()
    # Joint is committed; the entry that leaves it is on two disks of three: not enough of {2, 3}.
    assert (leader.role, leader.status().conf.voters) == (Role.LEADER, (2, 3))
    wire, cluster.wire = cluster.wire, []
    answers = [m for m in wire if isinstance(m, AppendAccepted) and m.index == 3]
    for message in [m for m in wire if m not in answers]:
        cluster.carry(message)
    settle_without(cluster, THREE)
    assert leader.commit == 2
    leader.tick()
    cluster.settle()
    assert leader.role is Role.FOLLOWER
    assert cluster.leader().id in (TWO, THREE)


def test_4_2_2_a_member_its_own_log_removes_campaigns_until_that_is_committed() -> None:
    conf = voters(1, 2)
    raft = member(1, conf, [1])
    enter = entry(2, 1)
    entries = [
        type(enter)(Index(2), Term(1), EntryKind.CHANGE, remove(ONE).encode()),
        type(enter)(Index(3), Term(1), EntryKind.CHANGE, Change().encode()),
    ]
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(2), entries))
    assert raft.status().conf == voters(2)
    said(raft)
    stand(raft)
    assert raft.status().role is Role.CANDIDATE
    raft.step(VoteAnswer(TWO, ONE, Term(2), granted=True))
    assert raft.status().role is Role.LEADER
    said(raft)
    raft.step(AppendAccepted(TWO, ONE, Term(2), Index(4)))
    assert (raft.status().role, raft.commit) == (Role.FOLLOWER, 4)
    stand(raft)
    assert raft.status().role is Role.FOLLOWER


def test_4_2_3_votes_are_refused_while_a_leader_is_heard() -> None:
    raft = member(1, TRIO, [1])
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    raft.step(ask(9, 9, 9, THREE))
    raft.step(PreVoteRequest(THREE, ONE, Term(9), Index(9), Term(8)))
    assert (raft.term, raft.leader) == (1, TWO)
    assert PreVoteAnswer(ONE, THREE, Term(1), Term(9), granted=False) in said(raft)


JOINT = ConfState(voters=(THREE, FOUR, FIVE), voters_outgoing=(ONE, TWO, THREE))


@pytest.mark.parametrize(
    ("granted", "role"),
    [((2,), Role.CANDIDATE), ((4, 5), Role.CANDIDATE), ((2, 4, 5), Role.LEADER), ((3, 4), Role.LEADER)],
)
def test_4_3_a_joint_configuration_elects_by_both_majorities(granted: tuple[int, ...], role: Role) -> None:
    raft = member(1, JOINT)
    stand(raft)
    for node in granted:
        raft.step(VoteAnswer(NodeId(node), ONE, Term(1), granted=True))
    assert raft.role is role


def test_4_3_a_joint_configuration_commits_by_both_majorities() -> None:
    raft = member(1, JOINT)
    stand(raft)
    for node in (THREE, FOUR):
        raft.step(VoteAnswer(node, ONE, Term(1), granted=True))
    said(raft)
    for node, commit in ((FOUR, 0), (FIVE, 0), (TWO, 1)):
        raft.step(AppendAccepted(node, ONE, Term(1), Index(1)))
        assert raft.commit == commit


def test_4_3_the_leader_leaves_a_joint_configuration_when_it_is_committed() -> None:
    cluster = group(4)
    change = Change((Step(StepKind.REMOVE, FOUR), Step(StepKind.ADD_LEARNER, THREE)))
    cluster.hosts[ONE].raft.propose_change(change)
    joint = ConfState(voters(1, 2).voters, voters(1, 2, 3, 4).voters, (), (THREE,))
    assert cluster.hosts[ONE].raft.status().conf == joint
    cluster.settle()
    left = ConfState(voters=(ONE, TWO), learners=(THREE,))
    assert [cluster.hosts[node].raft.status().conf for node in (ONE, TWO, THREE)] == [left] * 3


# --- 5 Log compaction


def test_5_1_a_snapshot_describes_its_last_entry_and_the_configuration_there() -> None:
    cluster = group(4)
    leader = cluster.hosts[ONE].raft
    leader.propose_change(remove(FOUR))
    cluster.settle()
    assert leader.snapshot_meta(Index(1)) == SnapshotMeta(Index(1), Term(1), voters(1, 2, 3, 4))
    assert leader.snapshot_meta(Index(3)) == SnapshotMeta(Index(3), Term(1), voters(1, 2, 3))
    leader.compact(Index(3))
    assert leader.snapshot_meta(Index(3)) == SnapshotMeta(Index(3), Term(1), voters(1, 2, 3))


def test_5_1_a_snapshot_is_sent_if_the_next_entry_was_discarded() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE]
    leader.raft.propose([b"red"])
    settle_without(cluster, THREE)
    leader.compact(Index(2))
    leader.raft.tick()
    cluster.settle()
    assert cluster.hosts[THREE].disk.snapshot.index == 2
    assert cluster.hosts[THREE].state == leader.state


def test_5_1_a_snapshot_of_a_prefix_keeps_the_entries_after_it() -> None:
    raft = member(1, TRIO, [1, 1, 1])
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(2), Term(1), TRIO)))
    ready = raft.take_ready()
    assert ready.snapshot is None
    assert (raft.last_index, raft.commit) == (3, 2)


def test_5_1_a_snapshot_replaces_a_log_that_does_not_contain_it() -> None:
    raft = member(1, TRIO, [1, 1, 1])
    meta = SnapshotMeta(Index(2), Term(2), voters(1, 2))
    raft.step(InstallSnapshot(TWO, ONE, Term(2), meta))
    assert raft.take_ready().snapshot == meta
    assert raft.last_index == 3
    raft.snapshot_installed(meta)
    assert (raft.last_index, raft.commit, raft.status().conf) == (2, 2, voters(1, 2))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(2), Index(2))]


# --- 6 Clients


def test_6_2_a_leader_without_a_majority_steps_down() -> None:
    host = leader_of_term_1(election_ticks=4)
    for _ in range(3):
        host.raft.tick()
    assert host.raft.role is Role.LEADER
    host.raft.tick()
    assert (host.raft.role, host.raft.leader) == (Role.FOLLOWER, 0)


def test_6_4_no_read_before_an_entry_of_the_own_term_is_committed() -> None:
    raft = member(1, TRIO, [1], hard_state=HardState(Term(1), commit=Index(1)))
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(2), granted=True))
    said(raft)
    raft.read(7)
    raft.step(HeartbeatAnswer(TWO, ONE, Term(2), 0))
    assert raft.reads_done == []
    raft.step(AppendAccepted(TWO, ONE, Term(2), Index(2)))
    (heartbeat, _) = [m for m in said(raft) if isinstance(m, Heartbeat)]
    raft.step(HeartbeatAnswer(TWO, ONE, Term(2), heartbeat.round))
    assert raft.take_ready().reads == [(7, 2)]


def test_6_4_an_answer_from_before_the_read_began_does_not_count() -> None:
    raft = leader_of_term_1().raft
    raft.read(7)
    said(raft)
    raft.read(8)
    said(raft)
    raft.step(HeartbeatAnswer(TWO, ONE, Term(1), 1))
    assert raft.take_ready().reads == [(7, 1)]
    raft.step(HeartbeatAnswer(TWO, ONE, Term(1), 2))
    assert raft.take_ready().reads == [(8, 1)]


def test_6_4_one_round_serves_all_reads_that_wait() -> None:
    raft = leader_of_term_1().raft
    for token in range(100):
        raft.read(token)
    assert len(said(raft)) == 2
    raft.step(HeartbeatAnswer(TWO, ONE, Term(1), 1))
    assert raft.take_ready().reads == [(token, 1) for token in range(100)]


def test_6_4_followers_ask_the_leader_and_serve_the_read_themselves() -> None:
    cluster = group(3)
    cluster.hosts[THREE].raft.read(5)
    cluster.settle()
    assert cluster.hosts[THREE].reads == [(5, 1)]


# --- 9.6 Preventing disruptions


def test_9_6_a_pre_vote_changes_no_member() -> None:
    raft = member(1, TRIO, [3])
    raft.campaign()
    assert (raft.role, raft.term, raft.vote) == (Role.PRE_CANDIDATE, 3, 0)
    other = member(2, TRIO, [3])
    other.step(PreVoteRequest(ONE, TWO, Term(4), Index(1), Term(3)))
    assert (other.term, other.vote) == (3, 0)
    assert said(other) == [PreVoteAnswer(TWO, ONE, Term(3), Term(4), granted=True)]


def test_9_6_a_member_cut_off_keeps_its_term() -> None:
    cluster = group(3)
    lonely = cluster.hosts[THREE].raft
    for _ in range(100):
        lonely.tick()
        settle_without(cluster, THREE)
    assert lonely.term == 1
    cluster.hosts[ONE].raft.tick()
    cluster.settle()
    assert lonely.leader == ONE


# --- 10.2 Performance


def test_10_2_1_the_leader_writes_in_parallel_and_others_can_commit_without_it() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE]
    leader.auto_sync = False
    leader.raft.propose([b"red"])
    cluster.settle()
    assert leader.raft.commit == 2
    assert leader.raft.log.persisted == 1
    assert leader.state[-1][0] == 1
    leader.sync()
    cluster.settle()
    assert leader.state[-1][0] == 2


def test_10_2_1_the_leaders_own_disk_counts_only_when_it_has_the_entry() -> None:
    cluster = group(1)
    leader = cluster.hosts[ONE]
    leader.auto_sync = False
    leader.raft.propose([b"red"])
    cluster.settle()
    assert leader.raft.commit == 1
    leader.sync()
    assert leader.raft.commit == 2


def test_10_2_2_messages_follow_each_other_without_waiting_for_answers() -> None:
    raft = leader_of_term_1(max_inflight_messages=3).raft
    sent = 0
    for _ in range(5):
        raft.propose([b"x"])
        sent += sum(isinstance(m, Append) and m.to == TWO for m in said(raft))
    assert sent == 3
