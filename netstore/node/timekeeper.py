"""Everything that happens by time: Raft's tick, the deadlines of requests, ends of TTLs, and housekeeping of
the log.

Replicated state never depends on a clock: a TTL ends because the leader counted and a log entry says so
(`lessor`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from netstore.expiry import Expiries
from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.expiry import Expiry
    from netstore.meter import Meter
    from netstore.node.host import Host
    from netstore.node.lessor import Lessor
    from netstore.seams import Clock

EXPIRE_SECONDS: Final = 0.5
"""How often the leader looks for overdue TTLs, as etcd does."""

CHORES_SECONDS: Final = 1.0
"""How often the log is compacted, and writes that found no space are retried."""

LONGEST_SECONDS: Final = 10 * 366 * 24 * 3600.0
"""Later deadlines are capped to this: no process lives longer, and no arithmetic on times fails."""

QUIET_SECONDS: Final = 0.5
"""Between two ticks of a member that leads alone, unless a deadline comes before that."""

DUE_AT_ONCE: Final = 250
"""Calls that are made in one piece: about a millisecond, if each does as much as most do."""


class Deadline:
    """A call that will be made unless it is cancelled first."""

    __slots__ = ("_among", "_call", "_place", "when")

    def __init__(
        self, when: float, call: Callable[[], None], among: Expiries[Deadline] | None = None
    ) -> None:
        """Adds itself to `among`, which knows when it is due."""
        self.when = when
        self._call: Callable[[], None] | None = call
        self._among = among
        self._place: Expiry[Deadline] | None = None if among is None else among.add(when, self)

    @property
    def cancelled(self) -> bool:
        """It will not be called any more."""
        return self._call is None

    def cancel(self) -> None:
        """Do not call it. O(log n). May be called again, and after the call was made."""
        self._call = None
        if self._place is not None and self._among is not None:
            self._among.settle(self._place)
            self._place = None

    def run(self) -> None:
        """Make the call, once."""
        call = self._call
        self.cancel()
        if call is not None:
            call()


class Deadlines:
    """All deadlines of a program in one list, looked at once a tick: exact to one tick, O(log n) each,
    without a task or cancel scope for each. It holds only those that are neither made nor cancelled.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.until = 0.0
        """Nobody looks before then: `sooner` is called when a deadline before it is added."""
        self.sooner: Callable[[], object] = _ignore
        self.failed: Callable[[Exception], object] = unguarded
        """Called with the exception that a call raised."""
        self._expiries: Expiries[Deadline] = Expiries()
        self._until: tuple[float, int] | None = None
        """The moment, and the number of deadlines added by then: those due are being called, in pieces."""

    def __len__(self) -> int:
        """How many calls will be made."""
        return len(self._expiries)

    @property
    def behind(self) -> bool:
        """Not all calls that were due when `run_due` began have been made: it continues with those only."""
        return self._until is not None

    def after(self, seconds: float, call: Callable[[], None]) -> Deadline:
        """Make a call once that much time has passed; what it raises goes to `failed`. O(log n)."""
        when = self._clock.monotonic() + min(seconds, LONGEST_SECONDS)
        if when < self.until:
            self.until = 0.0
            self.sooner()
        return Deadline(when, call, self._expiries)

    def first(self) -> float:
        """When the next call is to be made, by the monotonic clock; infinite if there is none."""
        first = self._expiries.first()
        return math.inf if first is None else first

    def run_due(self) -> bool:
        """Make the calls that are due, `DUE_AT_ONCE` at most; whether there were any. Later calls of this
        make the others, while it is `behind`; deadlines that these calls add come after them.
        """
        expiries = self._expiries
        if self._until is None:
            self._until = self._clock.monotonic(), expiries.added
        now, last = self._until
        due = expiries.due(now, DUE_AT_ONCE, last)
        for deadline in due:
            guarded(self.failed, deadline.run)
        if not expiries.is_due(now, last):
            self._until = None
        return bool(due)


def is_quiet(host: Host) -> bool:
    """Whether a member leads alone, nothing waits, and no request came lately: then only a deadline needs the
    next tick.
    """
    if host.proposals or host.reads or host.leader != host.id:
        return False
    lately = host.clock.monotonic() - host.background.asked_at < QUIET_SECONDS
    return not lately and host.status().conf.members() == (host.id,)


def _ignore() -> None:
    """Nobody waits."""


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
        read_pending: Callable[[], bool] | None = None,
        meter: Meter | None = None,
        quiet_seconds: float = 0.0,
    ) -> None:
        """`read_pending` reads what other members have sent by now, so that none is thought dead for messages
        that were not read while the loop was busy. It is called before each tick, until it returns True:
        there is no more. `quiet_seconds` is the longest time between two ticks while the member `is_quiet`,
        if that is longer than a tick: deadlines that come before are kept all the same.
        """
        self._quiet_seconds = quiet_seconds
        self._read_pending = read_pending
        self._meter = meter
        self._host = host
        self._deadlines = deadlines
        self._tick_seconds = tick_seconds
        self._flush = flush
        self._lessor = lessor

    async def run(self) -> None:
        """Tick until cancelled. A late tick is not made up for: a process that was stopped must not rush an
        election.
        """
        clock = self._host.clock
        next_expiry = next_chores = clock.monotonic()
        while True:
            await self._wait()
            begun = clock.monotonic()
            while self._read_pending is not None and not self._read_pending():
                self._measure("messages", begun)
                await trio.lowlevel.checkpoint()
                begun = clock.monotonic()
            self._host.tick()
            now = self._make_due("tick and deadlines", begun)
            if now >= next_expiry:
                next_expiry = now + EXPIRE_SECONDS
                self._lessor.look()
            if now >= next_chores:
                next_chores = now + CHORES_SECONDS
                self._host.retry_writes()
                self._host.compaction.compact()

    async def _wait(self) -> None:
        """Wait for the next tick. Work left over from the last one is done meanwhile, in pieces between which
        others have their turn; a tick waits for one piece at most.
        """
        next_tick = trio.current_time() + self._tick_seconds
        while self._behind and trio.current_time() < next_tick:
            await trio.lowlevel.checkpoint()
            self._go_on(self._host.clock.monotonic())
        await self._be_quiet()
        await trio.sleep_until(next_tick)

    async def _be_quiet(self) -> None:
        """While nothing needs a tick, wait for the `quiet_seconds`, or until a deadline. Work that is
        left over needs one: it goes on after the tick.
        """
        if self._behind:
            return
        deadlines, now = self._deadlines, self._host.clock.monotonic()
        quiet = min(self._quiet_seconds, deadlines.first() - now)
        if quiet <= self._tick_seconds or not is_quiet(self._host):
            return
        woken = trio.Event()
        deadlines.until, deadlines.sooner = now + quiet, woken.set
        with trio.move_on_after(quiet):
            await woken.wait()
        deadlines.until = 0.0

    @property
    def _behind(self) -> bool:
        return self._deadlines.behind or self._lessor.behind or self._host.compaction.is_dropping

    def _go_on(self, begun: float) -> None:
        """Do a piece of what is left."""
        if self._deadlines.behind:
            self._make_due("deadlines", begun)
        elif self._lessor.behind:
            self._lessor.count()
            self._measure("counting of TTLs", begun)
        else:
            self._host.compaction.compact()
            self._measure("forgetting of the log", begun)

    def _make_due(self, work: str, begun: float) -> float:
        """Make some of the calls that are due. Returns the time afterwards, by the monotonic clock."""
        if self._deadlines.run_due():
            self._flush()
        return self._measure(work, begun)

    def _measure(self, work: str, begun: float) -> float:
        now = self._host.clock.monotonic()
        if self._meter is not None and now - begun > self._meter.budget:
            self._meter.over(work, now - begun)
        return now
