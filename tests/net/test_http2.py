"""The HTTP/2 codec: judged by h2, held to RFC 9113 rule by rule, and flooded."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import h2.events
import hyperframe.frame
import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.exchange import LOW_WATER
from netstore.net.hpackcache import FIELD_COST, HUFFMAN_LIMIT, kept_size
from netstore.net.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    frame,
)
from netstore.net.http2.charging import charge
from netstore.net.http2.flow import await_drain
from netstore.net.tokenbucket import TokenBucket
from tests.support.h2client import ENDING, OPENING, REQUEST, Judged, Wire, block, fields, frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.http2 import Http2Connection

MAX = 2**31 - 1
PATTERN = bytes(range(251)) * 160
CALM = http2.ENHANCE_YOUR_CALM


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + number(value))


# --- judged by h2


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    st.lists(st.sampled_from([1, 7, 9, 10, 1_000, 16_383, 16_393, 40_000]), min_size=1, max_size=8),
    st.sampled_from([1, 100, 16_383, 65_535, 1_000_000]),
    st.sampled_from([16_384, 20_000, 1_000_000]),
    st.sampled_from([0, 100, 4096]),
)
def test_h2_agrees_whatever_the_cuts_sizes_and_settings(
    sizes: list[int], cuts: list[int], window: int, largest: int, table: int
) -> None:
    def cut(data: bytes) -> Iterable[bytes]:
        turn = 0
        while data:
            size = cuts[turn] if turn < len(cuts) else 5_000
            yield data[:size]
            data = data[size:]
            turn += 1

    bodies = [PATTERN[:size] for size in sizes]
    if window == 1:
        bodies = [body[:40] for body in bodies]
    judged = Judged(
        settings={
            SettingCodes.INITIAL_WINDOW_SIZE: window,
            SettingCodes.MAX_FRAME_SIZE: largest,
            SettingCodes.HEADER_TABLE_SIZE: table,
            SettingCodes.ENABLE_PUSH: 0,
        },
        cut=cut,
    )
    asked = {judged.ask(body): body for body in bodies}
    judged.settle()
    assert judged.ended == set(asked)
    assert {number: judged.bodies.get(number, b"") for number in asked} == asked
    assert not judged.connection.streams
    assert judged.connection.queued == 0
    trailers = [e for e in judged.events if isinstance(e, h2.events.TrailersReceived)]
    assert len(trailers) == len(asked)


def test_h2_sees_a_padded_request_with_priority_and_trailers() -> None:
    judged = Judged()
    client = judged.client
    client.send_headers(1, REQUEST, priority_weight=7, priority_depends_on=0)
    client.send_data(1, b"body", pad_length=255)
    client.prioritize(1, weight=3)
    client.send_headers(1, [("some", "trailer")], end_stream=True)
    judged.settle()
    assert judged.bodies == {1: b"body"}
    assert judged.ended == {1}


def test_h2_sees_its_pings_answered() -> None:
    judged = Judged()
    judged.client.ping(b"12345678")
    judged.settle()
    assert [e.ping_data for e in judged.events if isinstance(e, h2.events.PingAckReceived)] == [b"12345678"]


def test_an_answer_before_the_end_of_the_request_resets_without_blame() -> None:
    judged = Judged(hold=True)
    judged.client.send_headers(1, REQUEST)
    judged.client.send_data(1, b"some")
    judged.settle()
    judged.application.streams[1].answer(b"enough")
    judged.settle()
    assert judged.bodies == {1: b"enough"}
    assert judged.resets == {1: http2.NO_ERROR}


def test_our_settings_say_what_we_keep_to() -> None:
    sent = frames(Wire(greet=False).output.sent)
    assert [each.kind for each in sent] == [SETTINGS, WINDOW_UPDATE]
    judged = Judged().settle()
    remote = judged.client.remote_settings
    assert remote.initial_window_size == http2.STREAM_WINDOW
    assert remote.max_concurrent_streams == http2.MAX_STREAMS
    assert remote.max_header_list_size == http2.LIST_LIMIT
    assert judged.client.outbound_flow_control_window == http2.CONNECTION_WINDOW


# --- the cut of the bytes


@given(st.data())
def test_the_cut_of_the_bytes_does_not_matter(data: st.DataObject) -> None:
    one, other = Wire(greet=False), Wire(greet=False)
    stream = b"".join(
        (
            PREFACE,
            setting(http2.SET_INITIAL_WINDOW, 100_000),
            one.request(1, b"first" * 10),
            frame(PING, 0, 0, b"abcdefgh"),
            one.request(3, b"x" * 20_000),
            frame(HEADERS, END_STREAM, 5, block()[:2]),
            frame(CONTINUATION, END_HEADERS, 5, block()[2:]),
            frame(99, 3, 5, b"unknown"),
            one.request(7, b"left open", end=False),
            frame(RST_STREAM, 0, 7, number(http2.CANCEL)),
        )
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    one.feed(stream)
    other.feed(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a != b))
    assert other.application.handed == one.application.handed
    assert [n for n, _, _ in one.application.handed] == [1, 3, 5]
    kinds = [each for each in other.sent() if each.kind != WINDOW_UPDATE]
    assert sorted(kinds, key=repr) == sorted((e for e in one.sent() if e.kind != WINDOW_UPDATE), key=repr)
    assert not other.connection.waiting


def test_byte_by_byte() -> None:
    wire = Wire(greet=False)
    stream = PREFACE + frame(SETTINGS, 0, 0) + wire.request(1, b"hello")
    wire.feed(*(stream[i : i + 1] for i in range(len(stream))))
    assert wire.application.handed == [(1, b"/echo", b"hello")]


def test_all_frames_of_a_read_are_parsed_before_anything_is_handled() -> None:
    """A request that is reset in the same read is never seen by its handler."""
    wire = Wire()
    wire.feed(wire.request(1, b"x") + frame(RST_STREAM, 0, 1, number(http2.CANCEL)) + wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [3]


KINDS = st.integers(0, 10)
FLAGS = st.sampled_from([0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, PADDED, WITH_PRIORITY, 0xFF])
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 7, 9])
PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([block(), block()[:9], number(0), number(1), number(70_000), number(MAX), bytes(8)]),
    st.sampled_from([bytes(5), b"\0\4" + number(0), b"\0\4" + number(500), b"\0\1" + number(0), bytes(3000)]),
)
ANSWERS = st.sampled_from(["nothing", "whole", "piece", "end", "resume"])


def check_books(connection: Http2Connection) -> None:
    """What is kept beside the streams agrees with them."""
    streams = list(connection.streams.values())
    assert connection.queued == sum(each.queued for each in streams)
    assert all(each.queued >= 0 for each in streams)
    assert connection.answers == sum(each.queued for each in streams if each.patient)
    assert connection.window >= 0
    assert all(each.credit <= connection.max_credit for each in streams)
    for each in streams:
        if each.queued:
            assert each.sending is not (each in connection.blocked), "it has one place to wait in"
            assert not each.sending or each in connection.senders
            assert each.sending or each.window <= 0, "who may send is not passed over"
    assert all(each.queued and connection.streams.get(each.number) is each for each in connection.blocked)
    assert connection.unfinished == sum(each.since is not None for each in streams)
    assert all((each.since is None) is each.half_closed for each in streams)
    charge(connection)
    kept = connection.queued + connection.held + http2.STREAM_COST * len(streams) + len(connection.unparsed)
    kept += len(connection.partial_block or b"") + connection.blocks.held
    assert connection.output.account.held == kept


@given(st.lists(st.tuples(KINDS, FLAGS, NUMBERS, PAYLOADS, ANSWERS), max_size=40))
def test_whatever_comes_is_taken_or_refused(stream: list[tuple[int, int, int, bytes, str]]) -> None:
    """No frame makes the codec fail, and its books agree with its streams after each."""
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
        check_books(connection)
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
    lambda pairs: b"".join(name.to_bytes(2, "big") + number(value) for name, value in pairs)
)
WORDS = st.lists(EXTREMES, max_size=3).map(lambda values: b"".join(map(number, values)))
WILD = st.tuples(
    st.sampled_from([*range(10), *range(10), 255]),
    FLAGS,
    EXTREMES,
    BLOCKS | SETTINGS_ | WORDS | st.just(bytes(16_000)),
    LENGTHS,
)


def wild_frame(kind: int, flags: int, target: int, payload: bytes, length: int | None) -> bytes:
    """A frame that says what it likes about itself."""
    payload = payload[: http2.MAX_FRAME]
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + number(target) + payload


@given(
    st.lists(WILD, max_size=20),
    st.lists(st.sampled_from(["", "window", "data", "answer", "second"]), max_size=20),
)
def test_extreme_values_are_taken_or_refused_with_bounded_work(
    wild: list[tuple[int, int, int, bytes, int | None]], steps: list[str]
) -> None:
    """Nothing is raised, no stream fails, the books agree, and a turn has its share of work and no more."""
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
        connection.receive(wild_frame(*each))
        turns = 1
        assert connection.spent <= http2.SLICE + most_of_a_frame()
        while wire.output.run_turn():
            turns += 1
            assert connection.spent <= http2.SLICE + most_of_a_frame()
            assert turns < 100
        check_books(connection)
        if not connection.reading:
            assert not connection.streams
            break
    assert wire.application.failures == []


@given(st.lists(st.tuples(KINDS, FLAGS, NUMBERS, PAYLOADS), max_size=12))
def test_h2_understands_what_is_said_to_whatever_came(stream: list[tuple[int, int, int, bytes]]) -> None:
    """Every frame we send is well formed, also to a peer that is not."""
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


# --- errors (RFC 9113)


def malformed(*headers: tuple[str, str]) -> list[tuple[str, str]]:
    return [*REQUEST, *headers]


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in REQUEST if field[0] != name]


def replaced(name: str, value: str) -> list[tuple[str, str]]:
    return [(key, value if key == name else old) for key, old in REQUEST]


STREAM_ERRORS: dict[str, tuple[int, Any]] = {
    "8.2.1 an upper-case name": (1, malformed(("X-Upper", "1"))),
    "8.2.1 a space in a name": (1, malformed(("x y", "1"))),
    "8.2.1 an empty name": (1, malformed(("", "1"))),
    "8.2.1 a line end in a value": (1, malformed(("x", "a\r\nb"))),
    "8.2.1 a zero in a value": (1, malformed(("x", "a\0b"))),
    "8.2.1 a space before a value": (1, malformed(("x", " a"))),
    "8.3.1 a line end in the path": (1, replaced(":path", "/a?x\r\nset-cookie: evil=1")),
    "8.3.1 a zero in the path": (1, replaced(":path", "/a\0")),
    "8.3.1 a space in the path": (1, replaced(":path", "/a b")),
    "8.3.1 a line end in the authority": (1, replaced(":authority", "a\nb")),
    "8.3.1 a space in the authority": (1, replaced(":authority", "a b")),
    "8.3.1 a tab in the scheme": (1, replaced(":scheme", "http\t")),
    "8.3 a varying field before the path": (1, [("grpc-timeout", "1S"), *REQUEST]),
    "8.2.2 connection": (1, malformed(("connection", "close"))),
    "8.2.2 transfer-encoding": (1, malformed(("transfer-encoding", "chunked"))),
    "8.2.2 te": (1, [*without("te"), ("te", "gzip")]),
    "8.3 an unknown pseudo-header field": (1, [(":odd", "1"), *REQUEST]),
    "8.3 one of an answer": (1, [(":status", "200"), *REQUEST]),
    "8.3 one after a field": (1, [*without(":path"), (":path", "/")]),
    "8.3.1 no method": (1, without(":method")),
    "8.3.1 no scheme": (1, without(":scheme")),
    "8.3.1 no path": (1, without(":path")),
    "8.3.1 an empty path": (1, [*without(":path")[:2], (":path", ""), *without(":path")[2:]]),
    "8.3.1 two paths": (1, [(":path", "/"), *REQUEST]),
    "8.1.1 content-length of letters": (1, malformed(("content-length", "a"))),
    "8.1.1 two content-lengths": (1, malformed(("content-length", "1"), ("content-length", "2"))),
    "8.1.1 content-length of no body": (1, malformed(("content-length", "1"))),
}


@pytest.mark.parametrize("rule", STREAM_ERRORS)
def test_a_malformed_request_is_reset_and_the_connection_stays(rule: str) -> None:
    code, headers = STREAM_ERRORS[rule]
    wire = Wire()
    wire.feed(wire.request(1, b"", headers))
    assert wire.verdict() == ("stream", code)
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


def violation(rule: str, wire: Wire) -> bytes:
    """The bytes that break a rule, on a connection that has sent its preface."""
    match rule:
        case "4.2 a frame too large":
            return frame(DATA, 0, 1, bytes(16_385))
        case "4.3 a block that ends early":
            return frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40")
        case "4.3 an entry that is not there":
            return frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\x20")
        case "4.3 a table larger than allowed":
            return frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x3f\xe1\x7f" + block())
        case "5.1 idle: DATA":
            return frame(DATA, END_STREAM, 1, b"x")
        case "5.1 idle: RST_STREAM":
            return frame(RST_STREAM, 0, 1, number(8))
        case "5.1 idle: WINDOW_UPDATE":
            return frame(WINDOW_UPDATE, 0, 1, number(8))
        case "5.1 half closed: DATA":
            return wire.request(1) + frame(DATA, 0, 1, b"x")
        case "5.1 half closed: HEADERS":
            return wire.request(1) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block())
        case "5.1 reset by the client: DATA":
            return wire.request(1, end=False) + frame(RST_STREAM, 0, 1, number(8)) + frame(DATA, 0, 1, b"x")
        case "5.1.1 an even stream":
            return frame(HEADERS, END_HEADERS | END_STREAM, 2, block())
        case "5.1.1 a stream passed over":
            return wire.request(5) + frame(HEADERS, END_HEADERS | END_STREAM, 3, block())
        case "5.1.1 DATA on stream 0":
            return frame(DATA, END_STREAM, 0, b"x")
        case "5.1.1 HEADERS on stream 0":
            return frame(HEADERS, END_HEADERS | END_STREAM, 0, block())
        case "6.1 more padding than payload":
            return wire.request(1, end=False) + frame(DATA, PADDED, 1, b"\x05abc")
        case "6.1 padded without a length":
            return wire.request(1, end=False) + frame(DATA, PADDED, 1, b"")
        case "6.2 more padding than block":
            return frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block())
        case "6.2 a priority cut short":
            return frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"abcd")
        case "6.2 a block interrupted":
            return frame(HEADERS, 0, 1, block()) + frame(PING, 0, 0, bytes(8))
        case "6.2 a block of another stream":
            return frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, END_HEADERS, 3, b"")
        case "6.3 PRIORITY on stream 0":
            return frame(PRIORITY, 0, 0, bytes(5))
        case "6.3 PRIORITY of 4 bytes":
            return wire.request(1, end=False) + frame(PRIORITY, 0, 1, bytes(4))
        case "6.4 RST_STREAM on stream 0":
            return frame(RST_STREAM, 0, 0, number(8))
        case "6.4 RST_STREAM of 3 bytes":
            return wire.request(1, end=False) + frame(RST_STREAM, 0, 1, bytes(3))
        case "6.5 SETTINGS on a stream":
            return frame(SETTINGS, 0, 1)
        case "6.5 SETTINGS of 5 bytes":
            return frame(SETTINGS, 0, 0, bytes(5))
        case "6.5 an acknowledgement with settings":
            return frame(SETTINGS, ACK, 0, bytes(6))
        case "6.5.2 ENABLE_PUSH of 2":
            return setting(http2.SET_ENABLE_PUSH, 2)
        case "6.5.2 an initial window too large":
            return setting(http2.SET_INITIAL_WINDOW, 2**31)
        case "6.5.2 a frame limit too small":
            return setting(http2.SET_MAX_FRAME, 16_383)
        case "6.5.2 a frame limit too large":
            return setting(http2.SET_MAX_FRAME, 2**24)
        case "6.6 a client that pushes":
            return wire.request(1, end=False) + frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + block())
        case "6.7 PING on a stream":
            return frame(PING, 0, 1, bytes(8))
        case "6.7 PING of 7 bytes":
            return frame(PING, 0, 0, bytes(7))
        case "6.8 GOAWAY on a stream":
            return frame(GOAWAY, 0, 1, bytes(8))
        case "6.8 GOAWAY of 7 bytes":
            return frame(GOAWAY, 0, 0, bytes(7))
        case "6.9 WINDOW_UPDATE of 3 bytes":
            return frame(WINDOW_UPDATE, 0, 0, bytes(3))
        case "6.9 a connection's window by 0":
            return frame(WINDOW_UPDATE, 0, 0, number(0))
        case "6.9 a stream's window by 0":
            return wire.request(1, end=False) + frame(WINDOW_UPDATE, 0, 1, number(0))
        case "6.9.1 a connection's window too large":
            return frame(WINDOW_UPDATE, 0, 0, number(MAX))
        case "6.9.1 a stream's window too large":
            return wire.request(1, end=False) + frame(WINDOW_UPDATE, 0, 1, number(MAX))
        case "6.9.2 a stream's window too large by settings":
            widened = frame(WINDOW_UPDATE, 0, 1, number(MAX - 65_535))
            return wire.request(1, end=False) + widened + setting(http2.SET_INITIAL_WINDOW, 65_536)
        case "6.10 a CONTINUATION of nothing":
            return frame(CONTINUATION, END_HEADERS, 1, block())
        case "6.10 a CONTINUATION after the end":
            return wire.request(1, end=False) + frame(CONTINUATION, END_HEADERS, 1, block())
        case "8.1 trailers that do not end":
            return wire.request(1, end=False) + frame(HEADERS, END_HEADERS, 1, block([("a", "b")]))
        case "8.1 trailers with a pseudo-header field":
            return wire.request(1, end=False) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block())
        case "8.1.1 more than content-length":
            return wire.request(1, b"abc", malformed(("content-length", "2")))
        case "8.1.1 less than content-length":
            return wire.request(1, b"abc", malformed(("content-length", "4")))
    raise AssertionError(rule)


ERRORS: dict[str, tuple[str, int]] = {
    "4.2 a frame too large": ("connection", http2.FRAME_SIZE_ERROR),
    "4.3 a block that ends early": ("connection", http2.COMPRESSION_ERROR),
    "4.3 an entry that is not there": ("connection", http2.COMPRESSION_ERROR),
    "4.3 a table larger than allowed": ("connection", http2.COMPRESSION_ERROR),
    "5.1 idle: DATA": ("connection", http2.PROTOCOL_ERROR),
    "5.1 idle: RST_STREAM": ("connection", http2.PROTOCOL_ERROR),
    "5.1 idle: WINDOW_UPDATE": ("connection", http2.PROTOCOL_ERROR),
    "5.1 half closed: DATA": ("stream", http2.STREAM_CLOSED),
    "5.1 half closed: HEADERS": ("stream", http2.STREAM_CLOSED),
    "5.1 reset by the client: DATA": ("stream", http2.STREAM_CLOSED),
    "5.1.1 an even stream": ("connection", http2.PROTOCOL_ERROR),
    "5.1.1 a stream passed over": ("connection", http2.PROTOCOL_ERROR),
    "5.1.1 DATA on stream 0": ("connection", http2.PROTOCOL_ERROR),
    "5.1.1 HEADERS on stream 0": ("connection", http2.PROTOCOL_ERROR),
    "6.1 more padding than payload": ("connection", http2.PROTOCOL_ERROR),
    "6.1 padded without a length": ("connection", http2.FRAME_SIZE_ERROR),
    "6.2 more padding than block": ("connection", http2.PROTOCOL_ERROR),
    "6.2 a priority cut short": ("connection", http2.FRAME_SIZE_ERROR),
    "6.2 a block interrupted": ("connection", http2.PROTOCOL_ERROR),
    "6.2 a block of another stream": ("connection", http2.PROTOCOL_ERROR),
    "6.3 PRIORITY on stream 0": ("connection", http2.PROTOCOL_ERROR),
    "6.3 PRIORITY of 4 bytes": ("stream", http2.FRAME_SIZE_ERROR),
    "6.4 RST_STREAM on stream 0": ("connection", http2.PROTOCOL_ERROR),
    "6.4 RST_STREAM of 3 bytes": ("connection", http2.FRAME_SIZE_ERROR),
    "6.5 SETTINGS on a stream": ("connection", http2.PROTOCOL_ERROR),
    "6.5 SETTINGS of 5 bytes": ("connection", http2.FRAME_SIZE_ERROR),
    "6.5 an acknowledgement with settings": ("connection", http2.FRAME_SIZE_ERROR),
    "6.5.2 ENABLE_PUSH of 2": ("connection", http2.PROTOCOL_ERROR),
    "6.5.2 an initial window too large": ("connection", http2.FLOW_CONTROL_ERROR),
    "6.5.2 a frame limit too small": ("connection", http2.PROTOCOL_ERROR),
    "6.5.2 a frame limit too large": ("connection", http2.PROTOCOL_ERROR),
    "6.6 a client that pushes": ("connection", http2.PROTOCOL_ERROR),
    "6.7 PING on a stream": ("connection", http2.PROTOCOL_ERROR),
    "6.7 PING of 7 bytes": ("connection", http2.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": ("connection", http2.PROTOCOL_ERROR),
    "6.8 GOAWAY of 7 bytes": ("connection", http2.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of 3 bytes": ("connection", http2.FRAME_SIZE_ERROR),
    "6.9 a connection's window by 0": ("connection", http2.PROTOCOL_ERROR),
    "6.9 a stream's window by 0": ("stream", http2.PROTOCOL_ERROR),
    "6.9.1 a connection's window too large": ("connection", http2.FLOW_CONTROL_ERROR),
    "6.9.1 a stream's window too large": ("stream", http2.FLOW_CONTROL_ERROR),
    "6.9.2 a stream's window too large by settings": ("connection", http2.FLOW_CONTROL_ERROR),
    "6.10 a CONTINUATION of nothing": ("connection", http2.PROTOCOL_ERROR),
    "6.10 a CONTINUATION after the end": ("connection", http2.PROTOCOL_ERROR),
    "8.1 trailers that do not end": ("stream", http2.PROTOCOL_ERROR),
    "8.1 trailers with a pseudo-header field": ("stream", http2.PROTOCOL_ERROR),
    "8.1.1 more than content-length": ("stream", http2.PROTOCOL_ERROR),
    "8.1.1 less than content-length": ("stream", http2.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("rule", ERRORS)
def test_a_broken_rule_has_the_right_code_and_scope(rule: str) -> None:
    wire = Wire(hold=True)
    wire.feed(violation(rule, wire))
    assert wire.verdict() == ERRORS[rule]
    if ERRORS[rule][0] == "stream":
        wire.feed(wire.request(9, b"fine"))
        assert wire.application.handed[-1] == (9, b"/echo", b"fine")


def test_a_stream_that_ended_is_closed_for_good() -> None:
    wire = Wire()
    wire.feed(wire.request(1))
    wire.sent()
    wire.feed(frame(DATA, 0, 1, b"x"))
    assert wire.verdict() == ("connection", http2.STREAM_CLOSED)


def test_what_is_on_its_way_to_a_stream_we_reset_is_ignored() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, b"x" * 10, end=False))
    wire.application.streams[1].answer(b"enough")
    wire.sent()
    wire.feed(frame(DATA, 0, 1, b"late"), frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("a", "b")])))
    assert wire.verdict() is None
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


def test_the_compression_goes_on_after_a_refused_request() -> None:
    """What a refused block put into the table is there for the next."""
    wire = Wire()
    whole = END_HEADERS | END_STREAM
    refused = wire.compressed(malformed(("x-kept", "value"), ("connection", "close")))
    wire.feed(frame(HEADERS, whole, 1, refused))
    assert wire.verdict() == ("stream", http2.PROTOCOL_ERROR)
    wire.feed(frame(HEADERS, whole, 3, wire.compressed(malformed(("x-kept", "value")))))
    assert wire.application.streams[3].head.field(b"x-kept") == b"value"


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x", PREFACE + frame(PING, 0, 0, bytes(8))]
)
def test_a_wrong_preface_ends_the_connection(first: bytes) -> None:
    wire = Wire(greet=False)
    wire.sent()
    wire.feed(first)
    assert wire.verdict() == ("connection", http2.PROTOCOL_ERROR)


def test_after_an_error_nothing_more_is_read() -> None:
    wire = Wire()
    wire.feed(frame(PING, 0, 1, bytes(8)) + wire.request(1), wire.request(3))
    assert wire.application.handed == []
    assert wire.verdict() == ("connection", http2.PROTOCOL_ERROR)


def test_an_error_of_the_connection_loses_its_streams() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False), wire.request(3), frame(PING, 0, 1, bytes(8)))
    assert wire.application.lost == [1, 3]


def test_unknown_frames_and_settings_are_ignored() -> None:
    wire = Wire()
    wire.feed(frame(77, 0xFF, 1, b"what"), setting(0x999, 5), frame(GOAWAY, 0, 0, bytes(8)))
    wire.feed(wire.request(1, b"x"))
    assert wire.application.handed == [(1, b"/echo", b"x")]


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, END_HEADERS, 1 | 1 << 31, block()), frame(DATA, END_STREAM, 1 | 1 << 31, b"x"))
    assert wire.application.handed == [(1, b"/echo", b"x")]


# --- faults of the application

FAULTS = [ValueError("a defect"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=["defect", "memory"])
@pytest.mark.parametrize("mute", [False, True], ids=["told", "log fails"])
@pytest.mark.parametrize("name", ["open", "take", "hand_over", "lost", "told", "drained", "drain"])
def test_a_fault_of_a_stream_ends_this_stream_and_no_other(name: str, fault: Exception, mute: bool) -> None:
    wire = Wire(hold=True)
    faults = wire.application.faults
    faults[name] = fault
    if mute:
        faults["failed"] = fault
    connection = wire.connection
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    wire.feed(wire.request(1, b"x") + wire.request(3, b"x") + wire.request(5, b"x"))
    handed = [n for n, _, _ in wire.application.handed]
    assert handed == ([1, 5] if name in ("open", "take", "hand_over") else [1, 3, 5])
    for stream in list(connection.streams.values()):
        stream.put_data(b"", bytes(100_000))
        await_drain(connection, stream)
    if name == "drain":
        connection.drain()
        assert wire.application.told_to_stop == [1, 3, 5]
    elif name == "drained":
        wire.feed(frame(WINDOW_UPDATE, 0, 0, number(300_000)))
        wire.feed(b"".join(frame(WINDOW_UPDATE, 0, n, number(100_000)) for n in (1, 3, 5)))
        assert wire.application.drained == [1, 3, 5]
    early = name not in ("lost", "told")
    assert set(connection.streams) == ({1, 5} if early else {1, 3, 5})
    assert connection.queued == sum(each.queued for each in connection.streams.values())
    told_before = [] if name in ("open", "lost", "told") else [3]
    connection.resume()
    assert wire.application.lost == told_before
    connection.gone()
    assert sorted(wire.application.lost) == ([1, 5] if name == "open" else [1, 3, 5])
    assert wire.application.failures == [fault]
    assert not connection.streams
    assert connection.queued == 0
    if early:
        resets = {each.stream: each.code for each in wire.sent() if each.kind == RST_STREAM}
        assert resets == {3: http2.INTERNAL_ERROR}


def test_a_request_that_cannot_be_routed_is_reset() -> None:
    wire = Wire()
    wire.application.faults["route"] = ValueError("a defect")
    wire.feed(wire.request(1, b"", replaced(":path", "/unroutable")))
    assert wire.verdict() == ("stream", http2.INTERNAL_ERROR)
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


def test_a_session_that_ended_within_a_read_reads_no_more_of_it() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    wire.connection.drain()
    wire.feed(frame(PING, ACK, 0, b"draining"))
    wire.sent()
    wire.feed(frame(RST_STREAM, 0, 1, number(8)) + frame(PING, 0, 0, bytes(8)) + b"half a frame"[:5])
    assert wire.output.finished
    assert wire.sent() == []
    assert not wire.connection.waiting


# --- flow control


def body_sent(wire: Wire) -> bytes:
    return b"".join(each.payload for each in wire.sent() if each.kind == DATA)


@pytest.mark.parametrize("left", [1, 400, 20_000, 40_000])
def test_what_waits_for_a_window_keeps_no_more_than_twice_its_size(left: int) -> None:
    """A window that leaves one byte of an answer is charged one byte: the rest of it is not to stay."""
    answer = bytes(range(250)) * 240
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, len(answer) - left), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", answer)
    assert stream.queued == left
    assert stream._queue is not None
    (rest,) = stream._queue
    held = len(cast("bytes", rest.obj)) if isinstance(rest, memoryview) else len(rest)
    assert held <= 2 * left
    sent = body_sent(wire)
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(left)))
    assert sent + body_sent(wire) == answer


def test_no_more_is_sent_than_the_windows_allow() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 10), wire.request(1))
    stream = wire.application.streams[1]
    stream.answer(bytes(range(100)))
    assert body_sent(wire) == bytes(range(10))
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(5)))
    assert body_sent(wire) == bytes(range(10, 15))
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    assert stream.window == -10
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(10)))
    assert body_sent(wire) == b""
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(1)))
    assert body_sent(wire) == bytes(range(15, 16))
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1000))
    assert body_sent(wire) == bytes(range(16, 100))
    assert not wire.connection.streams


def test_the_window_of_the_connection_is_shared_in_turn() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1_000_000), *(wire.request(n) for n in (1, 3, 5)))
    for stream in wire.application.streams.values():
        stream.answer(bytes(100_000))
    assert len(body_sent(wire)) == 65_535
    wire.feed(frame(WINDOW_UPDATE, 0, 0, number(3 * 16_384)))
    sent = [each.stream for each in wire.sent() if each.kind == DATA]
    assert sorted(sent) == [1, 3, 5]


def test_our_windows_are_opened_again_and_never_exceeded() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    total = 0
    for _ in range(500):
        wire.feed(frame(DATA, 0, 1, bytes(16_384)))
        total += 16_384
    updates = [each for each in wire.sent() if each.kind == WINDOW_UPDATE]
    for scope, window in ((0, http2.CONNECTION_WINDOW), (1, http2.STREAM_WINDOW)):
        given_back = sum(int.from_bytes(each.payload, "big") for each in updates if each.stream == scope)
        assert total - window // 2 <= given_back <= total


def test_more_than_our_windows_is_an_error() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False) + frame(DATA, 0, 1, bytes(16_384)) * 65)
    # The window was opened half-way in the same read, which the client did not know yet; what counts is ours.
    assert wire.verdict() is None
    wire.feed(
        b"".join(wire.request(n, end=False) + frame(DATA, 0, n, bytes(16_384)) * 60 for n in range(3, 13, 2))
    )
    assert wire.verdict() == ("connection", http2.FLOW_CONTROL_ERROR)


def test_padding_counts_against_the_windows() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False), frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255)))
    assert wire.application.streams[1].body == b"x"
    assert wire.application.streams[1].allowed == http2.STREAM_WINDOW - 257


def test_data_is_framed_no_faster_than_the_network_takes_it() -> None:
    """A large answer leaves room for the small one that comes after it."""
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX), frame(WINDOW_UPDATE, 0, 0, number(MAX - 65_535)))
    wire.feed(wire.request(1), wire.request(3))
    wire.output.backlog = 0
    large, small = wire.application.streams[1], wire.application.streams[3]
    wire.output.backlog = http2.PACE
    large.answer(bytes(1_000_000))
    small.answer(b"small")
    assert body_sent(wire) == b""
    assert large.backlog == 1_000_000 + http2.PACE
    assert wire.connection.has_pending
    wire.output.backlog = 0
    wire.connection.resume()
    sent = [each for each in wire.sent() if each.kind == DATA]
    assert sent[1].payload == b"small"
    assert sum(len(each.payload) for each in sent) == 1_000_005


def test_requests_wait_while_too_much_is_unsent() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].put_data(b"", bytes(http2.HOLD + 1))
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1]
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(100)))
    assert [n for n, _, _ in wire.application.handed] == [1, 3]


def test_a_client_that_is_held_cannot_send_for_ever() -> None:
    """What is read and not handled is bounded by the window, which is not opened again."""
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].put_data(b"", bytes(http2.HOLD + 1))
    sent, stream = 0, 3
    while sent + 1_000_000 <= http2.CONNECTION_WINDOW:
        wire.feed(wire.request(stream, bytes(1_000_000)))
        sent, stream = sent + 1_000_000, stream + 2
    assert [each for each in wire.sent() if each.kind == WINDOW_UPDATE and each.stream == 0] == []
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(100)))
    (update,) = [each for each in wire.sent() if each.kind == WINDOW_UPDATE and each.stream == 0]
    assert update.payload == number(sent)


def test_who_waits_for_room_is_told_once() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", bytes(100_000))
    await_drain(wire.connection, stream)
    wire.connection.resume()
    assert wire.application.drained == []
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(100_000)), frame(WINDOW_UPDATE, 0, 0, number(100_000)))
    wire.connection.resume()
    wire.connection.resume()
    assert wire.application.drained == [1]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("window"), st.sampled_from([1, 3, 5]), st.integers(1, 3000)),
        st.tuples(st.just("connection"), st.just(0), st.integers(1, 3000)),
        st.tuples(st.just("settings"), st.just(0), st.sampled_from([0, 1, 500, 2000, 65_535])),
        st.tuples(st.just("data"), st.sampled_from([1, 3, 5]), st.integers(0, 5000)),
    ),
    max_size=40,
)


@given(STEPS)
def test_windows_are_those_of_the_slow_twin(steps: list[tuple[str, int, int]]) -> None:
    """Which changes the window of every stream at every change of the initial one (RFC 9113, 6.9.2)."""
    wire = Wire(hold=True)
    wire.feed(*(wire.request(n) for n in (1, 3, 5)))
    windows, initial = dict.fromkeys((1, 3, 5), 65_535), 65_535
    whole, given_, sent = 65_535, dict.fromkeys((1, 3, 5), 0), dict.fromkeys((1, 3, 5), 0)
    for step, target, value in steps:
        if step == "window":
            windows[target] += value
            wire.feed(frame(WINDOW_UPDATE, 0, target, number(value)))
        elif step == "connection":
            whole += value
            wire.feed(frame(WINDOW_UPDATE, 0, 0, number(value)))
        elif step == "settings":
            windows = {n: old + value - initial for n, old in windows.items()}
            initial = value
            wire.feed(setting(http2.SET_INITIAL_WINDOW, value))
        else:
            given_[target] += value
            wire.application.streams[target].put_data(b"", bytes(value))
        for each in wire.sent():
            if each.kind == DATA:
                size = len(each.payload)
                assert size <= min(whole, windows[each.stream])
                windows[each.stream] -= size
                whole -= size
                sent[each.stream] += size
        for n, stream in wire.application.streams.items():
            assert stream.window == windows[n]
            assert stream.queued == given_[n] - sent[n]
            assert not stream.queued or min(whole, windows[n]) <= 0, "what may be sent is sent"
        check_books(wire.connection)


def test_of_several_initial_windows_in_a_frame_the_last_is_used_and_each_is_judged() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    window = b"\0\4"
    wire.feed(frame(SETTINGS, 0, 0, window + number(MAX) + window + number(0) + window + number(7)))
    assert wire.application.streams[1].window == 7
    assert [(each.kind, each.flags) for each in wire.sent()] == [(SETTINGS, ACK)]
    wire.feed(frame(SETTINGS, 0, 0, window + number(MAX + 1) + window + number(7)))
    assert wire.verdict() == ("connection", http2.FLOW_CONTROL_ERROR)


def test_a_stream_that_is_gone_widens_no_window() -> None:
    """The bound for what streams have beyond the initial window is made anew before a client is blamed."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False), wire.request(3, end=False))
    wire.feed(frame(WINDOW_UPDATE, 0, 1, number(MAX - 65_535)), frame(RST_STREAM, 0, 1, number(8)))
    wire.feed(frame(WINDOW_UPDATE, 0, 3, number(1000)), setting(http2.SET_INITIAL_WINDOW, MAX - 1000))
    assert wire.verdict() is None
    assert wire.application.streams[3].window == MAX
    wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX - 999))
    assert wire.verdict() == ("connection", http2.FLOW_CONTROL_ERROR)


# --- work


def test_a_frame_of_settings_costs_no_more_with_many_streams() -> None:
    """2,700 initial windows over as many streams as there may be, none of which has anything to send."""
    wire = Wire(hold=True)
    numbers = range(1, 8_001, 2)
    for n in numbers:
        wire.feed(wire.request(n))
    payload = b"".join(b"\0\4" + number(65_535 + i % 2) for i in range(2_700))
    wire.connection.receive(frame(SETTINGS, 0, 0, payload))
    assert 500 < wire.connection.spent < 1_000
    assert wire.application.streams[1].window == 65_536


def test_opening_the_windows_of_many_streams_at_once_is_done_in_turns() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    numbers = range(1, 8_001, 2)
    for n in numbers:
        wire.feed(wire.request(n))
        wire.application.streams[n].put_data(b"", b"xy")
    connection = wire.connection
    connection.receive(setting(http2.SET_INITIAL_WINDOW, 1))
    turns = 1
    assert connection.spent <= http2.SLICE + 600
    while wire.output.run_turn():
        turns += 1
        assert connection.spent <= http2.SLICE + 600
    assert turns >= 2
    assert sorted(each.stream for each in wire.sent() if each.kind == DATA) == list(numbers)


def most_of_a_frame() -> int:
    """Units that one frame may cause at most: the largest header list, and all the Huffman code there may be,
    or streams that are touched.
    """
    fields_ = http2.LIST_LIMIT // 32
    return 2 * fields_ + HUFFMAN_LIMIT // 5 + http2.MAX_STREAMS // 4 + http2.MAX_FRAME // 5 + 100


def fields_many(wire: Wire, count: int = 45) -> bytes:
    heavy = block() + b"\x90" * 1_000
    return b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, heavy) for n in range(1, 2 * count, 2))


def huffman(wire: Wire) -> bytes:
    code = b"\x1c\x64\xd5" * 2_600
    size = len(code) - 127
    field = b"\x00\x01x\xff" + bytes((size & 127 | 128, size >> 7)) + code
    return b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, block() + field) for n in range(1, 17, 2))


def small_requests(wire: Wire) -> bytes:
    return b"".join(wire.request(n) for n in range(1, 1_001, 2))


FLOODS = {"fields": fields_many, "huffman": huffman, "requests": small_requests}


@pytest.mark.parametrize("flood", FLOODS)
def test_what_was_read_is_worked_off_in_turns(flood: str) -> None:
    """A turn stops at the frame or the request that goes beyond its share; nothing is lost or reordered."""
    wire = Wire()
    wire.connection.receive(FLOODS[flood](wire))
    turns = 1
    assert wire.connection.busy or wire.connection.ready
    assert not wire.connection.waiting
    while wire.output.run_turn():
        turns += 1
        assert wire.connection.spent <= http2.SLICE + most_of_a_frame()
    assert turns > 2
    assert not wire.connection.busy
    handed = [n for n, _, _ in wire.application.handed]
    assert handed == list(range(1, 2 * len(handed), 2))
    assert len(handed) in (45, 8, 500)
    assert wire.verdict() is None


def test_a_round_stays_short_however_many_ask_for_much() -> None:
    """All connections do little more in a round than two may, and who asks for little is served in it."""
    time = [2000.0]
    wires = [Wire() for _ in range(16)]
    server, handed = wires[0].server, wires[0].application.handed
    server.clock = lambda: time[0]
    for wire in wires:
        wire.connection.server = server
    time[0] += 1
    for wire in wires[:-1]:
        wire.connection.receive(fields_many(wire, 12))
    assert server.spent <= http2.ROUND + 15 * 2_600
    wires[-1].connection.receive(wires[-1].request(1, b"small"))
    assert handed[-1] == (1, b"/echo", b"small")
    rounds = 0
    while [wire for wire in wires if wire.output.turns]:
        time[0] += 0.01
        rounds += 1
        for wire in wires:
            wire.output.run_turn()
        assert server.spent <= http2.ROUND + 16 * 2_600
    assert rounds > 6
    assert len(handed) == 15 * 12 + 1


def test_a_connection_that_ended_keeps_nothing() -> None:
    """Its peer may take its time to read why."""
    wire = Wire(hold=True)
    wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, wire.compressed()), wire.request(3))
    wire.feed(frame(HEADERS, END_HEADERS, 9, block()), frame(RST_STREAM, 0, 9, number(8)))
    wire.feed(frame(HEADERS, 0, 11, block()), frame(CONTINUATION, 0, 11, bytes(10_000)))
    assert wire.connection.output.account.held > 10_000
    wire.feed(frame(PING, 0, 0, bytes(8)) + bytes(100))
    assert wire.verdict() == ("connection", http2.PROTOCOL_ERROR)
    connection = wire.connection
    assert connection.output.account.held == 0
    assert (connection.partial_block, connection.unparsed, connection.closed_streams, connection.skipped) == (
        None,
        b"",
        {},
        [],
    )
    assert not connection.blocks._known
    assert not connection.blocks._entries


def test_many_streams_of_connections_that_are_gone_are_told_over_rounds() -> None:
    """None of them sends anything meanwhile, and all are told, each once."""
    asked: list[Callable[[], object]] = []
    wires = [Wire(hold=True, soon=asked.append) for _ in range(3)]
    server, application = wires[0].server, wires[0].application
    for wire in wires:
        wire.connection.server = server
        wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
        for n in range(1, 801, 2):
            wire.feed(wire.request(n, b"x", end=n % 3 > 0))
    streams = [each for wire in wires for each in wire.connection.streams.values()]
    streams[-1].put_data(b"", bytes(10))
    for wire in wires:
        wire.connection.gone()
        wire.connection.gone()
        check_books(wire.connection)
        assert wire.connection.queued == 0
    assert not any(each.open for each in streams)
    assert len(application.lost) == http2.DEPARTED_AT_ONCE
    rounds = 0
    while asked:
        rounds += 1
        before = len(application.lost)
        asked.pop()()
        assert not asked or len(application.lost) == before + http2.DEPARTED_AT_ONCE
    assert rounds == len(streams) // http2.DEPARTED_AT_ONCE
    assert sorted(application.lost) == sorted(each.number for each in streams)
    wires[0].connection.server.depart([])
    assert not asked


def test_the_end_of_a_connection_touches_few_of_its_streams_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were answered, and wait for a window, among them."""
    asked: list[Callable[[], object]] = []
    wire = Wire(hold=True, soon=asked.append)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    for n in range(1, 1001, 2):
        wire.feed(wire.request(n, b"x", end=n % 3 > 0))
    streams = list(wire.connection.streams.values())
    for stream in streams[::4]:
        stream.put_data(b"", bytes(10))
        stream.put_last(ENDING)
    for stream in streams[1::2]:
        stream.keep(100)
    touched: list[http2.Stream] = []
    free, drop = http2.Stream.free, http2.Stream.drop

    def freed(stream: http2.Stream) -> None:
        touched.append(stream)
        free(stream)

    def dropped(stream: http2.Stream) -> int:
        touched.append(stream)
        return drop(stream)

    monkeypatch.setattr(http2.Stream, "free", freed)
    monkeypatch.setattr(http2.Stream, "drop", dropped)
    wire.connection.gone()
    assert not any(each.open for each in streams)
    assert not wire.connection.streams
    while True:
        assert 0 < len(set(touched)) <= http2.DEPARTED_AT_ONCE
        touched.clear()
        if not asked:
            break
        asked.pop()()
    assert sorted(wire.application.lost) == [n for at, n in enumerate(range(1, 1001, 2)) if at % 4]
    assert [each for each in streams if each.kept or each.queued or each.since is not None] == []
    assert wire.output.account.held == 0


def waits(connection: Http2Connection) -> bool:
    """Nothing more is read of it for now."""
    return connection.busy


def test_who_causes_more_work_than_its_rate_waits_and_is_closed_at_last() -> None:
    wire = Wire()
    connection = wire.connection
    first, pauses = 1, 0
    while not wire.output.finished:
        heavy = block() + b"\x90" * 1_000
        wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, first, heavy))
        first += 2
        if waits(connection):
            handed = len(wire.application.handed)
            wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, first, block()))
            first += 2
            assert len(wire.application.handed) == handed, "what comes while it waits is not looked at"
            connection.sweep(wire.time + 1e-6)
            assert waits(connection), "too soon"
            pauses += 1
            wire.time += 0.1
            connection.sweep(wire.time)
            while wire.output.run_turn():
                pass
            assert not waits(connection)
            assert len(wire.application.handed) == handed + 2
        assert first < 10_000
    assert pauses == http2.PAUSES
    assert wire.verdict() == ("connection", CALM)


def test_a_busy_client_that_repeats_itself_never_waits() -> None:
    """25,000 requests a second, more than a core answers, and little allowed ahead."""
    wire = Wire()
    wire.connection._work = TokenBucket(10_000, wire.time, http2.WORK_RATE)
    first = 1
    for _ in range(60):
        wire.feed(b"".join(wire.request(n, b"x") for n in range(first, first + 200, 2)))
        first += 200
        wire.time += 1 / 250
        assert not wire.connection.busy
    assert len(wire.application.handed) == 6_000


# --- time


def late_after(wire: Wire, seconds: float) -> bool:
    """Whether its peer is late that many seconds from now, looked at once a second."""
    end = wire.time + seconds
    while wire.time + 1 <= end:
        wire.time += 1
        wire.connection.sweep(wire.time)
        while wire.output.run_turn():
            pass
    return wire.connection.late


@pytest.mark.parametrize("begun", [b"", PREFACE[:20], PREFACE + frame(SETTINGS, 0, 0, bytes(6))[:12]])
def test_a_preface_has_its_time_however_often_a_byte_comes(begun: bytes) -> None:
    wire = Wire(greet=False)
    for byte in begun:
        wire.feed(bytes((byte,)))
    settings = len(begun) > len(PREFACE)
    limit = http2.FRAME_SECONDS if settings else http2.PREFACE_SECONDS
    assert not late_after(wire, limit)
    assert late_after(wire, 1)


def test_a_frame_has_its_time_however_often_a_byte_comes() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False) + frame(DATA, 0, 1, bytes(100))[:20])
    for _ in range(3):
        assert not late_after(wire, http2.FRAME_SECONDS / 3)
        wire.feed(b"x")
    assert late_after(wire, 1)
    wire.feed(bytes(86))
    assert wire.verdict() is None
    assert not late_after(wire, 1)
    wire.feed(frame(PING, 0, 0, bytes(8))[:5])
    assert not late_after(wire, http2.FRAME_SECONDS)


def test_a_frame_is_not_timed_while_it_is_not_read() -> None:
    wire = Wire()
    wire.feed(frame(PING, 0, 0, bytes(8))[:5])
    wire.output.paused = True
    assert not late_after(wire, 3 * http2.FRAME_SECONDS)
    wire.output.paused = False
    assert not late_after(wire, http2.FRAME_SECONDS)
    assert late_after(wire, 1)


def test_a_header_block_has_its_time_however_often_a_frame_comes() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, block()))
    for _ in range(5):
        assert not late_after(wire, http2.BLOCK_SECONDS / 5)
        wire.feed(frame(CONTINUATION, 0, 1))
    assert late_after(wire, 1)
    wire.feed(frame(CONTINUATION, END_HEADERS, 1))
    assert not late_after(wire, 100)


def test_a_request_has_its_time_to_become_complete() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, b"x"), wire.request(3, b"x", end=False))
    late_after(wire, 30)
    wire.feed(wire.request(5, end=False))
    late_after(wire, http2.REQUEST_SECONDS - 30)
    assert wire.sent() == []
    wire.feed(frame(DATA, 0, 3, b"still coming"))
    late_after(wire, http2.LOOK_SECONDS + 1)
    assert wire.verdict() == ("stream", http2.CANCEL)
    assert wire.application.lost == [3]
    assert set(wire.connection.streams) == {1, 5}
    late_after(wire, 1000)
    assert set(wire.connection.streams) == {1}
    assert wire.connection.unfinished == 0


@pytest.mark.parametrize(("every_second", "stays"), [(1, False), (1, True), (4, True)])
def test_a_slow_request_is_judged_by_its_pace(every_second: int, stays: bool) -> None:
    """However long it takes in all; and by each stretch of time, whatever came before."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    if not stays:
        wire.feed(*(frame(DATA, 0, 1, bytes(16_000)) for _ in range(10)))
    for _ in range(400):
        if stays:
            wire.feed(frame(DATA, 0, 1, bytes(every_second * http2.REQUEST_RATE)))
        late_after(wire, 1)
    assert (1 in wire.connection.streams) is stays


def test_requests_that_are_not_complete_have_a_number() -> None:
    wire = Wire(hold=True)
    last = 2 * http2.UNFINISHED + 1
    for n in range(1, last, 2):
        wire.feed(wire.request(n, end=False))
    assert wire.verdict() is None
    wire.feed(wire.request(last, end=False))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    wire.feed(wire.request(last + 2), frame(DATA, END_STREAM, 1, b"x"), wire.request(last + 4, end=False))
    assert wire.verdict() is None
    streams = http2.STREAM_COST * (http2.UNFINISHED + 2)
    assert wire.connection.output.account.held == streams + wire.connection.blocks.held


def test_once_memory_is_spent_who_has_many_streams_gets_no_new_ones() -> None:
    """They are charged as what no reading gives back; what is open goes on, and others open theirs."""
    wire = Wire(hold=True)
    account = wire.connection.output.account
    last = 2 * http2.STREAMS_OVER - 1
    for n in range(1, last, 2):
        wire.feed(wire.request(n))
    streams = http2.STREAM_COST * (http2.STREAMS_OVER - 1)
    assert account.lasting == account.held == streams + wire.connection.blocks.held
    account.charge(1 << 40)
    wire.feed(wire.request(last))
    assert wire.verdict() is None
    wire.feed(wire.request(last + 2))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    account.charge(-(1 << 40))
    wire.feed(wire.request(last + 4))
    assert wire.verdict() is None


def test_what_is_remembered_of_header_blocks_is_charged_while_nothing_is_open() -> None:
    """As what lasts: no reading gives it back."""
    wire = Wire(hold=True)
    account = wire.connection.output.account
    entries = b"".join(b"\x40\x02%02x\x01v" % number for number in range(100))
    for number in range(60):
        stream = 2 * number + 1
        asked = block([*REQUEST, ("id", f"{number:03}")]) + (b"" if number else entries)
        wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream, asked))
        wire.application.streams[stream].answer()
    wire.connection.resume()
    assert wire.connection.streams == {}
    assert account.held == account.lasting
    assert account.held > FIELD_COST * (100 + 60)
    wire.connection.eof()
    assert account.held == 0


def test_a_connection_with_an_open_stream_is_not_idle() -> None:
    wire = Wire(hold=True)
    idle = [wire.connection.idle]
    wire.feed(wire.request(1))
    idle.append(wire.connection.idle)
    wire.application.streams[1].answer()
    idle.append(wire.connection.idle)
    assert idle == [True, False, True]


def stalled(size: int) -> Wire:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].answer(bytes(size))
    wire.sent()
    return wire


def test_who_lets_nothing_through_is_closed() -> None:
    wire = stalled(100_000)
    late_after(wire, http2.STALL_SECONDS)
    assert wire.sent() == []
    late_after(wire, 2)
    assert wire.verdict() == ("stream", CALM)
    assert wire.connection.queued == 0
    assert wire.application.lost == []
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1, 3]


def test_who_closes_the_window_of_the_connection_is_closed() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1 << 20), wire.request(1))
    wire.application.streams[1].answer(bytes(200_000))
    wire.sent()
    late_after(wire, http2.STALL_SECONDS)
    assert wire.sent() == []
    late_after(wire, 32)
    assert wire.verdict() == ("connection", CALM)
    assert wire.output.account.held == 0


def test_the_heaviest_of_the_streams_nobody_reads_go_and_no_other() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), *(wire.request(n) for n in (1, 3, 5, 7)))
    for number_, size in ((1, 100), (3, 100_000), (5, 50_000), (7, 100_000)):
        wire.application.streams[number_].answer(bytes(size))
    late_after(wire, http2.STALL_SECONDS - 1)
    wire.feed(frame(WINDOW_UPDATE, 0, 7, number(10)))
    late_after(wire, 3)
    assert set(wire.connection.streams) == {1, 5, 7}
    assert wire.output.finished is False


def test_many_streams_nobody_reads_go_in_several_sweeps() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    count = 3 * http2.DEPARTED_AT_ONCE
    for n in range(1, 2 * count, 2):
        wire.feed(wire.request(n))
        wire.application.streams[n].answer(bytes(LOW_WATER // 10))
    late_after(wire, http2.STALL_SECONDS)
    before = count
    for _ in range(2):
        late_after(wire, 1)
        assert before - len(wire.connection.streams) == http2.DEPARTED_AT_ONCE
        before -= http2.DEPARTED_AT_ONCE
    more = number(LOW_WATER)
    for n in list(wire.connection.streams):
        wire.feed(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, n, more))
        break
    late_after(wire, 2)
    assert 0 < len(wire.connection.streams) <= 10
    assert wire.output.finished is False


def test_who_lets_little_through_is_closed_and_who_lets_enough_is_not() -> None:
    for every_second, closed in ((http2.STALL_RATE // 2, True), (2 * http2.STALL_RATE, False)):
        wire = stalled(1_000_000)
        for _ in range(100):
            wire.feed(frame(WINDOW_UPDATE, 0, 1, number(every_second)))
            wire.feed(frame(WINDOW_UPDATE, 0, 0, number(every_second)))
            late_after(wire, 1)
        assert wire.output.finished is closed


def test_little_that_waits_and_a_slow_network_are_no_stall() -> None:
    wire = stalled(LOW_WATER)
    late_after(wire, 1_000)
    assert wire.sent() == []
    wire = stalled(100_000)
    wire.output.backlog = http2.PACE
    late_after(wire, 1_000)
    assert wire.sent() == []


def test_who_holds_much_waits_sooner_once_the_memory_for_all_is_spent() -> None:
    wire = stalled(http2.HOLD_OVER + 1)
    wire.output.account.charge(1 << 30)
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1]
    wire.output.account.release(1 << 30)
    wire.connection.resume()
    assert [n for n, _, _ in wire.application.handed] == [1, 3]
    small = stalled(http2.HOLD_OVER - 10)
    small.output.account.charge(1 << 30)
    small.feed(small.request(3))
    assert [n for n, _, _ in small.application.handed] == [1, 3]


# --- limits


def test_the_heads_that_are_known_are_bounded_in_bytes() -> None:
    """Fields of one letter cost far more than their letters."""
    wire = Wire()
    sizes = []
    for i in range(4_200):
        many = [(f"{c}", "") for c in "abcdefghijk"]
        wire.feed(wire.request(2 * i + 1, b"", malformed(("n", str(i)), *many)))
        sizes.append(wire.server._heads_size)
    assert wire.verdict() is None
    assert 1024 * 1024 < max(sizes) <= http2.HEADS_KNOWN_SIZE
    assert sum(1 for a, b in pairwise(sizes) if b < a) >= 1
    assert wire.server._heads_size == sum(map(kept_size, wire.server._heads))
    known = len(wire.server._heads)
    wire.feed(wire.request(9_001, b"", malformed(("large", "x" * http2.HEAD_KNOWN_SIZE))))
    assert len(wire.server._heads) == known


def test_header_blocks_have_a_limit_of_frames_and_bytes() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, block()), *[frame(CONTINUATION, 0, 1, b"")] * 17)
    assert wire.verdict() == ("connection", CALM)
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, bytes(16_384)), *[frame(CONTINUATION, 0, 1, bytes(16_384))] * 4)
    assert wire.verdict() == ("connection", CALM)


def test_a_header_list_has_a_limit_however_well_it_is_compressed() -> None:
    """One entry of 4,000 bytes, named again and again."""
    wire = Wire()
    first = wire.compressed(malformed(("bomb", "x" * 4_000)))
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


@pytest.mark.parametrize(
    "nothing",
    [
        frame(SETTINGS, 0, 0),
        frame(SETTINGS, ACK, 0),
        frame(PRIORITY, 0, 3, bytes(5)),
        frame(DATA, 0, 1),
        frame(DATA, PADDED, 1, b"\x00"),
        frame(99, 0, 1, b"x"),
        frame(PING, ACK, 0, bytes(8)),
        frame(GOAWAY, 0, 0, bytes(8)),
    ],
    ids=["SETTINGS", "acknowledgements", "PRIORITY", "empty DATA", "padding", "unknown", "PING", "GOAWAY"],
)
def test_frames_that_carry_nothing_come_to_an_end(nothing: bytes) -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    wire.sent()
    wire.feed(nothing * (http2.IDLE_FRAMES - 10))
    assert wire.verdict() is None
    wire.feed(nothing * 20)
    assert wire.verdict() == ("connection", CALM)


def test_frames_that_carry_nothing_are_fine_over_time() -> None:
    wire = Wire()
    for _ in range(100):
        wire.feed(frame(SETTINGS, 0, 0) * 90)
        wire.time += 1
    assert wire.verdict() is None


def test_rapid_resets_come_to_an_end() -> None:
    wire = Wire()
    reset = number(http2.CANCEL)
    for n in range(1, 2 * http2.EARLY_RESETS + 1, 2):
        wire.feed(wire.request(n, b"x", end=False) + frame(RST_STREAM, 0, n, reset))
    assert wire.verdict() is None
    wire.feed(wire.request(9001, end=False) + frame(RST_STREAM, 0, 9001, reset))
    assert wire.verdict() == ("connection", CALM)
    assert wire.application.handed == []


def test_watches_may_all_be_cancelled_at_once() -> None:
    """Resets of streams that lived are no attack."""
    wire = Wire(hold=True)
    numbers = range(1, 6_001, 2)
    for n in numbers:
        wire.feed(wire.request(n, b"x"))
    wire.time += 2
    for n in numbers:
        wire.feed(frame(RST_STREAM, 0, n, number(http2.CANCEL)))
    assert wire.verdict() is None
    assert wire.application.lost == list(numbers)


def test_making_us_reset_comes_to_an_end() -> None:
    """Streams reset by us for faults of the client cost as much as those it resets itself (CVE-2025-8671)."""
    wire = Wire(hold=True)
    for n in range(1, 2 * http2.EARLY_RESETS + 20, 2):
        wire.feed(wire.request(n, end=False) + frame(WINDOW_UPDATE, 0, n, number(0)))
    sent = wire.sent()
    assert sent[-1].kind == GOAWAY
    assert sent[-1].code == CALM


def ping(wire: Wire, every: float, count: int) -> None:
    for _ in range(count):
        wire.time += every
        wire.feed(frame(PING, 0, 0, b"keepaliv"))


def test_pings_on_an_idle_connection_are_soon_too_many() -> None:
    wire = Wire()
    ping(wire, 10, 3)
    assert [each.flags for each in wire.sent()] == [ACK] * 3
    ping(wire, 10, 1)
    last = wire.sent()[-1]
    assert (last.kind, last.code, last.payload[8:]) == (GOAWAY, CALM, b"too_many_pings")


def test_pings_with_an_open_stream_may_come_every_five_seconds() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    ping(wire, 5, 100)
    assert wire.verdict() is None
    ping(wire, 4.9, 3)
    assert wire.verdict() == ("connection", CALM)


def test_an_answer_forgives_pings() -> None:
    """A client measures its bandwidth with a ping after what it received."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    for _ in range(100):
        ping(wire, 0.001, 3)
        wire.application.streams[1].put_data(b"", b"event")
    assert wire.verdict() is None


# --- the life of a connection


def test_a_graceful_end_takes_what_is_on_its_way() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    wire.connection.drain()
    warned, asked = wire.sent()
    assert (warned.kind, warned.payload[:4], warned.code) == (GOAWAY, number(MAX), http2.NO_ERROR)
    assert wire.application.told_to_stop == [1]
    wire.feed(wire.request(3))
    assert wire.application.told_to_stop == [1, 3]
    wire.feed(frame(PING, ACK, 0, asked.payload))
    (final,) = wire.sent()
    assert (final.kind, final.payload[:4], final.code) == (GOAWAY, number(3), http2.NO_ERROR)
    wire.feed(wire.request(5))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    wire.application.streams[1].answer()
    assert not wire.output.finished
    wire.application.streams[3].answer()
    assert wire.output.finished


def test_a_graceful_end_of_an_idle_connection_is_immediate() -> None:
    wire = Wire()
    wire.connection.drain()
    _, asked = wire.sent()
    wire.feed(frame(PING, ACK, 0, asked.payload))
    assert [(each.kind, each.payload[:4]) for each in wire.sent()] == [(GOAWAY, number(0))]
    assert wire.output.finished


def test_a_silent_peer_is_asked_and_then_cut() -> None:
    wire = Wire()
    wire.connection.sweep(wire.time + http2.PROBE_SECONDS - 1)
    assert wire.sent() == []
    asked_at = wire.time + http2.PROBE_SECONDS + 1
    wire.connection.sweep(asked_at)
    (asked,) = wire.sent()
    assert asked.kind == PING
    wire.time = asked_at + 1
    wire.feed(frame(PING, ACK, 0, asked.payload))
    wire.connection.sweep(asked_at + 30)
    assert not wire.output.was_cut
    wire.connection.sweep(asked_at + 2 * http2.PROBE_SECONDS)
    wire.connection.sweep(asked_at + 2 * http2.PROBE_SECONDS + http2.PROBE_ANSWER_SECONDS + 1)
    assert wire.output.was_cut


def test_a_lost_connection_loses_its_streams() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1), wire.request(3, end=False))
    wire.connection.eof()
    assert wire.output.was_cut
    assert wire.application.lost == [1, 3]


def test_half_a_frame_is_waited_for_and_then_refused() -> None:
    wire = Wire()
    before = wire.connection.waiting
    wire.feed(wire.request(1, b"hello")[:-1])
    assert (before, wire.connection.waiting) == (False, True)
    wire.connection.refuse(408, b"too slow")
    assert wire.verdict() == ("connection", CALM)


def test_answers_are_not_given_to_streams_that_are_lost() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 10), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", bytes(1000))
    assert wire.connection.queued == 990
    wire.feed(frame(RST_STREAM, 0, 1, number(http2.CANCEL)))
    assert wire.connection.queued == 0
    wire.sent()
    wire.connection.resume()
    assert wire.sent() == []


def test_a_smaller_table_is_acknowledged_in_the_next_block() -> None:
    """RFC 7541, 4.2; clients check it."""
    wire = Wire()
    wire.feed(setting(http2.SET_TABLE_SIZE, 0), wire.request(1), wire.request(3))
    blocks = [each.payload for each in wire.sent() if each.kind == HEADERS]
    assert blocks == [b"\x20" + OPENING, ENDING, OPENING, ENDING]


def test_a_large_block_is_spread_over_frames() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    wire.connection.put_block(1, b"\x00\x01a" + b"\x7f\xc1\xb7\x02" + b"x" * 40_000, END_STREAM)
    sent = wire.sent()
    assert [(each.kind, each.flags) for each in sent] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]
    assert fields(b"".join(each.payload for each in sent)) == [("a", "x" * 40_000)]


def test_the_varying_field_is_given_beside_the_head() -> None:
    wire = Wire()
    for n, value in ((1, "1S"), (3, "2S")):
        wire.feed(wire.request(n, b"", malformed(("grpc-timeout", value))))
    wire.feed(wire.request(5))
    assert wire.application.timeouts == [b"1S", b"2S", None]
    heads = {id(stream.head) for stream in wire.application.streams.values()}
    assert len(heads) == 1
