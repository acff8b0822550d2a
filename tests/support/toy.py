"""A gRPC service without a store, served by the real reactor from a thread of its own.

Messages are plain bytes, so no stubs are needed: a grpcio channel calls it with serializers that do nothing.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from netstore.codes import INVALID_ARGUMENT
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import Http2Server
from netstore.net.http2.exchange import opener
from netstore.net.negotiation import SessionFactory
from netstore.net.reactor import Limits, Reactor
from netstore.node.timekeeper import Deadlines
from tests.support.log import KeptLog
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.net.exchange import Exchange
    from netstore.net.grpc.protocols import Call
    from netstore.net.tls import Credentials

PUMP_BYTES = 100_000
PUMP_HIGH = 300_000


class Clock:
    """The real one. Implements `seams.Clock`."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> Any:
        return time.time_ns()


class Chat:
    """Sends back every message; ends when the client has."""

    def __init__(self, toy: Toy, call: Call) -> None:
        self._toy = toy
        self._call = call

    def received(self, message: bytes) -> None:
        if message == b"raise":
            raise RuntimeError("a fault of the service")
        self._call.send(message)

    def half_closed(self) -> None:
        self._call.finish()

    def cancelled(self) -> None:
        self._toy.cancelled.set()


class Sum(Chat):
    """Answers once, with the number of bytes it got."""

    total = 0

    def received(self, message: bytes) -> None:
        self.total += len(message)

    def half_closed(self) -> None:
        self._call.send(b"%d" % self.total)
        self._call.finish()


class Pump(Chat):
    """Sends as many pieces as it is asked for, never more than fits."""

    left = 0
    most = 0

    def received(self, message: bytes) -> None:
        self.left = int(message)
        self._more()

    def half_closed(self) -> None:
        """It ends when all is sent."""

    def _more(self) -> None:
        while self.left and self._call.backlog < PUMP_HIGH:
            self._call.send(bytes(PUMP_BYTES))
            self.left -= 1
            self._toy.most_backlog = max(self._toy.most_backlog, self._call.backlog)
        if self.left:
            self._call.on_drained(self._more)
        else:
            self._call.finish()


class Toy:
    """What the service did, as far as tests ask."""

    def __init__(self) -> None:
        self.log = KeptLog()
        self.cancelled = threading.Event()
        self.held = threading.Event()
        self.most_backlog = 0
        self.calls: list[Call] = []
        self.services = Services(
            {
                b"/toy.Toy/Echo": self._echo,
                b"/toy.Toy/Big": lambda call, message: call.reply(bytes(int(message))),
                b"/toy.Toy/Hold": self._hold,
                b"/toy.Toy/Fail": lambda call, message: call.finish(INVALID_ARGUMENT, message.decode()),
                b"/toy.Toy/Raise": self._raise,
                b"/toy.Toy/Who": lambda call, _: call.reply(
                    f"{call.peer} {call.common_name} {call.metadata(b'token')!r}".encode()
                ),
            },
            {
                b"/toy.Toy/Chat": lambda call: Chat(self, call),
                b"/toy.Toy/Sum": lambda call: Sum(self, call),
                b"/toy.Toy/Pump": lambda call: Pump(self, call),
            },
        )

    def _echo(self, call: Call, message: bytes) -> None:
        self.calls.append(call)
        call.reply(message)

    def _hold(self, call: Call, _: bytes) -> None:
        call.on_cancelled(self.cancelled.set)
        self.held.set()

    def _raise(self, call: Call, _: bytes) -> None:
        raise RuntimeError("a fault of the service")


class Served:
    """A toy on a port."""

    def __init__(self, toy: Toy, port: int, reactor: Reactor, grpc: GrpcServer) -> None:
        self.toy = toy
        self.port = port
        self.reactor = reactor
        self.grpc = grpc
        self._token: trio.lowlevel.TrioToken

    def run(self, call: Callable[[], object]) -> None:
        """Make a call on the loop."""
        self.reactor.call_soon(call)

    def drain(self) -> None:
        """Stop gracefully: True once every connection has sent all it will."""
        trio.from_thread.run(self.reactor.drain, trio_token=self._token)


class _Rounds:
    def begin(self) -> None:
        """A round begins."""

    def rest(self) -> None:
        """No round follows soon."""

    def end(self, *, is_idle: bool) -> None:
        """It ends."""


def _plain(exchange: Exchange) -> None:
    request = exchange.request
    if request.path == b"/stream":
        exchange.begin(200, b"X-Kind: open\r\n")
        exchange.push(b"one\n")
        exchange.push(b"two\n")
        exchange.end()
    elif request.too_large:
        exchange.respond(413, b"", b"too large\n")
    else:
        told = b" ".join((request.method, request.path, request.query, request.host or b"", request.body))
        exchange.respond(200, b"Content-Type: text/plain\r\n", told)


@contextmanager
def toy_service(credentials: Credentials | None = None, **limits: Any) -> Iterator[Served]:
    """Serve a toy on a free port until the end of the block."""
    toy, clock = Toy(), Clock()
    deadlines = Deadlines(clock)
    http1 = Http1Server(_plain, body_limit=100_000)
    reactor = Reactor(Limits(), http1, toy.log, clock.monotonic)
    grpc = GrpcServer(
        toy.services, clock.monotonic, deadlines.after, toy.log, plain=opener(_plain, http1), **limits
    )
    sessions = SessionFactory(Http2Server(grpc, lambda: reactor.now, varying=TIMEOUT_FIELD))
    sock = socket.create_server(("127.0.0.1", 0))
    served = Served(toy, sock.getsockname()[1], reactor, grpc)
    started = threading.Event()
    scope = trio.CancelScope()

    async def tick() -> None:
        while True:
            await trio.sleep(0.01)  # fixed: the pace of its clock
            if deadlines.run_due():
                reactor.flush()

    async def main() -> None:
        served._token = trio.lowlevel.current_trio_token()
        with scope:
            async with trio.open_nursery() as nursery:
                reactor.listen(sock, credentials)
                nursery.start_soon(reactor.run, sessions.session, _Rounds())
                nursery.start_soon(tick)
                started.set()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert started.wait(seconds(10))
    try:
        yield served
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=served._token)
        thread.join(seconds(10))
        assert not thread.is_alive()
