"""The header list of a request, validated once and shared by all requests with the same (RFC 9113, 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from netstore.net.http2.frames import PROTOCOL_ERROR, StreamFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.http2.hpackcache import Field

_HEAD_FIELD_WORK: Final = 2
_NAME: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""Bytes that a field name may have."""
_NO_TARGET: Final = bytes((*range(0x21), 0x7F))
"""Bytes that the value of a pseudo-header field may not have."""
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = (b":method", b":scheme", b":authority", b":path")


class Head:
    """A request's header list, validated once and shared by all requests with the same.

    `fields` are the regular fields, without pseudo-header fields; they never change. `route` is set once, to
    what the application returns. `cost` are the units of work that validation took, 0 once they are charged.
    """

    __slots__ = (
        "authority",
        "content_length",
        "cost",
        "field",
        "fields",
        "method",
        "path",
        "route",
        "scheme",
    )

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """StreamFault when the list is malformed (RFC 9113, 8.1.1)."""
        pseudo: dict[bytes, bytes] = {}
        count = 0
        for name, value in fields:
            if not name.startswith(b":"):
                break
            if name not in _PSEUDO or name in pseudo:
                raise StreamFault(PROTOCOL_ERROR, f"pseudo-header field {name!r} is unknown or comes twice")
            if len(value.translate(None, _NO_TARGET)) != len(value):
                # A request target has no whitespace (RFC 9112, 3.2), so it can be put into a log line safely.
                raise StreamFault(PROTOCOL_ERROR, f"{name.decode()} has a space or a control character")
            pseudo[name] = value
            count += 1
        self.fields = fields[count:]
        self.field: Callable[[bytes], bytes | None] = dict(reversed(self.fields)).get
        """The first value of a field, named in lower case."""
        self.cost = _HEAD_FIELD_WORK * len(fields)
        self.content_length: int | None = None
        check_fields(self.fields)
        for name, value in self.fields:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else -1
                if length < 0 or self.content_length not in (None, length):
                    raise StreamFault(PROTOCOL_ERROR, "content-length is not one number")
                self.content_length = length
        method, path = pseudo.get(b":method"), pseudo.get(b":path")
        scheme = pseudo.get(b":scheme")
        if not method or not path or not scheme or method.lower().translate(None, _NAME):
            raise StreamFault(PROTOCOL_ERROR, ":method, :scheme and :path must each be there")
        self.method = method
        self.path = path
        self.scheme = scheme
        self.authority = pseudo.get(b":authority")
        self.route: Any = None


def check_fields(fields: tuple[Field, ...]) -> None:
    """StreamFault for fields that HTTP/2 does not allow (RFC 9113, 8.2). O(bytes), at some ns for each."""
    for name, value in fields:
        if not name or name.translate(None, _NAME):
            raise StreamFault(PROTOCOL_ERROR, f"a header field is named {name!r}")
        if name in _CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            raise StreamFault(PROTOCOL_ERROR, f"header field {name.decode()} belongs to HTTP/1")
        if b"\n" in value or b"\r" in value or b"\0" in value or value.strip(b" \t") != value:
            raise StreamFault(PROTOCOL_ERROR, f"the value of header field {name.decode()} is not text")


def trailers_allowed(fields: list[Field]) -> bool:
    """Whether these fields are valid trailers (RFC 9113, 8.1)."""
    try:
        check_fields(tuple(fields))
    except StreamFault:
        return False
    return True
