"""Authenticated records: data is decoded as it was encoded, and every change is detected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.peer.handshake import Secret
from netstore.peer.records import RECORD_BYTES, RECORDS_PER_TURN, TAG_BYTES, RecordLayer, RecordTampered

KEYS = b"from here", b"to here"
HEAD = 4 + TAG_BYTES


def both() -> tuple[RecordLayer, RecordLayer]:
    return RecordLayer(*KEYS), RecordLayer(*reversed(KEYS))


@given(st.lists(st.binary(max_size=60)), st.lists(st.integers(1, 50), min_size=1))
def test_data_is_decoded_however_it_is_split(said: list[bytes], cuts: list[int]) -> None:
    here, there = both()
    sent = b"".join(here.encode(each) for each in said)
    heard, at, turn = b"", 0, 0
    while at < len(sent):
        cut = cuts[turn % len(cuts)]
        heard += there.decode(sent[at : at + cut])
        at, turn = at + cut, turn + 1
    assert heard == b"".join(said)


def test_long_data_goes_in_several_records() -> None:
    here, there = both()
    said = bytes(range(256)) * 300
    sent = here.encode(said)
    records = -(-len(said) // RECORD_BYTES)
    assert len(sent) == len(said) + records * HEAD
    assert there.decode(sent) == said
    assert here.encode(b"") == b""


def test_many_short_records_are_decoded_over_several_turns() -> None:
    here, there = both()
    said = bytes(range(256)) * 10
    sent = b"".join(here.encode(said[at : at + 1]) for at in range(len(said)))
    heard = [there.decode(sent[:-1])]
    while there.has_pending:
        heard.append(there.decode(b""))
    heard.append(there.decode(sent[-1:]))
    assert b"".join(heard) == said
    assert {len(each) for each in heard[:-2]} == {RECORDS_PER_TURN}
    assert (there.has_pending, there.decode(b"")) == (False, b"")


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_changed_byte_of_a_record_is_detected(said: bytes, data: st.DataObject) -> None:
    here, there = both()
    sent = bytearray(here.encode(said))
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] ^= data.draw(st.integers(1, 255))
    try:
        heard = there.decode(bytes(sent) + here.encode(bytes(RECORD_BYTES)))
    except RecordTampered:
        heard = b""
    assert heard == b""


def test_dropped_repeated_reordered_or_reflected_records_are_detected() -> None:
    here, _ = both()
    one, two = here.encode(b"one"), here.encode(b"two")
    for sent in (two, one + one, two + one):
        _, there = both()
        with pytest.raises(RecordTampered, match="not what the other member sent"):
            there.decode(sent)
    with pytest.raises(RecordTampered, match="not what the other member sent"):
        both()[0].decode(one)


@pytest.mark.parametrize("length", [0, RECORD_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(RecordTampered, match=f"a record of {length} bytes"):
        both()[0].decode(length.to_bytes(4, "little") + bytes(TAG_BYTES))


def test_every_direction_of_every_stream_has_its_own_key() -> None:
    greetings = [(hello, challenge) for hello in (b"h1", b"h2") for challenge in (b"c1", b"c2")]
    sent = {
        records.encode(b"x")
        for token in ("a", "b")
        for each in greetings
        for records in (Secret(token).caller_records(*each), Secret(token).called_records(*each))
    }
    assert len(sent) == 16
    caller, called = Secret("a").caller_records(b"h", b"c"), Secret("a").called_records(b"h", b"c")
    assert called.decode(caller.encode(b"there")) == b"there"
    assert caller.decode(called.encode(b"and back")) == b"and back"
