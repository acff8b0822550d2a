"""A large directory as an answer: found, shown and sent in pieces, as the client takes them.

What it shows is the tree as it was when the request was handled (`state.walk`). The work is a job of the
member (`node.jobs`), so that others get their turn, and stops while the client does not read; nothing is made
before there is room for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.v2.render import closing
from netstore.state.walk import Closed, Opened
from netstore.types import EtcdIndex, NodeView

if TYPE_CHECKING:
    from netstore.api.v2.render import Renderer
    from netstore.net.exchange import Exchange
    from netstore.node.jobs import Jobs
    from netstore.state.walk import Walk

ROWS: Final = 200
"""Nodes shown in one step: about a millisecond."""

PIECE_BYTES: Final = 64 * 1024
"""Bytes made in one step, and one value more."""

BACKLOG_BYTES: Final = 256 * 1024
"""Unsent bytes beyond which no more is made."""

_END: Final = Closed(NodeView(b"", EtcdIndex(0), EtcdIndex(0)))
_NODES: Final = b',"nodes":['


class Listing:
    """One such answer. A `node.jobs.Job`; `begin` starts it."""

    def __init__(self, exchange: Exchange, walk: Walk, render: Renderer, jobs: Jobs) -> None:
        self._exchange = exchange
        self._rows = walk.rows()
        self._render = render
        self._jobs = jobs
        self._before = b""
        """What stands before the next node."""
        self._start = b'{"action":"get","node":'

    def begin(self, fields: bytes) -> None:
        """Send the head of the answer and take up the work; refused in plain words where there is too much
        other work.
        """
        exchange = self._exchange
        fault = self._jobs.start(exchange.principal, self)
        if fault is not None:
            exchange.respond(fault.http_status, self._render.fault_fields(fault), self._render.fault(fault))
            return
        exchange.begin(200, fields, endless=False)
        exchange.on_gone(self._cancel)

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
            return True  # nobody reads it any more
        if over:
            exchange.end()
            return True
        if exchange.backlog > BACKLOG_BYTES:
            self._jobs.pause(self)
            exchange.on_drained(self._resume)
        return False

    def failed(self, _: Exception) -> None:
        """See `node.jobs.Job`: an answer that was begun can only be cut."""
        self._exchange.abort()

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
        self._jobs.resume(self)

    def _cancel(self) -> None:
        self._jobs.cancel(self)
