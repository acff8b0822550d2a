"""The backend host-gw, through the plugin protocol."""

from __future__ import annotations

import ast
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest
from netstore_plugins import hostgw
from netstore_plugins.hostgw import HostGateway

from netstore.agent.backend import (
    GROUP,
    Address,
    Host,
    Link,
    Prepared,
    Refused,
    Route,
    Subnet,
    Subnet6,
    SubnetLease,
)
from netstore.network.addresses import parse_ip
from netstore.network.config import parse_network
from netstore.network.ipv6 import parse_ip6
from tests.plugins.hosts import whole

NETWORK = parse_network(b'{"Network":"10.23.0.0/16","Backend":{"Type":"host-gw"}}')
ME, PEER = parse_ip("192.168.77.11"), parse_ip("192.168.77.12")


def host(public_ip: int = ME, mtu: int = 1500) -> Host:
    return Host(Link(2, "eth0", mtu, up=True), Address(2, ME, 24), public_ip, NETWORK)


def subnet(number: int) -> Subnet:
    return Subnet(parse_ip(f"10.23.{number}.0"), 24)


@pytest.mark.trio
async def test_prepare_returns_the_mtu_of_the_interface_and_no_data() -> None:
    assert await HostGateway(None).prepare(host(mtu=9000)) == Prepared(mtu=9000, backend_data=None)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("where", "words"),
    [
        (host(public_ip=PEER), "192.168.77.12 is not the address 192.168.77.11 of eth0"),
        (host(mtu=0), "has no MTU"),
    ],
)
async def test_it_refuses_a_host_it_cannot_work_on(where: Host, words: str) -> None:
    with pytest.raises(Refused, match=words):
        await HostGateway(None).prepare(where)


@pytest.mark.trio
async def test_a_route_for_each_peer_of_its_type() -> None:
    peers = [
        SubnetLease(subnet(1), PEER, "host-gw"),
        SubnetLease(subnet(2), PEER, "vxlan"),
        SubnetLease(subnet(3), PEER, ""),
        SubnetLease(subnet(4), PEER, "Host-GW"),
    ]
    wanted = await whole(HostGateway(None), host(), peers)
    assert list(wanted.routes) == [Route(subnet(1), PEER, "eth0")]
    assert {str(one): reason.partition(",")[0] for one, reason in wanted.refused.items()} == {
        "10.23.2.0/24": "its backend is vxlan",
        "10.23.3.0/24": "its backend is not named",
        "10.23.4.0/24": "its backend is Host-GW",
    }
    await HostGateway(None).stop()
    await HostGateway(None).teardown()


ME6, PEER6 = parse_ip6("fd77::11"), parse_ip6("fd77::12")
DUAL = msgspec.structs.replace(host(), address6=ME6, public_ip6=ME6)


@pytest.mark.trio
async def test_in_a_dual_stack_network_a_peer_has_a_route_for_each_family() -> None:
    six = Subnet6(parse_ip6("fd23:0:0:1::"), 64)
    peers = [
        SubnetLease(subnet(1), PEER, "host-gw", subnet6=six, public_ip6=PEER6),
        SubnetLease(subnet(2), PEER, "host-gw", subnet6=six),
        SubnetLease(subnet(3), PEER, "host-gw"),
    ]
    wanted = await whole(HostGateway(None), DUAL, peers)
    assert list(wanted.routes) == [
        Route(subnet(1), PEER, "eth0"),
        Route(subnet(2), PEER, "eth0"),
        Route(subnet(3), PEER, "eth0"),
        Route(six, PEER6, "eth0"),
    ]
    assert wanted.refused == {subnet(2): "it has no PublicIPv6, so fd23:0:0:1::/64 cannot be routed to it"}
    assert len((await whole(HostGateway(None), host(), peers)).routes) == 3, "a network of IPv4 alone"
    with pytest.raises(Refused, match="fd77::12 is not the address that eth0 has"):
        await HostGateway(None).prepare(msgspec.structs.replace(DUAL, public_ip6=PEER6))


def test_it_is_found_through_its_entry_point() -> None:
    [point] = entry_points(group=GROUP, name="host-gw")
    assert point.load() is HostGateway


def test_it_uses_the_public_protocol_only() -> None:
    tree = ast.parse(Path(hostgw.__file__).read_text())
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in used if name.startswith("netstore")} == {"netstore", "netstore.agent.backend"}
