"""Unary calls: one message, which is charged until the call ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.net import http2
from netstore.net.http2 import frame
from tests.support.grpcwire import (
    GrpcWire,
    data_frames,
    message_of,
)

if TYPE_CHECKING:
    from netstore.net.bodyadmission import Claim
    from netstore.net.grpc.protocols import Call


@pytest.mark.parametrize("size", [0, 3, 16_000, 16_380, 60_000, 500_000])
def test_a_complete_message_is_charged_until_its_call_ends(size: int) -> None:
    wire = GrpcWire()
    numbers = range(1, 21, 2)
    for number in numbers:
        wire.feed(wire.call(number, b"", end=False), data_frames(number, message_of(size)))
    account = wire.output.account
    assert not wire.asked
    assert account.held >= 10 * (size + 5)
    wire.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    for number in numbers[1:]:
        wire.feed(frame(http2.DATA, http2.END_STREAM, number, b""))
    assert [len(message) for _, message in wire.asked] == [size] * 9
    assert wire.connection.held == 0
    for call, _ in wire.asked:
        call.reply(b"")
    wire.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert account.promised == 0
    assert account.held < 2_000


@pytest.mark.parametrize(
    ("flags", "body", "more"),
    [
        (http2.END_STREAM, message_of(3), ()),
        (http2.END_STREAM, message_of(3)[:-1], ()),
        (http2.END_STREAM, b"", ()),
        (http2.END_STREAM, message_of(3), (("content-length", "8"),)),
        (http2.END_STREAM, message_of(3), (("content-length", "9"),)),
        (http2.END_STREAM | http2.PADDED, b"\x01" + message_of(3) + b"\0", ()),
        (0, message_of(3), ()),
    ],
)
def test_a_request_is_taken_alike_in_one_read_and_in_two(
    flags: int, body: bytes, more: tuple[tuple[str, str], ...]
) -> None:
    seen = []
    for apart in (False, True):
        wire = GrpcWire()
        asked = wire.call(1, b"", *more, end=False)[:-9]
        rest = frame(http2.DATA, flags, 1, body) + frame(http2.PING, 0, 0, bytes(8))
        wire.feed(*((asked, rest) if apart else (asked + rest,)))
        connection = wire.connection
        stream = connection.streams.get(1)
        half_closed = stream is not None and stream.half_closed
        held = connection.held, connection.unfinished, connection.ungranted, half_closed
        seen.append((wire.said, [message for _, message in wire.asked], held))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("size", [3, 16_000, 60_000, 1_900_000])
@pytest.mark.parametrize("more", [b"\0", message_of(3), message_of(500_000)[:17_000]])
@pytest.mark.parametrize("apart", [True, False])
def test_a_second_message_is_refused_at_once(size: int, more: bytes, apart: bool) -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, b"", end=False))
    asked: list[int] = []
    ask = wire.output.admission.ask

    def counted(claim: Claim, size: int, kept: int) -> bool:
        asked.append(size)
        return ask(claim, size, kept)

    wire.output.admission.ask = counted  # type: ignore[method-assign]
    message = message_of(size)
    if apart:
        wire.feed(data_frames(1, message), data_frames(1, more))
    else:
        wire.feed(data_frames(1, message + more))
    assert set(asked) <= {size + 5}, "memory is asked only for the first message"
    assert wire.connection.held == wire.output.account.promised == 0
    wire.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert wire.output.account.held < 2_000
    assert not wire.connection.streams


def test_a_failed_call_is_queued_once_whatever_follows() -> None:
    """It is held back behind answers that the peer's windows do not let through."""
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(10)))
    wire.asked.pop()[0].reply(bytes(http2.QUEUED_LIMIT + 100_000))
    wire.feed(wire.call(3, message_of(10) + b"\0", end=False))
    for _ in range(100):
        wire.feed(frame(http2.DATA, 0, 3, b"\0"))
    wire.feed(frame(http2.DATA, http2.END_STREAM, 3, message_of(10)))
    assert len(wire.connection._held_back) == 1
    assert not wire.asked


def test_an_exception_of_a_unary_method_runs_the_cancel_callback() -> None:
    wire = GrpcWire()

    def defect(call: Call, message: bytes) -> None:
        call.on_cancelled(lambda: wire.told.append("told"))
        raise MemoryError

    wire.server.services.unary[b"/a.A/Ask"] = defect
    wire.feed(wire.call(1, message_of(3)))
    assert wire.told == ["told"]
    assert wire.trailers(wire.said)["grpc-status"] == "13"
    assert not wire.connection.streams


def test_calls_that_are_reset_while_held_back_are_not_handled() -> None:
    wire = GrpcWire()
    wire.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), wire.call(3, message_of(1)))
    (large, _), *_ = wire.asked
    large.send(bytes(http2.QUEUED_LIMIT))
    wire.feed(wire.call(5, message_of(1)), frame(http2.RST_STREAM, 0, 5, bytes(3) + b"\x08"))
    wire.feed(frame(http2.WINDOW_UPDATE, 0, 3, (10_000).to_bytes(4, "big")))
    assert len(wire.asked) == 1
