"""gRPC over the real reactor, asked by grpcio: what an unmodified client sees."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from netstore.net import http2
from netstore.net.http2 import frame
from tests.support.grpcwire import (
    message_of,
)
from tests.support.h2client import REQUEST, block, frames
from tests.support.patience import seconds
from tests.support.toy import PUMP_BYTES, PUMP_HIGH, Served, toy_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
def test_messages_of_many_sizes_are_echoed(channel: grpc.Channel, size: int) -> None:
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


def test_unknown_methods_and_services_are_named(channel: grpc.Channel) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    for path, text in (
        ("/toy.Toy/Nothing", "unknown method Nothing for service toy.Toy"),
        ("/toy.Other/Echo", "unknown service toy.Other"),
    ):
        one: Any = channel.unary_unary(path, None, None)
        many: Any = channel.stream_unary(path, None, None)
        assert error(one, b"x", timeout=seconds(SECONDS)) == (unimplemented, text)
        assert error(many, iter([b"x"]), timeout=seconds(SECONDS)) == (unimplemented, text)


def test_an_exception_of_a_service_ends_only_its_call(served: Served, channel: grpc.Channel) -> None:
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


def test_a_service_is_told_that_its_call_was_cancelled(served: Served, channel: grpc.Channel) -> None:
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


def test_a_receiver_is_told_that_its_stream_was_cancelled(served: Served, channel: grpc.Channel) -> None:
    chat = streaming(channel, "Chat")(iter([b"x"]), timeout=seconds(SECONDS))
    assert next(chat) == b"x"
    # The service ends a chat with the client, so cancel one that the client has not ended.
    waiting = streaming(channel, "Chat")(endless(b"y"))
    assert next(waiting) == b"y"
    waiting.cancel()
    assert served.toy.cancelled.wait(seconds(SECONDS))


def endless(message: bytes) -> Iterator[bytes]:
    while True:
        yield message


def test_the_backlog_of_a_slow_reader_is_bounded(served: Served, channel: grpc.Channel) -> None:
    pump = streaming(channel, "Pump")(iter([b"200"]), timeout=seconds(SECONDS))
    assert sum(map(len, pump)) == 200 * PUMP_BYTES
    assert served.toy.most_backlog < PUMP_HIGH + 2 * PUMP_BYTES


def test_a_small_call_overtakes_a_large_answer(channel: grpc.Channel) -> None:
    """Streams share a connection fairly."""
    large = streaming(channel, "Pump")(iter([b"500"]), timeout=seconds(SECONDS))
    next(large)
    assert unary(channel, "Echo")(b"quick", timeout=seconds(SECONDS)) == b"quick"
    large.cancel()


def test_peer_name_and_metadata_of_a_call(channel: grpc.Channel) -> None:
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


def test_a_flood_of_calls_is_served_completely(served: Served) -> None:
    """More calls in one read than a turn handles: the rest is handled in the next rounds."""
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
