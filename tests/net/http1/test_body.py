"""A body that arrives in pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.exchange import Request
from netstore.net.http1.body import IncompleteBody
from netstore.net.http1.chunked import BodyTooLarge
from netstore.net.http1.head import CHUNKED, Head
from netstore.net.http1.server import Http1Server

SERVER = Http1Server(lambda _: None, body_limit=100)


def begun(length: int) -> IncompleteBody:
    return IncompleteBody(Head(Request(b"PUT", b"/a"), length, False), SERVER)


@given(st.binary(min_size=1, max_size=100), st.lists(st.integers(0, 100), max_size=5), st.booleans())
def test_a_body_is_the_same_however_it_is_cut(data: bytes, cuts: list[int], chunked: bool) -> None:
    wire = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    body = begun(CHUNKED if chunked else len(data))
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for start, end in pairwise(places):
        assert body.whole() is None
        piece = wire[start:end] + (b"GET" if end == len(wire) else b"")
        assert body.take(b"xx" + piece, 2) == 2 + end - start
    assert body.whole() == data
    assert (body.is_chunked, body.held) == (chunked, len(data))


def test_a_chunked_body_beyond_the_limit_is_refused_before_its_data() -> None:
    body = begun(CHUNKED)
    with pytest.raises(BodyTooLarge):
        body.take(b"65\r\n", 0)
