"""`subnet ls --watch`: each change once, whatever becomes of the store meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.cli.commands.watching import FOLLOWED_AGAIN, MAX_REMOVED, Screen, Subnets
from netstore.client.faults import Unreachable
from netstore.client.subnetstore import Entry
from netstore.network.config import parse_network
from tests.agent.fake_store import PREFIX, FakeStore
from tests.agent.stores import APIS, fake, subnets
from tests.support.daemon import start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.commands.conftest import Keys, Run

A, B, C = "10.23.1.0-24", "10.23.2.0-24", "10.23.3.0-24"


class Followed:
    """What a run told, on the clock of the test."""

    def __init__(self, store: FakeStore) -> None:
        self.told: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.subnets = Subnets(subnets(store), self._tell, self.said.append)

    def _tell(self, word: str, entry: Entry) -> None:
        self.told.append((word, entry.name))

    async def until(self, count: int) -> list[tuple[str, str]]:
        """What was told, once there is as much."""
        with trio.fail_after(600):  # fixed: by the clock of the test
            while len(self.told) < count:  # noqa: ASYNC110 - polled by the clock of the test
                await trio.sleep(0.1)  # fixed: by the clock of the test
        return self.told


@pytest.fixture(params=APIS)
def kept(request: pytest.FixtureRequest) -> FakeStore:
    return fake(request.param)


@pytest.fixture
async def followed(kept: FakeStore, nursery: trio.Nursery) -> Followed:
    kept.lease(A, "192.168.77.1")
    run = Followed(kept)
    await run.subnets.begin()
    nursery.start_soon(run.subnets.run)
    return run


async def test_what_is_there_and_each_change(
    kept: FakeStore, followed: Followed, autojump_clock: object
) -> None:
    assert followed.told == [("listed", A)]
    await trio.sleep(1)  # fixed: by the clock of the test
    kept.lease(B, "192.168.77.2")
    kept.lease(B, "192.168.77.3")
    kept.remove(f"{PREFIX}/subnets/{A}")
    assert await followed.until(4) == [("listed", A), ("added", B), ("changed", B), ("removed", A)]
    assert followed.said == []


async def test_lost_history_is_made_up_by_the_difference(
    kept: FakeStore, followed: Followed, autojump_clock: object
) -> None:
    await trio.sleep(1)  # fixed: by the clock of the test
    kept.down = True
    kept.cut()
    await trio.sleep(1)  # fixed: by the clock of the test
    kept.lease(B, "192.168.77.2")
    kept.remove(f"{PREFIX}/subnets/{A}")
    for number in range(1100):  # more than the store remembers
        kept.put(f"/noise/{number % 7}", "x")
    kept.down = False
    assert sorted(await followed.until(3)) == [("added", B), ("listed", A), ("removed", A)]
    assert len(followed.said) == 2
    assert "cannot be followed" in followed.said[0]
    assert followed.said[1] == FOLLOWED_AGAIN


async def test_a_store_that_was_made_anew_is_listed_again(
    kept: FakeStore, followed: Followed, autojump_clock: object
) -> None:
    await trio.sleep(1)  # fixed: by the clock of the test
    kept.rebuild(cluster_id="c2")
    kept.lease(A, "192.168.77.1")
    kept.lease(C, "192.168.77.3")
    assert await followed.until(2) == [("listed", A), ("added", C)]


async def test_trouble_is_told_once(kept: FakeStore, followed: Followed, autojump_clock: object) -> None:
    await trio.sleep(1)  # fixed: by the clock of the test
    kept.down = True
    kept.cut()
    await trio.sleep(300)  # fixed: by the clock of the test
    assert len(followed.said) == 1
    kept.down = False
    kept.lease(B, "192.168.77.2")
    await followed.until(2)
    assert len(followed.said) == 2


async def test_a_store_that_cannot_be_asked_at_first_is_an_error() -> None:
    store = fake("v2")
    store.down = True
    with pytest.raises(Unreachable, match="connection refused"):
        await Followed(store).subnets.begin()


async def test_a_table_shows_the_latest_change_first() -> None:
    network = parse_network(b'{"Network":"10.23.0.0/16","Backend":{"Type":"host-gw"}}')
    value = '{"PublicIP":"192.168.77.1","BackendType":"host-gw"}'
    screen = Screen()
    run = Subnets(subnets(fake("v2")), screen.take, lambda _: None)
    for number in range(20):
        entry = Entry(f"10.23.{number + 1}.0-24", value.replace("77.1", f"77.{number + 1}"), number, 100)
        run.entries[entry.name] = entry
        screen.take("listed", entry)
    screen.take("changed", run.entries["10.23.9.0-24"])
    for number in range(9):
        gone = run.entries.pop(f"10.23.{number + 10}.0-24")
        screen.take("removed", gone)
    lines = screen.lines(run, network, "/n/subnets", 100, "")
    assert lines[0] == "11 subnets, 0 with problems, at index 0"
    shown = [line.split()[0] for line in lines if line.startswith("10.")]
    assert shown[:6] == [f"10.23.{number}.0/24" for number in (18, 17, 16, 15, 14, 9)]
    assert sum("removed" in line for line in lines) == MAX_REMOVED
    assert len(shown) == 11 + MAX_REMOVED
    assert "no answer" in screen.lines(run, network, "/n/subnets", 100, "no answer")[0]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("form", ["plain", "json"])
def test_lines_go_on_when_the_store_was_restarted(
    tmp_path: Path, api: str, form: str, keys_at: Callable[[str, str], Keys]
) -> None:
    with start_netstored(tmp_path) as daemon:
        words = ("--endpoints", daemon.url, "--store-api", api, "-o", form, "subnet", "ls", "--watch")
        keys = keys_at(daemon.url, api)
        folder = "/coreos.com/network/subnets"
        keys.put(f"{folder}/{A}", '{"PublicIP":"192.168.77.1"}')
        with subprocess.Popen(
            (sys.executable, "-m", "netstore.cli.netstorectl", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:
            timer = limited(process)
            try:
                assert process.stdout is not None
                assert process.stderr is not None

                def line() -> tuple[str, str]:
                    assert process.stdout is not None
                    text = process.stdout.readline()
                    if form == "json":
                        document = json.loads(text)
                        return document["event"], document["subnet"]
                    word, subnet, *_ = text.split("\t")
                    return word, subnet

                assert line() == ("listed", "10.23.1.0/24")
                keys.put(f"{folder}/{B}", '{"PublicIP":"192.168.77.2"}', 1000)
                assert line() == ("added", "10.23.2.0/24")
                daemon.kill()
                daemon.start_again()
                keys.close()
                keys = keys_at(daemon.url, api)
                keys.remove(f"{folder}/{A}")
                assert line() == ("removed", "10.23.1.0/24")
                process.send_signal(signal.SIGINT)
                assert process.wait(seconds(20)) == 130
                said = process.stderr.read().splitlines()
                assert len(said) in (0, 2), said
                assert "Traceback" not in "".join(said)
            finally:
                timer()
                keys.close()


def limited(process: subprocess.Popen[str]) -> Callable[[], None]:
    """Kill the process if the test takes too long; the result calls that off."""
    timer = threading.Timer(seconds(60), process.kill)
    timer.start()
    return timer.cancel


def test_a_reader_that_has_gone_ends_it(
    ctl: Run, prefix: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.put(f"{prefix}/subnets/{A}", '{"PublicIP":"192.168.77.1"}')

    def gone(_text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("netstore.cli.commands.watching.emit", gone)
    monkeypatch.setattr("netstore.cli.netstorectl._close_standard_output", lambda: None)
    assert ctl("subnet", "ls", "--watch").status == 141
