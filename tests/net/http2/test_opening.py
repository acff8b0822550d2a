"""Header blocks and the streams they open, with their limits."""

from __future__ import annotations

from netstore.net import http2
from netstore.net.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    frame,
)
from tests.support.h2client import Wire, block
from tests.support.h2frames import (
    CALM,
    with_fields,
)


def test_a_refused_request_still_updates_the_dynamic_table() -> None:
    wire = Wire()
    whole = END_HEADERS | END_STREAM
    refused = wire.compressed(with_fields(("x-kept", "value"), ("connection", "close")))
    wire.feed(frame(HEADERS, whole, 1, refused))
    assert wire.verdict() == ("stream", http2.PROTOCOL_ERROR)
    wire.feed(frame(HEADERS, whole, 3, wire.compressed(with_fields(("x-kept", "value")))))
    assert wire.application.streams[3].head.field(b"x-kept") == b"value"


def test_the_number_of_incomplete_requests_is_limited() -> None:
    wire = Wire(hold=True)
    last = 2 * http2.MAX_UNFINISHED + 1
    for n in range(1, last, 2):
        wire.feed(wire.request(n, end=False))
    assert wire.verdict() is None
    wire.feed(wire.request(last, end=False))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    wire.feed(wire.request(last + 2), frame(DATA, END_STREAM, 1, b"x"), wire.request(last + 4, end=False))
    assert wire.verdict() is None
    streams = http2.STREAM_COST * (http2.MAX_UNFINISHED + 2)
    assert wire.connection.output.account.held == streams + wire.connection.blocks.held


def test_a_connection_with_many_streams_gets_no_new_ones_once_memory_is_spent() -> None:
    """Streams are charged as `Account.lasting`; open ones go on, and connections with few open new ones."""
    wire = Wire(hold=True)
    account = wire.connection.output.account
    last = 2 * http2.MAX_STREAMS_OVER - 1
    for n in range(1, last, 2):
        wire.feed(wire.request(n))
    streams = http2.STREAM_COST * (http2.MAX_STREAMS_OVER - 1)
    assert account.lasting == account.held == streams + wire.connection.blocks.held
    account.charge(1 << 40)
    wire.feed(wire.request(last))
    assert wire.verdict() is None
    wire.feed(wire.request(last + 2))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    account.charge(-(1 << 40))
    wire.feed(wire.request(last + 4))
    assert wire.verdict() is None


def test_header_blocks_are_limited_in_frames_and_bytes() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, block()), *[frame(CONTINUATION, 0, 1, b"")] * 17)
    assert wire.verdict() == ("connection", CALM)
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, bytes(16_384)), *[frame(CONTINUATION, 0, 1, bytes(16_384))] * 4)
    assert wire.verdict() == ("connection", CALM)


def test_a_header_list_is_limited_by_its_decoded_size() -> None:
    """One entry of 4,000 bytes, referenced again and again."""
    wire = Wire()
    first = wire.compressed(with_fields(("bomb", "x" * 4_000)))
    wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, first + b"\xbe" * 15))
    assert wire.verdict() is None
    wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, 3, block() + b"\xbe" * 17))
    assert wire.verdict() == ("connection", CALM)


def test_streams_beyond_the_limit_are_refused() -> None:
    wire = Wire(hold=True, max_streams=2)
    wire.feed(wire.request(1), wire.request(3), wire.request(5))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    wire.application.streams[1].answer()
    wire.feed(wire.request(7))
    assert [n for n, _, _ in wire.application.handed] == [1, 3, 7]


def test_the_varying_field_is_not_part_of_the_cached_head() -> None:
    wire = Wire()
    for n, value in ((1, "1S"), (3, "2S")):
        wire.feed(wire.request(n, b"", with_fields(("grpc-timeout", value))))
    wire.feed(wire.request(5))
    assert wire.application.timeouts == [b"1S", b"2S", None]
    heads = {id(stream.head) for stream in wire.application.streams.values()}
    assert len(heads) == 1
