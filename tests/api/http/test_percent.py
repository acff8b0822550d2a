"""Percent escapes: the fast way is the slow way, and what is malformed is named."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.http.percent import BadEscapeError, decode

PARTS = st.one_of(
    st.integers(0, 255).map(lambda byte: b"%%%02x" % byte),
    st.integers(0, 255).map(lambda byte: b"%%%02X" % byte),
    st.sampled_from((b"=", b"==", b"=\r\n", b"=\n", b"\r\n", b" \n", b"_", b".", b"=41", b"+", b"a" * 100)),
    st.binary(max_size=3).map(lambda data: data.replace(b"%", b"")),
)


@given(st.lists(PARTS).map(b"".join))
def test_escapes_are_undone_as_the_standard_library_does(text: bytes) -> None:
    assert decode(text) == unquote_to_bytes(text)


@given(st.lists(PARTS).map(b"".join), st.sampled_from((b"%", b"%4", b"%g1", b"%1g", b"%%41", b"%=")), PARTS)
def test_the_first_malformed_escape_is_named(before: bytes, bad: bytes, after: bytes) -> None:
    text = before + bad + b"z" + after
    with pytest.raises(BadEscapeError) as error:
        decode(text)
    assert error.value.escape == text[len(before) : len(before) + 3]


def test_nothing_is_decoded_twice() -> None:
    assert decode(b"%2541%253D=41") == b"%41%3D=41"
