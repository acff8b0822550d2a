"""What members say to each other: it comes back, in whatever pieces it arrives, and damage is CorruptData."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c
from netstore.errors import CorruptData
from netstore.peer import wire as wires
from netstore.peer.handshake import Secret
from netstore.peer.wire import (
    DIGEST_BYTES,
    FIRST_VERSION,
    FRAME_BYTES,
    FRAME_MESSAGES,
    HIGHEST_VERSION,
    MAX_GREETING_BYTES,
    PING,
    Application,
    Challenge,
    CopyHead,
    CopyReader,
    Frames,
    Hello,
    Offer,
    Proof,
    Purpose,
    Roster,
    StateNote,
    Verdict,
    Welcome,
    decode_application,
    decode_batch,
    decode_roster,
    encode_batch,
    encode_document,
    frame,
    judge,
    read_answer,
    read_frame,
)
from netstore.raft.entry import ConfState, Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import Append, Heartbeat, InstallSnapshot
from netstore.state.member import MemberInfo
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.dump import dump, dumped
from tests.support.raft_forms import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.raft.messages import Message

IDS = st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=100)
NONCES = st.binary(min_size=32, max_size=32)
CLUSTER, ME, OTHER = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)

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
def test_a_hello_comes_back_as_soon_as_it_is_whole(hello: Hello, more: bytes) -> None:
    data = hello.encode()
    assert Hello.read(data + more) == (hello, len(data))
    assert all(Hello.read(data[:end]) is None for end in range(len(data)))


@given(welcomes, st.binary(max_size=9))
def test_a_welcome_comes_back_as_soon_as_it_is_whole(welcome: Welcome, more: bytes) -> None:
    data = welcome.encode()
    assert Welcome.read(data + more) == (welcome, len(data))
    assert all(Welcome.read(data[:end]) is None for end in range(len(data)))


@given(challenges | welcomes, NONCES, st.binary(max_size=9))
def test_answers_and_proofs_come_back(answer: Challenge | Welcome, proof: bytes, more: bytes) -> None:
    data = answer.encode()
    assert read_answer(data + more) == (answer, len(data))
    assert all(read_answer(data[:end]) is None for end in range(len(data)))
    data = Proof(proof).encode()
    assert Proof.read(data + more) == (Proof(proof), len(data))


def test_a_hello_of_the_first_version_is_read_so_that_it_can_be_refused() -> None:
    body = bytes.fromhex("01 0100 0100") + bytes(24) + b"netstored 0.1.0"
    read = Hello.read(greeting(1, body))
    assert read is not None
    assert (read[0].lowest, read[0].highest) == (1, 1)
    assert judge(read[0], CLUSTER, ME)[0] is Verdict.OTHER_VERSION


def test_a_refusal_in_the_first_version_is_what_that_wrote_and_read() -> None:
    body = bytes.fromhex("03 0100 c1") + bytes(7) + b"\x0a" + bytes(7) + b"speaks another"
    welcome = Welcome(
        Verdict.OTHER_VERSION, ClusterId(0xC1), NodeId(0xA), "speaks another", version=FIRST_VERSION
    )
    assert welcome.encode() == greeting(2, body)
    assert Welcome.read(greeting(2, body)) == (welcome, 15 + len(body))


def test_an_offer_that_is_not_known_is_corrupt() -> None:
    body = bytearray(HELLO.encode()[15:])
    body[29] = max(Offer) + 1
    with pytest.raises(CorruptData, match="offers what is not known"):
        Hello.read(greeting(1, bytes(body)))


def test_a_long_text_is_cut_where_it_still_reads() -> None:
    """Its bytes are proved, so they must be the same when the other side encodes what it read."""
    welcome = Welcome(Verdict.FAILED, CLUSTER, ME, "\N{EURO SIGN}" * 500)
    read = Welcome.read(welcome.encode())
    assert read is not None
    assert welcome.text.startswith(read[0].text)
    assert read[0].unproved() == welcome.unproved()
    assert read[1] <= MAX_GREETING_BYTES


@pytest.mark.parametrize("read", [Hello.read, Welcome.read, Proof.read, read_answer])
@given(data=st.binary(max_size=80))
def test_a_greeting_of_any_bytes_is_corrupt_or_incomplete(
    read: Callable[[bytes], object], data: bytes
) -> None:
    for text in (data, b"nstpeer\n" + data, *(greeting(kind, data) for kind in (1, 2, 3, 4))):
        try:
            read(text)
        except CorruptData:
            continue


def greeting(kind: int, body: bytes) -> bytes:
    """A greeting whose checksum fits its body, whatever that is."""
    return (
        b"nstpeer\n"
        + bytes([kind])
        + len(body).to_bytes(2, "little")
        + crc32c(body).to_bytes(4, "little")
        + body
    )


@given(hellos, st.data())
def test_a_flipped_bit_in_a_hello_never_makes_another_one(hello: Hello, data: st.DataObject) -> None:
    encoded = bytearray(hello.encode())
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8
    try:
        read = Hello.read(bytes(encoded))
    except CorruptData:
        return
    assert read is None, "a longer length makes it incomplete; nothing else passes"


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
            msgspec.structs.replace(HELLO, lowest=4, highest=5),
            Verdict.OTHER_VERSION,
            "speaks versions 4 to 5",
        ),
        (
            msgspec.structs.replace(HELLO, lowest=0, highest=1),
            Verdict.OTHER_VERSION,
            "speaks versions 0 to 1",
        ),
        (msgspec.structs.replace(HELLO, lowest=0, highest=9), Verdict.ACCEPTED, ""),
        (Hello(Purpose.ROSTER, ClusterId(0), NodeId(0), NodeId(0), "test"), Verdict.ACCEPTED, ""),
        (
            Hello(Purpose.ROSTER, ClusterId(1), NodeId(0), NodeId(0), "test"),
            Verdict.OTHER_CLUSTER,
            "cluster 1",
        ),
        (
            Hello(Purpose.IMAGE, ClusterId(0), OTHER, ME, "test"),
            Verdict.OTHER_CLUSTER,
            "belongs to cluster 0",
        ),
    ],
)
def test_who_calls_is_judged_and_told_why(hello: Hello, verdict: Verdict, text: str) -> None:
    found, words = judge(hello, CLUSTER, ME)
    assert found is verdict
    assert text in words


def cut(data: bytes, frames: Frames | None = None) -> list[bytes]:
    """The payloads that these bytes complete."""
    frames = frames or Frames()
    frames.add(data)
    return list(iter(frames.take, None))


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_frames_come_back_in_whatever_pieces(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    frames = Frames()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cut(stream[:size], frames)
        stream = stream[size:]
    assert found == payloads


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_flipped_bit_in_a_frame_is_found(payload: bytes, data: st.DataObject) -> None:
    encoded = bytearray(frame(payload))
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8
    try:
        assert cut(bytes(encoded), Frames(limit=1000)) == [], "a longer length makes it incomplete"
    except CorruptData:
        return


def test_a_frame_over_its_limit_is_refused_from_its_length_alone() -> None:
    with pytest.raises(CorruptData, match="claims 101 bytes, more than 100"):
        cut(frame(bytes(101))[:8], Frames(100))
    assert read_frame(frame(bytes(100)), 100) == (bytes(100), 108)


IN_BATCHES = messages().filter(lambda message: not isinstance(message, InstallSnapshot))


@given(st.lists(IN_BATCHES, min_size=1, max_size=5))
def test_a_batch_comes_back(batch: list[Message]) -> None:
    [payload] = cut(encode_batch(batch))
    assert list(decode_batch(payload)) == batch


def test_a_state_copy_is_not_announced_among_other_messages() -> None:
    """The host would put in place what never came."""
    meta = SnapshotMeta(Index(5), Term(1), ConfState(voters=(ME,)))
    [payload] = cut(encode_batch([InstallSnapshot(OTHER, ME, Term(1), meta)]))
    with pytest.raises(CorruptData, match="announces a state copy"):
        list(decode_batch(payload))


def test_what_does_not_fit_one_frame_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(400))
    large = Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (entry,))
    monkeypatch.setattr(wires, "FRAME_BYTES", 1000)
    payloads = cut(encode_batch([large] * 5))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [2, 2, 1]


def test_a_frame_has_so_many_messages_and_bytes_that_it_is_taken_in_one_piece() -> None:
    heartbeat = Heartbeat(OTHER, ME, Term(1), Index(0), 0)
    payloads = cut(encode_batch([heartbeat] * (2 * FRAME_MESSAGES + 1)))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [FRAME_MESSAGES, FRAME_MESSAGES, 1]
    large = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(FRAME_BYTES * 3))
    append = Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (large,))
    payloads = cut(encode_batch([heartbeat, append, heartbeat]))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [1, 1, 1], "a larger one is alone"


@given(st.binary(max_size=60))
def test_a_batch_of_any_bytes_is_corrupt_or_read(data: bytes) -> None:
    try:
        list(decode_batch(data))
        StateNote.decode(data)
    except CorruptData:
        return


def test_a_ping_and_a_note_are_told_from_messages() -> None:
    note = StateNote(Index(7), b"d" * 16)
    heartbeat = Heartbeat(OTHER, ME, Term(1), Index(0), 0)
    payloads = cut(PING + note.encode() + encode_batch([heartbeat]))
    assert payloads[0] == b""
    assert StateNote.decode(payloads[1]) == note
    assert StateNote.decode(payloads[2]) is None
    with pytest.raises(CorruptData, match="note of a state"):
        StateNote.decode(payloads[1][:-1])


def test_documents_of_a_roster_stream_come_back() -> None:
    member = MemberInfo(ME, "a", ("http://c:1",), ("http://p:1",), learner=True, promote=True)
    roster = Roster(CLUSTER, ME, (member,), "")
    application = Application("a", ("http://p:1",), OTHER)
    assert decode_roster(encode_document(roster)) == roster
    assert decode_application(encode_document(application)) == application
    assert decode_application(encode_document(None)) is None


@given(st.binary(max_size=60))
def test_a_document_of_any_bytes_is_corrupt_or_read(data: bytes) -> None:
    for decode in (decode_application, decode_roster):
        try:
            decode(data)
        except CorruptData:
            continue


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_state_copy_comes_back_in_whatever_pieces(body: bytes, data: st.DataObject) -> None:
    stream = CopyHead(len(body)).encode() + body + sha256(body).digest()
    reader = CopyReader()
    found = b""
    while stream:
        assert reader.digest is None
        size = data.draw(st.integers(1, len(stream)))
        found += reader.take(stream[:size])
        stream = stream[size:]
    assert (found, reader.size, reader.digest) == (body, len(body), sha256(body).digest())


def test_an_absurd_or_overlong_state_copy_is_refused() -> None:
    for size in (0, 2**63):
        with pytest.raises(CorruptData, match="claims"):
            CopyReader().take(size.to_bytes(8, "little"))
    with pytest.raises(CorruptData, match="followed by more"):
        CopyReader().take(CopyHead(1).encode() + b"x" + bytes(DIGEST_BYTES + 1))


A_HELLO = Hello(
    Purpose.MESSAGES,
    CLUSTER,
    ME,
    OTHER,
    "netstored 0.1.0",
    nonce=bytes(range(32)),
    offer=Offer.TOKEN,
    highest=HIGHEST_VERSION,
).encode()
A_CHALLENGE = Challenge(CLUSTER, OTHER, bytes(range(32, 64)), HIGHEST_VERSION).encode()
A_SECRET = Secret("a token")
A_WELCOME = Welcome(Verdict.ACCEPTED, CLUSTER, OTHER, version=HIGHEST_VERSION)
A_PROOF = A_SECRET.called(A_HELLO, A_CHALLENGE, A_WELCOME.unproved())


@pytest.mark.parametrize(
    ("heading", "data"),
    [
        ("### Hello", A_HELLO),
        ("### Challenge", A_CHALLENGE),
        ("### Proof", Proof(A_SECRET.caller(A_HELLO, A_CHALLENGE)).encode()),
        ("### Welcome", msgspec.structs.replace(A_WELCOME, proof=A_PROOF).encode()),
        ("## Records", A_SECRET.caller_seal(A_HELLO, A_CHALLENGE).close(PING)),
        ("### Messages", encode_batch([Heartbeat(ME, OTHER, Term(2), Index(7), 3)])),
        ("### Note of a state", StateNote(Index(7), bytes(range(16))).encode()),
    ],
)
def test_the_wire_is_as_documented(heading: str, data: bytes) -> None:
    assert dumped("format-peer.md", heading) == data, f"it is\n{dump(data)}"
