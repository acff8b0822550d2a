"""Runs the host's turns: at the end of a round of the reactor, or in a task of their own.

What happens inside a round (requests, messages from peers, finished syncs) is processed by the turn at its
end, without a task switch. What happens elsewhere (ticks, snapshots) wakes the task. Turns never overlap:
both run on Trio's one thread, and a turn awaits nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from netstore.meter import Meter
    from netstore.node.host import Host


class Loop:
    """Runs a host's turns. The host calls `wake`; the reactor calls `begin` and `end` around each round."""

    def __init__(self, meter: Meter | None = None) -> None:
        """`meter` is told of long turns of the task; the reactor reports those of its rounds."""
        self._meter = meter
        self._host: Host | None = None
        self._due = False
        self._in_round = False
        self._woken = trio.Event()
        self._idle: trio.Event | None = None

    def wake(self) -> None:
        """There is something to do."""
        self._due = True
        if not self._in_round:
            self._woken.set()

    def begin(self) -> None:
        """A round begins: what it brings is processed at its end."""
        self._in_round = True

    def end(self, *, is_idle: bool) -> None:
        """Run a turn if there is something to do; see `Host.turn` for `is_idle`. Raises what the member must
        not survive.
        """
        if self._due:
            self._turn(is_idle=is_idle)
        elif self._meter is not None:
            self._meter.part = ""
        self._in_round = False
        if self._due:
            self._woken.set()

    def rest(self) -> None:
        """No round follows soon: tell followers what would have gone with the messages of the next turn."""
        if self._host is not None and self._host.tell_commits():
            self._timed_turn()

    async def run(self, host: Host) -> None:
        """Run until cancelled, or until a fault is raised that the member must not survive. Only once."""
        self._host = host
        try:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                if self._due:
                    self._timed_turn()
                    self.rest()
        finally:
            self._host = None
            host.stop()

    async def drained(self, host: Host) -> None:
        """Wait until no request waits for the log, including those that come meanwhile."""
        while host.proposals:
            self._idle = trio.Event()
            await self._idle.wait()

    def _timed_turn(self) -> None:
        """A turn outside the rounds."""
        meter = self._meter
        if self._host is not None:
            self._host.read_clock()
        if meter is None:
            self._turn()
            return
        begun = meter.clock()
        self._turn()
        if (seconds := meter.clock() - begun) > meter.budget:
            meter.over_turn(seconds)

    def _turn(self, *, is_idle: bool = False) -> None:
        if self._host is None:
            return
        self._due = False
        self._host.turn(is_idle=is_idle)
        if self._meter is not None:
            self._meter.part = self._host.parts.longest
        if self._idle is not None and not self._host.proposals:
            self._idle.set()
