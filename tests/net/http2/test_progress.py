"""Time limits on a peer: late frames, slow requests, and windows that stay closed."""

from __future__ import annotations

import pytest

from netstore.net import http2
from netstore.net.exchange import LOW_WATER
from netstore.net.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.support.h2client import Wire, block
from tests.support.h2frames import (
    CALM,
    late_after,
    setting,
    u32,
)


@pytest.mark.parametrize("begun", [b"", PREFACE[:20], PREFACE + frame(SETTINGS, 0, 0, bytes(6))[:12]])
def test_the_time_limit_of_the_preface_is_not_extended_by_single_bytes(begun: bytes) -> None:
    wire = Wire(greet=False)
    for byte in begun:
        wire.feed(bytes((byte,)))
    settings = len(begun) > len(PREFACE)
    limit = http2.FRAME_SECONDS if settings else http2.PREFACE_SECONDS
    assert not late_after(wire, limit)
    assert late_after(wire, 1)


def test_the_time_limit_of_a_frame_is_not_extended_by_single_bytes() -> None:
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


def test_time_in_which_a_connection_is_not_read_does_not_count() -> None:
    wire = Wire()
    wire.feed(frame(PING, 0, 0, bytes(8))[:5])
    wire.output.paused = True
    assert not late_after(wire, 3 * http2.FRAME_SECONDS)
    wire.output.paused = False
    assert not late_after(wire, http2.FRAME_SECONDS)
    assert late_after(wire, 1)


def test_the_time_limit_of_a_header_block_is_not_extended_by_frames() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, 0, 1, block()))
    for _ in range(5):
        assert not late_after(wire, http2.BLOCK_SECONDS / 5)
        wire.feed(frame(CONTINUATION, 0, 1))
    assert late_after(wire, 1)
    wire.feed(frame(CONTINUATION, END_HEADERS, 1))
    assert not late_after(wire, 100)


def test_a_request_that_stays_incomplete_is_reset() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, b"x"), wire.request(3, b"x", end=False))
    late_after(wire, 30)
    wire.feed(wire.request(5, end=False))
    late_after(wire, http2.REQUEST_SECONDS - 30)
    assert wire.sent() == []
    wire.feed(frame(DATA, 0, 3, b"still coming"))
    late_after(wire, http2.REQUEST_CHECK_SECONDS + 1)
    assert wire.verdict() == ("stream", http2.CANCEL)
    assert wire.application.lost == [3]
    assert set(wire.connection.streams) == {1, 5}
    late_after(wire, 1000)
    assert set(wire.connection.streams) == {1}
    assert wire.connection.unfinished == 0


@pytest.mark.parametrize(("every_second", "stays"), [(1, False), (1, True), (4, True)])
def test_a_slow_request_must_keep_the_minimum_rate(every_second: int, stays: bool) -> None:
    """In each period, whatever came before; it may take long in all."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    if not stays:
        wire.feed(*(frame(DATA, 0, 1, bytes(16_000)) for _ in range(10)))
    for _ in range(400):
        if stays:
            wire.feed(frame(DATA, 0, 1, bytes(every_second * http2.REQUEST_RATE)))
        late_after(wire, 1)
    assert (1 in wire.connection.streams) is stays


def stalled(size: int) -> Wire:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].answer(bytes(size))
    wire.sent()
    return wire


def test_a_stream_whose_window_stays_closed_is_reset() -> None:
    wire = stalled(100_000)
    late_after(wire, http2.STALL_SECONDS)
    assert wire.sent() == []
    late_after(wire, 2)
    assert wire.verdict() == ("stream", CALM)
    assert wire.connection.queued == 0
    assert wire.application.lost == []
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1, 3]


def test_a_connection_whose_window_stays_closed_is_ended() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1 << 20), wire.request(1))
    wire.application.streams[1].answer(bytes(200_000))
    wire.sent()
    late_after(wire, http2.STALL_SECONDS)
    assert wire.sent() == []
    late_after(wire, 32)
    assert wire.verdict() == ("connection", CALM)
    assert wire.output.account.held == 0


def test_of_stalled_streams_those_with_most_data_are_reset() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), *(wire.request(n) for n in (1, 3, 5, 7)))
    for number_, size in ((1, 100), (3, 100_000), (5, 50_000), (7, 100_000)):
        wire.application.streams[number_].answer(bytes(size))
    late_after(wire, http2.STALL_SECONDS - 1)
    wire.feed(frame(WINDOW_UPDATE, 0, 7, u32(10)))
    late_after(wire, 3)
    assert set(wire.connection.streams) == {1, 5, 7}
    assert wire.output.finished is False


def test_many_stalled_streams_are_reset_in_several_sweeps() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    count = 3 * http2.ENDED_AT_ONCE
    for n in range(1, 2 * count, 2):
        wire.feed(wire.request(n))
        wire.application.streams[n].answer(bytes(LOW_WATER // 10))
    late_after(wire, http2.STALL_SECONDS)
    before = count
    for _ in range(2):
        late_after(wire, 1)
        assert before - len(wire.connection.streams) == http2.ENDED_AT_ONCE
        before -= http2.ENDED_AT_ONCE
    more = u32(LOW_WATER)
    for n in list(wire.connection.streams):
        wire.feed(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, n, more))
        break
    late_after(wire, 2)
    assert 0 < len(wire.connection.streams) <= 10
    assert wire.output.finished is False


def test_windows_must_let_the_minimum_rate_through() -> None:
    for every_second, closed in ((http2.STALL_RATE // 2, True), (2 * http2.STALL_RATE, False)):
        wire = stalled(1_000_000)
        for _ in range(100):
            wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(every_second)))
            wire.feed(frame(WINDOW_UPDATE, 0, 0, u32(every_second)))
            late_after(wire, 1)
        assert wire.output.finished is closed


def test_little_queued_data_or_a_slow_network_is_not_a_stall() -> None:
    wire = stalled(LOW_WATER)
    late_after(wire, 1_000)
    assert wire.sent() == []
    wire = stalled(100_000)
    wire.output.backlog = http2.UNSENT_LIMIT
    late_after(wire, 1_000)
    assert wire.sent() == []


def test_requests_wait_sooner_once_memory_is_spent() -> None:
    wire = stalled(http2.QUEUED_LIMIT_OVER + 1)
    wire.output.account.charge(1 << 30)
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1]
    wire.output.account.release(1 << 30)
    wire.connection.resume()
    assert [n for n, _, _ in wire.application.handed] == [1, 3]
    small = stalled(http2.QUEUED_LIMIT_OVER - 10)
    small.output.account.charge(1 << 30)
    small.feed(small.request(3))
    assert [n for n, _, _ in small.application.handed] == [1, 3]
