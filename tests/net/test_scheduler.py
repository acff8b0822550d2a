"""Which connections are served first, over real loopback sockets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from netstore.meter import Meter
from netstore.net import reactor
from netstore.net.http1.bounds import HURRIED_LIMIT, PIPELINE_LIMIT, TURN_LIMIT
from netstore.net.load import LONG_TURN
from netstore.net.scheduler import EXAMINED_SECONDS, ROUND_SECONDS, UNEXAMINED_SECONDS, Scheduler
from tests.support.member import Lines
from tests.support.site import GET, Site, asking, site

if TYPE_CHECKING:
    from netstore.net.connection import Connection
    from netstore.net.http1.exchange import Http1Exchange
    from netstore.net.load import ConnectionLoad


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


async def test_the_kernel_tells_once_of_who_waits_for_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """More wait than it tells of in a round, and somebody new is told of all the same."""
    monkeypatch.setattr(reactor, "_EVENTS_PER_ROUND", 4)
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


async def test_to_wait_for_a_turn_costs_no_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as here:
        changed = 0

        def modify(fd: int, mask: int) -> None:
            nonlocal changed
            changed += 1

        many = asking(here, 50)
        await here.until_asked(50)
        timed(here, 2 * ROUND_SECONDS)
        monkeypatch.setattr(here.reactor, "modify", modify)
        for one in many:
            one.sendall(GET)
        await here.until_asked(100)
        assert changed == 0
        for one in many:
            one.close()


async def test_what_is_closed_in_a_round_that_told_of_it_is_not_lined_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others wait for their turns already."""
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


class Turns:
    """A scheduler whose first connection takes `seconds` for a turn, of which it waits `queued` for a
    processor; the second takes nothing.
    """

    def __init__(self, seconds: float, queued: float) -> None:
        self.now = self.waited = 0.0
        self.seconds, self.queued = seconds, queued
        make: Any = Scheduler
        meter = Meter(lambda: self.now, Lines())
        self.scheduler: Scheduler = make(lambda: self.now, meter, None, None, lambda: self.waited)
        self.one, self.other = (
            cast("Connection", SimpleNamespace(principal=name, open=True, ready=ready, load=self._load(name)))
            for name, ready in (("a", self._ready), ("b", lambda _: None))
        )

    def _load(self, name: str) -> ConnectionLoad:
        return self.scheduler.joined(name)

    def _ready(self, _: int) -> None:
        self.now += self.seconds
        self.waited += self.queued

    def charged(self, *, alone: bool = False) -> float:
        """What a turn adds to the load."""
        before = self.one.load.seconds(self.now + self.seconds)
        self.scheduler.serve_all([(self.one, 1)] if alone else [(self.other, 1), (self.one, 1)], self.now)
        return self.one.load.sum - before


def test_what_the_loop_waited_for_a_processor_is_not_charged() -> None:
    turns = Turns(0.0015, 0.0014)
    assert turns.charged() == pytest.approx(UNEXAMINED_SECONDS), "the first: nothing was read before it"
    assert turns.charged() == pytest.approx(0.0001, rel=0.01)
    assert turns.charged() == pytest.approx(0.0001, rel=0.01)
    assert turns.charged(alone=True) == pytest.approx(UNEXAMINED_SECONDS), "alone in its round"
    turns.now += EXAMINED_SECONDS
    assert turns.charged() == pytest.approx(UNEXAMINED_SECONDS)


def test_a_turn_that_waits_for_the_disk_is_charged() -> None:
    """It uses no processor, and waits for none."""
    turns = Turns(0.005, 0.0)
    turns.charged()
    assert turns.charged() == pytest.approx(0.005, rel=0.01)
    assert turns.charged() == pytest.approx(0.005, rel=0.01)


def test_who_has_very_long_turns_alone_is_not_light() -> None:
    turns = Turns(0.015, 0.0)
    assert turns.charged(alone=True) == pytest.approx(UNEXAMINED_SECONDS), "the first"
    assert turns.charged(alone=True) == pytest.approx(0.015, rel=0.01)
    for _ in range(20):
        turns.charged(alone=True)
    assert not turns.one.load.is_light(turns.now)
    turns.queued = 0.0149
    assert turns.charged(alone=True) == pytest.approx(0.0001, rel=0.01)


def test_nothing_is_read_while_turns_are_short() -> None:
    turns = Turns(LONG_TURN / 2, 0.0)
    asked = []

    def waited() -> float:
        asked.append(1)
        return 0.0

    turns.scheduler._waited = waited
    for _ in range(10):
        turns.charged()
        turns.charged(alone=True)
    assert asked == []
