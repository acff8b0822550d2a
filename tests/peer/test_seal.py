"""Records between members: what was said comes out, and nothing that somebody on the way makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.peer.handshake import Secret
from netstore.peer.seal import OPENED_RECORDS, RECORD_BYTES, TAG_BYTES, Altered, Seal

KEYS = b"from here", b"to here"
HEAD = 4 + TAG_BYTES


def both() -> tuple[Seal, Seal]:
    return Seal(*KEYS), Seal(*reversed(KEYS))


@given(st.lists(st.binary(max_size=60)), st.lists(st.integers(1, 50), min_size=1))
def test_what_was_said_comes_out_however_it_is_cut(said: list[bytes], cuts: list[int]) -> None:
    here, there = both()
    sent = b"".join(here.close(each) for each in said)
    heard, at, turn = b"", 0, 0
    while at < len(sent):
        cut = cuts[turn % len(cuts)]
        heard += there.open(sent[at : at + cut])
        at, turn = at + cut, turn + 1
    assert heard == b"".join(said)


def test_what_is_long_goes_in_several_records() -> None:
    here, there = both()
    said = bytes(range(256)) * 300
    sent = here.close(said)
    records = -(-len(said) // RECORD_BYTES)
    assert len(sent) == len(said) + records * HEAD
    assert there.open(sent) == said
    assert here.close(b"") == b""


def test_records_that_are_short_are_taken_turn_by_turn() -> None:
    here, there = both()
    said = bytes(range(256)) * 10
    sent = b"".join(here.close(said[at : at + 1]) for at in range(len(said)))
    heard = [there.open(sent[:-1])]
    while there.more:
        heard.append(there.open(b""))
    heard.append(there.open(sent[-1:]))
    assert b"".join(heard) == said
    assert {len(each) for each in heard[:-2]} == {OPENED_RECORDS}
    assert (there.more, there.open(b"")) == (False, b"")


@given(st.binary(min_size=1, max_size=40), st.data())
def test_nothing_of_a_record_can_be_changed(said: bytes, data: st.DataObject) -> None:
    here, there = both()
    sent = bytearray(here.close(said))
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] ^= data.draw(st.integers(1, 255))
    try:
        heard = there.open(bytes(sent) + here.close(bytes(RECORD_BYTES)))
    except Altered:
        heard = b""
    assert heard == b""


def test_records_are_not_left_out_repeated_moved_or_sent_back() -> None:
    here, _ = both()
    one, two = here.close(b"one"), here.close(b"two")
    for sent in (two, one + one, two + one):
        _, there = both()
        with pytest.raises(Altered, match="not what the other member sent"):
            there.open(sent)
    with pytest.raises(Altered, match="not what the other member sent"):
        both()[0].open(one)


@pytest.mark.parametrize("length", [0, RECORD_BYTES + 1, 2**32 - 1])
def test_no_length_is_believed_beyond_its_limit(length: int) -> None:
    with pytest.raises(Altered, match=f"a record of {length} bytes"):
        both()[0].open(length.to_bytes(4, "little") + bytes(TAG_BYTES))


def test_no_two_streams_have_the_same_keys() -> None:
    greetings = [(hello, challenge) for hello in (b"h1", b"h2") for challenge in (b"c1", b"c2")]
    sent = {
        seal.close(b"x")
        for token in ("a", "b")
        for each in greetings
        for seal in (Secret(token).caller_seal(*each), Secret(token).called_seal(*each))
    }
    assert len(sent) == 16
    caller, called = Secret("a").caller_seal(b"h", b"c"), Secret("a").called_seal(b"h", b"c")
    assert called.open(caller.close(b"there")) == b"there"
    assert caller.open(called.close(b"and back")) == b"and back"
