"""A running reactor whose handler keeps the exchanges; clients are real loopback sockets. Time is a number
the test sets.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from netstore.net.http1.connection import Http1Connection
from netstore.net.http1.server import Http1Server
from netstore.net.reactor import Limits, Reactor
from tests.support.log import KeptLog
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from netstore.net.http1.exchange import Http1Exchange
    from netstore.net.tls import Credentials

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """A reactor that is running, and the exchanges it handed over."""

    def __init__(self, limits: Limits, credentials: Credentials | None = None) -> None:
        self.time = 1000.0
        self.rounds = self.ended = self.handled = 0
        self.alone: list[bool] = []
        """Of each round in which somebody was handled."""
        self.log = KeptLog()
        self.exchanges: list[Http1Exchange] = []
        self.answer: bytes | None = b"hello"
        self.server = Http1Server(self._handle)
        self.reactor = Reactor(limits, self.server, self.log, lambda: self.time)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.reactor.listen(listener, credentials)

    def _handle(self, exchange: Http1Exchange) -> None:
        self.exchanges.append(exchange)
        if exchange.request.path == b"/fault":
            raise RuntimeError("a fault of the handler")
        if self.answer is not None:
            exchange.respond(200, b"", self.answer)

    def begin(self) -> None:
        self.rounds += 1

    def rest(self) -> None:
        """No round follows soon."""

    def end(self, *, is_idle: bool) -> None:
        self.ended += 1
        if len(self.exchanges) > self.handled:
            self.alone.append(is_idle)
        self.handled = len(self.exchanges)

    def let_pass(self, seconds: float) -> None:
        """So much time, with a sweep each second."""
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + 1, until)
            self.reactor.sweep()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def until_open(self, count: int) -> None:
        with trio.fail_after(seconds(10)):
            while len(self.reactor._connections) != count:
                await trio.lowlevel.checkpoint()

    async def until_asked(self, count: int) -> None:
        with trio.fail_after(seconds(10)):
            while len(self.exchanges) < count:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def site(limits: Limits | None = None, credentials: Credentials | None = None) -> AsyncIterator[Site]:
    running = Site(limits or Limits(), credentials)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            running.reactor.run, lambda connection, server: Http1Connection(server, connection), running
        )
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()


async def read_all(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(seconds(10)):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            return data
    return data


async def spoken(here: Site, count: int) -> list[trio.SocketStream]:
    """Connections that have asked something."""
    streams = [await here.connect() for _ in range(count)]
    for stream in streams:
        await stream.send_all(GET)
        with trio.fail_after(seconds(10)):
            await stream.receive_some(65536)
    return streams


def asking(here: Site, count: int, what: bytes = GET) -> list[socket.socket]:
    """Connections that have sent something already when the loop looks next; nothing is awaited."""
    made = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(count)]
    for one in made:
        one.sendall(what)
    return made
