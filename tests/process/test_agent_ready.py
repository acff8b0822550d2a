"""Real agents and a real etcd: what makes a node not ready, and how it heals."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.netns import stage
from tests.support.patience import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import RunningAgent, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip")]

PORT = ("--healthz-port", "8471")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, nodes=1) as scene:
        yield scene


def ready_agent(scene: Stage, *flags: str) -> RunningAgent:
    agent = scene.agent(0, *PORT, *flags)
    ready(agent)
    return agent


def ready(agent: RunningAgent) -> None:
    until(lambda: agent.health("/readyz")[0] == 200, f"ready; it says {agent.health('/readyz')[1]}")


def not_ready(agent: RunningAgent, reason: str) -> None:
    def told() -> bool:
        status, text = agent.health("/readyz")
        return status == 503 and reason in text

    until(told, f"{reason!r}; it says {agent.health('/readyz')[1]}")


def healed(agent: RunningAgent, scene: Stage) -> None:
    """The node is ready, its routes are there, and the log has one line for the begin and one for the end."""
    ready(agent)
    until(lambda: agent.node.agent_routes() == {"10.23.200.0/24": "192.168.77.12"}, "the route is back")
    agent.told("interface_back")
    assert len(agent.events("interface_lost")) == 1
    assert len(agent.events("interface_back")) == 1
    assert agent.events("peer_not_routed") == []
    assert scene.keys.holder(agent.node.address) == agent.subnet()


def test_a_link_that_is_down(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = ready_agent(scene)
    agent.node.ip("link", "set", "eth0", "down")
    not_ready(agent, "eth0 is down")
    agent.node.ip("link", "set", "eth0", "up")
    agent.node.ip("route", "add", "default", "via", scene.wire.store_address)
    healed(agent, scene)


def test_an_address_that_is_gone(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = ready_agent(scene)
    agent.node.ip("address", "flush", "dev", "eth0")
    not_ready(agent, "eth0 has lost its address 192.168.77.11")
    agent.node.ip("address", "add", "192.168.77.11/24", "dev", "eth0")
    healed(agent, scene)


def test_an_address_without_a_network(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = ready_agent(scene)
    agent.node.ip("address", "flush", "dev", "eth0")
    agent.node.ip("address", "add", "192.168.77.11/32", "dev", "eth0")
    not_ready(agent, "192.168.77.11/32, a network without other hosts")
    agent.node.ip("route", "add", "default", "via", scene.wire.store_address, "dev", "eth0", "onlink")
    not_ready(agent, "none of the 1 next hops is on-link")
    agent.node.ip("address", "flush", "dev", "eth0")
    agent.node.ip("address", "add", "192.168.77.11/24", "dev", "eth0")
    ready(agent)
    until(lambda: agent.node.agent_routes() == {"10.23.200.0/24": "192.168.77.12"}, "the route is back")


def test_an_interface_that_is_renamed_and_made_anew(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = ready_agent(scene)
    node = agent.node
    node.ip("link", "set", "eth0", "down")
    not_ready(agent, "eth0 is down")
    node.ip("link", "set", "eth0", "name", "uplink")
    node.ip("link", "set", "uplink", "up")
    healed(agent, scene)
    assert json.loads(agent.health("/status")[1])["interface"] == "uplink"
    node.ip("link", "set", "uplink", "down")
    node.ip("link", "set", "uplink", "name", "eth0")
    node.ip("link", "set", "eth0", "up")
    until(lambda: json.loads(agent.health("/status")[1])["interface"] == "eth0", "the first name")
    ready(agent)
    scene.wire.unplug(node)
    not_ready(agent, "is gone")
    scene.wire.plug(node)
    ready(agent)
    until(lambda: node.agent_routes() == {"10.23.200.0/24": "192.168.77.12"}, "the route is back")


def test_a_peer_that_is_not_on_the_link_alone_does_not_matter(scene: Stage) -> None:
    agent = ready_agent(scene)
    scene.keys.lease_of("10.23.201.0-24", "192.168.99.9")
    agent.told("peer_not_routed", name="10.23.201.0/24")
    assert agent.health("/readyz") == (200, "netstore-agent is ready\n")
    assert "not on-link" in json.loads(agent.health("/status")[1])["unserved"]["10.23.201.0/24"]
    status, text = agent.health("/readyz?verbose")
    assert (status, text.splitlines()[-1]) == (200, "ready")
    assert "[+] peers" in text.splitlines()


def test_the_subnet_file_is_written_again(scene: Stage) -> None:
    agent = ready_agent(scene)
    text = agent.env_file.read_text()
    agent.env_file.unlink()
    not_ready(agent, "was removed")
    ready(agent)
    assert "was removed" in agent.told("subnet_file_written_again")["reason"]
    assert agent.env_file.read_text() == text
    agent.told("subnet_file_right")
    agent.env_file.write_text(text.replace("FLANNEL_MTU=1500", "FLANNEL_MTU=9000"))
    not_ready(agent, "was changed")
    ready(agent)
    assert agent.env_file.read_text() == text


@pytest.mark.parametrize("taken", [False, True])
def test_an_agent_that_was_stopped_for_longer_than_its_lease(scene: Stage, taken: bool) -> None:
    agent = ready_agent(scene, "--lease-ttl", "3")
    before = agent.subnet()
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    until(lambda: scene.keys.holder(agent.node.address) is None, "the lease has ended")
    if taken:
        scene.keys.lease_of(before, "192.168.77.12")
    agent.process.send_signal(signal.SIGCONT)
    until(lambda: scene.keys.holder(agent.node.address) is not None, "a lease again")
    ready(agent)
    assert (agent.subnet() == before) != taken
    assert agent.node.agent_routes() == ({before.replace("-", "/"): "192.168.77.12"} if taken else {})
    assert agent.env()["FLANNEL_SUBNET"].rpartition(".")[0] == agent.subnet().rpartition(".")[0]


@pytest.mark.parametrize("api", ["v2", "v3"])
def test_a_restart_is_quiet(tmp_path: Path, api: str) -> None:
    with stage(tmp_path, nodes=2, api=api) as scene:
        other = scene.agent(1)
        other.subnet()
        agent = ready_agent(scene)
        for _ in range(2):
            agent.stop()
            agent.log_path.unlink()
            agent.start()
            ready(agent)
            warnings = [line for line in agent.log.splitlines() if '"level": "warn' in line]
            assert [line for line in warnings if "kernel_setting" not in line] == []
        assert len(agent.node.agent_routes()) == 1


@pytest.mark.peer("promtool")
def test_the_metrics(scene: Stage) -> None:
    agent = ready_agent(scene)
    scene.keys.set_lease("10.23.209.0-24", "junk")
    until(
        lambda: "netstore_agent_leases_skipped 1.0\n" in agent.health("/metrics")[1], "the bad lease counts"
    )
    text = agent.health("/metrics")[1]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert "netstore_agent_ready 1.0\n" in text
    assert 'netstore_agent_check_ok{check="lease"} 1.0\n' in text
    scene.store.stop()
    agent.env_file.unlink()
    until(lambda: 'check_ok{check="subnet_file"} 0' in agent.health("/metrics")[1], "a check that fails")


def test_what_a_node_needs_is_not_routed_elsewhere(tmp_path: Path) -> None:
    wide = '{"Network":"10.0.0.0/9","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
    with stage(tmp_path, nodes=1, config=wide) as scene:
        node = scene.wire.members[0]
        node.ip("link", "add", "lan2", "type", "veth", "peer", "name", "lan2-far")
        for name in ("lan2", "lan2-far"):
            node.ip("link", "set", name, "up")
        node.ip("address", "add", "10.77.0.5/24", "dev", "lan2")
        node.ip("address", "add", "10.66.0.1/32", "dev", "lo")
        node.ip("route", "add", "10.55.0.0/24", "dev", "lan2")
        node.ip("route", "add", "172.16.0.0/12", "via", "10.77.0.1")
        node.ip("route", "add", "172.31.0.0/16", "via", "10.44.0.1", "dev", "lan2", "onlink")
        agent = scene.agent(0, *PORT)
        agent.subnet()
        for name, reason in (
            ("0.0.0.0-1", "not in the network"),
            ("10.96.0.0-11", "far larger"),
            ("10.77.0.0-24", "the network 10.77.0.0/24 of lan2"),
            ("10.77.0.128-25", "the network 10.77.0.0/24 of lan2"),
            ("10.76.0.0-15", "far larger"),
            ("10.77.0.0-16", "the network 10.77.0.0/24 of lan2"),
            ("10.66.0.0-24", "this node's own address 10.66.0.1"),
            ("10.55.0.64-26", "the network 10.55.0.0/24 of lan2"),
            ("10.44.0.0-24", "the next hop 10.44.0.1"),
        ):
            scene.keys.lease_of(name, "192.168.77.12")
            assert reason in agent.told("lease_skipped", name=name)["reason"]
        # What becomes known later counts as well.
        scene.keys.lease_of("10.33.0.0-24", "192.168.77.12")
        until(lambda: list(agent.node.agent_routes()) == ["10.33.0.0/24"], "an honest lease is routed")
        node.ip("route", "add", "172.30.0.0/16", "via", "10.33.0.9", "dev", "lan2", "onlink")
        until(lambda: agent.node.agent_routes() == {}, "the route over the new next hop is gone")
        ready(agent)
