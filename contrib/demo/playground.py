"""A small data centre out of network namespaces: a switch, nodes, and a pod on each node.

    switch: bridge, 192.168.77.1/24          the store listens here
      |- node1: eth0 192.168.77.11/24        an agent runs in each node
      |    `- pod1: behind a veth, addressed out of the subnet that the agent got
      |- node2 ...

Everything is made inside namespaces whose names carry the process id, and every process is started inside
one of them, so `close` leaves nothing behind and nothing else on the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.support.daemon import ROOT, clean_environment
from tests.support.patience import Deadline, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

SWITCH_ADDRESS: Final = "192.168.77.1"
STORE_URL: Final = f"http://{SWITCH_ADDRESS}:2379"
PREFIX: Final = "/kube-centos/network"
WAIT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.01
STOP_SECONDS: Final = 10.0


class DemoError(Exception):
    """Something did not happen; the text says what, and what the processes wrote."""


class Playground:
    """The namespaces and the processes in them. Use it as a context manager."""

    def __init__(self, nodes: int) -> None:
        tag = f"netstore-demo-{os.getpid()}"
        self.switch = f"{tag}-switch"
        self.nodes = [f"{tag}-node{number}" for number in range(1, nodes + 1)]
        self.pods = [f"{tag}-pod{number}" for number in range(1, nodes + 1)]
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory(prefix=f"{tag}-")
        self.folder = Path(self._folder.name)

    # -- wires --------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the switch and plug every node in."""
        self._add_namespace(self.switch)
        self._ip(self.switch, "link", "add", "bridge0", "type", "bridge")
        self._ip(self.switch, "address", "add", f"{SWITCH_ADDRESS}/24", "dev", "bridge0")
        self._ip(self.switch, "link", "set", "bridge0", "up")
        for number, (node, pod) in enumerate(zip(self.nodes, self.pods, strict=True), 1):
            self._add_namespace(node)
            self._add_namespace(pod)
            port = f"port{number}"
            self._ip(self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node)
            self._ip(self.switch, "link", "set", port, "master", "bridge0", "up")
            self._ip(node, "address", "add", self.node_address(number) + "/24", "dev", "eth0")
            self._ip(node, "link", "set", "eth0", "up")
            self._ip(node, "route", "add", "default", "via", SWITCH_ADDRESS)
            self.run(node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def plug_pod(self, number: int) -> str:
        """Give pod `number` the second address of its node's subnet, as a CNI plugin would; the address."""
        gateway = IPv4Interface(self.subnet_file_value(number, "FLANNEL_SUBNET"))
        address = gateway.network.network_address + 2
        node, pod = self.nodes[number - 1], self.pods[number - 1]
        self._ip(node, "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", pod)
        self._ip(node, "address", "add", str(gateway), "dev", "pod0")
        self._ip(node, "link", "set", "pod0", "up")
        self._ip(pod, "address", "add", f"{address}/{gateway.network.prefixlen}", "dev", "eth0")
        self._ip(pod, "link", "set", "eth0", "up")
        self._ip(pod, "route", "add", "default", "via", str(gateway.ip))
        return str(address)

    @staticmethod
    def node_address(number: int) -> str:
        return f"192.168.77.{10 + number}"

    # -- programs -----------------------------------------------------------------------------------

    def start_store(self) -> None:
        """Start netstored in the switch's namespace and wait until it answers."""
        self._spawn(
            self.switch,
            "netstored",
            *("netstored", "--data-dir", str(self.folder / "store"), "--allow-insecure-http"),
            *("--listen-client-urls", STORE_URL, "--advertise-client-urls", STORE_URL),
            *("--listen-peer-urls", f"http://{SWITCH_ADDRESS}:2380"),
        )
        self.wait("the store to answer", lambda: self._control("status").returncode == 0)

    def start_agent(self, number: int) -> None:
        """Start the agent of node `number`; it needs no network yet."""
        self._spawn(
            self.nodes[number - 1],
            f"agent{number}",
            *("agent", "--etcd-endpoints", STORE_URL, "--etcd-prefix", PREFIX),
            *("--subnet-file", str(self.subnet_file(number))),
        )

    def control(self, *words: str) -> str:
        """Run netstorectl beside the store and return what it prints."""
        outcome = self._control(*words)
        if outcome.returncode:
            raise DemoError(f"netstorectl {' '.join(words)} failed: {outcome.stderr.strip()}")
        return outcome.stdout

    def subnet_file(self, number: int) -> Path:
        return self.folder / f"node{number}.env"

    def subnet_file_value(self, number: int, name: str) -> str:
        """A value of the file that node `number`'s agent wrote for its container runtime."""
        lines = self.subnet_file(number).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)[name]

    def routes(self, number: int, *words: str) -> str:
        """Node `number`'s routes, as ip prints them."""
        return self._ip(self.nodes[number - 1], "route", "show", *words)

    def subnet(self, number: int) -> IPv4Network:
        return IPv4Interface(self.subnet_file_value(number, "FLANNEL_SUBNET")).network

    def delete_route(self, number: int, subnet: IPv4Network) -> None:
        self._ip(self.nodes[number - 1], "route", "delete", str(subnet))

    def ping(self, number: int, address: str) -> bool:
        """One echo from pod `number`, answered within two seconds."""
        command = self._inside(self.pods[number - 1], "ping", "-c", "1", "-W", "2", address)
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0

    def wait(self, what: str, happened: Callable[[], bool]) -> float:
        """Wait until it happened; the seconds it took. A process that ends meanwhile is an error."""
        begun, deadline = time.monotonic(), Deadline(WAIT_SECONDS)
        while not happened():
            for process in self._processes:
                if process.poll() is not None:
                    raise DemoError(f"waiting for {what}: a program ended\n{self.logs()}")
            if deadline.passed():
                raise DemoError(f"not within {deadline}: {what}\n{self.logs()}")
            time.sleep(POLL_SECONDS)  # fixed: between two looks
        return time.monotonic() - begun

    def logs(self) -> str:
        """The last lines of every program."""
        return "\n".join(
            f"--- {log.stem} ---\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.folder.glob("*.log"))
        )

    # -- start and end ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the programs and take the namespaces away, whatever state they are in."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(seconds(STOP_SECONDS))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for namespace in reversed(self._namespaces):
            # A signal may have cut in while a program was started: then it is in no list but the kernel's.
            for pid in self._inhabitants(namespace):
                with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(("ip", "netns", "delete", namespace), check=False)
        self._folder.cleanup()

    def run(self, namespace: str, *words: str) -> str:
        """Run a command inside a namespace and return what it prints."""
        outcome = subprocess.run(
            self._inside(namespace, *words), check=False, capture_output=True, text=True, cwd=ROOT
        )
        if outcome.returncode:
            raise DemoError(f"{' '.join(words)} in {namespace}: {outcome.stderr.strip()}")
        return outcome.stdout

    def _control(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self._inside(
            self.switch,
            *(sys.executable, "-m", "netstore.cli.netstorectl"),
            *("--endpoints", STORE_URL, "--prefix", PREFIX, "--output", "table", *words),
        )
        return subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=ROOT, env=clean_environment()
        )

    @staticmethod
    def _inhabitants(namespace: str) -> list[int]:
        outcome = subprocess.run(
            ("ip", "netns", "pids", namespace), check=False, capture_output=True, text=True
        )
        return [int(pid) for pid in outcome.stdout.split()]

    def _add_namespace(self, namespace: str) -> None:
        self._namespaces.append(namespace)
        subprocess.run(("ip", "netns", "add", namespace), check=True)
        self._ip(namespace, "link", "set", "lo", "up")

    def _ip(self, namespace: str, *words: str) -> str:
        outcome = subprocess.run(("ip", "-n", namespace, *words), check=False, capture_output=True, text=True)
        if outcome.returncode:
            raise DemoError(f"ip {' '.join(words)} in {namespace}: {outcome.stderr.strip()}")
        return outcome.stdout

    def _spawn(self, namespace: str, name: str, program: str, *flags: str) -> None:
        command = self._inside(namespace, sys.executable, "-m", f"netstore.cli.{program}", *flags)
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    @staticmethod
    def _inside(namespace: str, *words: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", namespace, *words)
