"""RFC 9113 rule by rule: the error code of each violation, and its scope."""

from __future__ import annotations

from typing import Any

import pytest

from netstore.net import http2
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
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    frame,
)
from tests.support.h2client import REQUEST, Wire, block
from tests.support.h2frames import (
    MAX,
    replaced,
    setting,
    u32,
    with_fields,
)


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in REQUEST if field[0] != name]


STREAM_ERRORS: dict[str, tuple[int, Any]] = {
    "8.2.1 an upper-case name": (1, with_fields(("X-Upper", "1"))),
    "8.2.1 a space in a name": (1, with_fields(("x y", "1"))),
    "8.2.1 an empty name": (1, with_fields(("", "1"))),
    "8.2.1 a line end in a value": (1, with_fields(("x", "a\r\nb"))),
    "8.2.1 a zero in a value": (1, with_fields(("x", "a\0b"))),
    "8.2.1 a space before a value": (1, with_fields(("x", " a"))),
    "8.3.1 a line end in the path": (1, replaced(":path", "/a?x\r\nset-cookie: evil=1")),
    "8.3.1 a zero in the path": (1, replaced(":path", "/a\0")),
    "8.3.1 a space in the path": (1, replaced(":path", "/a b")),
    "8.3.1 a line end in the authority": (1, replaced(":authority", "a\nb")),
    "8.3.1 a space in the authority": (1, replaced(":authority", "a b")),
    "8.3.1 a tab in the scheme": (1, replaced(":scheme", "http\t")),
    "8.3 a varying field before the path": (1, [("grpc-timeout", "1S"), *REQUEST]),
    "8.2.2 connection": (1, with_fields(("connection", "close"))),
    "8.2.2 transfer-encoding": (1, with_fields(("transfer-encoding", "chunked"))),
    "8.2.2 te": (1, [*without("te"), ("te", "gzip")]),
    "8.3 an unknown pseudo-header field": (1, [(":odd", "1"), *REQUEST]),
    "8.3 one of an answer": (1, [(":status", "200"), *REQUEST]),
    "8.3 one after a field": (1, [*without(":path"), (":path", "/")]),
    "8.3.1 no method": (1, without(":method")),
    "8.3.1 no scheme": (1, without(":scheme")),
    "8.3.1 no path": (1, without(":path")),
    "8.3.1 an empty path": (1, [*without(":path")[:2], (":path", ""), *without(":path")[2:]]),
    "8.3.1 two paths": (1, [(":path", "/"), *REQUEST]),
    "8.1.1 content-length of letters": (1, with_fields(("content-length", "a"))),
    "8.1.1 two content-lengths": (1, with_fields(("content-length", "1"), ("content-length", "2"))),
    "8.1.1 content-length of no body": (1, with_fields(("content-length", "1"))),
}


@pytest.mark.parametrize("rule", STREAM_ERRORS)
def test_a_malformed_request_is_a_stream_error(rule: str) -> None:
    code, headers = STREAM_ERRORS[rule]
    wire = Wire()
    wire.feed(wire.request(1, b"", headers))
    assert wire.verdict() == ("stream", code)
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


def violation(rule: str, wire: Wire) -> bytes:
    """The bytes that violate a rule, on a connection that has sent its preface."""
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
            return frame(RST_STREAM, 0, 1, u32(8))
        case "5.1 idle: WINDOW_UPDATE":
            return frame(WINDOW_UPDATE, 0, 1, u32(8))
        case "5.1 half closed: DATA":
            return wire.request(1) + frame(DATA, 0, 1, b"x")
        case "5.1 half closed: HEADERS":
            return wire.request(1) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block())
        case "5.1 reset by the client: DATA":
            return wire.request(1, end=False) + frame(RST_STREAM, 0, 1, u32(8)) + frame(DATA, 0, 1, b"x")
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
            return frame(RST_STREAM, 0, 0, u32(8))
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
            return wire.request(1, end=False) + frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + block())
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
            return frame(WINDOW_UPDATE, 0, 0, u32(0))
        case "6.9 a stream's window by 0":
            return wire.request(1, end=False) + frame(WINDOW_UPDATE, 0, 1, u32(0))
        case "6.9.1 a connection's window too large":
            return frame(WINDOW_UPDATE, 0, 0, u32(MAX))
        case "6.9.1 a stream's window too large":
            return wire.request(1, end=False) + frame(WINDOW_UPDATE, 0, 1, u32(MAX))
        case "6.9.2 a stream's window too large by settings":
            widened = frame(WINDOW_UPDATE, 0, 1, u32(MAX - 65_535))
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
            return wire.request(1, b"abc", with_fields(("content-length", "2")))
        case "8.1.1 less than content-length":
            return wire.request(1, b"abc", with_fields(("content-length", "4")))
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
def test_a_violation_has_the_right_code_and_scope(rule: str) -> None:
    wire = Wire(hold=True)
    wire.feed(violation(rule, wire))
    assert wire.verdict() == ERRORS[rule]
    if ERRORS[rule][0] == "stream":
        wire.feed(wire.request(9, b"fine"))
        assert wire.application.handed[-1] == (9, b"/echo", b"fine")
