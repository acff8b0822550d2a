"""Time, in one place: the tick of the protocol, the deadlines of requests, the leader's proposals of time,
housekeeping.

Replicated state never reads a clock: what has a TTL ends because the leader counted and the log says so
(`lessor`).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

import trio

from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.meter import Meter
    from netstore.node.host import Host
    from netstore.node.lessor import Lessor
    from netstore.seams import Clock

EXPIRE_SECONDS: Final = 0.5
"""How often the leader looks for overdue nodes, as etcd does."""

CHORES_SECONDS: Final = 1.0
"""How often the log is looked at for entries to forget, and for writes that found no space."""

LONGEST_SECONDS: Final = 10 * 366 * 24 * 3600.0
"""A later deadline is this far away: no process lives longer, and no arithmetic on times goes wrong."""

_FORGOTTEN_ALLOWED: Final = 256


class Deadline:
    """A call that will be made unless it is cancelled first."""

    __slots__ = ("_call", "_forgotten", "when")

    def __init__(
        self, when: float, call: Callable[[], None], forgotten: Callable[[], None] | None = None
    ) -> None:
        self.when = when
        self._call: Callable[[], None] | None = call
        self._forgotten = forgotten

    @property
    def cancelled(self) -> bool:
        """It will not be called any more."""
        return self._call is None

    def cancel(self) -> None:
        """Do not call it. O(1), amortised."""
        if self._call is not None:
            self._call = None
            if self._forgotten is not None:
                self._forgotten()

    def leave(self) -> None:
        """It is in no heap any more, where one counts those that were cancelled."""
        self._forgotten = None

    def run(self) -> None:
        """Call it, once."""
        call, self._call = self._call, None
        if call is not None:
            call()

    def __lt__(self, other: Deadline) -> bool:
        return self.when < other.when


class Deadlines:
    """All deadlines of a program in one heap, looked at once a tick: exact to one tick, O(log n) each, no
    task and no cancel scope. The heap holds at most twice as many as are alive, and a few hundred.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.failed: Callable[[Exception], object] = unguarded
        """Told what a call raised."""
        self._heap: list[Deadline] = []
        self._dead = 0

    def after(self, seconds: float, call: Callable[[], None]) -> Deadline:
        """Make a call once that much time has passed, for a request or whoever else asked: what it raises
        goes to `failed`.
        """
        when = self._clock.monotonic() + min(seconds, LONGEST_SECONDS)
        deadline = Deadline(when, call, self._forget)
        heappush(self._heap, deadline)
        return deadline

    def run_due(self) -> bool:
        """Make the calls that are due; whether there were any. What they ask for at once comes next time."""
        now = self._clock.monotonic()
        due: list[Deadline] = []
        while self._heap and self._heap[0].when <= now:
            deadline = heappop(self._heap)
            if deadline.cancelled:
                self._dead -= 1
            else:
                deadline.leave()
                due.append(deadline)
        for deadline in due:
            guarded(self.failed, deadline.run)
        return bool(due)

    def _forget(self) -> None:
        """One in the heap was cancelled."""
        self._dead += 1
        if self._dead > _FORGOTTEN_ALLOWED + len(self._heap) // 2:
            self._heap = [each for each in self._heap if not each.cancelled]
            heapify(self._heap)
            self._dead = 0


class Timekeeper:
    """The task that ticks. `tick_seconds` is the heartbeat interval: one tick of Raft."""

    def __init__(
        self,
        host: Host,
        deadlines: Deadlines,
        tick_seconds: float,
        flush: Callable[[], None],
        lessor: Lessor,
        *,
        hear: Callable[[], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`hear` takes what others have sent by now, so that nobody is thought dead for what was not read
        while the loop was held: it is called before each tick.
        """
        self._hear = hear
        self._meter = meter
        self._host = host
        self._deadlines = deadlines
        self._tick_seconds = tick_seconds
        self._flush = flush
        self._lessor = lessor

    async def run(self) -> None:
        """Tick until cancelled. A tick that comes late is not made up for: a paused process must not rush an
        election.
        """
        clock = self._host.clock
        next_expiry = next_chores = clock.monotonic()
        while True:
            await trio.sleep(self._tick_seconds)
            begun = clock.monotonic()
            if self._hear is not None:
                self._hear()
            self._host.tick()
            if self._deadlines.run_due():
                self._flush()
            now = clock.monotonic()
            if self._meter is not None and now - begun > self._meter.budget:
                self._meter.over("tick and deadlines", now - begun)
            if now >= next_expiry:
                next_expiry = now + EXPIRE_SECONDS
                self._lessor.look()
            if now >= next_chores:
                next_chores = now + CHORES_SECONDS
                self._host.retry_writes()
                self._host.compact()
