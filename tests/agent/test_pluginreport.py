"""The agent's report, in both APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
from netstore_plugins.hostgw import HostGateway

from netstore.agent.pluginreport import (
    FIRST_SECONDS,
    INTERVAL_SECONDS,
    RETRY_SECONDS,
    PluginReporter,
    admitted,
    report_of,
)
from netstore.agent.problems import ProblemLog
from netstore.client.cluster import Refused
from netstore.client.plugins import Stored
from netstore.client.subnetstore import Entry
from netstore.errors import NetstoreError
from netstore.network.addresses import parse_ip
from netstore.network.pluginreport import TTL_SECONDS, Report, parse_report
from netstore.network.plugins import Plugin
from tests.agent.entropy import LowestEntropy
from tests.agent.stores import APIS, fake, subnets
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from trio.testing import MockClock

    from netstore.agent.localnode import LocalNode
    from netstore.client.plugins import PluginsClient
    from netstore.client.subnetstore import SubnetStore

REPORT = Report("node1", "0.1.0", "host-gw")


class Node:
    backend = HostGateway(None)


def test_a_report_names_what_is_installed() -> None:
    report = report_of(cast("LocalNode", Node()), {"host-gw": "0f"})
    assert report.running == "host-gw"
    [own] = [each for each in report.installed if each.name == "host-gw"]
    assert (own.version, own.wheel) == (HostGateway.manifest.version, "0f")


@pytest.mark.parametrize("api", APIS)
async def test_the_report_is_kept_alive(api: str, autojump_clock: MockClock) -> None:
    store, log = fake(api), KeptLog()
    present = [REPORT]

    async def opened() -> SubnetStore:
        await trio.lowlevel.checkpoint()
        return subnets(store)

    async def stored() -> Report:
        found = await subnets(store).entry("10.0.0.7")
        assert isinstance(found, Entry)
        assert found.value is not None
        assert found.ttl is not None
        assert 0 < found.ttl <= TTL_SECONDS
        return parse_report(found.value)

    reporter = PluginReporter(
        opened, lambda: present[0], parse_ip("10.0.0.7"), ProblemLog(log), LowestEntropy()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.expire)
        nursery.start_soon(reporter.run)
        await trio.sleep(2 * FIRST_SECONDS + 1)  # fixed: by the clock of the test
        assert await stored() == REPORT
        present[0] = Report("node1", "0.2.0", "vxlan")
        await trio.sleep(3 * TTL_SECONDS)  # fixed: same
        assert await stored() == present[0]
        nursery.cancel_scope.cancel()
    assert log.lines == []


async def test_a_store_that_does_not_take_it_is_told_once(autojump_clock: MockClock) -> None:
    log = KeptLog()
    store = fake("v2")
    refusing = [True]

    async def opened() -> SubnetStore:
        await trio.lowlevel.checkpoint()
        if refusing[0]:
            raise NetstoreError("no")
        return subnets(store)

    reporter = PluginReporter(opened, lambda: REPORT, 1, ProblemLog(log), LowestEntropy())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.run)
        await trio.sleep(20 * RETRY_SECONDS)  # fixed: by the clock of the test
        assert log.lines == [("plugin_report_not_written", {"reason": "no"})]
        refusing[0] = False
        await trio.sleep(INTERVAL_SECONDS)  # fixed: same
        nursery.cancel_scope.cancel()
    assert log.events == ["plugin_report_not_written", "plugin_report_written"]


async def test_what_the_store_says_of_a_plugin() -> None:
    class Client:
        def __init__(self, status: int) -> None:
            self.status = status

        async def plugin(self, name: str) -> Stored:
            await trio.lowlevel.checkpoint()
            if self.status != 200:
                raise Refused(self.status, "no")
            return Stored(Plugin(name))

    assert await admitted(cast("PluginsClient", Client(200)), "x") == Plugin("x")
    assert await admitted(cast("PluginsClient", Client(404)), "x") is None
    with pytest.raises(Refused):
        await admitted(cast("PluginsClient", Client(503)), "x")
