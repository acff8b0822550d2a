"""`Raft`: its table of handlers, what it refuses, how it restarts, its Readies and its status."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.raft import election, replication
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.config import Boot, Config
from netstore.raft.core import HANDLERS, Raft
from netstore.raft.encoding import decode_message, encode_message
from netstore.raft.entry import (
    MAX_DATA_BYTES,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    SnapshotMeta,
    decode_entries,
    encode_entries,
)
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import (
    MAX_NUMBER,
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
    MessageRefused,
    PreVoteAnswer,
    PreVoteRequest,
    ReadAnswer,
    ReadRequest,
    TimeoutNow,
    VoteAnswer,
)
from netstore.raft.progress import ProgressState
from netstore.raft.status import Fate, Refusal, Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, group, member, said, stand, voters
from tests.support.raft_forms import extreme_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE, TWO, THREE = map(NodeId, (1, 2, 3))
TRIO = voters(1, 2, 3)
HERE = (TWO, ONE)


def leading(**options: int) -> Raft:
    """Member 1 of three, leading term 1, nothing acknowledged by the others, its first entry on its disk."""
    raft = member(1, TRIO, (), hard_state=None, draw=lambda _bound: 0, **options)
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(1), granted=True))
    said(raft)
    return raft


def following() -> Raft:
    """Member 1 of three, following member 2 in term 1 with one entry."""
    raft = member(1, TRIO, [1])
    raft.step(Heartbeat(*HERE, Term(1), Index(0), 0))
    said(raft)
    return raft


# --- the table


def test_every_role_has_an_answer_to_every_message() -> None:
    assert {*HANDLERS} == {*Role}
    for handlers in HANDLERS.values():
        assert {*handlers} == {*get_args(Message)}


def test_a_leader_takes_only_what_was_forwarded_in_its_own_term() -> None:
    """A member sends again, in a later term, what was not applied in an earlier one (`node.proposals`): taken
    late, the first would be applied as well.
    """
    raft = leading()
    last = raft.last_index
    raft.step(Forward(TWO, ONE, Term(raft.term - 1), EntryKind.NORMAL, [b"x"]))
    assert raft.last_index == last
    raft.step(Forward(TWO, ONE, raft.term, EntryKind.NORMAL, [b"x"]))
    assert raft.last_index == last + 1


def test_messages_for_other_members_are_ignored() -> None:
    raft = member(1, TRIO)
    raft.step(Heartbeat(TWO, THREE, Term(9), Index(0), 0))
    raft.step(Heartbeat(ONE, ONE, Term(9), Index(0), 0))
    assert raft.term == 0


@pytest.mark.parametrize("kind", [Append, Heartbeat, InstallSnapshot])
def test_a_second_leader_in_one_term_is_refused(kind: type[Message]) -> None:
    messages: dict[type[Message], Message] = {
        Append: Append(THREE, ONE, Term(1), Index(0), Term(0), Index(0), []),
        Heartbeat: Heartbeat(THREE, ONE, Term(1), Index(0), 0),
        InstallSnapshot: InstallSnapshot(THREE, ONE, Term(1), SnapshotMeta(Index(1), Term(1), TRIO)),
    }
    for raft in (leading(), following()):
        before = raft.status()
        with pytest.raises(MessageRefused, match="says that it leads term 1"):
            raft.step(messages[kind])
        assert raft.status() == before


def test_messages_of_non_members_to_a_leader_have_no_effect() -> None:
    raft = leading()
    stranger = (NodeId(9), ONE, Term(1))
    raft.step(AppendAccepted(*stranger, Index(1)))
    raft.step(AppendRejected(*stranger, Index(0), Index(0), Term(0), needs_snapshot=True))
    raft.step(HeartbeatAnswer(*stranger, 0))
    raft.report_unreachable(NodeId(9))
    raft.report_snapshot(NodeId(9), ok=True)
    assert said(raft) == []
    assert raft.commit == 0


def test_an_acknowledgement_beyond_the_log_is_ignored() -> None:
    raft = leading()
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(5)))
    assert (raft.commit, raft.match_at(TWO)) == (0, 0)


@pytest.mark.parametrize(
    "late",
    [
        VoteAnswer(*HERE, Term(1), granted=True),
        PreVoteAnswer(*HERE, Term(1), Term(2), granted=True),
        AppendAccepted(*HERE, Term(1), Index(1)),
        AppendRejected(*HERE, Term(1), Index(1), Index(0), Term(0), needs_snapshot=False),
        HeartbeatAnswer(*HERE, Term(1), 1),
        ReadAnswer(*HERE, Term(1), 1 << 60, Index(9)),
        TimeoutNow(THREE, ONE, Term(1)),
        Forward(*HERE, Term(1), EntryKind.NORMAL, [b"x"]),
    ],
)
def test_a_follower_ignores_what_is_not_for_it(late: Message) -> None:
    raft = following()
    before = raft.status()
    raft.step(late)
    assert raft.status() == before
    assert said(raft) == []


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


def _standing(start: str) -> Raft:
    """A member in one of the states in which a message can arrive."""
    if start == "leader":
        raft = leading()
        raft.propose([b"x"] * 3)
        said(raft)
        raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3)))
        said(raft)
        raft.compact(Index(2))
        return raft
    if start == "joint leader":
        raft = leading()
        raft.step(AppendAccepted(TWO, ONE, Term(1), raft.last_index))
        said(raft)
        steps = (Step(StepKind.REMOVE, ONE), Step(StepKind.ADD_LEARNER, NodeId(4)))
        assert raft.propose_change(Change(steps)).fate is Fate.APPENDED
        return raft
    if start == "newcomer":
        return member(1, voters())
    raft = member(1, TRIO, [1, 1, 2, 2, 2])
    raft.step(Heartbeat(*HERE, Term(2), Index(4), 0))
    said(raft)
    raft.read(1)
    if start == "compacted follower":
        raft.compact(Index(3))
    elif start == "installing":
        raft.step(InstallSnapshot(*HERE, Term(2), SnapshotMeta(Index(9), Term(2), TRIO)))
        assert raft.installing is not None
    elif start != "follower":
        (stand if start == "candidate" else Raft.campaign)(raft)
        assert raft.role.value == start
    return raft


def _turn(raft: Raft, *, install: bool, compact: bool) -> None:
    """What a host does for each Ready; everything that is written can be decoded again."""
    while raft.has_ready():
        ready = raft.take_ready()
        assert decode_entries(encode_entries(ready.entries)) == ready.entries
        if ready.hard_state is not None:
            assert HardState.decode(ready.hard_state.encode()) == ready.hard_state
        for message in (*ready.messages, *ready.after_sync):
            assert decode_message(encode_message(message)) == message
        if ready.entries:
            raft.persisted(ready.entries[-1].index, ready.entries[-1].term)
        for entry_ in ready.committed:
            if entry_.kind is EntryKind.CHANGE:
                raft.apply_change(entry_)
            raft.applied_to(entry_.index)
        if raft.installing is not None and install:
            raft.snapshot_installed(raft.installing)
    if compact and raft.installing is None:
        raft.compact(raft.log.applied)


STANDINGS = (
    "leader",
    "joint leader",
    "follower",
    "compacted follower",
    "installing",
    "pre-candidate",
    "candidate",
    "newcomer",
)


@pytest.mark.parametrize("start", STANDINGS)
@settings(max_examples=200, deadline=None)
@given(heard=st.lists(extreme_messages(senders=(2, 3, 4, 2**64 - 1), to=1), max_size=8), data=st.data())
def test_no_message_of_a_peer_ends_a_member(heard: list[Message], start: str, data: st.DataObject) -> None:
    """A message is handled, ignored or refused; nothing else is raised, then or later."""
    raft = _standing(start)
    for message in heard:
        try:
            read = decode_message(encode_message(message))
        except CorruptData:
            continue
        before = raft.term
        with suppress(MessageRefused):
            raft.step(read)
        assert not before or raft.term - before <= election.MAX_TERMS_AHEAD
        for _ in range(data.draw(st.sampled_from((0, 1, 25)))):
            raft.tick()
        _turn(raft, install=data.draw(st.booleans()), compact=data.draw(st.booleans()))


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


def test_a_leader_of_an_old_term_is_answered_whatever_entries_it_has() -> None:
    """Its entries may differ from what another leader has committed since."""
    raft = member(1, TRIO, [1, 2, 2])
    raft.step(Heartbeat(*HERE, Term(2), Index(3), 0))
    said(raft)
    raft.step(Append(THREE, ONE, Term(1), Index(1), Term(1), Index(1), [entry(2, 1)]))
    assert said(raft) == [HeartbeatAnswer(ONE, THREE, Term(2), 0)]


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


# --- the disk


def boot(
    entries: Sequence[Entry] = (),
    *,
    term: int = 1,
    commit: int = 0,
    snapshot: int = 0,
    applied: int | None = None,
    conf: ConfState = TRIO,
) -> Raft:
    meta = SnapshotMeta(Index(snapshot), Term(min(snapshot, 1)), conf)
    hard_state = HardState(Term(term), NodeId(0), Index(commit))
    start = Boot(hard_state, meta, entries, Index(snapshot if applied is None else applied))
    return Raft(Config(id=ONE), start, lambda _bound: 0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: boot([entry(2, 1)]), "log entry 2 of term 1 follows entry 0"),
        (lambda: boot([entry(1, 2), entry(2, 1)], term=2), "log entry 2 of term 1 follows entry 1 of term 2"),
        (lambda: boot([entry(1, 2)]), "the vote record only term 1"),
        (lambda: boot([entry(1, 1)], commit=2), "the log ends at 1"),
        (lambda: boot([entry(1, 1)], applied=2), "the state has applied entry 2"),
        (lambda: boot([entry(6, 1)], snapshot=5, applied=4), "the log holds 5..6"),
        (lambda: boot([entry(1, 1)], conf=ConfState()), "nothing says who its voters were"),
    ],
)
def test_contradictory_contents_of_the_disk_are_refused(call: object, text: str) -> None:
    assert callable(call)
    with pytest.raises(CorruptData, match=text):
        call()


def test_a_restart_goes_on_where_the_state_is() -> None:
    log = [entry(6, 1, b"a"), entry(7, 1, b"b"), entry(8, 1, b"c")]
    raft = boot(log, commit=6, snapshot=5, applied=7)
    assert (raft.commit, raft.log.applied, raft.last_index) == (7, 7, 8)
    ready = raft.take_ready()
    assert ready.hard_state == HardState(Term(1), NodeId(0), Index(7))
    assert (ready.must_sync, list(ready.entries), list(ready.committed)) == (False, [], [])
    assert not raft.has_ready()


def test_a_restart_uses_the_newest_configuration_in_the_log() -> None:
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(4)),))
    bad = Change((Step(StepKind.REMOVE, NodeId(9)),))
    log = [
        Entry(Index(1), Term(1), EntryKind.CHANGE, change.encode()),
        Entry(Index(2), Term(1), EntryKind.CHANGE, bad.encode()),
    ]
    assert boot(log).status().conf == ConfState(TRIO.voters, learners=(NodeId(4),))


def test_a_member_without_a_configuration_waits() -> None:
    raft = boot(conf=ConfState())
    raft.campaign()
    for _ in range(100):
        raft.tick()
    assert (raft.role, raft.term, said(raft)) == (Role.FOLLOWER, 1, [])
    raft.step(Append(TWO, ONE, Term(1), Index(3), Term(1), Index(3), [entry(4, 1)]))
    assert said(raft) == [AppendRejected(ONE, TWO, Term(1), Index(3), Index(0), Term(0), needs_snapshot=True)]


# --- proposals


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


def test_what_a_follower_forwards_in_one_turn_is_bounded() -> None:
    raft = member(1, TRIO, [1], max_uncommitted_bytes=100)
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(0), 0))
    assert raft.propose([b"x" * 80]).fate is Fate.FORWARDED
    assert raft.propose([b"x" * 80]).refusal is Refusal.BACKLOG_FULL
    raft.take_ready()
    assert raft.propose([b"x" * 80]).fate is Fate.FORWARDED


# --- reads


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


# --- what must wait for the disk


def test_a_sole_voter_sends_nothing_to_learners_before_its_vote_is_on_disk() -> None:
    raft = member(1, ConfState(voters=(ONE,), learners=(TWO,)))
    raft.campaign()
    ready = raft.take_ready()
    assert (raft.role, list(ready.messages)) == (Role.LEADER, [])
    assert [type(m) for m in ready.after_sync] == [Append]
    raft.propose([b"x"])
    raft.tick()
    later = raft.take_ready()
    assert list(later.messages) == []
    raft.persisted(Index(1), Term(1))
    raft.tick()
    assert [type(m) for m in raft.take_ready().messages] == [Heartbeat]


def test_after_sync_always_comes_with_a_sync() -> None:
    raft = following()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    first = raft.take_ready()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    second = raft.take_ready()
    assert (list(first.entries), list(second.entries)) == ([entry(2, 1)], [])
    assert first.after_sync == second.after_sync
    assert second.must_sync


def test_a_commit_index_alone_needs_no_sync() -> None:
    raft = following()
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    ready = raft.take_ready()
    assert ready.hard_state == HardState(Term(1), NodeId(0), Index(1))
    assert not ready.must_sync


def test_several_appends_get_one_answer() -> None:
    raft = following()
    for index in (2, 3, 4):
        raft.step(Append(TWO, ONE, Term(1), Index(index - 1), Term(1), Index(0), [entry(index, 1)]))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(4))]


def test_nothing_is_ready_twice() -> None:
    raft = leading()
    assert not raft.has_ready()
    ready = raft.take_ready()
    assert ready.hard_state is None
    assert not ready.must_sync
    assert not any((ready.entries, ready.messages, ready.after_sync, ready.committed, ready.reads))


# --- what one Ready has room for


def test_a_ready_has_a_bounded_number_of_bytes_for_the_disk_and_no_later_commit_index() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(5), entries))
    given: list[list[int]] = []
    kept: list[int] = []
    told: list[Message] = []
    while raft.has_ready():
        ready = raft.take_ready()
        given.append([each.index for each in ready.entries])
        assert ready.hard_state is not None
        kept.append(ready.hard_state.commit)
        told += ready.after_sync
        assert raft.has_more == (len(given) < 3)
    assert given == [[1, 2], [3, 4], [5]]
    assert kept == [2, 4, 5], "no log on disk is behind the commit index beside it"
    assert told == [AppendAccepted(ONE, TWO, Term(1), Index(index)) for index in (2, 4, 5)]
    raft.persisted(Index(2), Term(1))
    assert [each.index for each in raft.take_ready().committed] == [1, 2]


def test_while_a_snapshot_replaces_the_log_no_entries_are_given_to_the_disk() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(5), entries))
    assert len(raft.take_ready().entries) == 2
    assert raft.log.handed < raft.last_index
    meta = SnapshotMeta(Index(9), Term(1), TRIO)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    assert not raft.has_more
    ready = raft.take_ready()
    assert (ready.snapshot, ready.entries) == (meta, [])
    assert ready.hard_state is None
    raft.persisted(Index(2), Term(1))
    assert not raft.has_ready()
    raft.snapshot_installed(meta)
    assert list(raft.take_ready().messages) == [AppendAccepted(ONE, TWO, Term(1), Index(9))]
    raft.step(Append(TWO, ONE, Term(1), Index(9), Term(1), Index(9), [entry(10, 1)]))
    assert [each.index for each in raft.take_ready().entries] == [10]
    assert not raft.has_more


def test_a_larger_entry_is_given_to_the_disk_alone() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    sizes = (10, 500, 10)
    entries = [entry(index, 1, bytes(size)) for index, size in enumerate(sizes, 1)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    given = []
    while raft.has_ready():
        given.append([each.index for each in raft.take_ready().entries])
    assert given == [[1], [2], [3]]


def test_entries_truncated_before_they_were_given_to_the_disk_are_not_given_to_it() -> None:
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    assert len(raft.take_ready().entries) == 2
    raft.step(Append(THREE, ONE, Term(2), Index(1), Term(1), Index(0), [entry(2, 2)]))
    ready = raft.take_ready()
    assert list(ready.entries) == [entry(2, 2)]
    assert list(ready.after_sync) == [AppendAccepted(ONE, THREE, Term(2), Index(2))]
    assert not raft.has_more


@pytest.mark.parametrize("handed", [0, 2, 4])
def test_entries_that_a_snapshot_replaces_are_not_written_after_it(handed: int) -> None:
    """Otherwise the log on disk would go back behind the mark of the snapshot, and could not be read."""
    raft = member(1, TRIO, max_ready_bytes=100)
    entries = [entry(index, 1, bytes(24)) for index in range(1, 6)]
    raft.step(Append(TWO, ONE, Term(1), Index(0), Term(0), Index(0), entries))
    for _ in range(handed // 2):
        raft.take_ready()
    meta = SnapshotMeta(Index(20), Term(2), TRIO)
    raft.step(InstallSnapshot(THREE, ONE, Term(2), meta))
    snapshots = []
    while raft.has_ready():
        ready = raft.take_ready()
        snapshots.append(ready.snapshot)
        assert (list(ready.entries), list(ready.after_sync)) == ([], [])
        assert ready.hard_state is None or ready.hard_state.commit == 0
        assert not raft.has_more
    assert snapshots[0] == meta
    raft.snapshot_installed(meta)
    ready = raft.take_ready()
    assert (list(ready.entries), ready.hard_state) == ([], HardState(Term(2), NodeId(0), Index(20)))
    assert list(ready.messages) == [AppendAccepted(ONE, THREE, Term(2), Index(20))]
    raft.step(Append(THREE, ONE, Term(2), Index(20), Term(2), Index(20), [entry(21, 2)]))
    assert list(raft.take_ready().entries) == [entry(21, 2)]


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


# --- snapshots


def test_only_the_requested_snapshot_can_be_installed() -> None:
    raft = following()
    meta = SnapshotMeta(Index(5), Term(1), TRIO)
    with pytest.raises(InvariantBroken):
        raft.snapshot_installed(meta)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(6), Term(1), TRIO)))
    assert raft.take_ready().snapshot == meta
    with pytest.raises(InvariantBroken):
        raft.snapshot_installed(SnapshotMeta(Index(6), Term(1), TRIO))
    raft.snapshot_installed(meta)
    assert raft.last_index == 5


def test_while_a_snapshot_is_put_in_place_the_log_does_not_change() -> None:
    raft = following()
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(5), Term(1), TRIO)))
    said(raft)
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(1), [entry(2, 1)]))
    raft.step(Heartbeat(TWO, ONE, Term(1), Index(1), 0))
    raft.campaign()
    assert (raft.last_index, raft.commit, raft.role) == (1, 0, Role.FOLLOWER)
    assert said(raft) == [HeartbeatAnswer(ONE, TWO, Term(1), 0)]


def test_nothing_is_handed_out_to_be_applied_while_a_snapshot_is_put_in_place() -> None:
    """Entries that a slow disk reports meanwhile would be applied to the state that the snapshot replaces."""
    raft = following()
    raft.step(Append(TWO, ONE, Term(1), Index(1), Term(1), Index(2), [entry(2, 1)]))
    raft.take_ready()
    meta = SnapshotMeta(Index(5), Term(1), TRIO)
    raft.step(InstallSnapshot(TWO, ONE, Term(1), meta))
    assert raft.take_ready().snapshot == meta
    raft.persisted(Index(2), Term(1))
    assert raft.take_ready().committed == []
    raft.snapshot_installed(meta)
    assert (raft.log.applied, raft.take_ready().committed) == (5, [])


def test_an_old_snapshot_is_answered_with_the_commit_index() -> None:
    raft = member(1, TRIO, [1, 1], hard_state=HardState(Term(1), commit=Index(2)))
    raft.step(InstallSnapshot(TWO, ONE, Term(1), SnapshotMeta(Index(1), Term(1), TRIO)))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))]


def test_a_snapshot_is_sent_to_active_members_only() -> None:
    cluster = group(3, election_ticks=3)
    leader = cluster.hosts[ONE]
    leader.raft.propose([b"a"])
    cluster.settle(lambda message: THREE not in (message.sender, message.to))
    leader.compact(Index(2))
    for _ in range(4):
        leader.raft.tick()
        cluster.settle(lambda message: THREE not in (message.sender, message.to))
    leader.raft.report_unreachable(THREE)
    assert not any(isinstance(m, InstallSnapshot) for m in said(leader.raft))
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    assert any(isinstance(m, InstallSnapshot) for m in said(leader.raft))
    leader.raft.report_snapshot(THREE, ok=False)
    assert leader.raft.progress[THREE].state is ProgressState.PROBE


def test_after_a_snapshot_later_than_requested_appends_go_on_after_it() -> None:
    """The log before it is compacted: a probe there would lead to another snapshot."""
    cluster = group(3, election_ticks=3)
    leader = cluster.hosts[ONE]

    def without_three(message: Message) -> bool:
        return THREE not in (message.sender, message.to)

    leader.raft.propose([b"a"])
    cluster.settle(without_three)
    leader.compact(Index(2))
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    leader.raft.report_unreachable(THREE)
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    [asked] = [m for m in said(leader.raft) if isinstance(m, InstallSnapshot)]
    leader.raft.propose([b"b", b"c"])
    cluster.settle(without_three)
    made = leader.raft.log.applied
    assert made > asked.meta.index
    leader.compact(made)
    leader.raft.report_snapshot(THREE, ok=True, index=made)
    leader.raft.propose([b"d"])
    cluster.settle(without_three)
    leader.raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    [sent] = [m for m in said(leader.raft) if isinstance(m, Append) and m.to == THREE]
    assert (sent.previous_index, len(sent.entries)) == (made, 1)


def test_a_snapshot_is_described_at_an_applied_index_that_is_not_compacted() -> None:
    raft = leading()
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(1)))
    said(raft)
    raft.compact(Index(1))
    assert raft.snapshot_meta(Index(1)) == SnapshotMeta(Index(1), Term(1), TRIO)
    for index in (0, 2):
        with pytest.raises(InvariantBroken):
            raft.snapshot_meta(Index(index))


def test_apply_change_takes_changes_only_and_in_their_turn() -> None:
    raft = leading()
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(4)),))
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(1)))
    said(raft)
    raft.propose_change(change)
    early = Entry(Index(2), Term(1), EntryKind.CHANGE, change.encode())
    for wrong in (entry(2, 1), early):
        with pytest.raises(InvariantBroken):
            raft.apply_change(wrong)
    raft.persisted(Index(2), Term(1))
    ready = raft.take_ready()
    raft.persisted(Index(2), Term(1))
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(2)))
    assert list(ready.committed) == []
    (applied,) = raft.take_ready().committed
    assert raft.apply_change(applied).learners == (4,)


# --- status


def test_status() -> None:
    raft = leading()
    raft.propose([b"abc"])
    said(raft)
    status = raft.status()
    assert (status.id, status.term, status.role, status.leader) == (1, 1, Role.LEADER, 1)
    assert (status.compacted, status.applied, status.commit, status.last) == (0, 0, 0, 2)
    assert (status.conf, raft.backlog_bytes) == (TRIO, 35)
    assert [(peer.id, peer.match, peer.active) for peer in status.peers] == [(2, 0, True), (3, 0, True)]
    assert following().status().peers == ()


def test_the_same_calls_give_the_same_answers() -> None:
    def life() -> list[object]:
        seen: list[object] = []
        draws = deque(range(100))
        raft = member(1, TRIO, draw=lambda bound: draws.popleft() % bound)
        for _ in range(60):
            raft.tick()
            seen += said(raft)
            seen.append(raft.status())
        return seen

    assert life() == life()


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
    assert raft.read_index_alone() is None, "it does not lead"
    stand(raft)
    if not is_only:
        raft.step(VoteAnswer(TWO, ONE, raft.term, granted=True))
    assert raft.role is Role.LEADER
    assert raft.read_index_alone() is None, "what it has committed may not be the newest"
    said(raft)
    assert raft.read_index_alone() == (2 if is_only else None)
    if is_only:
        raft.propose([b"x"])
        assert raft.read_index_alone() == 2, "the entry is not committed"
        said(raft)
        assert raft.read_index_alone() == 3
