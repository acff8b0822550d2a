"""A running reactor without clients, and link handlers that record their calls."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from netstore.net.http1.connection import Http1Connection
from netstore.net.http1.server import Http1Server
from netstore.net.reactor import Limits, Reactor
from tests.support.log import AnyLevel
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netstore.peer.link import Link

PATIENCE = 60.0


class Quiet(AnyLevel):
    """Keeps what would be logged: the event, and its fields as text."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def take(self, event: str, fields: dict[str, Any]) -> None:
        """Keep the line."""
        self.lines.append((event, str(fields)))

    def events(self, event: str) -> list[str]:
        """The fields of each line of one kind."""
        return [fields for name, fields in self.lines if name == event]


class NoRounds:
    """Nobody works at the end of a round."""

    def begin(self) -> None:
        """A round begins."""

    def rest(self) -> None:
        """No round follows soon."""

    def end(self, *, is_idle: bool) -> None:
        """It is over."""


@asynccontextmanager
async def running_reactor() -> AsyncIterator[Reactor]:
    """A reactor that runs inside the block."""
    reactor = Reactor(Limits(), Http1Server(lambda _: None), Quiet(), time.monotonic)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            reactor.run, lambda connection, server: Http1Connection(server, connection), NoRounds()
        )
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield reactor
        finally:
            nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Let others run until the condition holds."""
    with trio.move_on_after(seconds(PATIENCE)):
        while not condition():  # noqa: ASYNC110 - a condition has no event
            await trio.sleep(0.001)  # fixed: between two looks
    assert condition(), what


class Recorder:
    """A `peer.link.LinkHandler` that keeps everything."""

    def __init__(self) -> None:
        self.link: Link
        self.is_open = False
        self.got = b""
        self.flushes = 0
        self.reasons: list[str] = []

    def opened(self) -> None:
        """See `peer.link.LinkHandler`."""
        self.is_open = True

    def received(self, data: bytes) -> None:
        """See `peer.link.LinkHandler`."""
        self.got += data

    def flushed(self) -> None:
        """See `peer.link.LinkHandler`."""
        self.flushes += 1

    def gone(self, reason: str) -> None:
        """See `peer.link.LinkHandler`."""
        self.reasons.append(reason)
