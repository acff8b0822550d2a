"""Real agents in network namespaces and a real etcd: leases become routes, and routes are repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.netns import stage
from tests.support.patience import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import RunningAgent, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip")]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, nodes=2) as scene:
        yield scene


def routed(agent: RunningAgent, subnet: str, gateway: str) -> None:
    """Wait for the route."""
    until(
        lambda: agent.node.agent_routes().get(subnet) == gateway, f"route {subnet} via {gateway}\n{agent.log}"
    )


def test_three_nodes_route_to_each_other(tmp_path: Path) -> None:
    with stage(tmp_path, nodes=3) as scene:
        agents = [scene.agent(number) for number in range(3)]
        subnets = [agent.subnet() for agent in agents]
        assert len(set(subnets)) == 3
        for agent in agents:
            for subnet, other in zip(subnets, agents, strict=True):
                if other is not agent:
                    routed(agent, subnet.replace("-", "/"), other.node.address)
            assert len(agent.node.agent_routes()) == 2
            own = agent.events("subnet_held")[-1]["subnet"]
            assert agent.env_file.read_text() == (
                f"FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET={own.replace('.0/24', '.1/24')}\n"
                "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
            )
        held = scene.keys.leases()
        for agent, subnet in zip(agents, subnets, strict=True):
            assert held[subnet]["value"] == f'{{"PublicIP":"{agent.node.address}","BackendType":"host-gw"}}'
            assert 86_000 < held[subnet]["ttl"] <= 86_400


def test_a_lease_becomes_a_route_that_is_removed_with_the_lease(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    shown = agent.node.routes()["10.23.200.0/24"]
    assert (shown["protocol"], shown["type"], shown["dev"]) == ("78", "1", "eth0") or shown["dev"] == "eth0"
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.13")
    routed(agent, "10.23.200.0/24", "192.168.77.13")
    scene.keys.drop_lease("10.23.200.0-24")
    until(lambda: not agent.node.agent_routes(), "route gone")


def test_a_deleted_route_comes_back(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    for _ in range(5):
        agent.node.ip("route", "delete", "10.23.200.0/24")
        until(lambda: "10.23.200.0/24" in agent.node.agent_routes(), "route back")


def test_a_wrong_gateway_is_corrected(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    scene.keys.lease_of("10.23.201.0-24", "192.168.77.13")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    agent.node.ip("route", "replace", "10.23.200.0/24", "via", "192.168.77.1", "proto", "78")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    # Made by hand without a protocol, through a node that has a lease: like a route that flannel made.
    agent.node.ip("route", "replace", "10.23.200.0/24", "via", "192.168.77.13")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    assert len(agent.node.ip("route", "show", "10.23.200.0/24").splitlines()) == 1


def test_a_foreign_route_is_left_alone_and_reported(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    node = agent.node
    node.ip("route", "add", "10.23.200.0/24", "via", "192.168.77.1", "proto", "static")
    node.ip("route", "add", "10.23.201.0/24", "via", "192.168.77.1", "proto", "static", "metric", "50")
    node.ip("route", "add", "172.16.0.0/24", "via", "192.168.77.1")
    for number in (200, 201):
        scene.keys.lease_of(f"10.23.{number}.0-24", "192.168.77.12")
    told = agent.told("peer_not_routed", name="10.23.200.0/24")
    assert "192.168.77.1" in told["reason"]
    routed(agent, "10.23.201.0/24", "192.168.77.12")
    shown = node.ip("route", "show")
    assert "10.23.200.0/24 via 192.168.77.1 dev eth0 proto static" in shown
    assert "10.23.201.0/24 via 192.168.77.1 dev eth0 proto static metric 50" in shown
    assert "172.16.0.0/24 via 192.168.77.1" in shown
    node.ip("route", "delete", "10.23.200.0/24")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    assert agent.told("peer_routed_again", names="10.23.200.0/24")


def test_flannels_routes_are_taken_over(scene: Stage) -> None:
    node = scene.wire.members[0]
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    scene.keys.lease_of("10.23.201.0-24", "192.168.77.13")
    node.ip("route", "add", "10.23.200.0/24", "via", "192.168.77.12")
    node.ip("route", "add", "10.23.201.0/24", "via", "192.168.77.12")
    agent = scene.agent()
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    routed(agent, "10.23.201.0/24", "192.168.77.13")
    shown = node.ip("route", "show", "root", "10.23.0.0/16").splitlines()
    assert len(shown) == 2, shown


def test_a_next_hop_that_is_not_on_link_is_reported_and_tried_again(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-24", "192.168.99.12")
    scene.keys.lease_of("10.23.201.0-24", "192.168.77.12")
    told = agent.told("peer_not_routed", name="10.23.200.0/24")
    assert "192.168.99.12 is not on-link" in told["reason"]
    routed(agent, "10.23.201.0/24", "192.168.77.12")
    agent.node.ip("address", "add", "192.168.99.2/24", "dev", "eth0")
    routed(agent, "10.23.200.0/24", "192.168.99.12")


def test_a_link_that_went_down_or_away_gets_its_routes_back(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    agent.node.ip("link", "set", "eth0", "down")
    assert not agent.node.agent_routes()
    agent.node.ip("link", "set", "eth0", "up")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    scene.wire.unplug(agent.node)
    until(lambda: not agent.node.agent_routes(), "no routes without the link")
    scene.wire.plug(agent.node)
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    assert len(agent.events("subnet_held")) == 1


def test_routes_of_an_earlier_run_without_a_lease_are_removed(scene: Stage) -> None:
    node = scene.wire.members[0]
    node.ip("route", "add", "10.23.250.0/24", "via", "192.168.77.12", "proto", "78")
    node.ip("route", "add", "10.99.0.0/24", "via", "192.168.77.12", "proto", "78")
    agent = scene.agent()
    agent.subnet()
    until(lambda: "10.23.250.0/24" not in node.agent_routes(), "stale route removed")
    assert "10.99.0.0/24" in node.agent_routes(), "another network's agent keeps its routes"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("10.23.200.0-24", "not json", "not a lease"),
        ("10.23.200.0-24", '{"PublicIP":"fd00::12","BackendType":"host-gw"}', "not an IPv4 address"),
        ("10.23.200.0-24", '{"BackendType":"host-gw"}', "no PublicIP"),
        ("10.23.200.7-32", '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}', "length 32"),
        ("10.23.200.7-24", '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}', "host bits"),
        ("8.8.8.0-24", '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}', "not in the network"),
        ("10.23.200.0-24", '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}', "this node's own"),
        ("lost+found", "x", "A.B.C.D-LEN"),
    ],
)
def test_an_invalid_lease_is_skipped_and_affects_no_other(
    scene: Stage, name: str, value: str, reason: str
) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.set_lease(name, value, ttl=1000)
    scene.keys.lease_of("10.23.201.0-24", "192.168.77.13")
    routed(agent, "10.23.201.0/24", "192.168.77.13")
    assert reason in agent.told("lease_skipped", name=name)["reason"]
    assert list(agent.node.agent_routes()) == ["10.23.201.0/24"]


def test_a_lease_inside_the_own_subnet_is_skipped(scene: Stage) -> None:
    agent = scene.agent()
    own = agent.subnet()
    inner = own.replace(".0-24", ".128-25")
    scene.keys.lease_of(inner, "192.168.77.12")
    assert "overlaps this node's own" in agent.told("lease_skipped", name=inner)["reason"]
    assert agent.node.agent_routes() == {}


def test_a_lease_over_another_network_of_the_node_is_skipped(scene: Stage) -> None:
    node = scene.wire.members[0]
    node.ip("link", "add", "lan2", "type", "veth", "peer", "name", "lan2-far")
    node.ip("link", "set", "lan2-far", "up")
    node.ip("link", "set", "lan2", "up")
    node.ip("address", "add", "10.23.177.5/24", "dev", "lan2")
    agent = scene.agent()
    agent.subnet()
    for name in ("10.23.177.0-25", "10.23.177.128-25"):
        scene.keys.lease_of(name, "192.168.77.12")
        assert "of lan2" in agent.told("lease_skipped", name=name)["reason"]
    assert agent.node.agent_routes() == {}
    # When a network appears later, the route is removed.
    scene.keys.lease_of("10.23.188.0-24", "192.168.77.12")
    routed(agent, "10.23.188.0/24", "192.168.77.12")
    node.ip("address", "add", "10.23.188.9/28", "dev", "lan2")
    until(lambda: not agent.node.agent_routes(), "the route over lan2's new network is gone")


def test_of_two_leases_that_overlap_the_fitting_one_is_routed(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.lease_of("10.23.200.0-25", "192.168.77.13")
    routed(agent, "10.23.200.0/25", "192.168.77.13")
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    routed(agent, "10.23.200.0/24", "192.168.77.12")
    assert "overlaps" in agent.told("lease_skipped", name="10.23.200.0-25")["reason"]
    until(lambda: list(agent.node.agent_routes()) == ["10.23.200.0/24"], "the more specific route is gone")


def test_a_lease_of_another_backend_is_named(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    scene.keys.set_lease("10.23.200.0-24", '{"PublicIP":"192.168.77.12","BackendType":"vxlan"}')
    assert "vxlan" in agent.told("peer_not_routed", name="10.23.200.0/24")["reason"]


def test_a_thousand_leases_written_live_become_routes(tmp_path: Path) -> None:
    with stage(tmp_path, nodes=1, length=16) as scene:
        agent = scene.agent()
        own = agent.subnet()
        for number in range(1000):
            scene.keys.lease_of(
                f"10.23.{100 + number // 16}.{number % 16 * 16}-28", f"192.168.78.{1 + number % 200}"
            )
        until(lambda: len(agent.node.agent_routes()) >= 1000 - 16, "all routes")
        assert own
        assert agent.stop() == 0, agent.log
