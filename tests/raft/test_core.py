"""`Raft`: its table of handlers, what it refuses, how it restarts, and its status."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.raft import election
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.config import Boot, Config
from netstore.raft.core import HANDLERS, Raft
from netstore.raft.encoding import decode_message, encode_message
from netstore.raft.entry import (
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
    ReadAnswer,
    TimeoutNow,
    VoteAnswer,
)
from netstore.raft.status import Fate, Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, member, said, stand, voters
from tests.support.raft_forms import extreme_messages
from tests.support.raft_members import HERE, ONE, THREE, TRIO, TWO, following, leading

if TYPE_CHECKING:
    from collections.abc import Sequence


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
