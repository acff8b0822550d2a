"""What follows the handshake on a stream between members, as bytes: frames and their contents. Pure.

By the purpose of the stream (`peer.handshake.Purpose`):

* messages: frames from the caller, each a batch of Raft messages. An empty frame is a ping; the called side
  sends it back. A frame that begins with a message length of 0 is a `DigestMessage`.
* snapshot: one frame with the `InstallSnapshot` message, then a `SnapshotHeader`, the bytes of the snapshot
  and their SHA-256; the answer is a second `Welcome`.
* member list: one frame with a `JoinRequest` or nothing; the answer is one frame with a `MemberList`.

What the encoders here could not have written raises CorruptData, never another exception; a length is checked
against its limit, and nothing is allocated before the bytes have arrived. The format with worked dumps is in
contrib/doc/format-peer.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from netstore.codec import crc32c, layout
from netstore.errors import CorruptData, parse_problem
from netstore.raft.encoding import decode_in_pieces, decode_message, message_parts
from netstore.raft.entry import MAX_DATA_BYTES
from netstore.raft.messages import InstallSnapshot
from netstore.state.members import MemberInfo  # noqa: TC001 - msgspec reads the annotations
from netstore.types import ClusterId, Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.raft.messages import Message

MAX_FRAME_BYTES: Final = 2 * MAX_DATA_BYTES
"""Largest payload of a frame: one message with the largest entry, or a turn's forwarded proposals."""

FRAME_BYTES: Final = 256 * 1024
"""Largest frame that is made of several messages: 0.6 ms of large entries and 3 ms of the smallest."""

MAX_FRAME_MESSAGES: Final = 1 << 16
"""Most messages accepted in one frame; they are decoded over several turns (`decode_batch`)."""

SHORT_MESSAGE: Final = 1024
"""A message up to this size is decoded at once: pieces would be as large as it, and cost two generators."""

FRAME_MESSAGES: Final = 512
"""Most messages put into one frame: about 2 ms to decode."""

MAX_MEMBER_LIST_BYTES: Final = 4 * 1024 * 1024
"""Largest frame of a member list stream: thousands of members."""

MAX_SNAPSHOT_BYTES: Final = 1 << 40

DIGEST_BYTES: Final = 32
"""Size of a snapshot's SHA-256."""

STATE_DIGEST_BYTES: Final = 16

_DIGEST_MESSAGE: Final = b"\0\0\0\0\1"
"""A batch begins with the length of a message, which is never 0; the last byte is the kind."""

_FRAME: Final = layout("II")
_LENGTH: Final = layout("I")
_SIZE: Final = layout("Q")

_T = TypeVar("_T")


class JoinRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A program without an identity asks to be added as a learner that is reached at these peer URLs.

    A member whose data is damaged asks for a new identity in the place of its old one, which is removed.
    """

    name: str
    peer_urls: tuple[str, ...]
    replaces: NodeId = NodeId(0)


class MemberList(msgspec.Struct, array_like=True, frozen=True):
    """The members, as applied by the one that answers. `you` is the id given to who asked to join, else 0."""

    cluster: ClusterId
    you: NodeId
    members: tuple[MemberInfo, ...]
    refusal: str = ""
    """Why a join request was refused; empty when it was not."""


class SnapshotHeader(msgspec.Struct, frozen=True, gc=False):
    """Precedes the bytes of a snapshot: how many there are."""

    size: int

    def encode(self) -> bytes:
        """Eight bytes."""
        return _SIZE.pack(self.size)


def encode_document(document: JoinRequest | MemberList | None) -> bytes:
    """The payload of a frame on a member list stream; empty for None, which asks without joining."""
    return b"" if document is None else msgspec.msgpack.encode(document)


def decode_join_request(payload: bytes) -> JoinRequest | None:
    """The inverse of `encode_document` at the called side."""
    return _decode_document(payload, JoinRequest) if payload else None


def decode_member_list(payload: bytes) -> MemberList:
    """The inverse of `encode_document` at the caller."""
    return _decode_document(payload, MemberList)


def frame(payload: bytes) -> bytes:
    """A payload preceded by its length and checksum."""
    return _FRAME.pack(len(payload), crc32c(payload)) + payload


PING: Final = frame(b"")
"""Shows that the sender is alive; the receiver sends it back."""


class DigestMessage(msgspec.Struct, frozen=True, gc=False):
    """The sender's state had this digest after it applied the entry at `index`."""

    index: Index
    digest: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(_DIGEST_MESSAGE + _SIZE.pack(self.index) + self.digest)

    @classmethod
    def decode(cls, payload: bytes) -> DigestMessage | None:
        """The digest message in the payload of a frame; None when it is a batch of Raft messages."""
        if not payload.startswith(_DIGEST_MESSAGE):
            return None
        if len(payload) != len(_DIGEST_MESSAGE) + _SIZE.size + STATE_DIGEST_BYTES:
            raise CorruptData(f"state digest message of {len(payload)} bytes")
        (index,) = _SIZE.unpack_from(payload, len(_DIGEST_MESSAGE))
        return cls(Index(index), payload[len(_DIGEST_MESSAGE) + _SIZE.size :])


def encode_batch(messages: Iterable[Message]) -> bytes:
    """A frame with one turn's messages, or several frames if one would exceed `FRAME_BYTES`. A longer message
    has a frame of its own.
    """
    frames: list[bytes] = []
    parts: list[bytes] = []
    count = size = 0
    for message in messages:
        encoded = message_parts(message)
        length = sum(map(len, encoded))
        if count and (size + _LENGTH.size + length > FRAME_BYTES or count >= FRAME_MESSAGES):
            frames.append(frame(b"".join(parts)))
            parts, count, size = [], 0, 0
        parts.append(_LENGTH.pack(length))
        parts += encoded
        count += 1
        size += _LENGTH.size + length
    if parts:
        frames.append(frame(b"".join(parts)))
    return frames[0] if len(frames) == 1 else b"".join(frames)


def decode_batch(payload: bytes) -> Iterator[Message]:
    """The messages of a frame; at least one, and no `InstallSnapshot`. Each is decoded when the iterator
    comes to it (`raft.encoding.decode_in_pieces`), so damage raises after the messages before it were
    yielded.
    """
    at, end = 0, len(payload)
    if not end:
        raise CorruptData("batch without messages")
    count = 0
    while at < end:
        if at + _LENGTH.size > end:
            raise CorruptData(f"batch is truncated at offset {at} of {end}")
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        if length > end - at:
            raise CorruptData(f"message claims {length} bytes at offset {at} of {end}")
        if count == MAX_FRAME_MESSAGES:
            raise CorruptData(f"batch of more than {MAX_FRAME_MESSAGES} messages")
        end_of_it = at + length
        found = (
            (decode_message(payload, at, end_of_it),)
            if length <= SHORT_MESSAGE
            else decode_in_pieces(payload, at, end_of_it)
        )
        for message in found:
            if type(message) is InstallSnapshot:
                raise CorruptData("InstallSnapshot outside a snapshot stream")
            yield message
        count += 1
        at += length


def read_frame(data: bytes, limit: int, at: int = 0) -> tuple[bytes, int] | None:
    """The payload of the frame at offset `at` and the offset after it; None while it is incomplete."""
    start = at + _FRAME.size
    if len(data) < start:
        return None
    length, checksum = _FRAME.unpack_from(data, at)
    if length > limit:
        raise CorruptData(f"frame claims {length} bytes, more than {limit}")
    end = start + length
    if len(data) < end:
        return None
    payload = data[start:end]
    if crc32c(payload) != checksum:
        raise CorruptData(f"frame of {length} bytes does not fit its checksum")
    return payload, end


class FrameReader:
    """Splits received bytes into the payloads of frames. Buffers what was added and not taken."""

    __slots__ = ("_at", "_buffer", "_limit", "_parts", "_wanted", "held")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = b""
        self._at = 0
        """Offset of the next frame in `_buffer`."""
        self._parts: list[bytes] = []
        """What follows `_buffer`, not joined yet."""
        self._wanted = _FRAME.size
        self.held = 0
        """Bytes that were added and not taken."""

    @property
    def has_pending(self) -> bool:
        """A whole frame may be buffered."""
        return self.held >= self._wanted

    def add(self, data: bytes) -> None:
        """Append received bytes."""
        self._parts.append(data)
        self.held += len(data)

    def take(self) -> bytes | None:
        """The next payload; None while it is incomplete. CorruptData if a frame is too long or damaged."""
        if self.held < self._wanted:
            return None
        if self._parts:
            rest = self._buffer[self._at :]
            self._buffer = b"".join([rest, *self._parts] if rest else self._parts)
            self._at = 0
            self._parts = []
        found = read_frame(self._buffer, self._limit, self._at)
        if found is None:
            self._wanted = _FRAME.size
            if self.held >= _FRAME.size:
                self._wanted += _FRAME.unpack_from(self._buffer, self._at)[0]
            return None
        payload, end = found
        self.held -= end - self._at
        self._at = end
        self._wanted = _FRAME.size
        if not self.held or end > FRAME_BYTES:
            self._buffer, self._at = self._buffer[end:], 0
        return payload


class SnapshotReader:
    """Splits received bytes into a snapshot and its digest. Buffers no more than a header or a digest."""

    __slots__ = ("_left", "_short", "digest", "size")

    def __init__(self) -> None:
        self._short = b""
        self._left = 0
        self.size: int | None = None
        """Size of the snapshot, once its header was read."""
        self.digest: bytes | None = None
        """The sender's SHA-256, once everything was read."""

    def take(self, data: bytes) -> bytes:
        """The snapshot bytes in `data`. CorruptData if the size is out of range or more bytes come than
        announced.
        """
        if self.size is None:
            self._short += data
            if len(self._short) < _SIZE.size:
                return b""
            (size,) = _SIZE.unpack_from(self._short)
            if not 0 < size <= MAX_SNAPSHOT_BYTES:
                raise CorruptData(f"snapshot claims {size} bytes")
            self.size = self._left = size
            data, self._short = self._short[_SIZE.size :], b""
        piece = data[: self._left]
        self._left -= len(piece)
        if self._left == 0:
            self._short += data[len(piece) :]
            if len(self._short) > DIGEST_BYTES:
                raise CorruptData("snapshot is followed by more than its digest")
            if len(self._short) == DIGEST_BYTES:
                self.digest = self._short
        return piece


def _decode_document(payload: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not a document of a member list stream: {parse_problem(error)}") from None
