"""A fake output for connection codecs, and requests recorded as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from netstore.limits import Budget
from netstore.net.bodyadmission import BodyAdmission
from netstore.net.http1.connection import Http1Connection
from netstore.net.http1.server import Http1Server
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Exchange, Request
    from netstore.net.http1.exchange import Http1Exchange

Seen = tuple[bytes, bytes, bytes, bytes, bytes | None, bytes, bool]


def seen(request: Request) -> Seen:
    """Everything of a request that a handler can see."""
    return (
        request.method,
        request.path,
        request.query,
        request.body,
        request.content_type,
        request.version,
        request.keep_alive,
    )


class FakeOutput:
    """Collects what a codec sends."""

    def __init__(self, admission: BodyAdmission | None = None, memory: Budget | None = None) -> None:
        memory = memory or Budget(1 << 30)
        self.admission = admission or BodyAdmission(memory, KeptLog())
        self.asked = 0
        self.sent = b""
        self.finished = False
        self.dropped: int | None = None
        self.was_cut = False
        self.backlog = 0
        self.held_back = self.paused = False
        self.unread: float | None = None
        self.short_turn = False
        self.principal = "here"
        self.account = memory.account()
        self.charged = 0.0
        self.turns: list[Callable[[], None]] = []

    def write(self, data: bytes | memoryview, *more: bytes | memoryview) -> None:
        self.sent += b"".join((data, *more))

    @property
    def unsent(self) -> int:
        return self.backlog

    def finish(self, drop: int | None = None) -> None:
        self.finished = True
        self.dropped = drop

    def cut(self) -> None:
        self.was_cut = True

    def add_load(self, seconds: float) -> None:
        self.charged += seconds

    def call_next_turn(self, call: Callable[[], None]) -> None:
        self.turns.append(call)

    def request_turn(self) -> None:
        self.asked += 1

    def run_turn(self) -> bool:
        """Make the calls that were asked for; whether there were any."""
        turns, self.turns = self.turns, []
        for call in turns:
            call()
        return bool(turns)


class Wire:
    """A connection whose requests are kept, and answered at once unless `hold` is set."""

    def __init__(self, server: Http1Server | None = None, *, hold: bool = False, **limits: Any) -> None:
        self.exchanges: list[Http1Exchange] = []
        self.hold = hold
        self.server = server or Http1Server(self._handle, **limits)
        self.server.handle = self._handle
        self.output = FakeOutput()
        self.connection = Http1Connection(self.server, self.output)

    @property
    def requests(self) -> list[Seen]:
        return [seen(exchange.request) for exchange in self.exchanges]

    def feed(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            self.connection.receive(piece)
        return self

    def _handle(self, exchange: Http1Exchange) -> None:
        self.exchanges.append(exchange)
        if not self.hold:
            exchange.respond(200, b"", exchange.request.path)


class Waiter:
    """Wants to be told something, and holds the exchange it waits for."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.calls = 0

    def call(self) -> None:
        """What it waits for has happened."""
        self.calls += 1


def waiting(exchange: Exchange) -> ref[Waiter]:
    """One that waits for the end of its client, and for room."""
    waiter = Waiter(exchange)
    exchange.on_gone(waiter.call)
    exchange.on_drained(waiter.call)
    return ref(waiter)
