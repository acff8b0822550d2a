"""Calling another member: find it, connect, greet, and talk over the stream that this opens."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from netstore.errors import CorruptData, NetstoreError
from netstore.net.link import Link
from netstore.net.peerwire import Hello, Verdict, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials

DIAL_SECONDS: Final = 5.0
"""How long a connection may take, and after it TLS and greeting together."""


class CallFailed(NetstoreError):  # noqa: N818 - named for what happened
    """A stream could not be opened, was refused, or broke. `verdict` is the refusal, if it was one."""

    def __init__(self, text: str, verdict: int = Verdict.ACCEPTED) -> None:
        super().__init__(text)
        self.verdict = verdict


class Call:
    """A stream that this side opened; made by `call`. `take` gets what comes after the welcome."""

    def __init__(self, hello: Hello, take: Callable[[bytes], None]) -> None:
        """For `call`."""
        self.link: Link
        self.reason = ""
        """Why it is over."""
        self.welcome: Welcome | None = None
        self.over = trio.Event()
        self._hello = hello
        self._take = take
        self._greeted = trio.Event()
        self._flushed = trio.Event()
        self._read = b""

    async def greeted(self) -> None:
        """Wait for the welcome. CallFailed when there is none, or it is a refusal."""
        with trio.move_on_after(DIAL_SECONDS):
            await self._greeted.wait()
        welcome = self.welcome
        if welcome is None:
            self.link.cut(f"no greeting within {DIAL_SECONDS:g} s")
            raise CallFailed(self.reason)
        if welcome.verdict != Verdict.ACCEPTED:
            self.link.cut("refused")
            raise CallFailed(f"refused: {welcome.text}", welcome.verdict)

    async def drained(self, seconds: float) -> None:
        """Wait until what was written is on its way. CallFailed when the other side does not take it."""
        with trio.move_on_after(seconds):
            while self.link.unsent:
                self._flushed = trio.Event()
                await self._flushed.wait()
        if self.link.unsent:
            self.link.cut(f"took nothing for {seconds:g} s")
        if not self.link.open:
            raise CallFailed(self.reason)

    def opened(self) -> None:
        """See `net.link.Party`."""
        self.link.write(self._hello.encode())

    def received(self, data: bytes) -> None:
        """See `net.link.Party`."""
        try:
            if self.welcome is not None:
                self._take(data)
                return
            self._read += data
            found = Welcome.read(self._read)
            if found is None:
                return
            self.welcome, length = found
            rest, self._read = self._read[length:], b""
            self._greeted.set()
            if rest:
                self._take(rest)
        except CorruptData as fault:
            self.link.cut(str(fault))

    def flushed(self) -> None:
        """See `net.link.Party`."""
        self._flushed.set()

    def gone(self, reason: str) -> None:
        """See `net.link.Party`."""
        self.reason = reason
        self.over.set()
        self._greeted.set()
        self._flushed.set()


async def call(
    reactor: Reactor,
    url: str,
    hello: Hello,
    take: Callable[[bytes], None],
    credentials: Credentials | None,
) -> Call:
    """Open a stream to the member at `url` and be welcome there. CallFailed, with the reason, when not.

    Bounded by two times `DIAL_SECONDS`. Whoever calls ends the stream with `link.cut`.
    """
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 0
    tls = None
    if place.scheme == "https":
        if credentials is None:
            raise CallFailed(f"{url} asks for TLS, and this member has no certificate for its peers")
        tls = credentials.client()
    sock = await _connect(host, port)
    made = Call(hello, take)
    made.link = Link(reactor, sock, made, tls, host)
    made.link.start()
    try:
        await made.greeted()
    except trio.Cancelled:
        made.link.cut("given up")
        raise
    return made


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket; names are resolved in a thread, and their addresses tried in turn."""
    fault: OSError = OSError("has no address")
    with trio.move_on_after(DIAL_SECONDS):
        try:
            places = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise CallFailed(f"{host} is not found: {error.strerror or error}") from None
        for family, kind, protocol, _, address in places:
            sock = trio.socket.socket(family, kind, protocol)
            try:
                await sock.connect(address)
                return socket.socket(fileno=sock.detach())
            except OSError as error:
                fault = error
            finally:
                sock.close()
        raise CallFailed((fault.strerror or str(fault)).lower())
    raise CallFailed(f"no answer within {DIAL_SECONDS:g} s")
