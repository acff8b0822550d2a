"""What is told of a start that takes long."""

from __future__ import annotations

import socket
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import trio

from netstore.ops.notify import ServiceManager
from netstore.ops.start import STEP_SECONDS, TOLD_SECONDS, Start
from tests.support.links import Quiet

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from netstore.disk.engine import LmdbEngine
    from netstore.node.host import Host


def test_it_is_told_how_far_loading_is_and_no_more_often_than_needed(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        now, log = [100.0], Quiet()
        start = Start(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}), lambda: now[0], log)

        def told() -> str:
            return listening.recv(4096).decode()

        start.verifying(100 * 2**20)
        assert told() == "EXTEND_TIMEOUT_USEC=220000000\nSTATUS=verifying the state, 105 MB"
        start.loading(2_000, 5_000_000)
        usec = f"{STEP_SECONDS * 1e6:.0f}"
        assert told() == f"EXTEND_TIMEOUT_USEC={usec}\nSTATUS=loading 2000 records, 5 MB"
        for records in range(0, 2_001, 10):
            now[0] += TOLD_SECONDS / 64
            start.loaded(records)
        assert told() == f"EXTEND_TIMEOUT_USEC={usec}\nSTATUS=loading 2000 records, 31%"
        assert told() == f"EXTEND_TIMEOUT_USEC={usec}\nSTATUS=loading 2000 records, 63%"
        assert told() == f"EXTEND_TIMEOUT_USEC={usec}\nSTATUS=loading 2000 records, 95%"
        lines = [line for line in log.lines if line[0] == "state_loading"]
        assert [fields for _, fields in lines] == [
            "{'records': 2000, 'bytes': 5000000}",
            "{'records': 2000, 'loaded': 630}",
            "{'records': 2000, 'loaded': 1270}",
            "{'records': 2000, 'loaded': 1910}",
        ]
        assert log.events("state_verifying") == ["{'bytes': 104857600}"]


def test_an_empty_store_is_loaded_too() -> None:
    now, log = [0.0], Quiet()
    start = Start(ServiceManager({}), lambda: now[0], log)
    start.loading(0, 0)
    now[0] = TOLD_SECONDS
    start.loaded(0)
    assert log.events("state_loading")[1] == "{'records': 0, 'loaded': 0}"


def test_what_moves_is_told_until_the_store_serves() -> None:
    """And what stands still is not: the manager shall give that up."""
    now, log = [0.0], Quiet()
    start = Start(ServiceManager({}), lambda: now[0], log)
    for size in range(0, 100_000_000, 1_000_000):
        start.moved("reading the log", size)
        now[0] += TOLD_SECONDS / 40
    assert log.events("start_moves") == [
        "{'doing': 'reading the log', 'bytes': 40000000}",
        "{'doing': 'reading the log', 'bytes': 80000000}",
    ]
    log.lines.clear()
    for index in (7, 7, 8, 8):  # where it begins is not told
        now[0] += TOLD_SECONDS
        start.applied(index)
    assert log.events("start_moves") == ["{'doing': 'applying the log', 'index': 8}"]
    start.loading(50, 1_000)
    for records in (10, 10, 20):
        now[0] += TOLD_SECONDS
        start.loaded(records)
    assert len(log.events("state_loading")) == 3
    log.lines.clear()
    start.over = True
    now[0] += TOLD_SECONDS
    start.loaded(30)
    start.applied(9)
    start.moved("receiving the state", 1)
    start.verifying(1)
    assert log.lines == []


async def test_what_a_member_that_joins_gets_from_others_is_told_until_it_serves(
    autojump_clock: MockClock,
) -> None:
    """The service manager would give it up else."""
    log = Quiet()
    machine = SimpleNamespace(loaded=0, stored=900, applied=0)
    install = SimpleNamespace(is_loading=False)
    host = SimpleNamespace(machine=machine, snapshot_install=install)
    engine = SimpleNamespace(sizes=lambda: (5_000, 4_000))
    start = Start(ServiceManager({}), trio.current_time, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start.follow, cast("Host", host), cast("LmdbEngine", engine))
        await trio.sleep(60)
        assert log.lines == [], "nothing moves"
        for _ in range(2):  # the log may outgrow the first copy
            install.is_loading = True
            machine.loaded = 300
            await trio.sleep(60)
            machine.loaded = 600
            await trio.sleep(60)
            install.is_loading = False
            machine.applied += 70
            await trio.sleep(60)
            machine.applied += 1
            await trio.sleep(60)
        start.over = True
    assert log.events("state_loading") == 2 * [
        "{'records': 900, 'bytes': 4000}",
        "{'records': 900, 'loaded': 300}",
        "{'records': 900, 'loaded': 600}",
    ]
    assert log.events("start_moves") == [
        "{'doing': 'applying the log', 'index': 71}",
        "{'doing': 'applying the log', 'index': 142}",
    ]
