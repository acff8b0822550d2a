"""HTTP/1.1 and 1.0, server side, as a codec without I/O: bytes in, exchanges out; answers in, bytes out
(RFC 9112).

Invariants: a request is handled when it is complete or not at all. Answers are sent in the order of the
requests, in whatever order they are completed. A read is handled only when every write before it on the
connection is answered, so that pipelined requests see each other. Nothing is handled behind a streaming
response that has no end. After a malformed byte nothing more of that connection is read.

`reader` splits the bytes into requests, `head` parses heads, `chunked` chunked bodies; `exchange` is one
request and its answer. What is held is bounded (`bounds`) and charged to the account of the connection.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

from netstore.net.exchange import HIGH_WATER, LOW_WATER, PLAIN, SAFE
from netstore.net.http1.bounds import (
    BODY_RATE,
    BODY_SECONDS,
    EXCHANGE_BYTES,
    HEAD_SECONDS,
    HURRIED_LIMIT,
    PIPELINE_LIMIT,
    READ_AHEAD_LIMIT,
    TURN_LIMIT,
    UNCHARGED,
)
from netstore.net.http1.exchange import Http1Exchange
from netstore.net.http1.reader import CONTINUE, Refusal, RequestReader, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Request
    from netstore.net.http1.server import Http1Server
    from netstore.net.session import Output


class Http1Connection:
    """One HTTP/1 connection, fed with `receive`; it calls the server's handler with each exchange.

    Implements `session.Session` and `bodyadmission.Asker`. `output` takes what is to be sent.
    """

    __slots__ = (
        "_awaiting_drain",
        "_charged",
        "_claimed",
        "_ended",
        "_final",
        "_had",
        "_next",
        "_pending",
        "_reader",
        "_since",
        "_timed",
        "_verdict",
        "_weight",
        "_writes",
        "closed",
        "deferred",
        "endless",
        "has_pending",
        "output",
        "reading",
        "server",
        "timed_out",
    )

    def __init__(self, server: Http1Server, output: Output) -> None:
        self.server = server
        self.output = output
        self.closed = False
        self.reading = True
        self.has_pending = False
        """Something was read that is not handled yet, or an answer waits for the network."""
        self.timed_out = False
        self.endless = 0
        """How many of the unanswered exchanges are streaming responses without an end."""
        self.deferred = False
        """The request that was handled last is worked on before it takes its place (`Exchange.defer`)."""
        self._pending: deque[Http1Exchange] = deque()
        """Exchanges that are not answered, in the order of the requests."""
        self._reader = RequestReader(server, output, self._pending)
        self._writes = 0
        """How many of them may change what a later request sees."""
        self._awaiting_drain: Http1Exchange | None = None
        """The exchange that continues its answer once the network has accepted what was sent."""
        self._weight = 0
        """Bytes of answers that wait for one before them, and of bodies of unanswered requests."""
        self._claimed = 0
        """Bytes of those bodies that are charged by their claims."""
        self._charged = 0
        self._verdict: tuple[int, bytes] | None = None
        """Status and text of the refusal of the incomplete body."""
        self._next: Request | None = None
        """A complete request that must wait."""
        self._final = False
        """The last request was read: nothing that follows is of use."""
        self._ended = False
        """The peer closed its sending side."""
        self._timed = 0
        """Which head or body (`RequestReader.started`) is timed, since `_since`."""
        self._since = 0.0
        self._had = 0
        """Bytes that had arrived of it then."""

    @property
    def at_limit(self) -> bool:
        """See `session.Session`."""
        body = self._reader.body
        if body is not None and body.claim is not None:
            return not body.claim.granted
        if self.has_pending or len(self._pending) >= PIPELINE_LIMIT or self._weight >= HIGH_WATER:
            reader = self._reader
            ahead = len(reader.later) + len(reader.data) - reader.at
            return not (self.endless and ahead < READ_AHEAD_LIMIT)
        return False

    @property
    def answers_need_reading(self) -> bool:
        """Never: answers are sent whatever the client sends."""
        return False

    @property
    def incomplete(self) -> bool:
        """See `session.Session`. A body that waits for memory is not the peer's delay."""
        body = self._reader.body
        if body is not None and body.claim is not None and not body.claim.granted:
            return False
        return not self.has_pending and (body is not None or bool(self._reader.begun))

    @property
    def idle(self) -> bool:
        """See `session.Session`."""
        return not (self._pending or self.has_pending)

    def receive(self, data: bytes) -> bool:
        """See `session.Session`. Any number of exchanges may be handled before it returns."""
        if self._final:
            return True
        reader = self._reader
        if self.has_pending:
            reader.later += data
        elif (
            not self._pending
            and (request := reader.only(data)) is not None
            and self.output.unsent < HIGH_WATER
            and not self.output.held_back
        ):  # as `resume`, for the one request that a client which waits for its answers sends
            self._handle(request, self.server.handle)
            if not (self.has_pending or self._weight > UNCHARGED or self._charged) and self.reading:
                return False
        else:
            reader.data, reader.at = data, 0
        self.resume()
        return self.at_limit or not self.reading

    def resume(self) -> None:
        """Handle complete requests, as long as the unanswered ones are not too many or too large, none of
        them is a streaming response without end or deferred, and a read does not have to wait for a write.
        """
        if self.closed:
            return
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            self.refuse(*verdict)
            return
        pending, output, reader = self._pending, self.output, self._reader
        if self._awaiting_drain is not None and output.unsent <= LOW_WATER:
            waiting, self._awaiting_drain = self._awaiting_drain, None
            waiting.drained()
        turn = 0
        while not self.closed:
            if reader.at == len(reader.data) and self._next is None and not reader.later:
                self.has_pending = False
                break
            if turn >= HURRIED_LIMIT and (turn >= TURN_LIMIT or output.short_turn):
                self.has_pending = True
                output.call_next_turn(self.resume)
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
                if reader.body is None or self._next is not None:
                    break
                # Its body is read in any case: others wait for the memory that it was given.
                self._next = reader.read(self)
                if self._next is None:
                    self.has_pending = False
                elif not self._next.keep_alive:
                    self.read_no_more()
                reader.release_complete()
                break
            request = self._next or reader.read(self)
            if request is None:
                self.has_pending = False
                break
            if not request.keep_alive:
                self.read_no_more()
            if self._writes and request.method in SAFE:
                self._next = request
                reader.release_complete()
                self.has_pending = True
                break
            self._next = None
            turn += 1
            self._handle(request, _respond_refusal if type(request) is Refusal else self.server.handle)
        if self._ended:
            if self.endless:
                self._give_up()
            elif not self.has_pending:
                self._finish()
        if self._awaiting_drain is not None:
            self.has_pending = True
        if (
            self.has_pending
            or reader.body is not None
            or reader.begun
            or self._weight > UNCHARGED
            or self._charged
        ):
            self._charge()

    def _handle(self, request: Request, handle: Callable[[Http1Exchange], None]) -> None:
        """Let a handler answer a request."""
        pending = self._pending
        writes = request.method not in SAFE
        exchange = Http1Exchange(self, request, writes, not request.keep_alive)
        if writes:
            self._writes += 1
        if request.body:
            self._weight += len(request.body)
            if self._reader.complete_claim is not None:
                self._give_claim(exchange)
        if pending:
            exchange.hold()
        pending.append(exchange)
        handle(exchange)

    def eof(self) -> None:
        """See `session.Session`. Answers that end are still sent; streaming responses without an end are
        given up.
        """
        self.reading = False
        self._ended = True
        if self.endless:
            self._give_up()
        elif not self.has_pending:
            self._finish()

    def gone(self) -> None:
        """See `session.Session`: free everything, and tell the exchanges."""
        self.closed = True
        self.reading = False
        self.has_pending = False
        self.timed_out = False
        self._reader.drop()
        self._reader.release_complete()
        self._next = self._awaiting_drain = self._verdict = None
        for exchange in self._pending:
            self._release_claim(exchange)
        pending = list(self._pending)
        self._pending.clear()
        self._weight = 0
        self._charge()
        with ExitStack() as each:  # all are called, the first one first, whatever one of them raises
            for exchange in reversed(pending):
                each.callback(exchange.lost)

    def refuse(self, status: int, text: bytes) -> None:
        """See `session.Session`: an error response after the answers before it."""
        if not self._final:
            self.read_no_more()
            self._next = refusal(status, text)
            self.resume()

    def sweep(self, now: float) -> None:
        """See `session.Session`. A head or body is timed from the first sweep that sees it incomplete, so
        that the clock is not read for requests that arrive at once.
        """
        self.timed_out = False
        if not self.incomplete or self.at_limit or self.output.paused:
            self._timed = 0
            return
        reader = self._reader
        body = reader.body
        had = 0 if body is None else body.held
        if self._timed != reader.started:
            self._timed, self._since, self._had = reader.started, now, had
        elif body is None:
            self.timed_out = now - self._since > HEAD_SECONDS
        elif (passed := now - self._since) >= BODY_SECONDS:
            self.timed_out = had - self._had < passed * BODY_RATE
            self._since, self._had = now, had

    def drain(self) -> None:
        """See `session.Session`; streaming responses without an end are given up."""
        if self._pending or self.has_pending:
            self.eof()
        else:
            self.reading = False
            self.output.finish()

    # --- for `Http1Exchange`

    def answered(self, exchange: Http1Exchange) -> None:
        """This exchange is complete: send the answers that waited for it."""
        if self.closed:
            return
        pending = self._pending
        if len(pending) == 1 and not (
            exchange.closing or exchange.claim or self._ended or self._charged or self._reader.continue_due
        ):  # the only one, as of a client that waits for its answers: then nothing is unanswered
            pending.clear()
            self._writes = self._weight = self.endless = 0
            self.deferred = False
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
                self._release_claim(exchange)
        while pending and pending[0].complete:
            first = pending.popleft()
            if first.closing:
                request = first.request
                self.output.finish(request.drop if isinstance(request, Refusal) else None)
                self.gone()
                return
            if pending:
                pending[0].release()
        if not pending:
            if self._reader.continue_due:
                self._reader.continue_due = False
                self.output.write(CONTINUE)
            if self._ended and not self.has_pending:
                self._finish()
        if self._charged:
            self._charge()

    def read_no_more(self) -> None:
        """Drop what follows the request that was read last."""
        self._final = True
        self.reading = False
        self._reader.drop()

    def await_drain(self, exchange: Http1Exchange) -> None:
        """Call `drained` of this exchange once the network has accepted what was sent."""
        self._awaiting_drain = exchange
        self.has_pending = True

    def weigh(self, size: int) -> None:
        """An answer that waits has so many bytes more."""
        self._weight += size
        if self._weight > UNCHARGED:
            self._charge()

    # --- the memory of bodies; see `bodyadmission.Asker`

    def admitted(self) -> None:
        """The incomplete body has its memory."""
        body = self._reader.body
        if body is not None and not body.held:
            self._reader.say_continue(body)
        self._charge()
        self.output.request_turn()

    def given_up(self, status: int, reason: bytes) -> None:
        """The incomplete body will not be read on."""
        self._verdict = status, reason
        self.has_pending = True
        self._charge()
        self.output.request_turn()

    def _give_claim(self, exchange: Http1Exchange) -> None:
        """The request whose body became complete last is handled. A write keeps the memory of its body
        until it is answered; a read may take long, so it returns it and its body is charged like an
        answer.
        """
        reader = self._reader
        claim, reader.complete_claim = reader.complete_claim, None
        if claim is not None and exchange.writes:
            exchange.claim = claim
            self._claimed += len(exchange.request.body)
        elif claim is not None:
            self.output.admission.release(claim)

    def _release_claim(self, exchange: Http1Exchange) -> None:
        claim, exchange.claim = exchange.claim, None
        if claim is not None:
            self._claimed -= len(exchange.request.body)
            self.output.admission.release(claim)

    def _charge(self) -> None:
        """Charge what is held now."""
        reader = self._reader
        body = reader.body
        held = (
            len(reader.data)
            - reader.at
            + len(reader.begun)
            + len(reader.later)
            + (0 if self._next is None else len(self._next.body))
            + self._weight
            - self._claimed
            + len(self._pending) * EXCHANGE_BYTES
        )
        if body is not None and (body.claim is None or not body.claim.granted):
            held += body.held
        held = held if held > UNCHARGED else 0
        if held != self._charged:
            self.output.account.charge(held - self._charged)
            self._charged = held

    # --- the end

    def _finish(self) -> None:
        """The peer sends nothing more and all requests are handled: close after the last answer."""
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


def _respond_refusal(exchange: Http1Exchange) -> None:
    """The handler of a `Refusal`."""
    request = exchange.request
    assert isinstance(request, Refusal)  # noqa: S101 - for the type checker
    exchange.respond(request.status, PLAIN, request.text)
