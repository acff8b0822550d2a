"""Messages of protobuf as bytes: decoding one, and writing fields around bytes that are encoded already.

Fields that are written here look as every encoder writes them (protobuf encoding guide), so that nobody can
tell a message that was put together from one that protobuf built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError

from netstore.codec import varint

if TYPE_CHECKING:
    from google.protobuf.message import Message

    _M = TypeVar("_M", bound=Message)

MASK64: Final = 2**64 - 1
"""A negative number is written as the unsigned one that has the same 64 bits: `varint(number & MASK64)`."""


class BadMessage(Exception):  # noqa: N818 - named for what was found
    """These bytes are no message of the expected type."""


def parse(kind: type[_M], message: bytes) -> _M:
    """Decode a message. BadMessage when it is none; fields nobody knows are ignored."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise BadMessage(str(error)) from None


def framed(tag: bytes, message: bytes) -> bytes:
    """A message, or bytes, as a field of another message. The tag is the number of the field << 3 | 2."""
    return b"%b%b%b" % (tag, varint(len(message)), message)


def repeated(tag: bytes, messages: list[bytes]) -> list[bytes]:
    """Messages as a repeated field, in pieces to be joined. 0.1 us each."""
    sizes = list(map(len, messages))
    heads = {size: tag + varint(size) for size in set(sizes)}
    pieces = [b""] * (2 * len(messages))
    pieces[::2] = map(heads.__getitem__, sizes)
    pieces[1::2] = messages
    return pieces
