"""Whatever raises on behalf of one connection ends that connection, on every way into its session.

A session here raises where the test says; beside it stands one that works and must stay.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from netstore.errors import MustStop
from netstore.net.accept import CannotAccept
from netstore.net.http1.server import Http1Server
from netstore.net.memorypressure import MemoryPressure
from netstore.net.reactor import Limits, Reactor
from tests.support.log import KeptLog
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netstore.net.connection import Connection

WAYS = ("receive", "resume", "eof", "sweep", "give_up", "drain", "gone", "made")


class Acting:
    """A `Session` that answers each read with what it read, and raises on one way."""

    at_limit = False
    reading = True
    idle = True
    timed_out = False
    answers_need_reading = False

    def __init__(self, site: Site, connection: Connection) -> None:
        self._site = site
        self.connection = connection
        self.faulty = ""
        self.has_pending = False
        self.incomplete = False
        self.ended = 0
        self.others: list[Acting] = []
        """Cut when this one is swept."""
        if site.fault_in == "made":
            raise site.fault

    def _maybe(self, way: str) -> None:
        if self.faulty == way:
            raise self._site.fault

    def receive(self, data: bytes) -> bool:
        if data.startswith(b"be "):
            self.faulty = data[3:].decode()
        self._maybe("receive")
        self.connection.write(data)
        self.has_pending = self.faulty == "resume"
        self.incomplete = self.faulty == "give_up"
        return self.at_limit or not self.reading

    def resume(self) -> None:
        self._maybe("resume")

    def eof(self) -> None:
        self._maybe("eof")
        self.connection.cut()

    def gone(self) -> None:
        self.ended += 1
        self._maybe("gone")

    def refuse(self, status: int, text: bytes) -> None:
        self._maybe("give_up")

    def sweep(self, now: float) -> None:
        self._maybe("sweep")
        for other in self.others:
            other.connection.cut()

    def drain(self) -> None:
        self._maybe("drain")
        self.connection.finish()


class Failing(socket.socket):
    """A listener whose accept fails."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error = error

    def accept(self) -> tuple[socket.socket, Any]:
        raise OSError(self.error, "as the system says")


class Site:
    """A running reactor with its sessions, in the order in which they were made."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.fault: Exception = MemoryError()
        self.fault_in = ""
        self.sessions: list[Acting] = []
        self.log = KeptLog()
        self.reactor = Reactor(
            Limits(stall_seconds=5), Http1Server(lambda _: None), self.log, lambda: self.time
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.reactor.listen(listener)

    def listen(self) -> int:
        """Listen at one more port; gives it."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.reactor.listen(listener)
        port: int = listener.getsockname()[1]
        return port

    def make(self, connection: Connection, _: Http1Server) -> Acting:
        made = Acting(self, connection)
        self.sessions.append(made)
        return made

    def begin(self) -> None:
        """A round begins."""

    def rest(self) -> None:
        """No round follows soon."""

    def end(self, *, is_idle: bool) -> None:
        """It ends."""

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(seconds(10)):
            while not true():
                await trio.lowlevel.checkpoint()

    async def echo(self, stream: trio.SocketStream, data: bytes) -> None:
        await stream.send_all(data)
        with trio.fail_after(seconds(10)):
            assert await stream.receive_some(100) == data


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    here = Site()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.reactor.run, here.make, here)
        yield here
        nursery.cancel_scope.cancel()


async def provoke(here: Site, way: str) -> None:
    """Make one more connection and take it to where its session raises."""
    here.fault_in = way
    stream = await trio.open_tcp_stream("127.0.0.1", here.port)
    async with stream:
        if way != "made":
            await here.until(lambda: len(here.sessions) == 2)
            await stream.send_all(b"be " + way.encode())
            await here.until(lambda: here.sessions[1].faulty == way)
        if way in {"eof", "gone"}:
            await stream.send_eof()
        elif way == "sweep":
            here.reactor.sweep()
        elif way == "give_up":
            for _ in range(6):
                here.time += 1
                here.reactor.sweep()
        elif way == "drain":
            with trio.move_on_after(0.05):  # fixed: the fault comes at once
                await here.reactor.drain()
        await here.until(lambda: "connection_failed" in here.log.events)


@pytest.mark.parametrize("way", WAYS)
async def test_a_fault_on_any_way_ends_that_connection_only(way: str) -> None:
    async with site() as here, await trio.open_tcp_stream("127.0.0.1", here.port) as good:
        await here.echo(good, b"before")
        await provoke(here, way)
        here.fault_in = ""
        if way == "drain":  # which ends the other one in good order
            with trio.fail_after(seconds(10)):
                assert await good.receive_some(100) == b""
        else:
            assert len(here.reactor._connections) == 1
            await here.echo(good, b"after")
        assert all(session.ended == 1 for session in here.sessions[1:])
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"new ones are served")


@pytest.mark.parametrize("way", ["receive", "resume", "sweep", "gone"])
async def test_what_the_member_must_not_survive_ends_it_whoever_asked(way: str) -> None:
    class Broken(MustStop):
        pass

    with pytest.RaisesGroup(pytest.RaisesExc(Broken), flatten_subgroups=True):
        async with site() as here, await trio.open_tcp_stream("127.0.0.1", here.port) as good:
            await here.echo(good, b"before")
            here.fault = Broken()
            await provoke(here, way)


async def test_a_sweep_may_end_any_connection() -> None:
    """Each is looked at once, whoever went before its turn came."""
    async with site() as here:
        streams = [await trio.open_tcp_stream("127.0.0.1", here.port) for _ in range(4)]
        await here.until(lambda: len(here.sessions) == 4)
        first, second, third, last = here.sessions
        second.others = [first, third, second]
        here.reactor.sweep()
        assert [session.ended for session in here.sessions] == [1, 1, 1, 0]
        assert len(here.reactor._connections) == 1
        assert last.connection.open
        for stream in streams:
            await stream.aclose()


async def test_a_stranger_on_a_watched_descriptor_is_let_go_and_the_loop_goes_on() -> None:
    async with site() as here:
        ours, theirs = socket.socketpair()
        let_go: list[Exception] = []

        def read(_: int) -> None:
            raise here.fault

        def failed(fault: Exception) -> None:
            let_go.append(fault)
            here.reactor.watched.unwatch(ours.fileno())
            raise ValueError("letting go fails, too")

        here.reactor.watched.watch(ours.fileno(), 1, read, failed)
        theirs.send(b"x")
        await here.until(lambda: bool(let_go))
        assert let_go == [here.fault]
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"served")
        ours.close()
        theirs.close()


async def test_a_stranger_is_let_go_though_no_line_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out runs out for the line that says so, too."""
    async with site() as here:
        ours, theirs = socket.socketpair()

        def fail(*_: object, **__: object) -> None:
            raise here.fault

        with monkeypatch.context() as broken:
            broken.setattr(here.log, "warning", fail)
            here.reactor.watched.watch(
                ours.fileno(), 1, fail, lambda _: here.reactor.watched.unwatch(ours.fileno())
            )
            theirs.send(b"x")
            await here.until(lambda: ours.fileno() not in here.reactor.watched.calls)
            bad = await trio.open_tcp_stream("127.0.0.1", here.port)
            await bad.send_all(b"be receive")
            await here.until(lambda: [each.ended for each in here.sessions] == [1])
            await bad.aclose()
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"served")
        ours.close()
        theirs.close()


async def test_a_result_of_the_own_disk_that_fails_ends_the_reactor() -> None:
    def fail() -> None:
        raise ValueError("an own result")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError), flatten_subgroups=True):
        async with site() as here:
            here.reactor.call_soon(fail)
            await trio.sleep_forever()


async def test_without_descriptors_accepting_rests_and_lost_connections_are_nobodys() -> None:
    async with site() as here:
        for number, paused in ((errno.EHOSTUNREACH, 0), (errno.EPROTO, 0), (errno.EMFILE, 1)):
            with Failing(number) as failing:
                here.reactor.acceptor.accept(failing, None)
            assert here.log.events.count("accepting_paused") == paused
        here.reactor.sweep()
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"served")


def caller(host: str, port: int) -> socket.socket:
    """A connection from this address of the machine, which is a principal of its own."""
    sock = socket.create_connection(("127.0.0.1", port), source_address=(host, 0))
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("full", [True, False])
async def test_listeners_that_are_ready_together_rest_together(
    full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of connections, and where the system gives none."""
    async with site() as here:
        second = here.listen()
        here.reactor.connection_limit.most = 2
        if full:
            callers = [caller("127.0.0.1", here.port), caller("127.0.0.2", here.port)]
            for sock in callers:
                sock.send(b"hello")
            await here.until(lambda: sum(each.connection.heard for each in here.sessions) == 2)
        else:

            def no_more(_: socket.socket) -> None:
                raise CannotAccept("no descriptors")

            monkeypatch.setattr("netstore.net.acceptor.accept", no_more)
            callers = []
        callers += [caller("127.0.0.3", here.port), caller("127.0.0.4", second)]
        await here.until(lambda: bool(here.log.events))
        assert here.log.events == ["accepting_paused"]
        here.reactor.stop_accepting()
        for sock in callers:
            sock.close()


async def test_resting_and_going_on_may_be_asked_for_again() -> None:
    async with site() as here:
        for _ in range(2):
            here.reactor.acceptor.pause("a test", 0)
        for _ in range(2):
            here.reactor.acceptor.resume()
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"served")


async def test_listeners_closed_in_a_round_are_not_accepted_from() -> None:
    async with site() as here:
        calling = list(here.reactor.acceptor.listeners)
        here.reactor.stop_accepting()
        here.reactor.acceptor.accept_from(calling)
        assert len(here.reactor._connections) == 0


@pytest.mark.parametrize("place", ["accept", "admit", "make_room", "step", "look_after"])
async def test_a_fault_in_what_concerns_all_connections_ends_none_of_them(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepting, making room and looking at memory are done for clients as well: the loop goes on."""
    async with site() as here, await trio.open_tcp_stream("127.0.0.1", here.port) as good:
        await here.echo(good, b"before")
        reactor = here.reactor

        def fail(*_: object) -> None:
            raise here.fault

        with monkeypatch.context() as broken:
            if place == "step":
                broken.setattr(MemoryPressure, "due", True)
                broken.setattr(reactor.pressure, "step", fail)
            elif place == "look_after":
                broken.setattr(reactor.pressure, "sweep", fail)
                reactor.sweep()
            else:
                broken.setattr(reactor.acceptor, place, fail)
                reactor.connection_limit.most = 1
                reactor.connection_limit._silent[here.sessions[0].connection] = None
                calling = await trio.open_tcp_stream("127.0.0.1", here.port)
                await here.until(lambda: "connection_failed" in here.log.events)
                await calling.aclose()
            await here.echo(good, b"meanwhile")
        reactor.connection_limit.most = 10
        reactor.sweep()
        assert "connection_failed" in here.log.events
        async with await trio.open_tcp_stream("127.0.0.1", here.port) as other:
            await here.echo(other, b"new ones are served")
