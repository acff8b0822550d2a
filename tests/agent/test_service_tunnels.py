"""The whole agent with a backend that needs a device, with a fake kernel, a fake store and a mock clock."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.agent.entryplan import SetEntry
from netstore.agent.kernel import Tunnel
from netstore.network.addresses import parse_ip, show_ip
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS
from tests.agent.test_service import Node

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

VXLAN = '{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
PEER = (
    '{"PublicIP":"192.168.77.12","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:0c"}}'
)


@pytest.fixture(params=APIS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    node = Node(tmp_path, request.param, cleanup=True)
    node.store.put(f"{PREFIX}/config", VXLAN)
    node.store.put(f"{PREFIX}/subnets/10.23.200.0-24", PEER)
    return node


@pytest.mark.trio
async def test_the_device_the_lease_and_the_peer_fit_together(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        assert node.agent.not_ready() is None
        link = node.kernel.link("flannel.1")
        assert link.tunnel == Tunnel(parse_ip("192.168.77.11").to_bytes(4), 2, vni=1, port=8472)
        [own] = [
            json.loads(kept.value)
            for name, kept in node.store.files.items()
            if "192.168.77.11" in kept.value and "/subnets/" in name
        ]
        assert own["BackendData"] == {"VNI": 1, "VtepMAC": link.mac.hex(":")}
        [address] = [one for one in node.kernel.address_list if one.ifindex == link.ifindex]
        assert f"FLANNEL_SUBNET={show_ip(address.ip + 1)}/24\n" in node.env.read_text()
        assert "FLANNEL_MTU=1450" in node.env.read_text()
        assert node.routes() == {"10.23.200.0/24": parse_ip("10.23.200.0") & 255}
        assert len(node.kernel.entry_table) == 2
        status = node.agent.status()
        assert (status["routes"], status["devices"], status["unserved"]) == (1, {}, {})
    await node.agent._clean_up()
    assert [one.name for one in node.kernel.link_list] == ["eth0"]
    assert node.routes() == {}
    assert node.kernel.entry_table == {}


@pytest.mark.trio
async def test_the_mac_outlives_the_device_and_the_agent(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        before = node.kernel.link("flannel.1")
        node.kernel.remove_link(before.ifindex)
        await trio.sleep(1)  # fixed: by the clock of the test
        after = node.kernel.link("flannel.1")
        assert (after.mac, after.up) == (before.mac, True)
    node.kernel.remove_link(after.ifindex)
    node.agent = node.make()
    async with node.running():
        assert node.kernel.link("flannel.1").mac == before.mac


@pytest.mark.trio
async def test_a_device_of_others_is_a_problem_that_is_logged_once(
    autojump_clock: MockClock, node: Node
) -> None:
    other = node.kernel.link_list[0]._replace(ifindex=7, name="flannel.1")
    node.kernel.set_link(other)
    async with node.running():
        await trio.sleep(60)  # fixed: by the clock of the test
        [told] = node.recorded.told("device_not_ready")
        assert "ip link delete flannel.1" in told["reason"]
        assert node.kernel.link("flannel.1") == other
        node.kernel.remove_link(7)
        await trio.sleep(1)  # fixed: by the clock of the test
        assert node.kernel.link("flannel.1").kind == "vxlan"
        assert len(node.recorded.told("device_ready_again")) == 1


@pytest.mark.trio
async def test_a_node_whose_tunnel_gets_no_entries_is_not_ready(
    autojump_clock: MockClock, node: Node
) -> None:
    node.kernel.refusals[SetEntry] = errno.ENOBUFS
    async with node.running():
        assert "2 entries of tunnels are not in place; of flannel.1: " in str(node.agent.not_ready())
        node.kernel.refusals.clear()
        await trio.sleep(11)  # fixed: by the clock of the test
        assert node.agent.not_ready() is None
