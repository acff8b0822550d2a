"""Chunked bodies: every cut, every frame that is refused, and the bounds on what is not data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.http1.chunked import FRAMING_LIMIT, BodyTooLarge, ChunkedBody
from netstore.net.http1.head import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

LAST = b"0\r\n\r\n"


def read(*pieces: bytes, limit: int = 1 << 20, trailer: int = 100) -> tuple[bytes, bytes]:
    """The body, and what stands behind it."""
    body = ChunkedBody(limit, trailer)
    for number, piece in enumerate(pieces):
        at = body.take(piece, 0)
        if body.ended:
            return body.whole(), piece[at:] + b"".join(pieces[number + 1 :])
    raise AssertionError("the body has no end")


def take_all(body: ChunkedBody, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        body.take(piece, 0)


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=30), st.sampled_from((b"", b";a", b' ; a="b"'))), max_size=6
    ),
    st.sampled_from((b"", b"X: y\r\n", b"Content-Length: 4\r\nHost: z\r\n")),
    st.binary(max_size=8),
    st.data(),
)
def test_chunks_are_joined_whatever_the_cuts(
    chunks: list[tuple[bytes, bytes]], trailer: bytes, behind: bytes, data: st.DataObject
) -> None:
    lines = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part, extension in chunks]
    stream = b"".join(lines) + b"0\r\n" + trailer + b"\r\n" + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*pieces) == (b"".join(part for part, _ in chunks), behind)


@pytest.mark.parametrize(
    "stream",
    [
        b"0x5\r\nvalue\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"\r\n",
        b"10000000000000005\r\nvalue\r\n",
        b"3\r\nvalue\r\n",
        b"5\nvalue\r\n",
        b"5\r\nvalue\n",
        b"5;a\rb\r\nvalue\r\n",
        b"5;a\0\r\nvalue\r\n",
        b"5 a\r\nvalue\r\n",
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
    ],
)
def test_broken_frames_are_refused(stream: bytes) -> None:
    for pieces in ([stream + LAST], [bytes([byte]) for byte in stream + LAST]):
        with pytest.raises(Malformed) as bad:
            read(*pieces)
        assert bad.value.status == 400


def test_a_body_over_the_limit_is_refused_when_it_is_announced() -> None:
    assert read(b"3\r\nabc\r\n" + LAST, limit=3)[0] == b"abc"
    body = ChunkedBody(3, 100)
    body.take(b"2\r\nab\r\n", 0)
    with pytest.raises(BodyTooLarge):
        body.take(b"2\r\n", 0)


def test_an_endless_trailer_is_refused_at_its_limit() -> None:
    whole = b"X: " + b"a" * 93 + b"\r\n\r\n"
    assert read(b"0\r\n" + whole) == (b"", b"")
    for trailer in (b"X: " + b"a" * 94 + b"\r\n\r\n", b"X: " + b"a" * 200, b"X: y\r\n" * 20):
        for pieces in ([trailer], [bytes([byte]) for byte in trailer]):
            body = ChunkedBody(10, 100)
            body.take(b"0\r\n", 0)
            with pytest.raises(Malformed) as bad:
                take_all(body, pieces)
            assert bad.value.status == 431
            assert body.held <= 100


@pytest.mark.parametrize("chunk", [b"1\r\na\r\n", b"1;" + b"x" * 500 + b"\r\na\r\n"])
def test_chunks_that_are_mostly_frame_are_refused(chunk: bytes) -> None:
    body = ChunkedBody(1 << 20, 100)
    take_all(body, [chunk] * (FRAMING_LIMIT // 2 // len(chunk)))
    with pytest.raises(Malformed, match="too little data"):
        take_all(body, [chunk] * (FRAMING_LIMIT * 2 // len(chunk)))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("extension", [0, 1, 2, 3])
def test_how_chunks_are_cut_does_not_change_where_they_are_refused(size: int, extension: int) -> None:
    stream = b"%d;%b\r\n%b\r\n" % (size, b"x" * extension, b"a" * size) * 9000
    places = []
    for step in (len(stream), 1, 7):
        body = ChunkedBody(1 << 20, 100)
        with pytest.raises(Malformed, match="too little data"):
            take_all(body, (stream[at : at + step] for at in range(0, len(stream), step)))
        places.append(body.size)
    assert places[0] == places[1] == places[2]


def test_an_endless_extension_is_refused_at_the_same_bound() -> None:
    body = ChunkedBody(1 << 20, 100)
    with pytest.raises(Malformed, match="too little data"):
        take_all(body, [b"1;" + b"x" * 1000] * 20)
    assert body.held <= FRAMING_LIMIT


def test_small_chunks_with_data_enough_pass() -> None:
    assert read(*[b"a\r\n0123456789\r\n"] * 10_000, LAST)[0] == b"0123456789" * 10_000
