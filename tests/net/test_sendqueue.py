"""What is left of a piece, and how much of it stays in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.sendqueue import rest_of


@given(st.binary(min_size=1, max_size=300), st.lists(st.floats(0, 1), max_size=12))
def test_the_rest_is_the_same_and_holds_no_more_than_twice_its_size(piece: bytes, cuts: list[float]) -> None:
    rest: bytes | memoryview = piece
    expected, copied = piece, 0
    for cut in cuts:
        start = int(cut * len(expected))
        before, rest, expected = rest, rest_of(rest, start), expected[start:]
        assert rest == expected
        held = len(rest.obj) if isinstance(rest, memoryview) else len(rest)  # type: ignore[arg-type]
        assert held <= 2 * len(expected)
        if isinstance(rest, bytes) and rest is not before:
            copied += len(rest)
    assert copied <= len(piece)
