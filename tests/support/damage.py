"""Damaged bytes, for decoders that must detect it."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def with_flipped_bit(draw: st.DrawFn, data: bytes) -> bytes:
    """These bytes with one bit changed."""
    flipped = bytearray(data)
    place = draw(st.integers(0, len(data) * 8 - 1))
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)
