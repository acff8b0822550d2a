"""The agent with many leases: how soon all routes are there, and how soon a deleted one is back.

Everything of one measurement - store, agent, routes - lives in a network namespace that ends with its
process: `measure` starts this module again under `unshare --net`. Routes are timed by the kernel's own
notifications, read in the process that starts the agent and writes the leases, so there is one clock.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from contrib.bench.published import FLANNELD
from contrib.bench.report import Row, Table, progress, span
from tests.support.daemon import ROOT, start_netstored
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.daemon import Daemon

PREFIX: Final = "/bench/network"
NETWORK: Final = "172.16.0.0/12"
DEVICE: Final = "bench0"
PUBLIC_IP: Final = "10.77.0.1"
RUNS: Final = 3
REPAIRS: Final = 20
LIMIT_SECONDS: Final = 60.0
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

SO_RCVBUFFORCE: Final = 33
RTMGRP_IPV4_ROUTE: Final = 0x40
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTA_DST: Final = 1
RT_TABLE_MAIN: Final = 254
RT_SCOPE_NOWHERE: Final = 255
NLM_F_REQUEST: Final = 1


def measure(leases: Sequence[int], etcd: str = "etcd", folder: Path | None = None) -> Table:
    """Measure with each store and number of leases; needs root. `etcd` must have the v2 API."""
    figures = [
        _in_own_network(store, count, live=count == min(leases), etcd=etcd, folder=folder)
        for count in leases
        for store in ("netstored", "etcd")
    ]
    return Table(
        title="netstore-agent with host-gw",
        note=(
            f"the v2 API of both; start: {RUNS} runs; repair: {REPAIRS} routes deleted by hand;"
            " flanneld 0.9: measured before, with etcd, on a machine of the same kind"
        ),
        columns=("netstored", "etcd", "flanneld 0.9, not this run"),
        rows=tuple(_rows(figures)),
        figures=figures,
    )


def _rows(figures: Sequence[dict[str, Any]]) -> list[Row]:
    counts = dict.fromkeys(each["leases"] for each in figures)
    rows = []
    for count in counts:
        by_store = {each["store"]: each for each in figures if each["leases"] == count}
        for what, unit, digits in (
            ("start, wall", "s", 2),
            ("start, CPU", "s", 2),
            ("live, writing them", "s", 2),
            ("live, last route", "s", 2),
            ("live, CPU", "s", 2),
            ("repair, median", "ms", 1),
            ("repair, most", "ms", 1),
            ("memory", "MiB", 0),
        ):
            if what in by_store["netstored"]:
                ours = tuple(span(by_store[store][what], unit, digits) for store in ("netstored", "etcd"))
                rows.append(Row(f"{count:,} leases: {what}", (*ours, FLANNELD.get((what, count), ""))))
    return rows


def _in_own_network(store: str, leases: int, *, live: bool, etcd: str, folder: Path | None) -> dict[str, Any]:
    progress(f"{leases:,} leases in {store}")
    words = (
        *("unshare", "--net", sys.executable, "-m", __name__),
        *(store, str(leases), str(int(live)), etcd, str(folder or "")),
    )
    outcome = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=10 * LIMIT_SECONDS, check=True
    )
    figures: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return figures


# -- inside the namespace ---------------------------------------------------------------------------


class RouteFeed(threading.Thread):
    """Follows the routes of this namespace: which subnets have one, and when it came."""

    def __init__(self) -> None:
        super().__init__(name="route-feed", daemon=True)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((0, RTMGRP_IPV4_ROUTE))
        self._changed = threading.Condition()
        self.added: dict[str, float] = {}

    def run(self) -> None:
        while True:
            data = self._socket.recv(1 << 20)
            now = time.monotonic()
            with self._changed:
                for kind, subnet in _changes(data):
                    if kind == RTM_NEWROUTE:
                        self.added[subnet] = now
                    else:
                        self.added.pop(subnet, None)
                self._changed.notify_all()

    def wait_for_count(self, count: int) -> float:
        """Wait until `count` subnets have a route and return when the last one came."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.added) >= count, LIMIT_SECONDS):
                raise TimeoutError(f"{len(self.added)} of {count} routes after {LIMIT_SECONDS} s")
            return max(self.added.values(), default=0.0)

    def delete(self, subnet: str) -> float:
        """Delete a route and wait until it is back; the seconds between deletion and notification."""
        begun = time.monotonic()
        self._socket.send(_deletion(subnet))
        with self._changed:
            if not self._changed.wait_for(lambda: self.added.get(subnet, 0.0) > begun, LIMIT_SECONDS):
                raise TimeoutError(f"no route to {subnet} {LIMIT_SECONDS} s after it was deleted")
            return self.added[subnet] - begun

    def flush(self) -> None:
        """Delete every route of the network and wait until the kernel has said so."""
        _ip("route", "flush", "root", NETWORK)
        with self._changed:
            self._changed.wait_for(lambda: not self.added, LIMIT_SECONDS)


def _changes(data: bytes) -> list[tuple[int, str]]:
    """Route messages of one read, as (kind, subnet): rtnetlink(7), the destinations inside our network."""
    found = []
    place = 0
    while place + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, place)
        if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
            bits = data[place + 17]
            attribute = place + 28
            while attribute + 4 <= place + length:
                size, name = struct.unpack_from("=HH", data, attribute)
                if name == RTA_DST and data[attribute + 4] == 172 and bits < 32:
                    address = socket.inet_ntoa(data[attribute + 4 : attribute + 8])
                    found.append((kind, f"{address}/{bits}"))
                attribute += max(4, (size + 3) & ~3)
        place += max(16, (length + 3) & ~3)
    return found


def _deletion(subnet: str) -> bytes:
    """The message that deletes a route of the main table: rtnetlink(7), RTM_DELROUTE."""
    address, _, bits = subnet.partition("/")
    route = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, int(bits), 0, 0, RT_TABLE_MAIN, 0, RT_SCOPE_NOWHERE, 0, 0
    )
    body = route + struct.pack("=HH", 8, RTA_DST) + socket.inet_aton(address)
    return struct.pack("=IHHII", 16 + len(body), RTM_DELROUTE, NLM_F_REQUEST, 0, 0) + body


class Agent:
    """A running netstore-agent of this namespace."""

    def __init__(self, store: Daemon, folder: Path) -> None:
        self.subnet_file = folder / "subnet.env"
        self.subnet_file.unlink(missing_ok=True)
        self._log = folder / "agent.log"
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                (
                    *(sys.executable, "-m", "netstore.cli.agent"),
                    *("--etcd-endpoints", store.url, "--etcd-prefix", PREFIX),
                    *("--iface", DEVICE, "--subnet-file", str(self.subnet_file)),
                ),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def cpu_seconds(self) -> float:
        """Processor time used so far, in steps of 10 ms (proc(5), utime and stime)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def wait_until_leased(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self.subnet_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent took no lease:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
            raise


class Leases:
    """Writes network config and leases over one connection, as other nodes' agents would over many."""

    def __init__(self, store: Daemon) -> None:
        self._connection = http.client.HTTPConnection(store.host, store.port, timeout=20)
        document = {"Network": NETWORK, "SubnetLen": 24, "Backend": {"Type": "host-gw"}}
        self._put("config", json.dumps(document), None)

    def write(self, count: int) -> float:
        """Write `count` leases; the seconds it took."""
        begun = time.monotonic()
        for number in range(1, count + 1):
            subnet = f"172.{16 + number // 256}.{number % 256}.0-24"
            address = f"10.77.{1 + number // 250}.{1 + number % 250}"
            value = json.dumps({"PublicIP": address, "BackendType": "host-gw"})
            self._put(f"subnets/{subnet}", value, 86400)
        return time.monotonic() - begun

    def _put(self, key: str, value: str, ttl: int | None) -> None:
        form = {"value": value} if ttl is None else {"ttl": str(ttl), "value": value}
        self._connection.request("PUT", f"/v2/keys{PREFIX}/{key}", urlencode(form), FORM)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status not in {200, 201}:
            raise RuntimeError(f"lease not taken: {answer!r}")


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


def _prepare_network() -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "add", DEVICE, "type", "veth", "peer", "name", "bench1")
    _ip("address", "add", f"{PUBLIC_IP}/16", "dev", DEVICE)
    _ip("link", "set", DEVICE, "up")
    _ip("link", "set", "bench1", "up")


def _start_store(store: str, folder: Path, etcd: str) -> Daemon:
    folder.mkdir()
    return start_netstored(folder) if store == "netstored" else start_etcd(folder, program=etcd)


def _measure_start(
    store: Daemon, folder: Path, feed: RouteFeed, leases: int, figures: dict[str, Any]
) -> None:
    for run in range(RUNS):
        with Agent(store, folder) as agent:
            figures["start, wall"].append(feed.wait_for_count(leases) - agent.started)
            figures["start, CPU"].append(agent.cpu_seconds)
            if run == RUNS - 1:
                figures["memory"] = [agent.memory_mib]
                victims = random.sample(list(feed.added), REPAIRS)
                repairs = [feed.delete(subnet) * 1000 for subnet in victims]
                figures["repair, median"], figures["repair, most"] = [median(repairs)], [max(repairs)]
        feed.flush()


def _measure_live(store: Daemon, folder: Path, feed: RouteFeed, leases: int, figures: dict[str, Any]) -> None:
    writer = Leases(store)
    with Agent(store, folder) as agent:
        agent.wait_until_leased()
        before, begun = agent.cpu_seconds, time.monotonic()
        figures["live, writing them"] = [writer.write(leases)]
        figures["live, last route"] = [feed.wait_for_count(leases) - begun]
        figures["live, CPU"] = [agent.cpu_seconds - before]


def main(store_name: str, leases: int, live: bool, etcd: str, where: str) -> None:
    """Measure inside a namespace of our own and print the figures as one line of JSON."""
    figures: dict[str, Any] = {"store": store_name, "leases": leases, "start, wall": [], "start, CPU": []}
    _prepare_network()
    feed = RouteFeed()
    feed.start()
    with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=where or None) as name:
        folder = Path(name)
        with _start_store(store_name, folder / "many", etcd) as store:
            Leases(store).write(leases)
            _measure_start(store, folder, feed, leases, figures)
        if live:
            with _start_store(store_name, folder / "live", etcd) as store:
                _measure_live(store, folder, feed, leases, figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", *sys.argv[4:])
