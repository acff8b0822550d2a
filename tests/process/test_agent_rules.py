"""Real agents in network namespaces, with traffic: who is masqueraded and forwarded, what is left alone."""

from __future__ import annotations

import functools
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.netns import NETWORK, RunningAgent, ip, stage
from tests.support.patience import seconds, until
from tests.support.pods import Host, pod, seen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import Node, Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip", "nft", "iptables", "setpriv")]

PORTMAP = "/usr/lib/cni/portmap"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, nodes=2) as scene:
        yield scene


def run(node: Node, *words: str, stdin: str = "") -> str:
    """Run a program in a node; what it printed."""
    done = subprocess.run(
        ("ip", "netns", "exec", node.netns, *words),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(20),
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def iptables(node: Node, lines: str) -> None:
    """Write iptables rules in the format of iptables-save."""
    run(node, "iptables-restore", "--noflush", stdin=lines)


def tables(node: Node) -> str:
    """All rules but the agent's tables, as nft shows them, without counters."""
    named = [line.split()[1:] for line in run(node, "nft", "list", "tables").splitlines()]
    return "\n".join(
        run(node, "nft", "-s", "list", "table", *table) for table in named if table[1] != "netstore"
    )


def own_rules(node: Node) -> list[str]:
    """The rules in the agent's table."""
    if "table ip netstore" not in run(node, "nft", "list", "tables"):
        return []
    lines = run(node, "nft", "list", "table", "ip", "netstore").splitlines()
    return [line.strip() for line in lines if "comment" in line]


def table_handle(node: Node) -> int:
    """What tells the agent's table from each other one that had its name; 0 if there is none."""
    listed = json.loads(run(node, "nft", "-j", "list", "tables"))["nftables"]
    handles: list[int] = [
        each["table"]["handle"] for each in listed if each.get("table", {}).get("name") == "netstore"
    ]
    return handles[0] if handles else 0


def is_anew(node: Node, before: int) -> bool:
    """Whether there is another table than this one, with all rules."""
    return table_handle(node) not in (0, before) and len(own_rules(node)) == 6


def outside(scene: Stage) -> Host:
    """A host of the nodes' network that is no node."""
    return Host(scene.wire.switch, scene.wire.store_address)


def test_who_is_masqueraded(scene: Stage) -> None:
    agents = [scene.agent(number, "--ip-masq") for number in range(2)]
    first, second = (agent.subnet() for agent in agents)
    for agent in agents:
        agent.told("rules_in_place")
        assert agent.env()["FLANNEL_IPMASQ"] == "true"
    a, b = scene.wire.members
    ip("route", "add", first.replace("-", "/"), "via", a.address, netns=scene.wire.switch)
    ip("route", "add", second.replace("-", "/"), "via", a.address, netns=scene.wire.switch)
    until(lambda: all(len(agent.node.agent_routes()) == 1 for agent in agents), "routes")
    with pod(a, first) as one, pod(b, second) as two:
        host = Host(a.netns, a.address)
        assert seen(one, outside(scene)) == a.address, "pod to outside"
        assert seen(one, two) == one.address, "pod to pod"
        assert seen(two, one) == two.address, "pod to pod"
        assert seen(outside(scene), one) == scene.wire.store_address, "outside to pod"
        assert seen(host, one) == one.address.removesuffix("2") + "1", "node to own pod"
        assert seen(host, two) == a.address, "node to pod of another"
        assert seen(outside(scene), two) == a.address, "outside to a pod of another node"


def test_without_the_flag_nobody_is(scene: Stage) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    node = agent.node
    ip("route", "add", subnet.replace("-", "/"), "via", node.address, netns=scene.wire.switch)
    assert agent.told("rules_in_place")["masquerade"] is False
    assert agent.env()["FLANNEL_IPMASQ"] == "false"
    with pod(node, subnet) as one:
        assert seen(one, outside(scene)) == one.address
    assert run(node, "nft", "list", "ruleset") == ""


def test_rules_that_are_flushed_or_changed_are_back(scene: Stage) -> None:
    agent = scene.agent(0, "--ip-masq", "--iptables-resync=3600")
    agent.subnet()
    agent.told("rules_in_place")
    node = agent.node
    wanted = own_rules(node)
    assert len(wanted) == 6
    for damage in (
        "flush ruleset",
        "delete table ip netstore",
        "flush chain ip netstore postrouting",
        "insert rule ip netstore postrouting accept",
        "add chain ip netstore other",
    ):
        before = table_handle(node)
        run(node, "nft", damage)
        until(functools.partial(is_anew, node, before), damage)
        assert own_rules(node) == wanted
        assert "other" not in run(node, "nft", "list", "ruleset")


def test_another_table_is_left_as_it_is_and_clean_up_removes_ours(scene: Stage) -> None:
    node = scene.wire.members[0]
    run(
        node,
        *("nft", "add table ip mine; add chain ip mine c { type nat hook postrouting priority 100; };"),
        "add rule ip mine c ip saddr 10.23.0.0/16 counter return; add set ip mine s { type ipv4_addr; };",
    )
    iptables(node, "*nat\n:OTHER - [0:0]\n-A POSTROUTING -s 172.17.0.0/16 -j OTHER\nCOMMIT\n")
    before = tables(node)
    agent = scene.agent(0, "--ip-masq", "--cleanup")
    agent.subnet()
    agent.told("rules_in_place")
    run(node, "nft", "flush", "table", "ip", "netstore")
    agent.told("rules_repaired")
    assert tables(node) == before
    assert agent.stop() == 0, agent.log
    assert tables(node) == before
    assert own_rules(node) == []


def test_rules_stay_when_the_agent_stops_and_are_taken_over(scene: Stage) -> None:
    agent = scene.agent(0, "--ip-masq")
    agent.subnet()
    agent.told("rules_in_place")
    wanted = own_rules(agent.node)
    assert agent.stop() == 0
    assert own_rules(agent.node) == wanted
    agent.log_path.unlink()
    agent.start()
    agent.told("rules_in_place")
    assert own_rules(agent.node) == wanted
    assert not agent.events("rules_repaired")
    agent.stop()
    agent.log_path.unlink()
    agent.flags = tuple(flag for flag in agent.flags if flag != "--ip-masq")
    agent.start()
    agent.told("rules_in_place")
    assert own_rules(agent.node) == []


def test_pods_pass_a_forward_chain_that_drops(scene: Stage) -> None:
    """As Docker leaves it: nothing but its own bridge is forwarded."""
    node = scene.wire.members[0]
    run(node, "iptables", "-P", "FORWARD", "DROP")
    iptables(
        node, "*filter\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n"
    )
    before = tables(node)
    agent = scene.agent(0, "--ip-masq", "--iptables-forward-rules=false")
    subnet = agent.subnet()
    agent.told("rules_in_place")
    with pod(node, subnet) as one:
        assert seen(one, outside(scene)) == ""
        assert tables(node) == before
        agent.stop()
        agent.log_path.unlink()
        agent.flags = (*agent.flags[:-1], "--cleanup")
        agent.start()
        agent.told("rules_in_place")
        assert seen(one, outside(scene)) == node.address
        run(node, "iptables", "-F", "FORWARD")
        until(lambda: run(node, "iptables", "-S", "FORWARD").count("netstore-agent") == 2, "rules back")
        run(node, "iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
        run(node, "iptables", "-I", "DOCKER-USER", "-s", one.address, "-j", "DROP")
        assert seen(one, outside(scene)) == "", "who decides before keeps the decision"
        run(node, "iptables", "-D", "DOCKER-USER", "-s", one.address, "-j", "DROP")
    assert agent.stop() == 0, agent.log
    assert tables(node) == before


def test_a_firewall_of_its_own_is_told_and_left_alone(scene: Stage) -> None:
    node = scene.wire.members[0]
    run(
        node,
        "nft",
        "add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }",
    )
    before = tables(node)
    agent = scene.agent(0, "--ip-masq")
    subnet = agent.subnet()
    told = agent.told("firewall_may_drop", chain="inet fw f")
    words = told["reason"].partition(": ")[2].partition(", and")[0].split()
    assert tables(node) == before
    with pod(node, subnet) as one:
        assert seen(one, outside(scene)) == ""
        assert words[0] == "nft"
        run(node, "nft", " ".join(words[1:]))
        run(node, "nft", " ".join(words[1:]).replace("saddr", "daddr"))
        assert seen(one, outside(scene)) == node.address, "the advice works"


def test_a_packet_that_kube_proxy_marked_is_kube_proxys(scene: Stage) -> None:
    agents = [scene.agent(number, "--ip-masq") for number in range(2)]
    first, second = (agent.subnet() for agent in agents)
    for agent in agents:
        agent.told("rules_in_place")
    until(lambda: all(len(agent.node.agent_routes()) == 1 for agent in agents), "routes")
    a, b = scene.wire.members
    with pod(a, first) as one, pod(b, second) as two:
        iptables(
            a,
            "*nat\n:KUBE-POSTROUTING - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING\n"
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n"
            "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n"
            "*mangle\n-A FORWARD -p tcp --dport 7001 -j MARK --or-mark 0x4000\nCOMMIT\n",
        )
        assert seen(one, two, port=7000) == one.address
        assert seen(one, two, port=7001) == a.address, "kube-proxy masquerades it"
        assert seen(one, outside(scene), port=7001) == a.address


def test_who_translates_a_connection_first_keeps_it(scene: Stage) -> None:
    agent = scene.agent(0, "--ip-masq")
    subnet = agent.subnet()
    agent.told("rules_in_place")
    node = agent.node
    node.ip("address", "add", "192.168.77.99/24", "dev", "eth0")
    with pod(node, subnet) as one:
        chosen = "-A POSTROUTING -p tcp --dport 7001 -j SNAT --to-source 192.168.77.99"
        iptables(node, f"*nat\n{chosen}\nCOMMIT\n")
        assert seen(one, outside(scene), port=7000) == node.address
        assert seen(one, outside(scene), port=7001) == "192.168.77.99"
        run(node, "nft", "delete", "table", "ip", "netstore")
        agent.told("rules_repaired")
        assert seen(one, outside(scene), port=7001) == "192.168.77.99", (
            "also when the agent's rules are newer"
        )


@pytest.mark.peer(PORTMAP)
def test_the_cni_plugin_portmap_works_beside_it(scene: Stage) -> None:
    agent = scene.agent(0, "--ip-masq")
    subnet = agent.subnet()
    agent.told("rules_in_place")
    node = agent.node
    with pod(node, subnet) as one:
        config = {
            "cniVersion": "0.4.0",
            "name": "cbr0",
            "type": "portmap",
            "snat": True,
            "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 7000, "protocol": "tcp"}]},
            "prevResult": {
                "cniVersion": "0.4.0",
                "interfaces": [{"name": "eth0", "sandbox": f"/run/netns/{one.netns}"}],
                "ips": [{"version": "4", "interface": 0, "address": f"{one.address}/24"}],
            },
        }

        def portmap(command: str) -> None:
            words = ("CNI_CONTAINERID=x", f"CNI_NETNS=/run/netns/{one.netns}", "CNI_IFNAME=eth0")
            run(
                node,
                *("env", f"CNI_COMMAND={command}", "CNI_PATH=/usr/lib/cni", *words, PORTMAP),
                stdin=json.dumps(config),
            )

        portmap("ADD")
        before = tables(node)
        assert seen(outside(scene), one, node.address, target=8080) == scene.wire.store_address
        assert seen(one, outside(scene)) == node.address
        assert seen(one, one, node.address, target=8080) == one.address.removesuffix("2") + "1", "to itself"
        run(node, "nft", "flush", "table", "ip", "netstore")
        agent.told("rules_repaired")
        assert tables(node) == before
        portmap("DEL")
        assert len(own_rules(node)) == 6


def test_a_unit_of_flannel_starts_as_it_is(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--ip-masq -v=4 -iptables-resync 30 -kube-subnet-mgr=0 --iface=eth0"
    monkeypatch.setenv("FLANNELD_OPTIONS", options)
    monkeypatch.setenv("FLANNELD_IPTABLES_FORWARD_RULES", "true")
    agent = scene.agent(0, *options.split())
    agent.subnet()
    assert agent.told("rules_in_place")["masquerade"] is True
    assert not [line for line in agent.events("setting_warning") if "OPTIONS" in line["notice"]]


def test_without_permission_the_reason_is_told(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    weak = RunningAgent(
        scene.wire.members[0],
        scene.folder,
        ("--endpoints", scene.store.url, "--ip-masq"),
        before=("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"),
    )
    scene.agents.append(weak.start())
    assert "CAP_NET_ADMIN" in weak.told("waiting")["reason"]


def test_the_kernels_settings_are_told_and_not_changed(scene: Stage) -> None:
    node = scene.wire.members[0]
    run(node, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    agent = scene.agent(0, "--iptables-resync=1")
    told = agent.told("kernel_setting", name="net.ipv4.ip_forward")
    command = told["reason"].rpartition("; ")[2].split()
    assert run(node, "sysctl", "-n", "net.ipv4.ip_forward") == "0\n"
    run(node, *command)
    agent.told("kernel_setting_corrected", name="net.ipv4.ip_forward")
