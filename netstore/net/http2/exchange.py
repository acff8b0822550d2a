"""Requests over HTTP/2 that are not gRPC: curl and browsers on a port with TLS.

The API sees the same `Exchange` as over HTTP/1. Header lines are turned into a header block that adds
nothing to the table; fields that belong to HTTP/1 alone are left out (RFC 9113, 8.2.2).
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

from netstore.net.bodyadmission import GROWTH, SMALL, TOO_MANY
from netstore.net.exchange import LOW_WATER, OPEN_BODY_LIMIT, PLAIN, SAFE, Request
from netstore.net.http2 import ENHANCE_YOUR_CALM, INTERNAL_ERROR, Stream
from netstore.net.http2.charging import holds_too_much
from netstore.net.http2.closing import reset
from netstore.net.http2.flow import await_drain
from netstore.net.http2.hpackcache import literal, status_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Exchange
    from netstore.net.http1.server import Http1Server
    from netstore.net.http2 import Head, Http2Connection

_CONTINUE: Final = status_field(100)
_HTTP1_ONLY: Final = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


def block_of(status: int, lines: bytes) -> bytes:
    """The header block of a response, from header lines that each end with CRLF."""
    parts = [status_field(status)]
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if colon and name not in _HTTP1_ONLY:
            parts.append(literal(name, value.strip()))
    return b"".join(parts)


class Http2Exchange(Stream, kw_only=True, eq=False):
    """One request on an HTTP/2 stream and its answer. Implements `netstore.net.exchange.Exchange`."""

    _handle: Callable[[Exchange], None] | None
    _server: Http1Server
    request: Request
    _reads: bool
    """The body is kept. A request that changes nothing may stay open for long, and its body is not used."""
    _body: BytesIO | None = None
    _size: int = 0
    _claimed: int = 0
    """Bytes of memory that were asked for."""
    _verdict: tuple[int, bytes] | None = None
    """Status and text of the answer if the body will not be read on."""
    _gone: Callable[[], None] | None = None
    _drained: Callable[[], None] | None = None
    _finite: bool = False

    @property
    def principal(self) -> str:
        """See `Exchange.principal`."""
        return self.connection.output.principal

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`."""
        request = self.request
        if request.too_large or self._verdict is not None:
            return
        self._size += stop - start
        if self._size > self._server.body_limit:
            request.too_large = True
            self._free_body()
            self.connection.ready.append(self)
            return
        if start < stop and self._reads:
            if self._body is None:
                self._body = BytesIO()
            self._body.write(memoryview(data)[start:stop])
            self.weigh(self._size)
        if ended:
            self.complete()
            request.body = self._body.getvalue() if self._body is not None else b""  # without a copy
            self._free_body()
            self.connection.ready.append(self)
        elif not self._reads:
            return
        elif self._size > self._claimed and not self._claim_more():
            self._free_body()
            self._verdict = 503, TOO_MANY
            self.connection.ready.append(self)
        elif holds_too_much(self.connection):
            self._free_body()
            reset(self.connection, self, ENHANCE_YOUR_CALM)

    def _claim_more(self) -> bool:
        """Ask for memory for the whole body, or, if its size is not known, for more than has arrived.
        False if no more claims can wait.
        """
        known = self.expected
        most = self._server.body_limit
        size = self._size if known is None else min(self._size + known, most)
        if size <= SMALL:
            return True
        if known is None:
            size = min(max(GROWTH, 4 * size), most)
        self._claimed = size
        if not self.want(size, self._size):
            return False
        self.weigh(self._size)
        return True

    def given_up(self, status: int, reason: bytes) -> None:
        """See `bodyadmission.Asker`."""
        self._free_body()
        self.unclaim()
        self._verdict = status, reason
        self.connection.ready.append(self)
        self.connection.output.request_turn()

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        if not self.open:
            gone, self._gone = self._gone, None
            if gone is not None:
                gone()
            return
        handle, self._handle = self._handle, None
        if self._verdict is not None:
            self.refuse(*self._verdict)
        elif handle is not None:
            handle(self)

    @property
    def size(self) -> int:
        """See `http2.Stream.size`."""
        return len(self.request.body)

    def free(self) -> None:
        """See `http2.Stream.free`. The answer may wait long for the client's windows; the body does not
        stay for that.
        """
        self.request.body = b""
        super().free()

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
        self._free_body()
        self._drained = None  # the callback refers to this exchange
        self.connection.ready.append(self)

    def drain(self) -> None:
        """See `http2.Stream.drain`: a streaming response without an end is given up."""
        if self._finite:
            return
        gone, self._gone = self._gone, None
        if gone is not None:
            self._drained = None
            reset(self.connection, self, INTERNAL_ERROR)
            gone()

    def on_drained(self, call: Callable[[], None]) -> bool:
        """See `Exchange.on_drained`."""
        if not self.open:
            return False
        if self.backlog <= LOW_WATER:
            call()
            return True
        self._drained = call
        await_drain(self.connection, self)
        return True

    def drained(self) -> None:
        """See `http2.Stream.drained`."""
        call, self._drained = self._drained, None
        if call is not None:
            call()

    def respond(self, status: int, fields: bytes, body: bytes = b"") -> None:
        """Answer in one piece; see `Exchange.respond`."""
        if not self.open:
            return
        self._gone = self._drained = None
        size = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
        block = block_of(status, fields + self._common() + size)
        if not body or self.request.method == b"HEAD":
            self.put_last(block)
            return
        self.put_head(block)
        self.put_data(b"", body)
        self.put_last()

    def refuse(self, status: int, text: bytes) -> None:
        """Answer in plain text; see `Exchange.refuse`. The frames around the request are valid, so the
        connection stays.
        """
        self.respond(status, PLAIN, text)

    def begin(self, status: int, fields: bytes, *, endless: bool = True) -> None:
        """Send the head and keep the body open; see `Exchange.begin`."""
        self._finite = not endless
        if not self.open:
            return
        block = block_of(status, fields + self._common())
        if self.request.method == b"HEAD":
            self.put_last(block)
        else:
            self.put_head(block)

    def push(self, *parts: bytes) -> bool:
        """Send a piece of the open body; see `Exchange.push`."""
        if not self.open or self.backlog > OPEN_BODY_LIMIT:
            return False
        for part in parts:
            self.put_data(b"", part)
        return True

    def end(self) -> None:
        """End the open body; see `Exchange.end`."""
        if self.open:
            self._gone = self._drained = None
            self.put_last()

    def abort(self) -> None:
        """Reset the stream; see `Exchange.abort`."""
        self._gone = self._drained = None
        reset(self.connection, self, INTERNAL_ERROR)

    def defer(self, gone: Callable[[], None]) -> None:
        """See `Exchange.defer`. Streams of a connection do not wait for each other."""
        if self.open:
            self._gone = gone
            self._finite = True

    def worked(self, seconds: float) -> None:
        """See `Exchange.worked`."""
        self.connection.output.add_load(seconds)

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call when the client resets the stream or disconnects before the answer is complete; see
        `Exchange.on_gone`.
        """
        if self.open:
            self._gone = call

    def _free_body(self) -> None:
        self._body = None
        self.weigh(0)

    def _common(self) -> bytes:
        return self._server.common or self._server.common_for(self.request)


def opener(
    handle: Callable[[Exchange], None], server: Http1Server
) -> Callable[[Http2Connection, int, Head], Stream]:
    """Makes such streams, for this handler, with the limits and common header lines of HTTP/1."""

    def open_exchange(connection: Http2Connection, number: int, head: Head) -> Stream:
        path, _, query = head.path.partition(b"?")
        request = Request(head.method, path, query, b"", head.field(b"content-type"))
        request.authorization = head.field(b"authorization")
        request.origin = head.field(b"origin")
        request.host = head.authority or head.field(b"host")
        request.traceparent = head.field(b"traceparent")
        request.version = b"2"
        exchange = Http2Exchange(
            connection,
            number,
            head.content_length,
            connection.now,
            _handle=handle,
            _server=server,
            request=request,
            _reads=head.method not in SAFE,
        )
        if head.field(b"expect") == b"100-continue":
            exchange.put_head(_CONTINUE)
        return exchange

    return open_exchange
