"""A large directory as an answer: found, shown and sent in pieces, as the client takes them.

What it shows is the tree as it was when the request was handled (`state.walk`). The work is a job of the
member (`node.jobs`), so that others get their turn, and stops while the client does not read; nothing is made
before there is room for it.

A walk slows every change of the tree down and keeps what changes under it, so there are few (`Listings`): one
principal gets at most half of them, and one whose client takes next to nothing for long is cut.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.admission import Admission
from netstore.api.v2.render import closing
from netstore.state.walk import MOST_WALKS, Closed, Opened
from netstore.types import EtcdIndex, NodeView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.api.v2.render import Renderer
    from netstore.errors import Fault
    from netstore.net.exchange import Exchange
    from netstore.node.jobs import Jobs
    from netstore.seams import Clock
    from netstore.state.walk import Walk

ROWS: Final = 200
"""Nodes shown in one step: about a millisecond."""

PIECE_BYTES: Final = 64 * 1024
"""Bytes made in one step, and one value more."""

BACKLOG_BYTES: Final = 256 * 1024
"""Unsent bytes beyond which no more is made."""

LONGEST_PAUSE: Final = 60
"""Seconds that a client may take to make room for more, which is 192 KiB: 3 KiB a second."""

_END: Final = Closed(NodeView(b"", EtcdIndex(0), EtcdIndex(0)))
_NODES: Final = b',"nodes":['


class Listings:
    """All such answers of a member. Plain calls on the loop."""

    def __init__(self, render: Renderer, jobs: Jobs, clock: Clock) -> None:
        self._render = render
        self._jobs = jobs
        self._clock = clock
        self._places = Admission(MOST_WALKS)
        self._paused: OrderedDict[Listing, float] = OrderedDict()
        """Those whose client has to take something first, and since when; the longest first."""

    def begin(self, exchange: Exchange, walk: Walk, fields: bytes) -> None:
        """Send the head of the answer and take up the work; refused in plain words where there is too much
        other work.
        """
        self.cut_the_slow()
        principal = exchange.principal
        if not self._places.enter(principal):
            self._refuse(exchange, errors.too_many())
            return
        listing = Listing(exchange, walk, self._render, self)
        fault = self._jobs.start(principal, listing)
        if fault is not None:
            self._places.leave(principal)
            self._refuse(exchange, fault)
            return
        exchange.begin(200, fields, endless=False)
        exchange.on_gone(listing.cancel)

    def cut_the_slow(self) -> None:
        """Cut the answers of clients that took too little for too long. O(those)."""
        limit = self._clock.monotonic() - LONGEST_PAUSE if self._paused else 0.0
        while self._paused:
            listing, since = next(iter(self._paused.items()))
            if since > limit:
                return
            listing.cut()

    def pause(self, listing: Listing) -> None:
        """Its client has to take something first."""
        self._paused[listing] = self._clock.monotonic()
        self._jobs.pause(listing)

    def resume(self, listing: Listing) -> None:
        """There is room again."""
        self._paused.pop(listing, None)
        self._jobs.resume(listing)

    def over(self, listing: Listing, principal: str) -> None:
        """It makes nothing more."""
        self._paused.pop(listing, None)
        self._jobs.cancel(listing)
        self._places.leave(principal)

    def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        exchange.respond(fault.http_status, self._render.fault_fields(fault), self._render.fault(fault))


class Listing:
    """One such answer. A `node.jobs.Job`."""

    def __init__(self, exchange: Exchange, walk: Walk, render: Renderer, listings: Listings) -> None:
        self._exchange = exchange
        self._principal = exchange.principal
        self._over = False
        self._rows: Iterator[NodeView | Opened | Closed | None] = walk.rows()
        self._render = render
        self._listings = listings
        self._before = b""
        """What stands before the next node."""
        self._start = b'{"action":"get","node":'

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        exchange = self._exchange
        parts = [self._start]
        self._start = b""
        size, over = 0, True
        for _ in range(ROWS):
            row = next(self._rows, _END)
            if row is _END:
                break
            if row is not None:
                part = self._shown(row)
                parts.append(part)
                size += len(part)
            if row is None or size > PIECE_BYTES:
                over = False
                break
        else:
            over = False
        if over:
            parts.append(b"}\n")
        if (data := b"".join(parts)) and not exchange.push(data):
            self.cancel()
            return True  # nobody reads it any more
        if over:
            self.cancel()
            exchange.end()
            return True
        if exchange.backlog > BACKLOG_BYTES:
            self._listings.pause(self)
            exchange.on_drained(self._resume)
        return False

    def failed(self, _: Exception) -> None:
        """See `node.jobs.Job`: an answer that was begun can only be cut."""
        self.cut()

    def cut(self) -> None:
        """Give the answer up half-way."""
        self.cancel()
        self._exchange.abort()

    def cancel(self) -> None:
        """Make no more of it."""
        if not self._over:
            self._over = True
            self._rows = iter(())
            self._listings.over(self, self._principal)

    def _shown(self, row: NodeView | Opened | Closed) -> bytes:
        render, before = self._render, self._before
        if isinstance(row, Opened):
            self._before = _NODES
            return before + render.opening(row.directory)
        self._before = b","
        if isinstance(row, Closed):
            return (b"" if before is _NODES else b"]") + closing(row.directory)
        return before + render.node(row)

    def _resume(self) -> None:
        if not self._over:
            self._listings.resume(self)
