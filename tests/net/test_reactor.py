"""The reactor over real loopback sockets: bounds, slow peers, hang-ups. Time is a number the test sets."""

from __future__ import annotations

import gc
import select
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.lowlevel

from netstore.guard import unguarded
from netstore.limits import Budget
from netstore.net import connection as connecting
from netstore.net import reactor, scheduler
from netstore.net.acceptor import ACCEPT_SECONDS, KERNEL_BUFFER
from netstore.net.connection import HANDSHAKE_SECONDS, SEND_SIZE, Connection
from netstore.net.exchange import HIGH_WATER
from netstore.net.http1.bounds import BODY_SECONDS, HEAD_SECONDS, HURRIED_LIMIT, PIPELINE_LIMIT, TURN_LIMIT
from netstore.net.http1.connection import Http1Connection
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import SETTINGS, Http2Connection, Http2Server, frame
from netstore.net.http2.frames import PREFACE
from netstore.net.load import LONG_TURN
from netstore.net.reactor import LINGER_SECONDS, Limits, Reactor
from netstore.net.scheduler import ROUND_SECONDS
from netstore.net.sendqueue import send_gathered
from netstore.net.tls import Credentials
from netstore.net.watched import MEMBERS_SECONDS
from tests.support.certificates import Certificates
from tests.support.log import KeptLog
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator
    from pathlib import Path

    from netstore.net.http1.exchange import Http1Exchange
    from netstore.net.http2 import Head, Stream
    from netstore.net.session import Session

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """A reactor that is running, and the exchanges it handed over."""

    def __init__(self, limits: Limits, credentials: Credentials | None = None) -> None:
        self.time = 1000.0
        self.rounds = self.ended = self.handled = 0
        self.alone: list[bool] = []
        """Of each round in which somebody was handled."""
        self.log = KeptLog()
        self.exchanges: list[Http1Exchange] = []
        self.answer: bytes | None = b"hello"
        self.server = Http1Server(self._handle)
        self.reactor = Reactor(limits, self.server, self.log, lambda: self.time)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.reactor.listen(listener, credentials)

    def _handle(self, exchange: Http1Exchange) -> None:
        self.exchanges.append(exchange)
        if exchange.request.path == b"/fault":
            raise RuntimeError("a fault of the handler")
        if self.answer is not None:
            exchange.respond(200, b"", self.answer)

    def begin(self) -> None:
        self.rounds += 1

    def end(self, *, alone: bool) -> None:
        self.ended += 1
        if len(self.exchanges) > self.handled:
            self.alone.append(alone)
        self.handled = len(self.exchanges)

    def let_pass(self, seconds: float) -> None:
        """So much time, with a sweep each second."""
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + 1, until)
            self.reactor.sweep()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def until_open(self, count: int) -> None:
        with trio.fail_after(seconds(10)):
            while len(self.reactor._connections) != count:
                await trio.lowlevel.checkpoint()

    async def until_asked(self, count: int) -> None:
        with trio.fail_after(seconds(10)):
            while len(self.exchanges) < count:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def site(limits: Limits | None = None, credentials: Credentials | None = None) -> AsyncIterator[Site]:
    running = Site(limits or Limits(), credentials)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            running.reactor.run, lambda connection, server: Http1Connection(server, connection), running
        )
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()


async def read_all(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(seconds(10)):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            return data
    return data


async def test_a_request_is_answered_and_the_connection_stays() -> None:
    async with site() as here, await here.connect() as stream:
        for _ in range(3):
            await stream.send_all(GET)
            with trio.fail_after(seconds(10)):
                assert (await stream.receive_some(65536)).endswith(b"hello")
        assert len(here.reactor._connections) == 1


async def test_a_large_answer_to_a_slow_reader_arrives_whole() -> None:
    async with site() as here, await here.connect() as stream:
        here.answer = bytes(range(256)) * 40_000
        await stream.send_all(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        data = await read_all(stream)
        assert data.partition(b"\r\n\r\n")[2] == here.answer
        await stream.aclose()
        await here.until_open(0)


async def test_a_round_of_one_connection_is_told_from_one_of_many() -> None:
    """In the first nobody else waits for what its turn does."""
    async with site() as here:
        many = asking(here, 5)
        await here.until_asked(5)
        for some, is_alone in ((many[:1], True), (many, False)):
            before = len(here.exchanges)
            here.alone.clear()
            for one in some:  # nothing is read in between
                one.sendall(GET)
            await here.until_asked(before + len(some))
            assert here.alone == [is_alone]
        for one in many:
            one.close()


async def test_a_large_piece_for_many_readers_is_kept_once() -> None:
    """Also while part of it was sent."""
    async with site() as here, await here.connect() as first, await here.connect() as second:
        here.answer = None
        for stream in (first, second):
            await stream.send_all(GET)
        await here.until_asked(2)
        piece = bytes(30_000_000)
        for exchange in here.exchanges:
            exchange.begin(200, b"")
            assert exchange.push(piece)
            connection = cast("Connection", exchange._connection.output)
            with trio.fail_after(seconds(10)):
                while not isinstance(rest := connection._queue[0], memoryview):
                    await trio.lowlevel.checkpoint()
            assert rest.obj is piece


async def test_pieces_that_are_not_joined_arrive_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = 0

    def count(sock: socket.socket, queue: deque[bytes | memoryview]) -> tuple[int, bool]:
        nonlocal gathered
        gathered += 1
        return send_gathered(sock, queue)

    monkeypatch.setattr(connecting, "send_gathered", count)
    sent = b""
    async with site() as here, await here.connect() as stream:
        here.answer = None
        await stream.send_all(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await here.until_asked(1)
        (exchange,) = here.exchanges
        exchange.begin(200, b"")
        for number in range(300):
            piece = number.to_bytes(4, "big") * (200 + number * 37 % 4_000)
            sent += piece
            assert exchange.push(piece)
        exchange.end()
        data = await read_all(stream)
    assert data.partition(b"\r\n\r\n")[2] == sent
    assert gathered


async def test_unread_answers_stop_the_reading() -> None:
    """A client that sends and never reads is not read from for ever: memory stays bounded."""
    async with site() as here, await here.connect() as stream:
        here.answer = b"x" * 1_000_000
        with trio.move_on_after(0.5):  # fixed: it never ends
            await stream.send_all(GET * 100_000)
        assert len(here.exchanges) < 10_000


async def test_requests_held_back_are_handled_once_the_answers_are_read() -> None:
    """Nothing more comes from the client: what frees the rest is the kernel that takes the answers."""
    async with site() as here, await here.connect() as stream:
        here.answer = b"x" * 300_000
        await stream.send_all(GET * 29 + GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        data = await read_all(stream)
        assert data.count(b"HTTP/1.1 200 OK") == 30
        assert len(here.exchanges) == 30


async def test_a_stalled_request_is_refused_in_words() -> None:
    async with site(Limits(stall_seconds=5)) as here, await here.connect() as stream:
        await stream.send_all(GET[:10])
        await here.until_open(1)
        with trio.fail_after(seconds(10)):
            while not any(c.session.waiting for c in here.reactor._connections.values()):
                await trio.lowlevel.checkpoint()
        here.let_pass(4)
        assert len(here.reactor._connections) == 1
        here.let_pass(2)
        assert b" 408 " in await read_all(stream)


@pytest.mark.parametrize("first", ["round", "sweep"])
async def test_time_in_which_nothing_could_be_read_counts_for_nobody(first: str) -> None:
    """Whether the process was stopped or its loop held, and whatever it does first afterwards."""
    async with site(Limits(stall_seconds=5)) as here, await here.connect() as stream:
        await stream.send_all(GET[:10])
        with trio.fail_after(seconds(10)):
            while not any(each.heard for each in here.reactor._connections.values()):
                await trio.lowlevel.checkpoint()
        here.let_pass(4)
        for stop in (3600.0, 2.5, 100.0):
            here.time += stop
            if first == "round":
                here.reactor.call_soon(lambda: None)
                rounds = here.rounds
                with trio.fail_after(seconds(10)):
                    while here.rounds == rounds:
                        await trio.lowlevel.checkpoint()
            here.reactor.sweep()
            assert len(here.reactor._connections) == 1
        await stream.send_all(GET[10:-1])
        with trio.fail_after(seconds(10)):
            (connection,) = here.reactor._connections.values()
            before = here.reactor.now
            while connection.progress < before:
                await trio.lowlevel.checkpoint()
        here.let_pass(6)
        assert b" 408 " in await read_all(stream), "no more time is won than was lost"


async def test_a_handshake_has_its_time_limit(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with (
        site(credentials=credentials) as here,
        await here.connect() as silent,
        await here.connect() as slow,
    ):
        await slow.send_all(b"\x16\x03\x01")
        await here.until_open(2)
        here.let_pass(HANDSHAKE_SECONDS - 1)
        assert len(here.reactor._connections) == 2
        # Bytes that come slowly win no time.
        await slow.send_all(b"\x02\x00")
        here.let_pass(2)
        assert await read_all(silent) == b""
        assert await read_all(slow) == b""
        assert len(here.reactor._connections) == 0
        assert here.log.events == ["tls_handshake_failed"]


async def test_a_letter_inside_a_handshake_is_no_http(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = files.context("http/1.1", shown=None).wrap_bio(inbound, outbound, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outbound.read()
    letter = hello.index(b"localhost")
    async with site(credentials=credentials) as here, await here.connect() as stream:
        await stream.send_all(hello[:letter])
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        with trio.fail_after(seconds(10)):
            while connection._tunnel is not None and not connection._tunnel.records:
                await trio.lowlevel.checkpoint()
            await stream.send_all(hello[letter:])
            assert (await stream.receive_some(65536))[:1] == b"\x16"


async def open_tls(stream: trio.SocketStream, files: Certificates) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """Shake hands by hand; gives what seals, and where it puts what is sealed."""
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = files.context("http/1.1", shown=None).wrap_bio(inbound, outbound, server_hostname="localhost")
    with trio.fail_after(seconds(10)):
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream.send_all(outbound.read())
                inbound.write(await stream.receive_some(65536))
            else:
                return tls, outbound


BROKEN = b"\x17\x03\x03\x00\x20" + b"x" * 32
"""A record that nobody sealed: what anybody on the way can put in."""

SECRET = b"secret--"


async def test_after_a_broken_record_nothing_leaves_that_was_not_sealed(tmp_path: Path) -> None:
    """Neither what waits to be sent, nor what is answered later; an alert says why (RFC 8446, 6.2)."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(credentials=credentials) as here:
        ((listener, _),) = here.reactor.acceptor.listeners.values()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        await sock.connect(("127.0.0.1", here.port))
        stream = trio.SocketStream(sock)
        here.answer = SECRET * 100_000
        tls, outbound = await open_tls(stream, files)
        tls.write(GET)
        await stream.send_all(outbound.read())
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        await stream.send_all(BROKEN)
        with trio.fail_after(seconds(10)):
            while not connection._closing:
                await trio.lowlevel.checkpoint()
        assert connection.unsent
        connection.write(SECRET)
        here.reactor.flush()
        data = await read_all(stream)
        assert SECRET not in data
        records = []
        while data:
            assert data[1:3] == b"\x03\x03"
            size = 5 + int.from_bytes(data[3:5], "big")
            records.append(data[:size])
            data = data[size:]
        assert {each[0] for each in records} == {0x17}, "in TLS 1.3 alerts are sealed, too"
        assert len(records[-1]) < 64
        await stream.aclose()
        await here.until_open(0)
        assert here.reactor.memory.used == 0


async def test_a_record_that_does_not_come_whole_is_charged_and_timed(tmp_path: Path) -> None:
    """However often a byte of it comes; one that becomes whole is neither any more."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(Limits(stall_seconds=20), credentials) as here, await here.connect() as stream:
        tls, outbound = await open_tls(stream, files)
        tls.write(GET + b"GET /b HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")
        tls.write(GET + b"x" * 10_000)
        sealed = outbound.read()
        memory = here.reactor.memory
        size = sealed.index(b"\x17\x03\x03", 10_000)
        await stream.send_all(sealed[: size + 3])
        await here.until_asked(2)
        here.reactor.sweep()
        assert memory.used == 3
        sent = size + 3
        for _ in range(3):
            here.let_pass(8)
            assert len(here.reactor._connections) == 1
            await stream.send_all(sealed[sent : sent + 100])
            sent += 100
            with trio.fail_after(seconds(10)):
                while memory.used < sent - size:
                    await trio.lowlevel.checkpoint()
        here.let_pass(8)
        assert len(here.reactor._connections) == 0
        assert memory.used == 0


async def test_what_speaks_no_tls_is_told_so_in_clear(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(credentials=credentials) as here, await here.connect() as stream:
        await stream.send_all(GET)
        assert b"Client sent an HTTP request to an HTTPS server" in await read_all(stream)
        assert here.reactor.connection_limit.oldest_silent is not None, "that is no word of a client's"
        await stream.aclose()
        await here.until_open(0)
        assert here.log.events == []


async def test_an_idle_connection_is_left_alone() -> None:
    async with site(Limits(stall_seconds=5)) as here, await here.connect() as stream:
        await stream.send_all(GET)
        await stream.receive_some(65536)
        for _ in range(5):
            here.let_pass(100)
        assert len(here.reactor._connections) == 1


async def test_a_peer_that_reads_nothing_is_cut() -> None:
    async with site(Limits(stall_seconds=5)) as here, await here.connect() as stream:
        here.answer = b"x" * 50_000_000
        await stream.send_all(GET)
        await here.until_asked(1)
        here.let_pass(6)
        await here.until_open(0)


async def spoken(here: Site, count: int) -> list[trio.SocketStream]:
    """Connections that have asked something."""
    streams = [await here.connect() for _ in range(count)]
    for stream in streams:
        await stream.send_all(GET)
        with trio.fail_after(seconds(10)):
            await stream.receive_some(65536)
    return streams


async def test_more_connections_than_allowed_wait_their_turn() -> None:
    async with site(Limits(max_connections=2)) as here:
        first, second = await spoken(here, 2)
        for connection, name in zip(list(here.reactor._connections.values()), "ab", strict=True):
            here.reactor.connection_limit.renamed(connection, name)
        third = await here.connect()
        await third.send_all(GET)
        with trio.fail_after(seconds(10)):
            while "accepting_paused" not in here.log.events:
                await trio.lowlevel.checkpoint()
        await first.aclose()
        with trio.fail_after(seconds(10)):
            assert (await third.receive_some(65536)).endswith(b"hello")
        await second.aclose()
        await third.aclose()


async def test_connections_that_never_spoke_lock_nobody_out() -> None:
    async with site(Limits(max_connections=20)) as here:
        silent = [await here.connect() for _ in range(30)]
        await here.until_open(20)
        (working,) = await spoken(here, 1)
        more = [await here.connect() for _ in range(30)]
        await here.until_open(20)
        await working.send_all(GET)
        with trio.fail_after(seconds(10)):
            assert (await working.receive_some(65536)).endswith(b"hello")
        assert "connection_let_go" in here.log.events
        for stream in (*silent, *more, working):
            await stream.aclose()


async def test_who_has_more_than_its_share_makes_room_for_others() -> None:
    async with site(Limits(max_connections=4)) as here:
        streams = await spoken(here, 4)
        for connection in list(here.reactor._connections.values()):
            here.reactor.connection_limit.renamed(connection, "greedy")
        (other,) = await spoken(here, 1)
        assert len(here.reactor._connections) == 4
        assert await read_all(streams[0]) == b""
        for stream in (*streams, other):
            await stream.aclose()


async def test_who_waits_for_an_answer_is_not_idle() -> None:
    """A put under way, and a watch over HTTP/1, are requests that are not answered to their end."""
    async with site() as here, await here.connect() as stream:
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        here.answer = None
        idle = [connection.idle]
        await stream.send_all(GET)
        await here.until_asked(1)
        idle.append(connection.idle)
        here.exchanges[0].respond(200, b"", b"done")
        here.reactor.flush()
        idle.append(connection.idle)
        assert idle == [True, False, True]


async def test_a_hang_up_during_a_watch_is_told() -> None:
    async with site() as here:
        here.answer = None
        stream = await here.connect()
        await stream.send_all(GET)
        await here.until_asked(1)
        gone = trio.Event()
        here.exchanges[0].on_gone(gone.set)
        here.exchanges[0].begin(200, b"")
        await stream.aclose()
        with trio.fail_after(seconds(10)):
            await gone.wait()
        await here.until_open(0)


async def test_a_reset_during_an_answer_ends_that_connection_only() -> None:
    async with site() as here:
        here.answer = b"x" * 20_000_000
        bad = socket.create_connection(("127.0.0.1", here.port))
        bad.sendall(GET)
        await here.until_asked(1)
        bad.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        bad.close()
        await here.until_open(0)
        here.answer = b"fine"
        async with await here.connect() as stream:
            await stream.send_all(GET)
            with trio.fail_after(seconds(10)):
                assert (await stream.receive_some(65536)).endswith(b"fine")


async def test_a_fault_in_one_handler_ends_that_connection_only() -> None:
    async with site() as here, await here.connect() as bad, await here.connect() as good:
        await bad.send_all(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await read_all(bad) == b""
        assert here.log.events == ["connection_failed"]
        await good.send_all(GET)
        with trio.fail_after(seconds(10)):
            assert (await good.receive_some(65536)).endswith(b"hello")


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with site() as here, await here.connect() as stream:
        await stream.send_all(b"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        with trio.fail_after(seconds(10)):
            await stream.send_all(b"x" * 30_000_000)
        await stream.send_eof()
        assert b"hello" in await read_all(stream)
        assert here.exchanges[0].request.too_large


async def test_after_stop_accepting_open_connections_go_on() -> None:
    async with site() as here, await here.connect() as stream:
        await here.until_open(1)
        here.reactor.stop_accepting()
        await stream.send_all(GET)
        with trio.fail_after(seconds(10)):
            assert (await stream.receive_some(65536)).endswith(b"hello")
        try:
            (await here.connect()).socket.close()
        except OSError:
            return
        raise AssertionError("a connection was accepted after the listener closed")


async def test_other_tasks_get_their_turn_however_much_there_is_to_do() -> None:
    async with site() as here:
        reading, writing = socket.socketpair()
        calls: list[float] = []

        def ready(_: int) -> None:
            calls.append(here.time)  # nothing is read: it is ready again at once, for ever
            here.time += LINGER_SECONDS / 4

        with reading, writing:
            writing.send(b"x")
            here.reactor.watched.watch(reading.fileno(), select.EPOLLIN, ready, unguarded)
            for _ in range(3):
                before = len(calls)
                with trio.fail_after(seconds(10)):
                    while len(calls) == before:
                        await trio.lowlevel.checkpoint()
            here.reactor.watched.unwatch(reading.fileno())


async def test_calls_from_a_thread_are_made_in_their_order_in_a_round() -> None:
    async with site() as here:
        made: list[int] = []
        done = trio.Event()

        def call_many() -> None:
            for number in range(1000):
                here.reactor.call_soon(lambda number=number: made.append(number))  # type: ignore[misc]
            here.reactor.call_soon(done.set)

        await trio.to_thread.run_sync(call_many)
        with trio.fail_after(seconds(10)):
            await done.wait()
        assert made == list(range(1000))
        assert here.rounds >= 1


async def test_a_closed_reactor_takes_no_calls() -> None:
    async with site() as here:
        reactor = here.reactor
    try:
        reactor.call_soon(lambda: None)
    except RuntimeError as refused:
        assert "closed" in str(refused)  # noqa: PT017 - asserted where it is raised
    else:
        raise AssertionError("a closed reactor took a call")


async def test_a_principal_is_the_address_without_its_port() -> None:
    async with site() as here, await here.connect() as stream:
        await stream.send_all(GET)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        assert connection.principal == "127.0.0.1"
        connection.account.charge(7)
        assert here.reactor.memory.used == 7
        connection.cut()
        assert here.reactor.memory.used == 0


async def test_a_principal_is_the_name_in_the_certificate_where_there_is_one(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, files.ca, client_auth=True, log=log)
    async with site(credentials=credentials) as here, await here.connect() as plain:
        stream = trio.SSLStream(plain, files.context("http/1.1"), server_hostname="localhost")
        await stream.send_all(GET)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        assert connection.principal == "operator"


async def test_a_request_that_drips_is_refused_in_words() -> None:
    """Each byte is progress, and none of them makes the request whole."""
    async with site(Limits(stall_seconds=5)) as here, await here.connect() as stream:
        await stream.send_all(GET[:1])
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        for at in range(1, int(HEAD_SECONDS / 4) + 2):
            with trio.fail_after(seconds(10)):
                while len(connection.session._reader.begun) < at:  # type: ignore[attr-defined]
                    await trio.lowlevel.checkpoint()
            here.reactor.sweep()
            assert len(here.reactor._connections) == 1
            here.let_pass(4)
            await stream.send_all(GET[at : at + 1])
        here.reactor.sweep()
        assert b" 408 " in await read_all(stream)


def asking(here: Site, count: int, what: bytes = GET) -> list[socket.socket]:
    """Connections that have sent something already when the loop looks next; nothing is awaited."""
    made = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(count)]
    for one in made:
        one.sendall(what)
    return made


async def test_a_principal_with_many_connections_waits_for_itself() -> None:
    """Each request takes a whole round, so turns are all that decides."""
    async with site() as here:
        many = asking(here, 20)
        few = asking(here, 1)
        await here.until_asked(21)
        for number, connection in enumerate(list(here.reactor._connections.values())):
            here.reactor.named(connection, "few" if number == 20 else "many")
        here.exchanges.clear()
        order: list[str] = []

        def handle(exchange: Http1Exchange) -> None:
            here.exchanges.append(exchange)
            order.append(exchange.request.path.decode())
            here.time += 3 * ROUND_SECONDS
            exchange.respond(200, b"")

        here.server.handle = handle
        for one in many:
            one.sendall(GET.replace(b"/a", b"/many"))
        for one in few:
            one.sendall(GET.replace(b"/a", b"/few"))
        await here.until_asked(21)
        assert order.index("/few") <= 2
        assert order.count("/many") == 20
        assert here.reactor.meter.held >= 20
        for one in (*many, *few):
            one.close()


async def test_what_one_connection_pipelines_does_not_hold_up_another() -> None:
    async with site() as here:
        flood = asking(here, 1, GET.replace(b"/a", b"/f") * 2000)
        other = asking(here, 1)
        await here.until_asked(2001)
        paths = [exchange.request.path for exchange in here.exchanges]
        assert paths.index(b"/a") <= 2 * PIPELINE_LIMIT
        for one in (*flood, *other):
            one.close()


def timed(here: Site, seconds: float) -> None:
    """Each request takes so long."""

    def handle(exchange: Http1Exchange) -> None:
        here.exchanges.append(exchange)
        here.time += seconds
        exchange.respond(200, b"")

    here.server.handle = handle


async def test_who_asks_for_little_is_served_before_those_who_ask_for_much() -> None:
    """All at one address, and twenty of them have 400 requests each that wait."""
    async with site() as here:
        timed(here, 0.0002)
        (other,) = asking(here, 1)
        await here.until_asked(1)
        floods = asking(here, 20, GET.replace(b"/a", b"/f") * 400)
        for number in range(2, 8):
            await here.until_asked(1000 * number)
            sent = len(here.exchanges)
            other.sendall(GET.replace(b"/a", b"/%d" % number))
            await here.until_asked(sent + 4 * TURN_LIMIT)
            paths = [exchange.request.path for exchange in here.exchanges]
            assert paths.index(b"/%d" % number) <= sent + TURN_LIMIT + HURRIED_LIMIT
        await here.until_asked(8000 + 7)
        for one in (*floods, other):
            one.close()


async def test_who_has_short_turns_is_served_before_those_who_have_long_ones() -> None:
    """Though each of them took as much lately."""
    async with site() as here:
        timed(here, 2 * LONG_TURN)
        floods = asking(here, 20, GET.replace(b"/a", b"/f"))
        for number in range(1, 5):
            await here.until_asked(20 * number)
            for one in floods:
                one.sendall(GET.replace(b"/a", b"/f"))
        await here.until_asked(100)
        timed(here, LONG_TURN / 2)
        (other,) = asking(here, 1)
        await here.until_asked(101)
        now = here.time
        for connection in here.reactor._connections.values():
            connection.load.add(now, 0.02 - connection.load.seconds(now))
        here.reactor.scheduler.heavy_at = now  # there are turns
        for one in floods:
            one.sendall(GET.replace(b"/a", b"/f"))
        other.sendall(GET.replace(b"/a", b"/b"))
        await here.until_asked(122)
        assert here.exchanges[101].request.path == b"/b"
        for one in (*floods, other):
            one.close()


async def test_what_is_done_beside_its_turns_counts_for_a_connection() -> None:
    async with site() as here:
        timed(here, 0.0)
        (client,) = asking(here, 1)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        before = connection.load.seconds(here.time)
        here.exchanges[0].worked(0.5)
        assert connection.load.seconds(here.time) == pytest.approx(before + 0.5)
        client.close()


async def test_to_connect_again_makes_nobody_light() -> None:
    async with site() as here:
        timed(here, 0.0002)
        (other,) = asking(here, 1)
        await here.until_asked(1)
        first = asking(here, 1, GET.replace(b"/a", b"/f") * 1000)
        await here.until_asked(1000)
        for number in range(5):
            sent = len(here.exchanges)
            again = asking(here, 20, GET.replace(b"/a", b"/f") * 100)
            await here.until_asked(sent + 1000)
            sent = len(here.exchanges)
            other.sendall(GET.replace(b"/a", b"/%d" % number))
            await here.until_asked(sent + 4 * TURN_LIMIT)
            paths = [exchange.request.path for exchange in here.exchanges]
            assert paths.index(b"/%d" % number) <= sent + TURN_LIMIT + HURRIED_LIMIT
            for one in again:
                one.close()
            await here.until_open(2)
        for one in (*first, other):
            one.close()


async def test_who_asks_for_much_goes_on_beside_many_who_ask_for_little() -> None:
    """They ask again whenever they are answered, and could take all the time there is."""
    async with site() as here:
        timed(here, 0.0002)
        (flood,) = asking(here, 1, GET.replace(b"/a", b"/f") * 400)
        await here.until_asked(400)
        flood.sendall(GET.replace(b"/a", b"/f") * 400)
        many = asking(here, 50)
        while sum(exchange.request.path == b"/f" for exchange in here.exchanges) < 800:
            asked = len(here.exchanges)
            assert asked < 20_000
            await here.until_asked(asked + 1)
            for one in many:
                one.setblocking(False)
                try:
                    if one.recv(65536):
                        one.sendall(GET)
                except BlockingIOError:
                    continue
        for one in (flood, *many):
            one.close()


class Nothing:
    """An HTTP/2 application that no request reaches."""

    def route(self, head: Head) -> object:
        raise AssertionError(head)

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        raise AssertionError(head)

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        raise AssertionError(what)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_a_closed_connection_is_freed_without_a_collection(protocol: str) -> None:
    """Who opens and closes connections makes no work for the collector, which would hold the loop."""
    async with site() as here:
        two = Http2Server(Nothing(), lambda: here.time)
        if protocol == "h2":
            here.reactor.session = lambda connection: Http2Connection(two, connection)  # type: ignore[method-assign]
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                async with await here.connect() as stream:
                    await stream.send_all(GET if protocol != "h2" else PREFACE + frame(SETTINGS, 0, 0))
                    with trio.fail_after(seconds(10)):
                        await stream.receive_some(65536)
                await here.until_open(0)
            here.exchanges.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [
                type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("netstore")
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []


async def test_the_kernel_tells_once_of_who_waits_for_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """More wait than it tells of in a round, and somebody new is told of all the same."""
    monkeypatch.setattr(reactor, "_EVENTS_PER_ROUND", 4)
    monkeypatch.setattr(scheduler, "_LONG_QUEUE", 4)
    async with site() as here:
        many = asking(here, 200)
        (other,) = asking(here, 1)
        await here.until_asked(201)
        connections = list(here.reactor._connections.values())
        for number, connection in enumerate(connections):
            here.reactor.named(connection, "other" if number == 200 else "many")
        here.exchanges.clear()
        timed(here, 2 * ROUND_SECONDS)
        for one in many:
            one.sendall(GET.replace(b"/a", b"/m"))
        await here.until_asked(120)
        other.sendall(GET.replace(b"/a", b"/b"))
        sent = len(here.exchanges)
        await here.until_asked(201)
        paths = [exchange.request.path for exchange in here.exchanges]
        assert paths.index(b"/b") <= sent + 4
        assert paths.count(b"/m") == 200
        assert not any(connection._suspended for connection in connections)
        for one in (*many, other):
            one.sendall(GET)
        await here.until_asked(402)
        for one in (*many, other):
            one.close()


async def test_what_is_closed_in_a_round_that_told_of_it_is_not_lined_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others wait for their turns already."""
    monkeypatch.setattr(scheduler, "_LONG_QUEUE", 0)
    async with site() as here:
        many = asking(here, 20)
        await here.until_asked(20)
        timed(here, 2 * ROUND_SECONDS)
        closed = list(here.reactor._connections.values())[10:]

        def cut() -> None:
            for connection in closed:
                connection.cut()

        for one in many[:10]:
            one.sendall(GET)
        await here.until_asked(23)
        for one in many[10:]:
            one.sendall(GET)
        here.reactor.call_soon(cut)
        await here.until_asked(30)
        assert len(here.reactor._connections) == 10
        for one in many:
            one.close()


async def test_what_the_kernel_holds_of_a_connection_is_bounded() -> None:
    async with site() as here, await here.connect() as stream:
        await stream.send_all(GET)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            size = connection._socket.getsockopt(socket.SOL_SOCKET, buffer)
            assert size == 2 * KERNEL_BUFFER, "twice, as socket(7) says"


async def test_a_refusal_leaves_in_the_round_it_is_made_in() -> None:
    async with site() as here, await here.connect() as stream:
        await here.until_open(1)
        rounds = here.rounds
        await stream.send_all(b"GET / HTTP/1.1\r\nNo colon\r\n\r\n")
        assert b" 400 " in (await read_all(stream))
        assert here.rounds == rounds + 1


async def test_a_round_has_little_time_for_those_who_connect() -> None:
    async with site() as here:
        session = here.reactor.session
        came: list[int] = []

        def slow(connection: Connection) -> Session:
            came.append(here.rounds)
            here.time += ACCEPT_SECONDS
            return session(connection)

        here.reactor.session = slow  # type: ignore[method-assign]
        made = asking(here, 20)
        await here.until_asked(20)
        assert max(came.count(number) for number in came) <= 2
        for one in made:
            one.close()


async def test_other_tasks_run_while_a_reader_takes_a_long_answer() -> None:
    """Sending is done in pieces, however fast they are taken."""
    async with site() as here:
        here.answer = bytes(8 << 20)
        (one,) = asking(here, 1)
        one.setblocking(False)
        left, turns = len(here.answer), 0
        with trio.fail_after(seconds(10)):
            while left > 0:
                turns += 1
                await trio.lowlevel.checkpoint()
                try:
                    left -= len(one.recv(1 << 20))
                except BlockingIOError:
                    continue
        assert turns > (8 << 20) // SEND_SIZE
        one.close()


async def test_who_holds_too_much_waits_and_goes_on_once_it_has_read() -> None:
    async with site(Limits(memory=Budget(40 << 20))) as here:
        here.answer = bytes(36 << 20)
        (heavy,) = asking(here, 1)
        await here.until_asked(1)
        with trio.fail_after(seconds(10)):
            while not here.reactor.pressure.waiting:
                await trio.lowlevel.checkpoint()
        heavy.sendall(GET)
        here.answer = b"hello"
        (light,) = asking(here, 1)
        await here.until_asked(2)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert len(here.exchanges) == 2, "the heavy one's second request is not handled yet"
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(heavy))
        got = 0
        with trio.fail_after(seconds(10)):
            while len(here.exchanges) < 3:
                got += len(await stream.receive_some(1 << 20))
        assert got > 10 << 20
        await stream.aclose()
        light.close()


async def test_large_bodies_sent_at_once_all_come_whole() -> None:
    """Time stands still: none is refused for taking long, so this ends only if one after another is read."""
    size, count = 1 << 20, 12
    async with site(Limits(memory=Budget(4 << 20))) as here:
        clients = [await here.connect() for _ in range(count)]
        most = 0

        async def send(client: trio.SocketStream) -> None:
            nonlocal most
            await client.send_all(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 65536):
                await client.send_all(bytes(65536))
                most = max(most, here.reactor.memory.used)
            assert (await client.receive_some(65536)).endswith(b"hello")
            await client.aclose()

        with trio.fail_after(seconds(60)):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(send, client)
        assert len(here.exchanges) == count
        assert most < 4 << 20
        assert here.log.events == ["requests_wait_for_memory"]


async def test_memory_that_runs_out_costs_the_connection_that_holds_it() -> None:
    async with site(Limits(memory=Budget(1 << 20))) as here:
        here.answer = bytes(50 << 20)
        (heavy,) = asking(here, 1)
        await here.until_asked(1)
        await here.until_open(0)
        assert "connection_cut_for_memory" in here.log.events
        assert here.reactor.memory.used == 0
        here.answer = b"hello"
        async with await here.connect() as stream:
            await stream.send_all(GET)
            with trio.fail_after(seconds(10)):
                assert (await stream.receive_some(65536)).endswith(b"hello")
        heavy.close()


async def test_a_body_that_was_given_its_memory_is_read_on_whatever_is_held() -> None:
    async with site() as here:
        here.reactor.memory.limit = here.reactor.pressure._cut = 50_000
        head = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        async with await here.connect() as stream:
            await stream.send_all(head)
            await here.until_open(1)
            await stream.send_all(bytes(60_000))
            (connection,) = here.reactor._connections.values()
            with trio.fail_after(seconds(10)):
                while connection.account.promised < 100_000:
                    await trio.lowlevel.checkpoint()
            here.reactor.sweep()
            await stream.send_all(bytes(40_000))
            await here.until_asked(1)
        assert "connection_cut_for_memory" not in here.log.events


async def test_answers_made_outside_a_turn_hold_no_more_than_twice_the_budget() -> None:
    """Each is kept by the codec, behind one that is not answered yet, of a connection that held nothing."""
    limit, count = 1 << 20, 30
    async with site(Limits(memory=Budget(limit))) as here:
        here.answer = None
        clients = asking(here, count)
        await here.until_asked(count)
        for client in clients:
            client.sendall(GET)
        await here.until_asked(2 * count)
        for exchange in here.exchanges[count:]:
            exchange.respond(200, b"", bytes(200_000))
            assert 0 < here.reactor.memory.used <= 2 * limit
        assert "connection_cut_for_memory" in here.log.events
        here.reactor.flush()
        await here.until_open(len(here.reactor._connections))
        assert len(here.reactor._connections) < count
        for client in clients:
            client.close()


async def test_who_is_gone_stands_in_no_rank() -> None:
    """Closed with a body that was admitted, and after answers that were sent at once."""
    async with site() as here:
        here.answer = bytes(50_000)
        for _ in range(3):
            async with await here.connect() as stream:
                await stream.send_all(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
                await stream.send_all(bytes(1000))
                with trio.fail_after(seconds(10)):
                    while here.reactor.memory.promised < 100_000:
                        await trio.lowlevel.checkpoint()
                (connection,) = here.reactor._connections.values()
            await here.until_open(0)
            assert (connection.account.promised, connection.account.coming) == (0, 0)
        async with await here.connect() as stream:
            await stream.send_all(GET)
            left = 50_000
            while left > 0:
                left -= len(await stream.receive_some(65536))
            await here.until_open(1)
            pressure = here.reactor.pressure
            assert (len(pressure._by_held), len(pressure._by_not_taken)) == (0, 0)
            assert here.reactor.memory.used == 0


async def test_what_was_promised_is_not_taken_for_what_its_peer_leaves() -> None:
    async with site() as here, await here.connect() as stream:
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        connection.account.promise(1000, 0)
        connection.account.charge(100)
        connection.flush()
        assert connection.not_taken == 100
        await stream.aclose()


async def test_who_waits_for_memory_over_tls_is_not_timed(tmp_path: Path) -> None:
    """Part of a record is here, and the rest is not read."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    size = 300_000
    head = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    async with (
        site(Limits(stall_seconds=20, memory=Budget(2 * size)), credentials) as here,
        await here.connect() as one,
        await here.connect() as two,
    ):
        here.answer = None
        tls, outbound = await open_tls(one, files)
        tls.write(head + bytes(size))
        await one.send_all(outbound.read())
        await here.until_asked(1)
        tls, outbound = await open_tls(two, files)
        tls.write(head + bytes(size))
        await two.send_all(outbound.read(100_000))
        with trio.fail_after(seconds(10)):
            while not here.reactor.admission.waiting:
                await trio.lowlevel.checkpoint()
        (waiting,) = (each for each in here.reactor._connections.values() if each.paused)
        assert waiting._tunnel is not None
        assert waiting._tunnel.partial
        here.let_pass(100)
        assert len(here.reactor._connections) == 2
        here.exchanges[0].respond(200, b"")
        await two.send_all(outbound.read())
        await here.until_asked(2)


async def test_who_is_held_back_is_not_timed_for_what_is_not_read() -> None:
    async with site(Limits(memory=Budget(100_000))) as here, await here.connect() as stream:
        await stream.send_all(GET[:10])
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        with trio.fail_after(seconds(10)):
            while not connection.session.waiting:
                await trio.lowlevel.checkpoint()
        connection.hold_back(held=True)
        assert connection.paused
        here.let_pass(100)
        assert len(here.reactor._connections) == 1
        connection.hold_back(held=False)
        here.let_pass(HEAD_SECONDS)
        assert len(here.reactor._connections) == 1
        await stream.send_all(GET[10:])
        await here.until_asked(1)


async def resting(here: Site, stream: trio.SocketStream, data: bytes) -> Connection:
    """The only connection, which has sent this and stands in line for its turn."""
    await stream.send_all(data)
    await here.until_open(1)
    (connection,) = here.reactor._connections.values()
    with trio.fail_after(seconds(10)):
        while not connection.session.waiting:
            await trio.lowlevel.checkpoint()
    connection.suspend()
    return connection


def unread_since(connection: Connection) -> float | None:
    return connection.unread


PUT_BEGUN = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(1000)


@pytest.mark.parametrize("begun", [GET[:10], PUT_BEGUN])
async def test_who_stands_in_line_is_not_timed_for_what_is_not_read(begun: bytes) -> None:
    async with site() as here, await here.connect() as stream:
        connection = await resting(here, stream, begun)
        assert unread_since(connection) == connection.last_read
        here.let_pass(100)
        assert connection.session.reading
        here.reactor.scheduler.later(connection)
        with trio.fail_after(seconds(10)):
            while unread_since(connection) is not None:
                await trio.lowlevel.checkpoint()
        connection.suspend()
        here.let_pass(100)
        assert not connection.session.reading, "when it was read nothing had come for long"


async def test_what_is_done_in_line_counts_from_when_it_is_read() -> None:
    async with site() as here, await here.connect() as stream:
        connection = await resting(here, stream, GET[:10])
        await stream.send_all(GET[10:])
        here.let_pass(100)
        connection.ready(select.EPOLLIN)
        assert len(here.exchanges) == 1
        here.let_pass(100)
        assert len(here.reactor._connections) == 1


@pytest.mark.parametrize("begun", [GET[:10], PUT_BEGUN])
async def test_who_sends_little_is_late_however_often_it_stands_in_line(begun: bytes) -> None:
    """It does at each sweep, because something of it has come again."""
    async with site() as here, await here.connect() as stream:
        connection = await resting(here, stream, begun)
        for _ in range(int(2 * BODY_SECONDS)):
            if not connection.open:
                break
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"x")
            here.let_pass(0.5)
            connection.ready(select.EPOLLIN)
            if connection.open:
                connection.suspend()
            here.let_pass(0.5)
        assert not connection.session.reading


async def test_a_write_that_has_come_whole_does_not_make_its_connection_be_read() -> None:
    """A body that has not does."""
    async with site() as here, await here.connect() as stream:
        here.answer = None
        head = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        await stream.send_all(head + bytes(50_000))
        with trio.fail_after(seconds(10)):
            while not here.reactor.memory.promised:
                await trio.lowlevel.checkpoint()
        (connection,) = here.reactor._connections.values()

        def is_read() -> bool:
            connection._watch()
            return not connection.paused

        connection.unsent = HIGH_WATER + 1
        assert is_read()
        connection.held_back = True
        assert is_read()
        connection.held_back, connection.unsent = False, 0
        await stream.send_all(bytes(50_000))
        await here.until_asked(1)
        assert connection.account.promised == 100_000
        connection.unsent = HIGH_WATER + 1
        assert not is_read()
        connection.unsent = 0


async def test_memory_given_back_outside_a_round_is_given_to_who_waits() -> None:
    """Nothing else comes, and no sweep looks."""
    size = 300_000
    async with site(Limits(memory=Budget(2 * size))) as here:
        here.answer = None
        here.reactor._sweep_begins = lambda: None  # type: ignore[method-assign]
        clients = [await here.connect() for _ in range(2)]
        for client in clients:
            await client.send_all(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            await client.send_all(bytes(100))
        with trio.fail_after(seconds(10)):
            while not here.reactor.admission.waiting:
                await trio.lowlevel.checkpoint()
        first, second = here.reactor._connections.values()
        if not first.account.coming:
            first, second = second, first
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        first.cut()
        with trio.fail_after(seconds(10)):
            while not second.account.coming:
                await trio.lowlevel.checkpoint()
        for client in clients:
            await client.aclose()


async def test_who_is_held_back_goes_on_without_a_round_that_sees_it() -> None:
    """Each sweep looks, too: nothing else may come."""
    async with site(Limits(memory=Budget(1000))) as here, await here.connect() as stream:
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()

        def waits() -> bool:
            return connection.held_back

        connection.account.charge(900)
        here.reactor.sweep()
        assert waits()
        connection.account.charge(-900)
        strangers = here.reactor.memory.account()
        strangers.charge(400)
        here.time += 1
        here.reactor.sweep()
        assert not waits()
        await stream.send_all(GET)
        await here.until_asked(1)


async def test_members_can_be_heard_between_rounds() -> None:
    """What waits on clients' sockets is not touched."""
    async with site() as here:
        (client,) = asking(here, 1)
        await here.until_asked(1)
        ours, theirs = socket.socketpair()
        heard: list[bytes] = []
        with ours, theirs, client:
            here.reactor.watched.watch(
                ours.fileno(), select.EPOLLIN, lambda _: heard.append(ours.recv(9)), unguarded
            )
            client.sendall(GET)
            theirs.send(b"alive")
            here.reactor.watched.catch_up()
            here.reactor.watched.catch_up()
            assert heard == [b"alive"]
            assert len(here.exchanges) == 1
            await here.until_asked(2)
            here.reactor.watched.unwatch(ours.fileno())


async def test_members_have_their_turns_while_others_send_much() -> None:
    """Who was not heard in a round is the first in the next one."""
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(4)]
        heard: list[int] = []
        rounds: list[int] = []

        def ready(place: int, _: int) -> None:
            heard.append(place)  # nothing is read: it is ready again at once, for ever
            rounds.append(here.rounds)
            here.time += MEMBERS_SECONDS * 2 / 3

        for place, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, partial(ready, place), unguarded)
        with trio.fail_after(seconds(10)):
            while len(heard) < 24:
                await trio.lowlevel.checkpoint()
        for ours, theirs in pairs:
            here.reactor.watched.unwatch(ours.fileno())
            ours.close()
            theirs.close()
        most = max(rounds.count(number) for number in rounds)
        assert most == 2
        for start in range(0, 20, 4):
            assert sorted(heard[start : start + 4]) == [0, 1, 2, 3]


def reopened(fd: int) -> tuple[socket.socket, list[socket.socket]]:
    """A socket that has this number, which is free, and others that have to be closed."""
    others: list[socket.socket] = []
    while not others or fd not in {each.fileno() for each in others}:
        others += socket.socketpair()
    return next(each for each in others if each.fileno() == fd), others


@pytest.mark.parametrize("when", ["in a round", "between two calls"])
async def test_what_was_told_of_a_descriptor_is_not_told_to_whoever_has_it_next(when: str) -> None:
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(2)]
        opened: list[socket.socket] = []
        heard: list[str] = []

        def change() -> None:
            second = pairs[1][0]
            fd = second.fileno()
            here.reactor.watched.unwatch(fd)
            second.close()
            new, others = reopened(fd)
            opened.extend(others)
            here.reactor.watched.watch(fd, 0, lambda _: heard.append("the next one"), unguarded)
            assert new.fileno() == fd

        def ready(_: int) -> None:
            heard.append("one")
            for ours, _theirs in pairs:
                here.reactor.modify(ours.fileno(), 0)
            if when == "in a round":
                change()
            else:
                here.time += 2 * MEMBERS_SECONDS

        await trio.testing.wait_all_tasks_blocked()
        for _, theirs in pairs:
            theirs.send(b"x")
        here.reactor.watched.watch(pairs[0][0].fileno(), select.EPOLLIN, ready, unguarded)
        here.reactor.watched.watch(
            pairs[1][0].fileno(), select.EPOLLIN, lambda _: heard.append("two"), unguarded
        )
        if when == "in a round":
            with trio.fail_after(seconds(10)):
                while not heard:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
        else:
            assert not here.reactor.watched.catch_up()
            here.reactor.call_soon(change)
            here.reactor._round(0)
            assert here.reactor.watched.catch_up()
        assert heard == ["one"]
        for fd in list(here.reactor.watched.calls):
            here.reactor.watched.unwatch(fd)
        for ours, theirs in pairs:
            ours.close()
            theirs.close()
        for each in opened:
            each.close()


async def test_who_has_more_to_do_with_what_it_read_is_heard_too() -> None:
    async with site() as here:
        ours, theirs = socket.socketpair()
        heard: list[int] = []
        with ours, theirs:
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, heard.append, unguarded)
            here.reactor.watched.again(ours.fileno())
            assert here.reactor.watched.catch_up()
            assert heard == [0]
            here.reactor.watched.again(ours.fileno())
            assert here.reactor._pending
            here.reactor.watched.unwatch(ours.fileno())
            assert not here.reactor._pending, "the loop would not rest any more"


async def test_all_work_of_the_reactor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as here:
        worked: list[float] = []
        here.reactor._worked = here.reactor.watched._worked = worked.append
        ours, theirs = socket.socketpair()

        def look(_: float) -> None:
            here.time += 0.25

        def hear(_: int) -> None:
            ours.recv(9)
            here.time += 0.5

        monkeypatch.setattr(here.reactor.pressure, "look", look)
        (client,) = asking(here, 1)
        await here.until_asked(1)
        assert 0.25 <= sum(worked) < 10, "what follows the turns of a round too"
        worked.clear()
        with ours, theirs, client:
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, hear, unguarded)
            theirs.send(b"x")
            assert here.reactor.watched.catch_up()
            assert sum(worked) == 0.5
            here.reactor.watched.unwatch(ours.fileno())
        worked.clear()
        here.reactor.sweep()
        assert len(worked) == 1


async def test_members_are_heard_in_pieces_and_each_once() -> None:
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(4)]
        heard: list[int] = []

        def ready(place: int, _: int) -> None:
            heard.append(place)
            here.time += MEMBERS_SECONDS * 2 / 3

        for place, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, partial(ready, place), unguarded)
        assert [here.reactor.watched.catch_up(), len(heard)] == [False, 2]
        here.reactor.watched.unwatch(pairs[heard[0]][0].fileno())
        assert [here.reactor.watched.catch_up(), len(heard)] == [True, 4]
        assert sorted(heard) == [0, 1, 2, 3]
        for ours, theirs in pairs:
            here.reactor.watched.unwatch(ours.fileno())
            ours.close()
            theirs.close()
        assert here.reactor.watched.catch_up()
