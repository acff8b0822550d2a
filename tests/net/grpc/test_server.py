"""The deadlines of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.grpcwire import (
    GrpcWire,
    message_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_deadline_ends_a_call_that_was_not_answered() -> None:
    wire = GrpcWire()
    wire.feed(
        wire.call(1, message_of(3), ("grpc-timeout", "5S")),
        wire.call(3, message_of(3), ("grpc-timeout", "1S")),
        wire.call(5, message_of(3)),
    )
    first, second, third = (call for call, _ in wire.asked)
    assert (first.deadline, second.deadline, third.deadline) == (105.0, 101.0, None)
    wire.time = 101.5
    wire.run_due()
    assert (first.open, second.open, wire.cancelled) == (True, False, 1)
    assert wire.trailers(wire.output.sent)["grpc-status"] == "4"
    assert wire.trailers(wire.output.sent)["grpc-message"] == "context deadline exceeded"
    first.reply(b"in time")
    wire.time = 1000.0
    wire.run_due()
    assert (third.open, wire.cancelled) == (True, 1)
    assert wire.due == []


def test_a_malformed_timeout_is_refused() -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(3), ("grpc-timeout", "soon")))
    assert wire.trailers(wire.said)[":status"] == "400"
    assert wire.asked == []


def test_a_stream_with_a_malformed_timeout_is_not_handled() -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(3), ("grpc-timeout", "soon"), path="/a.A/Keep", end=False))
    assert wire.trailers(wire.said)["grpc-status"] == "13"
    wire.connection.gone()
    assert wire.kept == []


def test_a_deadline_uses_the_clock_of_its_alarm() -> None:
    """The connection's clock does not count time in which the process was stopped."""
    wire = GrpcWire()
    wire.connection.server.clock = lambda: wire.time - 3600
    wire.feed(wire.call(1, message_of(0), ("grpc-timeout", "5S")))
    wire.time += 4
    wire.run_due()
    assert wire.cancelled == 0
    assert len(wire.connection.streams) == 1
    wire.time += 2
    wire.run_due()
    assert wire.trailers(wire.output.sent)["grpc-status"] == "4"


def test_calls_with_ever_shorter_deadlines_leave_nothing_behind() -> None:
    """One alarm serves all of them, and only open calls have an entry."""
    wire = GrpcWire()
    for i in range(3_000):
        wire.feed(wire.call(2 * i + 1, message_of(0), ("grpc-timeout", f"{8_000 - i}H")))
        wire.asked.pop()[0].reply(b"")
        assert sum(not each.cancelled for each in wire.due) == 1
    assert (len(wire.server._timed), wire.connection.streams) == (0, {})
    wire.feed(wire.call(9_001, message_of(0), ("grpc-timeout", "1S")))
    wire.time += 1
    wire.run_due()
    assert wire.trailers(wire.output.sent)["grpc-status"] == "4"


def test_many_calls_that_expire_at_once_end_in_several_ticks() -> None:
    wire = GrpcWire()
    for i in range(150):
        wire.feed(wire.call(2 * i + 1, message_of(0), ("grpc-timeout", "1S")))
    wire.time += 2
    for left in (86, 22, 0):
        wire.run_due()
        assert len(wire.connection.streams) == left
    assert wire.cancelled == 150
    assert wire.due == []


def test_many_calls_that_expire_at_once_end_in_the_next_rounds() -> None:
    wire = GrpcWire()
    soon: list[Callable[[], object]] = []
    wire.server._soon = soon.append
    for i in range(150):
        wire.feed(wire.call(2 * i + 1, message_of(0), ("grpc-timeout", "1S")))
    wire.feed(wire.call(9_001, message_of(0), ("grpc-timeout", "9S")))
    wire.time += 2
    wire.run_due()
    for left in (87, 23, 1):
        assert len(wire.connection.streams) == left
        assert len(soon) == (left > 1)
        if soon:
            soon.pop()()
    assert wire.cancelled == 150
    assert [each.when for each in wire.due] == [109.0]


def test_an_exception_while_a_call_expires_affects_no_other() -> None:
    wire = GrpcWire()
    for number in (1, 3, 5):
        wire.feed(wire.call(number, message_of(0), ("grpc-timeout", "1S")))
    wire.fail_cancel = True
    wire.time += 2
    wire.run_due()
    assert wire.cancelled == 3
    assert not wire.connection.streams
