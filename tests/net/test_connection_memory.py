"""What connections hold of the shared memory, over real loopback sockets: who waits, who is cut, whose
body is read.
"""

from __future__ import annotations

import trio
import trio.lowlevel

from netstore.limits import Budget
from netstore.net.exchange import HIGH_WATER
from netstore.net.http1.bounds import HEAD_SECONDS
from netstore.net.reactor import Limits
from tests.support.patience import seconds
from tests.support.site import GET, asking, site


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


async def test_who_is_held_back_is_not_timed_for_what_is_not_read() -> None:
    async with site(Limits(memory=Budget(100_000))) as here, await here.connect() as stream:
        await stream.send_all(GET[:10])
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        with trio.fail_after(seconds(10)):
            while not connection.session.incomplete:
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
