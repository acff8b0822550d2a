"""Accepting connections over real loopback sockets: limits, and who makes room."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from netstore.net.acceptor import ACCEPT_SECONDS, KERNEL_BUFFER
from netstore.net.reactor import Limits
from tests.support.patience import seconds
from tests.support.site import GET, asking, read_all, site, spoken

if TYPE_CHECKING:
    from netstore.net.connection import Connection
    from netstore.net.session import Session


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


async def test_what_the_kernel_holds_of_a_connection_is_bounded() -> None:
    async with site() as here, await here.connect() as stream:
        await stream.send_all(GET)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            size = connection._socket.getsockopt(socket.SOL_SOCKET, buffer)
            assert size == 2 * KERNEL_BUFFER, "twice, as socket(7) says"


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
