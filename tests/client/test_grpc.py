"""gRPC calls at several endpoints, against servers that fail in every way."""

from __future__ import annotations

import socket
import struct
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import h2.errors
import pytest
import trio
import trio.testing
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from netstore.client import grpc
from netstore.client.faults import CONNECT_TIMED_OUT, BadAnswer, ClientError, Unreachable, reason
from netstore.client.grpc import UNAVAILABLE, Channel, Status
from netstore.net.http2.frames import GOAWAY, PUSH_PROMISE, SETTINGS, frame
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from netstore.net.http2.client import Event

PATH = "/a.B/C"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]


class Served:
    """One connection of a server under the test's control."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.stream = stream
        self.metadata: dict[str, str] = {}

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def run(self, answer: Callable[[Served, int, bytes], Awaitable[None]]) -> None:
        """Call `answer` with each request that is complete, and with the first of a watch, until the client
        leaves.
        """
        self.h2.initiate_connection()
        await self.flush()
        bodies: dict[int, bytes] = {}
        while data := await self.stream.receive_some(65_536):
            for event in self.h2.receive_data(bytes(data)):
                if isinstance(event, RequestReceived):
                    bodies[event.stream_id or 0] = b""
                    self.metadata = dict(event.headers or [])  # type: ignore[arg-type]
                elif isinstance(event, DataReceived):
                    bodies[event.stream_id or 0] += event.data or b""
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                    if self.metadata[":path"].endswith("/Watch"):
                        await answer(self, event.stream_id or 0, bodies[event.stream_id or 0][5:])
                elif isinstance(event, StreamEnded):
                    await answer(self, event.stream_id or 0, bodies.pop(event.stream_id or 0)[5:])
            await self.flush()

    def message(self, number: int, data: bytes) -> None:
        """Send a message, as far as the client's window lets it go at once."""
        self.h2.send_data(number, struct.pack(">BI", 0, len(data)) + data)

    def end(self, number: int, code: int, text: str = "") -> None:
        """End a call with a status."""
        trailers = [("grpc-status", str(code)), ("grpc-message", text)]
        self.h2.send_headers(number, trailers, end_stream=True)


class Server:
    """A server that counts its calls."""

    def __init__(self, answer: Callable[[Served, int, bytes], Awaitable[None]]) -> None:
        self._answer = answer
        self.calls = 0
        self.connections = 0
        self.url = ""
        self.last: Served | None = None

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.last = Served(stream)
        with trio.CancelScope():
            try:
                async with stream:
                    await self.last.run(self._counted)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the client went away

    async def _counted(self, served: Served, number: int, body: bytes) -> None:
        self.calls += 1
        await self._answer(served, number, body)


@asynccontextmanager
async def channel(*servers: Server | str, limit: float = 20.0) -> AsyncIterator[Channel]:
    """A channel to these servers; a text is an endpoint where nobody listens."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        urls = []
        for server in servers:
            if isinstance(server, Server):
                [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
                server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
                nursery.start_soon(trio.serve_listeners, server.handle, [listener])
            urls.append(server.url if isinstance(server, Server) else server)
        yield Channel(nursery, urls, timeout=seconds(limit), connect_timeout=seconds(1))
        nursery.cancel_scope.cancel()


async def echo(served: Served, number: int, body: bytes) -> None:
    served.h2.send_headers(number, HEAD)
    served.message(number, body)
    served.end(number, 0)


async def refuse(served: Served, number: int, _body: bytes, *, code: int = UNAVAILABLE) -> None:
    served.h2.send_headers(number, HEAD)
    served.end(number, code, "etcdserver%3A no leader")


async def cut(served: Served, _number: int, _body: bytes) -> None:
    await served.stream.aclose()


async def say_nothing(_served: Served, _number: int, _body: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def refuse_stream(served: Served, number: int, _body: bytes) -> None:
    served.h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)


async def reset(served: Served, number: int, _body: bytes) -> None:
    served.h2.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)


async def go_away_unprocessed(served: Served, number: int, _body: bytes) -> None:
    last = max(0, number - 2)
    await served.stream.send_all(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))


async def answer_html(served: Served, number: int, _body: bytes) -> None:
    served.h2.send_headers(number, [(":status", "404"), ("content-type", "text/html")])
    served.h2.send_data(number, b"<html>", end_stream=True)


async def answer_compressed(served: Served, number: int, _body: bytes) -> None:
    served.h2.send_headers(number, HEAD)
    served.h2.send_data(number, b"\1\0\0\0\1x")


async def answer_hugely(served: Served, number: int, _body: bytes) -> None:
    served.h2.send_headers(number, HEAD)
    served.h2.send_data(number, struct.pack(">BI", 0, 2**31))


async def answer_without_message(served: Served, number: int, _body: bytes) -> None:
    served.h2.send_headers(number, HEAD)
    served.end(number, 0)


async def test_calls_share_a_connection() -> None:
    server = Server(echo)
    async with channel(server) as calls, trio.open_nursery() as nursery:
        calls.metadata = {b"user": b"me"}
        assert await calls.unary(PATH, b"one", write=True) == b"one"
        answers = []

        async def ask(body: bytes) -> None:
            answers.append(await calls.unary(PATH, body, write=False))

        for number in range(50):
            nursery.start_soon(ask, bytes([number]) * number * 100)
        with trio.fail_after(seconds(20)):
            while len(answers) < 50:  # noqa: ASYNC110 - the tasks end by themselves
                await trio.sleep(0.01)  # fixed: between two looks
    assert sorted(map(len, answers)) == [number * 100 for number in range(50)]
    assert (server.connections, server.calls) == (1, 51)
    assert server.last is not None
    assert server.last.metadata["user"] == "me"


async def test_a_message_beyond_all_windows_arrives() -> None:
    size = 3 * 1024 * 1024

    async def answer(served: Served, number: int, body: bytes) -> None:
        assert len(body) == size
        served.h2.send_headers(number, HEAD)
        data = struct.pack(">BI", 0, size) + body
        while data:
            room = min(served.h2.local_flow_control_window(number), 16_384)
            if room == 0:
                await served.flush()
                for _ in served.h2.receive_data(bytes(await served.stream.receive_some(65_536))):
                    pass
                continue
            served.h2.send_data(number, data[:room])
            data = data[room:]
        served.end(number, 0)

    async with channel(Server(answer)) as calls:
        with trio.fail_after(seconds(30)):
            assert await calls.unary(PATH, bytes(size), write=False) == bytes(size)


@pytest.mark.parametrize(
    "first", [refuse, cut, refuse_stream, reset, go_away_unprocessed, partial(say_nothing)]
)
async def test_a_read_goes_on_to_the_next_endpoint(
    first: Callable[[Served, int, bytes], Awaitable[None]],
) -> None:
    broken, good = Server(first), Server(echo)
    limit = 1.0 if isinstance(first, partial) else 20.0
    async with channel("http://127.0.0.1:1", broken, good, limit=limit) as calls:
        assert await calls.unary(PATH, b"x", write=False) == b"x"
        assert await calls.unary(PATH, b"y", write=False) == b"y"
    assert (broken.calls, good.calls) == (1, 2), "the one that answered is asked first from then on"


@pytest.mark.parametrize(
    ("first", "is_repeated"),
    [(cut, False), (reset, False), (refuse_stream, True), (go_away_unprocessed, True)],
)
async def test_a_write_is_repeated_only_if_it_was_not_processed(
    first: Callable[[Served, int, bytes], Awaitable[None]], is_repeated: bool
) -> None:
    broken, good = Server(first), Server(echo)
    async with channel("http://127.0.0.1:1", broken, good) as calls:
        if is_repeated:
            assert await calls.unary(PATH, b"x", write=True) == b"x"
        else:
            with pytest.raises(Unreachable, match="outcome unknown") as caught:
                await calls.unary(PATH, b"x", write=True)
            assert not caught.value.outcome_known
    assert (broken.calls, good.calls) == (1, int(is_repeated))


@pytest.mark.parametrize(("code", "write", "known"), [(14, True, False), (3, True, True), (14, False, True)])
async def test_a_refusal_says_whether_a_write_may_have_happened(code: int, write: bool, known: bool) -> None:
    server = Server(partial(refuse, code=code))
    async with channel(server) as calls:
        with pytest.raises(Status, match="etcdserver: no leader") as caught:
            await calls.unary(PATH, b"x", write=write)
    assert (caught.value.code, caught.value.outcome_known) == (code, known)
    assert server.calls == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (answer_html, "answered 404, and not in gRPC"),
        (answer_compressed, "sent a compressed message"),
        (answer_hugely, "sent a message of more than"),
        (answer_without_message, "ended a call without an answer"),
        (partial(refuse, code=1000), "ended a call without a status"),
    ],
)
async def test_what_is_not_an_answer_is_told_in_words(
    answer: Callable[[Served, int, bytes], Awaitable[None]], told: str
) -> None:
    async with channel(Server(answer)) as calls:
        with pytest.raises(BadAnswer, match=told):
            await calls.unary(PATH, b"x", write=False)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "is that its peer port, or https"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers in HTTP/1; is it https://"),
        (b"220 mail.example ESMTP\r\n", "does not speak HTTP/2; is it a store"),
    ],
)
async def test_a_server_of_another_protocol(said: bytes, told: str) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        async with stream:
            if said:
                await stream.send_all(said)
                await stream.receive_some(1000)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, speak, [listener])
        calls = Channel(nursery, f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        with pytest.raises(Unreachable, match=told):
            await calls.unary(PATH, b"x", write=False)
        nursery.cancel_scope.cancel()


async def test_no_endpoint_can_be_reached() -> None:
    async with channel("http://127.0.0.1:1", "http://127.0.0.1:2") as calls:
        for write in (True, False):
            with pytest.raises(Unreachable, match=r"127.0.0.1:1: Connection refused.*:2: Conn") as caught:
                await calls.unary(PATH, b"x", write=write)
            assert caught.value.outcome_known
        with pytest.raises(Unreachable):
            await calls.open(PATH)


@pytest.mark.parametrize("first", [say_nothing, cut, refuse])
async def test_a_write_that_fails_leaves_the_endpoint_to_others(
    first: Callable[[Served, int, bytes], Awaitable[None]],
) -> None:
    broken, good = Server(first), Server(echo)
    async with channel("http://127.0.0.1:1", broken, good, limit=1.0) as calls:
        with pytest.raises(ClientError) as caught:
            await calls.unary(PATH, b"x", write=True)
        assert not caught.value.outcome_known
        assert await calls.unary(PATH, b"y", write=True) == b"y"
    assert (broken.calls, good.calls) == (1, 1)


@asynccontextmanager
async def full_queue() -> AsyncIterator[str]:
    """A host that answers no SYN: the queue of its listening socket is full."""
    with socket.socket() as listening, ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_host_that_takes_no_connection_is_told_in_words() -> None:
    async with full_queue() as url, channel(url) as calls:
        with pytest.raises(Unreachable) as caught:
            await calls.unary(PATH, b"x", write=True)
        assert caught.value.tried == [(url, CONNECT_TIMED_OUT)]
        with trio.move_on_after(0.05) as scope:  # fixed: less than the time to connect
            await calls.unary(PATH, b"x", write=True)
        assert scope.cancelled_caught, "a cancellation is not taken for a failure"


async def test_a_stream_of_messages_and_its_end() -> None:
    async def answer(served: Served, number: int, _body: bytes) -> None:
        served.h2.send_headers(number, HEAD)
        for text in (b"one", b"", b"three"):
            served.message(number, text)
        served.end(number, 0)

    async with channel(Server(answer)) as calls:
        call = await calls.open(PATH)
        call.send(b"x", is_last=True)
        assert [await call.receive() for _ in range(3)] == [b"one", b"", b"three"]
        for _ in range(2):
            with pytest.raises(Status) as caught:
                await call.receive()
            assert caught.value.code == 0
        call.close()


async def test_a_cancelled_wait_loses_no_message() -> None:
    gate = trio.Event()

    async def answer(served: Served, number: int, _body: bytes) -> None:
        served.h2.send_headers(number, HEAD)
        await served.flush()
        await gate.wait()
        for item in range(100):
            served.message(number, bytes([item]))
        await served.flush()

    async with channel(Server(answer)) as calls:
        call = await calls.open(PATH)
        call.send(b"x", is_last=True)
        found: list[int] = []
        with trio.move_on_after(0.05):  # fixed: nothing comes
            await call.receive()
        gate.set()
        with trio.fail_after(seconds(20)):
            while len(found) < 100:
                with trio.move_on_after(0.002):  # fixed: cut short now and then
                    found += await call.receive()
                await trio.lowlevel.checkpoint()
        assert found == list(range(100))
        call.close()


async def test_a_broken_connection_is_replaced() -> None:
    server = Server(echo)
    async with channel(server) as calls:
        assert await calls.unary(PATH, b"x", write=True) == b"x"
        waiting = await calls.open(PATH)
        assert server.last is not None
        await server.last.stream.aclose()
        with pytest.raises(Unreachable, match=r"closed the connection|reset by peer"):
            await waiting.receive()
        waiting.close()
        assert await calls.unary(PATH, b"y", write=True) == b"y"
    assert server.connections == 2


async def test_many_small_pieces_of_a_message_are_held_as_one() -> None:
    data = bytes(range(200))

    async def answer(served: Served, number: int, _body: bytes) -> None:
        served.h2.send_headers(number, HEAD)
        for byte in struct.pack(">BI", 0, len(data)) + data:
            served.h2.send_data(number, bytes([byte]), pad_length=2)
        served.end(number, 0)

    async with channel(Server(answer)) as calls:
        call = await calls.open(PATH)
        call.send(b"x", is_last=True)
        assert await call.receive() == data
        assert isinstance(call._held, bytearray)
        call.close()


async def test_a_peer_that_is_at_fault_is_told() -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = grpc._Connection("http://store", client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        call = grpc.Call(connection, [(b":method", b"POST")])
        await server.send_all(frame(SETTINGS, 0, 0) + frame(PUSH_PROMISE, 4, 1, bytes(4)))
        with pytest.raises(Unreachable, match="does not keep to HTTP/2: a push"):
            await call.receive()
        with trio.fail_after(seconds(20)):
            got = b"".join([bytes(data) async for data in server])
        assert b"a push, which is disabled" in got


async def test_an_unexpected_error_breaks_the_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, __: bytes) -> list[Event]:
        raise ValueError("of this test")

    async with channel(Server(echo)) as calls:
        monkeypatch.setattr("netstore.client.grpc.ClientConnection.receive", fail)
        with pytest.raises(Unreachable, match="the connection failed: of this test"):
            await calls.unary(PATH, b"x", write=False)
        monkeypatch.undo()
        assert await calls.unary(PATH, b"x", write=False) == b"x"


async def test_a_connection_to_an_endpoint_that_is_avoided_is_closed_after_its_last_call() -> None:
    first, second = Server(echo), Server(echo)
    async with channel(first, second) as calls:
        waiting = await calls.open(PATH)
        calls.avoid(first.url)
        assert await calls.unary(PATH, b"x", write=True) == b"x"
        assert (first.calls, second.calls) == (0, 1)
        waiting.send(b"", is_last=True)
        assert await waiting.receive() == b""
        waiting.close()
        old = first.last
        assert old is not None
        with trio.fail_after(seconds(20)):
            while old.stream.socket.fileno() >= 0:  # noqa: ASYNC110 - the server closes when the client did
                await trio.sleep(0.01)  # fixed: between two looks


async def test_a_peer_that_falls_silent_is_found_out(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = grpc._Connection("http://store", client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        call = grpc.Call(connection, [(b":method", b"POST")])
        began = trio.current_time()
        with pytest.raises(Unreachable, match="nothing came for 40 s"):
            await call.receive()
        assert trio.current_time() - began == pytest.approx(40)
        call.close()
        nursery.cancel_scope.cancel()
    await server.aclose()


@pytest.mark.parametrize(
    "error", [trio.BrokenResourceError(), ExceptionGroup("x", [trio.ClosedResourceError()])]
)
def test_a_reason_is_never_a_name_of_a_class(error: Exception) -> None:
    assert reason(error) == "the connection broke"


def test_errors_of_calls_are_errors_of_clients() -> None:
    assert issubclass(Status, ClientError)
    assert str(Status("http://store", 7, "")) == "http://store ended the call with gRPC code 7"
