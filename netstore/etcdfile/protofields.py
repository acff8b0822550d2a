"""The fields of a protobuf message, without a description of the message (protobuf encoding guide)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.codec import Malformed, read_prefixed, read_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FIELDS: Final = 100
"""Fields that a message may have. Those of etcd's files that are read here have at most 20."""

_SIGN64: Final = 2**63


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field, in order: a number, or the bytes of a text, of bytes or of a message.

    Malformed if these bytes are no message, or have a field of a kind that etcd's files do not have, or more
    than `MOST_FIELDS`.
    """
    at = count = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        count += 1
        if not tag >> 3 or count > MOST_FIELDS:
            raise Malformed(f"more than {MOST_FIELDS} fields" if tag >> 3 else "a field without a number")
        value: int | bytes
        if tag & 7 == 0:
            value, at = read_varint(data, at)
        elif tag & 7 == 2:
            value, at = read_prefixed(data, at)
        else:
            raise Malformed(f"a field of wire type {tag & 7}")
        yield tag >> 3, value


class Message:
    """The last value of each field of a message, by number."""

    __slots__ = ("_values",)

    def __init__(self, data: bytes) -> None:
        """Malformed if these bytes are no message."""
        self._values = dict(fields(data))

    def __contains__(self, number: int) -> bool:
        """Whether it has this field."""
        return number in self._values

    def value(self, field: int) -> int | bytes | None:
        """A field of whichever type; None if it is not there."""
        return self._values.get(field)

    def number(self, field: int) -> int:
        """An unsigned number, 0 if it is not there. Malformed if it is none."""
        value = self._values.get(field, 0)
        if not isinstance(value, int):
            raise Malformed(f"field {field} is no number")
        return value

    def signed(self, field: int) -> int:
        """A number of 64 bits with its sign."""
        value = self.number(field)
        return value - 2 * _SIGN64 if value >= _SIGN64 else value

    def data(self, field: int) -> bytes:
        """Bytes, a text or a message; empty if it is not there. Malformed if it is a number."""
        value = self._values.get(field, b"")
        if not isinstance(value, bytes):
            raise Malformed(f"field {field} is a number")
        return value
