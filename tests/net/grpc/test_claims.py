"""Memory for incomplete messages: who is admitted, whose window is opened, and what is charged until when."""

from __future__ import annotations

import pytest

from netstore.net import http2
from netstore.net.bodyadmission import PATIENCE_SECONDS, TOO_SLOW
from netstore.net.http2 import frame
from tests.support.grpcwire import (
    MESSAGE,
    SIZE,
    GrpcWire,
    allowed,
    message_of,
    send,
    wires_sharing_memory,
)


def test_a_call_that_holds_memory_and_does_not_end_is_given_up_while_others_wait() -> None:
    first, second = wires_sharing_memory(2)
    for wire in (first, second):
        wire.feed(wire.call(1, b"", end=False))
    send(first, 1, 0, SIZE + 5)
    send(second, 1, 0, 49_152)
    assert (first.asked, second.connection.streams[1].waits) == ([], True)
    admission = first.output.admission
    for _ in range(PATIENCE_SECONDS + 1):
        admission.sweep()
    admission.step(0.0)
    first.connection.resume()
    assert wire.trailers(first.output.sent)["grpc-message"] == TOO_SLOW.decode()
    assert first.output.account.promised == 0
    assert not second.connection.streams[1].waits
    send(second, 1, 49_152, SIZE + 5)
    for number in range(2 * PATIENCE_SECONDS):
        admission.sweep()
        assert 1 in second.connection.streams, f"nobody waits, after {number}"
    second.feed(frame(http2.DATA, http2.END_STREAM, 1, b""))
    assert second.asked[0][1] == MESSAGE[5:]


def test_a_window_is_opened_once_the_messages_before_are_answered() -> None:
    first, second = wires_sharing_memory(2)
    for wire in (first, second):
        wire.feed(wire.call(1, b"", end=False), wire.call(3, b"", path="/a.A/Keep", end=False))
        send(wire, 1, 0, 49_152)
    whole = SIZE + 5
    assert allowed(first, 1) == whole - 49_152
    assert allowed(second, 1) == http2.STREAM_WINDOW - 49_152
    assert second.connection.held == 49_152
    assert first.connection.held == 0
    send(second, 1, 49_152, http2.STREAM_WINDOW)
    assert allowed(second, 1) == 0, "the window is not opened beyond the first one"
    for _ in range(20):
        second.time += 60
        second.connection.sweep(second.time)
    assert 1 in second.connection.streams, "it cannot send, so it is not late"
    second.feed(frame(http2.DATA, 0, 3, message_of(10)))
    assert len(second.kept) == 1, "other streams go on"
    send(first, 1, 49_152, whole, end=True)
    assert allowed(second, 1) == 0
    (call, message), *_ = first.asked
    assert len(message) == SIZE
    call.reply(b"")
    assert allowed(second, 1) == whole - http2.STREAM_WINDOW
    assert second.output.asked == 1
    send(second, 1, http2.STREAM_WINDOW, whole, end=True)
    assert second.asked[0][1] == MESSAGE[5:]
    second.asked[0][0].reply(b"")
    for wire in (first, second):
        assert wire.output.account.promised == wire.connection.held == 0


def test_incomplete_messages_of_one_connection_are_completed_one_after_another() -> None:
    (wire,) = wires_sharing_memory(1)
    numbers = range(1, 41, 2)
    for number in numbers:
        wire.feed(wire.call(number, b"", end=False))
        if number in wire.connection.streams:
            send(wire, number, 0, 16_384)
    waiting = list(wire.connection.streams)
    assert len(waiting) >= 3
    while wire.connection.streams:
        able = [each.number for each in wire.connection.streams.values() if not each.waits]
        assert len(able) == 1
        send(wire, able[0], 16_384, SIZE + 5, end=True)
        wire.asked.pop()[0].reply(b"")
    assert wire.output.account.promised == wire.connection.held == 0


def test_each_message_of_a_stream_has_its_own_claim() -> None:
    """Also one that begins in the DATA frame that ends the one before."""
    (wire,) = wires_sharing_memory(1)
    wire.feed(wire.call(1, b"", path="/a.A/Keep", end=False))
    send(wire, 1, 0, SIZE - 5_000)
    wire.feed(frame(http2.DATA, 0, 1, MESSAGE[SIZE - 5_000 :] + MESSAGE[:10_000]))
    assert wire.kept == [MESSAGE[5:]]
    assert wire.output.account.promised == SIZE + 5
    send(wire, 1, 10_000, SIZE + 5)
    assert wire.kept == [MESSAGE[5:]] * 2
    assert wire.output.account.promised == wire.connection.held == 0


def test_the_next_message_of_a_stream_waits_behind_earlier_claims() -> None:
    first, second = wires_sharing_memory(2)
    first.feed(first.call(1, b"", path="/a.A/Keep", end=False))
    second.feed(second.call(1, b"", end=False))
    send(first, 1, 0, SIZE - 5_000)
    send(second, 1, 0, 49_152)
    assert second.connection.streams[1].waits
    first.feed(frame(http2.DATA, 0, 1, MESSAGE[SIZE - 5_000 :] + MESSAGE[:10_000]))
    stream = first.connection.streams[1]
    assert (stream.waits, second.connection.streams[1].waits) == (True, False)
    assert allowed(first, 1) <= http2.STREAM_WINDOW
    send(second, 1, 49_152, SIZE + 5, end=True)
    second.asked[0][0].reply(b"")
    assert not stream.waits
    send(first, 1, 10_000, SIZE + 5)
    assert first.kept == [MESSAGE[5:]] * 2
    for wire in (first, second):
        assert wire.output.account.promised == wire.connection.held == 0


def test_a_message_that_is_complete_before_it_is_admitted_leaves_the_queue() -> None:
    first, second = wires_sharing_memory(2)
    for wire in (first, second):
        wire.feed(wire.call(1, b"", end=False))
    send(first, 1, 0, 49_152)
    message = message_of(60_000)
    for at in range(0, len(message), 16_384):
        last = at + 16_384 >= len(message)
        if last:
            assert second.output.admission.waiting == 1
        piece = message[at : at + 16_384]
        second.feed(frame(http2.DATA, http2.END_STREAM if last else 0, 1, piece))
    assert second.output.admission.waiting == 0
    assert second.output.account.held >= 60_000
    second.asked[0][0].reply(b"")
    second.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert second.connection.held == 0
    assert second.output.account.held < 2_000


@pytest.mark.parametrize("size", [10_000, 1_900_000])
def test_complete_calls_that_are_held_back_are_charged_without_a_claim(size: int) -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(10)))
    wire.asked.pop()[0].reply(bytes(http2.QUEUED_LIMIT + 100_000))
    queued, before = wire.connection.queued, wire.output.account.held
    assert queued > http2.QUEUED_LIMIT
    for number in (3, 5):
        wire.feed(wire.call(number, b"", end=False))
        message = message_of(size)
        for at in range(0, len(message), 16_384):
            last = at + 16_384 >= len(message)
            piece = message[at : at + 16_384]
            wire.feed(frame(http2.DATA, http2.END_STREAM if last else 0, number, piece))
    account = wire.output.account
    assert not wire.asked
    assert account.promised == wire.connection.held == 0
    assert account.held >= before + 2 * size
    assert account.lasting >= 2 * size, "reading answers does not free it"
    wire.feed(frame(http2.RST_STREAM, 0, 5, bytes(3) + b"\x08"))
    assert before + size <= account.held < before + 2 * size
    window = (queued + 1_000_000).to_bytes(4, "big")
    wire.feed(frame(http2.WINDOW_UPDATE, 0, 0, window) + frame(http2.WINDOW_UPDATE, 0, 1, window))
    wire.asked.pop()[0].reply(b"")
    assert account.held < 2_500


def test_a_large_call_gives_its_claim_back_once_its_answer_is_begun() -> None:
    (wire,) = wires_sharing_memory(1)
    wire.feed(wire.call(1, b"", end=False))
    send(wire, 1, 0, SIZE + 5, end=True)
    call, _ = wire.asked.pop()
    account = wire.output.account
    assert account.promised == SIZE + 5
    call.begin_reply(10)
    assert account.promised == 0
    assert account.lasting >= SIZE
    call.push(bytes(10))
    call.end_reply()
    assert account.held < 2_500


def test_a_message_that_may_not_wait_is_refused() -> None:
    (wire,) = wires_sharing_memory(1)
    for number in range(1, 41, 2):
        wire.feed(wire.call(number, b"", end=False))
        if number in wire.connection.streams:
            send(wire, number, 0, 16_384)
    assert wire.trailers(wire.said)["grpc-status"] == "8"
    assert wire.trailers(wire.said)["grpc-message"] == "etcdserver: too many requests"


def test_a_reset_stream_leaves_the_queue_for_memory() -> None:
    first, second = wires_sharing_memory(2)
    for wire in (first, second):
        wire.feed(wire.call(1, b"", end=False))
        send(wire, 1, 0, 16_384)
    second.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    assert second.output.admission.waiting == 0
    assert second.connection.held == 0
    first.connection.gone()
    assert first.output.account.promised == 0


def test_an_exception_at_admission_ends_only_that_call() -> None:
    first, second = wires_sharing_memory(2)
    for wire in (first, second):
        wire.feed(wire.call(1, b"", end=False))
        send(wire, 1, 0, 16_384)

    def fall() -> None:
        raise MemoryError

    second.output.request_turn = fall  # type: ignore[method-assign]
    first.connection.gone()
    assert not second.connection.streams
    assert not second.output.was_cut
    assert second.output.account.promised == 0


def test_the_next_message_of_a_stream_asks_only_for_its_own_size() -> None:
    """Also if it begins in the frame that completes the one before."""
    (wire,) = wires_sharing_memory(1)
    size = 20_000
    wire.feed(wire.call(1, b"", path="/a.A/Keep", end=False))
    two = message_of(size) + message_of(size)
    wire.feed(frame(http2.DATA, 0, 1, two[:10_000]))
    assert wire.output.account.coming == size + 5
    wire.feed(frame(http2.DATA, 0, 1, two[10_000:26_000]))
    assert wire.output.account.coming == wire.output.account.promised == size + 5
    wire.feed(frame(http2.DATA, 0, 1, two[26_000:]))
    assert len(wire.kept) == 2
    assert wire.output.account.promised == 0


def test_a_message_that_is_given_up_ends_its_call_with_a_reason() -> None:
    (wire,) = wires_sharing_memory(1)
    wire.feed(wire.call(1, b"", end=False))
    send(wire, 1, 0, 16_384)
    wire.connection.streams[1].given_up(408, b"too slow")
    wire.connection.resume()
    assert wire.trailers(wire.output.sent)["grpc-status"] == "8"
    assert wire.trailers(wire.output.sent)["grpc-message"] == "too slow"
    assert wire.output.account.promised == 0
