"""What stands around every command in the log: who reads it first learns whether it can be understood.

    format       u8    1
    principal    u8    its length in bytes
    level        u16   the feature level that the command belongs to (`features.LEVEL`)
    request      u64   id by which the member that took the request finds its slot again; 0 is nobody's
    wall         u64   nanoseconds since 1970 at the proposing member: for people, and for restoring to a
                       moment; nothing is ever decided by it
    principal          who asked, as the connection proved or gave it; empty when nobody did
    command            to the end

Little-endian, 20 bytes and the principal. A payload without bytes is a leader's first entry of a term and
has no envelope. contrib/doc/format-entry.md has the rules, and a dump.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from netstore.codec import layout
from netstore.errors import CorruptData

FORMAT: Final = 1
"""The format written here. A reader that meets a later one must not guess."""

HEAD_BYTES: Final = 20
"""Bytes before the principal."""

MAX_PRINCIPAL_BYTES: Final = 255
"""A longer one is cut: a name in a certificate has at most 64 characters (RFC 5280, appendix A.1)."""

_HEAD: Final = layout("BBHQQ")
_pack: Final = _HEAD.pack
_unpack: Final = _HEAD.unpack_from
_REQUEST: Final = slice(4, 12)


class Envelope(NamedTuple):
    """An entry's payload taken apart."""

    format: int
    level: int
    request: int
    wall: int
    principal: bytes
    command: bytes


def seal(command: bytes, request: int = 0, level: int = 1, wall: int = 0, principal: bytes = b"") -> bytes:
    """A command as it enters the log. About 0.4 us.

    `wall` is cut to what has a place. The defaults are what every initial member of a new cluster writes
    alike.
    """
    if principal:
        if len(principal) > MAX_PRINCIPAL_BYTES:
            principal = principal[:MAX_PRINCIPAL_BYTES]
        return _pack(FORMAT, len(principal), level, request, wall) + principal + command
    return _pack(FORMAT, 0, level, request, wall) + command


def request_of(payload: bytes) -> int:
    """The request id of a payload that `seal` made."""
    return int.from_bytes(payload[_REQUEST], "little")


def principal_of(payload: bytes) -> bytes:
    """Who asked for a payload that `seal` made; empty for a member itself."""
    return payload[HEAD_BYTES : HEAD_BYTES + payload[1]]


def is_bare(payload: bytes) -> bool:
    """Whether there is no command in a payload: a leader's first entry of a term, or one with an envelope
    only.
    """
    return not payload or (len(payload) >= HEAD_BYTES and len(payload) == HEAD_BYTES + payload[1])


def command_of(payload: bytes) -> bytes:
    """The command in a payload that `seal` made."""
    return payload[HEAD_BYTES + payload[1] :]


def first_level_command(payload: bytes) -> bytes | None:
    """The command in a payload of this format and of the first feature level, which nearly all are; None for
    any other bytes. What `read` tells in a fifth of its time.
    """
    if len(payload) < HEAD_BYTES or payload[0] != FORMAT or payload[2] != 1 or payload[3]:
        return None
    start = HEAD_BYTES + payload[1]
    return payload[start:] if start <= len(payload) else None


def answering(payload: bytes, command: bytes) -> bytes:
    """Another command under the same request: what is said instead of the one that was asked for."""
    return payload[: HEAD_BYTES + payload[1]] + command


def read(payload: bytes) -> Envelope:
    """Take a payload apart. CorruptData when it is too short to be one.

    Of a later format only `format` means anything.
    """
    size = len(payload)
    if size < HEAD_BYTES:
        raise CorruptData(f"an entry of {size} bytes has no envelope, which takes {HEAD_BYTES}")
    format_, length, level, request, wall = _unpack(payload)
    start = HEAD_BYTES + length
    if start > size:
        raise CorruptData(f"an entry of {size} bytes says that its command begins at {start}")
    return Envelope(format_, level, request, wall, payload[HEAD_BYTES:start], payload[start:])
