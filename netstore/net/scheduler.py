"""Which connection is served next when the loop cannot serve all at once: fair queueing by recent use of the
loop.

While every ready connection is served within its round, they are served in the order in which epoll reports
them, which costs nothing. Once some are left over, those that are ready wait in a fair queue (`loadqueue`),
ordered by their load (`load`), until their turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.admission import household
from netstore.errors import MustStop
from netstore.net.load import HEAVY_LEVELS, LAST_IN_HOUSEHOLD, LEVELS, LONG_TURN, Loads
from netstore.net.loadqueue import LoadQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.meter import Meter
    from netstore.net.connection import Connection
    from netstore.net.load import ConnectionLoad
    from netstore.net.wakeup import Wakeup

ROUND_SECONDS: Final = 0.003
"""Time of a round for serving connections, and again for sending answers. The rest is done in the next
rounds.
"""

HEAVY_SECONDS: Final = 0.0005
"""Time of a round for connections `HEAVY_LEVELS` levels or more above a light connection that asked in the
last `LIGHT_SECONDS` (`load`): a client that sends a small request now and then waits for little more than
this.
"""

LIGHT_SECONDS: Final = 0.1

LONGEST_WAIT_EVERY: Final = 4
"""In one of so many rounds the connection that has waited longest has a turn, whatever its load."""

CHARGED_SECONDS: Final = 0.02
"""Most that one turn adds to a load: a longer one was long because the process was stopped."""

EXAMINED_SECONDS: Final = 1.0
"""For so long after a long turn (`load.LONG_TURN`), what the loop has waited for a processor is read at the
beginning of each round (`runqueue`, 1.2 us), so that it is not charged for a further long turn: charging it
would make connections that ask for the same look as if some used far more than others, and from then on all
would wait in the queue. All else is charged: while a turn waits for the disk, nobody is served.
"""

VERY_LONG_TURN: Final = 0.002
"""A turn of so many seconds makes that read in rounds of one connection too, for as long. In others of these,
which are most rounds, nothing is read.
"""

UNEXAMINED_SECONDS: Final = 0.001
"""What is charged for a long turn of which that is not known: the first in a second, or one of a connection
that was alone in its round.
"""

_REVIEWED: Final = 16
"""Waiting connections whose level is computed anew in each round: 30 us."""


class Scheduler:
    """Turns of the connections of a reactor. `failed` is called with what a turn raised, and cuts the
    connection.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        meter: Meter,
        wakeup: Wakeup,
        failed: Callable[[Connection, Exception], None],
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`waited` is how many seconds this thread has waited for a processor; by default all are charged."""
        self._clock = clock
        self._waited = waited
        self._examined_until = float("-inf")
        """See `EXAMINED_SECONDS`."""
        self._alone_until = float("-inf")
        """See `VERY_LONG_TURN`."""
        self._read: float | None = None
        """What `waited` said last in this round; None: it was not asked."""
        self._meter = meter
        self._looked_at = min(meter.budget, LONG_TURN)
        """Seconds from which on a turn is looked at (`_used`)."""
        self._wakeup = wakeup
        self._failed = failed
        self.queue: LoadQueue[Connection] = LoadQueue()
        self.clock_read = clock()
        """What the clock said when the reactor read it last; set by the reactor."""
        self.heavy_at = float("-inf")
        """When a connection waited whose load is far above that of a light one. If that is long ago,
        connections are served in the order in which epoll reports them.
        """
        self._loads = Loads()
        self._lightest = LEVELS
        """The lowest level of a light connection that asked lately, at `_lightest_at`."""
        self._lightest_at = self.clock_read
        self._passed_over = 0
        """Rounds since the connection that had waited longest had a turn."""

    # --- loads

    def joined(self, principal: str) -> ConnectionLoad:
        """The load of a new connection of this principal, until `left`."""
        return self._loads.join(household(principal), self.clock_read)

    def named(self, connection: Connection, principal: str) -> None:
        """The TLS handshake showed another principal than the address of the connection did."""
        self._loads.move(connection.load, household(principal), self.clock_read)

    def left(self, connection: Connection) -> None:
        """The connection is about to close."""
        self._loads.leave(connection.load, self.clock_read)
        self.queue.remove(connection)

    def waited(self, connection: Connection) -> float:
        """For how many seconds it has waited for a turn; 0 if it does not wait for one."""
        since = self.queue.since(connection)
        return 0.0 if since is None else self.clock_read - since

    def worked(self, connection: Connection, seconds: float) -> None:
        """Add work that was done for a connection outside its turns to its load."""
        connection.load.add(self._clock(), seconds)

    # --- waiting for a turn

    def later(self, connection: Connection) -> None:
        """Give the connection a turn in one of the next rounds, after all others of its household."""
        self.wait(connection, LAST_IN_HOUSEHOLD)

    def wait(self, connection: Connection, above: int) -> None:
        """Queue a connection for a turn, so many levels above its load."""
        if connection.open:
            self.queue.add(connection, 0, self.clock_read, above)
            wakeup = self._wakeup
            if not (wakeup.in_round or wakeup.pending):
                wakeup.send()

    def enqueue(self, ready: list[tuple[Connection, int]], at: float) -> None:
        """Queue these for their turns, beside those that wait already. epoll reports a limited number of
        connections in a round, so it is told not to report those again that wait.
        """
        queue = self.queue
        queue.review(at, _REVIEWED)  # of those that wait since an earlier round
        waiting, add = queue.places, queue.add
        if at - self._lightest_at > LIGHT_SECONDS:
            self._lightest = LEVELS
        for connection, mask in ready:
            if connection.fd < 0:
                continue  # closed earlier in this round
            if connection in waiting:
                connection.suspend()
            load = connection.load
            level = add(connection, mask, at, LAST_IN_HOUSEHOLD if load.has_long_turns else 0)
            if level <= self._lightest and load.is_light(at):
                self._lightest, self._lightest_at = level, at

    # --- serving; each returns the time

    def serve_all(self, ready: list[tuple[Connection, int]], at: float) -> float:
        """Serve these in the order in which epoll reported them. Those left when the time is over are
        queued.
        """
        stop = at + ROUND_SECONDS
        examined_until = self._examined_until if len(ready) > 1 else self._alone_until
        self._read = self._waited() if at < examined_until else None
        clock, looked_at = self._clock, self._looked_at
        waiting = iter(ready)
        for connection, mask in waiting:
            try:  # `_serve_one` inline, because this runs for each request
                connection.ready(mask)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - as `Reactor._serve`, without its two calls
                self._failed(connection, fault)
            now = clock()
            seconds = now - at
            at = now
            connection.load.add_turn(
                now, seconds if seconds < looked_at else self._used(connection, seconds, now)
            )
            if now > stop:
                for left, mask_left in waiting:
                    if left.open:
                        self.queue.add(left, mask_left, at)
                break
        return at

    def serve_queue(self, at: float) -> float:
        """Serve those that wait, in the order of the queue.

        If some are far above a light connection that asks now and then, they get `HEAVY_SECONDS` of a round,
        and half of that in a round in which light ones are served. In one of `LONGEST_WAIT_EVERY` rounds the
        connection that has waited longest has a turn.
        """
        self._read = self._waited() if at < self._examined_until else None
        queue, serve = self.queue, self._serve_one
        take, first = queue.take, queue.first
        heavy = self._lightest + HEAVY_LEVELS
        stop = at + (ROUND_SECONDS if first < heavy else HEAVY_SECONDS)
        is_hurried = self._lightest < LEVELS
        waiting = queue.places
        for _ in range(len(waiting) - 1):
            if at > stop or not waiting:
                break
            if first < heavy <= queue.first:
                first, stop = heavy, min(stop, at + HEAVY_SECONDS / 2)  # all light ones are served
            connection, mask = take()
            at = serve(connection, mask, at, is_hurried=is_hurried)
        if waiting and queue.first >= heavy:
            self.heavy_at = at
        self._passed_over += 1
        if waiting and (at <= stop or self._passed_over >= LONGEST_WAIT_EVERY):
            self._passed_over = 0
            at = self._serve_one(*queue.longest(), at, is_hurried=is_hurried)
        return at

    def _serve_one(self, connection: Connection, mask: int, at: float, *, is_hurried: bool) -> float:
        """`is_hurried`: the turn is to be short, because light connections ask."""
        connection.short_turn = is_hurried
        try:
            connection.ready(mask)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - as `Reactor._serve`, without its two calls
            self._failed(connection, fault)
        connection.short_turn = False
        now = self._clock()
        seconds = now - at
        connection.load.add_turn(
            now, seconds if seconds < self._looked_at else self._used(connection, seconds, now)
        )
        return now

    def _used(self, connection: Connection, seconds: float, now: float) -> float:
        """What is charged for a turn that has just ended and was long: see `EXAMINED_SECONDS`. It is told to
        the meter if it was beyond its budget.
        """
        if seconds > self._meter.budget:
            self._meter.over("requests", seconds, connection.principal)
        if seconds < LONG_TURN:
            return seconds
        self._examined_until = now + EXAMINED_SECONDS
        if seconds >= VERY_LONG_TURN:
            self._alone_until = self._examined_until
        before = self._read
        if before is None:
            return min(seconds, UNEXAMINED_SECONDS)
        self._read = self._waited()
        return min(max(seconds - (self._read - before), 0.0), CHARGED_SECONDS)
