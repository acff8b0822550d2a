"""HTTP/1.1 and 1.0, server side, as a pure codec: bytes in, exchanges out; answers in, bytes out (RFC 9112).

Invariants that live here: a request is handed over whole or not at all; answers leave in the order of the
requests, whatever the order in which they were completed; a read is handed over only when every write before
it on the connection is answered, so that pipelined requests see each other; nothing is handed over behind an
answer that has no end of its own; after a malformed byte nothing more of that connection is read.

Bytes are taken apart one request at a time, and only as far as requests can be handed over: what waits, waits
as bytes, and nothing is kept beyond the limits below. What is kept is charged to the connection's account.

`http1head` says what a head means, `chunked` where a chunked body ends.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Final

from netstore.net.bodyadmission import GROWTH, TOO_MANY, Claim, QueueFull
from netstore.net.exchange import HIGH_WATER, LOW_WATER, PLAIN, Request, field_line
from netstore.net.http1.chunked import BodyTooLarge, ChunkedBody
from netstore.net.http1.exchange import SAFE, Http1Exchange
from netstore.net.http1.head import CHUNKED, KnownHeads, Malformed, refuse_unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.http1.head import Head
    from netstore.net.session import Output

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of request line and header lines together, with the empty line that ends them; of a trailer too. A
key path may be long; a head of this size is still read in one piece.
"""

BODY_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of a body: the form limit of the v2 API (limits)."""

PIPELINE_LIMIT: Final = 128
"""Unanswered requests of one connection beyond which nothing more is read from it."""

TURN_LIMIT: Final = 32
"""Requests of one connection that are handed over in one turn, of about 30 us each."""

HURRIED_LIMIT: Final = 8
"""The same in a turn that is to be short (`Output.hurried`)."""

BEHIND_LIMIT: Final = 64 * 1024
"""Bytes read of what follows a request whose answer has no end of its own. Reading goes on that far because
it is how the end of the connection is noticed.
"""

HEAD_SECONDS: Final = 20.0
"""How long a client may take for a head, from its first byte."""

BODY_SECONDS: Final = 30.0
BODY_RATE: Final = 1024
"""Of a body at least so many bytes a second must come, on average over each `BODY_SECONDS`."""

REFUSED_DROP: Final = 64 * 1024
"""Bytes that are read and dropped behind what was refused, for the answer to reach a client that is still
sending. What comes of a head or a trailer without end is not worth more.
"""

_SMALL: Final = 4096
"""Bytes of one connection up to which nothing is charged: it would cost more than it tells."""
_EXCHANGE_BYTES: Final = 512
"""What an unanswered request is charged, beside its body."""
_CR: Final = 0x0D
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CORS: Final = (
    b"Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"
    b"%s"
    b"Access-Control-Allow-Headers: accept, content-type, authorization\r\n"
)


class Cors:
    """Which web pages may read answers (v2 API, CORS): any (`*`), or the listed origins, or none."""

    __slots__ = ("_origins",)

    def __init__(self, origins: Iterable[str] = ("*",)) -> None:
        listed = [origin.encode() for origin in origins]
        self._origins = None if b"*" in listed else frozenset(listed)

    @property
    def same(self) -> bool:
        """The header lines do not depend on the origin: every one may, or none."""
        return not self._origins

    def fields(self, origin: bytes | None) -> bytes:
        """The header lines for a request from this origin."""
        if self._origins is None:
            return _CORS % field_line(b"Access-Control-Allow-Origin", b"*")
        if origin is None or origin not in self._origins:
            return b""
        return _CORS % field_line(b"Access-Control-Allow-Origin", origin)


class Http1Server:
    """What all HTTP/1 connections of a listener share: the handler, the known heads, the header lines every
    answer has.

    `handle` gets each complete request as an exchange. `set_date` is called once a second with the `Date`
    header line, CRLF included.
    """

    __slots__ = ("_cors", "_date", "body_limit", "common", "handle", "head_limit", "heads")

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
        self.heads = KnownHeads()
        self._cors = cors or Cors()
        self.common: bytes | None = None
        """The lines every answer has, where they do not depend on the request."""
        self.set_date(b"")

    def set_date(self, date: bytes) -> None:
        """Use this date line from now on."""
        self._date = date
        if self._cors.same:
            self.common = date + self._cors.fields(None)

    def common_for(self, request: Request) -> bytes:
        """The lines every answer has, for this request."""
        return self._date + self._cors.fields(request.origin)


class Http1Connection:
    """One HTTP/1 connection: feed it with `receive`, it hands exchanges to the server's handler.

    `output` takes what must be sent. `reading` turns false when the rest of what comes means nothing any more
    (refused, or closing after the last answer). See `session.Session`, which this implements.
    """

    __slots__ = (
        "_at",
        "_awaiting_drain",
        "_begun",
        "_body",
        "_came",
        "_charged",
        "_chunks",
        "_claim",
        "_claimed",
        "_data",
        "_ended",
        "_final",
        "_had",
        "_head",
        "_known",
        "_later",
        "_next",
        "_part",
        "_pending",
        "_since",
        "_swept",
        "_tells",
        "_verdict",
        "_weight",
        "_whole",
        "_writes",
        "closed",
        "deferred",
        "endless",
        "has_pending",
        "late",
        "output",
        "reading",
        "server",
    )

    def __init__(self, server: Http1Server, output: Output) -> None:
        self.server = server
        self._known = server.heads.find
        self.output = output
        self.closed = False
        self.reading = True
        self.has_pending = False
        """Something was read that is not handed over yet."""
        self.late = False
        """The peer took longer than it may to complete what it began."""
        self.endless = 0
        """How many of the answers outstanding have no end of their own."""
        self.deferred = False
        """The request that was handed over last is worked on before it takes its place (`Exchange.defer`)."""
        self._pending: deque[Http1Exchange] = deque()
        self._writes = 0
        self._awaiting_drain: Http1Exchange | None = None
        """The answer that goes on when the network has taken what was sent."""
        self._weight = 0
        """Bytes of held answers, and of bodies of unanswered requests."""
        self._charged = 0
        # What was received, in its order: `_begun` is the first part of a head, or `_data` what is taken
        # apart now, from `_at` on; `_later` came while requests had to wait.
        self._begun = bytearray()
        self._data = b""
        self._at = 0
        self._later = bytearray()
        self._head: Head | None = None
        """The head of a request whose body is not whole."""
        self._body: BytesIO | None = None
        """What has come of that body, which has so many bytes; unless it is chunked."""
        self._came = 0
        self._chunks: ChunkedBody | None = None
        self._claim: Claim | None = None
        """The memory for that body, or that it waits for."""
        self._whole: Claim | None = None
        """The same of the request that became whole last, until it is handed over."""
        self._claimed = 0
        """Bytes of bodies of unanswered requests that their claims are charged with."""
        self._verdict: tuple[int, bytes] | None = None
        """Why the body that is not whole will not be read on."""
        self._tells = False
        """The client waits to be told that it may send the body."""
        self._next: Request | None = None
        """A whole request that must wait."""
        self._final = False
        """What was read last is the last that is read."""
        self._ended = False
        """The peer sends nothing more."""
        self._part = 0
        """Counts heads and bodies that came in pieces; one of them is `_swept`, timed since `_since`."""
        self._swept = 0
        self._since = 0.0
        self._had = 0

    @property
    def busy(self) -> bool:
        """So much is outstanding that nothing more should be read for now."""
        claim = self._claim
        if claim is not None:
            return not claim.granted
        if self.endless and len(self._later) + len(self._data) - self._at < BEHIND_LIMIT:
            return False
        return self.has_pending or len(self._pending) >= PIPELINE_LIMIT or self._weight >= HIGH_WATER

    @property
    def answers_need_reading(self) -> bool:
        """Never: answers leave whatever the client sends."""
        return False

    @property
    def waiting(self) -> bool:
        """Part of a request is here, and the rest is not."""
        if self._claim is not None and not self._claim.granted:
            return False
        return not self.has_pending and (self._head is not None or bool(self._begun))

    @property
    def idle(self) -> bool:
        """Every request was answered to its end."""
        return not (self._pending or self.has_pending)

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read. May hand over any number of exchanges before it returns."""
        if self._final:
            return
        if self.has_pending:
            self._later += data
        else:
            self._data, self._at = data, 0
        self.resume()

    def resume(self) -> None:
        """Hand over what is complete, as long as the answers outstanding are not too many or too large, none
        of them is without an end or deferred, and a read does not have to wait for a write.
        """
        if self.closed:
            return
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            self.refuse(*verdict)
            return
        pending, server, output = self._pending, self.server, self.output
        if self._awaiting_drain is not None and output.unsent <= LOW_WATER:
            waiting, self._awaiting_drain = self._awaiting_drain, None
            waiting.drained()
        turn = 0
        while not self.closed:
            if self._at == len(self._data) and self._next is None and not self._later:
                self.has_pending = False
                break
            if turn >= HURRIED_LIMIT and (turn >= TURN_LIMIT or output.hurried):
                self.has_pending = True
                output.soon(self.resume)
                break
            if (
                self.endless
                or self.deferred
                or len(pending) >= PIPELINE_LIMIT
                or self._weight >= HIGH_WATER
                or output.unsent >= HIGH_WATER
                or output.held_back
            ):
                self.has_pending = True
                if self._head is None or self._next is not None:
                    break
                # Its body is read on all the same: others wait for the memory that it was given.
                self._next = self._read()
                if self._next is None:
                    self.has_pending = False
                self._release_whole()
                break
            request = self._next or self._read()
            if request is None:
                self.has_pending = False
                break
            if self._writes and request.method in SAFE:
                self._next = request
                self._release_whole()
                self.has_pending = True
                break
            self._next = None
            turn += 1
            exchange = Http1Exchange(self, request)
            if exchange.writes:
                self._writes += 1
            if request.body:
                self._weight += len(request.body)
                if self._whole is not None:
                    self._give(exchange)
            if pending:
                exchange.hold()
            pending.append(exchange)
            if type(request) is _Refusal:
                exchange.respond(request.status, PLAIN, request.text)
            else:
                server.handle(exchange)
        if self._ended:
            if self.endless:
                self._give_up()
            elif not self.has_pending:
                self._finish()
        if self._awaiting_drain is not None:
            self.has_pending = True
        if (
            self.has_pending
            or self._head is not None
            or self._begun
            or self._weight > _SMALL
            or self._charged
        ):
            self._settle()

    def await_drain(self, exchange: Http1Exchange) -> None:
        """The answer that is being sent goes on once the network has taken what was sent of it."""
        self._awaiting_drain = exchange
        self.has_pending = True

    def eof(self) -> None:
        """The peer sends nothing more. Plain answers still go out; an answer without an end is given up."""
        self.reading = False
        self._ended = True
        if self.endless:
            self._give_up()
        elif not self.has_pending:
            self._finish()

    def gone(self) -> None:
        """The network failed, or the connection was closed: let go of everything."""
        self.closed = True
        self.reading = False
        self.has_pending = False
        self.late = False
        self._drop()
        self._release_whole()
        self._next = self._awaiting_drain = self._verdict = None
        for exchange in self._pending:
            self._take_from(exchange)
        pending = list(self._pending)
        self._pending.clear()
        self._weight = 0
        self._settle()
        with ExitStack() as each:  # calls all of them, the first one first, whatever one of them raises
            for exchange in reversed(pending):
                each.callback(exchange.lost)

    def refuse(self, status: int, text: bytes) -> None:
        """Answer what was not finished in time, then close."""
        if not self._final:
            self.read_no_more()
            self._next = _Refusal(status, text)
            self.resume()

    def read_no_more(self) -> None:
        """What follows what was handed over means nothing."""
        self._final = True
        self.reading = False
        self._drop()

    def answered(self, exchange: Http1Exchange) -> None:
        """This exchange is complete: send on from the head of the line as far as answers are."""
        if self.closed:
            return
        if exchange.writes:
            self._writes -= 1
        if exchange.endless:
            self.endless -= 1
        if exchange.deferred:
            self.deferred = False
        if exchange.request.body:
            self._weight -= len(exchange.request.body)
            if exchange.claim is not None:
                self._take_from(exchange)
        pending = self._pending
        while pending and pending[0].complete:
            first = pending.popleft()
            if first.closing:
                request = first.request
                self.output.finish(request.drop if isinstance(request, _Refusal) else None)
                self.gone()
                return
            if pending:
                pending[0].release()
        if not pending:
            if self._tells:
                self._tells = False
                self.output.write(_CONTINUE)
            if self._ended and not self.has_pending:
                self._finish()
        if self._charged:
            self._settle()

    def weigh(self, size: int) -> None:
        """An answer holds so many bytes more."""
        self._weight += size
        if self._weight > _SMALL:
            self._settle()

    def sweep(self, now: float) -> None:
        """Once a second: see whether what was begun becomes complete in time. It is timed from the first
        sweep that sees it, so that no clock is read for what comes at once.
        """
        self.late = False
        if not self.waiting or self.busy or self.output.paused:
            self._swept = 0
            return
        had = self._kept_body()
        if self._swept != self._part:
            self._swept, self._since, self._had = self._part, now, had
        elif self._head is None:
            self.late = now - self._since > HEAD_SECONDS
        elif (passed := now - self._since) >= BODY_SECONDS:
            self.late = had - self._had < passed * BODY_RATE
            self._since, self._had = now, had

    def drain(self) -> None:
        """The server stops: close after what was asked; an answer without an end is given up."""
        if self._pending or self.has_pending:
            self.eof()
        else:
            self.reading = False
            self.output.finish()

    # --- taking apart

    def _read(self) -> Request | None:
        """The next whole request, or a refusal in its place; None when more must come."""
        if self._head is None and not self._begun:
            # The way of most: a known head, all of whose body is here.
            data, at = self._data, self._at
            end = data.find(b"\r\n\r\n", at) + 4
            head = self._known(data[at:end])
            if head is not None:
                known, length = head.request, head.length
                if 0 < length <= len(data) - end and length <= self.server.body_limit:
                    known = known.with_body(data[end : end + length])
                    length = 0
                    end += head.length
                if not length:
                    self._at = end
                    if not known.keep_alive:
                        self.read_no_more()
                    return known
        try:
            request = self._take()
            while request is None and self._later:
                self._data = bytes(self._later)
                self._later.clear()
                request = self._take()
        except Malformed as bad:
            request = _Refusal(bad.status, bad.text)
        if request is not None and not request.keep_alive:
            self.read_no_more()
        return request

    def _take(self) -> Request | None:
        """The next whole request in `_data`; None when all of it is taken and more must come. Raises
        Malformed.
        """
        if self._head is not None:
            return self._take_body(self._head)
        if self._begun and not self._ends_begun():
            return None
        server, data, at = self.server, self._data, self._at
        while data.startswith(b"\r\n", at):  # empty lines before a request mean nothing (RFC 9112, 2.2)
            at += 2
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4 or end - at > server.head_limit:
            self._begin(data[at:])
            return None
        head = server.heads.read(data[at:end])
        length = head.length
        if not length:
            self._at = end
            return head.request
        if length > server.body_limit:
            return _too_large(head.request)
        if 0 < length <= len(data) - end:
            self._at = end + length
            return head.request.with_body(data[end : end + length])
        self._at = end
        self._part += 1
        self._head = head
        if length == CHUNKED:
            self._chunks = ChunkedBody(server.body_limit, server.head_limit)
        else:
            self._body = BytesIO()
        request = self._take_body(head)
        if request is None and self._claim is not None and self._claim.granted:
            self._say_continue(head)
        return request

    def _say_continue(self, head: Head) -> None:
        """The body may come, if the client waits to be told so."""
        if head.request.expects_continue:
            self._tells = bool(self._pending)
            if not self._tells:
                self.output.write(_CONTINUE)

    def _take_body(self, head: Head) -> Request | None:
        """The request of this head, when what is here completes its body."""
        data, at, chunks, body, whole = self._data, self._at, self._chunks, self._body, None
        # A body grows where it is and is handed over so: to copy the longest takes 6 ms.
        if chunks is not None:
            try:
                at = chunks.take(data, at)
            except BodyTooLarge:
                return _too_large(head.request)
            whole = chunks.whole() if chunks.ended else None
        elif body is not None:
            part = data[at : at + head.length - self._came]
            body.write(part)
            at += len(part)
            self._came += len(part)
            whole = body.getvalue() if self._came == head.length else None
        if whole is None:
            self._data, self._at = b"", 0
            return self._claim_for(head)
        self._at = at
        request = head.request.with_body(whole)
        if self._claim is not None and whole:  # one that turned out empty needs no memory
            self._release_whole()
            self._whole, self._claim = self._claim, None
            self.output.admission.whole(self._whole)
        self._let_go()
        return request

    def _begin(self, rest: bytes) -> None:
        """Keep the first part of a head. Raises Malformed where it can become none."""
        self._data, self._at = b"", 0
        if rest:
            if rest != b"\r":
                refuse_unfinished(rest, 0, self.server.head_limit)
            self._begun += rest
            self._part += 1

    def _ends_begun(self) -> bool:
        """Put what came behind the first part of a head. True when it may be whole; it is in `_data` then."""
        begun = self._begun
        searched = max(len(begun) - 3, 0)
        begun += self._data
        if begun[0] != _CR and begun.find(b"\r\n\r\n", searched) < 0:
            refuse_unfinished(begun, searched, self.server.head_limit)
            self._data = b""
            return False
        self._data = bytes(begun)
        begun.clear()
        return True

    def _drop(self) -> None:
        """Forget what was read and not taken."""
        self._data, self._at = b"", 0
        self._begun.clear()
        self._later.clear()
        self._let_go()

    def _let_go(self) -> None:
        self._head = self._chunks = None
        self._tells = False
        if self._claim is not None:
            claim, self._claim = self._claim, None
            self.output.admission.release(claim)
        self._body = None
        self._came = 0

    # --- the memory of bodies (`bodyadmission`)

    def admitted(self) -> None:
        """See `bodyadmission.Asker`."""
        if self._head is not None and not self._kept_body():
            self._say_continue(self._head)
        self._settle()
        self.output.again()

    def given_up(self, status: int, reason: bytes) -> None:
        """See `bodyadmission.Asker`."""
        self._verdict = status, reason
        self.has_pending = True
        self._settle()
        self.output.again()

    def _claim_for(self, head: Head) -> Request | None:
        """See that the body that is not whole has its memory, or waits for it; a refusal where it cannot."""
        came, chunks, claim = self._kept_body(), self._chunks, self._claim
        if claim is None:
            claim = self._claim = Claim(self.output, self)
        elif chunks is None or came <= claim.size or not claim.granted:
            claim.came = came
            return None
        claim.came = came
        size = (
            head.length if chunks is None else min(max(GROWTH, 4 * came), self.server.body_limit + HEAD_LIMIT)
        )
        try:
            self.output.admission.ask(claim, size, came)
        except QueueFull:
            return _Refusal(503, TOO_MANY)
        return None

    def _give(self, exchange: Http1Exchange) -> None:
        """The request that became whole is handed over: one that changes something keeps the memory of its
        body until it is answered; others may wait for long.
        """
        claim, self._whole = self._whole, None
        if claim is not None and exchange.writes:
            exchange.claim = claim
            self._claimed += len(exchange.request.body)
        elif claim is not None:
            self.output.admission.release(claim)

    def _take_from(self, exchange: Http1Exchange) -> None:
        claim, exchange.claim = exchange.claim, None
        if claim is not None:
            self._claimed -= len(exchange.request.body)
            self.output.admission.release(claim)

    def _release_whole(self) -> None:
        claim, self._whole = self._whole, None
        if claim is not None:
            self.output.admission.release(claim)

    # --- inside

    def _finish(self) -> None:
        """The peer sends nothing more, and all of it is handed over: close after the last answer."""
        if self._pending:
            self._pending[-1].closing = True
        elif self.output.unsent:
            self.output.finish()
            self.gone()
        else:
            self._give_up()

    def _give_up(self) -> None:
        self.gone()
        self.output.cut()

    def _kept_body(self) -> int:
        return self._came if self._chunks is None else self._chunks.held

    def _settle(self) -> None:
        """Charge what is kept now."""
        kept = (
            len(self._data)
            - self._at
            + len(self._begun)
            + len(self._later)
            + (0 if self._claim is not None and self._claim.granted else self._kept_body())
            + (0 if self._next is None else len(self._next.body))
            + self._weight
            - self._claimed
            + len(self._pending) * _EXCHANGE_BYTES
        )
        kept = kept if kept > _SMALL else 0
        if kept != self._charged:
            self.output.account.charge(kept - self._charged)
            self._charged = kept


def _too_large(request: Request) -> Request:
    """The request whose body is too long, without it."""
    request = request.with_body(b"")
    request.too_large = True
    request.keep_alive = False
    return request


class _Refusal(Request):
    """Stands in the line for a request that could not be understood; answered in its turn."""

    __slots__ = ("drop", "status", "text")

    def __init__(self, status: int, text: bytes) -> None:
        super().__init__(b"", b"")
        self.keep_alive = False
        self.status = status
        self.text = text
        self.drop: int | None = None if status == 503 else REFUSED_DROP
        """Who is only asked to come again is sound: all that it still sends of this one is dropped."""
