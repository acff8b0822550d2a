"""One socket between two members, driven by the reactor: passes what it reads to its handler, sends what
the handler writes.

A write goes to the kernel at once if nothing is queued before it, so a message that the member's loop
decided on is sent before the turn ends, without a task switch. What the kernel does not accept is queued;
the handler bounds the queue by looking at `unsent`. Record tags and TLS are computed as the kernel accepts
the result, `ENCODED_PER_TURN` in a turn, so that a large write does not block the loop. No call blocks. A
link ends once; its handler is then told the reason.

`net.connection` drives the sockets of clients. The two share the queue of pieces (`net.sendqueue`) and TLS
(`net.tls`); `net/DESIGN.md` says why not more.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from netstore.net.sendqueue import rest_of, take_joined
from netstore.net.tls import TlsFailed, Tunnel
from netstore.peer.records import RecordTampered

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.peer.records import RecordLayer

READ_BYTES: Final = 256 * 1024
"""Size of one read."""

ENCODED_PER_TURN: Final = 256 * 1024
"""Bytes put into records or TLS in one turn: half a millisecond."""

HANDSHAKE_BYTES: Final = 128 * 1024
"""Most bytes of a TLS handshake that the other side may send: far more than a certificate chain needs."""

UNACKNOWLEDGED_MS: Final = 10_000
"""TCP user timeout: how long sent data may stay unacknowledged (RFC 5482)."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT


class LinkHandler(Protocol):
    """The user of a link. All calls are made on the loop."""

    def opened(self) -> None:
        """Bytes may be written: TLS, where it is used, is established."""

    def received(self, data: bytes) -> None:
        """Bytes were read."""

    def flushed(self) -> None:
        """The kernel has accepted everything that was written, after some of it had to be queued."""

    def gone(self, reason: str) -> None:
        """The link has ended; no other call follows."""


class _NullHandler:
    """The `LinkHandler` of a link that has ended: it breaks the reference cycle of link and handler."""

    def opened(self) -> None:
        """Does nothing."""

    def received(self, data: bytes) -> None:
        """Does nothing."""

    def flushed(self) -> None:
        """Does nothing."""

    def gone(self, reason: str) -> None:
        """Does nothing."""


_NULL_HANDLER: Final = _NullHandler()


class Link:
    """A connected socket; inactive until `start`."""

    __slots__ = (
        "_encoded",
        "_fd",
        "_gate",
        "_gate_passed",
        "_handler",
        "_handshake_bytes",
        "_later",
        "_mask",
        "_paused",
        "_reactor",
        "_records",
        "_socket",
        "_tunnel",
        "_unencoded",
        "taken",
        "unsent",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        handler: LinkHandler,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
        *,
        gate: Callable[[], bool] | None = None,
    ) -> None:
        """Take ownership of a connected socket. With `tls`, `host` is the server name to verify; None at the
        called side.

        `gate` is called before bytes of a TLS handshake are read. If it returns False, nothing is read until
        `resume` with `passed`.
        """
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._reactor = reactor
        self._socket = sock
        self._fd = sock.fileno()
        self._handler: LinkHandler = handler
        self._tunnel = None if tls is None else Tunnel(tls, host)
        self._records: RecordLayer | None = None
        self._encoded: deque[bytes | memoryview] = deque()
        """Bytes ready for the kernel."""
        self._unencoded: deque[bytes | memoryview] = deque()
        """Bytes that follow them, not yet put into records or TLS."""
        self.unsent = 0
        """Bytes that the kernel has not accepted yet."""
        self.taken = 0
        """Bytes that the kernel accepted after they were queued: while it grows, the other side reads."""
        self._mask = _IN
        self._paused = False
        self._gate = gate
        self._later: Callable[[], None] | None = None
        """Called in the next round before more is read; see `later`."""
        self._gate_passed = False
        self._handshake_bytes = 0
        """Bytes of the TLS handshake read so far."""

    @property
    def open(self) -> bool:
        """It has not ended."""
        return self._fd >= 0

    def start(self) -> None:
        """Begin to read. The handler's `opened` is called once it may write: at once without TLS.

        Ends at once if the kernel refuses to watch the socket.
        """
        try:
            self._reactor.watched.watch(self._fd, _IN, self._ready, self._failed)
        except OSError as error:
            self.cut(f"cannot be watched: {error.strerror or error}")
            return
        if self._tunnel is None:
            self._handler.opened()
        else:
            self._send(self._tunnel.begin())

    def write(self, data: bytes) -> None:
        """Send bytes; they are lost if the link has ended, or ends before they are sent."""
        if self._fd < 0 or not data:
            return
        if self._records is None and self._tunnel is None:
            self._send(data)
            return
        first = not self.unsent
        self._unencoded.append(data)
        self.unsent += len(data)
        if first:
            self._send(self._encode_some())
            self._watch()

    def use_records(self, records: RecordLayer) -> None:
        """From now on, put what is written into records, and expect records."""
        while self._unencoded:
            self._send(self._encode_some())  # greetings, which are short
        self._records = records

    def decoded(self, data: bytes) -> bytes:
        """The contents of the records that were read, or as much as is decoded in a turn: the rest follows in
        the next ones. Empty if a record was tampered with, which ends the link.
        """
        if self._records is None:
            return data
        try:
            plain = self._records.decode(data)
        except RecordTampered as fault:
            self.cut(str(fault))
            return b""
        self._continue()
        return plain

    def _continue(self) -> None:
        """Ask for another turn if records that were read are not decoded yet."""
        if self._records is not None and self._records.has_pending and not self._paused and self._fd >= 0:
            self._reactor.watched.again(self._fd)

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True
        self._watch()

    def resume(self, *, passed: bool = False) -> None:
        """Read again. With `passed` the gate is not called before the next read."""
        self._paused = False
        self._gate_passed = passed
        self._watch()
        self._continue()

    def later(self, call: Callable[[], None]) -> None:
        """Call this in the next round, before more is read: for input that is too long for one turn. An
        exception is handled like one of the handler's `received`.
        """
        if self._fd >= 0:
            self._later = call
            self._reactor.watched.again(self._fd)

    def cut(self, reason: str) -> None:
        """End now, without sending what is queued."""
        if self._fd < 0:
            return
        self._reactor.watched.unwatch(self._fd)
        self._fd = -1
        self._socket.close()
        self._encoded.clear()
        self._unencoded.clear()
        self.unsent = 0
        handler, self._handler, self._gate, self._later = self._handler, _NULL_HANDLER, None, None
        handler.gone(reason)

    def _failed(self, fault: Exception) -> None:
        """The handler raised this on what was received: end the link."""
        self.cut(f"fault in what it sent, or in taking it: {fault!r}")

    def _ready(self, mask: int) -> None:
        if mask & _OUT:
            self._flush()
        call, self._later = self._later, None
        if call is not None:
            call()  # epoll is level-triggered: it reports this event again
            self._continue()
        elif self._records is not None and self._records.has_pending and self._fd >= 0 and not self._paused:
            self._deliver(b"")
        elif mask & _IN and self._fd >= 0 and not self._paused:
            self._read()
        elif mask & ~(_IN | _OUT) and self._fd >= 0:
            self.cut(self._error())

    def _error(self) -> str:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(code) if code else "closed by the other side"

    def _read(self) -> None:
        handshaking = self._tunnel is not None and not self._tunnel.open
        if handshaking and self._gate is not None and not self._gate_passed and not self._gate():
            self.pause()
            return
        self._gate_passed = False
        try:
            data = self._socket.recv(HANDSHAKE_BYTES if handshaking else READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.cut(error.strerror or str(error))
            return
        if not data:
            self.cut("closed by the other side")
        elif self._tunnel is None:
            self._deliver(data)
        else:
            self._read_tls(self._tunnel, data)

    def _read_tls(self, tunnel: Tunnel, data: bytes) -> None:
        established = tunnel.open
        if not established:
            self._handshake_bytes += len(data)
            if self._handshake_bytes > HANDSHAKE_BYTES:
                self.cut("TLS: the handshake does not end")
                return
        try:
            plain = tunnel.take(data)
        except TlsFailed as fault:
            self._send(tunnel.outbound())
            self.cut(f"TLS: {fault}")
            return
        self._send(tunnel.outbound())
        if tunnel.open and not established and self._fd >= 0:
            self._handler.opened()
        if plain and self._fd >= 0:
            self._deliver(plain)

    def _deliver(self, data: bytes) -> None:
        plain = self.decoded(data)
        if plain:
            self._handler.received(plain)

    def _encode_some(self) -> bytes:
        """Encode the next `ENCODED_PER_TURN` bytes for the wire."""
        queue = self._unencoded
        data = queue.popleft()
        if queue or len(data) > ENCODED_PER_TURN:
            queue.appendleft(data)
            data = take_joined(queue, ENCODED_PER_TURN)
        self.unsent -= len(data)
        if self._records is not None:
            data = self._records.encode(bytes(data))
        return bytes(data) if self._tunnel is None else self._tunnel.send(data)

    def _send(self, data: bytes) -> None:
        """Send encoded bytes: after those that are queued, before those that are not encoded yet."""
        if not data or self._fd < 0:
            return
        sent = 0
        if not self._encoded:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.cut(error.strerror or str(error))
                return
            if sent == len(data):
                return
        self._encoded.append(rest_of(data, sent))
        self.unsent += len(data) - sent
        self._watch()

    def _flush(self) -> None:
        waiting = self._encoded
        if not waiting and self._unencoded:
            made = self._encode_some()
            waiting.append(made)
            self.unsent += len(made)
        while waiting:
            data = waiting.popleft()
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.cut(error.strerror or str(error))
                return
            self.unsent -= sent
            self.taken += sent
            if sent < len(data):
                waiting.appendleft(rest_of(data, sent))
                return
        if self._unencoded:
            return  # the kernel reports again that it accepts more
        self._watch()
        self._handler.flushed()

    def _watch(self) -> None:
        """Register with the kernel the events that this link waits for now."""
        mask = (0 if self._paused else _IN) | (_OUT if self.unsent else 0)
        if mask != self._mask and self._fd >= 0:
            self._mask = mask
            try:
                self._reactor.modify(self._fd, mask)
            except OSError as error:
                self.cut(f"cannot be watched: {error.strerror or error}")
