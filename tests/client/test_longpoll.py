"""Long polls over connections of their own: which connection is used again, and what is refused."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from netstore.client.faults import BadAnswer, CertificateRefused, Unreachable
from netstore.client.longpoll import MAX_HEAD_BYTES, MAX_IDLE
from netstore.client.transport import Transport
from tests.support.certificates import Certificates
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from netstore.client.longpoll import PollAnswer

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Etcd-Index: 7\r\n\r\n"


class Server:
    """Answers each request of a connection with the next of its pieces, or with all pieces of a list one
    after the other. b"" hangs up; after the last answer it waits until the client leaves.
    """

    def __init__(self, *answers: bytes | Sequence[bytes], tls: ssl.SSLContext | None = None) -> None:
        self._answers = list(answers)
        self._tls = tls
        self.heads: list[bytes] = []
        self.connections = 0
        self.asked = trio.Event()
        """A request has come."""
        self.left = trio.Event()
        """A client closed its connection."""

    async def handle(self, tcp: trio.SocketStream) -> None:
        self.connections += 1
        stream: trio.abc.Stream = tcp
        if self._tls is not None:
            stream = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
        try:
            async with stream:
                await self._serve(stream)
        except trio.BrokenResourceError:
            self.left.set()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = await stream.receive_some(65536)
                if not piece:
                    self.left.set()
                    return
                head += piece
            self.heads.append(head)
            self.asked.set()
            answer = self._answers.pop(0)
            for part in [answer] if isinstance(answer, bytes) else answer:
                if not part:
                    return
                await stream.send_all(part)
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def transport(*servers: Server | str, limit: float = 20.0, **more: str) -> AsyncIterator[Transport]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        urls = []
        for server in servers:
            if isinstance(server, str):
                urls.append(server)
                continue
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            scheme = "http" if server._tls is None else "https"
            urls.append(f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}")
            nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield await stack.enter_async_context(
            Transport(urls, timeout=seconds(limit), connect_timeout=seconds(1), **more)  # type: ignore[arg-type]
        )


def refusal(answer: PollAnswer, body: bytes) -> BadAnswer:
    return BadAnswer(answer.endpoint, body.decode(), status=answer.status)


async def poll(at: Transport) -> PollAnswer:
    return await at.poll("/v2/keys/a", {"wait": "true"}, refusal)


async def event(at: Transport) -> bytes | None:
    answer = await poll(at)
    try:
        return await answer.body_of_watch()
    finally:
        await answer.close()


async def test_polls_share_a_connection_whatever_the_form_of_the_answers() -> None:
    pieces = [bytes([byte]) for byte in CHUNKED]
    server = Server(WHOLE, CHUNKED, pieces, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", WHOLE)
    async with transport(server, username="ann") as at:
        assert [await event(at) for _ in range(5)] == [b"first", b"second", b"second", b"", b"first"]
        assert server.connections == 1
    head = server.heads[0]
    assert head.startswith(b"GET /v2/keys/a?wait=true HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Basic YW5uOg==\r\n" in head
    assert len(set(server.heads)) == 1


async def test_the_head_of_an_answer_is_known_before_its_body() -> None:
    async with transport(Server(HEAD)) as at:
        answer = await poll(at)
        assert (answer.status, answer.header("x-etcd-index"), answer.header("x-none")) == (200, "7", "")
        await answer.close()


async def test_interim_answers_are_passed_over() -> None:
    async with transport(Server(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + WHOLE)) as at:
        assert await event(at) == b"first"


async def test_a_poll_that_is_given_up_takes_its_connection_with_it() -> None:
    server = Server(HEAD, WHOLE)
    async with transport(server) as at:
        answer = await poll(at)
        with trio.move_on_after(0.01) as waiting:  # fixed: nothing comes
            await answer.body_of_watch()
        assert waiting.cancelled_caught
        await answer.close()
        with trio.fail_after(seconds(10)):
            await server.left.wait()
        assert await event(at) == b"first"
        assert server.connections == 2


async def test_a_poll_that_is_cancelled_before_its_head_closes_its_connection() -> None:
    server = Server([b"HTTP/1.1 200"])
    async with transport(server) as at:
        with trio.fail_after(seconds(10)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll, at)
                await server.asked.wait()
                nursery.cancel_scope.cancel()
            await server.left.wait()


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 5\r\n\r\nfirst",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
        [b"HTTP/1.1 200 OK\r\n\r\nfi", b"rst", b""],
        WHOLE + WHOLE,  # one that nobody asked for
        [WHOLE, b""],
    ],
)
async def test_a_connection_that_is_over_is_not_used_again(first: bytes | list[bytes]) -> None:
    server = Server(first, CHUNKED)
    async with transport(server) as at:
        assert await event(at) == b"first"
        await trio.testing.wait_all_tasks_blocked()  # what the server sends, it has sent
        assert await event(at) == b"second"
        assert server.connections == 2


async def test_what_comes_late_over_an_idle_connection_is_no_answer() -> None:
    server = Server([WHOLE, WHOLE], CHUNKED)
    async with transport(server) as at:
        assert await event(at) == b"first"
        await trio.testing.wait_all_tasks_blocked()
        assert await event(at) == b"second"


async def test_few_connections_are_kept() -> None:
    count = MAX_IDLE + 2
    server = Server(*[WHOLE] * count, CHUNKED)
    async with transport(server) as at:
        answers = [await poll(at) for _ in range(count)]
        assert server.connections == count
        for answer in answers:
            assert await answer.body() == b"first"
            await answer.close()
        assert len(at._polls._idle) == MAX_IDLE
        with trio.fail_after(seconds(10)):
            await server.left.wait()
        assert await event(at) == b"second"
        assert server.connections == count


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n" + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1),
    ],
)
async def test_what_is_not_http_is_refused(answer: bytes) -> None:
    async with transport(Server(answer)) as at:
        with pytest.raises(Unreachable, match=r"does not keep to HTTP/1\.1"):
            await poll(at)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "is that its peer port"),
        ([b"HTTP/1.1 200 OK\r\n", b""], "within its answer"),
    ],
)
async def test_an_end_before_the_head(answer: bytes | list[bytes], why: str) -> None:
    async with transport(Server(answer)) as at:
        with pytest.raises(Unreachable, match=why) as caught:
            await poll(at)
    assert caught.value.outcome_known


@pytest.mark.parametrize("rest", [b"5\r\nfi", b"zz\r\n"])
async def test_a_body_that_is_cut_or_garbled_is_no_event(rest: bytes) -> None:
    for head in (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"):
        async with transport(Server([head + rest, b""], [head + rest, b""])) as at:
            assert await event(at) is None
            answer = await poll(at)
            with pytest.raises(Unreachable):
                await answer.body()
            await answer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n0123456789",
    ],
)
async def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr("netstore.client.longpoll.MAX_ANSWER_BYTES", 9)
    async with transport(Server(answer)) as at:
        with pytest.raises(BadAnswer, match="sent more than 9 bytes"):
            await event(at)


SICK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nsick"


async def test_the_next_endpoint_is_polled_where_one_cannot_serve() -> None:
    sick, cut, well = Server(SICK), Server([SICK[:-1], b""]), Server(WHOLE, CHUNKED)
    async with transport("http://127.0.0.1:1", cut, sick, well) as at:
        assert [await event(at), await event(at)] == [b"first", b"second"]
    assert (len(cut.heads), len(sick.heads), well.connections) == (1, 1, 1)


async def test_the_next_endpoint_is_polled_where_a_refusal_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netstore.client.longpoll.MAX_ANSWER_BYTES", 9)
    long = SICK.replace(b" 4", b" 10")
    async with transport(Server(long), Server(WHOLE)) as at:
        assert await event(at) == b"first"
    async with transport(Server(long)) as at:
        with pytest.raises(BadAnswer, match="sent more than 9 bytes"):
            await event(at)


async def test_the_refusal_of_the_last_endpoint_counts() -> None:
    async with transport(Server(SICK), Server(SICK.replace(b"sick", b"dead"))) as at:
        with pytest.raises(BadAnswer, match="dead") as caught:
            await poll(at)
    assert caught.value.status == 503


async def test_an_endpoint_that_says_nothing_is_left_in_time() -> None:
    async with transport(Server([]), limit=0.05) as at:
        with pytest.raises(Unreachable, match="no answer within"):
            await poll(at)


async def test_polls_over_tls(tmp_path: Path) -> None:
    pair = Certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    server = Server(WHOLE, CHUNKED, tls=context)
    async with transport(server, ca_file=str(pair.ca)) as at:
        assert [await event(at), await event(at)] == [b"first", b"second"]
        assert server.connections == 1
    other = Certificates(tmp_path / "other")
    async with transport(Server(WHOLE, tls=context), ca_file=str(other.ca)) as at:
        with pytest.raises(Unreachable, match="has not signed it") as caught:
            await poll(at)
    assert isinstance(caught.value.tried[0][1], CertificateRefused)


async def test_a_cancelled_client_closes_all_its_connections() -> None:
    server = Server(WHOLE, WHOLE)
    async with transport(server) as at:
        answers = [await poll(at), await poll(at)]
        for answer in answers:
            await answer.body()
            await answer.close()
        idle = list(at._polls._idle)
        with trio.CancelScope() as scope:
            scope.cancel()
            await at._polls.close()
        assert len(idle) == 2
        for connection in idle:
            with pytest.raises(trio.ClosedResourceError):
                await connection._stream.send_all(b"x")
