"""One HTTP/2 connection: parsing however the bytes are split, turns, work limits, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from netstore.net.tokenbucket import TokenBucket
from tests.support.h2client import Wire, block, fields
from tests.support.h2frames import (
    CALM,
    many_fields,
    most_work_of_a_frame,
    setting,
    u32,
    with_fields,
)

if TYPE_CHECKING:
    from netstore.net.http2 import Http2Connection


@given(st.data())
def test_it_does_not_matter_how_the_bytes_are_split(data: st.DataObject) -> None:
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
            frame(RST_STREAM, 0, 7, u32(http2.CANCEL)),
        )
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    one.feed(stream)
    other.feed(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a != b))
    assert other.application.handed == one.application.handed
    assert [n for n, _, _ in one.application.handed] == [1, 3, 5]
    kinds = [each for each in other.sent() if each.kind != WINDOW_UPDATE]
    assert sorted(kinds, key=repr) == sorted((e for e in one.sent() if e.kind != WINDOW_UPDATE), key=repr)
    assert not other.connection.incomplete


def test_a_request_may_arrive_byte_by_byte() -> None:
    wire = Wire(greet=False)
    stream = PREFACE + frame(SETTINGS, 0, 0) + wire.request(1, b"hello")
    wire.feed(*(stream[i : i + 1] for i in range(len(stream))))
    assert wire.application.handed == [(1, b"/echo", b"hello")]


def test_a_request_that_came_whole_is_taken_at_once_with_content_length_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "netstore.net.http2.connection.receive_data", lambda _, stream, *_more: seen.append(stream.number)
    )
    wire = Wire()
    wire.feed(
        wire.request(1, b"abc")
        + wire.request(3, b"abc", with_fields(("content-length", "3")))
        + wire.request(5, b"abc", with_fields(("content-length", "4")))
    )
    assert [n for n, _, _ in wire.application.handed] == [1, 3]
    assert seen == [5], "what has to be judged by its Content-Length"


def test_all_frames_of_a_read_are_parsed_before_anything_is_handled() -> None:
    """A request that is reset in the same read is never seen by its handler."""
    wire = Wire()
    wire.feed(wire.request(1, b"x") + frame(RST_STREAM, 0, 1, u32(http2.CANCEL)) + wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [3]


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


def test_a_connection_error_ends_all_streams() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False), wire.request(3), frame(PING, 0, 1, bytes(8)))
    assert wire.application.lost == [1, 3]


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    wire = Wire()
    wire.feed(frame(HEADERS, END_HEADERS, 1 | 1 << 31, block()), frame(DATA, END_STREAM, 1 | 1 << 31, b"x"))
    assert wire.application.handed == [(1, b"/echo", b"x")]


def test_a_connection_that_ends_during_a_read_parses_no_more_of_it() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False))
    wire.connection.drain()
    wire.feed(frame(PING, ACK, 0, b"draining"))
    wire.sent()
    wire.feed(frame(RST_STREAM, 0, 1, u32(8)) + frame(PING, 0, 0, bytes(8)) + b"half a frame"[:5])
    assert wire.output.finished
    assert wire.sent() == []
    assert not wire.connection.incomplete


def test_requests_wait_while_too_much_is_queued() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].put_data(b"", bytes(http2.QUEUED_LIMIT + 1))
    wire.feed(wire.request(3))
    assert [n for n, _, _ in wire.application.handed] == [1]
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(100)))
    assert [n for n, _, _ in wire.application.handed] == [1, 3]


def test_what_a_client_can_send_while_requests_wait_is_bounded() -> None:
    """By the connection window, which is not opened again until what was read is handled."""
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    wire.application.streams[1].put_data(b"", bytes(http2.QUEUED_LIMIT + 1))
    sent, stream = 0, 3
    while sent + 1_000_000 <= http2.CONNECTION_WINDOW:
        wire.feed(wire.request(stream, bytes(1_000_000)))
        sent, stream = sent + 1_000_000, stream + 2
    assert [each for each in wire.sent() if each.kind == WINDOW_UPDATE and each.stream == 0] == []
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(100)))
    (update,) = [each for each in wire.sent() if each.kind == WINDOW_UPDATE and each.stream == 0]
    assert update.payload == u32(sent)


def huffman(wire: Wire) -> bytes:
    code = b"\x1c\x64\xd5" * 2_600
    size = len(code) - 127
    field = b"\x00\x01x\xff" + bytes((size & 127 | 128, size >> 7)) + code
    return b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, block() + field) for n in range(1, 17, 2))


def small_requests(wire: Wire) -> bytes:
    return b"".join(wire.request(n) for n in range(1, 1_001, 2))


FLOODS = {"fields": many_fields, "huffman": huffman, "requests": small_requests}


@pytest.mark.parametrize("flood", FLOODS)
def test_what_was_read_is_processed_in_turns(flood: str) -> None:
    """A turn stops at the frame or request that exceeds its share of work; nothing is lost or reordered."""
    wire = Wire()
    wire.connection.receive(FLOODS[flood](wire))
    turns = 1
    assert wire.connection.at_limit or wire.connection.ready
    assert not wire.connection.incomplete
    while wire.output.run_turn():
        turns += 1
        assert wire.connection.spent <= http2.TURN_WORK + most_work_of_a_frame()
    assert turns > 2
    assert not wire.connection.at_limit
    handed = [n for n, _, _ in wire.application.handed]
    assert handed == list(range(1, 2 * len(handed), 2))
    assert len(handed) in (45, 8, 500)
    assert wire.verdict() is None


def test_a_connection_that_ended_keeps_no_memory() -> None:
    """Its peer may take long to read the GOAWAY."""
    wire = Wire(hold=True)
    wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, wire.compressed()), wire.request(3))
    wire.feed(frame(HEADERS, END_HEADERS, 9, block()), frame(RST_STREAM, 0, 9, u32(8)))
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


def is_paused(connection: Http2Connection) -> bool:
    """It is not read for now."""
    return connection.at_limit


def test_a_connection_beyond_its_rate_of_work_is_paused_and_finally_closed() -> None:
    wire = Wire()
    connection = wire.connection
    first, pauses = 1, 0
    while not wire.output.finished:
        heavy = block() + b"\x90" * 1_000
        wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, first, heavy))
        first += 2
        if is_paused(connection):
            handed = len(wire.application.handed)
            wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, first, block()))
            first += 2
            assert len(wire.application.handed) == handed, "nothing is parsed while it is paused"
            connection.sweep(wire.time + 1e-6)
            assert is_paused(connection), "too soon"
            pauses += 1
            wire.time += 0.1
            connection.sweep(wire.time)
            while wire.output.run_turn():
                pass
            assert not is_paused(connection)
            assert len(wire.application.handed) == handed + 2
        assert first < 10_000
    assert pauses == http2.MAX_PAUSES
    assert wire.verdict() == ("connection", CALM)


def test_a_busy_client_with_equal_requests_is_never_paused() -> None:
    """25,000 requests a second, more than a core answers, with a small burst allowed."""
    wire = Wire()
    wire.connection._work = TokenBucket(10_000, wire.time, http2.WORK_RATE)
    first = 1
    for _ in range(60):
        wire.feed(b"".join(wire.request(n, b"x") for n in range(first, first + 200, 2)))
        first += 200
        wire.time += 1 / 250
        assert not wire.connection.at_limit
    assert len(wire.application.handed) == 6_000


def test_a_connection_with_an_open_stream_is_not_idle() -> None:
    wire = Wire(hold=True)
    idle = [wire.connection.idle]
    wire.feed(wire.request(1))
    idle.append(wire.connection.idle)
    wire.application.streams[1].answer()
    idle.append(wire.connection.idle)
    assert idle == [True, False, True]


def test_a_silent_peer_is_sent_a_ping_and_then_cut() -> None:
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


def test_eof_ends_all_streams() -> None:
    wire = Wire(hold=True)
    wire.feed(wire.request(1), wire.request(3, end=False))
    wire.connection.eof()
    assert wire.output.was_cut
    assert wire.application.lost == [1, 3]


def test_an_incomplete_frame_can_be_refused() -> None:
    wire = Wire()
    before = wire.connection.incomplete
    wire.feed(wire.request(1, b"hello")[:-1])
    assert (before, wire.connection.incomplete) == (False, True)
    wire.connection.refuse(408, b"too slow")
    assert wire.verdict() == ("connection", CALM)


def test_a_large_header_block_is_split_into_frames() -> None:
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
