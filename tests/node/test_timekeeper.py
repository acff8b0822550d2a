"""Deadlines and the ticks of the timekeeper, on Trio's mock clock."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from netstore.meter import Meter
from netstore.node.lessor import Lessor
from netstore.node.member import OWN
from netstore.node.timekeeper import DUE_AT_ONCE, LONGEST_SECONDS, Deadline, Deadlines, Timekeeper, is_quiet
from netstore.state.commands import encode
from netstore.state.countdown import COUNTED_AT_ONCE
from netstore.state.v2.commands import Set
from netstore.state.v3.lease import LeaseRecord, StoredLeases
from netstore.types import Event, Index, LeaseId, Nanos, NodeId
from tests.support.local_member import HandClock
from tests.support.member import Solo


def said(done: list[Any], what: object) -> bool:
    """Note that all was heard."""
    done.append(what)
    return True


def test_deadlines_run_in_order_once_and_only_when_due() -> None:
    clock = HandClock(Nanos(0))
    deadlines = Deadlines(clock)
    ran: list[str] = []
    deadlines.after(2, lambda: ran.append("second"))
    deadlines.after(1, lambda: ran.append("first"))
    deadlines.after(1, lambda: ran.append("cancelled")).cancel()
    assert not deadlines.run_due()
    clock.now = Nanos(3_000_000_000)
    assert deadlines.run_due()
    assert ran == ["first", "second"]
    assert not deadlines.run_due()


def test_cancelled_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines(HandClock(Nanos(0)))
    for _ in range(100_000):
        deadlines.after(60, lambda: None).cancel()
    assert len(deadlines) == 0


@given(st.lists(st.tuples(st.sampled_from(["after", "cancel", "run"]), st.integers(0, 30)), max_size=200))
def test_it_holds_what_is_alive_and_nothing_else(steps: list[tuple[str, int]]) -> None:
    clock = HandClock(Nanos(0))
    deadlines = Deadlines(clock)
    alive: dict[int, Deadline] = {}
    ran: list[int] = []
    expected: list[int] = []
    for number, (step, value) in enumerate(steps * 8):
        if step == "after":
            alive[number] = deadlines.after(value, partial(ran.append, number))
        elif step == "cancel" and alive:
            alive.pop(list(alive)[value % len(alive)]).cancel()
        elif step == "run":
            clock.now = Nanos(clock.now + value * 100_000_000)
            now = clock.monotonic()
            due = [n for n in sorted(alive, key=lambda n: alive[n].when) if alive[n].when <= now]
            assert deadlines.run_due() is bool(due)
            expected += due
            for n in due:
                del alive[n]
        assert sorted(ran) == sorted(expected)
        assert len(deadlines) == len(alive)
        assert not deadlines.behind


def test_a_deadline_that_asks_for_another_at_once_does_not_hold_the_tick() -> None:
    deadlines = Deadlines(HandClock(Nanos(0)))
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        deadlines.after(0, again)

    again()
    for count in (2, 3):
        assert deadlines.run_due()
        assert len(ran) == count


def test_a_deadline_may_cancel_one_that_is_due_too() -> None:
    deadlines = Deadlines(HandClock(Nanos(0)))
    ran: list[int] = []
    both: list[Deadline] = []

    def cancel_the_other() -> None:
        both[0].cancel()

    deadlines.after(0, cancel_the_other)
    both.append(deadlines.after(0, lambda: ran.append(2)))
    assert deadlines.run_due()
    assert ran == []
    assert len(deadlines) == 0


def test_many_that_are_due_are_called_in_pieces_and_in_order() -> None:
    clock = HandClock(Nanos(0))
    deadlines = Deadlines(clock)
    ran: list[int] = []
    for number in range(4 * DUE_AT_ONCE):
        deadlines.after(1, partial(ran.append, number))
    clock.now = Nanos(1_000_000_000)
    for piece in range(1, 5):
        assert deadlines.run_due()
        assert ran == list(range(piece * DUE_AT_ONCE))
        assert deadlines.behind is (piece < 4)
    assert not deadlines.run_due()


def test_deadlines_set_during_calls_come_after_all_that_are_due() -> None:
    """Also where no time went by, and at the instant at which they were due."""
    deadlines = Deadlines(HandClock(Nanos(0)))
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        deadlines.after(0, again)

    for _ in range(2 * DUE_AT_ONCE + 1):
        deadlines.after(0, again)
    for called in (DUE_AT_ONCE, 2 * DUE_AT_ONCE, 2 * DUE_AT_ONCE + 1):
        assert deadlines.run_due()
        assert len(ran) == called
    assert not deadlines.behind
    assert len(deadlines) == 2 * DUE_AT_ONCE + 1
    assert deadlines.run_due()
    assert len(ran) == 3 * DUE_AT_ONCE + 1


def test_one_that_is_cancelled_between_two_pieces_is_not_called() -> None:
    deadlines = Deadlines(HandClock(Nanos(0)))
    ran: list[int] = []
    asked = [deadlines.after(0, partial(ran.append, number)) for number in range(DUE_AT_ONCE + 2)]
    assert deadlines.run_due()
    asked[-2].cancel()
    assert deadlines.run_due()
    assert ran[DUE_AT_ONCE:] == [DUE_AT_ONCE + 1]
    assert not deadlines.behind


def test_a_deadline_for_ever_is_far_away() -> None:
    deadlines = Deadlines(HandClock(Nanos(0)))
    assert deadlines.after(1e300, lambda: None).when == LONGEST_SECONDS
    assert deadlines.after(float("inf"), lambda: None).when == LONGEST_SECONDS


async def test_the_leader_expires_what_is_due(autojump_clock: trio.testing.MockClock) -> None:
    member = Solo().lead()
    keeper = Timekeeper(member.host, Deadlines(member.clock), 0.1, lambda: None, Lessor(member.host, 1.0))
    expires = Nanos(member.clock.now + 1_000_000_000)
    member.host.propose(encode(Set(path=b"/k", expires=expires, ttl=1)), lambda _: None, OWN)
    member.settle()

    async def pass_time() -> None:
        for _ in range(30):
            await trio.sleep(0.1)
            member.clock.now = Nanos(member.clock.now + 100_000_000)
            member.settle()
            gone = not isinstance(member.host.machine.v2.get(b"/k"), Event)
            assert not gone or member.clock.now >= expires

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await pass_time()
        nursery.cancel_scope.cancel()
    assert not isinstance(member.host.machine.v2.get(b"/k"), Event)


async def test_others_have_their_turn_between_pieces_of_what_is_due(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All are called before the next tick, what was answered leaves after each piece, and what asks again at
    once is called once a tick.
    """
    member = Solo().lead()
    deadlines = Deadlines(member.clock)
    done: list[str] = []
    ran: list[int] = []

    def again() -> None:
        done.append("again")
        deadlines.after(0, again)

    deadlines.after(0, again)
    for number in range(3 * DUE_AT_ONCE - 1):
        deadlines.after(0, partial(ran.append, number))
    keeper = Timekeeper(
        member.host,
        deadlines,
        0.1,
        lambda: done.append(f"flush {len(ran)}"),
        Lessor(member.host, 1.0),
        read_pending=partial(said, done, "tick"),
    )

    async def other() -> None:
        seen = -1
        while len(ran) < 3 * DUE_AT_ONCE - 1:
            assert len(ran) - seen <= DUE_AT_ONCE
            seen = len(ran)
            if ran:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        nursery.start_soon(other)
        await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    pieces = [f"flush {called * DUE_AT_ONCE - 1}" for called in (1, 2, 3)]
    assert done == ["tick", "again", *pieces, "tick", "again", pieces[-1]]


async def test_no_tick_waits_for_all_that_is_due(autojump_clock: trio.testing.MockClock) -> None:
    """What takes longer than to the next tick goes on after it."""
    member = Solo().lead()
    deadlines = Deadlines(member.clock)
    done: list[str] = []
    for _ in range(5):
        for _ in range(DUE_AT_ONCE - 1):
            deadlines.after(0, lambda: None)
        deadlines.after(0, lambda: autojump_clock.jump(0.07))
    keeper = Timekeeper(
        member.host,
        deadlines,
        0.1,
        lambda: done.append("piece"),
        Lessor(member.host, 1.0),
        read_pending=partial(said, done, "tick"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.65)
        nursery.cancel_scope.cancel()
    assert done[:8] == ["tick", "piece", "piece", "piece", "tick", "piece", "piece", "tick"]


async def test_the_ttls_of_a_state_are_counted_between_ticks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However many there are, all of them soon, and in pieces."""
    member = Solo().lead()
    count = 3 * COUNTED_AT_ONCE
    leases = [LeaseRecord(LeaseId(number), 60, Index(1), 0) for number in range(1, count + 1)]
    stored = StoredLeases()
    stored.add(leases)
    member.host.machine.leases.restore(stored)
    lessor = Lessor(member.host, 1.0)
    counted: list[int] = []
    keeper = Timekeeper(
        member.host,
        Deadlines(member.clock),
        0.1,
        lambda: None,
        lessor,
        read_pending=lambda: said(counted, len(lessor._leases.countdown)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.35)
        nursery.cancel_scope.cancel()
    assert counted == [0, count, count]
    assert not lessor.behind


async def test_a_full_disk_is_tried_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Solo().lead()
    tried: list[int] = []
    monkeypatch.setattr(member.host, "retry_writes", lambda: tried.append(1))
    keeper = Timekeeper(member.host, Deadlines(member.clock), 0.1, lambda: None, Lessor(member.host, 1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        for _ in range(25):
            await trio.sleep(0.1)
            member.clock.now = Nanos(member.clock.now + 100_000_000)
        nursery.cancel_scope.cancel()
    assert len(tried) == 3


async def test_messages_of_members_are_read_before_a_tick(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also by a tick that comes late: it was the loop that was held, not the leader that was silent."""
    member = Solo().lead()
    done: list[str] = []
    tick = member.host.tick

    def ticked() -> None:
        done.append("tick")
        tick()

    member.host.tick = ticked  # type: ignore[method-assign]
    keeper = Timekeeper(
        member.host,
        Deadlines(member.clock),
        0.1,
        lambda: None,
        Lessor(member.host, 1.0),
        read_pending=partial(said, done, "hear"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.35)
        nursery.cancel_scope.cancel()
    assert done == ["hear", "tick"] * 3


async def test_long_ticks_are_told(autojump_clock: trio.testing.MockClock) -> None:
    member = Solo().lead()
    meter = Meter(member.clock.monotonic, member.lines)

    def hear() -> bool:
        member.clock.now = Nanos(member.clock.now + 50_000_000)
        return True

    keeper = Timekeeper(
        member.host,
        Deadlines(member.clock),
        0.1,
        lambda: None,
        Lessor(member.host, 1.0),
        read_pending=hear,
        meter=meter,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    assert (meter.held, meter.what) == (2, "tick and deadlines")
    assert "loop_held" in member.lines.events


async def test_a_member_that_leads_alone_ticks_less_often_and_keeps_its_deadlines(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Solo().lead()
    deadlines = Deadlines(member.clock)
    ticks: list[float] = []
    made: list[float] = []
    monkeypatch.setattr(member.host, "tick", lambda: ticks.append(round(trio.current_time(), 3)))
    monkeypatch.setattr(
        type(member.clock), "monotonic", lambda _: trio.current_time(), raising=False
    )  # one clock for both
    keeper = Timekeeper(
        member.host, deadlines, 0.1, lambda: None, Lessor(member.host, 1.0), quiet_seconds=0.5
    )

    async def ask(begins: float, after: float) -> None:
        await trio.sleep(begins)
        due = trio.current_time() + after
        deadlines.after(after, lambda: made.append(round(trio.current_time() - due, 3)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(10)
        assert len(ticks) in range(15, 25)
        for begins, after in ((0.0, 0.01), (0.33, 0.1), (1.02, 0.3), (1.2, 3.0), (2.5, 0.0)):
            nursery.start_soon(ask, begins, after)
        await trio.sleep(10)
        assert len(made) == 5
        assert all(0 <= late <= 0.1 for late in made)
        del ticks[:]
        monkeypatch.setattr("netstore.node.timekeeper.is_quiet", lambda _: False)
        await trio.sleep(10)
        assert len(ticks) in range(90, 105)
        nursery.cancel_scope.cancel()


class Left:
    """Pieces of work that are left over; with each some time passes."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.pieces = 20
        self.clock = clock

    @property
    def behind(self) -> bool:
        return self.pieces > 0

    is_dropping = behind

    def look(self) -> None:
        """As of a lessor."""

    def count(self) -> None:
        self.pieces -= 1
        self.clock.jump(0.06)

    compact = count


@pytest.mark.parametrize("kind", ["deadlines", "lessor", "compaction"])
async def test_work_that_is_left_over_does_not_wait_while_a_member_is_quiet(
    kind: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on right after the tick that came between."""
    member = Solo().lead()
    monkeypatch.setattr(type(member.clock), "monotonic", lambda _: trio.current_time(), raising=False)
    monkeypatch.setattr(member.host, "tick", lambda: None)
    left, deadlines = Left(autojump_clock), Deadlines(member.clock)
    lessor: Any = Lessor(member.host, 1.0)
    if kind == "deadlines":
        for _ in range(left.pieces):
            for _ in range(DUE_AT_ONCE - 1):
                deadlines.after(0, lambda: None)
            deadlines.after(0, left.count)
    elif kind == "lessor":
        lessor = left
    else:
        monkeypatch.setattr(member.host, "compaction", left)
    keeper = Timekeeper(member.host, deadlines, 0.1, lambda: None, lessor, quiet_seconds=0.5)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        while left.behind:
            await trio.sleep(0.01)
            assert trio.current_time() - began < 2.5
        nursery.cancel_scope.cancel()


def test_who_leads_others_or_has_something_waiting_is_not_quiet() -> None:
    member = Solo()
    assert not is_quiet(member.host)
    member.lead()
    assert is_quiet(member.host)
    member.host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
    assert not is_quiet(member.host)
    member.settle()
    assert is_quiet(member.host)
    member.host.background.asked_at = member.clock.monotonic() - 0.4
    assert not is_quiet(member.host)
    member.host.background.asked_at -= 0.2
    assert is_quiet(member.host)
    raft = member.host._raft
    raft.conf = msgspec.structs.replace(raft.conf, learners=(NodeId(2),))
    assert not is_quiet(member.host)
