"""What the connections of a listener share: cached heads, units of work in a round, streams to be freed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from netstore.net import http2
from netstore.net.http2.hpackcache import kept_size
from tests.support.h2client import ENDING, Wire
from tests.support.h2frames import (
    check_counters,
    many_fields,
    replaced,
    setting,
    with_fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_a_request_that_cannot_be_routed_is_reset() -> None:
    wire = Wire()
    wire.application.faults["route"] = ValueError("a defect")
    wire.feed(wire.request(1, b"", replaced(":path", "/unroutable")))
    assert wire.verdict() == ("stream", http2.INTERNAL_ERROR)
    wire.feed(wire.request(3, b"fine"))
    assert wire.application.handed == [(3, b"/echo", b"fine")]


def test_a_round_stays_short_with_many_busy_connections() -> None:
    """All connections together do little more work in a round than two may, and small requests are served."""
    time = [2000.0]
    wires = [Wire() for _ in range(16)]
    server, handed = wires[0].server, wires[0].application.handed
    server.clock = lambda: time[0]
    for wire in wires:
        wire.connection.server = server
    time[0] += 1
    for wire in wires[:-1]:
        wire.connection.receive(many_fields(wire, 12))
    assert server.spent <= http2.ROUND_WORK + 15 * 2_600
    wires[-1].connection.receive(wires[-1].request(1, b"small"))
    assert handed[-1] == (1, b"/echo", b"small")
    rounds = 0
    while [wire for wire in wires if wire.output.turns]:
        time[0] += 0.01
        rounds += 1
        for wire in wires:
            wire.output.run_turn()
        assert server.spent <= http2.ROUND_WORK + 16 * 2_600
    assert rounds > 6
    assert len(handed) == 15 * 12 + 1


def test_streams_of_closed_connections_are_freed_over_rounds() -> None:
    """None of them sends anything meanwhile, and each is told once."""
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
        check_counters(wire.connection)
        assert wire.connection.queued == 0
    assert not any(each.open for each in streams)
    assert len(application.lost) == http2.ENDED_AT_ONCE
    rounds = 0
    while asked:
        rounds += 1
        before = len(application.lost)
        asked.pop()()
        assert not asked or len(application.lost) == before + http2.ENDED_AT_ONCE
    assert rounds == len(streams) // http2.ENDED_AT_ONCE
    assert sorted(application.lost) == sorted(each.number for each in streams)
    wires[0].connection.server.free_streams([])
    assert not asked


def test_the_end_of_a_connection_frees_few_streams_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that were answered and wait for a window."""
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
        assert 0 < len(set(touched)) <= http2.ENDED_AT_ONCE
        touched.clear()
        if not asked:
            break
        asked.pop()()
    assert sorted(wire.application.lost) == [n for at, n in enumerate(range(1, 1001, 2)) if at % 4]
    assert [each for each in streams if each.kept or each.queued or each.since is not None] == []
    assert wire.output.account.held == 0


def test_cached_heads_are_bounded_in_bytes() -> None:
    """The overhead of a field counts: fields of one letter take far more memory than one byte."""
    wire = Wire()
    sizes = []
    for i in range(4_200):
        many = [(f"{c}", "") for c in "abcdefghijk"]
        wire.feed(wire.request(2 * i + 1, b"", with_fields(("n", str(i)), *many)))
        sizes.append(wire.server._heads_size)
    assert wire.verdict() is None
    assert 1024 * 1024 < max(sizes) <= http2.HEADS_KNOWN_SIZE
    assert sum(1 for a, b in pairwise(sizes) if b < a) >= 1
    assert wire.server._heads_size == sum(map(kept_size, wire.server._heads))
    known = len(wire.server._heads)
    wire.feed(wire.request(9_001, b"", with_fields(("large", "x" * http2.HEAD_KNOWN_SIZE))))
    assert len(wire.server._heads) == known
