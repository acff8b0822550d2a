"""Paths: decoding once, and where an unclean one is sent."""

from __future__ import annotations

import posixpath
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.http.paths import clean_path
from netstore.api.http.percent import decode

SEGMENTS = st.lists(
    st.sampled_from((b"a", b".", b"..", b"", b"...", b".a", b"a.", b"x y", b"\xff", b"?")), max_size=6
)


def clean_twin(decoded: bytes) -> bytes | None:
    """What Go's mux does, in terms of the standard library."""
    cleaned = posixpath.normpath(decoded)
    cleaned = b"/" + cleaned.lstrip(b"/")
    if decoded.endswith(b"/") and cleaned != b"/":
        cleaned += b"/"
    return None if cleaned == decoded else cleaned


@given(SEGMENTS, st.booleans())
def test_unclean_paths_are_sent_to_their_clean_form(names: list[bytes], every_byte: bool) -> None:
    decoded = b"/" + b"/".join(names)
    raw = (
        b"".join(b"%%%02X" % byte if byte != ord("/") else b"/" for byte in decoded)
        if every_byte
        else quote_from_bytes(decoded).encode()
    )
    location = clean_path(raw)
    wanted = clean_twin(decoded)
    assert (None if location is None else unquote_to_bytes(location)) == wanted
    if location is not None:
        assert clean_path(location) is None
        assert location.isascii()


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        (b"/v2/keys/a", None),
        (b"/v2/keys/a/", None),
        (b"/v2/keys/..a/.b/c../d.", None),
        (b"/v2/keys//a", b"/v2/keys/a"),
        (b"/v2/keys/a/..", b"/v2/keys"),
        (b"/v2/keys/a/../", b"/v2/keys/"),
        (b"/v2/keys/./a/", b"/v2/keys/a/"),
        (b"/v2/keys/%2e%2e/x", b"/v2/x"),
        (b"/v2/keys/a%2F%2Fb", b"/v2/keys/a/b"),
        (b"/../../..", b"/"),
        (b"//%3F%23%20~$&+,:;=@!*'()", b"/%3F%23%20~$&+,:;=@%21%2A%27%28%29"),
        (b"//\xc3\xa9", b"/%C3%A9"),
    ],
)
def test_locations(raw: bytes, location: bytes | None) -> None:
    assert clean_path(raw) == location


@pytest.mark.parametrize("raw", [b"/%", b"/%1", b"/%zz", b"//%g0", b"/a%2"])
def test_malformed_escapes_have_no_meaning(raw: bytes) -> None:
    for function in (decode, clean_path):
        with pytest.raises(ValueError, match="hexadecimal"):
            function(raw)


def test_a_path_is_decoded_once_and_plus_is_plus() -> None:
    assert decode(b"/a+b%2Bc%252F%00%ff") == b"/a+b+c%2F\x00\xff"
