"""Who is let in, as what, and who is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.net.peerwire import Application, Roster
from netstore.node.register import Register
from netstore.types import NodeId
from tests.support.group import TIME_LIMIT, Group
from tests.support.member import CLUSTER

if TYPE_CHECKING:
    from netstore.state.member import MemberInfo

URL = ("http://p9:1",)


class Desk:
    """The register at one member of a group."""

    def __init__(self, count: int, at: int = 1, voters: int = 3) -> None:
        self.group = Group(count)
        peer = self.group[at]
        self.register = Register(peer.host, peer.cluster, voters, peer.lines)

    def ask(self, application: Application | None) -> Roster:
        answers: list[Roster] = []
        self.register.take(application, answers.append)
        self.group.settle()
        if not answers:
            self.group.pass_time(TIME_LIMIT + 1)
        [roster] = answers
        return roster

    def member(self, id_: int) -> MemberInfo:
        return self.group[1].machine.members[NodeId(id_)]


def test_who_only_asks_is_told_who_is_there() -> None:
    roster = Desk(3).ask(None)
    assert (roster.cluster, roster.you, roster.refusal) == (CLUSTER, 0, "")
    assert [(member.id, member.name) for member in roster.members] == [(1, "m1"), (2, "m2"), (3, "m3")]


@pytest.mark.parametrize(
    ("count", "at", "voters", "promote"), [(1, 1, 3, True), (3, 1, 3, False), (3, 2, 5, True)]
)
def test_who_is_let_in_learns_and_is_to_vote_only_while_too_few_do(
    count: int, at: int, voters: int, promote: bool
) -> None:
    desk = Desk(count, at, voters)
    roster = desk.ask(Application("new", URL))
    assert roster.refusal == ""
    new = desk.member(roster.you)
    assert (new.peer_urls, new.name, new.learner, new.promote) == (URL, "", True, promote)
    assert roster.you in {member.id for member in roster.members}


def test_who_asks_again_before_it_has_started_is_the_same() -> None:
    desk = Desk(3)
    first = desk.ask(Application("new", URL))
    assert desk.ask(Application("new", URL)).you == first.you
    assert len(desk.group[1].machine.members) == 4


def test_an_address_that_is_taken_is_told_with_the_fix() -> None:
    desk = Desk(3)
    roster = desk.ask(Application("again", ("http://p2:1",)))
    assert roster.you == 0
    assert "member 2 (m2) is reached at http://p2:1 already" in roster.refusal
    assert "netstorectl member rm 2" in roster.refusal


@pytest.mark.parametrize("urls", [(), ("",), ("ftp://p:1",), ("http://p",)])
def test_an_address_that_is_none_is_refused(urls: tuple[str, ...]) -> None:
    desk = Desk(3)
    roster = desk.ask(Application("new", urls))
    assert roster.you == 0
    assert roster.refusal
    assert len(desk.group[1].machine.members) == 3


def test_a_damaged_member_is_removed_and_comes_back_as_another() -> None:
    desk = Desk(3)
    desk.group[3].cut_off = True
    roster = desk.ask(Application("m3", ("http://p3:1",), NodeId(3)))
    desk.group.pass_time(1)
    assert roster.refusal == ""
    assert NodeId(3) in desk.group[1].machine.removed
    assert desk.member(roster.you).promote, "there are only two left that vote"
    assert set(desk.group[1].conf.voters) == {1, 2}


def test_a_damaged_member_is_not_replaced_without_two_clean_copies() -> None:
    desk = Desk(2)
    desk.group[2].cut_off = True
    roster = desk.ask(Application("m2", ("http://p2:1",), NodeId(2)))
    assert roster.you == 0
    assert "fewer than 2 other members vote" in roster.refusal
    assert set(desk.group[1].machine.members) == {1, 2}


def test_a_damaged_member_is_not_replaced_while_the_others_do_not_answer() -> None:
    desk = Desk(3)
    desk.group[3].cut_off = desk.group[2].cut_off = True
    roster = desk.ask(Application("m3", ("http://p3:1",), NodeId(3)))
    assert roster.you == 0
    assert NodeId(3) in desk.group[1].machine.members


def test_a_removed_member_does_not_come_back_by_its_damage() -> None:
    desk = Desk(3)
    desk.group[1].cluster.remove(NodeId(3), lambda _: None)
    desk.group.settle()
    roster = desk.ask(Application("m3", ("http://p3:1",), NodeId(3)))
    assert roster.you == 0
    assert "member 3 was removed" in roster.refusal


def test_a_replaced_member_that_ended_too_early_asks_again() -> None:
    desk = Desk(3)
    desk.group[3].cut_off = True
    first = desk.ask(Application("m3", ("http://p3:1",), NodeId(3)))
    again = desk.ask(Application("m3", ("http://p3:1",), NodeId(3)))
    assert (again.you, again.refusal) == (first.you, "")
