"""Traces: where a request belongs (W3C Trace Context), and the span of one that was slow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.types import Nanos

MOST_BYTES: Final = 256
"""A longer `traceparent` is ignored."""

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class Trace(NamedTuple):
    """The trace that a caller says its request belongs to; ids in hexadecimal."""

    trace_id: str
    parent_id: str
    """The span of the caller."""
    is_sampled: bool


class Span(NamedTuple):
    """A slow request. `stages` are its parts, in their order, with their seconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty if the caller sent no trace."""
    started: Nanos
    """Wall time."""
    seconds: float
    attributes: Mapping[str, str]
    stages: tuple[tuple[str, float], ...]
    error: str = ""
    """What the server failed with; empty if it did what it should, also where it refused the request."""


class Exporter(Protocol):
    """Where spans go."""

    def export(self, span: Span) -> None:
        """Take a span; it may be dropped. Does not block."""


def parse_traceparent(text: bytes) -> Trace | None:
    """The value of `traceparent` (W3C Trace Context, 3.2); None if it is not valid, which is ignored."""
    if len(text) > MOST_BYTES:
        return None
    found = _PARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    return Trace(trace_id.decode(), parent_id.decode(), bool(int(flags, 16) & _SAMPLED))
