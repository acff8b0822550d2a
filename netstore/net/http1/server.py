"""What all HTTP/1 connections of a listener share: the handler, the limits, and the header lines of every
response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.net.exchange import field_line
from netstore.net.http1.bounds import BODY_LIMIT, HEAD_LIMIT
from netstore.net.http1.head import KnownHeads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.exchange import Request
    from netstore.net.http1.exchange import Http1Exchange

_CORS: Final = (
    b"Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"
    b"%s"
    b"Access-Control-Allow-Headers: accept, content-type, authorization\r\n"
)


class Cors:
    """Which web pages may read responses (v2 API, CORS): any (`*`), the listed origins, or none."""

    __slots__ = ("_origins",)

    def __init__(self, origins: Iterable[str] = ("*",)) -> None:
        listed = [origin.encode() for origin in origins]
        self._origins = None if b"*" in listed else frozenset(listed)

    @property
    def same(self) -> bool:
        """The header lines do not depend on the origin: any origin may read responses, or none."""
        return not self._origins

    def fields(self, origin: bytes | None) -> bytes:
        """The header lines for a request from this origin."""
        if self._origins is None:
            return _CORS % field_line(b"Access-Control-Allow-Origin", b"*")
        if origin is None or origin not in self._origins:
            return b""
        return _CORS % field_line(b"Access-Control-Allow-Origin", origin)


class Http1Server:
    """See the module. `handle` is called with each complete request, as an exchange. `set_date` is called
    once a second with the `Date` header line, CRLF included.
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
        """The header lines of every response; None if they depend on the request."""
        self.set_date(b"")

    def set_date(self, date: bytes) -> None:
        """Use this date line from now on."""
        self._date = date
        if self._cors.same:
            self.common = date + self._cors.fields(None)

    def common_for(self, request: Request) -> bytes:
        """The header lines of every response to this request."""
        return self._date + self._cors.fields(request.origin)
