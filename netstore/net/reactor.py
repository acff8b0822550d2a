"""All client connections in one Trio task.

The reactor owns an epoll set and waits, in Trio, for that one descriptor. A round reads every socket that is
ready once, lets its codec handle what is complete, and at the end sends everything that was answered
meanwhile, with one send for each connection. So a request costs one system call each way and no task switch;
a reader and a writer task for each connection would add about 15 us to each request
(`contrib/doc/adr/0003-reactor.md` has the figures). `scheduler` decides whose turn it is, `watched` has the
streams between members, `acceptor` accepts connections.

After a round the reactor looks for the next one at once, because it mostly follows immediately: the disk is
done, or the client sends its next request. Only when nothing comes for a millisecond, or `LINGER_SECONDS`
have passed, do Trio's other tasks get their turn; each way through Trio costs 100 us of processor time.

Invariants: a socket is in the epoll set exactly while its connection is open. Nothing here blocks for longer
than that millisecond, and only while nothing is ready (the turn at the end of a round may wait for one sync,
`node.host`). An exception raised by work for one connection closes that connection only (`Reactor._serve`);
one raised by work for all of them (accepting, memory limits) closes none, unless the member must stop. What a
connection may hold (unsent bytes, unanswered requests, time without progress) is bounded.
"""

from __future__ import annotations

import select
from collections import Counter, deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore.errors import MustStop
from netstore.guard import guarded, tell
from netstore.limits import Budget
from netstore.meter import Meter
from netstore.net.acceptor import Acceptor
from netstore.net.bodyadmission import BodyAdmission
from netstore.net.connection import NEW_DATA, Connection
from netstore.net.connectionlimit import ConnectionLimit
from netstore.net.load import LAST_IN_HOUSEHOLD
from netstore.net.memorypressure import MemoryPressure
from netstore.net.scheduler import LIGHT_SECONDS, ROUND_SECONDS, Scheduler
from netstore.net.wakeup import Wakeup
from netstore.net.watched import WatchedDescriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from netstore.net.http1.server import Http1Server
    from netstore.net.session import Session
    from netstore.net.tls import Credentials
    from netstore.seams import Log

MAX_CONNECTIONS: Final = 10_000
"""Open connections; `connectionlimit` decides which one is closed for one more, if any."""

STALL_SECONDS: Final = 30.0
"""How long a request may stay incomplete, an answer unread, or a closing connection open."""

MEMORY: Final = 64 * 1024 * 1024
"""Bytes that all connections may hold together."""

LINGER_SECONDS: Final = 0.005
"""How long rounds may follow each other before other tasks get their turn."""

SENT_IN_PASSING: Final = 64 * 1024
"""Unsent bytes up to which a connection whose send did not fit into the round is not queued behind others:
its turn is as short as that of a request.
"""

SEND_SECONDS: Final = 0.00001
BYTE_SECONDS: Final = 5e-10
"""What a send adds to a load, and each byte of it. Not measured by the clock: sending wakes up the receiver,
which then uses the processor.
"""

COUNTED_BYTES: Final = 4096
"""Bytes sent that are added to the load together: counting each small answer would cost more than it gains.
"""

HELD_SECONDS: Final = 2.0
"""Seconds between two readings of the clock from which on the time counts for no limit of a peer: there is a
sweep each second, so if there was none, nothing was read either.
"""

_EVENTS_PER_ROUND: Final = 512
_SWEPT_AT_ONCE: Final = 500
"""Connections whose time limits are checked before others are served: about 1 ms."""
_LINGER_WAIT: Final = 0.001
_IN: Final = select.EPOLLIN


class Rounds(Protocol):
    """Work to be done at the end of each round, when everything was read and before anything is sent."""

    def begin(self) -> None:
        """A round begins."""

    def end(self, *, is_idle: bool) -> None:
        """Everything was read. `is_idle`: from one connection at most, and none waits for a turn. What this
        raises ends the reactor.
        """

    def rest(self) -> None:
        """No round follows soon: other tasks get their turn. What this raises ends the reactor."""


class Limits:
    """Limits of a reactor; see the constants of this module for the defaults and their reasons."""

    __slots__ = ("max_connections", "memory", "stall_seconds")

    def __init__(
        self,
        max_connections: int = MAX_CONNECTIONS,
        stall_seconds: float = STALL_SECONDS,
        memory: Budget | None = None,
    ) -> None:
        self.max_connections = max_connections
        self.stall_seconds = stall_seconds
        self.memory = memory or Budget(MEMORY)
        """Bytes that all connections may hold together."""


class Reactor:
    """Accepts connections and drives them; see the module.

    `listen` adds a bound socket. `run` is the task. `flush` sends everything written since the last flush:
    code that completes answers outside a round (the loop, after a batch) calls it once at its end.
    `stop_accepting` is the first step of a graceful stop, `drain` the second.
    """

    def __init__(
        self,
        limits: Limits,
        http1: Http1Server,
        log: Log,
        clock: Callable[[], float],
        meter: Meter | None = None,
        *,
        worked: Callable[[float], object] = lambda _: None,
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`worked` is told how many seconds each round took, each piece of a sweep and each `catch_up`.
        `waited` is how many seconds this thread has waited for a processor (`Scheduler`).
        """
        self._worked = worked
        self._limits = limits
        self._http1 = http1
        self._log = log
        self._clock = clock
        self.meter = meter or Meter(clock, log)
        self.memory: Budget = limits.memory
        self.now = self._clock_read = clock()
        """Monotonic seconds, without those in which the loop was held or the process stopped
        (`HELD_SECONDS`): time limits of peers are judged by this, because nothing was read from them
        meanwhile.
        """
        self._lost = 0.0
        """Seconds left out of `now`."""
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self.wakeup = Wakeup()
        self._epoll.register(self.wakeup.fd, _IN)
        self._calls: deque[Callable[[], object]] = deque()
        """See `call_soon`."""
        self.connection_limit: ConnectionLimit[Connection] = ConnectionLimit(limits.max_connections)
        self.acceptor = Acceptor(self, self._epoll, self.connection_limit, log, clock)
        self.accepted = 0
        """Connections accepted so far."""
        self._sent: Counter[type] = Counter()
        """Bytes sent on connections that are closed, by the kind of their last session."""
        self.scheduler = Scheduler(clock, self.meter, self.wakeup, self._cut_for, waited)
        self.watched = WatchedDescriptors(
            self._epoll,
            self.wakeup,
            self._connections,
            clock,
            meter=self.meter,
            log=log,
            failed=self.failed,
            worked=worked,
        )
        self.pressure = MemoryPressure(limits.memory, self._holders, log)
        self.admission = BodyAdmission(limits.memory, log, self.wakeup.send_if_needed)
        self.dirty: list[Connection] = []
        """Connections that were written to since the last flush."""
        self._closed = False
        self._unsettled = 0
        """Connections that `drain` waits for."""
        self._all_settled: trio.Event | None = None
        self._refusal_logged = -1.0
        self._refresh_date()

    @property
    def contended(self) -> bool:
        """Connections wait for their turn."""
        return bool(self.scheduler.queue)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    def sent(self) -> Counter[type]:
        """Bytes that the kernel accepted so far, by the kind of session: of HTTP/1, HTTP/2, a handshake.
        O(open connections), 0.1 us each.
        """
        sent = self._sent.copy()
        for connection in self._connections.values():
            sent[type(connection.session)] += connection.sent
        return sent

    def listen(
        self,
        sock: socket.socket,
        credentials: Credentials | None = None,
        http1: Http1Server | None = None,
    ) -> None:
        """Accept connections from this bound socket, and take ownership of it; over TLS if there are
        credentials. With `http1` nothing but HTTP/1 is served there, by that server.
        """
        self.acceptor.listen(sock, credentials, http1)

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call this in the next round, in the order of the requests. May be called from any thread.
        RuntimeError once `run` has ended. For work of the member itself, such as results of its disk: what a
        call raises ends `run`.
        """
        if self._closed:
            raise RuntimeError("the reactor is closed")
        self._calls.append(call)
        if not self.wakeup.pending:
            self.wakeup.send()

    async def run(self, connect: Callable[[Connection, Http1Server], Session], rounds: Rounds) -> None:
        """Serve until cancelled, then cut every connection. `connect` makes the session of a new one.

        Awaits only the readiness of the epoll set, so that state changes between two awaits are atomic.
        """
        self._connect = connect
        self._rounds = rounds
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep_each_second)
                while True:
                    if self._pending:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    at = self._round(0)
                    deadline = at + LINGER_SECONDS
                    while 0 < at < deadline:
                        at = self._round(_LINGER_WAIT)
                    rounds.rest()
        finally:
            self._close()

    def flush(self, at: float | None = None) -> None:
        """Send what was written since the last flush, for `ROUND_SECONDS`; connections left over wait for a
        turn. A send may close a connection, which may write to others: these are sent to as well. `at` is
        what the clock said just now, if the caller has read it.
        """
        if not self.dirty:
            return
        clock, budget = self._clock, self.meter.budget
        if at is None:
            at = clock()
        stop = at + ROUND_SECONDS
        while self.dirty:
            waiting, self.dirty = iter(self.dirty), []
            for connection in waiting:
                try:
                    connection.flush()
                except MustStop:
                    raise
                except Exception as fault:  # noqa: BLE001 - as `_serve`, without its two calls
                    self._cut_for(connection, fault)
                now = clock()
                if connection.sent - connection.sent_counted > COUNTED_BYTES:
                    sent = connection.sent - connection.sent_counted
                    connection.sent_counted = connection.sent
                    connection.load.add(now, SEND_SECONDS + sent * BYTE_SECONDS)
                if now - at > budget:
                    self.meter.over("sending", now - at, connection.principal)
                at = now
                if now > stop:
                    left, self.dirty = [*waiting, *self.dirty], []
                    for each in left:
                        self.scheduler.wait(each, LAST_IN_HOUSEHOLD if each.unsent > SENT_IN_PASSING else 0)
                    return

    def modify(self, fd: int, mask: int) -> None:
        """Change the events that a descriptor waits for."""
        if not self._closed:
            self._epoll.modify(fd, mask)

    # --- connections

    def add(
        self,
        sock: socket.socket,
        address: Any,
        credentials: Credentials | None,
        http1: Http1Server | None = None,
    ) -> None:
        """Serve an accepted connection. OSError if the kernel cannot watch it."""
        self._epoll.register(sock.fileno(), NEW_DATA)
        connection = Connection(self, sock, address, self.now, credentials, http1=http1)
        self._connections[connection.fd] = connection
        self.connection_limit.add(connection)
        self.accepted += 1
        if credentials is None:
            self._serve(connection, connection.start_session)

    def session(self, connection: Connection) -> Session:
        """A new session for a connection."""
        return self._connect(connection, self._http1)

    def named(self, connection: Connection, principal: str) -> None:
        """The TLS handshake showed another principal than the address of the connection did."""
        self.connection_limit.renamed(connection, principal)
        self.scheduler.named(connection, principal)

    def forget(self, connection: Connection) -> None:
        """A connection is about to close its socket."""
        del self._connections[connection.fd]
        self._sent[type(connection.session)] += connection.sent
        self.watched.aside.pop(connection.fd, None)
        self.connection_limit.remove(connection)
        self.scheduler.left(connection)
        self.pressure.forget(connection)
        connection.settle()
        self._epoll.unregister(connection.fd)
        if self.acceptor.paused:
            self.acceptor.resume()

    def failed(self, fault: Exception) -> None:
        """Log what was raised by work for one connection, which is or will be cut."""
        self._log.warning("connection_failed", error=repr(fault))

    def refused(self, peer: str, reason: str) -> None:
        """A TLS handshake failed. Logged at most once a second: anybody can cause it."""
        if self.now - self._refusal_logged >= 1:
            self._refusal_logged = self.now
            self._log.warning("tls_handshake_failed", peer=peer, reason=reason)

    def _serve(self, connection: Connection, call: Callable[..., object], *arguments: object) -> None:
        """Do work for a connection; an exception cuts it. `flush` and `Scheduler` have the same inline,
        because they run for each request.
        """
        if not guarded(self.failed, call, *arguments):
            connection.cut()

    def _cut_for(self, connection: Connection, fault: Exception) -> None:
        """Log an exception and cut the connection. To be called from the except clause."""
        tell(self.failed, fault)
        connection.cut()

    def _holders(self) -> list[Connection]:
        return list(self._connections.values())

    # --- stopping

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        self.acceptor.stop()

    async def drain(self) -> None:
        """Ask every connection to finish, and wait until all answers are sent. The caller bounds the time."""
        connections = [each for each in self._connections.values() if not each.settled]
        self._unsettled = len(connections)
        self._all_settled = trio.Event()
        for connection in connections:
            if connection.open:
                self._serve(connection, connection.session.drain)
        self.flush()
        if self._unsettled > 0:
            await self._all_settled.wait()

    def settled(self) -> None:
        """A connection has sent all its answers, or is closed."""
        if self._all_settled is not None:
            self._unsettled -= 1
            if self._unsettled == 0:
                self._all_settled.set()

    def _close(self) -> None:
        self.stop_accepting()
        for connection in list(self._connections.values()):
            connection.cut()
        self._closed = True
        self.watched.calls.clear()
        self._epoll.close()
        self.wakeup.close()

    # --- rounds

    @property
    def _pending(self) -> bool:
        """There is work even if no socket is ready."""
        return bool(
            self.scheduler.queue.places
            or self.dirty
            or self.watched.unfinished
            or self.watched.aside
            or self.pressure.looking
            or self.admission.looking
        )

    def read_clock(self) -> float:
        """Read the clock and update `now`; returns the clock's own time. Each round begins with it."""
        at = self._clock()
        if at - self._clock_read > HELD_SECONDS:
            self._lost += at - self._clock_read
        self._clock_read = self.scheduler.clock_read = at
        self.now = self.admission.now = self.pressure.now = at - self._lost
        return at

    def _make_calls(self) -> None:
        self.wakeup.receive()
        calls = self._calls
        for _ in range(len(calls)):  # calls that these add are for the next round
            calls.popleft()()

    def _round(self, wait: float) -> float:
        """Serve what is ready, waiting for it so many seconds. Returns the time at the end; 0 if nothing was
        ready.
        """
        pending = self._pending
        ready = self._epoll.poll(0 if pending else wait, _EVENTS_PER_ROUND)
        if not ready and not pending:
            return 0.0
        clock, meter, scheduler, watched = self._clock, self.meter, self.scheduler, self.watched
        if watched.aside:
            ready = watched.take_aside(ready, _EVENTS_PER_ROUND)
        began = self.read_clock()
        self.wakeup.in_round = True
        self._rounds.begin()
        connections, listeners = self._connections, self.acceptor.listeners
        clients: list[tuple[Connection, int]] = []
        accepting: list[int] = []
        members: dict[int, int] = {}
        woken = False
        for fd, mask in ready:
            connection = connections.get(fd)
            if connection is not None:
                clients.append((connection, mask))
            elif fd in watched.calls:
                members[fd] = mask
            elif fd in listeners:
                accepting.append(fd)
            elif fd == self.wakeup.fd:
                woken = True
        watched.ready = members
        at = began
        if woken:
            self._make_calls()
            at = clock()
            if at - began > meter.budget:
                meter.over("results", at - began)
        if members or watched.unfinished:
            watched.serve(members)
            at = clock()
        if scheduler.queue.places or at - scheduler.heavy_at < LIGHT_SECONDS:
            scheduler.enqueue(clients, at)
            at = scheduler.serve_queue(at)
        else:
            at = scheduler.serve_all(clients, at)
        if accepting:
            self.acceptor.accept_from(accepting)
        waiting = scheduler.queue.places or watched.unfinished or watched.unserved
        self._rounds.end(is_idle=len(clients) + len(members) <= 1 and not waiting)
        now = clock()
        if now - at > meter.budget:
            meter.over_turn(now - at)
        self.flush(now)
        admission, pressure = self.admission, self.pressure
        if admission.waiting or admission.owed or admission.looking:
            guarded(self.failed, admission.step, self.now)
        if pressure.due:
            guarded(self.failed, pressure.step, self.now)  # sees what was promised in this round
        now = clock()
        self._worked(now - began)
        self.wakeup.in_round = False
        return now

    # --- once a second

    def sweep(self) -> None:
        """Once a second: the date line, stalled peers, another try at accepting. O(connections)."""
        self._sweep_begins()
        self._sweep(list(self._connections.values()))

    def _sweep_begins(self) -> None:
        self.read_clock()
        self._refresh_date()
        guarded(self.failed, self.admission.sweep)
        guarded(self.failed, self.admission.step, self.now)
        guarded(self.failed, self.pressure.sweep)
        guarded(self.failed, self.pressure.step, self.now)
        self.acceptor.sweep()

    def _sweep(self, connections: Iterable[Connection]) -> None:
        at = self.read_clock()
        seen, limit = self.now, self._limits.stall_seconds
        for connection in connections:
            self._serve(connection, connection.sweep, seen, limit)
        now = self._clock()
        if now - at > self.meter.budget:
            self.meter.over("sweep", now - at)
        self.flush()
        self._worked(self._clock() - at)

    async def _sweep_each_second(self) -> None:
        while True:
            await trio.sleep(1)
            self._sweep_begins()
            connections = list(self._connections.values())
            for start in range(0, len(connections), _SWEPT_AT_ONCE):
                self._sweep(connections[start : start + _SWEPT_AT_ONCE])
                await trio.lowlevel.checkpoint()

    def _refresh_date(self) -> None:
        self._http1.set_date(b"Date: " + formatdate(usegmt=True).encode() + b"\r\n")
