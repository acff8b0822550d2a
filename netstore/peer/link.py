"""One socket between two members, driven by the reactor: reads for its party, sends what the party wrote.

A write goes to the kernel at once when nothing waits before it; a message between members that a turn of
the loop decided on is then on its way before the turn ends, without a switch of tasks. What the kernel does
not take waits here; the party bounds it by looking at `unsent`. Tags and TLS are made as the kernel takes
what they are made of, `MADE_BYTES` in a turn, so that a large write holds nobody up. Nothing blocks. A link
is over once, and tells its party so, with the reason.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from netstore.net.tls import TlsFailed, Tunnel
from netstore.peer.seal import Altered

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.peer.seal import Seal

READ_BYTES: Final = 256 * 1024
"""Taken by one read."""

MADE_BYTES: Final = 256 * 1024
"""Of what was written, put into records or TLS in one turn: half a millisecond."""

HANDSHAKE_BYTES: Final = 128 * 1024
"""Longest handshake that the other side may send: far more than a chain of certificates."""

UNACKNOWLEDGED_MS: Final = 10_000
"""How long the kernel keeps sending to a machine that does not acknowledge (RFC 5482)."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT


class Party(Protocol):
    """Who talks over a link. All calls come on the loop."""

    def opened(self) -> None:
        """Bytes may be written: the connection is there, and so is its TLS."""

    def received(self, data: bytes) -> None:
        """Bytes were read."""

    def flushed(self) -> None:
        """Everything written was taken by the kernel, after something had to wait."""

    def gone(self, reason: str) -> None:
        """The link is over; nothing more comes."""


class _Nobody:
    """The `Party` of a link that is over: the link and who talked over it do not keep each other."""

    def opened(self) -> None:
        """Nothing may be written."""

    def received(self, data: bytes) -> None:
        """Nobody gets it."""

    def flushed(self) -> None:
        """Nobody wrote."""

    def gone(self, reason: str) -> None:
        """Nobody is to be told."""


_NOBODY: Final = _Nobody()


class Link:
    """A connected stream. `start` makes it live."""

    __slots__ = (
        "_fd",
        "_gate",
        "_later",
        "_mask",
        "_party",
        "_passed",
        "_paused",
        "_reactor",
        "_seal",
        "_shaken",
        "_socket",
        "_tunnel",
        "_waiting",
        "_written",
        "taken",
        "unsent",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        party: Party,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
        *,
        gate: Callable[[], bool] | None = None,
    ) -> None:
        """Take over a connected socket. With `tls`, `host` is whom to expect; None at the side called.

        `gate` is asked before what was sent for a TLS handshake is looked at. When it says no, nothing is
        read until `resume` with `passed`.
        """
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._reactor = reactor
        self._socket = sock
        self._fd = sock.fileno()
        self._party: Party = party
        self._tunnel = None if tls is None else Tunnel(tls, host)
        self._seal: Seal | None = None
        self._waiting: deque[bytes | memoryview] = deque()
        """What goes to the kernel as it is."""
        self._written: deque[bytes | memoryview] = deque()
        """What follows that, and is still to be put into records or TLS."""
        self.unsent = 0
        """Bytes that the kernel has not taken yet."""
        self.taken = 0
        """Bytes that the kernel took only after they had waited: while it grows, the other side reads."""
        self._mask = _IN
        self._paused = False
        self._gate = gate
        self._later: Callable[[], None] | None = None
        """What is to be done with what was read, before more is."""
        self._passed = False
        self._shaken = 0
        """Bytes of the handshake that were read."""

    @property
    def open(self) -> bool:
        """It is not over."""
        return self._fd >= 0

    def start(self) -> None:
        """Begin to read; the party hears `opened` as soon as it may write, at once where there is no TLS.

        Over at once when the kernel can watch no more.
        """
        try:
            self._reactor.attend(self._fd, _IN, self._ready, self._failed)
        except OSError as error:
            self.cut(f"cannot be watched: {error.strerror or error}")
            return
        if self._tunnel is None:
            self._party.opened()
        else:
            self._put(self._tunnel.begin())

    def write(self, data: bytes) -> None:
        """Send bytes; they are lost when the link is over, or ends before they are sent."""
        if self._fd < 0 or not data:
            return
        if self._seal is None and self._tunnel is None:
            self._put(data)
            return
        first = not self.unsent
        self._written.append(data)
        self.unsent += len(data)
        if first:
            self._put(self._make())
            self._watch()

    def seal(self, seal: Seal) -> None:
        """From now on what is written and read goes in records."""
        while self._written:
            self._put(self._make())  # greetings: they are short
        self._seal = seal

    def unsealed(self, data: bytes) -> bytes:
        """What was read, without its records, or as much of it as is taken in a turn: the rest comes in the
        next ones. Where it was changed on the way nothing, and this is over.
        """
        if self._seal is None:
            return data
        try:
            plain = self._seal.open(data)
        except Altered as fault:
            self.cut(str(fault))
            return b""
        self._go_on()
        return plain

    def _go_on(self) -> None:
        """There is another turn for what was read and not taken."""
        if self._seal is not None and self._seal.more and not self._paused and self._fd >= 0:
            self._reactor.again(self._fd)

    def pause(self) -> None:
        """Read nothing more for now."""
        self._paused = True
        self._watch()

    def resume(self, *, passed: bool = False) -> None:
        """Go on reading. With `passed` the gate is not asked about the next read."""
        self._paused = False
        self._passed = passed
        self._watch()
        self._go_on()

    def later(self, call: Callable[[], None]) -> None:
        """Make this call in the next round, before anything more is read: what was read is too much to be
        taken at once. What it raises is as if `received` had.
        """
        if self._fd >= 0:
            self._later = call
            self._reactor.again(self._fd)

    def cut(self, reason: str) -> None:
        """Be over now."""
        if self._fd < 0:
            return
        self._reactor.dismiss(self._fd)
        self._fd = -1
        self._socket.close()
        self._waiting.clear()
        self._written.clear()
        self.unsent = 0
        party, self._party, self._gate, self._later = self._party, _NOBODY, None, None
        party.gone(reason)

    def _failed(self, fault: Exception) -> None:
        """What its party does with what came raised this: the other side is not listened to any more."""
        self.cut(f"fault in what it sent, or in taking it: {fault!r}")

    def _ready(self, mask: int) -> None:
        if mask & _OUT:
            self._flush()
        call, self._later = self._later, None
        if call is not None:
            call()  # what the kernel told of it tells again
            self._go_on()
        elif self._seal is not None and self._seal.more and self._fd >= 0 and not self._paused:
            self._hear(b"")
        elif mask & _IN and self._fd >= 0 and not self._paused:
            self._read()
        elif mask & ~(_IN | _OUT) and self._fd >= 0:
            self.cut(self._error())

    def _error(self) -> str:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(code) if code else "closed by the other side"

    def _read(self) -> None:
        shaking = self._tunnel is not None and not self._tunnel.open
        if shaking and self._gate is not None and not self._passed and not self._gate():
            self.pause()
            return
        self._passed = False
        try:
            data = self._socket.recv(HANDSHAKE_BYTES if shaking else READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.cut(error.strerror or str(error))
            return
        if not data:
            self.cut("closed by the other side")
        elif self._tunnel is None:
            self._hear(data)
        else:
            self._untunnel(self._tunnel, data)

    def _untunnel(self, tunnel: Tunnel, data: bytes) -> None:
        shaken = tunnel.open
        if not shaken:
            self._shaken += len(data)
            if self._shaken > HANDSHAKE_BYTES:
                self.cut("TLS: the handshake does not end")
                return
        try:
            plain = tunnel.take(data)
        except TlsFailed as fault:
            self._put(tunnel.outbound())
            self.cut(f"TLS: {fault}")
            return
        self._put(tunnel.outbound())
        if tunnel.open and not shaken and self._fd >= 0:
            self._party.opened()
        if plain and self._fd >= 0:
            self._hear(plain)

    def _hear(self, data: bytes) -> None:
        plain = self.unsealed(data)
        if plain:
            self._party.received(plain)

    def _make(self) -> bytes:
        """The next of what was written as it goes over the wire."""
        written = self._written
        pieces: list[bytes | memoryview] = []
        room = MADE_BYTES
        while written and room:
            data = written.popleft()
            if len(data) > room:
                data = memoryview(data)
                written.appendleft(data[room:])
                data = data[:room]
            pieces.append(data)
            room -= len(data)
        made = b"".join(pieces)
        self.unsent -= len(made)
        if self._seal is not None:
            made = self._seal.close(made)
        return made if self._tunnel is None else self._tunnel.send(made)

    def _put(self, data: bytes) -> None:
        """Send what goes to the kernel as it is, after what waits for that, and before what is to be made."""
        if not data or self._fd < 0:
            return
        sent = 0
        if not self._waiting:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.cut(error.strerror or str(error))
                return
            if sent == len(data):
                return
        self._waiting.append(memoryview(data)[sent:])
        self.unsent += len(data) - sent
        self._watch()

    def _flush(self) -> None:
        waiting = self._waiting
        if not waiting and self._written:
            made = self._make()
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
                waiting.appendleft(memoryview(data)[sent:])
                return
        if self._written:
            return  # the kernel tells again that it takes more
        self._watch()
        self._party.flushed()

    def _watch(self) -> None:
        """Tell the kernel what this link waits for now."""
        mask = (0 if self._paused else _IN) | (_OUT if self.unsent else 0)
        if mask != self._mask and self._fd >= 0:
            self._mask = mask
            try:
                self._reactor.modify(self._fd, mask)
            except OSError as error:
                self.cut(f"cannot be watched: {error.strerror or error}")
