"""Parses a chunked body as it arrives (RFC 9112, section 7.1). Only the data is kept: extensions and
trailer fields are checked and dropped. Everything around the data is bounded: no body can consist mostly
of framing, and no trailer is longer than a head.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Final

from netstore.net.http1.head import FIELD_LINE, Malformed

FRAMING_LIMIT: Final = 16 * 1024
"""Bytes of chunk sizes, extensions and line ends, beyond one for every two bytes of data. Chunks of ten
bytes pass; thousands of chunks of a few bytes cost more than their data is worth.
"""

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8}+)(?:[\t ]*+;[\t -~\x80-\xff]*+)?\r\n")
_FIELD_LINE: Final = re.compile(FIELD_LINE)

_SIZE, _DATA, _AFTER, _TRAILER, _ENDED = range(5)


class BodyTooLarge(Exception):  # noqa: N818 - named for what is wrong with it
    """The body is longer than allowed."""


class ChunkedBody:
    """To be fed with `take` until it has `ended`; the body so far has `size` bytes, at most `limit`."""

    __slots__ = ("_data", "_framing", "_left", "_limit", "_line", "_step", "_trailer", "size")

    def __init__(self, limit: int, trailer_limit: int) -> None:
        self._data = BytesIO()
        self.size = 0
        self._limit = limit
        self._step = _SIZE
        self._left = 0
        """Bytes of the chunk that have not arrived."""
        self._line = bytearray()
        """The beginning of a line that is incomplete."""
        self._framing = FRAMING_LIMIT
        """Bytes allowed for further lines, beside those that data adds."""
        self._trailer = trailer_limit
        """Bytes allowed for the rest of the trailer."""

    @property
    def ended(self) -> bool:
        """The body is complete."""
        return self._step == _ENDED

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return self.size + len(self._line)

    def whole(self) -> bytes:
        """The body, without a copy."""
        return self._data.getvalue()

    def take(self, data: bytes, at: int) -> int:
        """Take bytes from `at` on; returns the position after the last one that belongs to the body.
        Raises Malformed for invalid framing, BodyTooLarge as soon as the size of a chunk goes beyond the
        limit.
        """
        while at < len(data) and self._step != _ENDED:
            if self._step == _DATA:
                end = at + self._left
                if data.startswith(b"\r\n", end):
                    # The common case: the whole chunk is here.
                    self._data.write(data[at:end])
                    self.size += self._left
                    self._admit(2)
                    self._framing -= 2
                    self._step = _SIZE
                    at = end + 2
                    continue
                part = data[at:end]
                self._data.write(part)
                self.size += len(part)
                self._left -= len(part)
                at += len(part)
                if not self._left:
                    self._step = _AFTER
                continue
            end = data.find(b"\n", at) + 1
            self._admit(len(self._line) + (end or len(data)) - at)
            if not end:
                self._line += data[at:]
                return len(data)
            line = data[at:end]
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            at = end
            self._read(line)
        return at

    def _admit(self, size: int) -> None:
        """Raise Malformed if a line of so many bytes, or more, is longer than allowed."""
        if self._step == _TRAILER:
            if size > self._trailer:
                raise Malformed(431, b"431 Request Header Fields Too Large")
        elif size > self._framing + self.size // 2:
            raise Malformed(400, b"400 Bad Request: chunks with too little data")

    def _read(self, line: bytes) -> None:
        step = self._step
        if step == _TRAILER:
            self._trailer -= len(line)
            if line == b"\r\n":
                self._step = _ENDED
            elif _FIELD_LINE.fullmatch(line) is None:
                raise Malformed(400, b"400 Bad Request: malformed trailer")
            return
        self._framing -= len(line)
        if step == _AFTER:
            if line != b"\r\n":
                raise Malformed(400, b"400 Bad Request: malformed chunk")
            self._step = _SIZE
            return
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise Malformed(400, b"400 Bad Request: malformed chunk")
        self._left = int(found[1], 16)
        if self.size + self._left > self._limit:
            raise BodyTooLarge
        self._step = _DATA if self._left else _TRAILER
