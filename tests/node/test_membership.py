"""Members that come, go, move and are promoted, asked through a leader and through others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from netstore.admission import PARTS
from netstore.errors import Fault, Reason, stopped
from netstore.node.applier import Applier
from netstore.node.backpressure import BEHIND_SECONDS, HELD_BYTES
from netstore.node.fairqueue import TURN
from netstore.node.member import OWN
from netstore.node.membership import (
    MAX_LEARNERS,
    MAX_VOTERS,
    MAX_WAITING_CHANGES,
    MembershipChanges,
)
from netstore.node.proposals import MAX_WAITING
from netstore.raft.change import Change, Step, StepKind
from netstore.state.commands import PublishMember, RefuseChange, UpdateMember, encode
from netstore.state.members import MemberInfo, to_vote
from netstore.state.v2.commands import Set
from netstore.types import Event, NodeId
from tests.support.group import Group, Peer
from tests.support.member import Lines, Solo

if TYPE_CHECKING:
    from collections.abc import Callable

Answers = list["MemberInfo | Fault"]

NEW = ("http://new:1",)


def asked(group: Group, call: Callable[[Callable[[MemberInfo | Fault], None]], None]) -> MemberInfo | Fault:
    """What a call is answered within the time a tick takes."""
    answers: Answers = []
    call(answers.append)
    group.settle()
    group.tick(2)
    [answer] = answers
    return answer


def refusal(answer: MemberInfo | Fault | None) -> str:
    assert isinstance(answer, Fault)
    return answer.cause.decode()


def add(group: Group, through: Peer, urls: tuple[str, ...] = NEW, *, learner: bool = False) -> MemberInfo:
    answer = asked(group, lambda done: through.cluster.add(urls, learner=learner, done=done, principal=OWN))
    assert isinstance(answer, MemberInfo)
    return answer


def voters(peer: Peer) -> set[int]:
    assert not peer.conf.joint
    return set(peer.conf.voters)


# --- adding


@pytest.mark.parametrize("through", [1, 2])
def test_a_member_added_to_vote_learns_first_and_votes_once_it_has_caught_up(through: int) -> None:
    group = Group(3)
    added = add(group, group[through])
    assert (added.name, added.peer_urls, added.learner) == ("", NEW, True)
    assert all(peer.seen()[added.id] == (True, True) for peer in group.peers.values())
    group.pass_time(20)
    assert voters(group[1]) == {1, 2, 3}, "it has not started"
    group.start(added.id)
    group.pass_time(3)
    assert voters(group[1]) == {1, 2, 3, added.id}
    for peer in group.peers.values():
        assert peer.seen()[added.id] == (False, False)
    assert group[added.id].machine.members[added.id].name


def test_a_member_alone_grows_to_three_and_is_never_stuck() -> None:
    group = Group(1)
    first, second = add(group, group[1]), add(group, group[1], ("http://other:1",))
    outcomes: list[object] = []
    group[1].host.propose(encode(Set(path=b"/k")), outcomes.append, OWN)
    group.settle()
    assert isinstance(outcomes[0], Event), "members that have not started have no say"
    group.start(first.id)
    group.start(second.id)
    group.pass_time(3)
    assert voters(group[1]) == {1, first.id, second.id}
    assert group[1].lines.events.count("member_promoted") == 2


def test_a_member_that_was_given_a_copy_knows_what_its_log_weighs_since() -> None:
    """It may lead next, and others may need that log."""
    group = Group(1)
    host = group.start(add(group, group[1]).id).host
    assert host.snapshot_install.installed
    for _ in range(5):
        group[1].host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
    group.pass_time(1)
    pacing = host._pacing
    assert pacing._total - pacing._sum(host.compaction.compacted) == host._raft.log_bytes > 0


def test_a_member_added_as_learner_stays_one_until_it_is_promoted() -> None:
    group = Group(1)
    added = add(group, group[1], learner=True)
    assert (added.learner, added.promote) == (True, False)
    group.start(added.id)
    group.pass_time(20)
    assert voters(group[1]) == {1}
    promoted = asked(group, lambda done: group[added.id].cluster.promote(added.id, done, OWN))
    assert isinstance(promoted, MemberInfo)
    assert not promoted.learner
    assert voters(group[1]) == {1, added.id}


def test_ids_differ_where_urls_or_times_do() -> None:
    group = Group(1)
    began = group.clock.wall() // 10**9
    first = add(group, group[1])
    asked(group, lambda done: group[1].cluster.remove(first.id, done, OWN))
    again = add(group, group[1])
    assert group.clock.wall() // 10**9 == began, "within the same second"
    other = add(group, group[1], ("http://other:1", "http://another:1"))
    assert len({first.id, again.id, other.id}) == 3
    assert other.peer_urls == ("http://another:1", "http://other:1")


@pytest.mark.parametrize("through", [1, 2])
def test_an_url_belongs_to_one_member(through: int) -> None:
    group = Group(3)
    urls = ("http://fine:1", "http://p3:1")
    answer = asked(
        group, lambda done: group[through].cluster.add(urls, learner=True, done=done, principal=OWN)
    )
    assert refusal(answer) == Reason.PEER_URL_EXISTS.text
    assert set(group[1].seen()) == {1, 2, 3}


def test_there_are_only_so_many_learners() -> None:
    group = Group(1)
    for number in range(MAX_LEARNERS):
        add(group, group[1], (f"http://learner{number}:1",), learner=number >= 3)
    answer = asked(group, lambda done: group[1].cluster.add(NEW, learner=True, done=done, principal=OWN))
    assert refusal(answer) == Reason.TOO_MANY_LEARNERS.text


def test_there_are_only_so_many_voters() -> None:
    group = Group(MAX_VOTERS - 1)
    meant = add(group, group[1])
    answer = asked(
        group, lambda done: group[2].cluster.add(("http://more:1",), learner=False, done=done, principal=OWN)
    )
    assert refusal(answer) == Reason.TOO_MANY_VOTERS.text
    learner = add(group, group[2], ("http://more:1",), learner=True)
    group.start(meant.id)
    group.start(learner.id)
    group.pass_time(3)
    assert len(group[1].conf.voters) == MAX_VOTERS
    answer = asked(group, partial(group[1].cluster.promote, learner.id, principal=OWN))
    assert refusal(answer) == Reason.TOO_MANY_VOTERS.text


def test_changes_that_come_together_are_made_one_after_the_other() -> None:
    group = Group(3)
    answers: Answers = []
    for number in range(3):
        for peer in (group[2], group[1]):
            url = f"http://new{number}{peer.id}:1"
            peer.cluster.add((url,), learner=True, done=answers.append, principal=OWN)
    group[3].cluster.remove(NodeId(2), answers.append, OWN)
    group.pass_time(2)
    assert len(answers) == 7
    assert all(isinstance(answer, MemberInfo) for answer in answers)
    assert voters(group[1]) == {1, 3}
    assert len(group[1].conf.learners) == 6


def test_only_so_many_changes_wait() -> None:
    group = Group(3)
    for peer in (group[2], group[3]):
        peer.cut_off = True
    group.pass_time(5)
    answers: Answers = []
    for number in range(MAX_WAITING_CHANGES + 1):
        group[1].cluster.add((f"http://new{number}:1",), learner=True, done=answers.append, principal=OWN)
    assert [refusal(answer) for answer in answers] == [Reason.TOO_MANY.text]


def test_an_url_that_was_taken_on_the_way_leaves_no_nameless_learner_behind() -> None:
    """The leader judges what is applied; what it has not applied yet may take the URL first."""
    group = Group(3)
    answers: Answers = []
    group[1].host.propose(encode(UpdateMember(3, NEW)), lambda _: None, OWN)
    group[1].host.turn()
    group[1].cluster.add(NEW, learner=True, done=answers.append, principal=OWN)
    group.settle()
    assert [refusal(answer) for answer in answers] == [Reason.PEER_URL_EXISTS.text]
    group.tick(2)
    assert group[1].conf.learners == ()
    assert "unlisted_member_removed" in group[1].lines.events
    assert set(group[1].seen()) == {1, 2, 3}


# --- removing


@pytest.mark.parametrize("through", [1, 2, 3])
@pytest.mark.parametrize("gone", [1, 2, 3])
def test_any_voter_can_be_removed_through_any(through: int, gone: int) -> None:
    group = Group(3)
    removed = asked(group, lambda done: group[through].cluster.remove(NodeId(gone), done, OWN))
    assert isinstance(removed, MemberInfo)
    assert removed.id == gone
    del group.peers[NodeId(gone)]
    group.pass_time(5)
    assert group.leader.id != gone
    assert voters(group.leader) == {1, 2, 3} - {gone}
    assert set(group.leader.seen()) == {1, 2, 3} - {gone}


def test_an_id_is_never_used_again() -> None:
    group = Group(3)
    asked(group, lambda done: group[1].cluster.remove(NodeId(3), done, OWN))
    again = asked(group, lambda done: group[2].cluster.remove(NodeId(3), done, OWN))
    assert refusal(again) == Reason.ID_REMOVED.text
    changed = asked(group, lambda done: group[2].cluster.update(NodeId(3), NEW, done, OWN))
    assert refusal(changed) == Reason.ID_REMOVED.text
    unknown = asked(group, lambda done: group[2].cluster.remove(NodeId(9), done, OWN))
    assert refusal(unknown) == Reason.ID_NOT_FOUND.text


def test_the_last_voter_stays() -> None:
    group = Group(1)
    add(group, group[1], learner=True)
    answer = asked(group, lambda done: group[1].cluster.remove(NodeId(1), done, OWN))
    assert refusal(answer) == Reason.NOT_ENOUGH_STARTED.text


@pytest.mark.parametrize("through", [1, 2])
def test_a_quorum_that_answers_stays(through: int) -> None:
    group = Group(3)
    group[3].cut_off = True
    group.pass_time(3)
    answer = asked(group, lambda done: group[through].cluster.remove(NodeId(2), done, OWN))
    assert refusal(answer) == Reason.UNHEALTHY.text
    gone = asked(group, lambda done: group[through].cluster.remove(NodeId(3), done, OWN))
    assert isinstance(gone, MemberInfo)
    assert voters(group[1]) == {1, 2}


def test_voters_that_have_not_started_do_not_count() -> None:
    group = Group(3)
    for id_ in (2, 3):
        known = group[1].machine.roster.by_id
        known[NodeId(id_)] = MemberInfo(NodeId(id_), "", (), (f"http://p{id_}:1",))
    answer = asked(group, lambda done: group[1].cluster.remove(NodeId(1), done, OWN))
    assert refusal(answer) == Reason.NOT_ENOUGH_STARTED.text


def test_a_learner_can_always_be_removed() -> None:
    group = Group(3)
    added = add(group, group[1])
    group[3].cut_off = True
    group.pass_time(3)
    removed = asked(group, lambda done: group[2].cluster.remove(added.id, done, OWN))
    assert isinstance(removed, MemberInfo)
    assert group[1].conf.learners == ()


@pytest.mark.parametrize("through", [1, 2])
def test_a_member_that_is_only_listed_can_be_removed(through: int) -> None:
    """So it stands after a cluster was begun anew from one member's data."""
    group = Group(3)
    group[1].host.propose(encode(PublishMember(9, "ghost", (), NEW)), lambda _: None, OWN)
    group.settle()
    assert 9 in group[through].seen()
    gone = asked(group, partial(group[through].cluster.remove, NodeId(9), principal=OWN))
    assert isinstance(gone, MemberInfo)
    assert gone.name == "ghost"
    assert set(group[1].seen()) == {1, 2, 3}
    assert NodeId(9) in group[3].machine.removed


# --- promoting and moving


def test_only_learners_that_have_caught_up_are_promoted() -> None:
    group = Group(3)
    assert (
        refusal(asked(group, lambda done: group[2].cluster.promote(NodeId(3), done, OWN)))
        == Reason.NOT_LEARNER.text
    )
    assert (
        refusal(asked(group, lambda done: group[2].cluster.promote(NodeId(9), done, OWN)))
        == Reason.ID_NOT_FOUND.text
    )
    added = add(group, group[1], learner=True)
    for through in (1, 2):
        answer = asked(group, partial(group[through].cluster.promote, added.id, principal=OWN))
        assert refusal(answer) == Reason.LEARNER_NOT_READY.text


@pytest.mark.parametrize("through", [1, 2])
def test_a_member_moves(through: int) -> None:
    group = Group(3)
    moved = asked(group, lambda done: group[through].cluster.update(NodeId(3), NEW, done, OWN))
    assert isinstance(moved, MemberInfo)
    assert (moved.name, moved.peer_urls) == ("m3", NEW)
    taken = asked(group, lambda done: group[through].cluster.update(NodeId(3), ("http://p1:1",), done, OWN))
    assert refusal(taken) == Reason.PEER_URL_EXISTS.text
    group[3].publish()
    assert group[1].machine.members[NodeId(3)].peer_urls == NEW, "only a command moves a member"


# --- leading


def test_leadership_moves_to_another_voter() -> None:
    group = Group(3)
    answers: list[Fault | None] = []
    group[1].cluster.transfer(NodeId(3), answers.append)
    group.settle()
    group.tick()
    assert answers == [None]
    assert group.leader.id == 3
    group[3].cluster.transfer(NodeId(3), answers.append)
    assert answers == [None, None]


def test_only_a_leader_hands_over_and_only_to_voters() -> None:
    group = Group(3)
    learner = add(group, group[1], learner=True)
    answers: list[Fault | None] = []
    group[2].cluster.transfer(NodeId(3), answers.append)
    group[1].cluster.transfer(learner.id, answers.append)
    group[1].cluster.transfer(NodeId(9), answers.append)
    bad = Reason.BAD_TRANSFEREE.text
    assert [refusal(answer) for answer in answers] == [Reason.NOT_LEADER.text, bad, bad]


def test_a_transfer_to_a_member_that_is_gone_is_given_up() -> None:
    group = Group(3)
    group[3].cut_off = True
    answers: list[Fault | None] = []
    group[1].cluster.transfer(NodeId(3), answers.append)
    group.pass_time(8)
    assert [refusal(answer) for answer in answers] == [Reason.TRANSFER_TIMED_OUT.text]


# --- time


def test_a_change_waits_for_a_leader() -> None:
    group = Group(3)
    group[1].cut_off = True
    group.pass_time(0.5)
    group[2].host.campaign()
    answers: Answers = []
    group[2].cluster.add(NEW, learner=True, done=answers.append, principal=OWN)
    group.pass_time(5)
    assert len(answers) == 1
    assert isinstance(answers[0], MemberInfo)


def crowd(group: Group, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader's engine is behind, or it has too much to apply."""
    if why == "behind":
        monkeypatch.setattr(group[1].engine, "excess_bytes", lambda: 1)
    else:
        late = property(lambda _: HELD_BYTES + 1, lambda _, size: None)  # it stays, whatever is applied
        monkeypatch.setattr(Applier, "waiting_bytes", late, raising=False)
    group.tick()


@pytest.mark.parametrize("through", [1, 2])
@pytest.mark.parametrize("why", ["behind", "late"])
def test_a_change_waits_while_the_leader_has_too_much_to_apply(
    through: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(3)
    last = group[1].host.status().last
    answers: list[MemberInfo | Fault] = []
    crowd(group, why, monkeypatch)
    group[through].cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.settle()
    told: list[object] = []
    group[1].host.proposer.change_members((Step(StepKind.ADD_LEARNER, NodeId(9)),), b"", told.append)
    assert [each.cause.decode() for each in told if isinstance(each, Fault)] == [Reason.TOO_MANY.text]
    assert group[1].host.status().last == last
    group.pass_time(BEHIND_SECONDS - 0.2)
    assert answers == []
    monkeypatch.undo()
    group.tick(2)
    [answer] = answers
    assert isinstance(answer, MemberInfo)


@pytest.mark.parametrize("why", ["behind", "late"])
def test_a_change_waits_no_longer_than_other_requests(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    answers: list[MemberInfo | Fault] = []
    crowd(group, why, monkeypatch)
    group[1].cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.pass_time(BEHIND_SECONDS + 0.3)
    [answer] = answers
    assert isinstance(answer, Fault)
    assert (answer.cause.decode(), answer.outcome_known) == (Reason.TOO_MANY.text, True)


@pytest.mark.parametrize("why", ["behind", "late"])
def test_how_long_a_change_has_waited_counts_anew_when_its_leader_was_none_meanwhile(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(3)
    host = group[1].host
    answers: list[MemberInfo | Fault] = []
    group.pass_time(5)
    group[2].cut_off = group[3].cut_off = True
    lost = 0.0
    while host.leader:
        group.pass_time(0.1)
        lost += 0.1
    group[2].cut_off = group[3].cut_off = False
    host.campaign()
    group.pass_time(5)
    assert host.leader == host.id
    group[2].cut_off = group[3].cut_off = True
    group.pass_time(lost - 0.5)
    crowd(group, why, monkeypatch)
    group[1].cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.pass_time(BEHIND_SECONDS + 0.3)
    assert (host.leader, answers) == (0, [])
    group[2].cut_off = group[3].cut_off = False
    host.campaign()
    group.settle()
    assert host.leader == host.id
    assert host.backpressure.is_overloaded
    group.pass_time(BEHIND_SECONDS - 0.2)
    assert answers == []
    group.pass_time(0.5)
    [answer] = answers
    assert refusal(answer) == Reason.TOO_MANY.text


def test_a_change_is_passed_on_whatever_the_own_engine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    answers: list[MemberInfo | Fault] = []
    monkeypatch.setattr(group[2].engine, "excess_bytes", lambda: 1)
    group.tick()
    group[2].cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.settle()
    assert len(group[1].machine.members) == 4
    monkeypatch.undo()
    group.tick(2)
    [answer] = answers
    assert isinstance(answer, MemberInfo)


@pytest.mark.parametrize("through", [1, 2])
def test_a_change_survives_the_leader_it_was_given_to(through: int) -> None:
    """Given to one that can commit nothing any more, it is made by the next, once."""
    group = Group(3)
    group[1].cut_off = True
    answers: Answers = []
    group[through].cluster.add(NEW, learner=True, done=answers.append, principal=OWN)
    group.settle()
    group.pass_time(4)
    group[1].cut_off = False
    group.pass_time(2)
    [answer] = answers
    assert isinstance(answer, MemberInfo)
    for peer in group.peers.values():
        assert set(peer.seen()) == {1, 2, 3, answer.id}
    assert group.leader.conf.learners == (answer.id,)


@pytest.mark.parametrize("heard", [True, False])
def test_a_change_that_both_leaders_make_is_made_once(heard: bool) -> None:
    """The first leader's entry is in the log of the next, which is asked again for the same."""
    group = Group(3)
    answers: Answers = []
    group[2].cluster.add(NEW, learner=True, done=answers.append, principal=OWN)
    group[2].host.turn()
    for _ in range(2 if heard else 1):
        for peer in group.peers.values():
            peer.host.turn()
            peer.device.sync()
        messages, group.sent[:] = group.sent.copy(), []
        for message in messages:
            group.carry(message)
    assert not answers
    assert bool(group[3].conf.learners) is heard
    group[1].cut_off = True
    group.pass_time(4)
    group[1].cut_off = False
    group.pass_time(2)
    assert len(answers) == 1
    assert isinstance(answers[0], MemberInfo)
    assert set(group.leader.seen()) == {1, 2, 3, answers[0].id}
    assert group.leader.conf.learners == (answers[0].id,)


def test_a_change_that_a_snapshot_may_contain_is_unknown_and_never_called_refused() -> None:
    """The change was made, and its entry is forgotten before the member that asked for it could see it."""
    group = Group(3)
    answers: Answers = []
    group[3].cluster.add(NEW, learner=True, done=answers.append, principal=OWN)
    group[3].host.turn()
    for message in group.sent[:]:
        group.carry(message)
    group.sent.clear()
    group[3].cut_off = True
    group.settle()
    assert len(group[1].seen()) == 4
    for _ in range(20):
        group[1].host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
        group.settle()
    for peer in (group[1], group[2]):
        peer.engine.commit()
        assert peer.host.compaction.compact()
    group[1].cluster.transfer(NodeId(2), lambda _: None)
    group.tick()
    assert (group.leader.id, answers) == (2, [])
    group[3].cut_off = False
    group.pass_time(2)
    assert group[3].host.snapshot_install.installed == 1
    [answer] = answers
    assert isinstance(answer, Fault)
    assert not answer.outcome_known


def test_without_a_quorum_a_change_times_out() -> None:
    group = Group(3)
    for peer in (group[2], group[3]):
        peer.cut_off = True
    group.pass_time(5)
    answers: Answers = []
    group[1].cluster.remove(NodeId(3), answers.append, OWN)
    group.pass_time(6.5)
    assert answers == []
    group.pass_time(1)
    assert [refusal(answer) for answer in answers] == [Reason.TIMED_OUT.text]
    for peer in (group[2], group[3]):
        peer.cut_off = False
    group.pass_time(5)
    assert set(group.leader.seen()) == {1, 2, 3}, (
        "what timed out before it was proposed is not proposed later"
    )


def test_a_change_that_is_none_is_not_made() -> None:
    group = Group(3)
    steps = (Step(StepKind.REMOVE, NodeId(3)),)
    for context in (b"", b"12345678", b"12345678\xff", b"12345678" + encode(RefuseChange("no"))):
        group[2].host.proposer.propose_change(Change(steps, context=context))
        group.pass_time(1)
    assert voters(group[1]) == {1, 2, 3}
    assert group[1].lines.events.count("member_change_not_read") == 4


# --- asked at once, through several


@pytest.mark.parametrize("room", [0, 1, 2])
def test_members_added_at_once_never_are_more_than_may_vote(room: int) -> None:
    group = Group(MAX_VOTERS - room)
    answers: Answers = []
    for number, peer in enumerate(group.peers.values()):
        peer.cluster.add((f"http://new{number}:1",), learner=False, done=answers.append, principal=OWN)
    group.pass_time(2)
    refused = [refusal(answer) for answer in answers if isinstance(answer, Fault)]
    assert refused == [Reason.TOO_MANY_VOTERS.text] * (len(group.peers) - room)
    assert to_vote(group[1].machine.members.values()) == MAX_VOTERS


def test_learners_added_at_once_never_are_more_than_may_learn() -> None:
    group = Group(3)
    for peer in group.peers.values():
        peer.cluster._max_learners = 4
    answers: Answers = []
    for number in range(9):
        through = group[1 + number % 3]
        through.cluster.add(
            (f"http://new{number}:1",), learner=number % 2 == 0, done=answers.append, principal=OWN
        )
    group.pass_time(2)
    refused = [refusal(answer) for answer in answers if isinstance(answer, Fault)]
    assert refused == [Reason.TOO_MANY_LEARNERS.text] * 5
    assert len(group[1].conf.learners) == 4


def test_an_url_asked_for_twice_at_once_is_given_once() -> None:
    group = Group(3)
    answers: Answers = []
    for peer in group.peers.values():
        peer.cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.pass_time(2)
    refused = [refusal(answer) for answer in answers if isinstance(answer, Fault)]
    assert refused == [Reason.PEER_URL_EXISTS.text] * 2
    assert len(group[1].machine.members) == 4
    assert len(group[1].conf.learners) == 1


@pytest.mark.parametrize("first", ["add", "update"])
def test_an_url_that_one_adds_and_another_moves_to_is_given_once(first: str) -> None:
    group = Group(3)
    answers: Answers = []
    calls: dict[str, Callable[[], None]] = {
        "add": partial(group[2].cluster.add, NEW, learner=True, done=answers.append, principal=OWN),
        "update": partial(group[3].cluster.update, NodeId(3), NEW, answers.append, OWN),
    }
    calls.pop(first)()
    for call in calls.values():
        call()
    group.pass_time(2)
    assert sorted(isinstance(answer, Fault) for answer in answers) == [False, True]
    urls = [url for each in group[1].machine.members.values() for url in each.peer_urls]
    assert urls.count(NEW[0]) == 1
    assert set(group[1].conf.members()) == set(group[1].machine.members)


def test_two_promoted_at_once_take_one_place() -> None:
    group = Group(MAX_VOTERS - 1)
    learners = [add(group, group[1], (f"http://l{number}:1",), learner=True) for number in range(2)]
    for learner in learners:
        group.start(learner.id)
    group.pass_time(1)
    answers: Answers = []
    for through, learner in zip((2, 3), learners, strict=True):
        group[through].cluster.promote(learner.id, answers.append, OWN)
    group[4].cluster.add(NEW, learner=False, done=answers.append, principal=OWN)
    group.pass_time(2)
    refused = [refusal(answer) for answer in answers if isinstance(answer, Fault)]
    assert refused == [Reason.TOO_MANY_VOTERS.text] * 2
    assert len(group[1].conf.voters) == MAX_VOTERS


def test_one_promoted_twice_at_once_is_promoted_once() -> None:
    group = Group(3)
    learner = add(group, group[1], learner=True)
    group.start(learner.id)
    answers: Answers = []
    for through in (1, 2, 3):
        group[through].cluster.promote(learner.id, answers.append, OWN)
    group.pass_time(2)
    refused = [refusal(answer) for answer in answers if isinstance(answer, Fault)]
    assert refused == [Reason.NOT_LEARNER.text] * 2
    assert voters(group[1]) == {1, 2, 3, learner.id}


@pytest.mark.parametrize("order", [("promote", "remove"), ("remove", "promote")])
def test_one_that_is_promoted_and_removed_at_once_is_gone(order: tuple[str, str]) -> None:
    group = Group(3)
    learner = add(group, group[1])
    group.start(learner.id)
    answers: Answers = []
    for through, what in zip((2, 3), order, strict=True):
        getattr(group[through].cluster, what)(learner.id, answers.append, OWN)
    group.pass_time(2)
    assert set(group[1].conf.members()) == set(group[1].seen()) == {1, 2, 3}
    assert learner.id in group[1].machine.removed
    assert len(answers) == 2


def test_a_voter_that_leaves_is_not_followed_by_a_learner_without_the_mark() -> None:
    group = Group(3)
    learner = add(group, group[1], learner=True)
    group.start(learner.id)
    asked(group, partial(group[1].cluster.remove, NodeId(3), principal=OWN))
    del group.peers[NodeId(3)]
    group.pass_time(5)
    assert voters(group[1]) == {1, 2}
    answers: Answers = []
    group[2].cluster.join(("http://late:1",), voters=3, replaces=NodeId(0), done=answers.append)
    group.pass_time(1)
    [joined] = answers
    assert isinstance(joined, MemberInfo)
    assert joined.promote, "the next that joins takes the place"


@pytest.mark.parametrize("id_", [0, -1, 2**64, 2**70])
@pytest.mark.parametrize("through", [1, 2])
def test_an_id_that_is_none_never_reaches_another_member(through: int, id_: int) -> None:
    """A follower would send what its leader takes for a damaged stream."""
    group = Group(3)
    cluster = group[through].cluster
    answers: Answers = []
    cluster.promote(NodeId(id_), answers.append, OWN)
    cluster.remove(NodeId(id_), answers.append, OWN)
    cluster.update(NodeId(id_), NEW, answers.append, OWN)
    if id_:
        cluster.join(NEW, voters=3, replaces=NodeId(id_), done=answers.append)
    assert {refusal(answer) for answer in answers} == {Reason.ID_NOT_FOUND.text}
    assert not group.sent
    group.pass_time(1)
    assert set(group[1].seen()) == {1, 2, 3}


def test_a_stopped_member_refuses_changes() -> None:
    host = Solo().lead().host
    cluster = MembershipChanges(host, log=Lines())
    host.stop()
    told: Answers = []
    cluster.add(NEW, learner=True, done=told.append, principal=b"ann")
    cluster.join(NEW, voters=3, replaces=NodeId(0), done=told.append)
    cluster.remove(host.id, told.append, b"ann")
    cluster.promote(NodeId(9), told.append, b"ann")
    cluster.update(host.id, NEW, told.append, b"ann")
    cluster.tick()
    assert told == [stopped()] * 5
    assert not host.proposals


# --- for whom


def test_a_client_that_moves_members_is_held_to_its_share_and_waits_its_turn() -> None:
    """It is no more the member's own than a put."""
    host = Solo().lead().host
    cluster = MembershipChanges(host, log=Lines())
    told: list[object] = []
    for number in range(MAX_WAITING):
        cluster.update(NodeId(7), (f"http://new{number}:1",), told.append, b"flood")
    assert len(told) == MAX_WAITING // 2, "the others are refused"
    host.propose(encode(Set(b"/k")), lambda _: None, b"other")
    taken = host.proposals.take(100)
    assert [slot.owner for slot in taken].index("other") == TURN


@pytest.mark.parametrize("through", [1, 2])
def test_one_client_leaves_half_of_the_places_for_changes_to_the_others(through: int) -> None:
    group = Group(3)
    leader = group[1]
    leader.host._raft.transfer_to = NodeId(2)  # so all of them wait
    for principal in (b"flood", b"other", OWN):
        for number in range(MAX_WAITING_CHANGES):
            urls = (f"http://{number}:1",)
            group[through].cluster.add(urls, learner=True, done=lambda _: None, principal=principal)
        group.settle()
    waiting = [asked.owner for asked in leader.cluster._waiting]
    half, share = MAX_WAITING_CHANGES // 2, MAX_WAITING_CHANGES // PARTS
    assert [waiting.count(owner) for owner in ("flood", "other", "")] == [half, share, half - share]
