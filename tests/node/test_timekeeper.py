"""Deadlines and the ticks of the timekeeper, on Trio's mock clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from netstore.node.lessor import Lessor
from netstore.node.timekeeper import Deadlines, Timekeeper
from netstore.state.commands import Set, encode
from netstore.types import Event, Nanos
from tests.support.local_member import HandClock
from tests.support.member import Solo

if TYPE_CHECKING:
    import pytest


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
    assert len(deadlines._heap) < 5_000


async def test_the_leader_expires_what_is_due(autojump_clock: trio.testing.MockClock) -> None:
    member = Solo().lead()
    keeper = Timekeeper(member.host, Deadlines(member.clock), 0.1, lambda: None, Lessor(member.host, 1.0))
    expires = Nanos(member.clock.now + 1_000_000_000)
    member.host.propose(encode(Set(path=b"/k", expires=expires, ttl=1)), lambda _: None)
    member.settle()

    async def pass_time() -> None:
        for _ in range(30):
            await trio.sleep(0.1)
            member.clock.now = Nanos(member.clock.now + 100_000_000)
            member.settle()
            gone = not isinstance(member.host.machine.get(b"/k"), Event)
            assert not gone or member.clock.now >= expires

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await pass_time()
        nursery.cancel_scope.cancel()
    assert not isinstance(member.host.machine.get(b"/k"), Event)


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
