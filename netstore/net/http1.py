"""HTTP/1.1 and 1.0, server side, as a pure codec: bytes in, exchanges out; answers in, bytes out (RFC 9112).

Invariants that live here: a request is handed over whole or not at all; answers leave in the order of the
requests, whatever the order in which they were completed; a read is handed over only when every write before
it on the connection is answered, so that pipelined requests see each other; nothing is kept beyond the
limits; after a malformed byte nothing more of that connection is read.

httptools (llhttp) parses. In front of it stands a table of heads already parsed: the same bytes at the start
of a message always mean the same request, and clients repeat themselves, so a known head costs one dictionary
look-up (1.0 us against 6.5 us; `make bench` has the comparison under `http1`). The table is bounded and holds
only heads whose body length is a plain number.
"""

from __future__ import annotations

from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import httptools

from netstore.net.exchange import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of request line and header lines together. A key path may be long; a head of this size is still read
in one piece.
"""

BODY_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of a body: the form limit of the v2 API (limits)."""

PIPELINE_LIMIT: Final = 128
"""Unanswered requests of one connection beyond which nothing more is read from it."""

HIGH_WATER: Final = 1024 * 1024
"""Unsent bytes of one connection beyond which no further request of it is handled and nothing more is read
from it.
"""

OPEN_BODY_LIMIT: Final = 4 * 1024 * 1024
"""Unsent bytes of one connection beyond which `push` refuses: a watcher this far behind must start again from
history.
"""

_KNOWN_HEADS: Final = 4096
_KNOWN_HEAD_SIZE: Final = 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PLAIN: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
_CORS: Final = (
    b"Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"
    b"Access-Control-Allow-Origin: %s\r\n"
    b"Access-Control-Allow-Headers: accept, content-type, authorization\r\n"
)
_STATUS_11: Final = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_STATUS_10: Final = {s.value: b"HTTP/1.0 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_METHOD_LIMIT: Final = 64
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Output(Protocol):
    """Where the codec puts what must be sent."""

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes to be sent."""

    def unsent(self) -> int:
        """Bytes queued and not yet taken by the network."""

    def finish(self) -> None:
        """Send what is queued, then close."""

    def cut(self) -> None:
        """Close now; what is queued is lost."""


class Cors:
    """Which web pages may read answers (v2 API, CORS): any (`*`), or the listed origins."""

    __slots__ = ("_origins",)

    def __init__(self, origins: Iterable[str] = ("*",)) -> None:
        listed = [origin.encode() for origin in origins]
        self._origins = None if not listed or b"*" in listed else frozenset(listed)

    @property
    def any(self) -> bool:
        """Every origin may."""
        return self._origins is None

    def fields(self, origin: bytes | None) -> bytes:
        """The header lines for a request from this origin."""
        if self._origins is None:
            return _CORS % b"*"
        return _CORS % origin if origin in self._origins else b""


class Http1Server:
    """What all HTTP/1 connections of a listener share: the handler, the known heads, the header lines every
    answer has.

    `handle` gets each complete request as an exchange. `set_date` is called once a second with the `Date`
    header line, CRLF included.
    """

    __slots__ = ("_cors", "_date", "body_limit", "common", "handle", "head_limit", "known")

    def __init__(
        self,
        handle: Callable[[Http1Exchange], None],
        head_limit: int = HEAD_LIMIT,
        body_limit: int = BODY_LIMIT,
        cors: Cors | None = None,
    ) -> None:
        self.handle = handle
        self.head_limit = head_limit
        self.body_limit = body_limit
        self.known: dict[bytes, tuple[Request, int]] = {}
        self._cors = cors or Cors()
        self.common: bytes | None = None
        """The lines every answer has, where they do not depend on the request."""
        self.set_date(b"")

    def set_date(self, date: bytes) -> None:
        """Use this date line from now on."""
        self._date = date
        if self._cors.any:
            self.common = date + self._cors.fields(None)

    def common_for(self, request: Request) -> bytes:
        """The lines every answer has, for this request."""
        return self._date + self._cors.fields(request.origin)

    def learn(self, head: bytes, request: Request, length: int) -> None:
        """Remember what a head means: the request (without its body) and the length of the body in bytes."""
        if len(self.known) >= _KNOWN_HEADS:
            self.known.clear()
        self.known[head] = (request, length)


class Http1Exchange:
    """One request on an HTTP/1 connection and its answer. Implements `netstore.net.exchange.Exchange`."""

    __slots__ = ("_chunked", "_connection", "_done", "_gone", "_held", "closing", "request", "writes")

    def __init__(self, connection: Http1Connection, request: Request) -> None:
        self.request = request
        self.writes = request.method not in _SAFE
        """It may change what a later request sees."""
        self._connection = connection
        self._held: list[bytes] | None = None
        self._done = False
        self._chunked = False
        self.closing = not request.keep_alive
        """The connection closes after this answer."""
        self._gone: Callable[[], None] | None = None

    def respond(self, status: int, fields: bytes, body: bytes = b"") -> None:
        """Answer in one piece; see `Exchange.respond`."""
        if self._done:  # who failed half-way is asked to say so, and may have answered already
            return
        request = self.request
        line = _STATUS_11[status] if request.version == b"1.1" else _STATUS_10[status]
        closing = b""
        if self.closing:
            closing = b"Connection: close\r\n"
        elif request.version == b"1.0":
            closing = b"Connection: keep-alive\r\n"
        server = self._connection.server
        common = server.common or server.common_for(request)
        size = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
        if request.method == b"HEAD":
            body = b""
        self._gone = None
        self._put(b"".join((line, fields, common, size, closing, b"\r\n", body)))
        self._finished()

    def refuse(self, status: int, text: bytes) -> None:
        """Answer in plain text, then close; see `Exchange.refuse`."""
        self.closing = True
        self._connection.reading = False
        self.respond(status, _PLAIN, text)

    def begin(self, status: int, fields: bytes) -> None:
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

    def push(self, data: bytes) -> bool:
        """Send a piece of the open body; see `Exchange.push`."""
        connection = self._connection
        if connection.closed or connection.output.unsent() > OPEN_BODY_LIMIT:
            return False
        if self._held is not None and sum(map(len, self._held)) > OPEN_BODY_LIMIT:
            return False
        self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return True

    def end(self) -> None:
        """End the open body; see `Exchange.end`."""
        if self._done:
            return
        self._gone = None
        if self._chunked:
            self._put(b"0\r\n\r\n")
        self._finished()

    def abort(self) -> None:
        """Cut the connection; see `Exchange.abort`."""
        self._connection.output.cut()

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call when the client hangs up before the answer is complete; see `Exchange.on_gone`."""
        self._gone = call

    @property
    def complete(self) -> bool:
        """The whole answer has been given."""
        return self._done

    @property
    def watched(self) -> bool:
        """Somebody wants to know when the client hangs up: the answer has no end of its own."""
        return self._gone is not None

    def release(self) -> bool:
        """This exchange is now the first in line: let what it held go. True when its answer is complete."""
        if self._held is not None:
            held, self._held = self._held, None
            for part in held:
                self._connection.output.write(part)
        return self._done

    def hold(self) -> None:
        """Another exchange is ahead: keep what is answered until it is done."""
        self._held = []

    def lost(self) -> None:
        """The connection is gone."""
        self._done = True
        call, self._gone = self._gone, None
        if call is not None:
            call()

    def _finished(self) -> None:
        self._done = True
        if self.writes:
            self._connection.written()
        self._connection.advance()

    def _put(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
        elif not self._connection.closed:
            self._connection.output.write(data)


class Http1Connection:
    """One HTTP/1 connection: feed it with `receive`, it hands exchanges to the server's handler.

    `output` takes what must be sent. `waiting` says that part of a request is here and the rest is not; the
    owner puts a time limit on that. `reading` turns false when the rest of what comes means nothing any more
    (refused, or closing after the last answer).
    """

    __slots__ = (
        "_begun",
        "_body",
        "_body_size",
        "_head_done",
        "_head_size",
        "_learning",
        "_length",
        "_method",
        "_parser",
        "_pending",
        "_plain_framing",
        "_ready",
        "_request",
        "_url",
        "_writes",
        "closed",
        "output",
        "reading",
        "server",
        "waiting",
    )

    def __init__(self, server: Http1Server, output: Output) -> None:
        self.server = server
        self.output = output
        self.closed = False
        self.reading = True
        self.waiting = False
        self._pending: deque[Http1Exchange] = deque()
        self._ready: deque[Request] = deque()
        self._writes = 0
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request(b"", b"")
        self._method: bytes | None = None
        self._begun = 0
        self._url = b""
        self._body: list[bytes] = []
        self._body_size = 0
        self._head_size = 0
        self._head_done = False
        self._length = 0
        self._plain_framing = True
        self._learning: bytes | None = None

    @property
    def busy(self) -> bool:
        """So many answers are outstanding that nothing more should be read for now."""
        return bool(self._ready) or len(self._pending) >= PIPELINE_LIMIT

    @property
    def hungry(self) -> bool:
        """Requests were read that are not handled yet."""
        return bool(self._ready)

    @property
    def pending(self) -> int:
        """Requests handed over and not yet answered."""
        return len(self._pending)

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read. May hand over any number of exchanges before it returns."""
        ready = self._ready
        if not self.waiting:
            known = self.server.known
            while data and self.reading:
                end = data.find(b"\r\n\r\n") + 4
                found = known.get(data[:end]) if end > 3 else None
                if found is None:
                    break
                request, length = found
                if length:
                    if len(data) - end < length:
                        break
                    request = request.with_body(data[end : end + length])
                    end += length
                self.reading = request.keep_alive
                ready.append(request)
                data = data[end:]
        if data and self.reading:
            self._parse(data)
        else:
            self.resume()

    def resume(self) -> None:
        """Hand over what is complete, as long as the answers outstanding are not too many or too large, and a
        read does not have to wait for a write.
        """
        ready, pending = self._ready, self._pending
        while ready and len(pending) < PIPELINE_LIMIT and self.output.unsent() < HIGH_WATER:
            if self._writes and ready[0].method in _SAFE:
                return
            request = ready.popleft()
            exchange = Http1Exchange(self, request)
            self._writes += exchange.writes
            if pending:
                exchange.hold()
            pending.append(exchange)
            if isinstance(request, _Refusal):
                exchange.respond(request.status, _PLAIN, request.text)
            else:
                self.server.handle(exchange)

    def eof(self) -> None:
        """The peer sends nothing more. Plain answers still go out; an answer without an end is given up."""
        self.reading = False
        if any(exchange.watched for exchange in self._pending) or not (self._pending or self._ready):
            self.gone()
            self.output.cut()
        elif not self._ready:
            self._pending[-1].closing = True
        elif self._ready[-1].keep_alive:
            last = self._ready[-1] = self._ready[-1].with_body(self._ready[-1].body)
            last.keep_alive = False

    def gone(self) -> None:
        """The network failed, or the connection was closed: let go of everything."""
        self.closed = True
        self.reading = False
        self._ready.clear()
        while self._pending:
            self._pending.popleft().lost()

    def refuse(self, status: int, text: bytes) -> None:
        """Answer what was not finished in time, then close."""
        self._refuse(status, text)
        self.resume()

    def written(self) -> None:
        """A write was answered."""
        self._writes -= 1

    def sweep(self, now: float) -> None:
        """Nothing here depends on the time; see `Session.sweep`."""

    def drain(self) -> None:
        """The server stops: close after what was asked; an answer without an end is given up."""
        if self._pending or self._ready:
            self.eof()
        else:
            self.reading = False
            self.output.finish()

    def advance(self) -> None:
        """Send on from the head of the line as far as answers are complete."""
        pending = self._pending
        while pending and pending[0].complete:
            if pending.popleft().closing:
                self.output.finish()
                self.gone()
            elif pending:
                pending[0].release()

    # --- what httptools calls

    def on_message_begin(self) -> None:
        """A first byte of a request is here."""
        self.waiting = True
        self._begun += 1
        self._request = Request(b"", b"")
        self._url = b""
        self._body = []
        self._body_size = 0
        self._head_size = 0
        self._head_done = False
        self._length = 0
        self._plain_framing = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        lower = name.lower()
        request = self._request
        if lower == b"host":
            request.host = value
        elif lower == b"content-type":
            request.content_type = value
        elif lower == b"content-length":
            self._length = int(value)
        elif lower == b"authorization":
            request.authorization = value
        elif lower == b"origin":
            request.origin = value
        elif lower == b"expect":
            self._plain_framing = False
            if value.lower() == b"100-continue":
                request.expects_continue = True
        elif lower in (b"transfer-encoding", b"upgrade"):
            self._plain_framing = False

    def on_headers_complete(self) -> None:
        """The head is whole: decide how the body is read."""
        parser, request = self._parser, self._request
        request.method = self._method or parser.get_method()
        request.version = parser.get_http_version().encode()
        request.keep_alive = parser.should_keep_alive()
        url = self._url
        if not url.startswith(b"/") and b"://" in url:
            _, _, rest = url.partition(b"://")
            slash = rest.find(b"/")
            url = rest[slash:] if slash >= 0 else b"/"
        request.path, _, request.query = url.partition(b"?")
        self._head_done = True
        if not self.reading:
            return
        if request.version not in (b"1.1", b"1.0"):
            status = 400 if request.version < b"1" else 505
            self._refuse(status, b"%d unsupported protocol version" % status)
        elif request.version == b"1.1" and request.host is None:
            self._refuse(400, b"400 Bad Request: missing required Host header")
        elif self._length > self.server.body_limit:
            self._overflow()
        elif request.expects_continue and not self._pending:
            self.output.write(_CONTINUE)
        elif self._learning is not None and self._plain_framing and self._method is None:
            self.server.learn(self._learning, request, self._length)
        self._learning = None

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_size += len(data)
        if not self.reading:
            return
        if self._body_size > self.server.body_limit:
            self._overflow()
            return
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.waiting = False
        self._method = None
        if self.reading:
            request = self._request
            self.reading = request.keep_alive
            self._ready.append(request.with_body(b"".join(self._body)) if self._body else request)
            self._body = []

    # --- inside

    def _parse(self, data: bytes) -> None:
        self._begun = 0
        if not self.waiting:
            end = data.find(b"\r\n\r\n") + 4
            self._learning = data[:end] if 3 < end <= _KNOWN_HEAD_SIZE else None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # No other protocol is offered: the request stands as it is, and what follows is the next one (RFC
            # 9110, 7.8).
            self._parser = httptools.HttpRequestParser(self)
            self.receive(data[int(upgrade.args[0]) :])
        except httptools.HttpParserInvalidMethodError:
            self._parse_other_method(data, first=self._begun == 1)
        except (httptools.HttpParserError, ValueError):
            self._refuse(400, b"400 Bad Request")
        if self.waiting and not self._head_done:
            self._head_size += len(data)
            if self._head_size > self.server.head_limit:
                self._refuse(431, b"431 Request Header Fields Too Large")
        self.resume()

    def _parse_other_method(self, data: bytes, *, first: bool) -> None:
        """A method httptools does not know is still well formed if it is a token (RFC 9110, 9.1): parse it
        under another name.
        """
        token, space, rest = data.partition(b" ")
        if not first or not space or not 0 < len(token) <= _METHOD_LIMIT or not _TOKEN.issuperset(token):
            self._refuse(400, b"400 Bad Request")
            return
        self._method = token
        self._parser = httptools.HttpRequestParser(self)
        self._learning = None
        self._parse(b"PUT " + rest)

    def _refuse(self, status: int, text: bytes) -> None:
        if self.reading:
            self.waiting = False
            self.reading = False
            self._ready.append(_Refusal(status, text))

    def _overflow(self) -> None:
        request = self._request
        request.too_large = True
        request.keep_alive = False
        self._body = []
        self.waiting = False
        self.reading = False
        self._ready.append(request)


class _Refusal(Request):
    """Stands in the line for a request that could not be understood; answered in its turn."""

    __slots__ = ("status", "text")

    def __init__(self, status: int, text: bytes) -> None:
        super().__init__(b"", b"")
        self.keep_alive = False
        self.status = status
        self.text = text
