"""Greetings come back in whatever pieces they arrive, and damage is CorruptData; a proof is only valid for
the greetings it was made for.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c
from netstore.errors import CorruptData
from netstore.peer.handshake import (
    FIRST_VERSION,
    MAX_GREETING_BYTES,
    PROOF_BYTES,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
    check_addressee,
    proofs_equal,
    read_answer,
)
from netstore.types import ClusterId, NodeId
from tests.support.callers import CLUSTER, ME, OTHER
from tests.support.damage import with_flipped_bit

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=100)
NONCES = st.binary(min_size=32, max_size=32)

hellos = st.builds(
    Hello,
    st.sampled_from(Purpose),
    IDS.map(ClusterId),
    IDS.map(NodeId),
    IDS.map(NodeId),
    TEXTS,
    NONCES,
    st.sampled_from(Offer),
    st.integers(0, 9),
    st.integers(2, 9),
)
welcomes = st.builds(
    Welcome,
    st.integers(0, 255),
    IDS.map(ClusterId),
    IDS.map(NodeId),
    TEXTS,
    NONCES,
    st.integers(0, 9).filter(lambda version: version != FIRST_VERSION),
)
challenges = st.builds(Challenge, IDS.map(ClusterId), IDS.map(NodeId), NONCES, st.integers(0, 9))


@given(hellos, st.binary(max_size=9))
def test_a_hello_is_decoded_as_soon_as_it_is_complete(hello: Hello, more: bytes) -> None:
    data = hello.encode()
    assert Hello.read(data + more) == (hello, len(data))
    assert all(Hello.read(data[:end]) is None for end in range(len(data)))


@given(welcomes, st.binary(max_size=9))
def test_a_welcome_is_decoded_as_soon_as_it_is_complete(welcome: Welcome, more: bytes) -> None:
    data = welcome.encode()
    assert Welcome.read(data + more) == (welcome, len(data))
    assert all(Welcome.read(data[:end]) is None for end in range(len(data)))


@given(challenges | welcomes, NONCES, st.binary(max_size=9))
def test_challenges_welcomes_and_proofs_are_decoded_as_encoded(
    answer: Challenge | Welcome, proof: bytes, more: bytes
) -> None:
    data = answer.encode()
    assert read_answer(data + more) == (answer, len(data))
    assert all(read_answer(data[:end]) is None for end in range(len(data)))
    data = Proof(proof).encode()
    assert Proof.read(data + more) == (Proof(proof), len(data))


def test_a_hello_of_the_first_version_is_decoded() -> None:
    body = bytes.fromhex("01 0100 0100") + bytes(24) + b"netstored 0.1.0"
    read = Hello.read(greeting(1, body))
    assert read is not None
    assert (read[0].lowest, read[0].highest) == (1, 1)
    assert check_addressee(read[0], CLUSTER, ME)[0] is Verdict.OTHER_VERSION


def test_a_refusal_in_the_first_version_has_its_format() -> None:
    body = bytes.fromhex("03 0100 c1") + bytes(7) + b"\x0a" + bytes(7) + b"speaks another"
    welcome = Welcome(
        Verdict.OTHER_VERSION, ClusterId(0xC1), NodeId(0xA), "speaks another", version=FIRST_VERSION
    )
    assert welcome.encode() == greeting(2, body)
    assert Welcome.read(greeting(2, body)) == (welcome, 15 + len(body))


def test_an_unknown_offer_is_corrupt() -> None:
    body = bytearray(HELLO.encode()[15:])
    body[29] = max(Offer) + 1
    with pytest.raises(CorruptData, match="unknown offer"):
        Hello.read(greeting(1, bytes(body)))


def test_a_long_text_is_cut_at_a_character() -> None:
    """The proof covers its bytes, so decoding and encoding it must give the same bytes."""
    welcome = Welcome(Verdict.FAILED, CLUSTER, ME, "\N{EURO SIGN}" * 500)
    read = Welcome.read(welcome.encode())
    assert read is not None
    assert welcome.text.startswith(read[0].text)
    assert read[0].without_proof() == welcome.without_proof()
    assert read[1] <= MAX_GREETING_BYTES


@pytest.mark.parametrize("read", [Hello.read, Welcome.read, Proof.read, read_answer])
@given(data=st.binary(max_size=80))
def test_random_bytes_are_a_corrupt_or_incomplete_greeting(
    read: Callable[[bytes], object], data: bytes
) -> None:
    for text in (data, b"nstpeer\n" + data, *(greeting(kind, data) for kind in (1, 2, 3, 4))):
        try:
            read(text)
        except CorruptData:
            continue


def greeting(kind: int, body: bytes) -> bytes:
    """A greeting with this body and the checksum of it."""
    return (
        b"nstpeer\n"
        + bytes([kind])
        + len(body).to_bytes(2, "little")
        + crc32c(body).to_bytes(4, "little")
        + body
    )


@given(hellos, st.data())
def test_a_flipped_bit_in_a_hello_is_detected(hello: Hello, data: st.DataObject) -> None:
    damaged = data.draw(with_flipped_bit(hello.encode()))
    try:
        read = Hello.read(damaged)
    except CorruptData:
        return
    assert read is None, "a greater length makes it incomplete; nothing else is accepted"


HELLO = Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test")


@pytest.mark.parametrize(
    ("hello", "verdict", "text"),
    [
        (HELLO, Verdict.ACCEPTED, ""),
        (
            msgspec.structs.replace(HELLO, cluster=ClusterId(0xC2)),
            Verdict.OTHER_CLUSTER,
            "belongs to cluster c2",
        ),
        (
            msgspec.structs.replace(HELLO, receiver=NodeId(1)),
            Verdict.OTHER_MEMBER,
            "asks for member 1, this is a",
        ),
        (msgspec.structs.replace(HELLO, sender=ME), Verdict.OTHER_MEMBER, "calls itself a"),
        (msgspec.structs.replace(HELLO, sender=NodeId(0)), Verdict.OTHER_MEMBER, "calls itself 0"),
        (
            msgspec.structs.replace(HELLO, lowest=5, highest=6),
            Verdict.OTHER_VERSION,
            "speaks versions 5 to 6",
        ),
        (
            msgspec.structs.replace(HELLO, lowest=0, highest=1),
            Verdict.OTHER_VERSION,
            "speaks versions 0 to 1",
        ),
        (msgspec.structs.replace(HELLO, lowest=0, highest=9), Verdict.ACCEPTED, ""),
        (Hello(Purpose.MEMBER_LIST, ClusterId(0), NodeId(0), NodeId(0), "test"), Verdict.ACCEPTED, ""),
        (
            Hello(Purpose.MEMBER_LIST, ClusterId(1), NodeId(0), NodeId(0), "test"),
            Verdict.OTHER_CLUSTER,
            "cluster 1",
        ),
        (
            Hello(Purpose.SNAPSHOT, ClusterId(0), OTHER, ME, "test"),
            Verdict.OTHER_CLUSTER,
            "belongs to cluster 0",
        ),
    ],
)
def test_a_hello_for_another_cluster_member_or_version_is_refused(
    hello: Hello, verdict: Verdict, text: str
) -> None:
    found, words = check_addressee(hello, CLUSTER, ME)
    assert found is verdict
    assert text in words


HELLO_BYTES, CHALLENGE_BYTES, WELCOME_BYTES = b"hello" * 9, b"challenge" * 9, b"welcome" * 9


def test_a_proof_is_hmac_sha256_over_the_greetings() -> None:
    key = hmac.new(b"a token", b"netstore peer protocol 2", hashlib.sha256).digest()
    wanted = hmac.new(key, b"caller" + HELLO_BYTES + CHALLENGE_BYTES, hashlib.sha256).digest()
    assert Secret("a token").caller_proof(HELLO_BYTES, CHALLENGE_BYTES) == wanted
    assert len(wanted) == PROOF_BYTES


@pytest.mark.parametrize("other", ["", "a tokem", "a token "])
def test_another_token_gives_another_proof(other: str) -> None:
    proofs = [Secret(token).caller_proof(HELLO_BYTES, CHALLENGE_BYTES) for token in ("a token", other)]
    assert not proofs_equal(*proofs)


def test_a_proof_depends_on_every_greeting_and_the_side() -> None:
    secret = Secret("a token")
    proofs = {
        secret.caller_proof(HELLO_BYTES, CHALLENGE_BYTES),
        secret.caller_proof(HELLO_BYTES + b"x", CHALLENGE_BYTES),
        secret.caller_proof(HELLO_BYTES, CHALLENGE_BYTES + b"x"),
        secret.called_proof(HELLO_BYTES, CHALLENGE_BYTES, b""),
        secret.called_proof(HELLO_BYTES, CHALLENGE_BYTES, WELCOME_BYTES),
        secret.called_proof(HELLO_BYTES, CHALLENGE_BYTES + b"x", WELCOME_BYTES),
    }
    assert len(proofs) == 6


def test_the_repr_of_a_secret_does_not_show_the_token() -> None:
    assert "a token" not in repr(Secret("a token"))
