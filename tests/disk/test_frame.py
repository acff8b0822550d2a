"""Framing: what is read back, what never verifies, and that sectors that were not written are recognised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.disk.frame import (
    FRAGMENT,
    HEAD_BYTES,
    SECTOR,
    Flaw,
    Frame,
    Identity,
    Kind,
    Place,
    encode_record,
    find_proof,
    read_frame,
)

IDENTITY = Identity(0xC1, 0xA1)
SEED = IDENTITY.seed(0)
START = Place(0, SEED)

payloads = st.one_of(
    st.binary(max_size=3 * SECTOR),
    st.integers(0, 3 * FRAGMENT).map(bytes),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
)
places = st.integers(0, 4 * SECTOR).map(lambda at: Place(at, 77))


def collect(data: bytes, place: Place) -> tuple[list[bytes], Place, Flaw]:
    """All frames from `place` on."""
    found = []
    while isinstance(frame := read_frame(data, SEED, place), Frame):
        found.append(frame.payload)
        place = frame.after
    return found, place, frame


@given(places, payloads)
def test_a_record_is_read_from_its_frames(place: Place, payload: bytes) -> None:
    data, after = encode_record(SEED, place, Kind.BATCH, payload, 5)
    image = bytes(place.at) + data
    parts, end, flaw = collect(image, place)
    assert b"".join(parts) == payload
    assert (end, flaw) == (after, Flaw.BLANK)
    assert after.at == len(image)


@given(places, payloads)
def test_every_part_in_a_sector_ends_in_a_byte_that_one_bit_cannot_make_zero(
    place: Place, payload: bytes
) -> None:
    data, after = encode_record(SEED, place, Kind.BATCH, payload, 0)
    image = bytes(place.at) + data
    at = place
    while at.at < after.at:
        frame = read_frame(image, SEED, at)
        assert isinstance(frame, Frame)
        stop = frame.after.at
        start = stop - len(frame.payload) - HEAD_BYTES
        assert start // SECTOR == (start + HEAD_BYTES - 1) // SECTOR
        for position in range(start, stop):
            if (position + 1) % SECTOR == 0 or position + 1 in {start + HEAD_BYTES, stop}:
                assert image[position].bit_count() >= 2
        at = frame.after


@given(st.lists(payloads, min_size=2, max_size=4), st.data())
def test_a_frame_verifies_only_in_its_file_at_its_offset_after_its_predecessor(
    records: list[bytes], data: st.DataObject
) -> None:
    image, places, place = b"", [], START
    for payload in records:
        places.append(place)
        part, place = encode_record(SEED, place, Kind.BATCH, payload, 0)
        image += part
    number = data.draw(st.integers(1, len(places) - 1))
    there = places[number]
    assert isinstance(read_frame(image, SEED, there), Frame)
    for seed in (IDENTITY.seed(1), Identity(0xC1, 0xA2).seed(0), Identity(0xC2, 0xA1).seed(0)):
        assert isinstance(read_frame(image, seed, there), Flaw)
    assert isinstance(read_frame(image, SEED, there._replace(chain=there.chain ^ 1)), Flaw)
    moved = image[:SECTOR] + image
    assert isinstance(read_frame(moved, SEED, Place(there.at + SECTOR, there.chain)), Flaw)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_flaw_or_a_frame_and_never_an_exception(image: bytes, at: int) -> None:
    assert isinstance(read_frame(image, SEED, Place(at, 3)), Flaw)
    assert find_proof(image, SEED, at) is None


def test_only_a_head_that_was_synced_beyond_the_flaw_is_a_proof() -> None:
    image, place = encode_record(SEED, START, Kind.BATCH, b"one" * 100, 0)
    middle = place.at
    for synced in (0, middle):
        part, place = encode_record(SEED, place, Kind.BATCH, b"two" * 100, synced)
        image += part
    last = len(image) - 300 - HEAD_BYTES
    assert find_proof(image, SEED, 0) == last
    assert find_proof(image, SEED, middle - 1) == last
    assert find_proof(image, SEED, middle) is None
