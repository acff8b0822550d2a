"""The handshake of a stream between members: its messages (greetings) as bytes, and their proofs. Pure.

A stream belongs to the member that opened it (the caller), for one purpose. The caller sends a `Hello`.
Unless certificates authenticate both sides, the called side answers with a `Challenge`, and the caller with a
`Proof`. Then the called side sends a `Welcome`, which carries its own proof, or refuses with a reason at any
of these points. Nothing else is read before. A caller that offers no proof in its hello gets the `Welcome` at
once; that proves nothing, and is a refusal unless the stream asks for the member list. `peer.dial` is the
caller's side, `peer.incoming` the called side.

A proof shows that its sender knows the cluster's join token without revealing it: HMAC-SHA256 (RFC 2104) with
a key derived from the token, over the greetings exactly as they went over the wire. Versions, purpose,
cluster, both ids and a fresh random number of each side are part of them, so a proof is of no use in another
stream, for another purpose or member, or sent back to the side that made it. A token that is short or
guessable can be found by offline guessing: by whoever records a handshake, or is called in a member's place;
and if it is the token of the initial cluster, by anybody, because `node.bootstrap` hashes that into a
member's id, which is public. The called side proves itself only after the caller did. Random tokens have 256
bits. From version 3 of the protocol on, what follows is authenticated record by record (`peer.records`).

What the encoders here could not have written raises CorruptData, never another exception; a length is checked
against its limit before anything is allocated. The format with worked dumps is in contrib/doc/format-peer.md.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from typing import Final

import msgspec

from netstore.codec import crc32c, layout
from netstore.errors import CorruptData
from netstore.peer.records import RecordLayer
from netstore.types import ClusterId, NodeId

FIRST_VERSION: Final = 1
"""The version without proofs. It was never released; its callers are refused in its own format."""

LOWEST_VERSION: Final = 2
HIGHEST_VERSION: Final = 4
"""The protocol versions that are spoken; a stream uses the highest that both sides know. The proofs cover
what both sides say of it, so nobody in between can cause a downgrade.
"""

RECORDS_VERSION: Final = 3
"""The first version in which what follows a challenge goes in authenticated records (`peer.records`)."""

REFUSING_VERSION: Final = 3
"""The first version that knows `raft.messages.ForwardRefused`. It is not sent in an earlier one: a message of
an unknown kind ends the stream.
"""

QUIET_VERSION: Final = 4
"""The first version in which an `AppendAccepted` may say that nobody waits for commits. In an earlier one it
is sent without that.
"""

MAX_GREETING_BYTES: Final = 1024
"""Largest body of a greeting: all that an unauthenticated caller can make a member hold."""

MAX_TEXT_BYTES: Final = 512

PROOF_BYTES: Final = 32

NONCE_BYTES: Final = 32
"""Size of the random number that each side contributes."""

_MAGIC: Final = b"nstpeer\n"
_GREETING: Final = layout("8sBHI")
_HELLO: Final = layout("BHHQQQ")
_OFFER: Final = layout(f"B{NONCE_BYTES}s")
_WELCOME: Final = layout("BHQQ")
_CHALLENGE: Final = layout(f"HQQ{NONCE_BYTES}s")
_HELLO_KIND: Final = 1
_WELCOME_KIND: Final = 2
_CHALLENGE_KIND: Final = 3
_PROOF_KIND: Final = 4
_NO_NONCE: Final = bytes(NONCE_BYTES)
_NO_PROOF: Final = bytes(PROOF_BYTES)

_KEY: Final = b"netstore peer protocol 2"
_CALLER: Final = b"caller"
_CALLED: Final = b"called"
_SAID_BY: Final = b"said by "


class Purpose(IntEnum):
    """What a stream was opened for."""

    MESSAGES = 1
    SNAPSHOT = 2
    MEMBER_LIST = 3


class Verdict(IntEnum):
    """The answer to a hello. The numbers are part of the wire format; an unknown one is a refusal."""

    ACCEPTED = 0
    OTHER_CLUSTER = 1
    OTHER_MEMBER = 2
    OTHER_VERSION = 3
    REMOVED = 4
    """The caller was removed from the cluster; it must stop."""
    BUSY = 5
    """Not now; the caller may try again."""
    FAILED = 6
    """What was asked for could not be done; the text says why."""
    NOT_PROVED = 7
    """One of the two sides does not know the cluster's join token."""


class Offer(IntEnum):
    """How the caller authenticates itself, and wants the called side to authenticate itself."""

    CERTIFICATE = 0
    """By its certificate; it has verified that of the called side."""
    TOKEN = 1
    """By the join token, with a challenge. It goes on only if the called side proves that it knows it too."""
    NOTHING = 2
    """Not at all, and it wants no proof."""


class Hello(msgspec.Struct, frozen=True, gc=False):
    """The first message of the caller.

    For a member list stream `cluster`, `sender` and `receiver` may be 0: the caller need not know them yet.
    `nonce` is a random number used for this stream only, all zeros where no token is to be proved.
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
    """`peer.dial` sets what this program speaks."""

    @property
    def version(self) -> int:
        """The version used with this caller: the highest that both know, or the nearest this side knows."""
        return max(LOWEST_VERSION, min(self.highest, HIGHEST_VERSION))

    def encode(self) -> bytes:
        """The bytes on the wire."""
        body = _HELLO.pack(self.purpose, self.lowest, self.highest, self.cluster, self.sender, self.receiver)
        return _greeting(_HELLO_KIND, body + _OFFER.pack(self.offer, self.nonce) + _text(self.program))

    @classmethod
    def read(cls, data: bytes) -> tuple[Hello, int] | None:
        """The hello at the start of `data` and its length; None while it is incomplete."""
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
                raise CorruptData(f"hello of {len(body)} bytes has no nonce, or an unknown offer")
            offer, nonce = _OFFER.unpack_from(rest)
            rest = rest[_OFFER.size :]
        program = _read_text(rest)
        ids = ClusterId(cluster), NodeId(sender), NodeId(receiver)
        hello = cls(purpose, *ids, program, nonce, Offer(offer), lowest, highest)
        return hello, _GREETING.size + len(body)


class Challenge(msgspec.Struct, frozen=True, gc=False):
    """The answer to the hello of a caller without a certificate: prove that you know the join token."""

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
    """The answer to a challenge (`Secret.caller_proof`)."""

    proof: bytes

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return _greeting(_PROOF_KIND, self.proof)

    @classmethod
    def read(cls, data: bytes) -> tuple[Proof, int] | None:
        """The proof at the start of `data` and its length; None while it is incomplete."""
        body = _read_greeting(data, _PROOF_KIND)
        if body is None:
            return None
        if len(body) != PROOF_BYTES:
            raise CorruptData(f"proof of {len(body)} bytes")
        return cls(body), _GREETING.size + len(body)


class Welcome(msgspec.Struct, frozen=True, gc=False):
    """The answer to a hello: accepted, with the protocol version, or refused with a text for the log.

    In both cases it names the member that answers, so a caller that expected another one learns who is there.
    `proof` is that of `Secret.called_proof`, all zeros where there was no challenge; `FIRST_VERSION` has
    none.
    """

    verdict: int
    cluster: ClusterId
    member: NodeId
    text: str = ""
    proof: bytes = _NO_PROOF
    version: int = LOWEST_VERSION

    def encode(self) -> bytes:
        """The bytes on the wire. A text that is too long is cut off."""
        head = self.verdict, self.version, self.cluster, self.member
        proof = b"" if self.version == FIRST_VERSION else self.proof
        return _greeting(_WELCOME_KIND, _WELCOME.pack(*head) + proof + _text(self.text))

    def without_proof(self) -> bytes:
        """The bytes that the proof is computed over: those on the wire, with zeros for the proof."""
        return msgspec.structs.replace(self, proof=_NO_PROOF).encode()

    @classmethod
    def read(cls, data: bytes) -> tuple[Welcome, int] | None:
        """The welcome at the start of `data` and its length; None while it is incomplete."""
        body = _read_greeting(data, _WELCOME_KIND)
        if body is None:
            return None
        if len(body) < _WELCOME.size:
            raise CorruptData(f"welcome of {len(body)} bytes is too short")
        verdict, version, cluster, member = _WELCOME.unpack_from(body)
        rest, proof = body[_WELCOME.size :], _NO_PROOF
        if version != FIRST_VERSION:
            if len(rest) < PROOF_BYTES:
                raise CorruptData(f"welcome of {len(body)} bytes is too short for a proof")
            proof, rest = rest[:PROOF_BYTES], rest[PROOF_BYTES:]
        welcome = cls(verdict, ClusterId(cluster), NodeId(member), _read_text(rest), proof, version)
        return welcome, _GREETING.size + len(body)


def read_answer(data: bytes) -> tuple[Challenge | Welcome, int] | None:
    """What the called side sent, at the start of `data`, and its length; None while it is incomplete."""
    if len(data) < _GREETING.size or data[len(_MAGIC)] != _CHALLENGE_KIND:
        return Welcome.read(data)
    body = _read_greeting(data, _CHALLENGE_KIND)
    if body is None:
        return None
    if len(body) != _CHALLENGE.size:
        raise CorruptData(f"challenge of {len(body)} bytes")
    version, cluster, member, nonce = _CHALLENGE.unpack(body)
    return Challenge(ClusterId(cluster), NodeId(member), nonce, version), _GREETING.size + len(body)


def check_addressee(hello: Hello, cluster: ClusterId, member: NodeId) -> tuple[Verdict, str]:
    """Whether a hello is meant for this member, and the text to log if not. The version is checked first:
    without a common one nothing else in it can be interpreted.
    """
    if hello.highest < LOWEST_VERSION or hello.lowest > HIGHEST_VERSION:
        return Verdict.OTHER_VERSION, (
            f"speaks versions {hello.lowest} to {hello.highest} of the peer protocol, this member"
            f" {LOWEST_VERSION} to {HIGHEST_VERSION}"
        )
    anyone = hello.purpose is Purpose.MEMBER_LIST
    if hello.cluster != cluster and not (anyone and not hello.cluster):
        return Verdict.OTHER_CLUSTER, f"belongs to cluster {hello.cluster:x}, this member to {cluster:x}"
    if hello.receiver != member and not (anyone and not hello.receiver):
        return Verdict.OTHER_MEMBER, f"asks for member {hello.receiver:x}, this is {member:x}"
    if hello.sender == member or not (hello.sender or anyone):
        return Verdict.OTHER_MEMBER, f"calls itself {hello.sender:x}, and so does this member"
    return Verdict.ACCEPTED, ""


class Secret:
    """The shared secret of a cluster's members, derived from the join token. Its repr shows nothing of it."""

    __slots__ = ("_key",)

    def __init__(self, token: str) -> None:
        self._key = hmac.digest(token.encode(), _KEY, "sha256")

    def caller_proof(self, hello: bytes, challenge: bytes) -> bytes:
        """The proof of the caller."""
        return self._mac(_CALLER, hello, challenge)

    def called_proof(self, hello: bytes, challenge: bytes, welcome: bytes) -> bytes:
        """The proof of the called side, which covers its welcome."""
        return self._mac(_CALLED, hello, challenge, welcome)

    def caller_records(self, hello: bytes, challenge: bytes) -> RecordLayer:
        """The record layer of the caller, for what follows the welcome."""
        return RecordLayer(*self._record_keys(hello, challenge))

    def called_records(self, hello: bytes, challenge: bytes) -> RecordLayer:
        """The record layer of the called side."""
        caller, called = self._record_keys(hello, challenge)
        return RecordLayer(called, caller)

    def _record_keys(self, *greetings: bytes) -> tuple[bytes, bytes]:
        return self._mac(_SAID_BY + _CALLER, *greetings), self._mac(_SAID_BY + _CALLED, *greetings)

    def _mac(self, side: bytes, *greetings: bytes) -> bytes:
        # Each greeting contains its own length, so no two different sequences of them have the same bytes.
        return hmac.digest(self._key, side + b"".join(greetings), "sha256")


def proofs_equal(proof: bytes, other: bytes) -> bool:
    """Compare two proofs in constant time."""
    return hmac.compare_digest(proof, other)


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
    """A text as UTF-8, cut at a character so that decoding and encoding it again gives the same bytes."""
    return text.encode("utf-8", "replace")[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _read_text(data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise CorruptData(f"text of {len(data)} bytes in a greeting")
    return data.decode("utf-8", "replace")
