"""DATA from the client, and our windows."""

from __future__ import annotations

from netstore.net import http2
from netstore.net.http2 import (
    DATA,
    PADDED,
    WINDOW_UPDATE,
    frame,
)
from tests.support.h2client import Wire


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


def test_data_beyond_our_windows_is_an_error() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False) + frame(DATA, 0, 1, bytes(16_384)) * 65)
    # Our window was opened again during this read. The client could not know that, but our count is valid.
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
