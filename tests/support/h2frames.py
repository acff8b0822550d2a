"""Frames, malformed requests and checks that the tests of HTTP/2 share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net import http2
from netstore.net.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    frame,
)
from netstore.net.http2.charging import charge
from netstore.net.http2.hpackcache import HUFFMAN_LIMIT
from tests.support.h2client import REQUEST, Wire, block

if TYPE_CHECKING:
    from netstore.net.http2 import Http2Connection


MAX = 2**31 - 1
CALM = http2.ENHANCE_YOUR_CALM


def u32(value: int) -> bytes:
    """An unsigned integer of 32 bits, as frames have it."""
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one setting."""
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + u32(value))


def check_counters(connection: Http2Connection) -> None:
    """The counters and lists of a connection agree with its streams."""
    streams = list(connection.streams.values())
    assert connection.queued == sum(each.queued for each in streams)
    assert all(each.queued >= 0 for each in streams)
    assert connection.answers == sum(each.queued for each in streams if each.defers_to_peer)
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


def with_fields(*headers: tuple[str, str]) -> list[tuple[str, str]]:
    """The header list of a request with these fields more."""
    return [*REQUEST, *headers]


def replaced(name: str, value: str) -> list[tuple[str, str]]:
    """The header list of a request with another value of one field."""
    return [(key, value if key == name else old) for key, old in REQUEST]


def body_sent(wire: Wire) -> bytes:
    """The payloads of the DATA frames that were sent since this or `Wire.sent` was called last."""
    return b"".join(each.payload for each in wire.sent() if each.kind == DATA)


def most_work_of_a_frame() -> int:
    """An upper bound of the units of work of one frame: for the largest header list with as much Huffman code
    as allowed, or for all streams that it affects.
    """
    fields_ = http2.LIST_LIMIT // 32
    return 2 * fields_ + HUFFMAN_LIMIT // 5 + http2.MAX_STREAMS // 4 + http2.MAX_FRAME // 5 + 100


def many_fields(wire: Wire, count: int = 45) -> bytes:
    """Requests that each have a thousand fields, all from the static table."""
    heavy = block() + b"\x90" * 1_000
    return b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, heavy) for n in range(1, 2 * count, 2))


def late_after(wire: Wire, seconds: float) -> bool:
    """Let time pass, a sweep each second; whether the peer is late then (`Http2Connection.timed_out`)."""
    end = wire.time + seconds
    while wire.time + 1 <= end:
        wire.time += 1
        wire.connection.sweep(wire.time)
        while wire.output.run_turn():
            pass
    return wire.connection.timed_out
