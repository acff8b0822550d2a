"""Seeded lives of a cluster whose members come, go, fall silent and hand over, asked through anybody.

Whatever happens, at the end of each life, once everybody hears everybody: Raft's configuration and the list
of members agree on all members, what was answered with success is there, what was refused is not, every
request has had one answer, and writes go through.
"""

from __future__ import annotations

from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Final

import pytest

from netstore.errors import Fault, Reason
from netstore.node.member import OWN
from netstore.node.membership import MAX_VOTERS
from netstore.state.commands import encode
from netstore.state.members import MemberInfo
from netstore.state.v2.commands import Set
from netstore.types import Event, NodeId
from tests.support.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.membership import MembershipChanges
    from tests.support.group import Peer

STEPS: Final = 30

LIVES: Final = 25

KINDS: Final[tuple[str, ...]] = (
    "add",
    "add",
    "learn",
    "remove",
    "promote",
    "move",
    "start",
    "cut",
    "heal",
    "lead",
    "forget",
)

NO_EFFECT: Final = frozenset(
    {
        Reason.ID_EXISTS.text,
        Reason.ID_REMOVED.text,
        Reason.ID_NOT_FOUND.text,
        Reason.PEER_URL_EXISTS.text,
        Reason.NOT_LEARNER.text,
        Reason.TOO_MANY_VOTERS.text,
        Reason.LEARNER_NOT_READY.text,
        Reason.NOT_ENOUGH_STARTED.text,
        Reason.UNHEALTHY.text,
    }
)


class Request:
    """One change that was asked for. It must be answered once."""

    def __init__(self, kind: str, id_: NodeId, url: str = "") -> None:
        self.kind = kind
        self.id = id_
        self.url = url
        self.answer: MemberInfo | Fault | None = None

    def done(self, answer: MemberInfo | Fault) -> None:
        assert self.answer is None, "answered twice"
        self.answer = answer

    @property
    def made(self) -> bool:
        return isinstance(self.answer, MemberInfo)


class Life:
    """One run. Everything it does is drawn from its seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - a seeded life
        self.group = Group(self.random.choice((1, 3, 3, 5)))
        self.requests: list[Request] = []
        self.urls = 0

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
            self.group.pass_time(self.random.choice((0, 0.1, 0.1, 0.5, 2)))
            self.bury()
        for peer in self.group.peers.values():
            peer.cut_off = False
        self.group.pass_time(5)
        for _ in range(8):
            self.group.pass_time(1)
            self.bury()
            for id_ in self.leader.machine.members:
                if id_ not in self.group.peers:
                    self.group.start(id_)

    @property
    def leader(self) -> Peer:
        leaders = [peer for peer in self.group.peers.values() if peer.host.leader == peer.id]
        return max(leaders, key=lambda peer: peer.host.term)

    def step(self) -> None:
        draw, peers = self.random, self.group.peers
        through = draw.choice(list(peers.values()))
        known = sorted({id_ for peer in peers.values() for id_ in peer.machine.members})
        someone = draw.choice(known)
        match draw.choice(KINDS):
            case "add":
                self.add(through.cluster, learner=False)
            case "learn":
                self.add(through.cluster, learner=True)
            case "remove":
                self.ask(Request("remove", someone), partial(through.cluster.remove, someone, principal=OWN))
            case "promote":
                self.ask(
                    Request("promote", someone), partial(through.cluster.promote, someone, principal=OWN)
                )
            case "move":
                url = self.new_url()
                self.ask(
                    Request("move", someone, url),
                    partial(through.cluster.update, someone, (url,), principal=OWN),
                )
            case "start" if someone not in peers:
                self.group.start(someone)
            case "cut" if sum(peer.cut_off for peer in peers.values()) < max(1, len(peers) // 2):
                through.cut_off = True
            case "heal":
                through.cut_off = False
            case "lead":
                through.cluster.transfer(someone, lambda _: None)
            case "forget":
                through.engine.commit()
                through.host.compaction.compact()
        self.group.settle()

    def new_url(self) -> str:
        self.urls += 1
        taken = self.random.random() < 0.1
        return "http://p1:1" if taken else f"http://new{self.urls}:1"

    def add(self, cluster: MembershipChanges, *, learner: bool) -> None:
        url = self.new_url()
        request = Request("add", NodeId(0), url)
        self.ask(request, lambda done: cluster.add((url,), learner=learner, done=done, principal=OWN))

    def ask(self, request: Request, call: Callable[[Callable[[MemberInfo | Fault], None]], None]) -> None:
        self.requests.append(request)
        call(request.done)

    def bury(self) -> None:
        """A member that learns that it was removed stops, and whoever is told so by the others."""
        removed = set().union(*(peer.machine.removed for peer in self.group.peers.values()))
        for id_ in removed & self.group.peers.keys():
            peer = self.group.peers[id_]
            if not peer.cut_off:
                peer.host.stop()
                del self.group.peers[id_]

    def judge(self) -> None:
        leader = self.leader
        members = leader.machine.members
        for peer in self.group.peers.values():
            conf = peer.conf
            assert not conf.joint
            assert set(conf.voters) == {id_ for id_, each in members.items() if not each.learner}
            assert set(conf.learners) == {id_ for id_, each in members.items() if each.learner}
            assert dict(peer.machine.members) == dict(members)
            assert len(conf.voters) <= MAX_VOTERS
        urls = [url for each in members.values() for url in each.peer_urls]
        assert len(urls) == len(set(urls))
        for request in self.requests:
            self.judge_request(request, leader)
        outcomes: list[object] = []
        leader.host.propose(encode(Set(path=b"/k")), outcomes.append, OWN)
        self.group.settle()
        assert isinstance(outcomes[0], Event)

    def judge_request(self, request: Request, leader: Peer) -> None:
        members, removed = leader.machine.members, leader.machine.removed
        answer = request.answer
        assert answer is not None, f"{request.kind} was never answered"
        if isinstance(answer, Fault):
            words = answer.cause.decode()
            assert answer.outcome_known is (words in NO_EFFECT), words
            if request.kind == "add" and answer.outcome_known:
                assert all(
                    request.url not in each.peer_urls or request.url == "http://p1:1"
                    for each in members.values()
                )
        elif request.kind == "remove":
            assert request.id in removed
            assert request.id not in members
        else:
            assert answer.id in members or answer.id in removed
            if request.kind == "promote" and answer.id in members:
                assert not members[answer.id].learner


@cache
def lived(seed: int) -> Life:
    """A life at its end."""
    life = Life(seed)
    life.run()
    return life


@pytest.mark.parametrize("seed", range(LIVES))
def test_members_agree_at_the_end_of_every_life(seed: int) -> None:
    lived(seed).judge()


def test_lives_reach_what_they_are_for() -> None:
    """A life that makes no changes, or is refused none, would prove nothing."""
    made, refused, unknown, copies = 0, set(), 0, 0
    for seed in range(LIVES):
        life = lived(seed)
        made += sum(request.made for request in life.requests)
        copies += sum(peer.host.snapshot_install.installed for peer in life.group.peers.values())
        for request in life.requests:
            if isinstance(request.answer, Fault):
                unknown += not request.answer.outcome_known
                refused.add(request.answer.cause.decode())
    assert made >= 100
    assert unknown >= 5
    assert copies >= 5
    assert refused >= {
        Reason.LEARNER_NOT_READY.text,
        Reason.NOT_LEARNER.text,
        Reason.PEER_URL_EXISTS.text,
        Reason.NOT_ENOUGH_STARTED.text,
        Reason.UNHEALTHY.text,
        Reason.ID_REMOVED.text,
    }
