"""One request and the way to answer it: the only part of a connection that the API sees.

A request is complete when it is handled (body included). Its exchange is answered once: with `respond`, or
with `begin`, any number of `push` and `end`. Answers may be given in any order; the connection sends them
in the order of the requests (RFC 9112, section 9.3.2). All calls are plain functions that neither block
nor await.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
"""The header line of a plain-text answer."""

SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
"""Methods that do not change anything (RFC 9110, 9.2.1), as far as this server has them."""

LOW_WATER: Final = 64 * 1024
"""Unsent bytes at which `on_drained` is called."""

HIGH_WATER: Final = 1024 * 1024
"""Unsent bytes of one connection beyond which no further request of it is handled and nothing more is read
from it. Over HTTP/1 the same holds for answers that wait for one before them, with the bodies of unanswered
requests.
"""

OPEN_BODY_LIMIT: Final = 4 * 1024 * 1024
"""Unsent bytes of one connection beyond which `push` refuses: a watcher this far behind must resume from
the history.
"""

_NO_VALUE: Final = re.compile(rb"[\0\r\n]")


def field_line(name: bytes, value: bytes) -> bytes:
    """A header line for `Exchange.respond` with a value that a client may have chosen. ValueError if the
    value would end the line and begin another one (RFC 9110, 5.5).
    """
    if _NO_VALUE.search(value):
        raise ValueError("a field value with a line break or NUL")
    return b"%b: %b\r\n" % (name, value)


class Request(msgspec.Struct, eq=False):
    """A parsed request. `path` and `query` are as sent (still percent-encoded), split at the first `?`. It
    is not changed while it is unanswered: a connection may use the same object for equal requests. The
    body may be left out if the method changes nothing.
    """

    method: bytes
    path: bytes
    query: bytes = b""
    body: bytes = b""
    content_type: bytes | None = None
    authorization: bytes | None = None
    origin: bytes | None = None
    host: bytes | None = None
    traceparent: bytes | None = None
    version: bytes = b"1.1"
    keep_alive: bool = True
    expects_continue: bool = False
    too_large: bool = False
    """The body was longer than the connection allows; `body` is empty and the connection closes after the
    answer.
    """

    is_plain: bool = False
    """A request over HTTP/1.1 whose answer may have a body: not HEAD."""

    def with_body(self, body: bytes) -> Request:
        """The same request with this body."""
        return replace(self, body=body)


class Exchange(Protocol):
    """One request being answered."""

    @property
    def principal(self) -> str:
        """The client: the common name of its certificate, or its address; empty if neither is known."""

    @property
    def request(self) -> Request:
        """The request."""

    def respond(self, status: int, fields: bytes, body: bytes = b"") -> None:
        """Answer in one piece. `fields` are header lines, each ended by CRLF; Content-Length, Connection and
        Date are added.

        For HEAD the body is measured and left out.
        """

    def refuse(self, status: int, text: bytes) -> None:
        """Answer in plain text and close the connection: the request violates HTTP."""

    @property
    def backlog(self) -> int:
        """Bytes of the connection, and those held for this exchange, that the network has not accepted."""

    def begin(self, status: int, fields: bytes, *, endless: bool = True) -> None:
        """Send the head now and keep the body open: chunked for HTTP/1.1, until close for 1.0. A response
        with `endless` false ends by itself: it is still completed when the server stops or the client has
        closed its sending side. For HEAD this is the whole answer.
        """

    def push(self, *parts: bytes) -> bool:
        """Send a piece of an open body, all of it or nothing. False if the connection is closed or too far
        behind: stop.
        """

    def on_drained(self, call: Callable[[], None]) -> bool:
        """Call once when the `backlog` is small, or at once if it is. False, and never called, if the
        answer is over.
        """

    def end(self) -> None:
        """Close an open body; the connection stays usable."""

    def abort(self) -> None:
        """Cut the connection without ending the body."""

    def defer(self, gone: Callable[[], None]) -> None:
        """The request is worked on before it takes its place among others: no request behind it on an
        HTTP/1 connection is handled before it is answered. `gone` is called once if the connection is lost
        before that. A client that only closes its sending side is still answered.
        """

    def worked(self, seconds: float) -> None:
        """Add work that was done for this request outside the turns of its connection to the connection's
        load (`net.load`).
        """

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call once if the client disconnects before the answer is complete; never if it has already."""
