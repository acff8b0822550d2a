"""A small network of namespaces: a switch with a bridge, and nodes with one interface each, as hosts in one
layer 2 network.

Names are unique to this process and run; everything is removed at the end, also what a failed set-up left.
The store of a test runs inside the switch, so that its traffic crosses the bridge like everybody's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.support.daemon import clean_environment
from tests.support.inside import inside
from tests.support.patience import LIMIT, seconds, until
from tests.support.peers import start_etcd
from tests.support.prefork import start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tests.support.daemon import Daemon
    from tests.support.prefork import Process

T = TypeVar("T")

PREFIX: Final = "/coreos.com/network"
NETWORK: Final = '{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'

_runs = itertools.count()


def ip(*words: str, netns: str | None = None, check: bool = True) -> str:
    """Run `ip` with these words, in a namespace if one is given; what it printed."""
    where = ("-n", netns) if netns else ()
    done = subprocess.run(
        ("ip", *where, *words), capture_output=True, text=True, check=False, timeout=seconds(20)
    )
    if check and done.returncode != 0:
        raise AssertionError(f"ip {' '.join(where + words)}: {done.stderr.strip()}")
    return done.stdout


_PROBE: Final = "10.98.0.0/16"


@dataclass
class Node:
    """A namespace with the interface `eth0`, joined to the switch."""

    netns: str
    address: str
    port: str
    """The other end of eth0, in the switch."""

    def ip(self, *words: str, check: bool = True) -> str:
        """Run `ip` in the node."""
        return ip(*words, netns=self.netns, check=check)

    def run(self, *words: str) -> str:
        """Run a program in the node; what it printed."""
        return ip("netns", "exec", self.netns, *words)

    def routes(self, *words: str) -> dict[str, dict[str, Any]]:
        """Routes of table main by destination, as `ip -j route show` tells them."""
        listed = self.ip("-j", "-d", "-N", "route", "show", *words)
        return {route["dst"]: route for route in json.loads(listed or "[]")}

    @contextlib.contextmanager
    def changes(self) -> Iterator[Callable[[], list[str]]]:
        """Gives the changes of routes since the block began, a line each, as `ip monitor` tells them, but for
        those that the kernel makes by itself (a link-local address of IPv6 gets its routes seconds later).
        """
        command = ("ip", "-n", self.netns, "monitor", "route")
        with tempfile.NamedTemporaryFile("w") as file, subprocess.Popen(command, stdout=file) as monitor:

            def told() -> list[str]:
                return Path(file.name).read_text().splitlines()

            try:
                while not told():  # it listens only some time after it was started
                    self.ip("route", "add", _PROBE, "dev", "eth0")
                    self.ip("route", "delete", _PROBE)
                    time.sleep(0.05)  # fixed: between two looks
                yield lambda: [line for line in told() if _PROBE not in line and " proto kernel " not in line]
            finally:
                monitor.kill()

    def agent_routes(self) -> dict[str, str]:
        """Destination and gateway of every route with the agent's protocol number."""
        return {dst: route.get("gateway", "") for dst, route in self.routes("proto", "78").items()}


@dataclass
class Wire:
    """The switch and its nodes. As a context manager it exists inside the block."""

    nodes: int = 3
    length: int = 24
    base: str = "192.168.77"
    switch: str = ""
    members: list[Node] = field(default_factory=list)

    @property
    def store_address(self) -> str:
        """The address of the switch itself."""
        return f"{self.base}.1"

    def __enter__(self) -> Self:
        run = f"ns{os.getpid()}x{next(_runs)}"
        self.switch = f"{run}-switch"
        try:
            ip("netns", "add", self.switch)
            ip("link", "set", "lo", "up", netns=self.switch)
            ip("link", "add", "br0", "type", "bridge", netns=self.switch)
            ip("address", "add", f"{self.store_address}/{self.length}", "dev", "br0", netns=self.switch)
            ip("link", "set", "br0", "up", netns=self.switch)
            for number in range(1, self.nodes + 1):
                self.add_node(f"{run}-node{number}", number)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def add_node(self, netns: str, number: int) -> Node:
        """A node at `base`.10 plus its number, with the switch as its default gateway."""
        node = Node(netns, f"{self.base}.{10 + number}", f"port{number}")
        ip("netns", "add", netns)
        self.members.append(node)
        node.ip("link", "set", "lo", "up")
        self.plug(node)
        return node

    def plug(self, node: Node) -> None:
        """Give the node its interface, address and default route; also after `unplug`."""
        ip(
            *("link", "add", node.port, "netns", self.switch),
            *("type", "veth", "peer", "name", "eth0", "netns", node.netns),
        )
        ip("link", "set", node.port, "master", "br0", "up", netns=self.switch)
        node.ip("address", "add", f"{node.address}/{self.length}", "dev", "eth0")
        node.ip("link", "set", "eth0", "up")
        node.ip("route", "add", "default", "via", self.store_address)

    def unplug(self, node: Node) -> None:
        """Take the interface away."""
        ip("link", "delete", node.port, netns=self.switch)

    def _remove(self) -> None:
        for netns in (*(node.netns for node in self.members), self.switch):
            ip("netns", "delete", netns, check=False)


@dataclass
class Keys:
    """The v2 keys of a store inside a namespace, in plain requests: an independent hand, not the client under
    test.
    """

    netns: str
    url: str
    prefix: str = PREFIX

    def request(self, method: str, key: str, query: str = "", /, **form: object) -> dict[str, Any]:
        """The answer's JSON, whatever its status."""
        data = urlencode(form).encode() if form else None
        request = Request(f"{self.url}/v2/keys{key}{query}", data=data, method=method)  # noqa: S310 - http

        def ask() -> dict[str, Any]:
            try:
                with urlopen(request, timeout=seconds(10)) as answer:  # noqa: S310 - http
                    body = answer.read()
            except OSError as error:
                if not hasattr(error, "read"):
                    raise
                body = error.read()
                error.close()  # type: ignore[attr-defined]
            told: dict[str, Any] = json.loads(body)
            return told

        return inside(self.netns, ask)

    def set_config(self, text: str = NETWORK) -> None:
        """Write the network config."""
        self.request("PUT", f"{self.prefix}/config", value=text)

    def set_lease(self, name: str, value: str, ttl: int | None = None) -> dict[str, Any]:
        """Write a lease as it is given; without a TTL it is a reservation."""
        form: dict[str, object] = {"value": value} if ttl is None else {"value": value, "ttl": ttl}
        return self.request("PUT", f"{self.prefix}/subnets/{name}", **form)

    def lease_of(self, name: str, address: str, ttl: int = 86_400) -> dict[str, Any]:
        """Write a usable host-gw lease."""
        return self.set_lease(name, f'{{"PublicIP":"{address}","BackendType":"host-gw"}}', ttl=ttl)

    def drop_lease(self, name: str) -> None:
        """Delete a lease."""
        self.request("DELETE", f"{self.prefix}/subnets/{name}")

    def drop_all(self) -> None:
        """Delete all leases at once."""
        self.request("DELETE", f"{self.prefix}/subnets", "?recursive=true")

    def lose_history(self) -> None:
        """Make the store forget the changes there were."""
        for _ in range(1100):
            self.request("PUT", "/noise", value="x")

    def leases(self) -> dict[str, dict[str, Any]]:
        """Every entry of the folder by name, as the store shows it."""
        answer = self.request("GET", f"{self.prefix}/subnets")
        nodes = answer.get("node", {}).get("nodes", [])
        return {node["key"].rpartition("/")[2]: node for node in nodes}

    def holder(self, address: str) -> str | None:
        """The name of the lease whose PublicIP is the address."""
        for name, node in self.leases().items():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(node["value"])["PublicIP"] == address:
                    return name
        return None


class KeysV3(Keys):
    """The same for the v3 keys of an etcd, through its JSON gateway."""

    def ask(self, call: str, document: dict[str, object]) -> dict[str, Any]:
        """The answer of a call of the gateway."""
        data = json.dumps(document).encode()
        request = Request(f"{self.url}/v3/{call}", data=data, method="POST")  # noqa: S310 - http

        def made() -> dict[str, Any]:
            with urlopen(request, timeout=seconds(10)) as answer:  # noqa: S310 - http
                told: dict[str, Any] = json.loads(answer.read())
                return told

        return inside(self.netns, made)

    def put(self, key: str, value: str, lease: str = "0") -> dict[str, Any]:
        """Write a key."""
        return self.ask("kv/put", {"key": _coded(key), "value": _coded(value), "lease": lease})

    def set_config(self, text: str = NETWORK) -> None:
        self.put(f"{self.prefix}/config", text)

    def set_lease(self, name: str, value: str, ttl: int | None = None) -> dict[str, Any]:
        lease = "0" if ttl is None else str(self.ask("lease/grant", {"TTL": ttl})["ID"])
        return self.put(f"{self.prefix}/subnets/{name}", value, lease)

    def drop_lease(self, name: str) -> None:
        self.ask("kv/deleterange", {"key": _coded(f"{self.prefix}/subnets/{name}")})

    def drop_all(self) -> None:
        self.ask("kv/deleterange", self._folder)

    def lose_history(self) -> None:
        revision = self.put("/noise", "x")["header"]["revision"]
        self.ask("kv/compaction", {"revision": revision})

    def leases(self) -> dict[str, dict[str, Any]]:
        found = {}
        for each in self.ask("kv/range", self._folder).get("kvs", []):
            node = {"value": _plain(each.get("value", "")), "modifiedIndex": int(each["mod_revision"])}
            if int(each.get("lease", 0)):
                left = self.ask("lease/timetolive", {"ID": each["lease"]})
                node["ttl"] = int(left.get("TTL", 0))
            found[_plain(each["key"]).rpartition("/")[2]] = node
        return found

    @property
    def _folder(self) -> dict[str, object]:
        start = f"{self.prefix}/subnets"
        return {"key": _coded(f"{start}/"), "range_end": _coded(f"{start}0")}


def _coded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _plain(coded: str) -> str:
    return b64decode(coded).decode()


@dataclass
class RunningAgent:
    """A netstore-agent in a node. Its log is JSON, one fact a line."""

    node: Node
    folder: Path
    flags: tuple[str, ...]
    before: tuple[str, ...] = ()
    """Words before the command, for a program that runs it under other rights."""
    process: Process | None = None

    @property
    def env_file(self) -> Path:
        return self.folder / f"{self.node.netns}.env"

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.node.netns}.log"

    def start(self) -> Self:
        """Start it, or start it again; does not wait for anything."""
        command = (
            *("ip", "netns", "exec", self.node.netns, *self.before),
            *(sys.executable, "-m", "netstore.cli.agent"),
            *("--subnet-file", str(self.env_file), "--data-dir", str(self.folder / "data" / self.node.netns)),
            *("--log-format", "json", *self.flags),
        )
        environment = clean_environment() | {"NETSTORE_CONFIG_FILE": os.devnull}
        with self.log_path.open("ab") as log:
            self.process = start(command, environment, log.fileno())
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM, limit: float = LIMIT) -> int:
        """Send it a signal and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds(limit))

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(seconds(LIMIT))

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log about one kind of event."""
        whole = self.log.rpartition("\n")[0]  # the last line may be written in part
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def told(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line with that event whose fields contain these texts, and return it."""

        def find() -> dict[str, Any] | None:
            for line in self.events(event):
                if all(str(text) in str(line.get(name)) for name, text in fields.items()):
                    return line
            return None

        try:
            found = until(find, f"event {event} with {fields}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None
        assert found is not None
        return found

    def health(self, path: str, port: int = 8471) -> tuple[int, str]:
        """Status and text of a page of the health port; 0 if it does not answer."""

        def call() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=seconds(5)) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return inside(self.node.netns, call)

    def env(self) -> dict[str, str]:
        """subnet.env; empty while there is none."""
        if not self.env_file.exists():
            return {}
        return dict(line.split("=", 1) for line in self.env_file.read_text().splitlines())

    def subnet(self) -> str:
        """Wait for the lease and return its name, as `10.23.4.0-24`."""
        told = self.told("subnet_held")
        assert told
        held: str = self.events("subnet_held")[-1]["subnet"]
        return held.replace("/", "-")


@dataclass
class Stage:
    """A wire, a real etcd in its switch, and agents."""

    wire: Wire
    folder: Path
    store: Daemon
    keys: Keys
    agents: list[RunningAgent] = field(default_factory=list)

    def agent(self, number: int = 0, *flags: str) -> RunningAgent:
        """Start an agent in a node."""
        agent = RunningAgent(self.wire.members[number], self.folder, ("--endpoints", self.store.url, *flags))
        self.agents.append(agent)
        return agent.start()

    def wipe_store(self) -> None:
        """Replace the store by an empty one at the same address."""
        self.store.stop()
        self.store = _start_store(self.wire, self.folder / f"again{len(list(self.folder.iterdir()))}")


@contextlib.contextmanager
def stage(
    folder: Path, nodes: int = 3, *, config: str | None = NETWORK, length: int = 24, api: str = "v2"
) -> Iterator[Stage]:
    """A stage with the network config written, cleaned up at the end. `config` None leaves it out. `api` is
    that which keeps the network; agents find that out.
    """
    with Wire(nodes=nodes, length=length) as wire:
        store = _start_store(wire, folder)
        keys = (KeysV3 if api == "v3" else Keys)(wire.switch, store.url)
        scene = Stage(wire, folder, store, keys)
        try:
            if config is not None:
                scene.keys.set_config(config)
            yield scene
        finally:
            for agent in scene.agents:
                agent.end()
            scene.store.kill()


def _start_store(wire: Wire, folder: Path) -> Daemon:
    folder.mkdir(exist_ok=True)
    return start_etcd(folder, host=wire.store_address, port=2379, netns=wire.switch)
