"""Leases on a member that decides at once: who ends them, when, and what clients are told."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from netstore import errors
from netstore.errors import Reason
from netstore.node import lessor
from netstore.node.lessor import CHECKPOINT_SECONDS, Lessor
from netstore.state.applying import COMMAND_UNITS
from netstore.state.commands import decode, encode
from netstore.state.countdown import LONGEST_SPARED, MOST_GRACES
from netstore.state.v2.commands import ExpireNodes, Set, TtlCheckpoint
from netstore.state.v3.commands import LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseGranted, LeaseRenew, Put
from netstore.types import LeaseId, Nanos, NodeId, Revision, Term
from tests.support.local_member import LocalMember
from tests.support.member import Solo

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.machine import Outcome

LOOK_SECONDS = 0.5
ELECTION_SECONDS = 1.0


class Leading(LocalMember):
    """Keeps what is proposed, and may lose it."""

    def __init__(self) -> None:
        self.proposed: list[object] = []
        self.asked: list[str] = []
        """For whom something was read or proposed."""
        self.loses = False
        self.unreadable: Fault | None = None
        super().__init__()
        self.lessor = Lessor(self, ELECTION_SECONDS)
        self.reaper = self.lessor._nodes
        self.lessor.renewing_nodes = self.keys.renewing
        self.waiting: list[Callable[[Outcome | Fault], None]] | None = None
        """What is proposed waits here, where a test says so."""
        self.lessor.look()

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        self.proposed.append(decode(command))
        self.asked.append(principal.decode())
        if self.waiting is not None and principal:
            self.waiting.append(done)
        elif self.loses:
            done(errors.timed_out())
        else:
            super().propose(command, done, principal)

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        self.asked.append(principal)
        done(self.unreadable)

    def tick(self) -> None:
        self.lessor.look()

    def wait(self, seconds: float) -> None:
        self.advance(Nanos(int(seconds * 1e9)))

    def grant(self, id_: int, ttl: int, *keys: bytes) -> None:
        self._apply(encode(LeaseGrant(id_, ttl)))
        for key in keys:
            self._apply(encode(Put(key, lease=id_)))
        self.lessor.look()

    def keep_alive(self, id_: int) -> int | Fault:
        answers: list[int | Fault] = []
        self.lessor.keep_alive(id_, answers.append)
        (answer,) = answers
        return answer

    def time_to_live(self, id_: int) -> int | Fault:
        answers: list[int | Fault] = []
        self.lessor.time_to_live(id_, answers.append)
        (answer,) = answers
        return answer

    def back_up(self, times: int) -> None:
        """Requests wait at every other look, so many times."""
        for _ in range(times):
            self.backed_up = True
            self.wait(LOOK_SECONDS)
            self.backed_up = False
            self.wait(LOOK_SECONDS)

    def nodes_ended(self) -> list[bytes]:
        return [path for c in self.proposed if isinstance(c, ExpireNodes) for path, _ in c.nodes]

    def expired(self) -> list[int]:
        return [id_ for c in self.proposed if isinstance(c, LeaseExpire) for id_, _ in c.leases]


@pytest.fixture
def member() -> Leading:
    return Leading()


def test_after_requests_had_to_wait_what_is_overdue_may_be_renewed(member: Leading) -> None:
    """Its renewals may have been refused meanwhile."""
    member.grant(7, 5)
    member.backed_up = True
    for _ in range(20):
        member.wait(LOOK_SECONDS)
        member.lessor.look()
    member.backed_up = False
    member.lessor.look()
    assert member.expired() == []
    assert member.keep_alive(7) == 5
    member.wait(4.5)
    member.lessor.look()
    assert member.expired() == []
    member.wait(0.6 + ELECTION_SECONDS)
    member.lessor.look()
    assert member.expired() == [7]


def test_however_often_requests_had_to_wait_what_is_overdue_may_be_renewed(member: Leading) -> None:
    """What became overdue while they did, and what does soon after."""
    member.grant(7, 30)
    member.grant(8, 31)
    member.back_up(2 * MOST_GRACES)
    member.wait(8)
    member.backed_up = True
    member.wait(2.5)
    member.backed_up = False
    member.wait(LOOK_SECONDS)
    assert member.expired() == []
    assert (member.keep_alive(7), member.keep_alive(8)) == (30, 31)
    member.wait(29)
    assert member.expired() == []


@pytest.mark.parametrize("grace", [0.1, 3.0])
def test_the_grace_counts_from_when_no_more_requests_wait(member: Leading, grace: float) -> None:
    """Whatever is between two looks."""
    member.lessor = Lessor(member, grace)
    member.grant(7, 5)
    member.backed_up = True
    member.wait(9)
    member.backed_up = False
    member.wait(LOOK_SECONDS)
    assert member.expired() == []
    member.wait(max(grace, LOOK_SECONDS) - 0.1)
    assert member.expired() == []
    member.wait(LOOK_SECONDS)
    assert member.expired() == [7]


def test_the_grace_of_a_new_leader_is_not_shortened_by_requests_that_had_to_wait(member: Leading) -> None:
    member.grant(7, 60)
    member.back_up(2 * MOST_GRACES)
    member.leader = NodeId(1)
    member.wait(60)
    member.leader, member.term = member.id, Term(3)
    member.lessor.look()
    assert member.expired() == []
    member.wait(ELECTION_SECONDS)
    assert member.expired() == [7]


@pytest.mark.parametrize("pauses", [False, True])
def test_requests_that_wait_without_end_keep_nothing_for_ever(member: Leading, pauses: bool) -> None:
    """Nor those that wait again and again, of a lease or of a node."""
    member.grant(7, 5)
    member.send("PUT", "/v2/keys/node", b"value=1&ttl=5")

    def wait(seconds: float) -> None:
        for _ in range(int(seconds / LOOK_SECONDS)):
            member.wait(LOOK_SECONDS)
            member.backed_up = not (pauses and member.backed_up)

    member.backed_up = True
    wait(5 + LONGEST_SPARED - 2 * LOOK_SECONDS)
    assert (member.expired(), _nodes_ended(member)) == ([], [])
    wait(3 * LOOK_SECONDS)
    assert (member.expired(), _nodes_ended(member)) == ([7], [b"/node"])


def _nodes_ended(member: Leading) -> list[bytes]:
    return [path for c in member.proposed if isinstance(c, ExpireNodes) for path, _ in c.nodes]


@pytest.mark.parametrize("raises", [False, True])
def test_a_renewal_counts_once_however_often_its_outcome_is_told(raises: bool) -> None:
    member = Leading()
    member.grant(7, 5)
    waiting: list[Callable[[Outcome | Fault], None]] = []
    member.propose = lambda command, done, principal: waiting.append(done)  # type: ignore[method-assign]

    def done(_: int | Fault) -> None:
        if raises:
            raise RuntimeError("the client is gone")

    for _ in range(2):
        member.lessor.keep_alive(7, done)
    for _ in range(2):
        try:
            waiting[0](errors.timed_out())
        except RuntimeError:
            assert raises
    assert member.lessor._renewing._asked == {7: 1}


def test_a_lease_lives_its_ttl_and_goes_with_its_keys(member: Leading) -> None:
    member.grant(7, 5, b"a", b"b")
    member.wait(4.9)
    assert member.machine.mvcc.exists(b"a")
    member.wait(LOOK_SECONDS)
    assert not member.machine.mvcc.exists(b"a")
    assert member.machine.leases.get(7) is None
    assert member.machine.mvcc.revision == 4, "both keys went in one revision"


def test_a_renewal_gives_all_of_the_ttl_and_none_comes_after_the_end(member: Leading) -> None:
    member.grant(7, 5)
    for _ in range(3):
        member.wait(4)
        assert member.keep_alive(7) == 5
    assert member.time_to_live(7) == 5
    member.wait(1.2)
    assert member.time_to_live(7) == 3, "whole seconds, rounded down"
    member.wait(5)
    assert member.keep_alive(7) == 0
    assert member.time_to_live(7) == -1
    assert member.time_to_live(0) == -1


def test_a_follower_ends_nothing_and_renews_through_the_log(member: Leading) -> None:
    member.leader = NodeId(1)
    member.grant(7, 5)
    member.wait(60)
    assert member.expired() == []
    assert member.keep_alive(7) == 5
    assert member.proposed == [LeaseRenew(7)]
    assert member.time_to_live(7) == 5, "it counts for itself"


def test_a_new_leader_gives_an_election_more(member: Leading) -> None:
    member.leader = NodeId(1)
    member.grant(7, 5)
    member.wait(3)
    member.leader, member.term = member.id, Term(3)
    member.wait(2.5 + ELECTION_SECONDS - LOOK_SECONDS)
    assert member.expired() == [7]
    member.leader = NodeId(1)
    member.grant(8, 5)
    member.wait(60)
    member.leader, member.term = member.id, Term(5)
    member.lessor.look()
    assert member.expired() == [7], "overdue for long, but not by this leader's word"
    member.wait(ELECTION_SECONDS)
    assert member.expired() == [7, 8]


def test_a_leader_of_the_next_term_starts_anew(member: Leading) -> None:
    """It may have been deposed and elected again between two looks."""
    member.grant(7, 1)
    member.wait(LOOK_SECONDS)
    member.term = Term(9)
    member.wait(LOOK_SECONDS)
    assert member.expired() == []


def test_an_end_that_was_lost_is_proposed_again(member: Leading) -> None:
    member.grant(7, 5)
    member.loses = True
    member.wait(5)
    assert member.expired() == [7]
    member.wait(2)
    assert member.expired() == [7]
    member.loses = False
    member.wait(1.5)
    assert member.expired() == [7, 7]
    assert member.machine.leases.get(7) is None


def test_a_renewal_overtakes_an_end_on_its_way(member: Leading) -> None:
    """The end names the renewal it counts from, so it is void after another."""
    member.grant(7, 5)
    member.loses = True
    member.wait(5)
    (end,) = [command for command in member.proposed if isinstance(command, LeaseExpire)]
    member.loses = False
    assert member.keep_alive(7) == 5
    member._apply(encode(end))
    assert member.machine.leases.get(7) is not None


class Handed:
    """What `Leading.propose` has queued, and a test hands on."""

    waits = True


def queue_all(member: Leading) -> list[tuple[Handed, Callable[[Outcome | Fault], None]]]:
    queued: list[tuple[Handed, Callable[[Outcome | Fault], None]]] = []

    def propose(_: bytes, done: Callable[[Outcome | Fault], None], __: bytes) -> Handed:
        queued.append((Handed(), done))
        return queued[-1][0]

    member.propose = propose  # type: ignore[method-assign,assignment]
    return queued


def test_renewals_of_a_lease_that_come_while_one_is_queued_share_its_entry(member: Leading) -> None:
    member.grant(7, 5)
    queued = queue_all(member)
    told: list[tuple[str, int | Fault]] = []

    def ask(id_: int, who: str, principal: str = "ann") -> None:
        member.lessor.keep_alive(id_, lambda answer: told.append((who, answer)), principal)

    ask(7, "first")
    ask(7, "second")
    assert len(queued) == 1
    ask(8, "other lease")
    ask(7, "other principal", "bob")
    assert len(queued) == 3
    queued[0][0].waits = False
    ask(7, "later")
    assert len(queued) == 4, "the first may have been applied already: the TTL must not begin before"
    member.lessor.look()
    ask(7, "after a look")
    assert len(queued) == 5, "it would have less time to wait"
    queued[0][1](LeaseGranted(Revision(1), LeaseId(7), 5))
    assert told == [("first", 5), ("second", 5)]
    assert 7 in member.lessor._renewing, "the others wait"
    queued[4][1](errors.timed_out())
    queued[3][1](LeaseGranted(Revision(1), LeaseId(7), 5))
    queued[2][1](errors.refusal(Reason.LEASE_NOT_FOUND))
    queued[1][1](errors.refusal(Reason.LEASE_NOT_FOUND))
    assert told[2:] == [
        ("after a look", errors.timed_out()),
        ("later", 5),
        ("other principal", 0),
        ("other lease", 0),
    ]
    assert not member.lessor._renewing


def test_what_shares_an_entry_came_before_it_was_handed_on() -> None:
    """Its TTL begins when that is applied, so after each of them."""
    solo = Solo().lead()
    solo.host.propose(encode(LeaseGrant(7, 5)), lambda _: None, b"ann")
    solo.settle()
    renewing = Lessor(solo.host, ELECTION_SECONDS)
    told: list[int | Fault] = []
    for _ in range(3):
        renewing.keep_alive(7, told.append, "ann")
    granted = solo.host.commit_index
    solo.turn()
    renewing.keep_alive(7, told.append, "ann")
    assert told == []
    solo.settle()
    assert told == [5] * 4
    assert solo.host.commit_index == granted + 2


def test_few_renewals_share_an_entry_and_each_is_counted_as_work(
    member: Leading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessor, "MOST_ALL_JOINED", 100)
    member.grant(7, 5)
    queued = queue_all(member)
    told: list[int | Fault] = []
    for _ in range(lessor.MOST_JOINED + 1):
        member.lessor.keep_alive(7, told.append)
    assert len(queued) == 2
    for _ in range(60):
        member.lessor.keep_alive(7, told.append)
    assert len(queued) == 2 + 60 - (100 - (lessor.MOST_JOINED - 1)), "no more than 100 have joined"
    worked = member.machine.applying.worked
    queued[0][1](LeaseGranted(Revision(1), LeaseId(7), 5))
    assert len(told) == lessor.MOST_JOINED
    assert member.machine.applying.worked - worked == (lessor.MOST_JOINED - 1) * COMMAND_UNITS
    for _, done in queued[1:]:
        done(errors.timed_out())
    assert len(told) == lessor.MOST_JOINED + 61
    assert member.lessor._joined == 0


def test_a_renewal_that_cannot_be_told_keeps_none_of_those_that_share_its_entry(member: Leading) -> None:
    member.grant(7, 5)
    queued = queue_all(member)
    told: list[int | Fault] = []

    def broken(_: int | Fault) -> None:
        raise RuntimeError("the client is gone")

    for done in (told.append, broken, told.append):
        member.lessor.keep_alive(7, done)
    with pytest.raises(RuntimeError):
        queued[0][1](LeaseGranted(Revision(1), LeaseId(7), 5))
    queued[0][1](errors.failed())
    assert told == [5, 5]
    assert not member.lessor._renewing


def test_lease_requests_name_their_principal(member: Leading) -> None:
    """A renewal is a proposal of theirs, and the time left a read of theirs."""
    member.grant(7, 5)
    member.asked.clear()
    answers: list[int | Fault] = []
    member.lessor.keep_alive(7, answers.append, "ann")
    member.lessor.time_to_live(7, answers.append, "bob")
    assert (answers, member.asked) == ([5, 5], ["ann", "bob"])


@pytest.mark.parametrize("fault", [errors.timed_out(), errors.refusal(Reason.CORRUPT)])
def test_a_fault_that_prevents_an_answer_is_told(member: Leading, fault: Fault) -> None:
    member.unreadable = fault
    assert member.time_to_live(7) == fault
    member.loses = True
    assert member.keep_alive(7) == errors.timed_out()


def test_the_leader_notes_what_long_leases_have_left(member: Leading) -> None:
    member.grant(7, 1_000)
    member.grant(8, 300)
    member.wait(CHECKPOINT_SECONDS)
    (note,) = [command for command in member.proposed if isinstance(command, LeaseCheckpoint)]
    assert [(id_, left) for id_, _, left in note.leases] == [(7, 700)]
    lease = member.machine.leases.get(7)
    assert lease is not None
    assert lease.remaining == 700
    member.keep_alive(7)
    assert lease.remaining == 0


def _noted(member: Leading) -> tuple[int, int]:
    """How often something was noted of leases, and of nodes."""
    kinds = [type(command) for command in member.proposed]
    return kinds.count(LeaseCheckpoint), kinds.count(TtlCheckpoint)


@pytest.mark.parametrize("hindrance", ["none", "requests wait", "another leads", "elected again"])
def test_occasional_hindrances_postpone_no_notes(member: Leading, hindrance: str) -> None:
    """Else what nobody renews would live as long as members are restarted."""
    member.grant(7, 36_000)
    member.send("PUT", "/v2/keys/node", b"value=1&ttl=36000")
    for number in range(4 * int(CHECKPOINT_SECONDS / LOOK_SECONDS)):
        now_and_then = number % 200 == 0
        member.backed_up = hindrance == "requests wait" and now_and_then
        if now_and_then and hindrance == "elected again":
            member.term = Term(member.term + 1)
        member.leader = NodeId(1) if hindrance == "another leads" and now_and_then else member.id
        member.wait(LOOK_SECONDS)
    member.wait(LOOK_SECONDS)
    assert _noted(member) == (4, 4)


def test_notes_wait_for_requests_that_wait_but_not_without_end(member: Leading) -> None:
    member.grant(7, 36_000)
    member.send("PUT", "/v2/keys/node", b"value=1&ttl=36000")
    member.wait(CHECKPOINT_SECONDS - 1)
    member.backed_up = True
    member.wait(CHECKPOINT_SECONDS - 1)
    assert _noted(member) == (0, 0)
    member.wait(2)
    assert _noted(member) == (1, 1)


def test_a_leader_that_begins_while_requests_wait_puts_no_notes_off(member: Leading) -> None:
    """How often they were put off before it led, it does not know."""
    member.grant(7, 36_000)
    member.leader = NodeId(8)
    member.wait(CHECKPOINT_SECONDS + 1)
    member.backed_up = True
    member.leader = member.id
    member.wait(LOOK_SECONDS)
    assert _noted(member) == (1, 0)


def test_a_lease_that_nobody_renews_ends_though_its_member_is_restarted(member: Leading) -> None:
    member.grant(7, 1_800)
    for _ in range(3):
        for number in range(2_400):
            member.backed_up = number % 480 == 0
            member.wait(LOOK_SECONDS)
        member.machine.save()
        member.machine.load()
        member.lessor = Lessor(member, ELECTION_SECONDS)
    assert member.machine.leases.get(7) is None


def test_a_round_of_notes_that_takes_long_comes_to_its_end(
    member: Leading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessor, "CHECKPOINTS_AT_ONCE", 1)
    for id_ in range(1, 1_001):
        member.grant(id_, 36_000)
    member.wait(3 * CHECKPOINT_SECONDS)
    noted = {id_ for c in member.proposed if isinstance(c, LeaseCheckpoint) for id_, _, _ in c.leases}
    assert noted == set(range(1, 1_001))


def test_a_lease_does_not_end_while_its_renewal_waits(
    member: Leading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are of it, and whatever comes of them."""
    member.grant(7, 5)
    member.grant(8, 5)
    member.wait(4)
    told: list[int | Fault] = []
    waiting: list[Callable[[Outcome | Fault], None]] = []
    with monkeypatch.context() as patch:
        patch.setattr(member, "propose", lambda _command, done, _principal: waiting.append(done))
        for _ in range(2):
            member.lessor.keep_alive(7, told.append)
    member.wait(2)
    assert member.expired() == [8]
    waiting.pop()(errors.too_many())
    member.wait(4)
    assert member.expired() == [8]
    waiting.pop()(errors.timed_out())
    assert told == [errors.too_many(), errors.timed_out()]
    member.wait(LOOK_SECONDS)
    assert member.expired() == [8, 7]
    assert not member.lessor._renewing


def test_nothing_ends_while_requests_wait_that_may_have_come_before(member: Leading) -> None:
    member.grant(7, 5)
    member.backed_up = True
    member.wait(9)
    assert member.expired() == []
    member.backed_up = False
    member.wait(LOOK_SECONDS)
    assert member.expired() == []
    member.wait(ELECTION_SECONDS + LOOK_SECONDS)
    assert member.expired() == [7]


@pytest.mark.parametrize("fails", ["netstore.node.lessor.encode", "propose"])
def test_a_renewal_that_could_not_be_asked_for_keeps_nothing(
    member: Leading, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A lease, or a node."""

    def fail(*_: object) -> bytes:
        raise MemoryError

    member.send("PUT", "/v2/keys/n?ttl=5&value=v")
    member.grant(7, 5)
    with monkeypatch.context() as patch:
        if fails == "propose":
            patch.setattr(member, "propose", fail)
        else:
            patch.setattr(fails, fail)
        with pytest.raises(MemoryError):
            member.lessor.keep_alive(7, lambda _: None)
        with pytest.raises(MemoryError):
            member.send("PUT", "/v2/keys/n?ttl=5&value=w")
    member.wait(6)
    assert member.expired() == [7]
    assert member.nodes_ended() == [b"/n"]
    assert not member.lessor._renewing
    assert not member.keys.renewing


REFRESHED = [
    "/v2/keys/n?ttl=5&refresh=true&prevExist=true",
    "/v2/keys/n?ttl=5&value=w",
    "/v2/keys/n?value=w&prevValue=v",
    "/v2/keys/n?value=for+ever",
]


@pytest.mark.parametrize("target", REFRESHED)
@pytest.mark.parametrize("raises", [False, True])
def test_no_node_ends_while_a_write_of_it_waits(target: str, raises: bool) -> None:
    member = Leading()
    member.reaper = member.lessor._nodes
    for name in ("n", "other"):
        member.send("PUT", f"/v2/keys/{name}?ttl=5&value=v")
    member.lessor.look()
    member.wait(4)
    member.waiting = []
    for _ in range(2):
        member.send("PUT", target)
    member.wait(2)
    assert member.nodes_ended() == [b"/other"]
    first, second = member.waiting
    fault = errors.too_many()
    first(fault)
    if raises:
        with suppress(AssertionError):
            first(fault)  # whose answer raises is told of that as well
    member.wait(4)
    assert b"/n" not in member.nodes_ended(), "one of them waits still"
    second(fault)
    assert not member.keys.renewing
    member.waiting = None
    member.wait(LOOK_SECONDS)
    assert member.nodes_ended()[-1] == b"/n"


def test_a_node_that_is_to_get_a_ttl_does_not_end_before_all_that_waits_of_it(member: Leading) -> None:
    """The write that gave it one may have been applied meanwhile, and the next one not."""
    member.reaper = member.lessor._nodes
    member.waiting = []
    member.send("PUT", "/v2/keys/n?ttl=1&value=v")
    member.send("PUT", "/v2/keys/n?ttl=1&value=v")
    [first, second] = member.waiting
    member.waiting = None
    first(member._apply(encode(Set(b"/n", b"v", expires=1, ttl=1))))
    member.lessor.look()
    member.wait(4)
    assert member.nodes_ended() == []
    second(errors.too_many())
    member.wait(LOOK_SECONDS)
    assert member.nodes_ended() == [b"/n"]


@pytest.mark.parametrize(
    ("target", "most"),
    [
        ("/v2/keys/lock?prevExist=false&ttl=5&value=b", 0),
        ("/v2/keys/lock?prevExist=false&value=b", 0),
        ("/v2/keys/lock?prevValue=other&ttl=5&value=b", LONGEST_SPARED),
        ("/v2/keys/lock?prevIndex=999&ttl=5&value=b", LONGEST_SPARED),
        ("/v2/keys/lock?dir=true&ttl=5", LONGEST_SPARED),
    ],
)
def test_endless_writes_of_others_delay_no_end_for_ever(member: Leading, target: str, most: float) -> None:
    """A lock whose owner is gone, say: one of them always waits, and none renews it."""
    member.reaper = member.lessor._nodes
    member.send("PUT", "/v2/keys/lock?ttl=5&value=dead")
    member.lessor.look()
    member.waiting = []
    member.send("PUT", target)
    seconds = 0.0
    while not member.nodes_ended():
        member.send("PUT", target)  # the next asks before the other is answered
        first = member.waiting.pop(0)
        first(errors.too_many())
        member.wait(LOOK_SECONDS)
        seconds += LOOK_SECONDS
        assert seconds <= 5 + most + LOOK_SECONDS
    assert seconds >= 5 + most


def test_a_lease_whose_renewals_are_refused_without_end_ends(member: Leading) -> None:
    member.grant(7, 5)
    waiting: list[Callable[[Outcome | Fault], None]] = []
    propose = member.propose

    def wait(command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes = b"") -> None:
        if decode(command) == LeaseRenew(7):
            waiting.append(done)
        else:
            propose(command, done, principal)

    member.propose = wait  # type: ignore[method-assign]
    member.lessor.keep_alive(7, lambda _: None)
    seconds = 0.0
    while not member.expired():
        member.lessor.keep_alive(7, lambda _: None)
        waiting.pop(0)(errors.too_many())
        member.wait(LOOK_SECONDS)
        seconds += LOOK_SECONDS
        assert seconds <= 5 + LONGEST_SPARED + LOOK_SECONDS
    assert seconds >= 5 + LONGEST_SPARED


def test_writes_of_what_has_no_ttl_are_not_counted(member: Leading) -> None:
    member.waiting = []
    member.send("PUT", "/v2/keys/n?value=v")
    member.send("POST", "/v2/keys/dir?ttl=5&value=v")
    assert not member.keys.renewing
