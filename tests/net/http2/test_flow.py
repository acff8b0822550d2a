"""Flow control towards the peer: DATA of all streams in turn, within its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.http2 import (
    DATA,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from netstore.net.http2.flow import _frame_some, await_drain
from tests.support.h2client import Wire
from tests.support.h2frames import (
    MAX,
    body_sent,
    check_counters,
    setting,
    u32,
)

if TYPE_CHECKING:
    import pytest


def test_no_more_is_sent_than_the_windows_allow() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 10), wire.request(1))
    stream = wire.application.streams[1]
    stream.answer(bytes(range(100)))
    assert body_sent(wire) == bytes(range(10))
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(5)))
    assert body_sent(wire) == bytes(range(10, 15))
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    assert stream.window == -10
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(10)))
    assert body_sent(wire) == b""
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(1)))
    assert body_sent(wire) == bytes(range(15, 16))
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1000))
    assert body_sent(wire) == bytes(range(16, 100))
    assert not wire.connection.streams


def test_streams_share_the_connection_window_in_turn() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 1_000_000), *(wire.request(n) for n in (1, 3, 5)))
    for stream in wire.application.streams.values():
        stream.answer(bytes(100_000))
    assert len(body_sent(wire)) == 65_535
    wire.feed(frame(WINDOW_UPDATE, 0, 0, u32(3 * 16_384)))
    sent = [each.stream for each in wire.sent() if each.kind == DATA]
    assert sorted(sent) == [1, 3, 5]


def test_data_is_framed_no_faster_than_it_is_sent() -> None:
    """A small answer need not wait for all of a large one before it."""
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX), frame(WINDOW_UPDATE, 0, 0, u32(MAX - 65_535)))
    wire.feed(wire.request(1), wire.request(3))
    wire.output.backlog = 0
    large, small = wire.application.streams[1], wire.application.streams[3]
    wire.output.backlog = http2.UNSENT_LIMIT
    large.answer(bytes(1_000_000))
    small.answer(b"small")
    assert body_sent(wire) == b""
    assert large.backlog == 1_000_000 + http2.UNSENT_LIMIT
    assert wire.connection.has_pending
    wire.output.backlog = 0
    wire.connection.resume()
    sent = [each for each in wire.sent() if each.kind == DATA]
    assert sent[1].payload == b"small"
    assert sum(len(each.payload) for each in sent) == 1_000_005


def test_a_long_answer_is_framed_without_a_copy() -> None:
    """Its frames are views of what was given; the rest is copied at most once, when half of it has gone."""
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    stream = wire.application.streams[1]
    first, second = bytes(100_000), bytes(30_000)
    stream.put_data(b"", first)
    stream.put_data(b"", second)
    pieces: list[bytes | memoryview] = []
    stream.fill(110_000, 16_384, pieces)
    sizes = [int.from_bytes(each[:3], "big") for each in pieces if len(each) == 9]
    assert sizes == [16_384] * 6 + [110_000 - 6 * 16_384]
    bodies = [each for each in pieces if len(each) != 9]
    assert [each.obj for each in bodies if isinstance(each, memoryview)] == [first] * 7 + [second]
    assert sum(map(len, bodies)) == 110_000
    assert stream.queued == 20_000
    stream.fill(20_000, 16_384, pieces)
    assert sum(map(len, pieces)) == 130_000 + 9 * 9


def test_pieces_that_are_given_together_are_framed_and_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX), wire.request(1))
    write = wire.output.write
    written: list[int] = []

    def counted(*pieces: bytes | memoryview) -> None:
        written.append(len(pieces))
        write(*pieces)

    monkeypatch.setattr(wire.output, "write", counted)
    wire.application.streams[1].put_pieces((b"a" * 1_000, b"", b"b" * 20_000), 21_000)
    assert written == [5], "two frames, of two pieces and of the rest of one"
    assert body_sent(wire) == b"a" * 1_000 + b"b" * 20_000


def test_the_little_that_is_left_of_an_answer_has_no_turn_of_its_own() -> None:
    """If no other stream waits."""
    for others, expected in ((0, 50_000), (1, 0)):
        wire = Wire(hold=True)
        wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX), frame(WINDOW_UPDATE, 0, 0, u32(MAX - 65_535)))
        wire.output.backlog = http2.UNSENT_LIMIT
        for number in range(1, 2 + 2 * others, 2):
            wire.feed(wire.request(number))
            wire.application.streams[number].answer(bytes(http2.UNSENT_LIMIT))
        wire.output.backlog = 50_000
        _frame_some(wire.connection, http2.UNSENT_LIMIT - 50_000)
        sent = sum(len(each.payload) for each in wire.sent() if each.kind == DATA)
        assert 0 <= sent - (http2.UNSENT_LIMIT - 50_000) - expected < 16_384


def test_drained_is_called_once() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", bytes(100_000))
    await_drain(wire.connection, stream)
    wire.connection.resume()
    assert wire.application.drained == []
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(100_000)), frame(WINDOW_UPDATE, 0, 0, u32(100_000)))
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
def test_windows_equal_those_of_a_simple_model(steps: list[tuple[str, int, int]]) -> None:
    """The model changes the window of every stream when the initial window changes (RFC 9113, 6.9.2)."""
    wire = Wire(hold=True)
    wire.feed(*(wire.request(n) for n in (1, 3, 5)))
    windows, initial = dict.fromkeys((1, 3, 5), 65_535), 65_535
    whole, given_, sent = 65_535, dict.fromkeys((1, 3, 5), 0), dict.fromkeys((1, 3, 5), 0)
    for step, target, value in steps:
        if step == "window":
            windows[target] += value
            wire.feed(frame(WINDOW_UPDATE, 0, target, u32(value)))
        elif step == "connection":
            whole += value
            wire.feed(frame(WINDOW_UPDATE, 0, 0, u32(value)))
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
            assert not stream.queued or min(whole, windows[n]) <= 0, "all that the windows allow is sent"
        check_counters(wire.connection)


def test_the_window_of_a_closed_stream_does_not_count_for_the_limit() -> None:
    """The upper bound of all windows is computed again before an error is raised."""
    wire = Wire(hold=True)
    wire.feed(wire.request(1, end=False), wire.request(3, end=False))
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(MAX - 65_535)), frame(RST_STREAM, 0, 1, u32(8)))
    wire.feed(frame(WINDOW_UPDATE, 0, 3, u32(1000)), setting(http2.SET_INITIAL_WINDOW, MAX - 1000))
    assert wire.verdict() is None
    assert wire.application.streams[3].window == MAX
    wire.feed(setting(http2.SET_INITIAL_WINDOW, MAX - 999))
    assert wire.verdict() == ("connection", http2.FLOW_CONTROL_ERROR)


def test_data_of_many_streams_whose_windows_open_at_once_is_sent_in_turns() -> None:
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, 0))
    numbers = range(1, 8_001, 2)
    for n in numbers:
        wire.feed(wire.request(n))
        wire.application.streams[n].put_data(b"", b"xy")
    connection = wire.connection
    connection.receive(setting(http2.SET_INITIAL_WINDOW, 1))
    turns = 1
    assert connection.spent <= http2.TURN_WORK + 600
    while wire.output.run_turn():
        turns += 1
        assert connection.spent <= http2.TURN_WORK + 600
    assert turns >= 2
    assert sorted(each.stream for each in wire.sent() if each.kind == DATA) == list(numbers)
