"""The byte forms of messages decode to what was encoded, and anything else is CorruptData."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.raft import encoding as module
from netstore.raft.change import Change
from netstore.raft.encoding import MAX_PAYLOADS, decode_in_pieces, decode_message, encode_message
from netstore.raft.entry import Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import (
    MAX_NUMBER,
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    Heartbeat,
    InstallSnapshot,
    Message,
    PreVoteAnswer,
    ReadAnswer,
    TimeoutNow,
    VoteAnswer,
)
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, voters
from tests.support.raft_forms import damaged, messages

HEAD = (NodeId(1), NodeId(2), Term(3))


@given(messages())
def test_messages_come_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(messages(), st.integers(1, 3), st.integers(1, 20))
def test_the_pieces_of_a_message_have_the_same_content(message: Message, most: int, most_bytes: int) -> None:
    raw = b"before" + encode_message(message) + b"after"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_PAYLOADS", most)
        patch.setattr(module, "PIECE_BYTES", most_bytes)
        pieces = list(decode_in_pieces(raw, 6, len(raw) - 5))
    if isinstance(message, Forward):
        payloads: list[bytes] = []
        for piece in pieces:
            assert isinstance(piece, Forward)
            assert 0 < len(piece.payloads) <= most
            payloads += piece.payloads
        assert replace(message, payloads=payloads) == message
    elif isinstance(message, Append):
        entries: list[Entry] = []
        place = message.previous_index, message.previous_term
        for piece in pieces:
            assert isinstance(piece, Append)
            assert (piece.previous_index, piece.previous_term) == place
            assert (len(piece.entries) > 0) == (len(message.entries) > 0)
            assert len(piece.entries) <= most
            entries += piece.entries
            place = (entries[-1].index, entries[-1].term) if entries else place
            assert decode_message(encode_message(piece)) == piece, "which can be said alone"
        first = pieces[0]
        assert isinstance(first, Append)
        assert replace(first, entries=entries) == message
    else:
        assert pieces == [message]


@given(damaged(messages().map(encode_message)))
def test_damage_is_found_in_pieces_as_it_is_in_one(raw: bytes) -> None:
    try:
        decode_message(raw)
        sound = True
    except CorruptData:
        sound = False
    with nullcontext() if sound else pytest.raises(CorruptData):
        list(decode_in_pieces(raw, 0, len(raw)))


@given(damaged(messages().map(encode_message)))
def test_damage_is_corrupt_data_or_a_message_with_that_form(raw: bytes) -> None:
    try:
        message = decode_message(raw)
    except CorruptData:
        return
    assert encode_message(message) == raw


@given(messages())
def test_every_cut_is_noticed(message: Message) -> None:
    raw = encode_message(message)
    for size in range(len(raw)):
        with pytest.raises(CorruptData):
            decode_message(raw[:size])


def test_worked_example() -> None:
    raw = encode_message(Heartbeat(*HEAD, commit=Index(258), round=4))
    assert raw.hex(" ") == (
        "08 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00"
        " 02 01 00 00 00 00 00 00 04 00 00 00 00 00 00 00"
    )


@pytest.mark.parametrize(
    "message",
    [
        TimeoutNow(NodeId(0), NodeId(2), Term(3)),
        TimeoutNow(NodeId(1), NodeId(0), Term(3)),
        TimeoutNow(NodeId(1), NodeId(2), Term(0)),
        Append(*HEAD, Index(4), Term(4), Index(0), []),
        Append(*HEAD, Index(0), Term(1), Index(0), []),
        Append(*HEAD, Index(4), Term(0), Index(0), []),
        Append(*HEAD, Index(4), Term(2), Index(0), [entry(6, 2)]),
        Append(*HEAD, Index(4), Term(2), Index(0), [entry(5, 1)]),
        Append(*HEAD, Index(4), Term(2), Index(0), [entry(5, 4)]),
        InstallSnapshot(*HEAD, SnapshotMeta(Index(5), Term(4), voters(1))),
        InstallSnapshot(*HEAD, SnapshotMeta(Index(0), Term(0), voters(1))),
        InstallSnapshot(*HEAD, SnapshotMeta(Index(5), Term(2), voters())),
        Forward(*HEAD, EntryKind.NORMAL, []),
        Forward(*HEAD, EntryKind.CHANGE, [b"no change"]),
    ],
)
def test_messages_that_no_member_sends_are_refused(message: Message) -> None:
    with pytest.raises(CorruptData):
        decode_message(encode_message(message))


OVER = MAX_NUMBER + 1


@pytest.mark.parametrize(
    "message",
    [
        TimeoutNow(*HEAD[:2], Term(OVER)),
        TimeoutNow(*HEAD[:2], Term(2**64 - 1)),
        Append(*HEAD, Index(OVER), Term(2), Index(0), []),
        Append(*HEAD, Index(4), Term(2), Index(OVER), []),
        Append(*HEAD, Index(MAX_NUMBER), Term(2), Index(0), [entry(OVER, 2)]),
        AppendAccepted(*HEAD, Index(OVER)),
        AppendRejected(*HEAD, Index(0), Index(0), Term(OVER), needs_snapshot=False),
        Heartbeat(*HEAD, Index(0), OVER),
        InstallSnapshot(*HEAD, SnapshotMeta(Index(OVER), Term(2), voters(1))),
        PreVoteAnswer(*HEAD, Term(OVER), granted=True),
        ReadAnswer(*HEAD, 0, Index(2**64 - 1)),
        Forward(*HEAD, EntryKind.NORMAL, [b""] * (MAX_PAYLOADS + 1)),
    ],
)
def test_numbers_that_no_group_reaches_are_refused(message: Message) -> None:
    with pytest.raises(CorruptData):
        decode_message(encode_message(message))


def test_more_entries_than_a_leader_sends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)
    batch = [entry(index, 1) for index in (1, 2, 3)]
    few, many = (Append(*HEAD, Index(0), Term(0), Index(0), batch[:count]) for count in (2, 3))
    assert decode_message(encode_message(few)) == few
    with pytest.raises(CorruptData, match="cannot hold 3 entries"):
        decode_message(encode_message(many))


def test_a_new_member_may_answer_in_term_0() -> None:
    answer = PreVoteAnswer(NodeId(1), NodeId(2), Term(0), Term(1), granted=True)
    assert decode_message(encode_message(answer)) == answer


def test_unknown_kinds_and_flags_are_refused() -> None:
    raw = encode_message(VoteAnswer(*HEAD, granted=True))
    with pytest.raises(CorruptData, match="unknown kind 99"):
        decode_message(b"\x63" + raw[1:])
    with pytest.raises(CorruptData, match="granted 2"):
        decode_message(raw[:-1] + b"\x02")


def test_a_forwarded_change_was_checked_when_it_arrived() -> None:
    forward = Forward(*HEAD, EntryKind.CHANGE, [Change().encode()])
    assert decode_message(encode_message(forward)) == forward
