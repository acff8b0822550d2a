"""Frames and their contents: decoded as encoded, in whatever pieces they arrive; damage is CorruptData."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.peer import wire as wires
from netstore.peer.handshake import (
    HIGHEST_VERSION,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
)
from netstore.peer.wire import (
    DIGEST_BYTES,
    FRAME_BYTES,
    FRAME_MESSAGES,
    PING,
    DigestMessage,
    FrameReader,
    JoinRequest,
    MemberList,
    SnapshotHeader,
    SnapshotReader,
    decode_batch,
    decode_join_request,
    decode_member_list,
    encode_batch,
    encode_document,
    frame,
    read_frame,
)
from netstore.raft.entry import ConfState, Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import Append, Heartbeat, InstallSnapshot
from netstore.state.members import MemberInfo
from netstore.types import Index, Term
from tests.support.callers import CLUSTER, ME, OTHER
from tests.support.damage import with_flipped_bit
from tests.support.dump import dump, dumped
from tests.support.raft_forms import messages

if TYPE_CHECKING:
    from netstore.raft.messages import Message


def cut(data: bytes, frames: FrameReader | None = None) -> list[bytes]:
    """The payloads that these bytes complete."""
    frames = frames or FrameReader()
    frames.add(data)
    return list(iter(frames.take, None))


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_frames_are_decoded_however_they_are_split(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    frames = FrameReader()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cut(stream[:size], frames)
        stream = stream[size:]
    assert found == payloads


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_flipped_bit_in_a_frame_is_detected(payload: bytes, data: st.DataObject) -> None:
    damaged = data.draw(with_flipped_bit(frame(payload)))
    try:
        assert cut(damaged, FrameReader(limit=1000)) == [], "a longer length makes it incomplete"
    except CorruptData:
        return


def test_a_frame_over_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(CorruptData, match="claims 101 bytes, more than 100"):
        cut(frame(bytes(101))[:8], FrameReader(100))
    assert read_frame(frame(bytes(100)), 100) == (bytes(100), 108)


IN_BATCHES = messages().filter(lambda message: not isinstance(message, InstallSnapshot))


@given(st.lists(IN_BATCHES, min_size=1, max_size=5))
def test_a_batch_is_decoded_as_encoded(batch: list[Message]) -> None:
    [payload] = cut(encode_batch(batch))
    assert list(decode_batch(payload)) == batch


def test_install_snapshot_in_a_batch_is_corrupt() -> None:
    """The host would install a snapshot that was never received."""
    meta = SnapshotMeta(Index(5), Term(1), ConfState(voters=(ME,)))
    [payload] = cut(encode_batch([InstallSnapshot(OTHER, ME, Term(1), meta)]))
    with pytest.raises(CorruptData, match="InstallSnapshot outside"):
        list(decode_batch(payload))


def test_messages_that_exceed_a_frame_go_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(400))
    large = Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (entry,))
    monkeypatch.setattr(wires, "FRAME_BYTES", 1000)
    payloads = cut(encode_batch([large] * 5))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [2, 2, 1]


def test_encoded_frames_are_bounded_in_messages_and_bytes() -> None:
    heartbeat = Heartbeat(OTHER, ME, Term(1), Index(0), 0)
    payloads = cut(encode_batch([heartbeat] * (2 * FRAME_MESSAGES + 1)))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [FRAME_MESSAGES, FRAME_MESSAGES, 1]
    large = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(FRAME_BYTES * 3))
    append = Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (large,))
    payloads = cut(encode_batch([heartbeat, append, heartbeat]))
    assert [len(list(decode_batch(payload))) for payload in payloads] == [1, 1, 1], "a larger one is alone"


@given(st.binary(max_size=60))
def test_random_bytes_are_a_corrupt_or_valid_batch(data: bytes) -> None:
    try:
        list(decode_batch(data))
        DigestMessage.decode(data)
    except CorruptData:
        return


def test_pings_and_digest_messages_differ_from_batches() -> None:
    note = DigestMessage(Index(7), b"d" * 16)
    heartbeat = Heartbeat(OTHER, ME, Term(1), Index(0), 0)
    payloads = cut(PING + note.encode() + encode_batch([heartbeat]))
    assert payloads[0] == b""
    assert DigestMessage.decode(payloads[1]) == note
    assert DigestMessage.decode(payloads[2]) is None
    with pytest.raises(CorruptData, match="state digest message"):
        DigestMessage.decode(payloads[1][:-1])


def test_documents_of_a_member_list_stream_are_decoded_as_encoded() -> None:
    member = MemberInfo(ME, "a", ("http://c:1",), ("http://p:1",), learner=True, promote=True)
    members = MemberList(CLUSTER, ME, (member,), "")
    request = JoinRequest("a", ("http://p:1",), OTHER)
    assert decode_member_list(encode_document(members)) == members
    assert decode_join_request(encode_document(request)) == request
    assert decode_join_request(encode_document(None)) is None


@given(st.binary(max_size=60))
def test_random_bytes_are_a_corrupt_or_valid_document(data: bytes) -> None:
    for decode in (decode_join_request, decode_member_list):
        try:
            decode(data)
        except CorruptData:
            continue


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_snapshot_is_decoded_however_it_is_split(body: bytes, data: st.DataObject) -> None:
    stream = SnapshotHeader(len(body)).encode() + body + sha256(body).digest()
    reader = SnapshotReader()
    found = b""
    while stream:
        assert reader.digest is None
        size = data.draw(st.integers(1, len(stream)))
        found += reader.take(stream[:size])
        stream = stream[size:]
    assert (found, reader.size, reader.digest) == (body, len(body), sha256(body).digest())


def test_a_snapshot_with_an_invalid_size_or_trailing_bytes_is_refused() -> None:
    for size in (0, 2**63):
        with pytest.raises(CorruptData, match="claims"):
            SnapshotReader().take(size.to_bytes(8, "little"))
    with pytest.raises(CorruptData, match="followed by more"):
        SnapshotReader().take(SnapshotHeader(1).encode() + b"x" + bytes(DIGEST_BYTES + 1))


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
A_PROOF = A_SECRET.called_proof(A_HELLO, A_CHALLENGE, A_WELCOME.without_proof())


@pytest.mark.parametrize(
    ("heading", "data"),
    [
        ("### Hello", A_HELLO),
        ("### Challenge", A_CHALLENGE),
        ("### Proof", Proof(A_SECRET.caller_proof(A_HELLO, A_CHALLENGE)).encode()),
        ("### Welcome", msgspec.structs.replace(A_WELCOME, proof=A_PROOF).encode()),
        ("## Records", A_SECRET.caller_records(A_HELLO, A_CHALLENGE).encode(PING)),
        ("### Messages", encode_batch([Heartbeat(ME, OTHER, Term(2), Index(7), 3)])),
        ("### Digest message", DigestMessage(Index(7), bytes(range(16))).encode()),
    ],
)
def test_the_wire_is_as_documented(heading: str, data: bytes) -> None:
    assert dumped("format-peer.md", heading) == data, f"it is\n{dump(data)}"
