"""Length-prefixed messages: their framing, and the limits on incomplete ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.unary import UnaryCall
from netstore.net.http2 import frame
from tests.support.grpcwire import (
    GrpcWire,
    message_of,
)


def test_after_a_framing_error_nothing_more_of_the_call_is_parsed() -> None:
    large = b"\0" + (3_000_000).to_bytes(4, "big") + bytes(1000)
    rest = frame(http2.DATA, 0, 1, bytes(1000)) * 3
    for path in ("/a.A/Ask", "/a.A/Keep"):
        wire = GrpcWire()
        first = b"" if path == "/a.A/Ask" else message_of(3)
        wire.feed(wire.call(1, first + large, path=path, end=False) + rest)
        assert wire.trailers(wire.said)["grpc-status"] == "8"
        assert wire.asked == []
        assert wire.kept == ([] if path == "/a.A/Ask" else [bytes(3), b"cancelled"])


def test_incomplete_messages_count_until_they_are_complete_or_given_up() -> None:
    wire = GrpcWire()
    half = message_of(5000)[:3000]
    for number in (1, 3, 5):
        wire.feed(wire.call(number, half, end=False))
    assert wire.connection.held == 9000
    wire.feed(frame(http2.DATA, http2.END_STREAM, 1, bytes(2005)))
    assert wire.connection.held == 6000
    assert [len(message) for _, message in wire.asked] == [5000]
    wire.feed(frame(http2.RST_STREAM, 0, 3, bytes(3) + b"\x08"))
    assert wire.connection.held == 3000
    wire.feed(frame(http2.DATA, http2.END_STREAM, 5, b""))
    assert wire.connection.held == 0
    assert wire.trailers(wire.said)["grpc-status"] == "13"


def test_incomplete_messages_of_a_connection_are_limited() -> None:
    wire = GrpcWire()
    wire.connection.held = http2.HELD_LIMIT
    wire.feed(wire.call(1, message_of(5000)[:3000], end=False))
    assert wire.trailers(wire.said)["grpc-status"] == "8"
    assert wire.connection.held == http2.HELD_LIMIT


def test_complete_messages_of_calls_that_do_not_end_count_as_incomplete() -> None:
    wire = GrpcWire()
    wire.connection.held = http2.HELD_LIMIT
    wire.feed(wire.call(1, message_of(5000), end=False))
    assert wire.trailers(wire.said)["grpc-status"] == "8"
    assert wire.connection.held == http2.HELD_LIMIT


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.lists(st.integers(0, 400), max_size=9))
def test_messages_of_a_stream_are_decoded_however_they_are_split(sizes: list[int], cuts: list[int]) -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, b"", path="/a.A/Keep", end=False))
    messages = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
    stream = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)
    for cut in cuts:
        if stream[:cut]:
            wire.feed(frame(http2.DATA, 0, 1, stream[:cut]))
        stream = stream[cut:]
    wire.feed(frame(http2.DATA, http2.END_STREAM, 1, stream))
    assert wire.kept == [*messages, b"end"]
    assert wire.connection.held == 0


def test_incomplete_messages_have_a_lower_limit_once_memory_is_spent() -> None:
    wire = GrpcWire()
    wire.connection.held = http2.HELD_LIMIT_OVER
    wire.output.account.charge(1 << 31)
    wire.feed(wire.call(1, message_of(5000)[:3000], end=False))
    assert wire.trailers(wire.said)["grpc-status"] == "8"


LENGTHS = st.sampled_from([0, 1, 5, 2_097_152, 2_097_153, 2**31 - 1, 2**31, 2**32 - 1])
WILD = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 255]),
        LENGTHS,
        st.binary(max_size=12) | st.just(bytes(16_000)),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(
    WILD,
    st.sampled_from(["/a.A/Ask", "/a.A/Keep", "/a.A/None"]),
    st.sampled_from(["", "99999999H", "0n", "-1S"]),
)
def test_extreme_lengths_of_messages_are_accepted_or_refused(
    wild: list[tuple[int, int, bytes, bool]], path: str, limit: str
) -> None:
    wire = GrpcWire()
    more = [("grpc-timeout", limit)] if limit else []
    wire.feed(wire.call(1, b"", *more, path=path, end=False))
    for flag, length, data, end in wild:
        prefix = bytes((flag,)) + length.to_bytes(4, "big")
        wire.feed(frame(http2.DATA, http2.END_STREAM if end else 0, 1, prefix + data))
        wire.time += 1
        wire.run_due()
        wire.connection.sweep(wire.time)
        assert wire.connection.held <= 2_097_157
        if wire.connection.streams:
            stream = wire.connection.streams[1]
            assert isinstance(stream, GrpcCall)
            buffered = len(stream.partial) if stream.partial is not None else 0
            if isinstance(stream, UnaryCall) and stream._message is not None:
                buffered = len(stream._message) + 5
            assert wire.connection.held == (0 if stream.claim is not None else buffered)
            assert wire.connection.unfinished == (stream.since is not None)
        else:
            assert (wire.connection.held, wire.connection.unfinished) == (0, 0)
    wire.connection.gone()
    assert wire.log.events == []
    assert wire.connection.held == wire.output.account.promised == 0
    assert len(wire.server._timed) == 0
