"""What is kept of the netfilter rules, with rules in memory and a mock clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from netstore.agent import packetfilter
from netstore.agent.packetfilter import LOOKS_SECONDS, MAX_LOOKS, PacketFilter
from netstore.agent.problems import ProblemLog
from netstore.errors import NetstoreError
from netstore.network.masquerade import IPV4, IPV6, PodNetwork, listed_comments, rule_comments
from netstore.ops.agent import AgentConfig
from tests.support.log import KeptLog
from tests.support.ruleset import FakeRuleset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

FOUR = PodNetwork(("10.23.0.0/16",), "10.23.42.0/24")
SIX = PodNetwork(("fd23::/48",), "fd23:0:0:2::/64")
OURS = [
    f"-A FORWARD {side} 10.23.0.0/16 -m comment --comment netstore-agent -j ACCEPT" for side in ("-s", "-d")
]


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of this machine's kernel are no part of these tests."""
    monkeypatch.setattr(packetfilter, "problems", lambda families, interface: {})


class Node:
    """A packet filter and what it works on."""

    def __init__(self, **config: Any) -> None:
        self.rules = FakeRuleset()
        self.log = KeptLog()
        self.config = AgentConfig(**({"ip_masq": True} | config))
        self.filter = self.make()

    def make(self) -> PacketFilter:
        return PacketFilter(self.config, self.rules, ProblemLog(self.log))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.filter.run)
            await trio.sleep(1)  # fixed: by the clock of the test
            yield
            nursery.cancel_scope.cancel()

    async def comments(self) -> list[str]:
        return listed_comments(await self.rules.table(IPV4))


@pytest.mark.trio
async def test_nothing_is_done_before_the_subnet_is_known(autojump_clock: MockClock) -> None:
    node = Node()
    async with node.running():
        assert "not looked at yet" in str(node.filter.not_in_place)
        assert (node.rules.writes, node.rules.looks) == (0, 0)
        node.filter.serve("eth0", FOUR)
        assert "10.23.42.0/24" in str(node.filter.not_in_place)
        await trio.sleep(0.1)
        assert node.filter.not_in_place is None
        assert await node.comments() == rule_comments(IPV4, FOUR)
        assert node.log.events == ["rules_in_place"]


@pytest.mark.trio
async def test_rules_stay_as_they_are_without_another_write(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR, SIX)
    async with node.running():
        await trio.sleep(60)
        assert node.rules.writes == 1, "one transaction for both families"
        assert set(node.rules.tables) == {"ip", "ip6"}
        node.filter.serve("eth0", FOUR, SIX)
        await trio.sleep(60)
        assert (node.rules.writes, node.filter.repairs) == (1, 0)
    assert set(node.rules.tables) == {"ip", "ip6"}, "they stay after the end"


@pytest.mark.trio
async def test_flushed_and_changed_rules_are_back_at_once(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR, SIX)
    async with node.running():
        node.rules.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert await node.comments() == rule_comments(IPV4, FOUR)
        await trio.sleep(1)
        node.rules.tables["ip6"].pop()
        node.rules.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert listed_comments(await node.rules.table(IPV6)) == rule_comments(IPV6, SIX)
        await trio.sleep(1)
        node.rules.tables["ip"].append({"rule": {"comment": "of another", "handle": 999}})
        node.rules.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert "of another" not in await node.comments()
        assert node.filter.repairs == 3
        assert len(node.log.told("rules_repaired")) == 3


@pytest.mark.trio
async def test_no_repair_waits_for_the_one_before(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        began = trio.current_time()
        for _ in range(MAX_LOOKS // 2):
            node.rules.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert await node.comments() == rule_comments(IPV4, FOUR)
        assert trio.current_time() == began


@pytest.mark.trio
async def test_what_the_agent_writes_itself_leads_to_no_further_look(autojump_clock: MockClock) -> None:
    node = Node(iptables_resync=60)
    node.filter.serve("eth0", FOUR)
    async with node.running():
        looks = node.rules.looks
        node.rules.flush()
        await trio.sleep(10)
        assert node.rules.looks - looks == 2, "before and after the write"


@pytest.mark.trio
async def test_a_change_that_nobody_told_of_is_found_by_the_next_look(autojump_clock: MockClock) -> None:
    node = Node(iptables_resync=7)
    node.filter.serve("eth0", FOUR)
    async with node.running():
        node.rules.tables.clear()
        await trio.sleep(6)
        assert not node.rules.tables
        await trio.sleep(2)
        assert node.rules.tables


@pytest.mark.trio
async def test_another_program_that_never_rests_is_answered_in_bounds(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        looks = node.rules.looks
        for _ in range(20_000):
            node.rules.flush()
            await trio.sleep(0.01)
        assert node.rules.looks - looks <= 2 * MAX_LOOKS * (200 / LOOKS_SECONDS + 2)
        assert len(node.log.told("rules_repaired")) == 10
        assert len(node.log.told("rules_contested")) == 1
        await trio.sleep(70)
        assert len(node.log.told("rules_no_longer_contested")) == 1
        node.rules.flush()
        await trio.sleep(1)
        assert len(node.log.told("rules_repaired")) == 11


@pytest.mark.trio
async def test_a_new_subnet_replaces_the_rules(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR, SIX)
    async with node.running():
        node.filter.serve("eth0", PodNetwork(("10.23.0.0/16",), "10.23.77.0/24"))
        await trio.sleep(1)
        assert set(node.rules.tables) == {"ip"}, "the family that is no longer served is removed"
        assert "10.23.77.0" in str(node.rules.tables["ip"])
        assert "10.23.42.0" not in str(node.rules.tables["ip"])
        assert node.filter.repairs == 0


@pytest.mark.trio
async def test_a_refused_write_is_told_once_and_tried_again(autojump_clock: MockClock) -> None:
    node = Node()
    node.rules.refuses = "nft failed: Operation not permitted; the agent needs CAP_NET_ADMIN"
    node.filter.serve("eth0", FOUR)
    async with node.running():
        await trio.sleep(60)
        assert "CAP_NET_ADMIN" in str(node.filter.not_in_place)
        assert len(node.log.told("rules_not_kept")) == 1
        node.rules.refuses = ""
        await trio.sleep(6)
        assert node.filter.not_in_place is None


@pytest.mark.trio
async def test_nft_is_needed_only_to_masquerade(autojump_clock: MockClock) -> None:
    node = Node()
    node.rules.has_nft = False
    node.filter.serve("eth0", FOUR)
    async with node.running():
        assert "install the package nftables" in str(node.filter.not_in_place)
    node = Node(ip_masq=False)
    node.rules.has_nft = False
    node.filter.serve("eth0", FOUR)
    async with node.running():
        assert node.filter.not_in_place is None
        assert "rules_not_kept" not in node.log.events


@pytest.mark.trio
async def test_without_masquerading_the_tables_of_an_earlier_run_go(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        pass
    node.config = AgentConfig(ip_masq=False)
    node.filter = node.make()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        assert not node.rules.tables
        node.rules.tables["ip"] = []  # made by somebody else from now on
        await trio.sleep(60)
        assert node.rules.tables


@pytest.mark.trio
async def test_a_forward_chain_that_drops_is_made_to_accept_and_kept_so(autojump_clock: MockClock) -> None:
    node = Node(ip_masq=False)
    node.filter.serve("eth0", FOUR)
    chain = node.rules.forward["iptables"]
    async with node.running():
        assert chain == ["-P FORWARD ACCEPT"]
        chain[0] = "-P FORWARD DROP"
        await trio.sleep(6)
        assert chain[1:] == OURS
        del chain[1:]
        node.rules.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert chain[1:] == OURS
        assert node.rules.forward["ip6tables"] == [], "the other family is not served"


@pytest.mark.trio
async def test_forward_rules_that_are_not_wanted_are_removed_once(autojump_clock: MockClock) -> None:
    node = Node(iptables_forward_rules=False)
    node.rules.forward["iptables"] = ["-P FORWARD DROP", *OURS]
    node.filter.serve("eth0", FOUR)
    async with node.running():
        assert node.rules.forward["iptables"] == ["-P FORWARD DROP"]


@pytest.mark.trio
async def test_a_chain_that_stays_closed_is_no_readiness(autojump_clock: MockClock) -> None:
    node = Node(ip_masq=False)
    node.rules.forward["iptables"] = ["-P FORWARD DROP"]
    node.rules.refuses = "iptables failed: no"
    node.filter.serve("eth0", FOUR)
    async with node.running():
        assert "iptables failed: no" in str(node.filter.not_in_place)


@pytest.mark.trio
async def test_a_firewall_that_may_drop_is_told_once(autojump_clock: MockClock) -> None:
    node = Node()
    node.rules.foreign_chains = [
        {"family": "inet", "table": "fw", "name": "f", "hook": "forward", "policy": "drop"}
    ]
    node.filter.serve("eth0", FOUR)
    async with node.running():
        await trio.sleep(60)
        [told] = node.log.told("firewall_may_drop")
        assert "nft insert rule inet fw f ip saddr { 10.23.0.0/16 } accept" in told["reason"]
        assert node.filter.not_in_place is None


@pytest.mark.trio
@pytest.mark.parametrize("policy", ["drop", "accept"])
async def test_iptables_that_is_missing_is_told_where_its_chain_drops(
    autojump_clock: MockClock, policy: str
) -> None:
    node = Node()
    node.rules.has_iptables = False
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": policy}
    node.rules.foreign_chains = [chain]
    node.filter.serve("eth0", FOUR, SIX)
    async with node.running():
        await trio.sleep(60)
        reason = (
            "the chain drops packets of pods, and iptables is not installed; install the package iptables"
        )
        told = [{"reason": reason}] if policy == "drop" else []
        assert node.log.told("forward_chain_not_read") == told
        assert node.log.told("firewall_may_drop") == []
        node.rules.has_iptables = True
        await trio.sleep(60)
        assert "iptables FORWARD" not in node.filter._log.open


@pytest.mark.trio
async def test_kernel_settings_are_told_once_and_when_corrected(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"net.ipv4.ip_forward": "the kernel forwards no packets"}
    monkeypatch.setattr(packetfilter, "problems", lambda families, interface: dict(wrong))
    node = Node()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        await trio.sleep(30)
        assert len(node.log.told("kernel_setting")) == 1
        assert node.filter.not_in_place is None, "they are told, and no reason to be unready"
        wrong.clear()
        await trio.sleep(6)
        assert node.log.told("kernel_setting_corrected") == [{"name": "net.ipv4.ip_forward"}]


@pytest.mark.trio
@pytest.mark.parametrize("has_nft", [True, False])
async def test_clear_removes_all_that_is_ours(autojump_clock: MockClock, has_nft: bool) -> None:
    node = Node(ip_masq=has_nft)
    node.rules.has_nft = has_nft
    node.rules.forward["iptables"] = ["-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"]
    node.filter.serve("eth0", FOUR, SIX)
    async with node.running():
        assert len(node.rules.forward["iptables"]) == 4
    await node.filter.clear()
    assert not node.rules.tables
    await node.filter.clear()
    assert node.rules.forward["iptables"] == ["-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"]


@pytest.mark.trio
async def test_rules_that_cannot_be_removed_are_told(autojump_clock: MockClock) -> None:
    node = Node()
    node.filter.serve("eth0", FOUR)
    async with node.running():
        pass
    node.rules.refuses = "nft failed: no"
    with pytest.raises(NetstoreError, match="nft failed: no"):
        await node.filter.clear()
    node.rules.has_nft = False
    with pytest.raises(NetstoreError, match="nft is not installed"):
        await node.filter.clear()
