"""What members say to each other on the wire, as bytes: greetings, frames, state copies. Pure.

A stream belongs to the member that opened it, for one purpose. It opens with a `Hello`. Unless certificates
prove both sides, a `Challenge` answers that, and a `Proof` the challenge (`peer.handshake`). Then comes a
`Welcome`, which proves the side that was called, or refuses with a reason at any of these places. Nothing
else is read before. Whoever offers no proof in its hello gets the `Welcome` at once, which proves nothing and
is a refusal unless it asks who is in the cluster. After a challenge everything goes in records that prove who
sent them (`peer.seal`), if both sides speak `SEALED_VERSION`. Then, by purpose:

* messages: frames from the caller, each a batch of Raft messages. An empty frame is a ping, and is sent
  back. A frame that begins with a message of no length is a `StateNote`.
* image: one frame with the `InstallSnapshot` message, then a `CopyHead`, the bytes of the copy and their
  SHA-256; the answer is a second `Welcome`.
* roster: one frame with an `Application` or nothing; the answer is one frame with a `Roster`.

Whatever the writers here could not have written is CorruptData, and never another exception; no length is
believed beyond its limit, and nothing is allocated before its bytes are there. The format with a worked dump
is in contrib/doc/format-peer.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from netstore.codec import crc32c, layout
from netstore.errors import CorruptData
from netstore.peer.handshake import NONCE_BYTES, PROOF_BYTES
from netstore.raft.entry import MAX_DATA_BYTES
from netstore.raft.messages import InstallSnapshot, decode_in_pieces, message_parts
from netstore.state.member import MemberInfo  # noqa: TC001 - msgspec reads the annotations
from netstore.types import ClusterId, Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.raft.messages import Message

FIRST_VERSION: Final = 1
"""In which nobody proved who it was. It was never released; who speaks it is refused in its own format."""

LOWEST_VERSION: Final = 2
HIGHEST_VERSION: Final = 3
"""The versions of this protocol that are spoken; a stream uses the highest that both sides know. The proofs
are made over both sides' words for it, so nobody on the way talks them down.
"""

SEALED_VERSION: Final = 3
"""From which on what follows a challenge goes in records (`peer.seal`)."""

REFUSING_VERSION: Final = 3
"""From which on `raft.messages.ForwardRefused` is known. It is not sent in an earlier one: a kind that is not
known ends the stream.
"""

MAX_GREETING_BYTES: Final = 1024
"""Largest body of a greeting. A stranger can make a member hold no more than this."""

MAX_TEXT_BYTES: Final = 512

MAX_FRAME_BYTES: Final = 2 * MAX_DATA_BYTES
"""Largest payload of a frame: one message with the largest entry, or a turn of forwarded proposals."""

FRAME_BYTES: Final = 256 * 1024
"""What a frame of several messages is not longer than: 0.6 ms of large entries and 3 ms of the smallest."""

MAX_FRAME_MESSAGES: Final = 1 << 16
"""Most messages that are taken in one frame; turn by turn (`decode_batch`)."""

FRAME_MESSAGES: Final = 512
"""Most messages that are put into one: about 2 ms to take."""

MAX_ROSTER_BYTES: Final = 4 * 1024 * 1024
"""Largest frame of a roster stream: thousands of members."""

MAX_IMAGE_BYTES: Final = 1 << 40
"""Largest state copy."""

DIGEST_BYTES: Final = 32

STATE_DIGEST_BYTES: Final = 16

_NOTE: Final = b"\0\0\0\0\1"
"""A batch begins with the length of a message, which is never 0; then the kind of the note."""

_MAGIC: Final = b"nstpeer\n"
_GREETING: Final = layout("8sBHI")
_HELLO: Final = layout("BHHQQQ")
_OFFER: Final = layout(f"B{NONCE_BYTES}s")
_WELCOME: Final = layout("BHQQ")
_CHALLENGE: Final = layout(f"HQQ{NONCE_BYTES}s")
_FRAME: Final = layout("II")
_LENGTH: Final = layout("I")
_SIZE: Final = layout("Q")
_HELLO_KIND: Final = 1
_WELCOME_KIND: Final = 2
_CHALLENGE_KIND: Final = 3
_PROOF_KIND: Final = 4
_NO_NONCE: Final = bytes(NONCE_BYTES)
_NO_PROOF: Final = bytes(PROOF_BYTES)

_T = TypeVar("_T")


class Purpose(IntEnum):
    """What a stream was opened for."""

    MESSAGES = 1
    IMAGE = 2
    ROSTER = 3


class Verdict(IntEnum):
    """How a greeting was taken. Numbers are for ever; one this version does not know is a refusal."""

    ACCEPTED = 0
    OTHER_CLUSTER = 1
    OTHER_MEMBER = 2
    OTHER_VERSION = 3
    REMOVED = 4
    """The caller was removed from the cluster; it must stop."""
    BUSY = 5
    """Not now; it may be tried again."""
    FAILED = 6
    """What was asked for could not be done; the text says why."""
    NOT_PROVED = 7
    """One of the two sides does not know the cluster's join token."""


class Offer(IntEnum):
    """What the side that opened a stream proves itself with, and wants proof of from the other side."""

    CERTIFICATE = 0
    """Its certificate; that of the called side was proof enough for it."""
    TOKEN = 1
    """The join token, by a challenge. It does not go on unless the called side proves that it knows it."""
    NOTHING = 2
    """Nothing, and it wants no proof."""


class Hello(msgspec.Struct, frozen=True, gc=False):
    """The first word of the side that opened the stream.

    For a roster stream `cluster`, `sender` and `receiver` may be 0: who asks need not know them yet. `nonce`
    is a random number of this call alone, all zeros where nothing is to be proved by a token.
    """

    purpose: Purpose
    cluster: ClusterId
    sender: NodeId
    receiver: NodeId
    program: str
    nonce: bytes = _NO_NONCE
    offer: Offer = Offer.NOTHING
    lowest: int = LOWEST_VERSION
    highest: int = LOWEST_VERSION
    """`peer.dial` says what it speaks."""

    @property
    def version(self) -> int:
        """What is spoken with who said this: the highest that both know, or that this side does."""
        return max(LOWEST_VERSION, min(self.highest, HIGHEST_VERSION))

    def encode(self) -> bytes:
        """The bytes on the wire."""
        body = _HELLO.pack(self.purpose, self.lowest, self.highest, self.cluster, self.sender, self.receiver)
        return _greeting(_HELLO_KIND, body + _OFFER.pack(self.offer, self.nonce) + _text(self.program))

    @classmethod
    def read(cls, data: bytes) -> tuple[Hello, int] | None:
        """The greeting at the start of `data` and its length; None while it is incomplete."""
        body = _read_greeting(data, _HELLO_KIND)
        if body is None:
            return None
        if len(body) < _HELLO.size:
            raise CorruptData(f"hello of {len(body)} bytes is too short")
        number, lowest, highest, cluster, sender, receiver = _HELLO.unpack_from(body)
        try:
            purpose = Purpose(number)
        except ValueError:
            raise CorruptData(f"hello has the unknown purpose {number}") from None
        rest, offer, nonce = body[_HELLO.size :], int(Offer.NOTHING), _NO_NONCE
        if highest >= LOWEST_VERSION:
            if len(rest) < _OFFER.size or rest[0] > Offer.NOTHING:
                raise CorruptData(f"hello of {len(body)} bytes has no nonce, or offers what is not known")
            offer, nonce = _OFFER.unpack_from(rest)
            rest = rest[_OFFER.size :]
        program = _read_text(rest)
        ids = ClusterId(cluster), NodeId(sender), NodeId(receiver)
        hello = cls(purpose, *ids, program, nonce, Offer(offer), lowest, highest)
        return hello, _GREETING.size + len(body)


class Challenge(msgspec.Struct, frozen=True, gc=False):
    """The answer to a hello of whom no certificate vouches for: prove that you know the join token."""

    cluster: ClusterId
    member: NodeId
    nonce: bytes
    version: int = LOWEST_VERSION

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return _greeting(
            _CHALLENGE_KIND, _CHALLENGE.pack(self.version, self.cluster, self.member, self.nonce)
        )


class Proof(msgspec.Struct, frozen=True, gc=False):
    """The answer to a challenge (`peerproof.Secret.caller`)."""

    proof: bytes

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return _greeting(_PROOF_KIND, self.proof)

    @classmethod
    def read(cls, data: bytes) -> tuple[Proof, int] | None:
        """The greeting at the start of `data` and its length; None while it is incomplete."""
        body = _read_greeting(data, _PROOF_KIND)
        if body is None:
            return None
        if len(body) != PROOF_BYTES:
            raise CorruptData(f"proof of {len(body)} bytes")
        return cls(body), _GREETING.size + len(body)


class Welcome(msgspec.Struct, frozen=True, gc=False):
    """The answer to a hello: accepted, in a version of the protocol, or refused with a text for the log.

    Either way it says who answers: a caller that asked for another member learns who lives here. `proof` is
    that of `peerproof.Secret.called`, all zeros where there was no challenge; in `FIRST_VERSION` there is
    none.
    """

    verdict: int
    cluster: ClusterId
    member: NodeId
    text: str = ""
    proof: bytes = _NO_PROOF
    version: int = LOWEST_VERSION

    def encode(self) -> bytes:
        """The bytes on the wire. A text that is too long is cut."""
        head = self.verdict, self.version, self.cluster, self.member
        proof = b"" if self.version == FIRST_VERSION else self.proof
        return _greeting(_WELCOME_KIND, _WELCOME.pack(*head) + proof + _text(self.text))

    def unproved(self) -> bytes:
        """The bytes that the proof is made over: those on the wire with zeros in its place."""
        return msgspec.structs.replace(self, proof=_NO_PROOF).encode()

    @classmethod
    def read(cls, data: bytes) -> tuple[Welcome, int] | None:
        """The greeting at the start of `data` and its length; None while it is incomplete."""
        body = _read_greeting(data, _WELCOME_KIND)
        if body is None:
            return None
        if len(body) < _WELCOME.size:
            raise CorruptData(f"welcome of {len(body)} bytes is too short")
        verdict, version, cluster, member = _WELCOME.unpack_from(body)
        rest, proof = body[_WELCOME.size :], _NO_PROOF
        if version != FIRST_VERSION:
            if len(rest) < PROOF_BYTES:
                raise CorruptData(f"welcome of {len(body)} bytes has no place for a proof")
            proof, rest = rest[:PROOF_BYTES], rest[PROOF_BYTES:]
        welcome = cls(verdict, ClusterId(cluster), NodeId(member), _read_text(rest), proof, version)
        return welcome, _GREETING.size + len(body)


def read_answer(data: bytes) -> tuple[Challenge | Welcome, int] | None:
    """What the called side said, at the start of `data`, and its length; None while it is incomplete."""
    if len(data) < _GREETING.size or data[len(_MAGIC)] != _CHALLENGE_KIND:
        return Welcome.read(data)
    body = _read_greeting(data, _CHALLENGE_KIND)
    if body is None:
        return None
    if len(body) != _CHALLENGE.size:
        raise CorruptData(f"challenge of {len(body)} bytes")
    version, cluster, member, nonce = _CHALLENGE.unpack(body)
    return Challenge(ClusterId(cluster), NodeId(member), nonce, version), _GREETING.size + len(body)


def judge(hello: Hello, cluster: ClusterId, member: NodeId) -> tuple[Verdict, str]:
    """What a member answers to a hello by who it is, and the words to log; the version first, because nothing
    else can be understood without it.
    """
    if hello.highest < LOWEST_VERSION or hello.lowest > HIGHEST_VERSION:
        return Verdict.OTHER_VERSION, (
            f"speaks versions {hello.lowest} to {hello.highest} of the peer protocol, this member"
            f" {LOWEST_VERSION} to {HIGHEST_VERSION}"
        )
    anyone = hello.purpose is Purpose.ROSTER
    if hello.cluster != cluster and not (anyone and not hello.cluster):
        return Verdict.OTHER_CLUSTER, f"belongs to cluster {hello.cluster:x}, this member to {cluster:x}"
    if hello.receiver != member and not (anyone and not hello.receiver):
        return Verdict.OTHER_MEMBER, f"asks for member {hello.receiver:x}, this is {member:x}"
    if hello.sender == member or not (hello.sender or anyone):
        return Verdict.OTHER_MEMBER, f"calls itself {hello.sender:x}, and so does this member"
    return Verdict.ACCEPTED, ""


class Application(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A program that has no identity yet asks to be added as a learner, reached at these peer URLs.

    One whose disk was damaged asks in place of the member it was: that one is removed first.
    """

    name: str
    peer_urls: tuple[str, ...]
    replaces: NodeId = NodeId(0)


class Roster(msgspec.Struct, array_like=True, frozen=True):
    """Who is in the cluster, as the answering member has applied it. `you` is the applicant's id, else 0."""

    cluster: ClusterId
    you: NodeId
    members: tuple[MemberInfo, ...]
    refusal: str = ""
    """Why an application was not taken; empty when it was."""


class CopyHead(msgspec.Struct, frozen=True, gc=False):
    """What comes before the bytes of a state copy: how many they are."""

    size: int

    def encode(self) -> bytes:
        """Eight bytes."""
        return _SIZE.pack(self.size)


def encode_document(document: Application | Roster | None) -> bytes:
    """The payload of a frame on a roster stream; None, for a question without an application, is empty."""
    return b"" if document is None else msgspec.msgpack.encode(document)


def decode_application(payload: bytes) -> Application | None:
    """The inverse of `encode_document` for who answers."""
    return _decode_document(payload, Application) if payload else None


def decode_roster(payload: bytes) -> Roster:
    """The inverse of `encode_document` for who asked."""
    return _decode_document(payload, Roster)


def frame(payload: bytes) -> bytes:
    """A payload with its length and checksum before it."""
    return _FRAME.pack(len(payload), crc32c(payload)) + payload


PING: Final = frame(b"")
"""Says nothing but that the sender is there; sent back by the receiver."""


class StateNote(msgspec.Struct, frozen=True, gc=False):
    """The sender's state had this digest after it applied the entry at `index`."""

    index: Index
    digest: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(_NOTE + _SIZE.pack(self.index) + self.digest)

    @classmethod
    def decode(cls, payload: bytes) -> StateNote | None:
        """The note in the payload of a frame; None when it is a batch of messages."""
        if not payload.startswith(_NOTE):
            return None
        if len(payload) != len(_NOTE) + _SIZE.size + STATE_DIGEST_BYTES:
            raise CorruptData(f"note of a state with {len(payload)} bytes")
        (index,) = _SIZE.unpack_from(payload, len(_NOTE))
        return cls(Index(index), payload[len(_NOTE) + _SIZE.size :])


def encode_batch(messages: Iterable[Message]) -> bytes:
    """A frame for one turn's messages; several frames where one would be longer than `FRAME_BYTES`. A message
    that is longer has a frame of its own.
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
    """The messages of a frame; at least one, and none that belongs before a state copy. Each is taken apart
    when it is asked for (`raft.messages.decode_in_pieces`), and what is damaged further on found then.
    """
    at, end = 0, len(payload)
    if not end:
        raise CorruptData("batch without messages")
    count = 0
    while at < end:
        if at + _LENGTH.size > end:
            raise CorruptData(f"batch is cut short at offset {at} of {end}")
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        if length > end - at:
            raise CorruptData(f"message claims {length} bytes at offset {at} of {end}")
        if count == MAX_FRAME_MESSAGES:
            raise CorruptData(f"batch of more than {MAX_FRAME_MESSAGES} messages")
        for message in decode_in_pieces(payload, at, at + length):
            if type(message) is InstallSnapshot:
                raise CorruptData("a message that announces a state copy, without one")
            yield message
        count += 1
        at += length


def read_frame(data: bytes, limit: int, at: int = 0) -> tuple[bytes, int] | None:
    """The payload of the frame at `at` and the place after it; None while it is incomplete."""
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


class Frames:
    """Cuts what was read into the payloads of frames, one at a time. Holds what was read and not taken."""

    __slots__ = ("_at", "_buffer", "_limit", "_parts", "_wanted", "held")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = b""
        self._at = 0
        """Where in it the next frame begins."""
        self._parts: list[bytes] = []
        """What follows it."""
        self._wanted = _FRAME.size
        self.held = 0
        """Bytes that were added and not taken."""

    @property
    def more(self) -> bool:
        """Perhaps a whole frame is here."""
        return self.held >= self._wanted

    def add(self, data: bytes) -> None:
        """This was read."""
        self._parts.append(data)
        self.held += len(data)

    def take(self) -> bytes | None:
        """The next payload; None while it is incomplete. CorruptData where a frame is too long or damaged."""
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


class CopyReader:
    """Cuts what was read into the bytes of a state copy and their digest. Holds a head or digest at most."""

    __slots__ = ("_left", "_short", "digest", "size")

    def __init__(self) -> None:
        self._short = b""
        self._left = 0
        self.size: int | None = None
        """Bytes of the copy, once its head was read."""
        self.digest: bytes | None = None
        """The SHA-256 that the sender worked out, once everything was read."""

    def take(self, data: bytes) -> bytes:
        """The bytes of the copy in `data`. CorruptData for an absurd size, or for more than was announced."""
        if self.size is None:
            self._short += data
            if len(self._short) < _SIZE.size:
                return b""
            (size,) = _SIZE.unpack_from(self._short)
            if not 0 < size <= MAX_IMAGE_BYTES:
                raise CorruptData(f"state copy claims {size} bytes")
            self.size = self._left = size
            data, self._short = self._short[_SIZE.size :], b""
        piece = data[: self._left]
        self._left -= len(piece)
        if self._left == 0:
            self._short += data[len(piece) :]
            if len(self._short) > DIGEST_BYTES:
                raise CorruptData("state copy is followed by more than its digest")
            if len(self._short) == DIGEST_BYTES:
                self.digest = self._short
        return piece


def _decode_document(payload: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not a document of a roster stream: {error}") from None


def _greeting(kind: int, body: bytes) -> bytes:
    return _GREETING.pack(_MAGIC, kind, len(body), crc32c(body)) + body


def _read_greeting(data: bytes, kind: int) -> bytes | None:
    head = data[: _GREETING.size]
    if head[: len(_MAGIC)] != _MAGIC[: len(head)]:
        raise CorruptData("not a stream between members: the first bytes are something else")
    if len(head) < _GREETING.size:
        return None
    _, found, length, checksum = _GREETING.unpack(head)
    if found != kind or length > MAX_GREETING_BYTES:
        raise CorruptData(f"greeting of kind {found} with {length} bytes")
    body = data[_GREETING.size : _GREETING.size + length]
    if len(body) < length:
        return None
    if crc32c(body) != checksum:
        raise CorruptData("greeting does not fit its checksum")
    return body


def _text(text: str) -> bytes:
    """The bytes of a text, cut where it still reads, so that the text they give has the same bytes."""
    return text.encode("utf-8", "replace")[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _read_text(data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise CorruptData(f"text of {len(data)} bytes in a greeting")
    return data.decode("utf-8", "replace")
