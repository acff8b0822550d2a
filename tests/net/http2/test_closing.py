"""How streams end: resets by either side, exceptions of the application, frames that come too late."""

from __future__ import annotations

import pytest

from netstore.net import http2
from netstore.net.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from netstore.net.http2.flow import await_drain
from tests.support.h2client import Wire, block
from tests.support.h2frames import (
    setting,
    u32,
)


def test_a_frame_on_a_completed_stream_is_a_connection_error() -> None:
    wire = Wire()
    wire.feed(wire.request(1))
    wire.sent()
    wire.feed(frame(DATA, 0, 1, b"x"))
    assert wire.verdict() == ("connection", http2.STREAM_CLOSED)


def test_frames_in_flight_to_a_stream_that_we_reset_are_ignored() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, b"x" * 10, end=False))
    wire.application.streams[1].answer(b"enough")
    wire.sent()
    wire.feed(frame(DATA, 0, 1, b"late"), frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("a", "b")])))
    assert wire.verdict() is None
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


FAULTS = [ValueError("a defect"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=["defect", "memory"])
@pytest.mark.parametrize("mute", [False, True], ids=["told", "log fails"])
@pytest.mark.parametrize("name", ["open", "take", "hand_over", "lost", "told", "drained", "drain"])
def test_an_exception_of_a_stream_resets_only_that_stream(name: str, fault: Exception, mute: bool) -> None:
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
        wire.feed(frame(WINDOW_UPDATE, 0, 0, u32(300_000)))
        wire.feed(b"".join(frame(WINDOW_UPDATE, 0, n, u32(100_000)) for n in (1, 3, 5)))
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


def test_watches_may_all_be_cancelled_at_once() -> None:
    """Resets of streams that were open for a while do not count as early."""
    wire = Wire(hold=True)
    numbers = range(1, 6_001, 2)
    for n in numbers:
        wire.feed(wire.request(n, b"x"))
    wire.time += 2
    for n in numbers:
        wire.feed(frame(RST_STREAM, 0, n, u32(http2.CANCEL)))
    assert wire.verdict() is None
    assert wire.application.lost == list(numbers)


def test_queued_data_of_a_reset_stream_is_dropped() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 10), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", bytes(1000))
    assert wire.connection.queued == 990
    wire.feed(frame(RST_STREAM, 0, 1, u32(http2.CANCEL)))
    assert wire.connection.queued == 0
    wire.sent()
    wire.connection.resume()
    assert wire.sent() == []
