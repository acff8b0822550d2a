"""One request on an HTTP/1 connection and its answer: status line and header, the body or its pieces, and
what is held until the answers before it are complete (RFC 9112).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.net.exchange import LOW_WATER, OPEN_BODY_LIMIT, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.bodyadmission import Claim
    from netstore.net.exchange import Request
    from netstore.net.http1.connection import Http1Connection

SHARED_SIZE: Final = 4096
"""A larger piece of a body is sent without copying it into its chunk: a piece that goes to many
connections is in memory once.
"""

_STATUS_11: Final = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_WITHOUT_BODY: Final = (204, 304)
_SIZED: Final = {status: line for status, line in _STATUS_11.items() if status not in _WITHOUT_BODY}
_ANSWER: Final = b"%b%b%bContent-Length: %d\r\n\r\n%b"
_STATUS_10: Final = {s.value: b"HTTP/1.0 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


class Http1Exchange(msgspec.Struct, eq=False):
    """One request on an HTTP/1 connection and its answer. Implements `netstore.net.exchange.Exchange`.

    A struct, because one is made for each request: setting these fields one by one would take longer than
    parsing a known head.
    """

    _connection: Http1Connection
    request: Request
    writes: bool
    """It may change what a later request sees."""
    closing: bool
    """The connection closes after this answer."""
    claim: Claim | None = None
    """The memory reserved for its body, until it is answered."""
    complete: bool = False
    """The whole answer is written."""
    endless: bool = False
    """It is a streaming response that has no end of its own, or the handler wants to be told of a disconnect.
    """
    deferred: bool = False
    """No request behind it is handled before it is complete."""
    _held: list[bytes] | None = None
    _held_size: int = 0
    _chunked: bool = False
    _finite: bool = False
    _gone: Callable[[], None] | None = None
    _drained: Callable[[], None] | None = None

    @property
    def principal(self) -> str:
        """See `Exchange.principal`."""
        return self._connection.output.principal

    @property
    def backlog(self) -> int:
        """See `Exchange.backlog`."""
        return self._connection.output.unsent + self._held_size

    def respond(self, status: int, fields: bytes, body: bytes = b"") -> None:
        """Answer in one piece; see `Exchange.respond`. Does nothing if the answer is complete."""
        if self.complete:  # a handler that failed is made to answer, and may have answered before
            return
        request, connection = self.request, self._connection
        server = connection.server
        common = server.common or server.common_for(request)
        line = _SIZED.get(status) if request.is_plain and not self.closing else None
        if line is not None:
            data = _ANSWER % (line, fields, common, len(body), body)
        else:
            data = self._answer(status, fields, common, body)
        if self._held is not None:
            self._put(data)
        elif not connection.closed:
            connection.output.write(data)
        self.complete = True
        self._gone = self._drained = None
        connection.answered(self)

    def _answer(self, status: int, fields: bytes, common: bytes, body: bytes) -> bytes:
        """An answer that says whether the connection is kept, or has no body."""
        request = self.request
        line = _STATUS_11[status] if request.version == b"1.1" else _STATUS_10[status]
        closing = b""
        if self.closing:
            closing = b"Connection: close\r\n"
        elif request.version == b"1.0":
            closing = b"Connection: keep-alive\r\n"
        size = b"" if status in _WITHOUT_BODY else b"Content-Length: %d\r\n" % len(body)
        if request.method == b"HEAD":
            body = b""
        return b"".join((line, fields, common, size, closing, b"\r\n", body))

    def refuse(self, status: int, text: bytes) -> None:
        """Answer in plain text, then close; see `Exchange.refuse`."""
        self.closing = True
        self._connection.read_no_more()
        self.respond(status, PLAIN, text)

    def begin(self, status: int, fields: bytes, *, endless: bool = True) -> None:
        """Send the head and keep the body open; see `Exchange.begin`."""
        self._chunked = self.request.version == b"1.1"
        line = _STATUS_11[status] if self._chunked else _STATUS_10[status]
        self.closing = self.closing or not self._chunked
        framing = b"Transfer-Encoding: chunked\r\n" if self._chunked else b""
        if self.closing:
            framing += b"Connection: close\r\n"
        server = self._connection.server
        common = server.common or server.common_for(self.request)
        self._put(b"".join((line, fields, common, framing, b"\r\n")))
        self._finite = not endless
        if self.request.method == b"HEAD":
            self._finished()
        elif endless:
            self._open()

    def push(self, *parts: bytes) -> bool:
        """Send a piece of the open body; see `Exchange.push`."""
        connection = self._connection
        if connection.closed or self.complete or connection.output.unsent > OPEN_BODY_LIMIT:
            return False
        if self._held_size > OPEN_BODY_LIMIT:
            return False
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if self._chunked:
            if size <= SHARED_SIZE:
                self._put(b"%x\r\n%b\r\n" % (size, b"".join(parts)))
                return True
            self._put(b"%x\r\n" % size)
        for part in parts:
            self._put(part)
        if self._chunked:
            self._put(b"\r\n")
        return True

    def end(self) -> None:
        """End the open body; see `Exchange.end`."""
        if self.complete:
            return
        if self._chunked:
            self._put(b"0\r\n\r\n")
        self._finished()

    def abort(self) -> None:
        """Cut the connection; see `Exchange.abort`."""
        self._connection.output.cut()

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call when the client disconnects before the answer is complete; see `Exchange.on_gone`."""
        if self.complete:
            return
        self._gone = call
        if not self._finite:
            self._open()

    def defer(self, gone: Callable[[], None]) -> None:
        """See `Exchange.defer`."""
        if not self.complete:
            self._gone = gone
            self.deferred = self._connection.deferred = True

    def worked(self, seconds: float) -> None:
        """See `Exchange.worked`."""
        if not self._connection.closed:
            self._connection.output.add_load(seconds)

    def on_drained(self, call: Callable[[], None]) -> bool:
        """See `Exchange.on_drained`."""
        if self.complete:
            return False
        if self.backlog <= LOW_WATER:
            call()
            return True
        self._drained = call
        if self._held is None:
            self._connection.await_drain(self)
        return True

    def drained(self) -> None:
        """The network has accepted nearly everything."""
        call, self._drained = self._drained, None
        if call is not None:
            call()

    def release(self) -> None:
        """All answers before this one are complete: write what was held."""
        if self._held is not None:
            held, self._held = self._held, None
            self._connection.weigh(-self._held_size)
            self._held_size = 0
            for part in held:
                self._connection.output.write(part)
            if self._drained is not None:
                self._connection.await_drain(self)

    def hold(self) -> None:
        """Hold the answer until those before it are complete."""
        self._held = []

    def lost(self) -> None:
        """The connection is closed."""
        self.complete = True
        self._drained = None  # the callback refers to this exchange
        call, self._gone = self._gone, None
        if call is not None:
            call()

    def _open(self) -> None:
        if not self.endless and not self.complete:
            self.endless = True
            self._connection.endless += 1

    def _finished(self) -> None:
        self.complete = True
        self._gone = self._drained = None
        self._connection.answered(self)

    def _put(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            self._held_size += len(data)
            self._connection.weigh(len(data))
        elif not self._connection.closed:
            self._connection.output.write(data)
