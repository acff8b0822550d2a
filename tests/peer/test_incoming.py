"""Incoming streams without sockets: any bytes, in any pieces, before and after authentication."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from netstore.codec import crc32c
from netstore.peer import incoming as module
from netstore.peer import wire as wires
from netstore.peer.handshake import (
    MAX_GREETING_BYTES,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Verdict,
    Welcome,
    read_answer,
)
from netstore.peer.incoming import BYTES_PER_TURN, ENTRIES_PER_MESSAGE, MESSAGES_PER_TURN
from netstore.peer.wire import (
    PING,
    DigestMessage,
    JoinRequest,
    encode_batch,
    encode_document,
    frame,
)
from netstore.raft.encoding import decode_in_pieces
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.messages import Append, Forward, Heartbeat
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.callers import ASKING, CLUSTER, ME, MEMBER_LIST, OTHER, CalledMember, prove, told
from tests.support.raft_forms import damaged, extreme_messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.peer.listener import Listener
    from netstore.raft.messages import Message


def held(incoming_streams: Listener) -> int:
    return sum(len(stream._read) + stream._frames.held for stream in incoming_streams.unverified)


HELLOS = st.builds(
    Hello,
    st.sampled_from(Purpose),
    st.sampled_from([CLUSTER, ClusterId(0), ClusterId(1)]),
    st.sampled_from([OTHER, ME, NodeId(0), NodeId(0xDEAD), NodeId(2**64 - 1)]),
    st.sampled_from([ME, NodeId(0), OTHER]),
    st.text(max_size=20),
    st.just(bytes(32)),
    st.sampled_from(Offer),
)
QUESTIONS = st.sampled_from([None, JoinRequest("new", ("http://p:1",))]).map(
    lambda request: frame(encode_document(request))
)
GREETINGS = (
    HELLOS.map(Hello.encode)
    | QUESTIONS
    | st.binary(min_size=32, max_size=32).map(lambda proof: Proof(proof).encode())
)


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(damaged(GREETINGS) | GREETINGS | st.binary(max_size=3000), max_size=6),
    cuts=st.lists(st.integers(1, 2000), max_size=6),
)
def test_random_bytes_of_an_unverified_caller_get_a_challenge_or_the_member_list_at_most(
    pieces: list[bytes], cuts: list[int]
) -> None:
    called = CalledMember()
    wire = called.call()
    data = b"".join(pieces)
    while data and wire.open:
        size = cuts.pop() if cuts else len(data)
        wire.handler.received(data[:size])
        data = data[size:]
        assert held(called.listener) <= max(MAX_GREETING_BYTES + 15, module.MAX_UNVERIFIED_REQUEST_BYTES + 8)
    assert not called.listener.verified
    assert (called.got, called.notes) == ([], [])
    assert called.asked in ([], [None])
    assert len(wire.sent) <= 2 * MAX_GREETING_BYTES
    wire.cut("over")
    assert (called.listener.budget.used, len(called.listener.unverified)) == (0, 0)


FRAMES = (
    st.lists(extreme_messages(senders=(OTHER,), to=ME), min_size=1, max_size=4).map(encode_batch)
    | st.just(PING)
    | st.just(DigestMessage(Index(5), bytes(16)).encode())
    | st.just(frame(encode_document(None)))
    | st.binary(max_size=60).map(frame)
)


@settings(max_examples=300, deadline=None)
@given(
    purpose=st.sampled_from([Purpose.MESSAGES, Purpose.MEMBER_LIST]),
    pieces=st.lists(FRAMES | damaged(FRAMES), max_size=8),
    cuts=st.lists(st.integers(1, 90), max_size=12),
)
def test_random_bytes_of_a_member_are_taken_or_end_the_stream(
    purpose: Purpose, pieces: list[bytes], cuts: list[int]
) -> None:
    called = CalledMember()
    wire = called.call()
    prove(wire, Hello(purpose, CLUSTER, OTHER, ME, "test"))
    assert list(called.listener.verified) == [wire.handler]
    data = b"".join(pieces)
    while data and wire.open:
        size = cuts.pop() if cuts else len(data)
        wire.handler.received(data[:size])
        data = data[size:]
        assert called.listener.budget.used == (wire.handler._frames.held if wire.open else 0)
    assert all(message.sender == OTHER for message in called.got)
    wire.cut("over")
    assert (called.listener.budget.used, len(called.listener.verified)) == (0, 0)


def test_only_an_authenticated_caller_is_told_that_it_was_removed() -> None:
    called = CalledMember()
    removed = Hello(Purpose.MESSAGES, CLUSTER, NodeId(0xDEAD), ME, "test")
    wire = called.call()
    prove(wire, removed)
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Welcome)
    assert found[0].verdict == Verdict.REMOVED
    assert found[0].proof != bytes(32)
    wire = called.call()
    wire.handler.received(structs.replace(removed, offer=Offer.TOKEN).encode())
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Challenge), "an unverified caller is not told"


def test_a_frame_larger_than_the_budget_is_received_if_it_is_the_only_one() -> None:
    called = CalledMember()
    first, second = called.call(), called.call("10.0.0.2")
    prove(first, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    prove(second, Hello(Purpose.MESSAGES, CLUSTER, NodeId(0xC), ME, "test"))
    large = frame(bytes(3 << 20))
    first.handler.received(large[: 2 << 20])
    assert first.open
    second.handler.received(large[: module.UNREAD_BYTES])
    assert second.open, "a small part may always be held"
    second.handler.received(large[module.UNREAD_BYTES : 1 << 20])
    assert "too many bytes of frames" in second.reason
    assert first.open


def test_the_first_version_is_refused_in_its_own_format() -> None:
    """The bytes are those that version 0.0.9 sent, and the layout of the answer is the one it read."""
    called = CalledMember()
    wire = called.call()
    first = struct.pack("<BHHQQQ", 1, 1, 1, CLUSTER, OTHER, ME) + b"netstored 0.0.9"
    wire.handler.received(struct.pack("<8sBHI", b"nstpeer\n", 1, len(first), crc32c(first)) + first)
    body = wire.sent[15:]
    assert struct.unpack_from("<BHQQ", body) == (Verdict.OTHER_VERSION, 1, CLUSTER, ME)
    assert body[19:] == b"speaks versions 1 to 1 of the peer protocol, this member 2 to 4"
    assert (wire.reason, called.got) == ("refused", [])


def test_a_caller_with_a_wrong_proof_gets_no_proof() -> None:
    called = CalledMember()
    wire = called.call()
    wire.handler.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    found = read_answer(wire.sent)
    assert found is not None
    wire.sent = b""
    wire.handler.received(Proof(bytes(32)).encode())
    welcome, _ = told(wire)
    assert (welcome.verdict, welcome.proof) == (Verdict.NOT_PROVED, bytes(32))


def test_a_member_list_stream_has_one_request() -> None:
    called = CalledMember()
    question = frame(encode_document(None))
    wire = called.call()
    prove(wire, ASKING)
    wire.unsent = 7  # what the kernel does not take
    wire.handler.received(question)
    assert called.listener.budget.used == 7, "an answer that was not read yet is charged"
    wire.handler.received(question)
    assert "more than one thing" in wire.reason
    assert called.listener.budget.used == 0
    assert called.asked == [None]
    wire = called.call()
    prove(wire, ASKING)
    wire.handler.received(question * 1000)
    assert "more than one thing" in wire.reason
    assert called.asked == [None]


def test_an_unverified_caller_gets_the_member_list_and_is_closed() -> None:
    called = CalledMember()
    for cut in (1000, 1, 15, len(ASKING.encode()), len(ASKING.encode()) + 3):
        wire = called.call()
        data = ASKING.encode() + frame(encode_document(None))
        wire.handler.received(data[:cut])
        if cut < len(data):
            wire.handler.received(data[cut:])
        welcome, members = told(wire)
        assert (welcome.verdict, members) == (Verdict.ACCEPTED, MEMBER_LIST)
        assert (wire.open, wire.reason) == (False, "answered")
    assert not called.lines, "it is not logged"


def test_an_unverified_join_request_is_answered_with_what_it_needs() -> None:
    called = CalledMember()
    wire = called.call()
    wish = JoinRequest("evil", ("http://127.0.0.1:9",), OTHER)
    wire.handler.received(ASKING.encode() + frame(encode_document(wish)))
    welcome, members = told(wire)
    assert (welcome.verdict, members) == (
        Verdict.ACCEPTED,
        structs.replace(MEMBER_LIST, refusal=module.JOIN_REFUSAL),
    )
    assert "netstorectl member token" in module.JOIN_REFUSAL
    assert called.asked == [None], "the join request is not passed on"
    assert len(called.lines) == 1
    assert not wire.open


def test_an_unverified_caller_is_refused_everything_else() -> None:
    called = CalledMember()
    for purpose in (Purpose.MESSAGES, Purpose.SNAPSHOT):
        for more in (b"", PING, bytes(2000)):
            wire = called.call()
            wire.handler.received(Hello(purpose, CLUSTER, OTHER, ME, "x").encode() + more)
            welcome, _ = told(wire)
            assert (welcome.verdict, wire.open) == (Verdict.NOT_PROVED, False)
            assert "offers no proof" in welcome.text
    assert not called.listener.verified
    assert len(called.lines) == 6


def test_a_certificate_is_enough_if_the_hello_offers_no_proof() -> None:
    called = CalledMember()
    wire = called.call()
    wire.handler._certified = True
    wire.handler.received(ASKING.encode() + frame(encode_document(None)))
    assert list(called.listener.verified) == [wire.handler]
    assert told(wire) == (Welcome(Verdict.ACCEPTED, CLUSTER, ME), MEMBER_LIST)


def test_an_unverified_caller_has_one_request_and_a_deadline() -> None:
    called = CalledMember()
    question = frame(encode_document(None))
    for more in (question + question, question + b"x", frame(bytes(module.MAX_UNVERIFIED_REQUEST_BYTES + 1))):
        wire = called.call()
        wire.handler.received(ASKING.encode() + more)
        assert (wire.open, told(wire)[1]) == (False, None)
    slow = called.call()
    slow.unsent = 1  # what the kernel does not take
    slow.handler.received(ASKING.encode() + question)
    assert slow.open
    slow.handler.received(question)
    assert "more than one thing" in slow.reason
    slow = called.call()
    slow.unsent = 1
    slow.handler.received(ASKING.encode() + question)
    slow.handler.flushed()
    assert slow.reason == "answered"
    waiting = called.call()
    waiting.handler.received(ASKING.encode())
    called.now = module.AUTHENTICATION_SECONDS + 0.1
    called.listener.sweep()
    assert not waiting.open


def test_many_messages_in_one_read_are_handled_over_several_turns_in_order() -> None:
    called = CalledMember()
    wire = called.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    beats = [Heartbeat(OTHER, ME, Term(1), Index(number), 0) for number in range(1000)]
    data = b"".join(encode_batch([beat]) for beat in beats)
    wire.handler.received(data)
    assert called.read == len(data)
    taken = [len(called.got)]
    while wire.go_on():
        taken.append(len(called.got))
    assert taken == [MESSAGES_PER_TURN // 2, MESSAGES_PER_TURN, 3 * MESSAGES_PER_TURN // 2, 1000]
    assert called.got == beats
    assert called.read == len(data)


def test_large_frames_in_one_read_are_handled_over_several_turns() -> None:
    called = CalledMember()
    wire = called.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(BYTES_PER_TURN // 2))
    append = encode_batch([Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (entry,))])
    wire.handler.received(append * 5)
    taken = [len(called.got)]
    while wire.go_on():
        taken.append(len(called.got))
    assert taken == [2, 4, 5]


@pytest.mark.parametrize("what", ["messages in one frame", "forwarded requests", "small entries", "pings"])
def test_no_turn_handles_more_than_its_limit(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member may send frames that this program would not encode."""
    called = CalledMember()
    wire = called.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    made: list[Message] = []
    if what == "pings":
        data = PING * 5000
    elif what == "forwarded requests":
        payloads = [number.to_bytes(2) for number in range(5000)]
        data = encode_batch([Forward(OTHER, ME, Term(1), EntryKind.NORMAL, payloads)])
    elif what == "small entries":
        entries = [Entry(Index(place), Term(1), EntryKind.NORMAL, b"") for place in range(1, 20_001)]
        data = encode_batch([Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), entries)])
    else:
        monkeypatch.setattr(wires, "FRAME_MESSAGES", 5000)
        beats = [Heartbeat(OTHER, ME, Term(1), Index(number), 0) for number in range(5000)]
        data = encode_batch(beats)

    def parts(message: Message) -> float:
        if isinstance(message, Append):
            return len(message.entries) / ENTRIES_PER_MESSAGE
        return len(message.payloads) if isinstance(message, Forward) else 1

    def counted(*arguments: Any) -> Iterator[Message]:
        for message in decode_in_pieces(*arguments):
            made.append(message)
            yield message

    monkeypatch.setattr(wires, "decode_in_pieces", counted)
    wire.sent = b""
    wire.unsent = 0
    wire.handler.received(data)
    called.now += 100
    turns = 0
    while True:
        turns += 1
        size = sum(parts(each) for each in made)
        assert size + len(wire.sent) // len(PING) <= turns * MESSAGES_PER_TURN
        if wire.left is not None:
            assert called.listener.budget.used > 0, "what was read and not handled is charged"
        if not wire.go_on():
            break
        assert wire.handler.deadline > called.now, (
            "a member whose messages are still being handled is not silent"
        )
    assert turns >= 5000 // MESSAGES_PER_TURN
    assert called.listener.budget.used == 0
    if what == "pings":
        assert wire.sent == data
    elif what == "forwarded requests":
        forwards = [each for each in called.got if isinstance(each, Forward)]
        assert [payload for each in forwards for payload in each.payloads] == payloads
    elif what == "small entries":
        appends = [each for each in called.got if isinstance(each, Append)]
        assert [entry for each in appends for entry in each.entries] == entries
    else:
        assert called.got == beats


def test_damage_that_is_found_in_a_later_turn_ends_the_stream() -> None:
    called = CalledMember()
    wire = called.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    beat = encode_batch([Heartbeat(OTHER, ME, Term(1), Index(1), 0)])
    wire.handler.received(beat * MESSAGES_PER_TURN + frame(b"nonsense") + beat)
    was_open = wire.open
    while wire.go_on():
        pass
    assert (was_open, wire.open) == (True, False)
    assert len(called.got) < MESSAGES_PER_TURN + 1
    assert called.listener.budget.used == 0
