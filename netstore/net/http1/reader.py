"""Splits the bytes of a connection into requests, one at a time, and only as many as can be handled: what
waits, waits as bytes. A body that has not arrived completely asks for memory before it is read on
(`bodyadmission`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from netstore.net.bodyadmission import GROWTH, TOO_MANY, Claim, QueueFull
from netstore.net.exchange import Request
from netstore.net.http1.body import IncompleteBody
from netstore.net.http1.bounds import HEAD_LIMIT, REFUSED_DROP
from netstore.net.http1.chunked import BodyTooLarge
from netstore.net.http1.head import KNOWN_HEAD_BYTES, Malformed, refuse_unfinished

if TYPE_CHECKING:
    from collections.abc import Collection

    from netstore.net.bodyadmission import Asker
    from netstore.net.http1.server import Http1Server
    from netstore.net.session import Output

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_CR: Final = 0x0D


class Refusal(Request):
    """An error response that is queued in place of a request that cannot be read or is not accepted, and
    sent in pipeline order. Made by `refusal`.
    """

    status: int = 0
    text: bytes = b""
    drop: int | None = None
    """Bytes dropped behind it (`Output.finish`)."""


def refusal(status: int, text: bytes) -> Refusal:
    """An error response. A client that is only asked to try again (503) is well-behaved: all that it still
    sends of this request is dropped.
    """
    drop = None if status == 503 else REFUSED_DROP
    return Refusal(b"", b"", keep_alive=False, status=status, text=text, drop=drop)


class RequestReader:
    """The received bytes of one connection that belong to no complete request yet.

    `unanswered` are the exchanges that are not answered: while there are any, a 100 Continue must wait.
    """

    __slots__ = (
        "_known",
        "_output",
        "_server",
        "_unanswered",
        "at",
        "begun",
        "body",
        "complete_claim",
        "continue_due",
        "data",
        "later",
        "started",
    )

    def __init__(self, server: Http1Server, output: Output, unanswered: Collection[object]) -> None:
        self._server = server
        self._known = server.heads.find
        self._output = output
        self._unanswered = unanswered
        # What was received, in this order:
        self.begun = bytearray()
        """The first part of a head; then `data` is empty."""
        self.data = b""
        """What is being read, from `at` on."""
        self.at = 0
        self.later = bytearray()
        """What arrived while requests had to wait."""
        self.body: IncompleteBody | None = None
        self.complete_claim: Claim | None = None
        """The memory of the body that became complete last, until its request is handled."""
        self.continue_due = False
        """A 100 Continue is to be sent when all requests before it are answered."""
        self.started = 0
        """Counts the heads and bodies that arrived in pieces."""

    def read(self, asker: Asker) -> Request | None:
        """The next complete request, or a `Refusal` in its place; None if more must arrive. After one that
        is not to be kept alive, `drop` is to be called. `asker` is told when an incomplete body gets its
        memory; it is not stored, because the two would form a reference cycle.
        """
        if self.body is None and not self.begun:
            # The common case: a known head, and its whole body is here.
            data, at = self.data, self.at
            end = data.find(b"\r\n\r\n", at) + 4
            head = self._known(data[at:end])
            if head is not None:
                known, length = head.request, head.length
                if 0 < length <= len(data) - end and length <= self._server.body_limit:
                    known = known.with_body(data[end : end + length])
                    length = 0
                    end += head.length
                if not length:
                    self.at = end
                    return known
        try:
            request = self._take(asker)
            while request is None and self.later:
                self.data = bytes(self.later)
                self.later.clear()
                request = self._take(asker)
        except Malformed as bad:
            request = refusal(bad.status, bad.text)
        return request

    def only(self, data: bytes) -> Request | None:
        """The request, if nothing was received before `data` and this is one whole request to be kept alive.
        Otherwise nothing is done, and `read` finds out what it is.
        """
        if self.body is not None or self.begun:
            return None
        end = data.find(b"\r\n\r\n") + 4
        head = self._known(data[:end])
        if head is None:
            if not 4 <= end <= KNOWN_HEAD_BYTES or end > self._server.head_limit:
                return None
            try:
                head = self._server.heads.learn(data[:end])
            except Malformed:
                return None
        request = head.request
        length = head.length
        if length != len(data) - end or not request.keep_alive:
            return None
        if not length:
            return request
        return replace(request, body=data[end:]) if length <= self._server.body_limit else None

    def drop(self) -> None:
        """Drop what was received and is no complete request."""
        self.data, self.at = b"", 0
        self.begun.clear()
        self.later.clear()
        self._end_body()

    def release_complete(self) -> None:
        """Release the memory of the body that became complete last."""
        claim, self.complete_claim = self.complete_claim, None
        if claim is not None:
            self._output.admission.release(claim)

    def say_continue(self, body: IncompleteBody) -> None:
        """The body may be sent, if the client waits to be told so."""
        if body.head.request.expects_continue:
            self.continue_due = bool(self._unanswered)
            if not self.continue_due:
                self._output.write(CONTINUE)

    def _take(self, asker: Asker) -> Request | None:
        """The next complete request in `data`; None if all of it was taken and more must arrive. Raises
        Malformed.
        """
        if self.body is not None:
            return self._take_body(self.body, asker)
        if self.begun and not self._completes_head():
            return None
        server, data, at = self._server, self.data, self.at
        while data.startswith(b"\r\n", at):  # empty lines before a request are ignored (RFC 9112, 2.2)
            at += 2
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4 or end - at > server.head_limit:
            self._begin_head(data[at:])
            return None
        head = server.heads.read(data[at:end])
        length = head.length
        if not length:
            self.at = end
            return head.request
        if length > server.body_limit:
            return _too_large(head.request)
        if 0 < length <= len(data) - end:
            self.at = end + length
            return head.request.with_body(data[end : end + length])
        self.at = end
        self.started += 1
        body = self.body = IncompleteBody(head, server)
        request = self._take_body(body, asker)
        if request is None and body.claim is not None and body.claim.granted:
            self.say_continue(body)
        return request

    def _take_body(self, body: IncompleteBody, asker: Asker) -> Request | None:
        """The request of this body, if what is here completes it; a refusal if it cannot wait for memory."""
        try:
            self.at = body.take(self.data, self.at)
        except BodyTooLarge:
            return _too_large(body.head.request)
        whole = body.whole()
        if whole is None:
            self.data, self.at = b"", 0
            return self._claim_memory(body, asker)
        request = body.head.request.with_body(whole)
        if body.claim is not None and whole:  # an empty chunked body needs no memory
            self.release_complete()
            self.complete_claim, body.claim = body.claim, None
            self._output.admission.completed(self.complete_claim)
        self._end_body()
        return request

    def _end_body(self) -> None:
        body, self.body = self.body, None
        self.continue_due = False
        if body is not None and body.claim is not None:
            self._output.admission.release(body.claim)

    def _claim_memory(self, body: IncompleteBody, asker: Asker) -> Request | None:
        """Make sure that an incomplete body has its memory or waits for it; a refusal if no more can wait."""
        received, claim = body.held, body.claim
        if claim is None:
            claim = body.claim = Claim(self._output, asker)
        elif not body.is_chunked or received <= claim.size or not claim.granted:
            claim.received = received
            return None
        claim.received = received
        size = body.head.length
        if body.is_chunked:
            size = min(max(GROWTH, 4 * received), self._server.body_limit + HEAD_LIMIT)
        try:
            self._output.admission.ask(claim, size, received)
        except QueueFull:
            return refusal(503, TOO_MANY)
        return None

    def _begin_head(self, rest: bytes) -> None:
        """Keep the first part of a head. Raises Malformed if it cannot become one."""
        self.data, self.at = b"", 0
        if rest:
            if rest != b"\r":
                refuse_unfinished(rest, 0, self._server.head_limit)
            self.begun += rest
            self.started += 1

    def _completes_head(self) -> bool:
        """Append `data` to the first part of a head. True if the head may be complete; it is moved to
        `data` then.
        """
        begun = self.begun
        searched = max(len(begun) - 3, 0)
        begun += self.data
        if begun[0] != _CR and begun.find(b"\r\n\r\n", searched) < 0:
            refuse_unfinished(begun, searched, self._server.head_limit)
            self.data = b""
            return False
        self.data = bytes(begun)
        begun.clear()
        return True


def _too_large(request: Request) -> Request:
    """The request whose body is too long, without it."""
    request = request.with_body(b"")
    request.too_large = True
    request.keep_alive = False
    return request
