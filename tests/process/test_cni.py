"""netstore-cni with Debian's `bridge` and `host-local` on two nodes with agents: pods reach each other, move
to another node, survive its restart, and are taken away without a trace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.netns import ip, stage
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.netns import RunningAgent, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip", "ping", "/usr/lib/cni/bridge")]

ROOT: Final = Path(__file__).resolve().parents[2]
CONFLIST: Final = ROOT / "contrib" / "cni" / "10-netstore.conflist"


@dataclass
class Pod:
    """A namespace that stands for a pod's."""

    netns: str

    def address(self) -> str | None:
        """The IPv4 address of eth0; None without one."""
        shown = ip("-j", "-4", "address", "show", "dev", "eth0", netns=self.netns, check=False)
        links = json.loads(shown or "[]")
        return links[0]["addr_info"][0]["local"] if links and links[0].get("addr_info") else None

    def reaches(self, address: str) -> bool:
        command = ("ip", "netns", "exec", self.netns, "ping", "-c", "1", "-W", "1", address)
        done = subprocess.run(command, capture_output=True, check=False, timeout=seconds(20))
        return done.returncode == 0


@dataclass
class Runtime:
    """The container runtime of one node: it calls the first plugin of the shipped list."""

    agent: RunningAgent
    folder: Path

    def call(self, verb: str, pod: Pod, **fields: object) -> tuple[int, dict[str, Any]]:
        """Exit status and what was printed; {} for nothing."""
        conflist = json.loads(CONFLIST.read_text())
        config = {name: conflist[name] for name in ("name", "cniVersion")} | conflist["plugins"][0]
        config["delegate"] |= {"ipMasq": False}  # masquerading has tests of its own
        config |= {
            "subnetFile": str(self.agent.env_file),
            "dataDir": str(self.folder / "kept"),
            "ipam": {"dataDir": str(self.folder / "addresses")},
        }
        environment = os.environ | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.netns,
            "CNI_NETNS": f"/var/run/netns/{pod.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni",
        }
        node = self.agent.node.netns
        done = subprocess.run(
            ("ip", "netns", "exec", node, sys.executable, "-m", "netstore.cni.plugin"),
            input=json.dumps(config | fields),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds(30),
        )
        return done.returncode, json.loads(done.stdout or "{}")

    def attach(self, pod: Pod) -> dict[str, Any]:
        """The result of ADD, which must succeed."""
        status, result = self.call("ADD", pod)
        assert status == 0, result
        return result

    def kept(self) -> list[Path]:
        """Every file that an attached pod leaves behind, but for those that `host-local` always has."""
        files = [each for each in self.folder.rglob("*") if each.is_file()]
        return [each for each in files if each.name != "lock" and not each.name.startswith("last_reserved")]


@dataclass
class Site:
    """Two nodes with their agents and runtimes, and pods."""

    scene: Stage
    runtimes: list[Runtime]
    pods: list[Pod]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with stage(tmp_path / "stage", nodes=2) as scene:
        agents = [scene.agent(number) for number in range(2)]
        runtimes = []
        for number, agent in enumerate(agents):
            agent.subnet()
            folder = tmp_path / f"runtime{number}"
            folder.mkdir()
            runtimes.append(Runtime(agent, folder))
        for agent in agents:
            until(agent.node.agent_routes, "the route to the other node")
        pods = [Pod(f"{scene.wire.switch}-pod{number}") for number in range(3)]
        try:
            for pod in pods:
                ip("netns", "add", pod.netns)
                ip("link", "set", "lo", "up", netns=pod.netns)
            yield Site(scene, runtimes, pods)
        finally:
            for pod in pods:
                ip("netns", "delete", pod.netns, check=False)


def test_pods_of_two_nodes_reach_each_other_and_leave_nothing_behind(site: Site) -> None:
    (here, there), (first, second, third) = site.runtimes, site.pods
    result = here.attach(first)
    there.attach(second)
    here.attach(third)
    addresses = [pod.address() for pod in site.pods]
    assert result["ips"][0]["address"] == f"{addresses[0]}/24"
    subnets = [runtime.agent.env()["FLANNEL_SUBNET"].rpartition(".")[0] for runtime in site.runtimes]
    owners = (subnets[0], subnets[1], subnets[0])
    for address, subnet in zip(addresses, owners, strict=True):
        assert str(address).startswith(f"{subnet}.")
    for one in site.pods:
        for address in addresses:
            until(partial(one.reaches, str(address)), "a ping between pods")
    assert here.call("CHECK", first, prevResult=result) == (0, {})
    for runtime, pod in ((here, first), (there, second), (here, third)):
        assert [runtime.call("DEL", pod)[0] for _ in range(2)] == [0, 0]
        assert pod.address() is None
    assert [runtime.kept() for runtime in site.runtimes] == [[], []]


def test_a_check_finds_what_is_gone(site: Site) -> None:
    here, pod = site.runtimes[0], site.pods[0]
    result = here.attach(pod)
    ip("link", "delete", "eth0", netns=pod.netns)
    status, error = here.call("CHECK", pod, prevResult=result)
    assert status == 1
    assert error["msg"]
    assert here.call("DEL", pod)[0] == 0


def test_a_pod_moves_to_another_node(site: Site) -> None:
    (here, there), (first, second, _) = site.runtimes, site.pods
    here.attach(first)
    there.attach(second)
    assert here.call("DEL", first)[0] == 0
    there.attach(first)
    until(lambda: second.reaches(str(first.address())), "a ping on one node")
    assert here.kept() == []


def test_pods_of_a_node_that_was_restarted_are_taken_away_and_attached_again(site: Site) -> None:
    """A restart takes the pods' namespaces; the runtime's files, and those of the plugins, are there."""
    (here, there), (first, second, third) = site.runtimes, site.pods
    here.attach(first)
    there.attach(second)
    here.agent.stop()
    here.agent.env_file.unlink()  # it is in /run
    ip("netns", "delete", first.netns)
    here.agent.node.ip("link", "delete", "cni0")
    assert here.call("DEL", first)[0] == 0
    assert here.kept() == []
    status, error = here.call("ADD", third)
    assert (status, error["code"]) == (1, 11)
    here.agent.start()
    until(here.agent.env_file.exists, "the subnet file")
    here.attach(third)
    until(lambda: third.reaches(str(second.address())), "a ping between nodes after a restart")


def test_pods_of_a_node_that_has_moved_get_the_new_subnet_beside_those_of_the_former(site: Site) -> None:
    (here, there), (first, second, third) = site.runtimes, site.pods
    node, former = here.agent.node, here.agent.env()["FLANNEL_SUBNET"]
    results = {first.netns: here.attach(first), second.netns: there.attach(second)}
    site.scene.keys.set_lease("10.23.177.0-24", json.dumps({"PublicIP": node.address}))
    until(lambda: here.agent.env()["FLANNEL_SUBNET"] == "10.23.177.1/24", "the new subnet")
    results[third.netns] = here.attach(third)
    assert str(third.address()).startswith("10.23.177.")
    shown = json.loads(node.ip("-j", "-4", "address", "show", "type", "bridge"))
    gateways = {each["ifname"]: each["addr_info"][0]["local"] for each in shown if each}
    assert gateways == {"cni0": former.partition("/")[0], "cni0-0a17b100": "10.23.177.1"}
    for one in site.pods:
        for other in site.pods:
            until(partial(one.reaches, str(other.address())), "a ping between pods of both subnets")
    for pod in (first, third):
        assert here.call("CHECK", pod, prevResult=results[pod.netns]) == (0, {})
    node.ip("link", "delete", "cni0")
    assert here.call("DEL", first)[0] == 0
    here.attach(first)
    assert str(first.address()).startswith("10.23.177."), "it is on the bridge that has this subnet"
    until(lambda: first.reaches(str(third.address())), "a ping on the new bridge")
    for pod in (first, third):
        assert here.call("DEL", pod)[0] == 0
    assert here.kept() == []
