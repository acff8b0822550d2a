"""All client connections in one Trio task.

The reactor owns an epoll set and waits, in Trio, for that one descriptor. A round takes every socket that is
ready, reads it once, lets its codec hand over what is complete, and at the end sends everything that was
answered meanwhile, one send for each connection. So a request costs a system call each way and no task
switch; a task with a reader and a writer for each connection costs about 15 us more for each request
(`contrib/doc/adr/0003-reactor.md` has the figures). Rounds, turns and what is watched share their state, so
they are one module of more than 500 lines; accepting connections is `acceptor.py`.

After a round the reactor looks for the next one by itself, because it most often follows at once: the disk is
done, the client sends its next request. Only when nothing comes for a millisecond, or `LINGER_SECONDS` have
passed, do Trio's other tasks get their turn; a way through Trio costs 100 us of processor for each.

Invariants: a socket is in the epoll set exactly while its connection is open; nothing here blocks for longer
than that millisecond, and that only while nothing is ready (the turn at the end of a round may wait for one
sync, `node.host`); whatever is raised by what is done for a
connection closes that connection only (`Reactor._serve`), and by what is done for all of them (accepting,
looking at memory) nothing, unless the member must stop; what a connection may hold (unsent bytes, unanswered
requests, time without progress) is bounded.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore.admission import household
from netstore.errors import MustStop
from netstore.guard import guarded, tell
from netstore.limits import Budget
from netstore.meter import Meter
from netstore.net.acceptor import Acceptor
from netstore.net.bodyadmission import BodyAdmission
from netstore.net.connection import Connection
from netstore.net.connectionlimit import ConnectionLimit
from netstore.net.fairqueue import FairQueue
from netstore.net.load import APART, BEHIND, LEVELS, Loads
from netstore.net.memorypressure import MemoryPressure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.http1.connection import Http1Server
    from netstore.net.load import ConnectionLoad
    from netstore.net.session import Session
    from netstore.net.tls import Credentials
    from netstore.seams import Log

MAX_CONNECTIONS: Final = 10_000
"""Open connections; at the limit `crowd` says who goes for one more, if anybody."""

STALL_SECONDS: Final = 30.0
"""How long a request may stay incomplete, an answer unread, or a closing connection open."""

MEMORY: Final = 64 * 1024 * 1024
"""Bytes that all connections may hold together."""

LINGER_SECONDS: Final = 0.005
"""How long rounds may follow each other before other tasks get their turn."""

ROUND_SECONDS: Final = 0.003
"""How long one round may serve connections, and then send answers. Who was not served is in the next one, by
turns (`fairqueue.py`).
"""

HEAVY_SECONDS: Final = 0.0005
"""How much of a round is for those who stand `APART` levels or more above a light connection that asked in
the last `LIGHT_SECONDS` (`load.py`): who asks for little now and then waits for little more than this.
"""

LIGHT_SECONDS: Final = 0.1

PASSED_OVER: Final = 4
"""Rounds of which one has a turn for who has waited longest."""

SENT_IN_PASSING: Final = 64 * 1024
"""Bytes to be sent for which nobody stands behind others: its turn is as short as that of a request."""

SEND_SECONDS: Final = 0.00001
BYTE_SECONDS: Final = 5e-10
"""What sending counts for a load, and each byte of it. Not by the clock: to send wakes up who receives, and
that takes the processor.
"""

COUNTED_BYTES: Final = 4096
"""Bytes sent that are counted together. To count each small answer would take longer than it tells."""

CHARGED_SECONDS: Final = 0.02
"""The most that one turn counts for a load: what takes longer did because the processor was another's, or the
process stopped.
"""

HEAR_SECONDS: Final = 0.002
"""How much of a round is for what members have sent; the last that is taken may end after it. Who was not
heard is the first in the next round.
"""

HELD_SECONDS: Final = 2.0
"""Seconds between two looks at the clock that nobody is charged with: each second there is a sweep, so where
there was none, nothing was read either.
"""

_EVENTS_PER_ROUND: Final = 512
_REVIEWED: Final = 16
"""Connections whose level is looked at again in each round: 30 us."""
_CROWD: Final = 64
"""Connections that wait, beyond which one more will not be served in the round in which it is told of."""
_SWEPT_AT_ONCE: Final = 500
"""Connections whose time is looked at before others are served: about 1 ms."""
_LINGER_WAIT: Final = 0.001
_IN: Final = select.EPOLLIN


class Rounds(Protocol):
    """Who wants to work at the end of each round, once everything was read and before anything is sent."""

    def begin(self) -> None:
        """A round begins."""

    def end(self, *, alone: bool) -> None:
        """Everything was read. `alone`: of one connection at most, and nobody waits for a turn. What this
        raises ends the reactor.
        """


class Limits:
    """Bounds of a reactor; see the constants of this module for the defaults and their reasons."""

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
        """What all connections may hold together."""


class Reactor:
    """Accepts connections and drives them; see the module for what it promises.

    `listen` adds a bound, listening socket. `run` is the task. `flush` sends everything written since the
    last flush: whoever completes answers outside a round (the loop, after a batch) calls it once at the end.
    `stop_accepting` is the first step of a graceful stop.
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
    ) -> None:
        """`worked` is told how many seconds each round took, each piece of a sweep and each `hear`."""
        self._worked = worked
        self.dirty: list[Connection] = []
        self.now = self._looked = clock()
        """Monotonic seconds, without those in which the loop was held or the process stopped, `HELD_SECONDS`:
        what a peer takes too long for is judged by this, because it could not be heard meanwhile.
        """
        self._lost = 0.0
        self.accepted = 0
        self.crowd: ConnectionLimit[Connection] = ConnectionLimit(limits.max_connections)
        self._loads = Loads()
        self._lightest = LEVELS
        """The lowest level of a light connection that asked lately, at `_lightest_at`."""
        self._lightest_at = self.now
        self._passed_over = 0
        """Rounds since who had waited longest had a turn."""
        self._heavy_at = float("-inf")
        """When somebody waited who stood far above it. Without any the order is the kernel's, which costs
        nothing.
        """
        self.hurried = False
        """FairQueue are to be short, because somebody asks now and then who asks for little."""
        self.memory: Budget = limits.memory
        self.meter = meter or Meter(clock, log)
        self.pressure = MemoryPressure(limits.memory, self._holders, log)
        self.admission = BodyAdmission(limits.memory, log, self._wake)
        self._turns: FairQueue[Connection] = FairQueue()
        self._in_round = False
        self._limits = limits
        self._http1 = http1
        self._log = log
        self._clock = clock
        self._epoll = select.epoll()
        self.acceptor = Acceptor(self, self._epoll, self.crowd, log, clock)
        self._connections: dict[int, Connection] = {}
        self._attended: dict[int, tuple[Callable[[int], None], Callable[[Exception], None]]] = {}
        self._unheard: dict[int, None] = {}
        """Of those attended, who was ready in the last round and had no turn."""
        self._unfinished: dict[int, None] = {}
        """Who has more to do with what it read."""
        self._hearing: dict[int, int] = {}
        """Who is to have a turn now, and what the kernel said of it."""
        self._to_hear: dict[int, int] | None = None
        """What `hear` is still to read."""
        self._closed = False
        self._unsettled = 0
        self._all_settled: trio.Event | None = None
        self._refusal_told = -1.0
        self._calls: deque[Callable[[], object]] = deque()
        self._called = False
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()
        for end in (self._wakeup_reader, self._wakeup_writer):
            end.setblocking(False)
        self._epoll.register(self._wakeup_reader.fileno(), _IN)
        self._refresh_date()

    @property
    def contended(self) -> bool:
        """Connections wait for their turn."""
        return bool(self._turns)

    def listen(self, sock: socket.socket, credentials: Credentials | None = None) -> None:
        """Serve what this socket accepts, over TLS if there are credentials; it must be bound. The reactor
        owns it from here on.
        """
        self.acceptor.listen(sock, credentials)

    def call_soon(self, call: Callable[[], object]) -> None:
        """From any thread: make this call in the next round, in the order of the calls. RuntimeError once
        `run` is over. For what the member does for itself, results of its disk above all: what a call raises
        ends `run`.
        """
        if self._closed:
            raise RuntimeError("the reactor is closed")
        self._calls.append(call)
        if not self._called:
            self._called = True
            self._write_wakeup()

    async def run(self, connect: Callable[[Connection, Http1Server], Session], rounds: Rounds) -> None:
        """Serve until cancelled, then cut every connection. `connect` makes the session of a new one.

        Awaits only the readiness of the epoll set, so that between two awaits state changes are atomic.
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
                    others = self._clock() + LINGER_SECONDS
                    self._round(0)
                    while self._clock() < others and self._round(_LINGER_WAIT):
                        pass
        finally:
            self._close()

    def flush(self) -> None:
        """Send what was written since the last flush, for `ROUND_SECONDS`; what is left takes its turns. A
        send may close a connection, which may write to others: until all is out.
        """
        if not self.dirty:
            return
        clock, budget = self._clock, self.meter.budget
        at = clock()
        stop = at + ROUND_SECONDS
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for place, connection in enumerate(dirty, 1):
                try:
                    connection.flush()
                except MustStop:
                    raise
                except Exception as fault:  # noqa: BLE001 - as `_serve`, without its two calls
                    self._cut_for(connection, fault)
                now = clock()
                sent = connection.taken - connection.charged
                if sent > COUNTED_BYTES:
                    connection.charged = connection.taken
                    connection.load.add(now, SEND_SECONDS + sent * BYTE_SECONDS)
                if now - at > budget:
                    self.meter.over("sending", now - at, connection.principal)
                at = now
                if now > stop:
                    left, self.dirty = [*dirty[place:], *self.dirty], []
                    for each in left:
                        self._wait(each, BEHIND if each.unsent > SENT_IN_PASSING else 0)
                    return

    def worked(self, connection: Connection, seconds: float) -> None:
        """So much work was done for a connection beside its turns."""
        connection.load.add(self._clock(), seconds)

    def later(self, connection: Connection) -> None:
        """A connection has something to go on with: it gets a turn in one of the next rounds."""
        self._wait(connection, BEHIND)

    def _wait(self, connection: Connection, above: int) -> None:
        """A connection waits for a turn, so many levels above its load."""
        if connection.open:
            self._turns.add(connection, 0, self._looked, above)
            if not self._in_round and not self._called:
                self._called = True
                self._write_wakeup()

    def hear(self) -> bool:
        """Read what members have sent and has not been read yet, because the loop was held, once from each.
        For who is about to judge somebody by what was heard. False when the time was over before all had
        their turn: the next call goes on, and there is one for each of them at most.
        """
        attended = self._attended
        if not attended or self._in_round:
            return True
        began = self._clock()
        if self._to_hear is None:
            told = self._epoll.poll(0, len(self._connections) + len(attended) + 16)
            self._to_hear = dict.fromkeys(self._unfinished, 0) | {
                fd: mask for fd, mask in told if fd in attended
            }
        self._to_hear = self._attend_to_some(self._to_hear) or None
        self._worked(self._clock() - began)
        return self._to_hear is None

    def again(self, fd: int) -> None:
        """Give this descriptor that is attended a turn in the next round, even if it is not ready."""
        if fd in self._attended:
            self._unfinished[fd] = None
            if not self._in_round and not self._called:
                self._called = True
                self._write_wakeup()

    def modify(self, fd: int, mask: int) -> None:
        """Change what a descriptor waits for."""
        if not self._closed:
            self._epoll.modify(fd, mask)

    def attend(
        self, fd: int, mask: int, call: Callable[[int], None], failed: Callable[[Exception], None]
    ) -> None:
        """Watch a descriptor that is no client's in the same rounds. `call` gets what it is ready for; what
        that raises is logged and given to `failed`, which lets go of whoever is behind it. `modify` changes
        the mask; `dismiss` must come before it is closed. OSError when the kernel can watch no more.
        """
        self._epoll.register(fd, mask)
        self._attended[fd] = call, failed

    def dismiss(self, fd: int) -> None:
        """Watch it no more."""
        if self._attended.pop(fd, None) is not None:
            self._unfinished.pop(fd, None)
            self._unheard.pop(fd, None)
            self._hearing.pop(fd, None)  # what the kernel said is not of whoever has this number next
            if self._to_hear is not None:
                self._to_hear.pop(fd, None)
            self._epoll.unregister(fd)

    def forget(self, connection: Connection) -> None:
        """A connection is about to close its socket."""
        del self._connections[connection.fd]
        self.crowd.leave(connection)
        self._loads.leave(connection.load, self._looked)
        self.pressure.forget(connection)
        self._turns.remove(connection)
        connection.settle()
        self._epoll.unregister(connection.fd)
        if self.acceptor.paused:
            self.acceptor.resume()

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        self.acceptor.stop()

    async def drain(self) -> None:
        """Ask every connection to finish, and wait until each has sent all it will. The second step of a
        graceful stop; who calls it bounds the time.
        """
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
        """A connection has sent all it will, or is gone."""
        if self._all_settled is not None:
            self._unsettled -= 1
            if self._unsettled == 0:
                self._all_settled.set()

    def joined(self, principal: str) -> ConnectionLoad:
        """The load of a new connection of this principal, until it is forgotten."""
        return self._loads.join(household(principal), self._looked)

    def named(self, connection: Connection, principal: str) -> None:
        """A connection turned out to be somebody else's than its address said."""
        self.crowd.named(connection, principal)
        self._loads.move(connection.load, household(principal), self._looked)

    def session(self, connection: Connection) -> Session:
        """The session of a connection that can carry one now."""
        return self._connect(connection, self._http1)

    def failed(self, fault: Exception) -> None:
        """What is done for one connection raised this: log it. The connection is cut, or is so already."""
        self._log.warning("connection_failed", error=repr(fault))

    def _serve(self, connection: Connection, call: Callable[..., object], *arguments: object) -> None:
        """What is done for a connection is called through here, or as in `_serve_one` and `flush`, which are
        called for each request and spell it out: a fault cuts that one.
        """
        if not guarded(self.failed, call, *arguments):
            connection.cut()

    def _cut_for(self, connection: Connection, fault: Exception) -> None:
        """Log a fault and cut the connection, as `_serve` does. Called from the except clause."""
        tell(self.failed, fault)
        connection.cut()

    def refused(self, peer: str, reason: str) -> None:
        """A TLS handshake failed. Told at most once a second: anybody can make it happen."""
        if self.now - self._refusal_told >= 1:
            self._refusal_told = self.now
            self._log.warning("tls_handshake_failed", peer=peer, reason=reason)

    def _close(self) -> None:
        self.stop_accepting()
        for connection in list(self._connections.values()):
            connection.cut()
        self._closed = True
        self._attended.clear()
        self._epoll.close()
        self._wakeup_reader.close()
        self._wakeup_writer.close()

    def _wake(self) -> None:
        """Start a round even if no socket is ready. Within a round nothing is needed, because it ends with
        `BodyAdmission.look`.
        """
        if not self._in_round and not self._called:
            self._called = True
            self._write_wakeup()

    def _write_wakeup(self) -> None:
        try:
            self._wakeup_writer.send(b"\0")
        except BlockingIOError:
            return  # unread bytes are there already: one is enough

    def _make_calls(self) -> None:
        self._wakeup_reader.recv(64)
        self._called = False
        calls = self._calls
        for _ in range(len(calls)):  # what they ask for in turn is for the next round
            calls.popleft()()

    @property
    def _pending(self) -> bool:
        """There is work even if no socket is ready."""
        return bool(
            self._turns.places
            or self.dirty
            or self._unfinished
            or self.pressure.looking
            or self.admission.looking
        )

    def _holders(self) -> list[Connection]:
        return list(self._connections.values())

    def _update_now(self) -> float:
        """Bring `now` up to date; gives the clock's own time."""
        at = self._clock()
        if at - self._looked > HELD_SECONDS:
            self._lost += at - self._looked
        self._looked = at
        self.now = at - self._lost
        return at

    def _round(self, wait: float) -> bool:
        """Serve what is ready, waiting for it so many seconds; False when nothing was."""
        pending = self._pending
        ready = self._epoll.poll(0 if pending else wait, _EVENTS_PER_ROUND)
        if not ready and not pending:
            return False
        clock, meter = self._clock, self.meter
        began = self._update_now()
        self._in_round = True
        self._rounds.begin()
        connections, listeners = self._connections, self.acceptor.listeners
        asking: list[tuple[Connection, int]] = []
        calling: list[int] = []
        members: dict[int, int] = {}
        woken = False
        for fd, mask in ready:
            connection = connections.get(fd)
            if connection is not None:
                asking.append((connection, mask))
            elif fd in self._attended:
                members[fd] = mask
            elif fd in listeners:
                calling.append(fd)
            elif fd == self._wakeup_reader.fileno():
                woken = True
        self._hearing = members
        if woken:
            self._make_calls()
        at = clock()
        if at - began > meter.budget:
            meter.over("results", at - began)
        if members or self._unfinished:  # they come first: who leads hangs on them
            self._hear_some(members)
            at = clock()
        if self._turns.places or at - self._heavy_at < LIGHT_SECONDS:
            self._queue_for_turns(asking, at)
            at = self._serve_by_turns(at)
        else:
            at = self._serve_all(asking, at)
        if calling:
            self.acceptor.accept_from(calling)
        waiting = self._turns.places or self._unfinished or self._unheard
        self._rounds.end(alone=len(asking) + len(members) <= 1 and not waiting)
        now = clock()
        if now - at > meter.budget:
            meter.over_turn(now - at)
        self.flush()
        guarded(self.failed, self.admission.look, self.now)
        guarded(self.failed, self.pressure.look, self.now)  # what was promised in this round counts
        self._worked(clock() - began)
        self._in_round = False
        return True

    def _serve_all(self, asking: list[tuple[Connection, int]], at: float) -> float:
        """Serve these in the order in which the kernel told of them. Who is left when the time is over waits
        for its turn. Gives the time.
        """
        stop = at + ROUND_SECONDS
        for place, (connection, mask) in enumerate(asking, 1):
            at = self._serve_one(connection, mask, at)
            if at > stop:
                for left, mask_left in asking[place:]:
                    if left.open:
                        self._turns.add(left, mask_left, at)
                break
        return at

    def _queue_for_turns(self, asking: list[tuple[Connection, int]], at: float) -> None:
        """These wait for their turns, beside those who do already. The kernel tells of few in a round: it is
        not to tell of those again.
        """
        turns = self._turns
        turns.review(at, _REVIEWED)  # of those who wait since an earlier round
        waiting = turns.places
        if at - self._lightest_at > LIGHT_SECONDS:
            self._lightest = LEVELS
        for connection, mask in asking:
            if connection.fd < 0:
                continue  # what came before in this round closed it
            if len(waiting) > _CROWD or connection in waiting:
                connection.rest()
            load = connection.load
            level = turns.add(connection, mask, at, BEHIND if load.has_long_turns else 0)
            if level <= self._lightest and load.is_light(at):
                self._lightest, self._lightest_at = level, at

    def _serve_by_turns(self, at: float) -> float:
        """Serve those who wait by turns. Gives the time.

        Where some stand far above a light connection that asks now and then, they have `HEAVY_SECONDS` of a
        round, and half of that in one in which light ones are served. Of `PASSED_OVER` rounds one has a turn
        for who has waited longest.
        """
        turns = self._turns
        first = turns.first
        heavy = self._lightest + APART
        stop = at + (ROUND_SECONDS if first < heavy else HEAVY_SECONDS)
        self.hurried = self._lightest < LEVELS
        waiting = turns.places
        for _ in range(len(waiting) - 1):
            if at > stop or not waiting:
                break
            if first < heavy <= turns.first:
                first, stop = heavy, min(stop, at + HEAVY_SECONDS / 2)  # the light are served
            at = self._serve_one(*turns.take(), at)
        if waiting and turns.first >= heavy:
            self._heavy_at = at
        self._passed_over += 1
        if waiting and (at <= stop or self._passed_over >= PASSED_OVER):
            self._passed_over = 0
            at = self._serve_one(*turns.longest(), at)
        self.hurried = False
        return at

    def _serve_one(self, connection: Connection, mask: int, at: float) -> float:
        try:
            connection.ready(mask)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - as `_serve`, without its two calls
            self._cut_for(connection, fault)
        now = self._clock()
        seconds = now - at
        if seconds > self.meter.budget:
            self.meter.over("requests", seconds, connection.principal)
        connection.load.add_turn(now, min(seconds, CHARGED_SECONDS))
        return now

    def add(self, sock: socket.socket, address: Any, credentials: Credentials | None) -> None:
        """Serve an accepted connection. OSError when the kernel can watch no more."""
        self._epoll.register(sock.fileno(), _IN)
        connection = Connection(self, sock, address, self.now, credentials)
        self._connections[connection.fd] = connection
        self.crowd.join(connection)
        self.accepted += 1
        if credentials is None:
            self._serve(connection, connection.begin)

    def _hear_some(self, members: dict[int, int]) -> None:
        """Give these their turns, and who has more to do. First who had none in the last round: the kernel
        tells of it again.
        """
        first = {fd: members[fd] for fd in self._unheard if fd in members}
        unfinished = {fd: members.get(fd, 0) for fd in self._unfinished if fd not in first}
        self._unheard = dict.fromkeys(self._attend_to_some(first | unfinished | members))

    def _attend_to_some(self, members: dict[int, int]) -> dict[int, int]:
        """Give these their turns until the time is over. Who is left, in order; whoever is dismissed
        meanwhile is not among them.
        """
        clock, budget = self._clock, self.meter.budget
        at = clock()
        stop = at + HEAR_SECONDS
        self._hearing = members
        while members and at <= stop:
            fd = next(iter(members))
            mask = members.pop(fd)
            self._unfinished.pop(fd, None)
            self._attend_to(fd, mask)
            now = clock()
            if now - at > budget:
                self.meter.over("messages", now - at)
            at = now
        return members

    def _attend_to(self, fd: int, mask: int) -> None:
        call, failed = self._attended[fd]

        def failure(fault: Exception) -> None:
            guarded(self.failed, failed, fault)  # first: it must not hang on whether a line can be written
            self._log.warning("stream_failed", error=repr(fault))

        guarded(failure, call, mask)

    def sweep(self) -> None:
        """Once a second: the date line, stalled peers, another try at accepting. O(connections)."""
        self._sweep_begins()
        self._sweep(list(self._connections.values()))

    def _sweep_begins(self) -> None:
        self._update_now()
        self._refresh_date()
        guarded(self.failed, self.admission.sweep)
        guarded(self.failed, self.admission.look, self.now)
        guarded(self.failed, self.pressure.sweep)
        guarded(self.failed, self.pressure.look, self.now)
        self.acceptor.sweep()

    def _sweep(self, connections: Iterable[Connection]) -> None:
        at = self._update_now()
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
