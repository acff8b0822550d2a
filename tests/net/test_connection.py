"""Connections over real loopback sockets: slow peers, hang-ups, time limits."""

from __future__ import annotations

import gc
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.lowlevel

from netstore.net import connection as connecting
from netstore.net.http1.bounds import BODY_SECONDS, HEAD_SECONDS
from netstore.net.http2 import SETTINGS, Http2Connection, Http2Server, frame
from netstore.net.http2.frames import PREFACE
from netstore.net.reactor import Limits
from netstore.net.sendqueue import send_gathered
from tests.support.patience import seconds
from tests.support.site import GET, Site, read_all, site

if TYPE_CHECKING:
    from collections import deque

    from netstore.net.connection import Connection
    from netstore.net.http2 import Head, Stream


async def test_a_large_answer_to_a_slow_reader_arrives_whole() -> None:
    async with site() as here, await here.connect() as stream:
        here.answer = bytes(range(256)) * 40_000
        await stream.send_all(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        data = await read_all(stream)
        assert data.partition(b"\r\n\r\n")[2] == here.answer
        await stream.aclose()
        await here.until_open(0)


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
            while not any(c.session.incomplete for c in here.reactor._connections.values()):
                await trio.lowlevel.checkpoint()
        here.let_pass(4)
        assert len(here.reactor._connections) == 1
        here.let_pass(2)
        assert b" 408 " in await read_all(stream)


async def test_an_end_that_came_with_the_data_is_seen() -> None:
    """epoll reports both at once, and never again."""
    async with site() as here:
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            await here.until_open(1)
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
            await here.until_asked(1)
            await here.until_open(0)
            assert b"200 OK" in client.recv(65536)


async def test_what_does_not_fit_into_a_read_is_read_in_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was there before the first read, and nothing follows."""
    monkeypatch.setattr(connecting, "READ_SIZE", len(GET))
    async with site() as here:
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            client.sendall(GET * 5)
            await here.until_asked(5)


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


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with site() as here, await here.connect() as stream:
        await stream.send_all(b"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        with trio.fail_after(seconds(10)):
            await stream.send_all(b"x" * 30_000_000)
        await stream.send_eof()
        assert b"hello" in await read_all(stream)
        assert here.exchanges[0].request.too_large


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


async def resting(here: Site, stream: trio.SocketStream, data: bytes) -> Connection:
    """The only connection, which has sent this and stands in line for its turn."""
    await stream.send_all(data)
    await here.until_open(1)
    (connection,) = here.reactor._connections.values()
    with trio.fail_after(seconds(10)):
        while not connection.session.incomplete:
            await trio.lowlevel.checkpoint()
    line_up(here, connection)
    return connection


def line_up(here: Site, connection: Connection) -> None:
    """Let it wait for a turn, which it does not get: nothing wakes the reactor."""
    scheduler = here.reactor.scheduler
    scheduler.queue.add(connection, select.EPOLLIN, scheduler.clock_read)
    connection.suspend()


def take_turn(here: Site) -> None:
    """The turn of the one that waits."""
    connection, mask = here.reactor.scheduler.queue.take()
    connection.ready(mask)


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
        line_up(here, connection)
        here.let_pass(100)
        assert not connection.session.reading, "when it was read nothing had come for long"


async def test_what_is_done_in_line_counts_from_when_it_is_read() -> None:
    async with site() as here, await here.connect() as stream:
        await resting(here, stream, GET[:10])
        await stream.send_all(GET[10:])
        here.let_pass(100)
        take_turn(here)
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
            take_turn(here)
            if connection.open:
                line_up(here, connection)
            here.let_pass(0.5)
        assert not connection.session.reading
