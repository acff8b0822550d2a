"""Proof that a side of a stream between members knows the cluster's join token, without showing it. Pure.

HMAC-SHA256 (RFC 2104) under a key made from the token, over the greetings exactly as they went over the wire:
versions, purpose, cluster, both ids and a fresh random number of each side are all in them, so a proof is of
no use in another stream, for another purpose or member, or back to the side that gave it. A token of few or
guessable characters can be found by trying at home: by somebody who records a greeting, or is called in a
member's place; and for one that members began with by anybody, because `node.bootstrap` hashes it in a
member's id, which is no secret. Who calls gets a proof only after it gave its own. Random ones have 256 bits.
What follows has a tag on each record, from version 3 of the protocol on (`peer.seal`).
"""

from __future__ import annotations

import hmac
from typing import Final

from netstore.peer.seal import Seal

PROOF_BYTES: Final = 32

NONCE_BYTES: Final = 32
"""Of the random number that each side gives."""

_KEY: Final = b"netstore peer protocol 2"
_CALLER: Final = b"caller"
_CALLED: Final = b"called"
_SAID_BY: Final = b"said by "


class Secret:
    """What the members of one cluster share. Shows nothing of itself when it is printed."""

    __slots__ = ("_key",)

    def __init__(self, token: str) -> None:
        self._key = hmac.digest(token.encode(), _KEY, "sha256")

    def caller(self, hello: bytes, challenge: bytes) -> bytes:
        """What the side that called proves itself with."""
        return self._over(_CALLER, hello, challenge)

    def called(self, hello: bytes, challenge: bytes, welcome: bytes) -> bytes:
        """What the side that was called proves itself and its answer with."""
        return self._over(_CALLED, hello, challenge, welcome)

    def caller_seal(self, hello: bytes, challenge: bytes) -> Seal:
        """What the side that called puts on what it says after the welcome, and expects."""
        return Seal(*self._said(hello, challenge))

    def called_seal(self, hello: bytes, challenge: bytes) -> Seal:
        """The same at the side that was called."""
        caller, called = self._said(hello, challenge)
        return Seal(called, caller)

    def _said(self, *greetings: bytes) -> tuple[bytes, bytes]:
        return self._over(_SAID_BY + _CALLER, *greetings), self._over(_SAID_BY + _CALLED, *greetings)

    def _over(self, side: bytes, *greetings: bytes) -> bytes:
        # Every greeting begins with its own length, so no two rows of them have the same bytes.
        return hmac.digest(self._key, side + b"".join(greetings), "sha256")


def same(proof: bytes, other: bytes) -> bool:
    """Whether two proofs are the same, in a time that tells nothing about where they differ."""
    return hmac.compare_digest(proof, other)
