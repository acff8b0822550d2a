"""Header fields of gRPC: constant header blocks, `grpc-timeout`, `grpc-status` and `grpc-message`."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from netstore.net.http2.hpackcache import literal, status_field

TEXT_LIMIT: Final = 4096
"""Largest `grpc-message`, in bytes as sent; longer texts are truncated."""

LONGEST_SECONDS: Final = 366 * 24 * 3600.0
"""Upper limit of a `grpc-timeout`; longer ones are reduced to this."""

TIMEOUT_FIELD: Final = b"grpc-timeout"
"""The header field that differs from call to call."""

_TIMEOUTS_KNOWN: Final = 4096
_TIMEOUT_SIZE: Final = 9
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
CONTENT_TYPE: Final = literal(b"content-type", b"application/grpc")
OPENING: Final = status_field(200) + CONTENT_TYPE
"""The response headers of every call that is served."""

ENDING: Final = literal(b"grpc-status", b"0") + literal(b"grpc-message", b"")
"""The trailers of a call that ends with `OK`."""


def parse_timeout(text: bytes) -> float | None:
    """Seconds of a `grpc-timeout`: up to eight digits and a unit. None when it is malformed."""
    # The cache is filled by clients: values that are too long to be valid are not cached.
    return _seconds(text) if 2 <= len(text) <= _TIMEOUT_SIZE else None


@lru_cache(_TIMEOUTS_KNOWN)
def _seconds(text: bytes) -> float | None:
    digits, unit = text[:-1], _UNITS.get(text[-1:])
    return min(int(digits) * unit, LONGEST_SECONDS) if unit is not None and digits.isdigit() else None


def encode_text(text: str) -> bytes:
    """A `grpc-message`: printable ASCII as it is, everything else as `%XX` of its UTF-8."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text.encode()[:TEXT_LIMIT]
    coded = b""
    for byte in text.encode("utf-8", "replace"):
        piece = b"%c" % byte if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte
        if len(coded) + len(piece) > TEXT_LIMIT:
            break
        coded += piece
    return coded


def status_block(status: int, text: str) -> bytes:
    """The header fields that end a call."""
    return literal(b"grpc-status", b"%d" % status) + literal(b"grpc-message", encode_text(text))
