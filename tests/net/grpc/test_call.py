"""Answering a call: in pieces, to a client that reads too slowly, and after exceptions of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.events
import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from netstore.codes import UNAVAILABLE
from netstore.limits import Budget
from netstore.net import http2
from netstore.net.exchange import LOW_WATER
from netstore.net.grpc import call as call_module
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http2 import Http2Server, frame
from netstore.node.timekeeper import Deadline
from tests.support.grpcwire import (
    GrpcWire,
    message_of,
)
from tests.support.h2client import REQUEST, Judged
from tests.support.log import KeptLog
from tests.support.toy import PUMP_HIGH

if TYPE_CHECKING:
    from netstore.net.grpc.protocols import Call


class PieceSender:
    """Sends one large message in pieces as the connection drains. `most` is the largest backlog seen."""

    def __init__(self, call: Call, message: bytes, piece: int) -> None:
        self.call = call
        self.most = 0
        self.pushed = 0
        self._message = memoryview(message)
        self._piece = piece
        self.ended = False
        call.on_cancelled(self._cancel)
        self.cancelled = 0
        call.begin_reply(len(message))
        self.go_on()

    def go_on(self) -> None:
        while self.pushed < len(self._message):
            if self.call.backlog > PUMP_HIGH:
                self.call.on_drained(self.go_on)
                return
            self.call.push(self._message[self.pushed : self.pushed + self._piece])
            self.pushed += self._piece
            self.most = max(self.most, self.call.backlog)
        self.call.end_reply()

    def _cancel(self) -> None:
        self.cancelled += 1


def judged_pieces(message: bytes, piece: int, window: int) -> tuple[Judged, list[PieceSender]]:
    begun: list[PieceSender] = []

    def ask(call: Call, _: bytes) -> None:
        begun.append(PieceSender(call, message, piece))

    server = GrpcServer(
        Services({b"/a.A/Ask": ask}, {}), lambda: 100.0, lambda _seconds, call: Deadline(0.0, call), KeptLog()
    )
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.ENABLE_PUSH: 0}
    judge = Judged(server=Http2Server(server, lambda: 100.0), settings=settings)
    return judge, begun


ASK = [*REQUEST[:2], (":path", "/a.A/Ask"), *REQUEST[3:]]


@given(
    st.integers(0, 400_000),
    st.sampled_from([1_000, 16_384, 99_999]),
    st.sampled_from([1_000, 65_535, 1 << 20]),
)
def test_a_message_can_be_sent_in_pieces(size: int, piece: int, window: int) -> None:
    """`h2` checks the frames, and the backlog is a piece or two, whatever the length of the message."""
    message = bytes(range(256)) * (size // 256 + 1)
    judge, begun = judged_pieces(message[:size], piece, window)
    number = judge.ask(message_of(3), ASK)
    judge.settle()
    assert judge.bodies[number] == b"\0" + size.to_bytes(4, "big") + message[:size]
    assert judge.ended == {number}
    (trailers,) = [e for e in judge.events if isinstance(e, h2.events.TrailersReceived)]
    assert (b"grpc-status", b"0") in [(str(n).encode(), str(v).encode()) for n, v in trailers.headers or []]
    assert begun[0].most <= PUMP_HIGH + piece + 5
    assert begun[0].cancelled == 0
    assert not judge.connection.streams


@pytest.mark.parametrize("how", ["reset", "gone"])
def test_pieces_for_a_client_that_is_gone_are_dropped(how: str) -> None:
    judge, begun = judged_pieces(bytes(400_000), 10_000, 1_000)
    judge.greedy = False
    number = judge.ask(message_of(3), ASK)
    judge.settle()
    (pieces,) = begun
    if how == "reset":
        judge.client.reset_stream(number, http2.CANCEL)
        judge.settle()
    else:
        judge.connection.gone()
    assert pieces.cancelled == 1
    assert not pieces.call.open
    for _ in range(3):
        pieces.call.push(bytes(1_000_000))
    pieces.call.end_reply()
    pieces.call.begin_reply(3)
    assert judge.connection.queued == 0
    assert pieces.call.backlog == 0


@pytest.mark.parametrize("wrong", ["long", "short", "twice", "endless"])
def test_pieces_that_do_not_fit_the_announced_length_end_the_call(wrong: str) -> None:
    wire = GrpcWire()

    def defect(call: Call, message: bytes) -> None:
        call.begin_reply(1 << 32 if wrong == "endless" else 10)
        call.push(bytes(11) if wrong == "long" else b"some")
        if wrong == "twice":
            call.begin_reply(10)
        call.end_reply()

    wire.server.services.unary[b"/a.A/Ask"] = defect
    wire.feed(wire.call(1, message_of(3)))
    assert wire.trailers(wire.said)["grpc-status"] == "13"
    assert "ValueError" in wire.log.lines[0][1]["error"]
    assert not wire.connection.streams


def test_a_message_that_was_begun_can_be_abandoned() -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(3)))
    (call, _), *_ = wire.asked
    call.begin_reply(10)
    call.push(b"some")
    call.finish(UNAVAILABLE, "later")
    assert wire.trailers(wire.output.sent)["grpc-status"] == "14"
    assert not wire.connection.streams


def test_a_connection_is_crowded_by_the_queues_of_all_its_streams() -> None:
    """Each has little queued, together they reach the limit; shared bytes are not copied."""
    wire = GrpcWire()
    wire.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)))
    size = 1 << 20
    wire.feed(*(wire.call(number, b"", path="/a.A/Keep", end=False) for number in range(1, 41, 2)))
    shared = bytes(size)
    told = []
    connection = wire.connection
    for call in connection.streams.values():
        assert isinstance(call, GrpcCall)
        if not call.congested:
            call.send(b"head", shared)
            told.append(call)
    assert http2.EVENTS_LIMIT < connection.queued <= http2.EVENTS_LIMIT + size + 9
    queues = [stream._queue for stream in connection.streams.values() if stream._queue]
    assert len(queues) == len(told)
    assert all(queue[-1] is shared for queue in queues)
    roomy: list[int] = []
    told[0].on_room(lambda: roomy.append(1))
    wire.feed(
        frame(http2.WINDOW_UPDATE, 0, 1, (2 * size).to_bytes(4, "big")),
        frame(http2.WINDOW_UPDATE, 0, 0, (2 * size).to_bytes(4, "big")),
    )
    assert (roomy, told[0].congested, told[1].congested) == (
        [1],
        False,
        connection.queued > http2.EVENTS_LIMIT,
    )


def test_few_bytes_make_a_connection_crowded_once_memory_is_spent() -> None:
    wire = GrpcWire()
    wire.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), wire.call(1, message_of(1)))
    (call, _), *_ = wire.asked
    call.send(bytes(LOW_WATER + 1))
    assert not call.congested
    wire.output.account.charge(1 << 40)
    assert call.congested


def test_answers_that_cannot_be_sent_are_refused_once_memory_is_spent() -> None:
    """Many come at once, when the reads of a round are done: queued bytes are charged before the next one."""
    wire = GrpcWire()
    held: list[Call] = []
    wire.server.services.unary[b"/a.A/Ask"] = lambda call, _: held.append(call)
    for number in (1, 3, 5):
        wire.feed(wire.call(number, message_of(3)))
    wire.output.account = Budget(100_000).account()
    for call in held[:2]:
        call.reply(bytes(200_000))
    assert wire.output.account.held >= 100_000
    assert wire.connection.queued < 200_000
    assert wire.trailers(wire.output.sent)["grpc-status"] == "8"
    wire.output.account = Budget(1 << 30).account()
    held[2].reply(bytes(200_000))
    assert wire.connection.queued > 200_000


def test_a_call_whose_status_cannot_be_sent_cuts_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its client would wait for ever. Not at once, because the connection may be in use."""
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(3)))
    [(call, _)] = wire.asked

    def defect() -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(call_module, "status_block", lambda *_: defect())
        call.guard(defect)
    seen = [wire.output.was_cut]
    wire.output.run_turn()
    assert [*seen, wire.output.was_cut] == [False, True]
    assert wire.cancelled == 1
    assert len(wire.log.events) == 1


def test_an_exception_in_a_guarded_callback_ends_only_its_call() -> None:
    wire = GrpcWire()
    wire.feed(wire.call(1, message_of(3)), wire.call(3, message_of(3)))
    call, other = (call for call, _ in wire.asked)

    def defect() -> None:
        raise ValueError("a defect")

    call.guard(defect)
    wire.feed(b"")
    assert wire.trailers(wire.said)["grpc-status"] == "13"
    assert (call.open, other.open, wire.output.was_cut) == (False, True, False)
