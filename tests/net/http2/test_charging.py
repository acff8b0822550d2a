"""What a connection is charged for: header blocks in memory, empty frames, early resets."""

from __future__ import annotations

import pytest

from netstore.net import http2
from netstore.net.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from netstore.net.http2.hpackcache import FIELD_COST
from tests.support.h2client import REQUEST, Wire, block
from tests.support.h2frames import (
    CALM,
    u32,
)


def test_cached_header_blocks_are_charged_without_open_streams() -> None:
    """As `Account.lasting`: reading does not free it."""
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
def test_too_many_empty_frames_end_the_connection(nothing: bytes) -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    wire.sent()
    wire.feed(nothing * (http2.EMPTY_FRAMES_BURST - 10))
    assert wire.verdict() is None
    wire.feed(nothing * 20)
    assert wire.verdict() == ("connection", CALM)


def test_empty_frames_within_the_rate_are_accepted() -> None:
    wire = Wire()
    for _ in range(100):
        wire.feed(frame(SETTINGS, 0, 0) * 90)
        wire.time += 1
    assert wire.verdict() is None


def test_too_many_rapid_resets_end_the_connection() -> None:
    wire = Wire()
    reset = u32(http2.CANCEL)
    for n in range(1, 2 * http2.EARLY_RESETS_BURST + 1, 2):
        wire.feed(wire.request(n, b"x", end=False) + frame(RST_STREAM, 0, n, reset))
    assert wire.verdict() is None
    wire.feed(wire.request(9001, end=False) + frame(RST_STREAM, 0, 9001, reset))
    assert wire.verdict() == ("connection", CALM)
    assert wire.application.handed == []


def test_too_many_provoked_resets_end_the_connection() -> None:
    """Streams that we reset for stream errors of the client count like those it resets itself
    (CVE-2025-8671).
    """
    wire = Wire(hold=True)
    for n in range(1, 2 * http2.EARLY_RESETS_BURST + 20, 2):
        wire.feed(wire.request(n, end=False) + frame(WINDOW_UPDATE, 0, n, u32(0)))
    sent = wire.sent()
    assert sent[-1].kind == GOAWAY
    assert sent[-1].code == CALM
