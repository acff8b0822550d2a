"""gRPC over the real reactor, asked by grpcio: what an unmodified client sees."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
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
from netstore.net.grpc import headers as grpc_headers
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.headers import TIMEOUT_FIELD, encode_text, parse_timeout
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.grpc.unary import UnaryCall
from netstore.net.http2 import Http2Connection, Http2Server, frame
from netstore.net.intake import PATIENCE_SECONDS, TOO_SLOW, Intake
from netstore.node.timekeeper import Deadline
from tests.support.h2client import REQUEST, Judged, block, fields, frames
from tests.support.http import FakeOutput
from tests.support.log import KeptLog
from tests.support.patience import seconds
from tests.support.toy import PUMP_BYTES, PUMP_HIGH, Served, toy_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.net.grpc.protocols import Call
    from netstore.net.intake import Claim

SECONDS = 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with toy_service() as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.toy.cancelled.clear()
    shared.toy.held.clear()
    shared.toy.most_backlog = 0
    return shared


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with open_channel(served.port) as opened:
        yield opened


def open_channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(
        f"127.0.0.1:{port}",
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def unary(channel: grpc.Channel, method: str) -> Any:
    return channel.unary_unary(f"/toy.Toy/{method}", None, None)


def streaming(channel: grpc.Channel, method: str) -> Any:
    return channel.stream_stream(f"/toy.Toy/{method}", None, None)


def error(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value.code(), caught.value.details()


def test_a_unary_call_is_answered(channel: grpc.Channel) -> None:
    assert unary(channel, "Echo")(b"hello", timeout=seconds(SECONDS)) == b"hello"
    assert unary(channel, "Echo")(b"", timeout=seconds(SECONDS)) == b""


def test_a_call_without_a_time_limit_has_no_deadline(served: Served, channel: grpc.Channel) -> None:
    unary(channel, "Echo")(b"x")
    unary(channel, "Echo")(b"x", timeout=seconds(SECONDS))
    first, second = served.toy.calls[-2:]
    assert first.deadline is None
    assert second.deadline is not None


def test_a_hundred_calls_at_once(channel: grpc.Channel) -> None:
    futures = [unary(channel, "Echo").future(b"%d" % i, timeout=seconds(SECONDS)) for i in range(100)]
    assert [future.result() for future in futures] == [b"%d" % i for i in range(100)]


@pytest.mark.parametrize("size", [16_379, 16_380, 65_530, 1_500_000])
def test_messages_of_every_size_come_and_go(channel: grpc.Channel, size: int) -> None:
    """Around a frame, around the first window, and the largest that etcd takes."""
    message = bytes(range(256)) * (size // 256 + 1)
    assert unary(channel, "Echo")(message[:size], timeout=seconds(SECONDS)) == message[:size]


def test_an_answer_of_many_megabytes_is_not_limited(channel: grpc.Channel) -> None:
    assert len(unary(channel, "Big")(b"20000000", timeout=seconds(SECONDS))) == 20_000_000


def test_a_message_beyond_the_limit_is_refused_as_by_etcd(channel: grpc.Channel) -> None:
    code, text = error(unary(channel, "Echo"), bytes(2_097_153), timeout=seconds(SECONDS))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text == "grpc: received message larger than max (2097153 vs. 2097152)"
    assert unary(channel, "Echo")(b"still here", timeout=seconds(SECONDS)) == b"still here"


def test_a_status_and_its_text_arrive(channel: grpc.Channel) -> None:
    for text in ("plain", "100% of it", "größer\n", "日本語"):
        assert error(unary(channel, "Fail"), text.encode(), timeout=seconds(SECONDS)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            text,
        )


def test_what_is_not_served_is_named(channel: grpc.Channel) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    for path, text in (
        ("/toy.Toy/Nothing", "unknown method Nothing for service toy.Toy"),
        ("/toy.Other/Echo", "unknown service toy.Other"),
    ):
        one: Any = channel.unary_unary(path, None, None)
        many: Any = channel.stream_unary(path, None, None)
        assert error(one, b"x", timeout=seconds(SECONDS)) == (unimplemented, text)
        assert error(many, iter([b"x"]), timeout=seconds(SECONDS)) == (unimplemented, text)


def test_a_fault_of_a_service_ends_its_call_only(served: Served, channel: grpc.Channel) -> None:
    code, _ = error(unary(channel, "Raise"), b"x", timeout=seconds(SECONDS))
    assert code is grpc.StatusCode.INTERNAL
    chat = streaming(channel, "Chat")(iter([b"a", b"raise"]), timeout=seconds(SECONDS))
    assert next(chat) == b"a"
    with pytest.raises(grpc.RpcError) as caught:
        next(chat)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert unary(channel, "Echo")(b"still here", timeout=seconds(SECONDS)) == b"still here"
    methods = [fields["method"] for event, fields in served.toy.log.lines if event == "call_failed"]
    assert methods[-2:] == ["/toy.Toy/Raise", "/toy.Toy/Chat"]


def test_a_deadline_ends_the_call_on_both_sides(served: Served, channel: grpc.Channel) -> None:
    for limit in (0.2, 2, seconds(SECONDS)):  # on a slow machine the first may pass before the call is there
        code, _ = error(unary(channel, "Hold"), b"x", timeout=limit)  # fixed: it is to pass
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        if served.toy.cancelled.wait(limit):  # fixed: a longer one follows
            break
    assert served.toy.cancelled.is_set()


def test_a_cancelled_call_is_told_to_its_service(served: Served, channel: grpc.Channel) -> None:
    future = unary(channel, "Hold").future(b"x")
    assert served.toy.held.wait(seconds(SECONDS))
    future.cancel()
    assert served.toy.cancelled.wait(seconds(SECONDS))


def test_a_lost_connection_cancels_its_calls(served: Served) -> None:
    channel = open_channel(served.port)
    future = unary(channel, "Hold").future(b"x")
    assert served.toy.held.wait(seconds(SECONDS))
    channel.close()
    assert served.toy.cancelled.wait(seconds(SECONDS))
    assert future.done()


def test_messages_go_both_ways_on_a_stream(channel: grpc.Channel) -> None:
    messages = [b"%d" % i * 1000 for i in range(300)]
    chat = streaming(channel, "Chat")(iter(messages), timeout=seconds(SECONDS))
    assert list(chat) == messages


def test_a_client_stream_has_one_answer(channel: grpc.Channel) -> None:
    total: Any = channel.stream_unary("/toy.Toy/Sum", None, None)
    assert total(iter([bytes(700_000)] * 10), timeout=seconds(SECONDS)) == b"7000000"
    assert total(iter([]), timeout=seconds(SECONDS)) == b"0"


def test_a_cancelled_stream_is_told_to_its_receiver(served: Served, channel: grpc.Channel) -> None:
    chat = streaming(channel, "Chat")(iter([b"x"]), timeout=seconds(SECONDS))
    assert next(chat) == b"x"
    # The toy ends a chat when the client has: take one that has not.
    waiting = streaming(channel, "Chat")(endless(b"y"))
    assert next(waiting) == b"y"
    waiting.cancel()
    assert served.toy.cancelled.wait(seconds(SECONDS))


def endless(message: bytes) -> Iterator[bytes]:
    while True:
        yield message


def test_a_slow_reader_is_sent_no_more_than_fits(served: Served, channel: grpc.Channel) -> None:
    pump = streaming(channel, "Pump")(iter([b"200"]), timeout=seconds(SECONDS))
    assert sum(map(len, pump)) == 200 * PUMP_BYTES
    assert served.toy.most_backlog < PUMP_HIGH + 2 * PUMP_BYTES


def test_a_small_call_overtakes_a_large_answer(channel: grpc.Channel) -> None:
    """Streams share a connection fairly: what comes second is not behind all of what came first."""
    large = streaming(channel, "Pump")(iter([b"500"]), timeout=seconds(SECONDS))
    next(large)
    assert unary(channel, "Echo")(b"quick", timeout=seconds(SECONDS)) == b"quick"
    large.cancel()


def test_who_calls_and_what_they_send_along(channel: grpc.Channel) -> None:
    told = unary(channel, "Who")(b"", metadata=[("token", "one"), ("token", "two")], timeout=seconds(SECONDS))
    peer, name, token = told.decode().split(" ")
    assert peer.startswith("127.0.0.1:")
    assert (name, token) == ("None", "b'one'")


def test_compressed_messages_are_refused_as_by_etcd(channel: grpc.Channel) -> None:
    code, text = error(
        unary(channel, "Echo"), bytes(1000), compression=grpc.Compression.Gzip, timeout=seconds(SECONDS)
    )
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert text == 'grpc: Decompressor is not installed for grpc-encoding "gzip"'


def test_many_connections_at_once(served: Served) -> None:
    def ask(number: int) -> bytes:
        with open_channel(served.port) as channel:
            answer: bytes = unary(channel, "Echo")(b"%d" % number, timeout=seconds(SECONDS))
            return answer

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == [b"%d" % i for i in range(24)]


def test_a_graceful_stop_finishes_calls_and_ends_streams() -> None:
    with toy_service() as served, open_channel(served.port) as channel:
        chat = streaming(channel, "Chat")(endless(b"y"))
        assert next(chat) == b"y"
        large = unary(channel, "Big").future(b"5000000", timeout=seconds(SECONDS))
        served.drain()
        assert len(large.result()) == 5_000_000
        with pytest.raises(grpc.RpcError) as caught:
            list(chat)
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "etcdserver: server stopped",
        )


# --- without a socket


class Defective:
    """A receiver that raises in the callbacks it is told to."""

    def __init__(self, call: Call, faults: set[str], fault: Exception, told: list[str]) -> None:
        self._faults = faults
        self._fault = fault
        self._told = told
        call.on_cancelled(lambda: self._tell("on_cancelled"))

    def received(self, message: bytes) -> None:
        self._tell("received")

    def half_closed(self) -> None:
        self._tell("half_closed")

    def cancelled(self) -> None:
        self._tell("cancelled")

    def _tell(self, name: str) -> None:
        self._told.append(name)
        if name in self._faults:
            raise self._fault


class Keeper:
    """Keeps what comes on a stream."""

    def __init__(self, kept: list[bytes]) -> None:
        self._kept = kept

    def received(self, message: bytes) -> None:
        self._kept.append(message)

    def half_closed(self) -> None:
        self._kept.append(b"end")

    def cancelled(self) -> None:
        self._kept.append(b"cancelled")


class Bare:
    """A connection of raw frames to a unary method that is never answered, and one that keeps its messages.
    Time is a number.
    """

    def __init__(self) -> None:
        self.time = 100.0
        self.due: list[Deadline] = []
        self.asked: list[tuple[Call, bytes]] = []
        self.cancelled = 0
        self.fail_cancel = False
        self.log = KeptLog()
        self.kept: list[bytes] = []
        self.told: list[str] = []
        self.faults: set[str] = set()
        self.fault: Exception = ValueError("a defect")
        services = Services(
            {b"/a.A/Ask": self._ask},
            {
                b"/a.A/Keep": lambda _: Keeper(self.kept),
                b"/a.A/Defect": lambda call: Defective(call, self.faults, self.fault, self.told),
            },
        )
        self.server = server = GrpcServer(services, self._clock, self._after, self.log)
        self.output = FakeOutput()
        self.connection = Http2Connection(
            Http2Server(server, self._clock, varying=TIMEOUT_FIELD), self.output
        )
        self.feed(http2.PREFACE, frame(http2.SETTINGS, 0, 0))

    def _clock(self) -> float:
        return self.time

    def _after(self, seconds: float, call: Callable[[], None]) -> Deadline:
        deadline = Deadline(self.time + seconds, call)
        self.due.append(deadline)
        return deadline

    def _ask(self, call: Call, message: bytes) -> None:
        self.asked.append((call, message))
        call.on_cancelled(self._count)

    def _count(self) -> None:
        self.cancelled += 1
        if self.fail_cancel:
            raise ValueError("a defect")

    def run_due(self) -> None:
        """Make the calls whose time has come."""
        alive = [each for each in self.due if not each.cancelled]
        self.due = [each for each in alive if each.when > self.time]
        for each in alive:
            if each.when <= self.time:
                each.run()

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.receive(piece)
            while self.output.run_turn():
                pass
        self.output.sent, self.said = b"", self.output.sent

    def call(
        self,
        number: int,
        body: bytes,
        *more: tuple[str, str],
        path: str = "/a.A/Ask",
        end: bool = True,
    ) -> bytes:
        headers = [*REQUEST[:2], (":path", path), *REQUEST[3:], *more]
        asked = frame(http2.HEADERS, http2.END_HEADERS, number, block(headers))
        return asked + frame(http2.DATA, http2.END_STREAM if end else 0, number, body)

    def trailers(self, said: bytes) -> dict[str, str]:
        """The last header block in these bytes."""
        blocks = [each.payload for each in frames(said) if each.kind == http2.HEADERS]
        return dict(fields(blocks[-1]))


def message_of(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big") + bytes(size)


def test_a_deadline_ends_a_call_that_nobody_answered() -> None:
    bare = Bare()
    bare.feed(
        bare.call(1, message_of(3), ("grpc-timeout", "5S")),
        bare.call(3, message_of(3), ("grpc-timeout", "1S")),
        bare.call(5, message_of(3)),
    )
    first, second, third = (call for call, _ in bare.asked)
    assert (first.deadline, second.deadline, third.deadline) == (105.0, 101.0, None)
    bare.time = 101.5
    bare.run_due()
    assert (first.open, second.open, bare.cancelled) == (True, False, 1)
    assert bare.trailers(bare.output.sent)["grpc-status"] == "4"
    assert bare.trailers(bare.output.sent)["grpc-message"] == "context deadline exceeded"
    first.reply(b"in time")
    bare.time = 1000.0
    bare.run_due()
    assert (third.open, bare.cancelled) == (True, 1)
    assert bare.due == []


def test_a_malformed_time_limit_is_refused() -> None:
    bare = Bare()
    bare.feed(bare.call(1, message_of(3), ("grpc-timeout", "soon")))
    assert bare.trailers(bare.said)[":status"] == "400"
    assert bare.asked == []


def test_after_a_fault_of_framing_the_rest_of_a_read_is_not_understood_anew() -> None:
    large = b"\0" + (3_000_000).to_bytes(4, "big") + bytes(1000)
    rest = frame(http2.DATA, 0, 1, bytes(1000)) * 3
    for path in ("/a.A/Ask", "/a.A/Keep"):
        bare = Bare()
        first = b"" if path == "/a.A/Ask" else message_of(3)
        bare.feed(bare.call(1, first + large, path=path, end=False) + rest)
        assert bare.trailers(bare.said)["grpc-status"] == "8"
        assert bare.asked == []
        assert bare.kept == ([] if path == "/a.A/Ask" else [bytes(3), b"cancelled"])


def test_unfinished_messages_are_counted_until_they_are_whole_or_given_up() -> None:
    bare = Bare()
    half = message_of(5000)[:3000]
    for number in (1, 3, 5):
        bare.feed(bare.call(number, half, end=False))
    assert bare.connection.held == 9000
    bare.feed(frame(http2.DATA, http2.END_STREAM, 1, bytes(2005)))
    assert bare.connection.held == 6000
    assert [len(message) for _, message in bare.asked] == [5000]
    bare.feed(frame(http2.RST_STREAM, 0, 3, bytes(3) + b"\x08"))
    assert bare.connection.held == 3000
    bare.feed(frame(http2.DATA, http2.END_STREAM, 5, b""))
    assert bare.connection.held == 0
    assert bare.trailers(bare.said)["grpc-status"] == "13"


def test_unfinished_messages_of_a_connection_have_a_limit() -> None:
    bare = Bare()
    bare.connection.held = http2.HELD_LIMIT
    bare.feed(bare.call(1, message_of(5000)[:3000], end=False))
    assert bare.trailers(bare.said)["grpc-status"] == "8"
    assert bare.connection.held == http2.HELD_LIMIT


def pieces(number: int, data: bytes) -> bytes:
    """A part of a request, in frames."""
    cuts = range(0, len(data), 16_384)
    return b"".join(frame(http2.DATA, 0, number, data[at : at + 16_384]) for at in cuts)


@pytest.mark.parametrize("size", [0, 3, 16_000, 16_380, 60_000, 500_000])
def test_a_whole_message_is_charged_until_its_call_ends(size: int) -> None:
    bare = Bare()
    numbers = range(1, 21, 2)
    for number in numbers:
        bare.feed(bare.call(number, b"", end=False), pieces(number, message_of(size)))
    account = bare.output.account
    assert not bare.asked
    assert account.held >= 10 * (size + 5)
    bare.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    for number in numbers[1:]:
        bare.feed(frame(http2.DATA, http2.END_STREAM, number, b""))
    assert [len(message) for _, message in bare.asked] == [size] * 9
    assert bare.connection.held == 0
    for call, _ in bare.asked:
        call.reply(b"")
    bare.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert account.promised == 0
    assert account.held < 2_000


def test_whole_messages_of_calls_that_do_not_end_have_the_limit_of_unfinished_ones() -> None:
    bare = Bare()
    bare.connection.held = http2.HELD_LIMIT
    bare.feed(bare.call(1, message_of(5000), end=False))
    assert bare.trailers(bare.said)["grpc-status"] == "8"
    assert bare.connection.held == http2.HELD_LIMIT


@pytest.mark.parametrize("size", [3, 16_000, 60_000, 1_900_000])
@pytest.mark.parametrize("more", [b"\0", message_of(3), message_of(500_000)[:17_000]])
@pytest.mark.parametrize("apart", [True, False])
def test_who_sends_more_than_one_message_is_told_at_once(size: int, more: bytes, apart: bool) -> None:
    bare = Bare()
    bare.feed(bare.call(1, b"", end=False))
    asked: list[int] = []
    ask = bare.output.intake.ask

    def counted(claim: Claim, size: int, kept: int) -> bool:
        asked.append(size)
        return ask(claim, size, kept)

    bare.output.intake.ask = counted  # type: ignore[method-assign]
    message = message_of(size)
    if apart:
        bare.feed(pieces(1, message), pieces(1, more))
    else:
        bare.feed(pieces(1, message + more))
    assert set(asked) <= {size + 5}, "nothing is asked for what is no message of it"
    assert bare.connection.held == bare.output.account.promised == 0
    bare.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert bare.output.account.held < 2_000
    assert not bare.connection.streams


def test_what_comes_behind_a_fault_puts_a_call_in_line_once() -> None:
    """Though it waits there, behind answers that the peer does not take."""
    bare = Bare()
    bare.feed(bare.call(1, message_of(10)))
    bare.asked.pop()[0].reply(bytes(http2.HOLD + 100_000))
    bare.feed(bare.call(3, message_of(10) + b"\0", end=False))
    for _ in range(100):
        bare.feed(frame(http2.DATA, 0, 3, b"\0"))
    bare.feed(frame(http2.DATA, http2.END_STREAM, 3, message_of(10)))
    assert len(bare.connection._held_back) == 1
    assert not bare.asked


def test_a_call_that_has_its_memory_and_does_not_end_is_given_up_while_others_wait() -> None:
    first, second = sharing(2)
    for bare in (first, second):
        bare.feed(bare.call(1, b"", end=False))
    send(first, 1, 0, SIZE + 5)
    send(second, 1, 0, 49_152)
    assert (first.asked, second.connection.streams[1].waits) == ([], True)
    intake = first.output.intake
    for _ in range(PATIENCE_SECONDS + 1):
        intake.sweep()
    intake.look(0.0)
    first.connection.resume()
    assert bare.trailers(first.output.sent)["grpc-message"] == TOO_SLOW.decode()
    assert first.output.account.promised == 0
    assert not second.connection.streams[1].waits
    send(second, 1, 49_152, SIZE + 5)
    for number in range(2 * PATIENCE_SECONDS):
        intake.sweep()
        assert 1 in second.connection.streams, f"nobody waits, after {number}"
    second.feed(frame(http2.DATA, http2.END_STREAM, 1, b""))
    assert second.asked[0][1] == PREFIXED[5:]


SIZE = 200_000
PREFIXED = message_of(SIZE)


def sharing(count: int) -> list[Bare]:
    """Connections that have memory for one message at a time."""
    memory = Budget(2 * SIZE + 100)
    intake = Intake(memory, KeptLog(), lambda: intake.look(0.0))
    bares = [Bare() for _ in range(count)]
    for bare in bares:
        bare.output.intake = intake
        bare.output.account = memory.account()
    return bares


def allowed(bare: Bare, stream: int) -> int:
    """What the client may send on this stream beyond what it has sent."""
    return bare.connection.streams[stream].allowed


def send(bare: Bare, stream: int, start: int, stop: int, *, end: bool = False) -> None:
    for at in range(start, stop, 16_384):
        piece = PREFIXED[at : min(at + 16_384, stop)]
        last = end and at + 16_384 >= stop
        bare.feed(frame(http2.DATA, http2.END_STREAM if last else 0, stream, piece))


def test_a_message_gets_its_window_once_those_before_it_are_answered() -> None:
    first, second = sharing(2)
    for bare in (first, second):
        bare.feed(bare.call(1, b"", end=False), bare.call(3, b"", path="/a.A/Keep", end=False))
        send(bare, 1, 0, 49_152)
    whole = SIZE + 5
    assert allowed(first, 1) == whole - 49_152
    assert allowed(second, 1) == http2.STREAM_WINDOW - 49_152
    assert second.connection.held == 49_152
    assert first.connection.held == 0
    send(second, 1, 49_152, http2.STREAM_WINDOW)
    assert allowed(second, 1) == 0, "not one byte beyond the first window"
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
    assert second.asked[0][1] == PREFIXED[5:]
    second.asked[0][0].reply(b"")
    for bare in (first, second):
        assert bare.output.account.promised == bare.connection.held == 0


def test_streams_of_one_connection_that_each_hold_a_part_come_whole_one_after_another() -> None:
    (bare,) = sharing(1)
    numbers = range(1, 41, 2)
    for number in numbers:
        bare.feed(bare.call(number, b"", end=False))
        if number in bare.connection.streams:
            send(bare, number, 0, 16_384)
    waiting = list(bare.connection.streams)
    assert len(waiting) >= 3
    while bare.connection.streams:
        able = [each.number for each in bare.connection.streams.values() if not each.waits]
        assert len(able) == 1
        send(bare, able[0], 16_384, SIZE + 5, end=True)
        bare.asked.pop()[0].reply(b"")
    assert bare.output.account.promised == bare.connection.held == 0


def test_each_message_of_a_stream_has_its_own_memory() -> None:
    """Also one that begins in the DATA that ends the one before it."""
    (bare,) = sharing(1)
    bare.feed(bare.call(1, b"", path="/a.A/Keep", end=False))
    send(bare, 1, 0, SIZE - 5_000)
    bare.feed(frame(http2.DATA, 0, 1, PREFIXED[SIZE - 5_000 :] + PREFIXED[:10_000]))
    assert bare.kept == [PREFIXED[5:]]
    assert bare.output.account.promised == SIZE + 5
    send(bare, 1, 10_000, SIZE + 5)
    assert bare.kept == [PREFIXED[5:]] * 2
    assert bare.output.account.promised == bare.connection.held == 0


def test_the_next_message_of_a_stream_waits_for_those_that_came_before_it() -> None:
    first, second = sharing(2)
    first.feed(first.call(1, b"", path="/a.A/Keep", end=False))
    second.feed(second.call(1, b"", end=False))
    send(first, 1, 0, SIZE - 5_000)
    send(second, 1, 0, 49_152)
    assert second.connection.streams[1].waits
    first.feed(frame(http2.DATA, 0, 1, PREFIXED[SIZE - 5_000 :] + PREFIXED[:10_000]))
    stream = first.connection.streams[1]
    assert (stream.waits, second.connection.streams[1].waits) == (True, False)
    assert allowed(first, 1) <= http2.STREAM_WINDOW
    send(second, 1, 49_152, SIZE + 5, end=True)
    second.asked[0][0].reply(b"")
    assert not stream.waits
    send(first, 1, 10_000, SIZE + 5)
    assert first.kept == [PREFIXED[5:]] * 2
    for bare in (first, second):
        assert bare.output.account.promised == bare.connection.held == 0


def test_what_came_whole_without_its_memory_keeps_no_place_among_those_that_wait() -> None:
    first, second = sharing(2)
    for bare in (first, second):
        bare.feed(bare.call(1, b"", end=False))
    send(first, 1, 0, 49_152)
    message = message_of(60_000)
    for at in range(0, len(message), 16_384):
        last = at + 16_384 >= len(message)
        if last:
            assert second.output.intake.waiting == 1
        piece = message[at : at + 16_384]
        second.feed(frame(http2.DATA, http2.END_STREAM if last else 0, 1, piece))
    assert second.output.intake.waiting == 0
    assert second.output.account.held >= 60_000
    second.asked[0][0].reply(b"")
    second.feed(frame(http2.PING, 0, 0, bytes(8)))
    assert second.connection.held == 0
    assert second.output.account.held < 2_000


@pytest.mark.parametrize("size", [10_000, 1_900_000])
def test_whole_calls_behind_answers_that_wait_are_charged_and_keep_nobody_waiting(size: int) -> None:
    bare = Bare()
    bare.feed(bare.call(1, message_of(10)))
    bare.asked.pop()[0].reply(bytes(http2.HOLD + 100_000))
    queued, before = bare.connection.queued, bare.output.account.held
    assert queued > http2.HOLD
    for number in (3, 5):
        bare.feed(bare.call(number, b"", end=False))
        message = message_of(size)
        for at in range(0, len(message), 16_384):
            last = at + 16_384 >= len(message)
            piece = message[at : at + 16_384]
            bare.feed(frame(http2.DATA, http2.END_STREAM if last else 0, number, piece))
    account = bare.output.account
    assert not bare.asked
    assert account.promised == bare.connection.held == 0
    assert account.held >= before + 2 * size
    assert account.lasting >= 2 * size, "no reading of answers gives that back: it stops nobody"
    bare.feed(frame(http2.RST_STREAM, 0, 5, bytes(3) + b"\x08"))
    assert before + size <= account.held < before + 2 * size
    window = (queued + 1_000_000).to_bytes(4, "big")
    bare.feed(frame(http2.WINDOW_UPDATE, 0, 0, window) + frame(http2.WINDOW_UPDATE, 0, 1, window))
    bare.asked.pop()[0].reply(b"")
    assert account.held < 2_000


def test_a_large_call_is_charged_as_the_connections_own_once_its_answer_is_begun() -> None:
    (bare,) = sharing(1)
    bare.feed(bare.call(1, b"", end=False))
    send(bare, 1, 0, SIZE + 5, end=True)
    call, _ = bare.asked.pop()
    account = bare.output.account
    assert account.promised == SIZE + 5
    call.begin_reply(10)
    assert account.promised == 0
    assert account.lasting >= SIZE
    call.push(bytes(10))
    call.end_reply()
    assert account.held < 2_000


@pytest.mark.parametrize("ends", ["read", "reset", "gone"])
def test_messages_of_a_stream_that_were_not_handed_over_are_charged(ends: str) -> None:
    bare = Bare()
    bare.feed(bare.call(1, b"", path="/a.A/Keep", end=False))
    account = bare.output.account
    before = account.held
    piece = message_of(100) * 100
    bare.connection.receive(frame(http2.DATA, 0, 1, piece) * 4)
    left = 400 - len(bare.kept)
    assert left > 200
    assert account.held >= before + 100 * left
    assert account.lasting >= 100 * left
    if ends == "gone":
        bare.connection.gone()
        assert account.held == 0
        return
    bare.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08") if ends == "reset" else b"")
    assert len(bare.kept) == (400 if ends == "read" else 401 - left)
    assert account.held <= before


def test_messages_beyond_those_that_may_wait_are_refused_in_words() -> None:
    (bare,) = sharing(1)
    for number in range(1, 41, 2):
        bare.feed(bare.call(number, b"", end=False))
        if number in bare.connection.streams:
            send(bare, number, 0, 16_384)
    assert bare.trailers(bare.said)["grpc-status"] == "8"
    assert bare.trailers(bare.said)["grpc-message"] == "etcdserver: too many requests"


def test_who_waits_gives_its_place_up_when_it_goes() -> None:
    first, second = sharing(2)
    for bare in (first, second):
        bare.feed(bare.call(1, b"", end=False))
        send(bare, 1, 0, 16_384)
    second.feed(frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    assert second.output.intake.waiting == 0
    assert second.connection.held == 0
    first.connection.gone()
    assert first.output.account.promised == 0


def test_a_fault_where_one_is_admitted_ends_that_call_alone() -> None:
    first, second = sharing(2)
    for bare in (first, second):
        bare.feed(bare.call(1, b"", end=False))
        send(bare, 1, 0, 16_384)

    def fall() -> None:
        raise MemoryError

    second.output.again = fall  # type: ignore[method-assign]
    first.connection.gone()
    assert not second.connection.streams
    assert not second.output.was_cut
    assert second.output.account.promised == 0


def test_the_next_message_of_a_stream_asks_for_itself() -> None:
    """Though it begins in the piece that completes the one before."""
    (bare,) = sharing(1)
    size = 20_000
    bare.feed(bare.call(1, b"", path="/a.A/Keep", end=False))
    two = message_of(size) + message_of(size)
    bare.feed(frame(http2.DATA, 0, 1, two[:10_000]))
    assert bare.output.account.coming == size + 5
    bare.feed(frame(http2.DATA, 0, 1, two[10_000:26_000]))
    assert bare.output.account.coming == bare.output.account.promised == size + 5
    bare.feed(frame(http2.DATA, 0, 1, two[26_000:]))
    assert len(bare.kept) == 2
    assert bare.output.account.promised == 0


def test_a_message_that_is_given_up_ends_its_call_in_words() -> None:
    (bare,) = sharing(1)
    bare.feed(bare.call(1, b"", end=False))
    send(bare, 1, 0, 16_384)
    bare.connection.streams[1].given_up(408, b"too slow")
    bare.connection.resume()
    assert bare.trailers(bare.output.sent)["grpc-status"] == "8"
    assert bare.trailers(bare.output.sent)["grpc-message"] == "too slow"
    assert bare.output.account.promised == 0


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.lists(st.integers(0, 400), max_size=9))
def test_messages_of_a_stream_come_whole_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    bare = Bare()
    bare.feed(bare.call(1, b"", path="/a.A/Keep", end=False))
    messages = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
    stream = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)
    for cut in cuts:
        if stream[:cut]:
            bare.feed(frame(http2.DATA, 0, 1, stream[:cut]))
        stream = stream[cut:]
    bare.feed(frame(http2.DATA, http2.END_STREAM, 1, stream))
    assert bare.kept == [*messages, b"end"]
    assert bare.connection.held == 0


def test_timeouts_are_read_in_every_unit() -> None:
    for text, length in (
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"40m", 0.04),
        (b"99999999n", 0.099999999),
    ):
        assert parse_timeout(text) == pytest.approx(length)
    for text in (b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S"):
        assert parse_timeout(text) is None


def test_a_text_is_cut_between_characters() -> None:
    assert encode_text("a%b\n") == b"a%25b%0A"
    assert len(encode_text("é" * 5000)) <= 4096


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
def test_whoever_waits_for_the_end_of_a_stream_is_told_once(
    faults: set[str], ends: bool, told: list[str], fault: Exception
) -> None:
    """Whatever raises: the receiver, who hears of cancellation, or one after the other."""
    bare = Bare()
    bare.faults, bare.fault = faults, fault
    bare.feed(bare.call(1, message_of(3), path="/a.A/Defect"))
    assert bare.told[: len(told)] == told
    assert bool(bare.connection.streams) is not ends
    if ends:
        assert bare.trailers(bare.said)["grpc-status"] == "13"
    bare.connection.gone()
    assert sorted(bare.told[len(told) :]) == ["cancelled", "on_cancelled"]
    assert len(bare.log.events) == len(faults)


def test_who_takes_a_stream_while_its_connection_goes_hears_of_it_once() -> None:
    """Though so many others go with it that it is told in a later round."""
    bare = Bare()
    soon: list[Callable[[], object]] = []
    bare.connection.server._soon = soon.append
    for number in range(1, 2 * 2 * http2.DEPARTED_AT_ONCE, 2):
        bare.feed(bare.call(number, message_of(3)))

    def open_and_go(_: Call) -> Keeper:
        bare.connection.gone()
        return Keeper(bare.kept)

    bare.server.services.stream[b"/a.A/Go"] = open_and_go
    bare.feed(bare.call(1001, b"", path="/a.A/Go", end=False))
    assert bare.kept == []
    while soon:
        soon.pop()()
    assert bare.kept == [b"cancelled"]


def test_a_fault_of_a_unary_method_is_told_to_who_waits_for_its_end() -> None:
    bare = Bare()

    def defect(call: Call, message: bytes) -> None:
        call.on_cancelled(lambda: bare.told.append("told"))
        raise MemoryError

    bare.server.services.unary[b"/a.A/Ask"] = defect
    bare.feed(bare.call(1, message_of(3)))
    assert bare.told == ["told"]
    assert bare.trailers(bare.said)["grpc-status"] == "13"
    assert not bare.connection.streams


def test_a_stream_with_a_malformed_time_limit_is_not_handled() -> None:
    bare = Bare()
    bare.feed(bare.call(1, message_of(3), ("grpc-timeout", "soon"), path="/a.A/Keep", end=False))
    assert bare.trailers(bare.said)["grpc-status"] == "13"
    bare.connection.gone()
    assert bare.kept == []


def test_what_is_remembered_of_time_limits_is_short() -> None:
    before = grpc_headers._seconds.cache_info().currsize
    for i in range(100):
        assert parse_timeout(b"%010dS" % i) is None
        assert parse_timeout(b"%060000dS" % i) is None
    assert parse_timeout(b"") is None
    assert grpc_headers._seconds.cache_info().currsize == before


class Pieces:
    """Gives one large message piece by piece, as it drains. `most` is the largest backlog it saw."""

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


def judged_pieces(message: bytes, piece: int, window: int) -> tuple[Judged, list[Pieces]]:
    begun: list[Pieces] = []

    def ask(call: Call, _: bytes) -> None:
        begun.append(Pieces(call, message, piece))

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
def test_a_message_may_be_given_in_pieces_as_it_drains(size: int, piece: int, window: int) -> None:
    """h2 judges the frames, and what waits here is a piece or two, whatever the length of the message."""
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
def test_pieces_of_another_length_than_was_said_end_the_call(wrong: str) -> None:
    bare = Bare()

    def defect(call: Call, message: bytes) -> None:
        call.begin_reply(1 << 32 if wrong == "endless" else 10)
        call.push(bytes(11) if wrong == "long" else b"some")
        if wrong == "twice":
            call.begin_reply(10)
        call.end_reply()

    bare.server.services.unary[b"/a.A/Ask"] = defect
    bare.feed(bare.call(1, message_of(3)))
    assert bare.trailers(bare.said)["grpc-status"] == "13"
    assert "ValueError" in bare.log.lines[0][1]["error"]
    assert not bare.connection.streams


def test_a_message_that_was_begun_may_be_given_up() -> None:
    bare = Bare()
    bare.feed(bare.call(1, message_of(3)))
    (call, _), *_ = bare.asked
    call.begin_reply(10)
    call.push(b"some")
    call.finish(UNAVAILABLE, "later")
    assert bare.trailers(bare.output.sent)["grpc-status"] == "14"
    assert not bare.connection.streams


def test_many_messages_of_a_read_are_handled_in_turns() -> None:
    bare = Bare()
    connection = bare.connection
    connection.receive(bare.call(1, message_of(0) * 2_000, path="/a.A/Keep"))
    turns = 1
    while bare.output.run_turn():
        turns += 1
        assert connection.spent <= http2.SLICE + 33 * http2.HANDLED
    assert turns >= 2_000 * http2.HANDLED // http2.SLICE
    assert bare.kept == [b""] * 2_000 + [b"end"]


def test_a_connection_that_floods_is_served_whole_by_the_reactor(served: Served) -> None:
    """More calls in one go than a turn takes: the rest comes in the rounds that follow."""
    count = 1_500
    headers = [*REQUEST[:2], (":path", "/toy.Toy/Echo"), *REQUEST[3:]]
    asked = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
    for number in range(1, 2 * count, 2):
        asked += frame(http2.HEADERS, http2.END_HEADERS, number, block(headers))
        asked += frame(http2.DATA, http2.END_STREAM, number, message_of(1))
    ended: set[int] = set()
    with socket.create_connection(("127.0.0.1", served.port), seconds(SECONDS)) as client:
        client.sendall(asked)
        said = b""
        while len(ended) < count:
            said += client.recv(65_536)
            while len(said) >= 9 and len(said) >= 9 + int.from_bytes(said[:3], "big"):
                size = 9 + int.from_bytes(said[:3], "big")
                (each,), said = frames(said[:size]), said[size:]
                assert each.kind not in (http2.GOAWAY, http2.RST_STREAM)
                if each.kind == http2.HEADERS and each.flags & http2.END_STREAM:
                    ended.add(each.stream)
    assert ended == set(range(1, 2 * count, 2))


def test_a_time_limit_runs_by_the_clock_of_its_alarm() -> None:
    """The connection's time leaves out when the process was stopped: it may be far behind."""
    bare = Bare()
    bare.connection.server.clock = lambda: bare.time - 3600
    bare.feed(bare.call(1, message_of(0), ("grpc-timeout", "5S")))
    bare.time += 4
    bare.run_due()
    assert bare.cancelled == 0
    assert len(bare.connection.streams) == 1
    bare.time += 2
    bare.run_due()
    assert bare.trailers(bare.output.sent)["grpc-status"] == "4"


def sweep_until(bare: Bare, time: float) -> None:
    while bare.time < time:
        bare.time += 1
        bare.connection.sweep(bare.time)


def test_a_stream_has_its_time_for_each_message_it_begins() -> None:
    """And for ever before its first: clients open streams before they have something to say."""
    bare = Bare()
    start = bare.time
    for number in (1, 3, 5):
        bare.feed(bare.call(number, b"", path="/a.A/Keep", end=False))
    bare.feed(frame(http2.DATA, 0, 3, message_of(2)), frame(http2.DATA, 0, 5, b"\0"))
    assert bare.connection.unfinished == 2
    sweep_until(bare, start + http2.REQUEST_SECONDS + http2.LOOK_SECONDS + 1)
    assert set(bare.connection.streams) == {1, 3}
    assert bare.kept == [bytes(2), b"cancelled"]
    bare.kept.clear()
    sweep_until(bare, bare.time + 10_000)
    assert set(bare.connection.streams) == {1, 3}
    bare.feed(frame(http2.DATA, http2.END_STREAM, 1, message_of(3)))
    assert (bare.kept.pop(0), bare.connection.unfinished) == (bytes(3), 0)
    bare.kept.clear()
    # Messages that overlap with reads: each has its own time, whatever the number of pieces.
    two = message_of(10) * 2
    for piece in (two[:10], two[10:20], two[20:30]):
        bare.feed(frame(http2.DATA, 0, 3, piece))
        bare.time += http2.REQUEST_SECONDS - 10
        bare.connection.sweep(bare.time)
    assert bare.connection.unfinished == 0
    assert bare.kept == [bytes(10), bytes(10)]
    for _ in range(2):
        bare.feed(frame(http2.DATA, 0, 3, b"\0"))
        sweep_until(bare, bare.time + http2.REQUEST_SECONDS / 2)
    assert bare.connection.unfinished == 1
    sweep_until(bare, bare.time + http2.LOOK_SECONDS + 1)
    assert 3 not in bare.connection.streams
    assert bare.connection.held == 0
    assert bare.kept[-1] == b"cancelled"


def test_what_all_streams_of_a_connection_hold_makes_it_crowded() -> None:
    """Each holds little, and together they hold what a connection may; what is shared is not copied."""
    bare = Bare()
    bare.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)))
    size = 1 << 20
    bare.feed(*(bare.call(number, b"", path="/a.A/Keep", end=False) for number in range(1, 41, 2)))
    shared = bytes(size)
    told = []
    connection = bare.connection
    for call in connection.streams.values():
        assert isinstance(call, GrpcCall)
        if not call.crowded:
            call.send(b"head", shared)
            told.append(call)
    assert http2.CROWD < connection.queued <= http2.CROWD + size + 9
    queues = [stream._queue for stream in connection.streams.values() if stream._queue]
    assert len(queues) == len(told)
    assert all(queue[-1] is shared for queue in queues)
    roomy: list[int] = []
    told[0].on_room(lambda: roomy.append(1))
    bare.feed(
        frame(http2.WINDOW_UPDATE, 0, 1, (2 * size).to_bytes(4, "big")),
        frame(http2.WINDOW_UPDATE, 0, 0, (2 * size).to_bytes(4, "big")),
    )
    assert (roomy, told[0].crowded, told[1].crowded) == ([1], False, connection.queued > http2.CROWD)


def test_few_bytes_make_a_connection_crowded_once_memory_is_spent() -> None:
    bare = Bare()
    bare.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), bare.call(1, message_of(1)))
    (call, _), *_ = bare.asked
    call.send(bytes(LOW_WATER + 1))
    assert not call.crowded
    bare.output.account.charge(1 << 40)
    assert call.crowded


def test_messages_of_streams_do_not_wait_for_answers_that_are_held_back() -> None:
    """A lease is kept alive though a large answer waits for its window; calls wait, in their order."""
    bare = Bare()
    bare.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), bare.call(1, b"", path="/a.A/Keep", end=False))
    bare.feed(bare.call(3, message_of(1)))
    (large, _), *_ = bare.asked
    large.send(bytes(http2.HOLD))
    bare.feed(
        bare.call(5, message_of(1)), bare.call(7, message_of(2)), frame(http2.DATA, 0, 1, message_of(9))
    )
    assert bare.kept == [bytes(9)]
    assert len(bare.asked) == 1
    more = (10_000).to_bytes(4, "big")
    bare.feed(frame(http2.WINDOW_UPDATE, 0, 3, more))
    assert [message for _, message in bare.asked] == [bytes(1), bytes(1), bytes(2)]


def test_calls_that_are_held_back_and_lost_are_not_handled() -> None:
    bare = Bare()
    bare.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + bytes(4)), bare.call(3, message_of(1)))
    (large, _), *_ = bare.asked
    large.send(bytes(http2.HOLD))
    bare.feed(bare.call(5, message_of(1)), frame(http2.RST_STREAM, 0, 5, bytes(3) + b"\x08"))
    bare.feed(frame(http2.WINDOW_UPDATE, 0, 3, (10_000).to_bytes(4, "big")))
    assert len(bare.asked) == 1


def test_unfinished_messages_have_a_lower_limit_once_the_memory_for_all_is_spent() -> None:
    bare = Bare()
    bare.connection.held = http2.HELD_OVER
    bare.output.account.charge(1 << 31)
    bare.feed(bare.call(1, message_of(5000)[:3000], end=False))
    assert bare.trailers(bare.said)["grpc-status"] == "8"


def test_calls_whose_time_shrinks_leave_nothing_behind() -> None:
    """One alarm for all of them, and a place for each that is open."""
    bare = Bare()
    for i in range(3_000):
        bare.feed(bare.call(2 * i + 1, message_of(0), ("grpc-timeout", f"{8_000 - i}H")))
        bare.asked.pop()[0].reply(b"")
        assert sum(not each.cancelled for each in bare.due) == 1
    assert (len(bare.server._timed), bare.connection.streams) == (0, {})
    bare.feed(bare.call(9_001, message_of(0), ("grpc-timeout", "1S")))
    bare.time += 1
    bare.run_due()
    assert bare.trailers(bare.output.sent)["grpc-status"] == "4"


def test_many_calls_that_expire_at_once_end_in_several_ticks() -> None:
    bare = Bare()
    for i in range(150):
        bare.feed(bare.call(2 * i + 1, message_of(0), ("grpc-timeout", "1S")))
    bare.time += 2
    for left in (86, 22, 0):
        bare.run_due()
        assert len(bare.connection.streams) == left
    assert bare.cancelled == 150
    assert bare.due == []


def test_many_calls_that_expire_at_once_end_in_the_rounds_that_follow() -> None:
    bare = Bare()
    soon: list[Callable[[], object]] = []
    bare.server._soon = soon.append
    for i in range(150):
        bare.feed(bare.call(2 * i + 1, message_of(0), ("grpc-timeout", "1S")))
    bare.feed(bare.call(9_001, message_of(0), ("grpc-timeout", "9S")))
    bare.time += 2
    bare.run_due()
    for left in (87, 23, 1):
        assert len(bare.connection.streams) == left
        assert len(soon) == (left > 1)
        if soon:
            soon.pop()()
    assert bare.cancelled == 150
    assert [each.when for each in bare.due] == [109.0]


def test_a_fault_while_a_call_expires_keeps_no_other_from_expiring() -> None:
    bare = Bare()
    for number in (1, 3, 5):
        bare.feed(bare.call(number, message_of(0), ("grpc-timeout", "1S")))
    bare.fail_cancel = True
    bare.time += 2
    bare.run_due()
    assert bare.cancelled == 3
    assert not bare.connection.streams


def test_the_longest_time_limit_is_a_year() -> None:
    assert parse_timeout(b"99999999H") == grpc_headers.LONGEST_SECONDS


LENGTHS = st.sampled_from([0, 1, 5, 2_097_152, 2_097_153, 2**31 - 1, 2**31, 2**32 - 1])
WILD = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 255]),
        LENGTHS,
        st.binary(max_size=12) | st.just(bytes(16_000)),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(
    WILD,
    st.sampled_from(["/a.A/Ask", "/a.A/Keep", "/a.A/None"]),
    st.sampled_from(["", "99999999H", "0n", "-1S"]),
)
def test_extreme_lengths_of_messages_are_taken_or_refused(
    wild: list[tuple[int, int, bytes, bool]], path: str, limit: str
) -> None:
    bare = Bare()
    more = [("grpc-timeout", limit)] if limit else []
    bare.feed(bare.call(1, b"", *more, path=path, end=False))
    for flag, length, data, end in wild:
        prefix = bytes((flag,)) + length.to_bytes(4, "big")
        bare.feed(frame(http2.DATA, http2.END_STREAM if end else 0, 1, prefix + data))
        bare.time += 1
        bare.run_due()
        bare.connection.sweep(bare.time)
        assert bare.connection.held <= 2_097_157
        if bare.connection.streams:
            stream = bare.connection.streams[1]
            assert isinstance(stream, GrpcCall)
            buffered = len(stream.partial) if stream.partial is not None else 0
            if isinstance(stream, UnaryCall) and stream._message is not None:
                buffered = len(stream._message) + 5
            assert bare.connection.held == (0 if stream.claim is not None else buffered)
            assert bare.connection.unfinished == (stream.since is not None)
        else:
            assert (bare.connection.held, bare.connection.unfinished) == (0, 0)
    bare.connection.gone()
    assert bare.log.events == []
    assert bare.connection.held == bare.output.account.promised == 0
    assert len(bare.server._timed) == 0


def test_answers_nobody_reads_are_refused_once_memory_is_spent() -> None:
    """They come many at once, when the reads of a round are done: before one is queued, what waits counts."""
    bare = Bare()
    held: list[Call] = []
    bare.server.services.unary[b"/a.A/Ask"] = lambda call, _: held.append(call)
    for number in (1, 3, 5):
        bare.feed(bare.call(number, message_of(3)))
    bare.output.account = Budget(100_000).account()
    for call in held[:2]:
        call.reply(bytes(200_000))
    assert bare.output.account.held >= 100_000
    assert bare.connection.queued < 200_000
    assert bare.trailers(bare.output.sent)["grpc-status"] == "8"
    bare.output.account = Budget(1 << 30).account()
    held[2].reply(bytes(200_000))
    assert bare.connection.queued > 200_000


def test_a_call_whose_end_cannot_be_said_takes_its_connection_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it is not to wait for ever. Not at once: others may be at work for the connection."""
    bare = Bare()
    bare.feed(bare.call(1, message_of(3)))
    [(call, _)] = bare.asked

    def defect() -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(call_module, "status_block", lambda *_: defect())
        call.guard(defect)
    seen = [bare.output.was_cut]
    bare.output.run_turn()
    assert [*seen, bare.output.was_cut] == [False, True]
    assert bare.cancelled == 1
    assert len(bare.log.events) == 1


def test_what_is_done_for_a_call_alone_ends_only_that_one() -> None:
    bare = Bare()
    bare.feed(bare.call(1, message_of(3)), bare.call(3, message_of(3)))
    call, other = (call for call, _ in bare.asked)

    def defect() -> None:
        raise ValueError("a defect")

    call.guard(defect)
    bare.feed(b"")
    assert bare.trailers(bare.said)["grpc-status"] == "13"
    assert (call.open, other.open, bare.output.was_cut) == (False, True, False)
