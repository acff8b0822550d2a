"""The envelope of every command in the log: tells whether the command can be understood, and its origin.

    format       u8    1
    principal    u8    its length in bytes
    level        u16   the feature level that the command belongs to (`features.LEVEL`)
    request      u64   id by which the member that took the request finds its slot; 0: no request
    wall         u64   nanoseconds since 1970 at the proposing member: for display, and for restoring to a
                       moment; no decision depends on it
    principal          who asked, as the connection authenticated or named them; empty: nobody
    command            to the end

Little-endian, 20 bytes and the principal. An empty payload is a leader's first entry of a term and has no
envelope. contrib/doc/format-entry.md has the rules and an annotated dump.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from netstore.codec import layout
from netstore.errors import CorruptData

FORMAT: Final = 1
"""The format written here. A reader that finds a later one must stop."""

HEAD_BYTES: Final = 20
"""Bytes before the principal."""

MAX_PRINCIPAL_BYTES: Final = 255
"""A longer one is truncated: a name in a certificate has at most 64 characters (RFC 5280, appendix A.1)."""

_HEAD: Final = layout("BBHQQ")
_pack: Final = _HEAD.pack
_unpack: Final = _HEAD.unpack_from

_COMMAND_AT: Final = {
    layout("BBH").pack(FORMAT, length, 1): slice(HEAD_BYTES + length, None)
    for length in range(MAX_PRINCIPAL_BYTES + 1)
}
"""The first four bytes of a payload of this format and of the first feature level -> where its command is."""

REQUEST: Final = slice(4, 12)
"""Where the request id is."""


class Envelope(NamedTuple):
    """The fields of an entry's payload."""

    format: int
    level: int
    request: int
    wall: int
    principal: bytes
    command: bytes


def seal(command: bytes, request: int = 0, level: int = 1, wall: int = 0, principal: bytes = b"") -> bytes:
    """Put a command into its envelope. About 0.4 us.

    The principal is truncated if it is too long. The defaults are those of the entries that all initial
    members of a new cluster write alike.
    """
    if principal:
        if len(principal) > MAX_PRINCIPAL_BYTES:
            principal = principal[:MAX_PRINCIPAL_BYTES]
        return _pack(FORMAT, len(principal), level, request, wall) + principal + command
    return _pack(FORMAT, 0, level, request, wall) + command


def request_of(payload: bytes) -> int:
    """The request id of a payload that `seal` made."""
    return int.from_bytes(payload[REQUEST], "little")


def principal_of(payload: bytes) -> bytes:
    """Who asked for a payload that `seal` made; empty for a member itself."""
    return payload[HEAD_BYTES : HEAD_BYTES + payload[1]]


def is_bare(payload: bytes) -> bool:
    """Whether a payload has no command: empty (a leader's first entry of a term), or only an envelope."""
    return not payload or (len(payload) >= HEAD_BYTES and len(payload) == HEAD_BYTES + payload[1])


def command_of(payload: bytes) -> bytes:
    """The command in a payload that `seal` made."""
    return payload[HEAD_BYTES + payload[1] :]


def first_level_command(payload: bytes) -> bytes | None:
    """The command of a payload of this format and of the first feature level, as nearly all are; None for any
    other bytes, and where there is no command. Takes a tenth of the time of `read`.
    """
    where = _COMMAND_AT.get(payload[:4])
    return None if where is None else payload[where] or None


def answering(payload: bytes, command: bytes) -> bytes:
    """Another command in the envelope of `payload`: it completes the same request."""
    return payload[: HEAD_BYTES + payload[1]] + command


def read(payload: bytes) -> Envelope:
    """The fields of a payload. CorruptData if it is too short for them.

    For a later format only `format` is meaningful.
    """
    size = len(payload)
    if size < HEAD_BYTES:
        raise CorruptData(f"an entry of {size} bytes has no envelope, which takes {HEAD_BYTES}")
    format_, length, level, request, wall = _unpack(payload)
    start = HEAD_BYTES + length
    if start > size:
        raise CorruptData(f"an entry of {size} bytes says that its command begins at {start}")
    return Envelope(format_, level, request, wall, payload[HEAD_BYTES:start], payload[start:])
