"""All client connections in one Trio task.

The reactor owns an epoll set and waits, in Trio, for that one descriptor. A round takes every socket that is
ready, reads it once, lets its codec hand over what is complete, and at the end sends everything that was
answered meanwhile, one send for each connection. So a request costs a system call each way and no task
switch; a task with a reader and a writer for each connection costs about 15 us more for each request
(`contrib/doc/adr/0003-reactor.md` has the figures).

After a round the reactor looks for the next one by itself, because it most often follows at once: the disk is
done, the client sends its next request. Only when nothing comes for a millisecond, or `LINGER_SECONDS` have
passed, do Trio's other tasks get their turn; a way through Trio costs 100 us of processor for each.

Invariants: a socket is in the epoll set exactly while its connection is open; nothing here blocks for longer
than that millisecond, and that only while nothing is ready; whatever is raised by what is done for a
connection closes that connection only (`Reactor._serve`), unless the member must stop; what a connection may
hold (unsent bytes, unanswered requests, time without progress) is bounded.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore.guard import guarded
from netstore.limits import Budget
from netstore.net.accept import CannotAccept, accept
from netstore.net.crowd import Crowd
from netstore.net.http1 import HIGH_WATER
from netstore.net.tls import TlsFailed, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.http1 import Http1Server
    from netstore.net.tls import Credentials

READ_SIZE: Final = 64 * 1024
"""Bytes taken by one read; what a client sends beyond it waits for the next round."""

MAX_CONNECTIONS: Final = 10_000
"""Open connections; at the limit `crowd` says who goes for one more, if anybody."""

STALL_SECONDS: Final = 30.0
"""How long a request may stay incomplete, an answer unread, or a closing connection open."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take for its TLS handshake, from being accepted."""

MEMORY: Final = 64 * 1024 * 1024
"""Bytes that all connections may hold together."""

DRAIN_LIMIT: Final = 64 * 1024 * 1024
"""Bytes read and dropped from a closing connection, so that the last answer reaches the client instead of a
reset (RFC 9112, 9.6).
"""

LINGER_SECONDS: Final = 0.005
"""How long rounds may follow each other before other tasks get their turn."""

_ACCEPTS_PER_ROUND: Final = 64
_BACKLOG: Final = 1024
_EVENTS_PER_ROUND: Final = 512
_LINGER_WAIT: Final = 0.001
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_PLAIN_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class Session(Protocol):
    """A codec over one connection, as the reactor drives it (`Http1Connection`, `Http2Connection`)."""

    @property
    def busy(self) -> bool:
        """Nothing more should be read for now."""

    @property
    def reading(self) -> bool:
        """What comes from the peer still means something."""

    @property
    def waiting(self) -> bool:
        """Part of a message is here, the rest is not."""

    @property
    def late(self) -> bool:
        """The peer took longer than it may to complete what it began; found out by `sweep`."""

    @property
    def hungry(self) -> bool:
        """`resume` may have something to do once what was written is sent."""

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read."""

    def resume(self) -> None:
        """Go on with what was read and not handled yet, if the bounds allow it now."""

    def eof(self) -> None:
        """The peer sends nothing more."""

    def gone(self) -> None:
        """The connection is closed."""

    def refuse(self, status: int, text: bytes) -> None:
        """Say why, then close."""

    def sweep(self, now: float) -> None:
        """Once a second, with the time."""

    def drain(self) -> None:
        """The server stops: take nothing new, and finish the connection once what waits is answered."""


class Handshake:
    """Stands in for the session of a TLS connection until it is open. Implements `Session`."""

    busy = False
    reading = True
    waiting = True
    hungry = False
    late = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self, data: bytes) -> None:
        """Never: nothing can be read before the handshake is over."""

    def resume(self) -> None:
        """Nothing waits."""

    def eof(self) -> None:
        """The peer gave up."""
        self._connection.cut()

    def gone(self) -> None:
        """Nobody is to be told."""

    def refuse(self, status: int, text: bytes) -> None:
        """It took too long. Nothing can be said over what is not open."""
        self._connection.abandon(f"{status}: {text.decode()}")

    def sweep(self, now: float) -> None:
        """`Connection.stalled` keeps the time."""

    def drain(self) -> None:
        """Nothing was asked yet."""
        self._connection.cut()


class Rounds(Protocol):
    """Who wants to work at the end of each round, once everything was read and before anything is sent."""

    def begin(self) -> None:
        """A round begins."""

    def end(self) -> None:
        """Everything was read. What this raises ends the reactor."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


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


class Connection:
    """One accepted socket: reads for its session, sends what the session wrote. Implements `http1.Output`.

    With `credentials` both go through TLS; the session is made when the handshake is over.
    """

    __slots__ = (
        "_accepted",
        "_address",
        "_closing",
        "_dirty",
        "_drained",
        "_farewell",
        "_mask",
        "_reactor",
        "_sealed",
        "_socket",
        "_spoken",
        "_tunnel",
        "_unsent",
        "_unsent_size",
        "account",
        "fd",
        "heard",
        "principal",
        "progress",
        "session",
        "settled",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        address: Any,
        now: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._address = address
        self.fd = sock.fileno()
        self.account = reactor.memory.account()
        """What this connection holds of the memory for all, here and in its session."""
        self.principal: str = address[0] if isinstance(address, tuple) else ""
        """Who this is, for sharing fairly and for the record: the common name of the certificate once that is
        known, else the address without its port; empty for a socket of the machine's own.
        """
        self.session: Session = Handshake(self)
        self.progress = self._accepted = now
        self._tunnel = None if credentials is None else Tunnel(credentials.server(), None)
        self._unsent: deque[bytes | memoryview] = deque()
        self._sealed: bytes | memoryview | None = None
        """What is to go over the wire before the rest, as it is."""
        self.heard = False
        """It sent something that its session was given, or opened its TLS."""
        self._farewell = False
        self._spoken = False
        self.settled = False
        self._unsent_size = 0
        self._dirty = False
        self._closing = False
        self._drained = 0
        self._mask = _IN

    def begin(self) -> None:
        """It can carry a session now."""
        name = self.common_name
        if name:
            self._reactor.crowd.named(self, name)
        self.session = self._reactor.session(self)

    @property
    def open(self) -> bool:
        """The socket has not been closed."""
        return self.fd >= 0

    @property
    def peer(self) -> str:
        """The address of the client, as `127.0.0.1:40312`; empty where it has none."""
        if not isinstance(self._address, tuple):
            return ""
        host, port = self._address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def protocol(self) -> str | None:
        """What both sides agreed on in the TLS handshake (ALPN); None where they did not."""
        return None if self._tunnel is None else self._tunnel.protocol

    @property
    def common_name(self) -> str | None:
        """The common name in the client's certificate, if it showed one."""
        return None if self._tunnel is None else self._tunnel.common_name

    @property
    def idle(self) -> bool:
        """Nothing is being sent or answered, as far as can be told from here."""
        return not (self._unsent_size or self._closing or self.session.waiting or self.session.busy)

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes; they leave when the reactor flushes."""
        if self.fd < 0:
            return
        self._unsent.append(data)
        self._unsent_size += len(data)
        if not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._unsent_size

    def finish(self) -> None:
        """Send what is queued, then close both ways, giving the peer time to read it."""
        self._closing = True
        if self.fd >= 0 and not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call of the session in the next round: it has read more than it does in one."""
        self._reactor.later(self, call)

    def go_on(self, call: Callable[[], None]) -> None:
        """That call, if the connection is still open."""
        if self.fd >= 0:
            call()
            self._watch()

    def cut(self) -> None:
        """Close now."""
        if self.fd < 0:
            return
        self._reactor.forget(self)
        self._socket.close()
        self.fd = -1
        self._unsent.clear()
        self._sealed = None
        self._unsent_size = 0
        self.account.close()
        guarded(self._reactor.failed, self.session.gone)

    def abandon(self, reason: str) -> None:
        """The TLS handshake came to nothing."""
        self._reactor.refused(self.peer, reason)
        self.cut()

    def ready(self, mask: int) -> None:
        """The kernel has something to read, room to write, or bad news."""
        if mask & _OUT:
            self._send()
            self.resume()
        if mask & _IN and self.fd >= 0:
            self._read()
        elif mask & ~(_IN | _OUT):
            self.cut()

    def flush(self) -> None:
        """Send what was written since the last flush, then go on with what had to wait for that."""
        self._dirty = False
        if self.fd >= 0 and not self._mask & _OUT:
            self._send()
        self.resume()

    def sweep(self, now: float, limit: float) -> None:
        """Once a second: look at the time. A peer that stalled for longer than the limit is given up."""
        if self.fd >= 0 and self.stalled(now, limit):
            self.give_up()

    def stalled(self, now: float, limit: float) -> bool:
        """The peer owes us something (the rest of a request, reading an answer, a close) for longer than the
        limit, in seconds.
        """
        if self._tunnel is not None and not self._tunnel.open and now - self._accepted > HANDSHAKE_SECONDS:
            return True
        self.session.sweep(now)
        if self.session.late:
            return True
        owes = self._closing or self._unsent_size > 0 or self.session.waiting
        if not owes:
            self.progress = now
        return now - self.progress > limit

    def give_up(self) -> None:
        """The peer stalled: say so if it may still listen, then close."""
        if self._tunnel is not None and not self._tunnel.open:
            self.session.refuse(408, b"no handshake in time")
        elif self._unsent_size or self._closing or not self.session.waiting:
            self.cut()
        else:
            self.session.refuse(408, b"408 Request Timeout")

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.cut()
            return
        if self._closing or not self.session.reading:
            self._drain(data)
        elif data:
            self.progress = self._reactor.now
            if self._tunnel is not None:
                data = self._untunnel(self._tunnel, data)
            if not self.heard and (data or self._is_open):
                self.heard = True
                self._reactor.crowd.spoke(self)
            if data:
                self.session.receive(data)
            if self._tunnel is not None and self._tunnel.ended and self.fd >= 0:
                self.session.eof()
            if self.session.busy or not self.session.reading or self._unsent_size > HIGH_WATER:
                self._watch()
        else:
            self.session.eof()
            self._watch()

    @property
    def _is_open(self) -> bool:
        return self._tunnel is None or self._tunnel.open

    def _untunnel(self, tunnel: Tunnel, data: bytes) -> bytes:
        """The plain bytes that `data` completes; empty where the connection is not so far, or over."""
        spoken, self._spoken = self._spoken, True
        if not spoken and data[:1].isalpha():
            # No record of TLS begins with a letter, every request of HTTP does.
            self._tunnel = None
            self.write(_PLAIN_HTTP)
            self.finish()
            return b""
        shaken = tunnel.open
        try:
            plain = tunnel.take(data)
        except TlsFailed as fault:
            # Close in order: a reset would overtake the alert that says what is wrong.
            self._seal(tunnel.outbound())
            self._tunnel = None
            self.finish()
            if shaken:
                self.session.gone()
            else:
                self._reactor.refused(self.peer, str(fault))
            return b""
        self._seal(tunnel.outbound())
        if tunnel.open and not shaken:
            self.begin()
        return plain

    def _seal(self, data: bytes) -> None:
        """Send what TLS itself has to say."""
        if data:
            self._sealed = data if self._sealed is None else b"".join((self._sealed, data))
            self._unsent_size += len(data)
            if not self._dirty:
                self._dirty = True
                self._reactor.dirty.append(self)

    def _drain(self, data: bytes) -> None:
        self._drained += len(data)
        if not data or self._drained > DRAIN_LIMIT:
            if self._closing and not self._unsent_size:
                self.cut()
            elif not data:
                self.session.eof()
                self._watch()
            else:
                self.cut()

    def _send(self) -> None:
        unsent, tunnel = self._unsent, self._tunnel
        while unsent or self._sealed is not None:
            if self._sealed is not None:
                data, self._sealed = self._sealed, None
            else:
                data = unsent.popleft()
                if unsent and len(data) < READ_SIZE:
                    unsent.appendleft(data)
                    data = b"".join(unsent)
                    unsent.clear()
                if tunnel is not None:
                    self._unsent_size -= len(data)
                    data = tunnel.send(data)
                    self._unsent_size += len(data)
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.cut()
                return
            self._unsent_size -= sent
            if sent:
                self.progress = self._reactor.now
            if sent < len(data):
                rest = memoryview(data)[sent:]
                if tunnel is not None:
                    self._sealed = rest
                else:
                    unsent.appendleft(rest)
                break
        if self._closing and not self._unsent_size and tunnel is not None and not self._farewell:
            self._farewell = True
            self._seal(tunnel.close())
        elif self._closing and not self._unsent_size:
            self._shut()
        elif self._unsent_size or self._mask != _IN:
            self._watch()

    def _shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()
            return
        self.progress = self._reactor.now
        self.settle()
        self._watch()

    def settle(self) -> None:
        """Everything was answered and sent, or nothing more can be."""
        if not self.settled:
            self.settled = True
            self._reactor.settled()

    def _watch(self) -> None:
        """Tell the kernel what this connection waits for now."""
        if self.fd < 0:
            return
        paused = not self._closing and (
            self.session.busy or not self.session.reading or self._unsent_size > HIGH_WATER
        )
        mask = (0 if paused else _IN) | (_OUT if self._unsent_size else 0)
        if mask != self._mask:
            self._mask = mask
            self._reactor.modify(self.fd, mask)

    def resume(self) -> None:
        """Answers left: handling and reading may go on."""
        if self.fd >= 0 and (self._mask != _IN or self.session.hungry):
            self.session.resume()
            self._watch()


class Reactor:
    """Accepts connections and drives them; see the module for what it promises.

    `listen` adds a bound, listening socket. `run` is the task. `flush` sends everything written since the
    last flush: whoever completes answers outside a round (the loop, after a batch) calls it once at the end.
    `stop_accepting` is the first step of a graceful stop.
    """

    def __init__(self, limits: Limits, http1: Http1Server, log: Log, clock: Callable[[], float]) -> None:
        self.dirty: list[Connection] = []
        self.now = clock()
        self.accepted = 0
        self.crowd: Crowd[Connection] = Crowd(limits.max_connections)
        self.memory = limits.memory
        self._limits = limits
        self._http1 = http1
        self._log = log
        self._clock = clock
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, Credentials | None]] = {}
        self._connections: dict[int, Connection] = {}
        self._attended: dict[int, tuple[Callable[[int], None], Callable[[Exception], None]]] = {}
        self._accepting = True
        self._closed = False
        self._unsettled = 0
        self._all_settled: trio.Event | None = None
        self._refusal_told = self._crowded_told = -1.0
        self._calls: deque[Callable[[], object]] = deque()
        self._called = False
        self._bell, self._bell_button = socket.socketpair()
        for end in (self._bell, self._bell_button):
            end.setblocking(False)
        self._epoll.register(self._bell.fileno(), _IN)
        self._refresh_date()

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def listen(self, sock: socket.socket, credentials: Credentials | None = None) -> None:
        """Serve what this socket accepts, over TLS if there are credentials; it must be bound. The reactor
        owns it from here on.
        """
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        self._listeners[sock.fileno()] = sock, credentials
        self._epoll.register(sock.fileno(), _IN)

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
            self._ring()

    def later(self, connection: Connection, call: Callable[[], None]) -> None:
        """Make a call for a connection in the next round."""
        if not self._closed:
            self.call_soon(partial(self._serve, connection, connection.go_on, call))

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
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    others = self._clock() + LINGER_SECONDS
                    self._round(0)
                    while self.now < others and self._round(_LINGER_WAIT):
                        pass
        finally:
            self._close()

    def flush(self) -> None:
        """Send what was written since the last flush. A send may close a connection, which may write to
        others: until all is out.
        """
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                self._serve(connection, connection.flush)

    def modify(self, fd: int, mask: int) -> None:
        """Change what a descriptor waits for."""
        if not self._closed:
            self._epoll.modify(fd, mask)

    def attend(
        self, fd: int, mask: int, call: Callable[[int], None], failed: Callable[[Exception], None]
    ) -> None:
        """Watch a descriptor that is no client's in the same rounds. `call` gets what it is ready for; what
        that raises is logged and given to `failed`, which lets go of whoever is behind it. `modify` changes
        the mask; `dismiss` must come before it is closed.
        """
        self._attended[fd] = call, failed
        self._epoll.register(fd, mask)

    def dismiss(self, fd: int) -> None:
        """Watch it no more."""
        if self._attended.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, connection: Connection) -> None:
        """A connection is about to close its socket."""
        del self._connections[connection.fd]
        self.crowd.leave(connection)
        connection.settle()
        self._epoll.unregister(connection.fd)
        if not self._accepting and self._listeners:
            self._resume_accepting()

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for fd, (sock, _) in self._listeners.items():
            if self._accepting:
                self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()

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

    def session(self, connection: Connection) -> Session:
        """The session of a connection that can carry one now."""
        return self._connect(connection, self._http1)

    def failed(self, fault: Exception) -> None:
        """What is done for one connection raised this: log it. The connection is cut, or is so already."""
        self._log.warning("connection_failed", error=repr(fault))

    def _serve(self, connection: Connection, call: Callable[..., object], *arguments: object) -> None:
        """Everything that is done for a connection is called through here: a fault cuts that one."""
        if not guarded(self.failed, call, *arguments):
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
        self._bell.close()
        self._bell_button.close()

    def _ring(self) -> None:
        try:
            self._bell_button.send(b"\0")
        except BlockingIOError:
            return  # it has not been heard yet: one byte is as good as many

    def _make_calls(self) -> None:
        self._bell.recv(64)
        self._called = False
        calls = self._calls
        for _ in range(len(calls)):  # what they ask for in turn is for the next round
            calls.popleft()()

    def _round(self, wait: float) -> bool:
        """Serve what is ready, waiting for it so many seconds; False when nothing was."""
        ready = self._epoll.poll(wait, _EVENTS_PER_ROUND)
        if not ready:
            return False
        self.now = self._clock()
        self._rounds.begin()
        connections = self._connections
        for fd, mask in ready:
            connection = connections.get(fd)
            if connection is not None:
                self._serve(connection, connection.ready, mask)
            elif fd in self._attended:
                self._attend_to(fd, mask)
            elif fd in self._listeners:
                self._accept(*self._listeners[fd])
            elif fd == self._bell.fileno():
                self._make_calls()
        self._rounds.end()
        self.flush()
        return True

    def _accept(self, listener: socket.socket, credentials: Credentials | None) -> None:
        for _ in range(_ACCEPTS_PER_ROUND):
            if self.crowd.full and not self.crowd.yields:
                self._pause_accepting("connection limit", self._limits.max_connections)
                return
            try:
                accepted = accept(listener)
            except CannotAccept as why:
                silent = self.crowd.silent
                if silent is None:
                    self._pause_accepting(str(why), len(self._connections))
                    return
                silent.cut()
                continue
            if accepted is None:
                return
            if not guarded(self.failed, self._admit, *accepted, credentials):
                accepted[0].close()

    def _admit(self, sock: socket.socket, address: Any, credentials: Credentials | None) -> None:
        if self.crowd.full and not self._make_room(address[0] if isinstance(address, tuple) else ""):
            sock.close()
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = Connection(self, sock, address, self.now, credentials)
        self._epoll.register(connection.fd, _IN)
        self._connections[connection.fd] = connection
        self.crowd.join(connection)
        self.accepted += 1
        if credentials is None:
            self._serve(connection, connection.begin)

    def _make_room(self, coming: str) -> bool:
        """One connection goes for the one that comes; False where that one is to go."""
        weakest = self.crowd.weakest(coming)
        gone = coming if weakest is None else weakest.principal
        if self.now - self._crowded_told >= 1:
            self._crowded_told = self.now
            said = weakest is None or weakest.heard
            self._log.warning(
                "connection_let_go",
                principal=gone,
                reason="it has more than its share" if said else "it never said anything",
                connections=len(self.crowd),
                fix="raise max_connections if all of them are wanted",
            )
        if weakest is None:
            return False
        weakest.cut()
        return True

    def _attend_to(self, fd: int, mask: int) -> None:
        call, failed = self._attended[fd]

        def fell(fault: Exception) -> None:
            self._log.warning("stream_failed", error=repr(fault))
            guarded(self.failed, failed, fault)

        guarded(fell, call, mask)

    def _pause_accepting(self, reason: str, connections: int) -> None:
        self._log.warning("accepting_paused", reason=reason, connections=connections)
        self._accepting = False
        for fd in self._listeners:
            self._epoll.unregister(fd)

    def _resume_accepting(self) -> None:
        self._accepting = True
        for fd in self._listeners:
            self._epoll.register(fd, _IN)

    def sweep(self) -> None:
        """Once a second: the date line, stalled peers, another try at accepting. O(connections)."""
        self.now = now = self._clock()
        self._refresh_date()
        limit = self._limits.stall_seconds
        for connection in list(self._connections.values()):
            self._serve(connection, connection.sweep, now, limit)
        if not self._accepting and self._listeners and (not self.crowd.full or self.crowd.yields):
            self._resume_accepting()
        self.flush()

    async def _sweep_each_second(self) -> None:
        while True:
            await trio.sleep(1)
            self.sweep()

    def _refresh_date(self) -> None:
        self._http1.set_date(b"Date: " + formatdate(usegmt=True).encode() + b"\r\n")
