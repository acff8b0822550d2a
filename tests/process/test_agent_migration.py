"""A network that changes while it runs: nodes with a pod each, members, and traffic that tells every lost
packet; in the longer test agents, the leader and the command are killed on the way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface, IPv4Network
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.cluster import PACE, Members, request
from tests.support.daemon import ROOT, clean_environment
from tests.support.netns import PREFIX, RunningAgent, Wire
from tests.support.patience import seconds, until
from tests.support.pods import pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.pods import Host

pytestmark = [pytest.mark.root, pytest.mark.slow]

NODES: Final = 5


def config(backend: dict[str, object], network: str = "10.23.0.0/16", length: int = 24) -> str:
    return json.dumps({"Network": network, "SubnetLen": length, "Backend": backend})


GATEWAY: Final = config({"Type": "host-gw"})
VXLAN: Final = config({"Type": "vxlan"})


class Site:
    """Members in the switch, an agent and a pod in each node."""

    def __init__(self, folder: Path, wire: Wire, members: Members) -> None:
        self.folder = folder
        self.wire = wire
        self.members = members
        self.agents: list[RunningAgent] = []
        self.pods: list[Host] = []
        self._starts: list[threading.Timer] = []
        """Of what was killed."""

    def start_later(self, delay: float, start: Callable[[], object]) -> None:
        """Start something again after so many seconds."""
        timer = threading.Timer(delay, start)
        timer.start()
        self._starts.append(timer)

    def all_started(self) -> None:
        """Wait until all is started that was killed: a migration may end before that."""
        while self._starts:
            self._starts.pop().join()

    @property
    def endpoints(self) -> str:
        return ",".join(each.url for each in self.members.daemons.values())

    def ctl(self, *words: str) -> subprocess.Popen[str]:
        """Start netstorectl beside the members."""
        command = (
            *("ip", "netns", "exec", self.wire.switch, sys.executable, "-m", "netstore.cli.netstorectl"),
            *("--endpoints", self.endpoints, "--prefix", PREFIX, *words),
        )
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def told(self, *words: str) -> tuple[int, str, str]:
        """Run it to its end: status, output and errors."""
        with self.ctl(*words) as process:
            out, err = process.communicate(timeout=seconds(120))
            return process.returncode, out, err

    def plan(self) -> dict[str, Any]:
        _, out, _ = self.told("network", "migrate", "status", "-o", "json")
        found: dict[str, Any] = json.loads(out)
        return found

    def migrate(
        self, document: str, *words: str, at: dict[str, Callable[[subprocess.Popen[str]], None]]
    ) -> str:
        """Migrate, and do something when a phase begins; given again until it ends. Returns what it said."""
        said = ""
        for _ in range(5):
            with self.ctl("network", "migrate", *words, document) as process:
                assert process.stderr is not None
                assert process.stdout is not None
                for line in process.stderr:
                    said += line
                    phase = line.removeprefix("netstorectl: ").partition(":")[0]
                    if (action := at.pop(phase, None)) is not None:
                        action(process)
                process.stdout.read()
            if process.returncode == 0:
                self.all_started()
                return said
        raise AssertionError(f"not migrated:\n{said}\n{self.agents[0].log[-3000:]}")

    def kill_agent(self, number: int) -> Callable[[subprocess.Popen[str]], None]:
        """Kill an agent, and start it again a second later."""

        def kill(_: subprocess.Popen[str]) -> None:
            agent = self.agents[number]
            agent.end()
            self.start_later(1.0, agent.start)

        return kill

    def kill_leader(self, _: subprocess.Popen[str]) -> None:
        """Kill the leader, and start it again when there is another one."""
        name = self.members.leader()
        self.members[name].kill()
        self.start_later(2.0, self.members[name].spawn_again)


@contextmanager
def site(folder: Path, document: str, *, nodes: int = NODES, members: int = 3) -> Iterator[Site]:
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(nodes=nodes))
        cluster = stack.enter_context(
            Members(
                folder,
                size=members,
                flags=(*PACE, "--allow-insecure-http"),
                host_of=lambda _: wire.store_address,
                netns_of=lambda _: wire.switch,
            )
        )
        made = Site(folder, wire, cluster)
        first = next(iter(cluster.daemons.values()))
        assert request(first, "PUT", f"/v2/keys{PREFIX}/config", value=document).status == 201
        for node in wire.members:
            agent = RunningAgent(node, folder, ("--endpoints", made.endpoints)).start()
            made.agents.append(agent)
            stack.callback(agent.end)
        for node, agent in zip(wire.members, made.agents, strict=True):
            made.pods.append(stack.enter_context(pod(node, agent.subnet())))
        stack.callback(made.all_started)  # before anything is ended
        yield made


@contextmanager
def probe(where: Host, *words: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A prober in a pod; gives what ends it and returns its report."""
    command = ("ip", "netns", "exec", where.netns, sys.executable, "-m", "tests.support.prober", *words)
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]

        def end() -> dict[str, Any]:
            out, err = process.communicate(timeout=seconds(30))
            assert process.returncode == 0, err
            report: dict[str, Any] = json.loads(out) if out else {}
            return report

        yield end
    finally:
        process.kill()
        process.wait()


def ways(made: Site) -> list[set[str]]:
    """The devices of the agents' routes in each node."""
    return [
        {str(route["dev"]) for route in node.routes("proto", "78").values()} for node in made.wire.members
    ]


def all_go_by(made: Site, device: str) -> None:
    until(lambda: ways(made) == [{device}] * len(made.agents), f"all routes go by {device}")


def reported(made: Site) -> None:
    """Wait until all agents have reported to the store, as they do within ten seconds."""

    def all_reported() -> bool:
        status, out, _ = made.told("plugin", "status", "-o", "json")
        return status == 0 and len(json.loads(out)["nodes"]) == len(made.agents)

    until(all_reported, "all agents report", limit=60)


def pinging(stack: ExitStack, pods: list[Host], others: list[Host]) -> list[Callable[[], dict[str, Any]]]:
    """Probers in these pods, to each other and to the others."""
    return [
        stack.enter_context(
            probe(each, "pings", *(one.address for one in (*pods, *others) if one is not each))
        )
        for each in pods
    ]


def new_pods(made: Site, stack: ExitStack) -> list[Host]:
    """A pod in each node with an address of the subnet that it holds now."""
    subnets = [str(IPv4Interface(agent.env()["FLANNEL_SUBNET"]).network) for agent in made.agents]
    return [
        stack.enter_context(pod(node, subnet.replace("/", "-"), "new"))
        for node, subnet in zip(made.wire.members, subnets, strict=True)
    ]


def test_no_packet_is_lost_on_the_way_to_another_mtu_and_to_subnets_of_another_length(
    tmp_path: Path,
) -> None:
    smaller = {"Type": "vxlan", "MTU": 1400}  # of the outer packets: 50 more than pods have
    with site(tmp_path, VXLAN, nodes=3, members=1) as made, ExitStack() as stack:
        all_go_by(made, "flannel.1")
        reported(made)
        pings = pinging(stack, made.pods, [])
        said = made.migrate(config(smaller), at={"send": made.kill_agent(1)})
        for node, agent in zip(made.wire.members, made.agents, strict=True):
            [device] = json.loads(node.ip("-j", "link", "show", "flannel.1"))
            assert (device["mtu"], agent.env()["FLANNEL_MTU"]) == (1350, "1350")
        said += made.migrate(config(smaller, length=25), at={"send": made.kill_agent(2)})
        new = new_pods(made, stack)
        pings += pinging(stack, new, made.pods)
        held = [
            IPv4Network(f"{each.address}/{length}", strict=False)
            for each, length in zip((*made.pods, *new), (24, 24, 24, 25, 25, 25), strict=True)
        ]
        assert not any(one.overlaps(other) for one, other in combinations(held, 2)), held
        reports = [end() for end in pings]
        sys.stdout.write(json.dumps({"pings": reports, "said": said}))  # shown with -rP
        assert [each["lost"] for each in reports] == [0] * 6, reports
        assert all(each["sent"] > 500 for each in reports[:3])


def test_no_packet_is_lost_on_the_way_to_another_backend_and_back_and_to_a_second_range(
    tmp_path: Path,
) -> None:
    with site(tmp_path, GATEWAY) as made, ExitStack() as stack:
        all_go_by(made, "eth0")
        reported(made)
        addresses = [each.address for each in made.pods]
        server = stack.enter_context(probe(made.pods[0], "serve"))
        talk = stack.enter_context(probe(made.pods[-1], "talk", addresses[0]))
        pings = pinging(stack, made.pods, [])
        said = made.migrate(
            VXLAN,
            *("--canary", made.wire.members[1].address),
            at={
                "prepare": made.kill_agent(2),
                "receive": made.kill_leader,
                "canary": made.kill_agent(1),
                "send": lambda command: command.kill(),
                "finish": made.kill_agent(4),
            },
        )
        all_go_by(made, "flannel.1")
        said += made.migrate(
            GATEWAY,
            at={
                "prepare": lambda command: command.kill(),
                "receive": made.kill_agent(3),
                "send": made.kill_leader,
                "finish": lambda command: command.kill(),
                "done": made.kill_agent(0),
            },
        )
        all_go_by(made, "eth0")
        until(lambda: not any("flannel.1" in each.ip("link") for each in made.wire.members), "the tunnels go")
        said += made.migrate(
            config({"Type": "host-gw"}, "10.24.0.0/16"),
            *("--canary", made.wire.members[0].address),
            at={
                "receive": made.kill_agent(1),
                "canary": made.kill_leader,
                "send": made.kill_agent(2),
                "finish": lambda command: command.kill(),
            },
        )
        subnets = [agent.env()["FLANNEL_SUBNET"] for agent in made.agents]
        assert all(each.startswith("10.24.") for each in subnets), subnets
        pings += pinging(stack, new_pods(made, stack), made.pods)
        reports = [end() for end in pings]
        session = talk()
        server()
        report = {"pings": reports, "session": session, "said": said}
        sys.stdout.write(json.dumps(report))  # shown with -rP
        assert [each["lost"] for each in reports] == [0] * 2 * NODES, reports
        assert all(each["sent"] > 1000 for each in reports[:NODES])
        assert session["pieces"] > 100
