"""When turns are run: at the end of a round, or by the task; never both, never none."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio

from netstore.meter import Meter, Parts
from netstore.node.loop import Loop
from tests.support.member import Lines

if TYPE_CHECKING:
    from netstore.node.host import Host


class Turns:
    """A host that counts its turns."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.turns = 0
        self.waiting = 0
        self.again = 0
        self.clock_read_before: list[int] = []
        """The turns before which the clock of the rounds was read."""
        self.stopped = False
        self.untold = False
        """A follower was not told of a commit."""
        self.parts = Parts(lambda: 0.0)
        self.fault: Exception | None = None

    @property
    def proposals(self) -> list[None]:
        """As many as requests wait."""
        return [None] * self.waiting

    def turn(self, *, is_idle: bool = False) -> None:
        self.turns += 1
        self.alone = is_idle
        if self.fault is not None:
            raise self.fault
        if self.again:
            self.again -= 1
            self.loop.wake()

    def read_clock(self) -> None:
        self.clock_read_before.append(self.turns + 1)

    def tell_commits(self) -> bool:
        untold, self.untold = self.untold, False
        return untold

    def stop(self) -> None:
        self.stopped = True


async def run(loop: Loop, host: Turns) -> None:
    await loop.run(cast("Host", host))


async def test_a_round_that_brought_something_ends_with_one_turn() -> None:
    loop = Loop()
    host = Turns(loop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        await trio.testing.wait_all_tasks_blocked()
        loop.begin()
        loop.wake()
        loop.wake()
        assert host.turns == 0
        loop.end(is_idle=True)
        assert host.turns == 1
        loop.begin()
        loop.end(is_idle=True)
        await trio.testing.wait_all_tasks_blocked()
        assert host.turns == 1, "nothing was brought, and nobody else was woken"
        assert host.clock_read_before == [], "the round has read it"
        nursery.cancel_scope.cancel()
    assert host.stopped


async def test_outside_a_round_the_task_runs_the_turn() -> None:
    loop = Loop()
    host = Turns(loop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        await trio.testing.wait_all_tasks_blocked()
        loop.wake()
        loop.wake()
        assert host.turns == 0
        await trio.testing.wait_all_tasks_blocked()
        assert host.turns == 1
        assert host.clock_read_before == [1]
        nursery.cancel_scope.cancel()


async def test_a_wake_during_a_turn_runs_another_turn() -> None:
    loop = Loop()
    host = Turns(loop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        await trio.testing.wait_all_tasks_blocked()
        host.again = 3
        loop.begin()
        loop.wake()
        loop.end(is_idle=True)
        assert host.turns == 1, "others are served between two turns"
        await trio.testing.wait_all_tasks_blocked()
        assert host.turns == 4
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("in_round", [False, True])
async def test_a_fault_of_a_turn_is_raised_where_the_turn_ran(in_round: bool) -> None:
    loop = Loop()
    host = Turns(loop)
    host.fault = ValueError("broken")

    async def drive() -> None:
        await trio.testing.wait_all_tasks_blocked()
        if in_round:
            loop.begin()
            loop.wake()
            loop.end(is_idle=True)
        else:
            loop.wake()

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, loop, host)
            nursery.start_soon(drive)
    assert host.stopped
    loop.begin()
    loop.wake()
    loop.end(is_idle=True)
    assert host.turns == 1, "after its end no turn is run"


async def test_draining_waits_for_the_last_request() -> None:
    loop = Loop()
    host = Turns(loop)
    host.waiting = 2
    drained = trio.Event()

    async def drain() -> None:
        await loop.drained(cast("Host", host))
        drained.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        nursery.start_soon(drain)
        for left in (1, 0):
            await trio.testing.wait_all_tasks_blocked()
            assert not drained.is_set()
            host.waiting = left
            loop.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert drained.is_set()
        nursery.cancel_scope.cancel()


async def test_a_long_turn_of_the_task_is_told() -> None:
    now = 0.0
    lines = Lines()
    meter = Meter(lambda: now, lines)
    loop = Loop(meter)

    class Slow(Turns):
        def turn(self, *, is_idle: bool = False) -> None:
            nonlocal now
            super().turn(is_idle=is_idle)
            now += 1.0
            self.parts.longest = "sweep" if self.turns == 1 else ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, Slow(loop))
        await trio.testing.wait_all_tasks_blocked()
        loop.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert (meter.held, meter.longest, meter.what) == (1, 1.0, "turn: sweep")
        loop.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert meter.part == ""
        nursery.cancel_scope.cancel()
    assert lines.events == ["loop_held"] * 2


async def test_what_followers_were_not_told_of_is_told_when_no_round_follows() -> None:
    loop = Loop()
    host = Turns(loop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        await trio.testing.wait_all_tasks_blocked()
        loop.begin()
        loop.wake()
        loop.end(is_idle=True)
        host.untold = True
        loop.begin()
        loop.end(is_idle=True)
        assert host.turns == 1, "the next message may bring it"
        loop.rest()
        loop.rest()
        assert host.turns == 2
        host.untold = True
        loop.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert host.turns == 4, "a turn of the task is followed by no round"
        nursery.cancel_scope.cancel()


async def test_a_round_without_a_turn_forgets_what_the_last_turn_did() -> None:
    meter = Meter(lambda: 0.0, Lines())
    loop = Loop(meter)
    host = Turns(loop)
    host.parts.longest = "jobs"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, loop, host)
        await trio.testing.wait_all_tasks_blocked()
        for wake, part in ((True, "jobs"), (False, "")):
            loop.begin()
            if wake:
                loop.wake()
            loop.end(is_idle=True)
            assert meter.part == part
        nursery.cancel_scope.cancel()
