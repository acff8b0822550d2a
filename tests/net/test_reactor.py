"""The reactor over real loopback sockets: rounds, other tasks, calls from threads, stopping. Time is a
number the test sets.
"""

from __future__ import annotations

import select
import socket

import pytest
import trio
import trio.lowlevel

from netstore.guard import unguarded
from netstore.net.connection import SEND_SIZE
from netstore.net.memorypressure import MemoryPressure
from netstore.net.reactor import LINGER_SECONDS, Limits
from tests.support.patience import seconds
from tests.support.site import GET, asking, read_all, site


async def test_a_request_is_answered_and_the_connection_stays() -> None:
    async with site() as here, await here.connect() as stream:
        for _ in range(3):
            await stream.send_all(GET)
            with trio.fail_after(seconds(10)):
                assert (await stream.receive_some(65536)).endswith(b"hello")
        assert len(here.reactor._connections) == 1


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


async def test_a_fault_in_one_handler_ends_that_connection_only() -> None:
    async with site() as here, await here.connect() as bad, await here.connect() as good:
        await bad.send_all(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await read_all(bad) == b""
        assert here.log.events == ["connection_failed"]
        await good.send_all(GET)
        with trio.fail_after(seconds(10)):
            assert (await good.receive_some(65536)).endswith(b"hello")


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


async def test_a_refusal_leaves_in_the_round_it_is_made_in() -> None:
    async with site() as here, await here.connect() as stream:
        await here.until_open(1)
        rounds = here.rounds
        await stream.send_all(b"GET / HTTP/1.1\r\nNo colon\r\n\r\n")
        assert b" 400 " in (await read_all(stream))
        assert here.rounds == rounds + 1


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

        monkeypatch.setattr(MemoryPressure, "due", True)
        monkeypatch.setattr(here.reactor.pressure, "step", look)
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
