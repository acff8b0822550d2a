"""Numbers, prefixes and checksums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore import codec
from netstore.codec import Malformed

U64 = st.integers(0, 2**64 - 1)


def slow_crc32c(data: bytes) -> int:
    """The definition, bit by bit (reflected polynomial 0x82F63B78)."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


@given(U64, st.binary(max_size=3))
def test_a_varint_comes_back_and_says_where_it_ends(number: int, behind: bytes) -> None:
    data = codec.varint(number)
    assert codec.read_varint(data + behind, 0) == (number, len(data))
    assert len(data) <= codec.MAX_VARINT_BYTES


@given(st.binary(max_size=12))
def test_any_bytes_are_the_one_encoding_of_a_number_or_malformed(data: bytes) -> None:
    try:
        number, end = codec.read_varint(data, 0)
    except Malformed:
        return
    assert codec.varint(number) == data[:end]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_out_of_range_is_no_varint(number: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        codec.varint(number)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x81\x80\x00"]
)
def test_a_varint_cut_short_padded_or_too_long_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        codec.read_varint(data, 0)


@given(st.binary(max_size=300), st.binary(max_size=3))
def test_prefixed_bytes_come_back_and_cut_short_are_malformed(data: bytes, behind: bytes) -> None:
    whole = codec.prefixed(data)
    assert codec.read_prefixed(whole + behind, 0) == (data, len(whole))
    with pytest.raises(Malformed):
        codec.read_prefixed(whole[:-1], 0)


@given(U64)
def test_fixed_numbers_come_back(number: int) -> None:
    assert codec.read_u64(b"x" + codec.u64(number), 1) == (number, 9)
    assert codec.read_u32(codec.u32(number >> 32), 0) == (number >> 32, 4)


def test_fixed_numbers_cut_short_are_malformed() -> None:
    with pytest.raises(Malformed):
        codec.read_u32(b"123", 0)
    with pytest.raises(Malformed):
        codec.read_u64(b"1234567", 0)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_crc32c_is_the_defined_one_and_goes_on(start: bytes, rest: bytes) -> None:
    assert codec.crc32c(start) == slow_crc32c(start)
    assert codec.crc32c(rest, codec.crc32c(start)) == slow_crc32c(start + rest)


def test_crc32c_of_thirty_two_zeros_is_what_rfc_3720_says() -> None:
    assert codec.u32(codec.crc32c(bytes(32))).hex() == "aa36918a"
