"""Join requests: who is added and how, who is replaced, who is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from netstore.node.identity import NoAnswer
from netstore.node.member import OWN
from netstore.ops.enrollment import member_settings
from netstore.ops.store import STORE
from netstore.peer.dial import StreamFailed
from netstore.peer.handshake import Verdict
from netstore.peer.join import Applicant, JoinService
from netstore.peer.wire import JoinRequest, MemberList
from netstore.state.members import MemberInfo, to_vote
from netstore.types import NodeId
from tests.support.group import TIME_LIMIT, Group, Peer
from tests.support.member import CLUSTER

if TYPE_CHECKING:
    from netstore.errors import Fault

URL = ("http://p9:1",)


class Desk:
    """The join service at one member of a group."""

    def __init__(self, count: int, at: int = 1, voters: int = 3) -> None:
        self.group = Group(count)
        peer = self.group[at]
        self.service = JoinService(peer.host, peer.cluster, voters, peer.lines)

    def ask(self, request: JoinRequest | None) -> MemberList:
        answers: list[MemberList] = []
        self.service.handle(request, answers.append)
        self.group.settle()
        if not answers:
            self.group.pass_time(TIME_LIMIT + 1)
        [members] = answers
        return members

    def silence(self, *ids: int) -> None:
        """Cut these members off, for longer than an election timeout."""
        for id_ in ids:
            self.group[id_].cut_off = True
        self.group.pass_time(2)

    def services(self) -> list[JoinService]:
        """A join service at every member."""
        return [JoinService(peer.host, peer.cluster, 3, peer.lines) for peer in self.group.peers.values()]

    def member(self, id_: int) -> MemberInfo:
        return self.group[1].machine.members[NodeId(id_)]


def test_without_a_join_request_the_member_list_is_returned() -> None:
    members = Desk(3).ask(None)
    assert (members.cluster, members.you, members.refusal) == (CLUSTER, 0, "")
    assert [(member.id, member.name) for member in members.members] == [(1, "m1"), (2, "m2"), (3, "m3")]


@pytest.mark.parametrize(
    ("count", "at", "voters", "promote"), [(1, 1, 3, True), (3, 1, 3, False), (3, 2, 5, True)]
)
def test_an_added_member_is_a_learner_to_be_promoted_while_voters_are_missing(
    count: int, at: int, voters: int, promote: bool
) -> None:
    desk = Desk(count, at, voters)
    members = desk.ask(JoinRequest("new", URL))
    assert members.refusal == ""
    new = desk.member(members.you)
    assert (new.peer_urls, new.name, new.learner, new.promote) == (URL, "", True, promote)
    assert members.you in {member.id for member in members.members}


def test_a_repeated_request_before_the_start_gets_the_same_identity() -> None:
    desk = Desk(3)
    first = desk.ask(JoinRequest("new", URL))
    assert desk.ask(JoinRequest("new", URL)).you == first.you
    assert len(desk.group[1].machine.members) == 4


def test_a_peer_url_in_use_is_refused_with_the_fix() -> None:
    desk = Desk(3)
    members = desk.ask(JoinRequest("again", ("http://p2:1",)))
    assert members.you == 0
    assert "member 2 (m2) is reached at http://p2:1 already" in members.refusal
    assert "netstorectl member rm 2" in members.refusal


@pytest.mark.parametrize("urls", [(), ("",), ("ftp://p:1",), ("http://p",)])
def test_an_invalid_peer_url_is_refused(urls: tuple[str, ...]) -> None:
    desk = Desk(3)
    members = desk.ask(JoinRequest("new", urls))
    assert members.you == 0
    assert members.refusal
    assert len(desk.group[1].machine.members) == 3


def test_a_damaged_member_is_replaced_under_a_new_identity() -> None:
    desk = Desk(3)
    desk.silence(3)
    members = desk.ask(JoinRequest("m3", ("http://p3:1",), NodeId(3)))
    desk.group.pass_time(1)
    assert members.refusal == ""
    assert NodeId(3) in desk.group[1].machine.removed
    assert desk.member(members.you).promote, "only two voters are left"
    assert set(desk.group[1].conf.voters) == {1, 2}


def test_a_damaged_member_is_not_replaced_unless_two_others_have_its_data() -> None:
    desk = Desk(2)
    desk.group.tick(3)
    desk.silence(2)
    members = desk.ask(JoinRequest("m2", ("http://p2:1",), NodeId(2)))
    assert members.you == 0
    assert desk.group[1].host.leader == 0, "it does not lead alone"
    assert set(desk.group[1].machine.members) == {1, 2}


def test_a_damaged_member_is_not_replaced_while_the_others_do_not_answer() -> None:
    desk = Desk(3)
    desk.group[3].cut_off = desk.group[2].cut_off = True
    members = desk.ask(JoinRequest("m3", ("http://p3:1",), NodeId(3)))
    assert members.you == 0
    assert NodeId(3) in desk.group[1].machine.members


def test_a_removed_member_cannot_be_replaced() -> None:
    desk = Desk(3)
    desk.group[1].cluster.remove(NodeId(3), lambda _: None, OWN)
    desk.group.settle()
    members = desk.ask(JoinRequest("m3", ("http://p3:1",), NodeId(3)))
    assert members.you == 0
    assert "member 3 was removed" in members.refusal


def test_a_replacement_request_can_be_repeated() -> None:
    desk = Desk(3)
    desk.silence(3)
    first = desk.ask(JoinRequest("m3", ("http://p3:1",), NodeId(3)))
    again = desk.ask(JoinRequest("m3", ("http://p3:1",), NodeId(3)))
    assert (again.you, again.refusal) == (first.you, "")


@pytest.mark.parametrize("at", [1, 2])
def test_a_member_that_answers_is_not_replaced(at: int) -> None:
    desk = Desk(3, at)
    for healthy in (1, 2, 3):
        url = f"http://p{healthy}:1"
        members = desk.ask(JoinRequest("new", (url,), NodeId(healthy)))
        assert members.you == 0
        assert f"member {healthy:x} answers" in members.refusal
        assert f"netstorectl member rm {healthy:x}" in members.refusal
    assert set(desk.group[1].conf.voters) == set(desk.group[1].machine.members) == {1, 2, 3}


def test_an_unknown_member_cannot_be_replaced() -> None:
    desk = Desk(3)
    members = desk.ask(JoinRequest("new", URL, NodeId(9)))
    assert members.you == 0
    assert "no member 9" in members.refusal


def test_a_member_is_not_replaced_if_only_one_other_votes() -> None:
    desk = Desk(1, voters=1)
    learner = desk.ask(JoinRequest("new", URL)).you
    desk.group.start(learner)
    desk.silence(learner)
    members = desk.ask(JoinRequest("new", URL, learner))
    assert members.you == 0
    assert "fewer than 2 other members vote" in members.refusal
    assert learner in desk.group[1].machine.members


@pytest.mark.parametrize(("founders", "votes"), [(1, 3), (2, 3), (3, 3), (4, 4)])
def test_eight_concurrent_joins_give_no_more_votes_than_wanted(founders: int, votes: int) -> None:
    """Each is added through a member that does not know yet what the others do."""
    desk = Desk(founders)
    answers: list[MemberList] = []
    services = desk.services()
    for number in range(8):
        newcomer = JoinRequest(f"n{number}", (f"http://n{number}:1",))
        services[number % len(services)].handle(newcomer, answers.append)
    desk.group.pass_time(2)
    assert all(not answer.refusal for answer in answers)
    assert len({answer.you for answer in answers}) == 8
    members = desk.group[1].machine.members.values()
    assert to_vote(members) == votes
    for answer in reversed(answers):
        desk.group.start(answer.you)
        assert to_vote(desk.group[1].machine.members.values()) == votes
    desk.group.pass_time(3)
    assert len(desk.group.leader.conf.voters) == votes
    assert len(desk.group.leader.conf.learners) == founders + 8 - votes


def test_joins_during_a_leader_change_give_no_more_votes_than_wanted() -> None:
    """Additions of the lost leader may be committed or not; the next leader's state decides."""
    desk = Desk(3)
    desk.group[1].cluster.remove(NodeId(2), lambda _: None, OWN)
    desk.group.settle()
    desk.group.peers.pop(NodeId(2))
    for number in (5, 6):
        answer: list[MemberInfo | Fault] = []
        desk.group[1].cluster.add((f"http://l{number}:1",), learner=False, done=answer.append, principal=OWN)
        desk.group.settle()
        assert isinstance(answer[0], MemberInfo)
        desk.group.start(answer[0].id)
    desk.group.pass_time(1)
    answers: list[MemberList] = []
    services = desk.services()
    for number in range(8):
        newcomer = JoinRequest(f"n{number}", (f"http://n{number}:1",))
        services[number % len(services)].handle(newcomer, answers.append)
        if number == 4:
            desk.group[1].host.turn()
            desk.group[1].cut_off = True
    desk.group.pass_time(4)
    desk.group[1].cut_off = False
    desk.group.pass_time(4)
    assert len(answers) == 8
    assert to_vote(desk.group.leader.machine.members.values()) == 4, "none of the eight: more than three do"


def test_two_concurrent_requests_of_one_program_add_one_member() -> None:
    desk = Desk(3)
    answers: list[MemberList] = []
    for service in desk.services():
        service.handle(JoinRequest("new", URL), answers.append)
    desk.group.pass_time(1)
    assert len({answer.you for answer in answers}) == 1
    assert not any(answer.refusal for answer in answers)
    assert len(desk.group[1].machine.members) == 4


def test_a_replacement_during_joins_gives_no_vote_twice() -> None:
    desk = Desk(3)
    desk.silence(3)
    answers: list[MemberList] = []
    for number in range(4):
        desk.service.handle(JoinRequest(f"n{number}", (f"http://n{number}:1",)), answers.append)
    desk.service.handle(JoinRequest("m3", ("http://p3:1",), NodeId(3)), answers.append)
    desk.service.handle(JoinRequest("late", ("http://late:1",)), answers.append)
    desk.group.pass_time(2)
    assert [answer.refusal for answer in answers] == [""] * 6
    promoted = [answer.you for answer in answers if desk.member(answer.you).promote]
    assert promoted == [answers[4].you], "the replaced member's vote became free"


def test_a_member_damaged_before_its_name_was_published_gets_a_new_identity() -> None:
    """Nobody knows what it acknowledged under that identity."""
    desk = Desk(3)
    first = desk.ask(JoinRequest("new", URL)).you
    desk.group.pass_time(2)
    members = desk.ask(JoinRequest("new", URL, first))
    assert members.refusal == ""
    assert members.you not in (0, first)
    assert first in desk.group[1].machine.removed


def test_no_member_votes_before_its_name_is_in_the_list() -> None:
    desk = Desk(1)
    new = desk.ask(JoinRequest("new", URL)).you
    peer = desk.group.peers[new] = Peer(desk.group, new, None)
    desk.group.pass_time(3)
    assert desk.group[1].host.status().peers[0].caught_up
    assert desk.group[1].conf.voters == (1,)
    peer.publish()
    desk.group.pass_time(1)
    assert set(desk.group[1].conf.voters) == {1, new}


def test_an_identity_is_given_out_again_only_at_a_read_index() -> None:
    """A member that is cut off must not give out an identity that was removed meanwhile."""
    desk = Desk(3, at=3)
    first = desk.ask(JoinRequest("new", URL)).you
    desk.group[3].cut_off = True
    desk.group[1].cluster.remove(first, lambda _: None, OWN)
    desk.group.settle()
    assert first in desk.group[3].machine.members
    answers: list[MemberList] = []
    desk.service.handle(JoinRequest("new", URL), answers.append)
    desk.group.pass_time(1)
    assert not answers
    desk.group[3].cut_off = False
    desk.group.pass_time(4)
    [members] = answers
    assert members.you != first


@pytest.mark.parametrize(
    ("verdict", "connected", "other_token"),
    [(None, False, False), (Verdict.FAILED, True, False), (Verdict.NOT_PROVED, True, True)],
)
async def test_a_failed_application_says_whether_anybody_answered(
    monkeypatch: pytest.MonkeyPatch, verdict: int | None, *, connected: bool, other_token: bool
) -> None:
    asked: list[JoinRequest | None] = []

    async def fail(_reactor: object, _urls: object, request: JoinRequest | None, **_: object) -> MemberList:
        asked.append(request)
        raise StreamFailed("nobody", verdict)

    monkeypatch.setattr("netstore.peer.join.request_member_list", fail)
    settings = member_settings(STORE.load((), {}).config)
    applicant = Applicant(cast("Any", None), settings, credentials=None, secret=None)
    for call in (applicant.list_members(URL), applicant.join(URL, NodeId(3))):
        with pytest.raises(NoAnswer, match="nobody") as raised:
            await call
        assert (raised.value.connected, raised.value.other_token) == (connected, other_token)
    assert asked == [None, JoinRequest("default", settings.peer_urls, NodeId(3))]
