"""Random frames: none makes the codec fail, and its counters agree with its streams."""

from __future__ import annotations

import hyperframe.frame
from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    PADDED,
    WITH_PRIORITY,
    frame,
)
from tests.support.h2client import ENDING, OPENING, Wire, block
from tests.support.h2frames import (
    MAX,
    check_counters,
    most_work_of_a_frame,
    setting,
    u32,
)

KINDS = st.integers(0, 10)
FLAGS = st.sampled_from([0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, PADDED, WITH_PRIORITY, 0xFF])
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 7, 9])
PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([block(), block()[:9], u32(0), u32(1), u32(70_000), u32(MAX), bytes(8)]),
    st.sampled_from([bytes(5), b"\0\4" + u32(0), b"\0\4" + u32(500), b"\0\1" + u32(0), bytes(3000)]),
)
ANSWERS = st.sampled_from(["nothing", "whole", "piece", "end", "resume"])


@given(st.lists(st.tuples(KINDS, FLAGS, NUMBERS, PAYLOADS, ANSWERS), max_size=40))
def test_random_frames_are_accepted_or_refused(stream: list[tuple[int, int, int, bytes, str]]) -> None:
    """No frame makes the codec fail, and its counters agree with its streams after each."""
    wire = Wire(hold=True)
    connection = wire.connection
    for kind, flags, target, payload, answer in stream:
        wire.feed(frame(kind, flags, target, payload))
        for echo in list(connection.streams.values()):
            if not echo.open:
                continue
            if answer == "whole":
                echo.put_head(OPENING)
                echo.put_data(b"", bytes(1000))
                echo.put_last(ENDING)
            elif answer == "piece":
                echo.put_data(b"12345", bytes(2000))
            elif answer == "end":
                echo.put_last()
        if answer == "resume":
            connection.resume()
        check_counters(connection)
        sent = wire.sent()
        if not connection.reading:
            assert connection.output.account.held == 0
            assert sent[-1].kind == GOAWAY
            assert not connection.streams
            assert connection.queued == 0
            return


EXTREMES = st.sampled_from([0, 1, 2, 3, 65_535, MAX - 65_535, MAX - 1, MAX, MAX + 1, 2 * MAX, 2**32 - 1])
LENGTHS = st.sampled_from([None, None, None, None, 0, 1, 4, 16_384, 16_385, 2**24 - 1])
BITS = st.sampled_from(
    [b"\x20", b"\x3f\xe1\x1f", b"\x3f\xff\xff\xff\xff\x0f", b"\x82", b"\x80", b"\xbe", b"\xff\x00"]
)
MORE = st.sampled_from(
    [
        b"\xff\xff\xff\xff\xff\xff\x7f",
        b"\x40\x01a\x01b",
        b"\x40\x7f\xff\xff\xff\xff\x0f",
        b"\x00\x81\xff\x00",
        b"\x00\x01x\xff\x80\x7e" + b"\x1c\x64\xd5" * 5_000,
        b"\x40\x02ab\x7f\xf0\x1e" + bytes(b"v" * 4_080),
        b"\x90" * 1_000,
        b"\x82" * 5_000,
        block()[:-3],
        block([(":path", "/\x00")]),
        block([("grpc-timeout", "1" * 5_000)]),
        block([("content-length", "9" * 19)]),
    ]
)
BLOCKS = st.lists(BITS | MORE | st.just(block()) | st.binary(max_size=9), max_size=5).map(b"".join)
SETTINGS_ = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 65_535]), EXTREMES), max_size=4).map(
    lambda pairs: b"".join(name.to_bytes(2, "big") + u32(value) for name, value in pairs)
)
WORDS = st.lists(EXTREMES, max_size=3).map(lambda values: b"".join(map(u32, values)))
WILD = st.tuples(
    st.sampled_from([*range(10), *range(10), 255]),
    FLAGS,
    EXTREMES,
    BLOCKS | SETTINGS_ | WORDS | st.just(bytes(16_000)),
    LENGTHS,
)


def inconsistent_frame(kind: int, flags: int, target: int, payload: bytes, length: int | None) -> bytes:
    """A frame whose length field may be wrong."""
    payload = payload[: http2.MAX_FRAME]
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + u32(target) + payload


@given(
    st.lists(WILD, max_size=20),
    st.lists(st.sampled_from(["", "window", "data", "answer", "second"]), max_size=20),
)
def test_extreme_values_are_accepted_or_refused_with_bounded_work(
    wild: list[tuple[int, int, int, bytes, int | None]], steps: list[str]
) -> None:
    """Nothing is raised, no stream fails, the counters agree, and a turn does no more than its share."""
    wire = Wire(hold=True)
    connection = wire.connection
    for place, each in enumerate(wild):
        step = steps[place] if place < len(steps) else ""
        if step == "window":
            connection.receive(setting(http2.SET_INITIAL_WINDOW, 0))
        elif step == "data" and connection.streams:
            connection.receive(frame(DATA, 0, max(connection.streams), bytes(100)))
        elif step == "answer":
            for stream in [s for s in connection.streams.values() if s.open]:
                stream.put_data(b"", bytes(1000))
        elif step == "second":
            wire.time += 20
            connection.sweep(wire.time)
        connection.receive(inconsistent_frame(*each))
        turns = 1
        assert connection.spent <= http2.TURN_WORK + most_work_of_a_frame()
        while wire.output.run_turn():
            turns += 1
            assert connection.spent <= http2.TURN_WORK + most_work_of_a_frame()
            assert turns < 100
        check_counters(connection)
        if not connection.reading:
            assert not connection.streams
            break
    assert wire.application.failures == []


@given(st.lists(st.tuples(KINDS, FLAGS, NUMBERS, PAYLOADS), max_size=12))
def test_replies_to_random_frames_are_well_formed(
    stream: list[tuple[int, int, int, bytes]],
) -> None:
    wire = Wire()
    for kind, flags, target, payload in stream:
        wire.feed(frame(kind, flags, target, payload))
    for each in wire.sent():
        parsed, length = hyperframe.frame.Frame.parse_frame_header(
            memoryview(frame(each.kind, each.flags, each.stream, each.payload)[:9])
        )
        parsed.parse_body(memoryview(each.payload))
        assert length == len(each.payload)
        assert not isinstance(parsed, hyperframe.frame.ExtensionFrame)
