"""SETTINGS, PING and the graceful shutdown."""

from __future__ import annotations

from netstore.net import http2
from netstore.net.http2 import (
    ACK,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    frame,
)
from netstore.net.http2.bounds import FRAME_LIMIT
from tests.support.h2client import ENDING, OPENING, Wire
from tests.support.h2frames import (
    CALM,
    MAX,
    setting,
    u32,
)


def test_unknown_frames_and_settings_are_ignored() -> None:
    wire = Wire()
    wire.feed(frame(77, 0xFF, 1, b"what"), setting(0x999, 5), frame(GOAWAY, 0, 0, bytes(8)))
    wire.feed(wire.request(1, b"x"))
    assert wire.application.handed == [(1, b"/echo", b"x")]


def test_of_several_initial_windows_in_a_frame_each_is_checked_and_the_last_is_used() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    window = b"\0\4"
    wire.feed(frame(SETTINGS, 0, 0, window + u32(MAX) + window + u32(0) + window + u32(7)))
    assert wire.application.streams[1].window == 7
    assert [(each.kind, each.flags) for each in wire.sent()] == [(SETTINGS, ACK)]
    wire.feed(frame(SETTINGS, 0, 0, window + u32(MAX + 1) + window + u32(7)))
    assert wire.verdict() == ("connection", http2.FLOW_CONTROL_ERROR)


def test_frames_are_as_large_as_the_peer_takes_but_for_our_own_limit() -> None:
    for wanted, largest in ((None, 16_384), (20_000, 20_000), (2**24 - 1, FRAME_LIMIT)):
        wire = Wire()
        wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX), frame(http2.WINDOW_UPDATE, 0, 0, u32(1_000_000)))
        if wanted is not None:
            wire.feed(setting(http2.SET_MAX_FRAME, wanted))
        wire.feed(wire.request(1, bytes(200_000)))
        assert max(len(each.payload) for each in wire.sent() if each.kind == http2.DATA) == largest


def test_the_cost_of_settings_does_not_grow_with_the_streams() -> None:
    """2,700 initial windows in one frame, with 4,000 streams that have nothing to send."""
    wire = Wire(hold=True)
    numbers = range(1, 8_001, 2)
    for n in numbers:
        wire.feed(wire.request(n))
    payload = b"".join(b"\0\4" + u32(65_535 + i % 2) for i in range(2_700))
    wire.connection.receive(frame(SETTINGS, 0, 0, payload))
    assert 500 < wire.connection.spent < 1_000
    assert wire.application.streams[1].window == 65_536


def ping(wire: Wire, every: float, count: int) -> None:
    for _ in range(count):
        wire.time += every
        wire.feed(frame(PING, 0, 0, b"keepaliv"))


def test_pings_on_an_idle_connection_are_limited() -> None:
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


def test_sent_data_resets_the_count_of_early_pings() -> None:
    """A client measures its bandwidth with a ping after data that it received."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    for _ in range(100):
        ping(wire, 0.001, 3)
        wire.application.streams[1].put_data(b"", b"event")
    assert wire.verdict() is None


def test_a_graceful_shutdown_serves_requests_in_flight() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1))
    wire.connection.drain()
    warned, asked = wire.sent()
    assert (warned.kind, warned.payload[:4], warned.code) == (GOAWAY, u32(MAX), http2.NO_ERROR)
    assert wire.application.told_to_stop == [1]
    wire.feed(wire.request(3))
    assert wire.application.told_to_stop == [1, 3]
    wire.feed(frame(PING, ACK, 0, asked.payload))
    (final,) = wire.sent()
    assert (final.kind, final.payload[:4], final.code) == (GOAWAY, u32(3), http2.NO_ERROR)
    wire.feed(wire.request(5))
    assert wire.verdict() == ("stream", http2.REFUSED_STREAM)
    wire.application.streams[1].answer()
    assert not wire.output.finished
    wire.application.streams[3].answer()
    assert wire.output.finished


def test_a_graceful_shutdown_of_an_idle_connection_takes_one_round_trip() -> None:
    wire = Wire()
    wire.connection.drain()
    _, asked = wire.sent()
    wire.feed(frame(PING, ACK, 0, asked.payload))
    assert [(each.kind, each.payload[:4]) for each in wire.sent()] == [(GOAWAY, u32(0))]
    assert wire.output.finished


def test_a_smaller_dynamic_table_is_acknowledged_in_the_next_block() -> None:
    """RFC 7541, 4.2; clients check it."""
    wire = Wire()
    wire.feed(setting(http2.SET_TABLE_SIZE, 0), wire.request(1), wire.request(3))
    blocks = [each.payload for each in wire.sent() if each.kind == HEADERS]
    assert blocks == [b"\x20" + OPENING, ENDING, OPENING, ENDING]
