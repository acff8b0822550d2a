"""A proof is of no use for anything but the greetings it was made for."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from netstore.peer.handshake import PROOF_BYTES, Secret, same

HELLO, CHALLENGE, WELCOME = b"hello" * 9, b"challenge" * 9, b"welcome" * 9


def test_it_is_hmac_sha256_over_what_went_over_the_wire() -> None:
    key = hmac.new(b"a token", b"netstore peer protocol 2", hashlib.sha256).digest()
    wanted = hmac.new(key, b"caller" + HELLO + CHALLENGE, hashlib.sha256).digest()
    assert Secret("a token").caller(HELLO, CHALLENGE) == wanted
    assert len(wanted) == PROOF_BYTES


@pytest.mark.parametrize("other", ["", "a tokem", "a token "])
def test_another_token_gives_another_proof(other: str) -> None:
    assert not same(Secret("a token").caller(HELLO, CHALLENGE), Secret(other).caller(HELLO, CHALLENGE))


def test_every_greeting_and_the_side_are_in_it() -> None:
    secret = Secret("a token")
    proofs = {
        secret.caller(HELLO, CHALLENGE),
        secret.caller(HELLO + b"x", CHALLENGE),
        secret.caller(HELLO, CHALLENGE + b"x"),
        secret.called(HELLO, CHALLENGE, b""),
        secret.called(HELLO, CHALLENGE, WELCOME),
        secret.called(HELLO, CHALLENGE + b"x", WELCOME),
    }
    assert len(proofs) == 6


def test_a_secret_does_not_show_itself() -> None:
    assert "a token" not in repr(Secret("a token"))
