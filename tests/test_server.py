"""The clock of the daemon, and how its parts are put together."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from netstore.node.lessor import Lessor
from netstore.ops.notify import ServiceManager
from netstore.ops.start import Start
from netstore.server import SystemClock, _Daemon
from tests.support.links import Quiet
from tests.support.local_member import LocalMember

if TYPE_CHECKING:
    from trio.testing import MockClock

    from netstore.node.member import Replica


@pytest.mark.parametrize(("told", "wall"), [(-1, 0), (0, 0), (5, 5)])
def test_no_wall_time_is_before_1970(told: int, wall: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: told)
    assert SystemClock().wall() == wall


def test_a_wall_clock_that_no_number_holds_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = SystemClock(), Quiet()
    monkeypatch.setattr("netstore.server.get_logger", lambda _: lines)
    monkeypatch.setattr("time.time_ns", lambda: 7)
    assert clock.wall() == 7

    def beyond() -> int:
        raise OverflowError("timestamp too large to convert to C PyTime_t")

    monkeypatch.setattr("time.time_ns", beyond)
    assert (clock.wall(), clock.wall()) == (7, 7)
    assert len(lines.events("wall_clock_wrong")) == 1, "told once"
    monkeypatch.setattr("time.time_ns", lambda: 9)
    assert clock.wall() == 9


def test_the_lessor_knows_of_what_writes_of_keys_wait() -> None:
    member = LocalMember()
    lessor = Lessor(cast("Replica", member), 1.0)
    daemon = SimpleNamespace(
        host=member,
        cluster=member.cluster,
        deadlines=member.deadlines,
        meter=None,
        scrubber=None,
        shares=None,
        statistics=member.stats,
        lessor=lessor,
        config=SimpleNamespace(enable_v2=True),
    )
    member.router = _Daemon._routes(cast("_Daemon", daemon))
    seen: list[bool] = []
    propose = member.propose

    def note(*arguments: Any) -> None:
        seen.append(b"/n" in lessor.renewing_nodes)
        propose(*arguments)

    member.propose = note  # type: ignore[method-assign,assignment] # to look at what is so meanwhile
    member.send("PUT", "/v2/keys/n?ttl=5&value=v")
    assert seen == [True]
    assert b"/n" not in lessor.renewing_nodes


async def test_what_a_member_that_joins_gets_from_others_is_told_until_it_serves(
    autojump_clock: MockClock,
) -> None:
    """The service manager would give it up else."""
    log = Quiet()
    machine = SimpleNamespace(loaded=0, stored=900, applied=0)
    host = SimpleNamespace(machine=machine, loading=False)
    engine = SimpleNamespace(sizes=lambda: (5_000, 4_000))
    daemon = SimpleNamespace(
        start=Start(ServiceManager({}), trio.current_time, log),
        host=host,
        store=SimpleNamespace(engine=engine),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Daemon._tell_start, cast("_Daemon", daemon))
        await trio.sleep(60)
        assert log.lines == [], "nothing moves"
        for _ in range(2):  # the log may outgrow the first copy
            host.loading = True
            machine.loaded = 300
            await trio.sleep(60)
            machine.loaded = 600
            await trio.sleep(60)
            host.loading = False
            machine.applied += 70
            await trio.sleep(60)
            machine.applied += 1
            await trio.sleep(60)
        daemon.start.over = True
    assert log.events("state_loading") == 2 * [
        "{'records': 900, 'bytes': 4000}",
        "{'records': 900, 'loaded': 300}",
        "{'records': 900, 'loaded': 600}",
    ]
    assert log.events("start_moves") == [
        "{'doing': 'applying the log', 'index': 71}",
        "{'doing': 'applying the log', 'index': 142}",
    ]
