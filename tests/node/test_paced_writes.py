"""A leader whose writes are paced, with its own requests and those of other members."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from netstore.node.forwards import RefusalReason
from netstore.node.lessor import Lessor
from netstore.node.member import OWN
from netstore.node.pacing import DEBT_SECONDS, SPARE_PART, Pacing
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward, ForwardRefused
from netstore.state.commands import encode
from netstore.state.envelope import request_of, seal
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import (
    LeaseGrant,
    LeaseRenew,
)
from netstore.types import Event, Index, NodeId
from tests.support.member import ME, Solo
from tests.support.solo import LIGHT, Outcomes, forward, paced, put, tick, told

if TYPE_CHECKING:
    from netstore.raft.messages import Message
    from netstore.raft.status import Status
    from netstore.state.commands import Command
    from netstore.state.v3.commands import V3Command


def test_writes_that_are_paced_wait_and_all_are_done() -> None:
    member = paced()
    outcomes = [put(member, bytes(1_000), b"ann") for _ in range(100)]
    member.settle()
    assert not member.woken, "it does not turn for what has to wait"
    assert member.host.backed_up
    done = sum(map(bool, outcomes))
    assert 5 <= done <= 25, "what a tick has room for, and what is kept for small ones"
    assert [bool(each) for each in outcomes] == [True] * done + [False] * (100 - done)
    assert 0 < member.host.paced_to <= 100_000
    for _ in range(60):
        before = member.host._raft.log_bytes
        tick(member)
        rate = member.host._pacing.rate
        assert rate is not None
        most = rate * 0.1 + 1_200 + rate / SPARE_PART
        assert 0 <= member.host._raft.log_bytes - before <= most
    assert [len(each) for each in outcomes] == [1] * 100
    assert all(isinstance(outcome, Event) for [outcome] in outcomes), "and none is refused"
    assert member.host._raft.log_bytes > 100_000
    assert member.lines.events.count("writes_paced") == 1
    for _ in range(60):
        tick(member)
    assert (member.host.paced_to, member.host.backed_up) == (0, False)
    assert [each for each in member.lines.events if "paced" in each] == ["writes_paced", "writes_not_paced"]


def test_own_writes_and_those_of_others_are_paced_together_and_take_turns() -> None:
    member = paced()
    message = forward(member, 1_000, b"bob")
    for _ in range(40):
        member.host.receive([message])
        put(member, bytes(1_000), b"ann")
    before = member.host.status().last
    tick(member)
    assert 0 < member.host.status().last - before <= 25
    own, others = len(member.host.proposals), len(member.host.forwards.postponed)
    while member.host.proposals:
        tick(member)
    assert own > 20 < others
    assert len(member.host.forwards.postponed) <= 14, "neither waited for all of the other"
    assert member.host.backed_up, "renewals may be among them"


def test_forwarded_requests_not_done_in_time_are_refused() -> None:
    """So early that nobody is told that it took too long, and it is written after that."""
    member = paced(20.0)
    host = member.host
    sent: list[Message] = []
    host._send = sent.extend
    for number in range(40):
        host.receive([forward(member, 30_000, b"%d" % number)])
    last = host.status().last
    done: list[int] = []
    while host.forwards.postponed:
        tick(member)
        done.append(host.status().last - last)
    seconds = len(done) / 10
    assert host.proposals.time_limit / 2 - 0.2 <= seconds <= host.proposals.time_limit / 2 + 0.2
    refused = [each for each in sent if isinstance(each, ForwardRefused)]
    assert {each.why for each in refused} == {RefusalReason.TOO_MANY}
    assert 0 < done[-1] < 10
    assert done[-1] + sum(len(each.requests) for each in refused) == 40, "each is the one or the other"
    assert host.forwards.postponed._held.size == 0
    for _ in range(100):
        tick(member)
    assert host.status().last == last + done[-1]


def test_forwarded_requests_that_cannot_be_proposed_in_time_are_refused_at_once() -> None:
    member = paced(20.0)
    host = member.host
    rate = host._pacing.rate
    assert rate is not None
    fits = int(rate * host.proposals.time_limit / 2 / 1_150)
    [payload] = forward(member, 1_000, b"busy").payloads
    for _ in range(fits + 20):
        host.receive([Forward(NodeId(9), ME, host.term, EntryKind.NORMAL, [payload])])
    assert fits <= len(host.forwards.postponed) < fits + 20
    refused = told(member)
    assert sum(len(each.requests) for each in refused) == fits + 20 - len(host.forwards.postponed) - (
        host.status().last - host.commit_index
    )
    for each in (forward(member, 90_000, b"calm"), *[forward(member, 1_000)] * 20):
        host.receive([each])
    assert told(member) == [], "neither what comes alone nor what a member asks for itself"


def test_overloading_a_follower_delays_no_other_client_while_writes_are_paced() -> None:
    """Of three times what may be written all that is written is done in time, and who asks little waits for a
    moment only, with its lease for as long as it renews it.
    """
    member = Solo(log_budget=LIGHT).lead()
    member.settle()
    host, pacing = member.host, member.host._pacing
    rate = 20_000.0
    pacing.look = partial(_look_at, pacing, rate)  # type: ignore[method-assign]
    lessor = Lessor(host, 1.0)
    host.propose(encode(LeaseGrant(7, 20)), lambda _: None, OWN)
    member.settle()
    asked: dict[int, float] = {}
    waited: dict[int, float] = {}
    begin = host.machine.begin

    def note(index: Index, payload: bytes) -> object:
        request = request_of(payload) if payload else 0
        if request in asked:
            waited[request] = member.clock.monotonic() - asked[request]
        return begin(index, payload)

    host.machine.begin = note  # type: ignore[method-assign,assignment]
    renewals: list[int] = []

    def ask(command: Command | V3Command, principal: bytes) -> None:
        request = len(asked) + 1
        asked[request] = member.clock.monotonic()
        payload = seal(encode(command), request, principal=principal)
        host.receive([Forward(NodeId(9), ME, host.term, EntryKind.NORMAL, [payload])])

    for step in range(1_500):
        if step % 10 == 0:
            renewals.append(len(asked) + 1)
            ask(LeaseRenew(7), b"calm")
        for _ in range(6):
            ask(Set(b"/k", bytes(1_000)), b"busy")
        tick(member)
        if step % 5 == 0:
            lessor.look()
            lessor.count()
            member.settle()
        assert host.machine.leases.get(7) is not None
    assert host.backed_up
    assert max(waited[each] for each in renewals) <= 1.0
    assert max(waited.values()) <= host.proposals.time_limit / 2 + 0.2
    assert len(waited) >= 0.8 * 150 * rate / 1_060


def _look_at(pacing: Pacing, rate: float, now: float, _: Status) -> None:
    """In place of `Pacing.look`: a fixed rate."""
    seconds = now - (pacing._looked or now)
    pacing._looked = now
    if pacing._held:
        pacing._held_at = now
    pacing._held, pacing.rate = False, rate
    pacing._give(rate, seconds)


def test_one_large_write_stops_no_others_while_writes_are_paced() -> None:
    """What is small goes on, of the member itself whatever it weighs, and the rest does before its time."""
    member = paced(20.0)
    rate = member.host._pacing.rate
    assert rate is not None
    log = member.host._raft.log_bytes
    large = put(member, bytes(20 * int(rate)), b"large")
    tick(member)
    assert large
    again = put(member, bytes(20 * int(rate)), b"large")
    usual = put(member, bytes(int(rate) // 2), b"usual")
    own = put(member, bytes(int(rate)))
    tick(member)
    for _ in range(20):
        small = put(member, b"1", b"small")
        tick(member)
        assert small
    assert (bool(own), usual, again) == (True, [], [])
    for _ in range(round(2 * DEBT_SECONDS / 0.1)):
        tick(member)
        if usual:
            break
    assert isinstance(usual[0], Event)
    assert log < member.host._raft.log_bytes


def test_writes_that_are_paced_leave_others_their_turn() -> None:
    """What one writer asks is not taken, and put back, before what another one does."""
    member = paced(20.0)
    order: list[str] = []

    def ask(who: str) -> None:
        command = encode(Set(b"/k", bytes(1_000)))
        member.host.propose(command, lambda _: order.append(who), who.encode())

    for _ in range(400):
        ask("busy")
    tick(member)
    ask("calm")
    for _ in range(20):
        tick(member)
    assert "calm" in order
    assert order.index("calm") < 60


def test_while_writes_are_paced_nothing_ends_whose_renewal_waits() -> None:
    """A key of the v2 tree is renewed by a write like others, which may wait behind them."""
    member = paced(20.0)
    lessor = Lessor(member.host, 1.0)

    def renew() -> Outcomes:
        outcomes: Outcomes = []
        command = encode(Set(b"/short", b"v", expires=1 << 60, ttl=2))
        member.host.propose(command, outcomes.append, b"ann")
        return outcomes

    def is_there() -> bool:
        return isinstance(member.host.machine.v2.get(b"/short"), Event)

    def go_on(seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            for _ in range(5):
                tick(member)
            lessor.look()
            member.settle()

    renew()
    go_on(1.0)
    for _ in range(2):
        put(member, bytes(50_000), b"ann")
    tick(member)
    renewed = renew()
    go_on(3.0)
    assert (renewed, is_there()) == ([], True)
    while not renewed:
        go_on(0.5)
    [outcome] = renewed
    assert isinstance(outcome, Event)
    assert outcome.prev is not None, "it was there all the time"
    go_on(30.0)
    assert not is_there(), "it ends when nobody renews it"
