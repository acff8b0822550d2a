"""Packets between nodes through the backends' devices, with real agents in network namespaces and a real
etcd. The tests of backends whose kernel module is not there are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.netns import Node, ip, stage
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import RunningAgent, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip", "ping")]

PLAIN = {
    "vxlan": {"device": "flannel.1", "mtu": "1450"},
    "ipip": {"device": "flannel.ipip", "mtu": "1480"},
    "wireguard": {"device": "flannel-wg", "mtu": "1420"},
}


def missing(kind: str) -> bool:
    """Whether this kernel cannot make devices of this kind."""
    name = f"probe{os.getpid()}"
    words = {"vxlan": ("id", "1", "dstport", "0"), "ipip": ("local", "127.0.0.1")}.get(kind, ())
    ip("netns", "add", name)
    try:
        made = subprocess.run(
            ("ip", "-n", name, "link", "add", "probe0", "type", kind, *words),
            capture_output=True,
            check=False,
        )
        return made.returncode != 0
    finally:
        ip("netns", "delete", name)


@pytest.fixture(params=sorted(PLAIN))
def kind(request: pytest.FixtureRequest) -> str:
    """Each backend with a device, if this kernel has it."""
    name: str = request.param
    if missing(name):
        pytest.skip(f"this kernel has no {name} devices (module {name})")
    return name


def config(backend: str, **more: Any) -> str:
    return json.dumps({"Network": "10.23.0.0/16", "Backend": {"Type": backend, **more}})


def link(node: Node, name: str) -> dict[str, Any]:
    """The interface as `ip -d -j link` tells it; empty if there is none."""
    listed = json.loads(node.ip("-j", "-d", "link", "show", "dev", name, check=False) or "[]")
    return listed[0] if listed else {}


def pod(agent: RunningAgent) -> str:
    """Give the node a bridge with the first address of its subnet, as for pods; the address."""
    agent.told("subnet_held")
    address = agent.env()["FLANNEL_SUBNET"].removesuffix("/24")
    agent.node.ip("link", "add", "cni0", "type", "bridge")
    agent.node.ip("address", "add", f"{address}/24", "dev", "cni0")
    agent.node.ip("link", "set", "cni0", "up")
    return address


def pings(node: Node, source: str, target: str) -> bool:
    """Whether an echo comes back."""
    words = ("ping", "-n", "-c", "1", "-W", "1", "-I", source, target)
    done = subprocess.run(
        ("ip", "netns", "exec", node.netns, *words), capture_output=True, check=False, timeout=seconds(20)
    )
    return done.returncode == 0


def all_reach_each_other(agents: list[RunningAgent], pods: list[str]) -> None:
    for one, source in zip(agents, pods, strict=True):
        for other, target in zip(agents, pods, strict=True):
            if other is not one:
                until(lambda: pings(one.node, source, target), f"{source} reaches {target}\n{one.log}")  # noqa: B023 - used before the loop goes on


LEAST_PINGS = 20
"""How many must have been sent while something changed, or after it."""


@contextlib.contextmanager
def no_packet_lost(node: Node, source: str, target: str) -> Iterator[None]:
    """A ping every 10 ms, of which none may be lost."""
    words = ("ping", "-n", "-O", "-i", "0.01", "-W", "2", "-I", source, target)
    with (
        tempfile.TemporaryFile("w+") as told,  # no pipe: ping would wait where nobody reads it
        subprocess.Popen(("ip", "netns", "exec", node.netns, *words), stdout=told, text=True) as running,
    ):

        def said() -> str:
            return os.pread(told.fileno(), 1 << 24, 0).decode()

        try:
            yield
            until(lambda: f"icmp_seq={LEAST_PINGS} " in said(), f"{LEAST_PINGS} pings\n{said()}")
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=seconds(20))
        found = re.search(r"(\d+) packets transmitted, (\d+) received", said())
        assert found is not None, said()
        assert int(found[1]) >= LEAST_PINGS
        came = {int(each) for each in re.findall(r"bytes from .*icmp_seq=(\d+) ", said())}
        lost = [each for each in range(1, int(found[1]) - 9) if each not in came]
        assert lost == [], said()  # the last ones may be under way when ping ends


@pytest.fixture
def three(tmp_path: Path, kind: str) -> Iterator[Stage]:
    with stage(tmp_path, nodes=3, config=config(kind)) as scene:
        yield scene


def test_pods_of_three_nodes_reach_each_other(three: Stage, kind: str) -> None:
    agents = [three.agent(number) for number in range(3)]
    pods = [pod(agent) for agent in agents]
    all_reach_each_other(agents, pods)
    for agent in agents:
        assert link(agent.node, PLAIN[kind]["device"])["linkinfo"]["info_kind"] == kind
        assert agent.env()["FLANNEL_MTU"] == PLAIN[kind]["mtu"]
        assert not agent.events("peer_not_routed")


def test_a_device_that_is_deleted_comes_back_and_peers_notice_nothing(three: Stage, kind: str) -> None:
    agents = [three.agent(number) for number in range(3)]
    pods = [pod(agent) for agent in agents]
    all_reach_each_other(agents, pods)
    device = PLAIN[kind]["device"]
    before, leases = link(agents[0].node, device), three.keys.leases()
    agents[0].node.ip("link", "delete", device)
    until(lambda: link(agents[0].node, device).get("ifindex", before["ifindex"]) != before["ifindex"], "back")
    all_reach_each_other(agents, pods)
    assert link(agents[0].node, device).get("address") == before.get("address")
    assert {name: each["value"] for name, each in three.keys.leases().items()} == {
        name: each["value"] for name, each in leases.items()
    }


def test_agents_are_restarted_without_the_loss_of_a_packet(three: Stage, kind: str) -> None:
    agents = [three.agent(number) for number in range(2)]
    pods = [pod(agent) for agent in agents]
    all_reach_each_other(agents, pods)
    before = link(agents[0].node, PLAIN[kind]["device"])
    with no_packet_lost(agents[0].node, pods[0], pods[1]):
        for agent in agents:
            assert agent.stop() == 0
            agent.start()
            until(lambda: len(agent.events("routes_in_place")) == 2, f"again\n{agent.log}")  # noqa: B023 - used before the loop goes on
        until(lambda: pings(agents[1].node, pods[1], pods[0]), "reached")
    assert link(agents[0].node, PLAIN[kind]["device"])["ifindex"] == before["ifindex"]


def test_clean_up_removes_the_device(three: Stage, kind: str) -> None:
    agent = three.agent(0, "--cleanup")
    agent.subnet()
    until(lambda: link(agent.node, PLAIN[kind]["device"]), f"device\n{agent.log}")
    assert agent.stop() == 0
    assert not link(agent.node, PLAIN[kind]["device"])
    assert not agent.node.agent_routes()


@pytest.fixture
def vxlan(tmp_path: Path) -> Iterator[Stage]:
    if missing("vxlan"):
        pytest.skip("this kernel has no vxlan devices (module vxlan)")
    with stage(tmp_path, nodes=2, config=config("vxlan")) as scene:
        yield scene


def test_device_entries_and_lease_of_vxlan_are_flannels(vxlan: Stage) -> None:
    agents = [vxlan.agent(number) for number in range(2)]
    subnets = [agent.subnet() for agent in agents]
    node, mac = agents[0].node, ""
    for agent, subnet in zip(agents, subnets, strict=True):
        until(lambda: link(agent.node, "flannel.1").get("operstate"), f"device\n{agent.log}")  # noqa: B023 - used before the loop goes on
        mac = link(agent.node, "flannel.1")["address"]
        assert vxlan.keys.leases()[subnet]["value"] == (
            f'{{"PublicIP":"{agent.node.address}","BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}'
        )
    own, peer = (subnet.removesuffix("-24") for subnet in subnets)
    until(lambda: f"{peer}/24" in node.routes(), f"route\n{agents[0].log}")  # it comes last
    shown = link(node, "flannel.1")
    data = shown["linkinfo"]["info_data"]
    assert shown["mtu"] == 1450
    assert (data["id"], data["local"], data["port"]) == (1, node.address, 8472)
    assert (data["link"], data["learning"]) == ("eth0", False)
    addresses = node.ip("-4", "-o", "address", "show", "dev", "flannel.1")
    assert re.findall(r"inet (\S+)", addresses) == [f"{own}/32"]
    route = node.routes()[f"{peer}/24"]
    assert (route["gateway"], route["dev"], route["flags"]) == (peer, "flannel.1", ["onlink"])
    assert f"{peer} dev flannel.1 lladdr {mac} PERMANENT" in node.ip(
        "neighbour", "show", "dev", "flannel.1"
    ).replace(f"{peer} lladdr", f"{peer} dev flannel.1 lladdr")
    entries = subprocess.run(
        ("bridge", "-n", node.netns, "fdb", "show", "dev", "flannel.1"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{mac} dst {agents[1].node.address} self permanent" in entries


def test_the_device_of_flannel_is_taken_over_without_the_loss_of_a_packet(vxlan: Stage) -> None:
    """As flannel leaves a node behind: device, address, route, entries and lease."""
    mac = "5e:12:34:56:78:9a"
    first, second = vxlan.wire.members
    value = {"PublicIP": first.address, "BackendType": "vxlan", "BackendData": {"VtepMAC": mac}}
    vxlan.keys.set_lease("10.23.150.0-24", json.dumps(value), ttl=86400)
    other = vxlan.agent(1)
    target = pod(other)
    subnet = target.removesuffix(".1") + ".0"
    until(lambda: "10.23.150.0/24" in second.agent_routes(), f"route\n{other.log}")
    far = link(second, "flannel.1")["address"]
    first.ip(
        *("link", "add", "flannel.1", "address", mac, "mtu", "1450", "type", "vxlan"),
        *("id", "1", "local", first.address, "dev", "eth0", "dstport", "8472", "nolearning"),
    )
    first.ip("address", "add", "10.23.150.0/32", "dev", "flannel.1")
    first.ip("link", "set", "flannel.1", "up")
    first.ip("neighbour", "add", subnet, "lladdr", far, "dev", "flannel.1", "nud", "permanent")
    entry = ("bridge", "-n", first.netns, "fdb", "add", far, "dev", "flannel.1", "dst", second.address)
    subprocess.run(entry, check=True, capture_output=True)
    first.ip("route", "add", f"{subnet}/24", "via", subnet, "dev", "flannel.1", "onlink")
    first.ip("link", "add", "cni0", "type", "bridge")
    first.ip("address", "add", "10.23.150.1/24", "dev", "cni0")
    first.ip("link", "set", "cni0", "up")
    until(lambda: pings(first, "10.23.150.1", target), f"flannel's own way\n{other.log}")
    before = link(first, "flannel.1")
    with no_packet_lost(first, "10.23.150.1", target):
        agent = vxlan.agent(0)
        assert agent.subnet() == "10.23.150.0-24"
        until(lambda: f"{subnet}/24" in first.agent_routes(), f"route\n{agent.log}")
        until(
            lambda: vxlan.keys.leases()["10.23.150.0-24"]["value"].endswith(
                f'{{"VNI":1,"VtepMAC":"{mac}"}}}}'
            ),
            "lease",
        )
    after = link(first, "flannel.1")
    assert (after["ifindex"], after["address"]) == (before["ifindex"], mac)


def test_another_vni_makes_another_device_and_removes_the_first(vxlan: Stage) -> None:
    agents = [vxlan.agent(number) for number in range(2)]
    pods = [pod(agent) for agent in agents]
    all_reach_each_other(agents, pods)
    macs = [link(agent.node, "flannel.1")["address"] for agent in agents]
    vxlan.keys.set_config(config("vxlan", VNI=7, Port=4789))
    for agent in agents:
        assert agent.stop() == 0
        agent.start()
    all_reach_each_other(agents, pods)
    for agent, mac in zip(agents, macs, strict=True):
        until(lambda: not link(agent.node, "flannel.1"), f"first device gone\n{agent.log}")  # noqa: B023 - used before the loop goes on
        shown = link(agent.node, "flannel.7")
        assert shown["address"] == mac
        assert (shown["linkinfo"]["info_data"]["id"], shown["linkinfo"]["info_data"]["port"]) == (7, 4789)


def test_direct_routing_and_tunnels_are_mixed(vxlan: Stage) -> None:
    """Two nodes share a layer 2 network, the third is behind a router."""
    vxlan.keys.set_config(config("vxlan", DirectRouting=True))
    wire = vxlan.wire
    far = Node(f"{wire.switch}-far", "192.168.78.13", "port9")
    ip("netns", "add", far.netns)
    wire.members.append(far)
    far.ip("link", "set", "lo", "up")
    ip(
        *("link", "add", far.port, "netns", wire.switch, "type", "veth"),
        *("peer", "name", "eth0", "netns", far.netns),
    )
    ip("address", "add", "192.168.78.1/24", "dev", far.port, netns=wire.switch)
    ip("link", "set", far.port, "up", netns=wire.switch)
    far.ip("address", "add", f"{far.address}/24", "dev", "eth0")
    far.ip("link", "set", "eth0", "up")
    far.ip("route", "add", "default", "via", "192.168.78.1")
    forward = ("ip", "netns", "exec", wire.switch, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    subprocess.run(forward, check=True)
    agents = [vxlan.agent(number) for number in range(3)]
    pods = [pod(agent) for agent in agents]
    all_reach_each_other(agents, pods)
    subnets = [address.removesuffix(".1") + ".0" for address in pods]
    near = agents[0].node.routes()
    assert (near[f"{subnets[1]}/24"]["gateway"], near[f"{subnets[1]}/24"]["dev"]) == (
        agents[1].node.address,
        "eth0",
    )
    assert (near[f"{subnets[2]}/24"]["gateway"], near[f"{subnets[2]}/24"]["dev"]) == (subnets[2], "flannel.1")
    seen = far.routes()
    assert {seen[f"{subnet}/24"]["dev"] for subnet in subnets[:2]} == {"flannel.1"}


# Backends without a device


def test_extension_routes_by_commands_of_the_operator(tmp_path: Path) -> None:
    commands = {
        "PreStartupCommand": "echo $$ | tr 0-9 a-j",
        "SubnetAddCommand": 'read data; ip route replace $SUBNET via $PUBLIC_IP proto 99 && test -n "$data"',
        "SubnetRemoveCommand": "ip route delete $SUBNET proto 99",
        "ShutdownCommand": f"echo $SUBNET >{tmp_path}/shutdown",
    }
    with stage(tmp_path, nodes=3, config=config("extension", **commands)) as scene:
        agents = [scene.agent(number) for number in range(3)]
        pods = [pod(agent) for agent in agents]
        all_reach_each_other(agents, pods)
        subnets = [agent.subnet() for agent in agents]
        published = json.loads(scene.keys.leases()[subnets[0]]["value"])
        assert published["BackendType"] == "extension"
        assert re.fullmatch("[a-j]+", published["BackendData"])
        assert agents[0].stop() == 0
        assert (tmp_path / "shutdown").read_text() == subnets[0].replace("-", "/") + "\n"
        scene.keys.drop_lease(subnets[1])
        agents[0].start()
        node = agents[0].node
        until(
            lambda: subnets[1].replace("-", "/") in node.routes(),
            f"it takes its lease again\n{agents[0].log}",
        )
        agents[2].stop()
        scene.keys.drop_lease(subnets[2])
        until(lambda: subnets[2].replace("-", "/") not in node.routes(), f"removed\n{agents[0].log}")


def test_alloc_holds_a_subnet_and_makes_nothing(tmp_path: Path) -> None:
    with stage(tmp_path, nodes=2, config=config("alloc")) as scene:
        agents = [scene.agent(number) for number in range(2)]
        for agent in agents:
            name = agent.subnet()
            assert scene.keys.leases()[name]["value"] == f'{{"PublicIP":"{agent.node.address}"}}'
            agent.told("routes_in_place")
            assert agent.env()["FLANNEL_MTU"] == "1500"
            assert not agent.node.agent_routes()


def test_udp_is_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    with stage(tmp_path, nodes=1, config='{"Network":"10.23.0.0/16"}') as scene:
        agent = scene.agent(0)
        told = agent.told("waiting", reason="udp: this agent does not pass packets")
        assert '"Type":"vxlan"' in told["reason"]
        scene.keys.set_config(config("host-gw"))
        agent.subnet()


@pytest.mark.parametrize("name", ["ipip", "wireguard"])
def test_a_kernel_without_the_module_is_told(tmp_path: Path, name: str) -> None:
    if not missing(name):
        pytest.skip(f"this kernel has {name} devices")
    with stage(tmp_path, nodes=1, config=config(name)) as scene:
        agent = scene.agent(0)
        told = agent.told("device_not_ready", name="flannel")
        assert (
            told["reason"] == f"this kernel has no {told_kind(name)} devices; load the kernel module {name}"
        )


def told_kind(name: str) -> str:
    return {"ipip": "Ipip", "wireguard": "Wireguard"}[name]


# Both address families


def pings6(node: Node, target: str) -> bool:
    words = ("ip", "netns", "exec", node.netns, "ping", "-6", "-n", "-c", "1", "-W", "1", target)
    return subprocess.run(words, capture_output=True, check=False, timeout=seconds(20)).returncode == 0


def test_pods_of_a_dual_stack_network_reach_each_other_by_both_families(tmp_path: Path, kind: str) -> None:
    if kind == "ipip":
        pytest.skip("ipip is for IPv4 alone")
    network = json.loads(config(kind)) | {"EnableIPv6": True, "IPv6Network": "fd23::/48"}
    with stage(tmp_path, nodes=2, config=json.dumps(network)) as scene:
        for number, node in enumerate(scene.wire.members):
            node.ip("-6", "address", "add", f"2001:db8:77::{number + 1}/64", "dev", "eth0", "nodad")
        agents = [scene.agent(number) for number in range(2)]
        pods = [pod(agent) for agent in agents]
        pods6 = [agent.env()["FLANNEL_IPV6_SUBNET"] for agent in agents]
        for agent, address in zip(agents, pods6, strict=True):
            agent.node.ip("-6", "address", "add", address, "dev", "cni0", "nodad")
        all_reach_each_other(agents, pods)
        targets = [address.partition("/")[0] for address in pods6]
        until(lambda: pings6(agents[0].node, targets[1]), f"IPv6 there\n{agents[0].log}")
        until(lambda: pings6(agents[1].node, targets[0]), f"IPv6 back\n{agents[1].log}")
        for agent in agents:
            found = link(agent.node, {"vxlan": "flannel-v6.1", "wireguard": "flannel-wg-v6"}[kind])
            assert found["mtu"] == int(agent.env()["FLANNEL_MTU"])
            assert not agent.events("peer_not_routed")
            [lease] = [
                json.loads(each["value"])
                for each in scene.keys.leases().values()
                if f'"{agent.node.address}"' in each["value"]
            ]
            assert set(lease) == {"PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data"}
            assert lease["PublicIPv6"].startswith("2001:db8:77::")
