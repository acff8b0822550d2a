"""Real agents in namespaces, with IPv4 and IPv6, and netstored or etcd: both APIs, both families."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.netns import KeysV3, ip, stage
from tests.support.patience import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.netns import RunningAgent, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip", "ping")]

DUAL: Final = (
    '{"Network":"10.23.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd23::/48",'
    '"Backend":{"Type":"host-gw"}}'
)


def address6(number: int) -> str:
    return f"fd77::{11 + number}"


def give_ipv6(scene: Stage) -> None:
    """Each node an IPv6 address beside the link-local one, usable at once."""
    for number, node in enumerate(scene.wire.members):
        node.ip("-6", "address", "add", f"{address6(number)}/64", "dev", "eth0", "nodad")
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


def held(agent: RunningAgent) -> tuple[str, str]:
    """Wait for the node's subnets; they are as a lease's name has them."""
    agent.subnet()
    env = agent.env()
    return tuple(  # type: ignore[return-value] # two
        env[f"FLANNEL_{family}SUBNET"].replace(first, last).replace("/", "-")
        for family, first, last in (("", ".1/", ".0/"), ("IPV6_", "::1/", "::/"))
    )


def agent_routes6(agent: RunningAgent) -> dict[str, str]:
    shown = agent.node.ip("-6", "-j", "-N", "route", "show", "proto", "78")
    return {route["dst"]: route.get("gateway", "") for route in json.loads(shown or "[]")}


def open_pod(agent: RunningAgent, name: str) -> tuple[str, str]:
    """A namespace behind the node that has the second address of its subnets, as a pod has; its addresses."""
    node, env = agent.node, agent.env()
    ip("netns", "add", name)
    node.ip("link", "add", "pods0", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", "lo", "up", netns=name)
    addresses = []
    for gateway in (env["FLANNEL_SUBNET"], env["FLANNEL_IPV6_SUBNET"]):
        own, _, length = gateway.partition("/")
        pod = f"{own[:-1]}2"
        node.ip("address", "add", gateway, "dev", "pods0", *(("nodad",) if ":" in own else ()))
        ip(
            "address",
            "add",
            f"{pod}/{length}",
            "dev",
            "eth0",
            *(("nodad",) if ":" in own else ()),
            netns=name,
        )
        addresses.append(pod)
    node.ip("link", "set", "pods0", "up")
    ip("link", "set", "eth0", "up", netns=name)
    for gateway in (env["FLANNEL_SUBNET"], env["FLANNEL_IPV6_SUBNET"]):
        ip("route", "add", "default", "via", gateway.partition("/")[0], netns=name)
    return addresses[0], addresses[1]


def pings(netns: str, address: str) -> bool:
    words = ("netns", "exec", netns, "ping", "-c", "1", "-W", "1", address)
    return " 0% packet loss" in ip(*words, check=False)


@pytest.mark.parametrize("api", ["v2", "v3"])
def test_pods_of_two_nodes_reach_each_other_over_both_families(tmp_path: Path, api: str) -> None:
    with stage(tmp_path, nodes=2, config=DUAL, api=api) as scene:
        give_ipv6(scene)
        agents = [scene.agent(number) for number in range(2)]
        subnets = [held(agent) for agent in agents]
        names = {f"{subnet}&{subnet6}" for subnet, subnet6 in subnets}
        assert set(scene.keys.leases()) == names
        for number, agent in enumerate(agents):
            subnet, subnet6 = subnets[1 - number]
            gateway, gateway6 = agents[1 - number].node.address, address6(1 - number)
            until(
                lambda agent=agent, subnet=subnet, gateway=gateway: (
                    agent.node.agent_routes()  # type: ignore[misc]
                    == {subnet.replace("-", "/"): gateway}
                ),
                "route of IPv4",
            )
            until(
                lambda agent=agent, subnet6=subnet6, gateway6=gateway6: (
                    agent_routes6(agent)  # type: ignore[misc]
                    == {subnet6.replace("-", "/"): gateway6}
                ),
                "route of IPv6",
            )
            lease = json.loads(scene.keys.leases()["&".join(subnets[number])]["value"])
            assert list(lease.items()) == [
                ("PublicIP", agent.node.address),
                ("PublicIPv6", address6(number)),
                ("BackendType", "host-gw"),
            ]
        pods = [f"{scene.wire.switch}-pod{number}" for number in range(2)]
        try:
            addresses = [open_pod(agent, pod) for agent, pod in zip(agents, pods, strict=True)]
            for pod, others in zip(pods, reversed(addresses), strict=True):
                for address in others:
                    until(lambda pod=pod, address=address: pings(pod, address), f"ping {address}")  # type: ignore[misc]
        finally:
            for pod in pods:
                ip("netns", "delete", pod, check=False)
        agents[0].node.ip("-6", "route", "delete", f"{subnets[1][1].replace('-', '/')}", "proto", "78")
        until(lambda: len(agent_routes6(agents[0])) == 1, "route of IPv6 back")


@pytest.mark.parametrize("api", ["v2", "v3"])
def test_a_network_becomes_dual_stack_node_by_node(tmp_path: Path, api: str) -> None:
    with stage(tmp_path, nodes=2, api=api) as scene:
        give_ipv6(scene)
        first, second = scene.agent(0), scene.agent(1)
        single = [first.subnet(), second.subnet()]
        scene.keys.set_config(DUAL)
        first.stop()
        first.start()
        until(lambda: "FLANNEL_IPV6_SUBNET" in first.env(), "subnet of IPv6")
        until(lambda: single[0] not in scene.keys.leases(), "former name gone")
        assert held(first)[0] == single[0]
        route = single[0].replace("-", "/")
        until(lambda: second.node.agent_routes() == {route: first.node.address}, "route of IPv4 stays")
        assert agent_routes6(second) == {}, "it still has the former config"
        second.stop()
        second.start()
        until(lambda: len(agent_routes6(second)) == 1, "route of IPv6")
        until(lambda: len(agent_routes6(first)) == 1, "route of IPv6 back")
        assert {name.split("&")[0] for name in scene.keys.leases()} == set(single)


def test_the_public_address_and_the_interface_may_be_named_by_ipv6_address(tmp_path: Path) -> None:
    with stage(tmp_path, nodes=1, config=DUAL, api="v3") as scene:
        give_ipv6(scene)
        node = scene.wire.members[0]
        node.ip("-6", "address", "add", "fd77::99/64", "dev", "eth0", "nodad")
        agent = scene.agent(0, "--iface", "fd77::99", "--public-ipv6", "fd77::99")
        held(agent)
        assert isinstance(scene.keys, KeysV3)
        [lease] = scene.keys.leases().values()
        assert json.loads(lease["value"])["PublicIPv6"] == "fd77::99"
