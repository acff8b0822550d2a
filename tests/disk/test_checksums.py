"""A record verifies under its own key of its own database, unchanged, and not otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c, u32
from netstore.disk.checksums import CHECK_BYTES, JOINED_BYTES, add_checksum, database_seed, is_intact

SEED = database_seed("plain")
values = st.one_of(st.binary(max_size=40), st.integers(-9, 9).map(lambda more: b"v" * (JOINED_BYTES + more)))


@given(st.binary(max_size=20), values)
def test_a_record_has_the_checksum_of_database_length_of_key_key_and_value(key: bytes, value: bytes) -> None:
    check = crc32c(key + value, SEED ^ len(key))
    assert add_checksum(SEED, key, value) == (value + u32(check), check)
    assert is_intact(SEED, key, value + u32(check))


@given(st.binary(max_size=20), values, st.data())
def test_a_changed_or_moved_record_does_not_verify(key: bytes, value: bytes, data: st.DataObject) -> None:
    stored, _ = add_checksum(SEED, key, value)
    assert len(stored) == len(value) + CHECK_BYTES
    assert not is_intact(database_seed("other"), key, stored)
    assert not is_intact(SEED, key + b"x", stored)
    at = data.draw(st.integers(0, len(stored) - 1))
    flipped = stored[at] ^ 1 << data.draw(st.integers(0, 7))
    assert not is_intact(SEED, key, stored[:at] + bytes((flipped,)) + stored[at + 1 :])


def test_a_byte_that_moved_between_key_and_value_does_not_verify() -> None:
    stored, _ = add_checksum(SEED, b"ab", b"c")
    assert not is_intact(SEED, b"a", b"b" + stored)
