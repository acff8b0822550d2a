"""Streaming calls: messages in turns, time limits, and the end of a stream, told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.net import http2
from netstore.net.http2 import frame
from tests.support.grpcwire import (
    GrpcWire,
    Keeper,
    message_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.grpc.protocols import Call


@pytest.mark.parametrize("ends", ["read", "reset", "gone"])
def test_messages_of_a_stream_that_were_not_handed_over_are_charged(ends: str) -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, b"", path="/a.A/Keep", end=False))
    account = wire.output.account
    before = account.held
    piece = message_of(100) * 100
    wire.connection.receive(frame(http2.DATA, 0, 1, piece) * 4)
    left = 400 - len(wire.kept)
    assert left > 200
    assert account.held >= before + 100 * left
    assert account.lasting >= 100 * left
    if ends == "gone":
        wire.connection.gone()
        assert account.held == 0
        return
    wire.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08") if ends == "reset" else b"")
    assert len(wire.kept) == (400 if ends == "read" else 401 - left)
    assert account.held <= before


@pytest.mark.parametrize("fault", [ValueError("a defect"), MemoryError()], ids=["defect", "memory"])
@pytest.mark.parametrize(
    ("faults", "ends", "told"),
    [
        ({"received"}, True, ["received"]),
        ({"half_closed"}, True, ["received", "half_closed"]),
        ({"received", "cancelled", "on_cancelled"}, True, ["received"]),
        ({"cancelled"}, False, ["received", "half_closed"]),
        ({"cancelled", "on_cancelled"}, False, ["received", "half_closed"]),
    ],
)
def test_the_end_of_a_stream_is_reported_once(
    faults: set[str], ends: bool, told: list[str], fault: Exception
) -> None:
    """Whatever raises: the receiver, the cancel callback, or one after the other."""
    wire = GrpcWire()
    wire.faults, wire.fault = faults, fault
    wire.feed(wire.call(1, message_of(3), path="/a.A/Defect"))
    assert wire.told[: len(told)] == told
    assert bool(wire.connection.streams) is not ends
    if ends:
        assert wire.trailers(wire.said)["grpc-status"] == "13"
    wire.connection.gone()
    assert sorted(wire.told[len(told) :]) == ["cancelled", "on_cancelled"]
    assert len(wire.log.events) == len(faults)


def test_a_handler_during_which_the_connection_ends_has_its_receiver_told_once() -> None:
    """Also if so many other streams end with it that it is freed in a later round."""
    wire = GrpcWire()
    soon: list[Callable[[], object]] = []
    wire.connection.server._soon = soon.append
    for number in range(1, 2 * 2 * http2.ENDED_AT_ONCE, 2):
        wire.feed(wire.call(number, message_of(3)))

    def open_and_go(_: Call) -> Keeper:
        wire.connection.gone()
        return Keeper(wire.kept)

    wire.server.services.stream[b"/a.A/Go"] = open_and_go
    wire.feed(wire.call(1001, b"", path="/a.A/Go", end=False))
    assert wire.kept == []
    while soon:
        soon.pop()()
    assert wire.kept == [b"cancelled"]


def test_many_messages_of_a_read_are_handled_in_turns() -> None:
    wire = GrpcWire()
    connection = wire.connection
    connection.receive(wire.call(1, message_of(0) * 2_000, path="/a.A/Keep"))
    turns = 1
    while wire.output.run_turn():
        turns += 1
        assert connection.spent <= http2.TURN_WORK + 33 * http2.HANDLING_WORK
    assert turns >= 2_000 * http2.HANDLING_WORK // http2.TURN_WORK
    assert wire.kept == [b""] * 2_000 + [b"end"]


@pytest.mark.parametrize("before", [0, 1])
def test_a_stream_ends_with_its_last_message(before: int) -> None:
    """As if that was sent and the stream ended after it; and the receiver is freed."""
    said = []
    for in_one in (True, False):
        wire = GrpcWire()
        calls: list[Call] = []

        def keep(call: Call, wire: GrpcWire = wire, calls: list[Call] = calls) -> Keeper:
            calls.append(call)
            return Keeper(wire.kept)

        wire.server.services.stream[b"/a.A/Last"] = keep
        wire.feed(wire.call(1, message_of(3), path="/a.A/Last"))
        (call,) = calls
        assert call._receiver is not None  # type: ignore[attr-defined]
        for _ in range(before):
            call.send(b"first")
        if in_one:
            call.reply(b"last")
        else:
            call.send(b"last")
            call.finish()
        call.reply(b"too late")
        assert call._receiver is None  # type: ignore[attr-defined]
        assert not wire.connection.streams
        wire.feed()
        said.append(wire.output.sent + wire.said)
    assert said[0] == said[1]
    assert wire.trailers(said[0])["grpc-status"] == "0"


def sweep_until(wire: GrpcWire, time: float) -> None:
    while wire.time < time:
        wire.time += 1
        wire.connection.sweep(wire.time)


def test_each_message_of_a_stream_has_a_time_limit_of_its_own() -> None:
    """There is none before the first: clients open streams before they have something to send."""
    wire = GrpcWire()
    start = wire.time
    for number in (1, 3, 5):
        wire.feed(wire.call(number, b"", path="/a.A/Keep", end=False))
    wire.feed(frame(http2.DATA, 0, 3, message_of(2)), frame(http2.DATA, 0, 5, b"\0"))
    assert wire.connection.unfinished == 2
    sweep_until(wire, start + http2.REQUEST_SECONDS + http2.REQUEST_CHECK_SECONDS + 1)
    assert set(wire.connection.streams) == {1, 3}
    assert wire.kept == [bytes(2), b"cancelled"]
    wire.kept.clear()
    sweep_until(wire, wire.time + 10_000)
    assert set(wire.connection.streams) == {1, 3}
    wire.feed(frame(http2.DATA, http2.END_STREAM, 1, message_of(3)))
    assert (wire.kept.pop(0), wire.connection.unfinished) == (bytes(3), 0)
    wire.kept.clear()
    # Messages that are split across reads: each has its own time limit, whatever the number of pieces.
    two = message_of(10) * 2
    for piece in (two[:10], two[10:20], two[20:30]):
        wire.feed(frame(http2.DATA, 0, 3, piece))
        wire.time += http2.REQUEST_SECONDS - 10
        wire.connection.sweep(wire.time)
    assert wire.connection.unfinished == 0
    assert wire.kept == [bytes(10), bytes(10)]
    for _ in range(2):
        wire.feed(frame(http2.DATA, 0, 3, b"\0"))
        sweep_until(wire, wire.time + http2.REQUEST_SECONDS / 2)
    assert wire.connection.unfinished == 1
    sweep_until(wire, wire.time + http2.REQUEST_CHECK_SECONDS + 1)
    assert 3 not in wire.connection.streams
    assert wire.connection.held == 0
    assert wire.kept[-1] == b"cancelled"


def test_messages_of_streams_are_handled_while_calls_are_held_back() -> None:
    """A lease is kept alive while a large answer waits for its window; unary calls wait, in order."""
    wire = GrpcWire()
    wire.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), wire.call(1, b"", path="/a.A/Keep", end=False))
    wire.feed(wire.call(3, message_of(1)))
    (large, _), *_ = wire.asked
    large.send(bytes(http2.QUEUED_LIMIT))
    wire.feed(
        wire.call(5, message_of(1)), wire.call(7, message_of(2)), frame(http2.DATA, 0, 1, message_of(9))
    )
    assert wire.kept == [bytes(9)]
    assert len(wire.asked) == 1
    more = (10_000).to_bytes(4, "big")
    wire.feed(frame(http2.WINDOW_UPDATE, 0, 3, more))
    assert [message for _, message in wire.asked] == [bytes(1), bytes(1), bytes(2)]
