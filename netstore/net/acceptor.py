"""Accepting connections of clients: the listening sockets, the limit of connections, and pauses when it is
reached.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any, Final

from netstore.guard import guarded
from netstore.net.accept import CannotAccept, accept
from netstore.net.listener import listen

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.connection import Connection
    from netstore.net.connectionlimit import ConnectionLimit
    from netstore.net.http1.server import Http1Server
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.seams import Log

KERNEL_BUFFER: Final = 128 * 1024
"""Bytes the kernel may buffer for a connection in each direction; it reserves twice that. Without it a buffer
grows to the limits in `tcp_rmem` and `tcp_wmem`, 4 to 32 MiB, and counts as memory of this process's control
group (socket(7), tcp(7)). For a client 20 ms away this allows 6 MiB a second.
"""

ACCEPT_SECONDS: Final = 0.001
"""Time of a round for accepting connections; each takes about 50 us."""

_ACCEPTS_PER_ROUND: Final = 64
_BACKLOG: Final = 1024
_IN: Final = select.EPOLLIN


class Acceptor:
    """The listening sockets of a reactor. When no connection can be accepted, none of them is watched until a
    connection closes or the next sweep, because they would be ready again at once.
    """

    def __init__(
        self,
        reactor: Reactor,
        epoll: select.epoll,
        limit: ConnectionLimit[Connection],
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._epoll = epoll
        self._limit = limit
        self._log = log
        self._clock = clock
        self.listeners: dict[int, tuple[socket.socket, Credentials | None, Http1Server | None]] = {}
        """Descriptor -> listening socket, what TLS needs, and the one that serves this port alone."""
        self.paused = False
        """The listeners are not watched."""
        self._closing_logged = -1.0
        """When the last connection closed for another one was logged."""

    def listen(
        self, sock: socket.socket, credentials: Credentials | None, http1: Http1Server | None = None
    ) -> None:
        """See `Reactor.listen`."""
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER)
        listen(sock, _BACKLOG)
        self.listeners[sock.fileno()] = sock, credentials, http1
        self._epoll.register(sock.fileno(), _IN)

    def stop(self) -> None:
        """Close the listening sockets."""
        for fd, (sock, _, _) in self.listeners.items():
            if not self.paused:
                self._epoll.unregister(fd)
            sock.close()
        self.listeners.clear()

    def accept_from(self, ready: list[int]) -> None:
        """Accept from the listeners that are ready. If one fails for whatever reason, all of them pause."""
        for fd in ready:
            listener = self.listeners.get(fd)
            if listener is None or self.paused:
                return  # closed in this round, or paused for the listener before
            if not guarded(self._reactor.failed, self.accept, *listener):
                self.pause("accepting failed", len(self._limit))

    def accept(
        self, listener: socket.socket, credentials: Credentials | None, http1: Http1Server | None = None
    ) -> None:
        """Accept connections from one listener, for `ACCEPT_SECONDS`."""
        stop = self._clock() + ACCEPT_SECONDS
        for _ in range(_ACCEPTS_PER_ROUND):
            if self._limit.full and not self._limit.can_evict:
                self.pause("connection limit", self._limit.most)
                return
            try:
                accepted = accept(listener)
            except CannotAccept as why:
                silent = self._limit.oldest_silent
                if silent is None:
                    self.pause(str(why), len(self._limit))
                    return
                silent.cut()
                continue
            if accepted is None:
                return
            if not guarded(self._reactor.failed, self.admit, *accepted, credentials, http1):
                accepted[0].close()
            if self._clock() > stop:
                return

    def admit(
        self,
        sock: socket.socket,
        address: Any,
        credentials: Credentials | None,
        http1: Http1Server | None = None,
    ) -> None:
        """Add an accepted connection, if there is or can be made room for it."""
        if self._limit.full and not self.make_room(address[0] if isinstance(address, tuple) else ""):
            sock.close()
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A read stops at urgent data otherwise, and a short read has to mean that nothing is left.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._reactor.add(sock, address, credentials, http1)

    def make_room(self, coming: str) -> bool:
        """Cut a connection in favour of a new one of this principal; False to refuse the new one."""
        victim = self._limit.victim(coming)
        principal = coming if victim is None else victim.principal
        now = self._reactor.now
        if now - self._closing_logged >= 1:
            self._closing_logged = now
            has_sent = victim is None or victim.heard
            share = f"it has more than its share, {self._limit.share} of {self._limit.most}"
            self._log.warning(
                "connection_let_go",
                principal=principal,
                reason=share if has_sent else "it never said anything",
                limit="max_connections",
                connections=len(self._limit),
                fix="raise max_connections if all of them are wanted",
            )
        if victim is None:
            return False
        victim.cut()
        return True

    def pause(self, reason: str, connections: int) -> None:
        """Stop watching all listeners. Does nothing if they are paused."""
        if self.paused:
            return
        self._log.warning("accepting_paused", reason=reason, connections=connections)
        self.paused = True
        for fd in self.listeners:
            self._epoll.unregister(fd)

    def resume(self) -> None:
        """Watch the listeners again, if they are paused."""
        if self.paused and self.listeners:
            self.paused = False
            for fd in self.listeners:
                self._epoll.register(fd, _IN)

    def sweep(self) -> None:
        """Once a second: try again to accept, unless the limit of connections is still reached."""
        if not self._limit.full or self._limit.can_evict:
            self.resume()
