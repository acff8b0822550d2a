"""Events cut into responses (v3 API, WatchResponse): of a moderate size, and never within a revision."""

from __future__ import annotations

from typing import Final, NamedTuple

from netstore.types import Revision

FRAGMENT_BYTES: Final = 2 << 20
"""Size of a fragment, for watches that ask for fragments: etcd's request limit and 512 KiB."""

RESPONSE_BYTES: Final = 1 << 20
"""Bytes of events in one response, give or take one revision."""


class Response(NamedTuple):
    """The events of one response, encoded."""

    revision: Revision
    """Up to which the watch has been sent everything with this response."""
    first: Revision
    """Of the first event."""
    fragments: list[bytes]
    """For watches that ask for fragments."""
    joined: bytes


class ResponseWriter:
    """Collects encoded events, in order, and cuts them into responses."""

    __slots__ = ("_events", "_first", "_fragments", "_responses", "_revision", "_size", "_total")

    def __init__(self) -> None:
        self._responses: list[Response] = []
        self._fragments: list[bytes] = []
        self._events: list[bytes] = []
        self._size = self._total = 0
        self._first = self._revision = Revision(0)

    def add(self, revision: Revision, event: bytes) -> None:
        """The next event."""
        size = len(event)
        if self._total >= RESPONSE_BYTES and revision != self._revision:
            self._end_response(self._revision)
        if not self._total:
            self._first = revision
        self._revision = revision
        if self._events and self._size + size >= FRAGMENT_BYTES:
            self._end_fragment()
        self._events.append(event)
        self._size += size
        self._total += size

    def finish(self, last: Revision) -> list[Response]:
        """All responses; the last one says that everything up to `last` has been sent."""
        if self._total:
            self._end_response(max(last, self._revision))
        return self._responses

    def _end_fragment(self) -> None:
        self._fragments.append(b"".join(self._events))
        self._events, self._size = [], 0

    def _end_response(self, revision: Revision) -> None:
        self._end_fragment()
        fragments, self._fragments = self._fragments, []
        joined = fragments[0] if len(fragments) == 1 else b"".join(fragments)
        self._responses.append(Response(revision, self._first, fragments, joined))
        self._total = 0
