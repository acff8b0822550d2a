"""The agent with many leases, beside flanneld: how soon all routes are there, what a change of one lease
costs, and how soon what others destroyed is repaired.

Everything of one measurement - store, daemon, routes - lives in a network namespace that ends with its
process: `measure` starts this module again under `unshare --net`. The store is netstored for all, so that
only the daemons differ. Routes are timed by the kernel's own notifications, read in the process that starts
the daemon and writes the leases, so there is one clock. The time from key to route begins when the write is
sent.

flanneld is not packaged: `--flanneld-v2` and `--flanneld-v3` name the programs, of a release that speaks the
v2 API (up to 0.17) and of one that speaks v3. It repairs a deleted route every ten seconds, and neither a
changed gateway nor, without iptables, its rules.
"""

from __future__ import annotations

import http.client
import json
import math
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
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import urlencode

from contrib.bench.report import Row, Table, progress, span
from netstore.agent.nftevents import names_table
from netstore.network.masquerade import TABLE
from netstore.proto.rpc_pb2 import LeaseGrantRequest, PutRequest, RequestOp, TxnRequest
from tests.support.certificates import Certificates
from tests.support.daemon import ROOT, clean_environment, start_netstored
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tests.support.daemon import Daemon

APIS: Final = ("v2", "v3")
PREFIX: Final = "/bench/network"
NETWORK: Final = "100.64.0.0/10"
"""Room for 16,384 subnets of 256 addresses (RFC 6598)."""

FIRST_OCTET: Final = 100
DEVICE: Final = "bench0"
PUBLIC_IP: Final = "10.77.0.1"
RUNS: Final = 3
REPAIRS: Final = 20
FLANNEL_REPAIRS: Final = 2
LIMIT_SECONDS: Final = 120.0
CHURN_PER_SECOND: Final = 100
LEASE_TTL: Final = 86400
SEEDED_AT_ONCE: Final = 100
QUIET_SECONDS: Final = 15.0
"""Seconds without a new route after which those that are not there count as lost."""
NETLINK_NETFILTER: Final = 12
NFNLGRP_NFTABLES: Final = 1 << 6
NFT_MSG_DELTABLE: Final = 2
NFT_MSG_NEWRULE: Final = 6
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

SO_RCVBUFFORCE: Final = 33
RTMGRP_IPV4_ROUTE: Final = 0x40
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RT_TABLE_MAIN: Final = 254
RT_SCOPE_NOWHERE: Final = 255
RTN_UNICAST: Final = 1
RTPROT_BOOT: Final = 3
NLM_F_REQUEST: Final = 1
NLM_F_REPLACE: Final = 0x100

WHAT: Final = (
    ("start, wall", "s", 2),
    ("start, CPU", "s", 2),
    ("start, CPU of the kernel", "s", 2),
    ("start, routes missing", "routes", 0),
    ("memory", "MiB", 0),
    ("live, writing them", "s", 2),
    ("live, last route", "s", 2),
    ("live, CPU", "s", 2),
    ("live, routes missing", "routes", 0),
    ("key to route, median", "ms", 2),
    ("key to route, p99", "ms", 2),
    ("key to route, most", "ms", 2),
    ("changes without a route", "changes", 0),
    ("churn, changes written a second", "changes", 1),
    ("churn, CPU a second", "ms", 1),
    ("churn, memory after", "MiB", 0),
    ("deleted route, median", "ms", 1),
    ("deleted route, most", "ms", 1),
    ("changed gateway, median", "ms", 1),
    ("changed gateway, most", "ms", 1),
    ("flushed rules, median", "ms", 1),
    ("flushed rules, most", "ms", 1),
)
"""What is measured, its unit, and the digits shown. Less of it is better, except for `LOADS`."""

LOADS: Final = {"live, writing them", "churn, changes written a second"}
"""What tells how fast the benchmark itself wrote: it has no ratio."""


class Subject(NamedTuple):
    """A daemon: the column's name, the API that it uses, and its program; empty for the agent."""

    name: str
    api: str
    program: str = ""

    @property
    def is_flannel(self) -> bool:
        """Whether it is flanneld."""
        return bool(self.program)


class Size(NamedTuple):
    """How much is measured: leases, runs of the start, seconds of churn."""

    leases: int
    runs: int
    churn_seconds: int


def measure(
    leases: Sequence[int],
    churn_seconds: int,
    flanneld: Sequence[tuple[str, Path]],
    folder: Path | None = None,
) -> Table:
    """Measure each number of leases; needs root. `flanneld` has programs of flanneld with their APIs."""
    programs = dict(flanneld)
    agents = [Subject(f"agent, {api}", api) for api in APIS]
    others: dict[str, Subject] = {
        api: Subject(f"flanneld, {api}", api, str(programs[api])) for api in APIS if api in programs
    }
    figures = [
        _in_own_network(subject, Size(count, RUNS, churn_seconds), folder)
        for count in leases
        for subject in (*agents, *others.values())
    ]
    columns: list[str] = []
    for agent in agents:
        columns.append(agent.name)
        if agent.api in others:
            columns += [others[agent.api].name, f"ratio, {agent.api}"]
    note = (
        f"netstored is the store of all; start: {RUNS} runs; churn: {CHURN_PER_SECOND} leases a second,"
        f" {churn_seconds} s; repairs: {REPAIRS}, of flanneld {FLANNEL_REPAIRS}; ratio: flanneld / agent, of"
        " medians: how many times as good the agent is"
    )
    broken = [
        f"{each['subject']}, {each['leases']:,}: {each['broken']}" for each in figures if "broken" in each
    ]
    return Table(
        title="netstore-agent with host-gw, beside flanneld",
        note="; ".join([note, *broken]),
        columns=tuple(columns),
        rows=tuple(_rows(figures, agents, others)),
        figures=figures,
    )


def _rows(
    figures: Sequence[dict[str, Any]], agents: Sequence[Subject], others: dict[str, Subject]
) -> list[Row]:
    rows = []
    for count in dict.fromkeys(each["leases"] for each in figures):
        found = {each["subject"]: each for each in figures if each["leases"] == count}
        for what, unit, digits in WHAT:
            cells: list[str] = []
            ratios: dict[str, float] = {}
            for agent in agents:
                ours = found[agent.name].get(what, [])
                cells.append(_cell(ours, unit, digits))
                if (other := others.get(agent.api)) is None:
                    continue
                theirs = found[other.name].get(what, [])
                ratio = None if what in LOADS else _ratio(ours, theirs)
                cells += [_cell(theirs, unit, digits), "" if ratio is None else f"{ratio:.3g}"]
                if ratio is not None:
                    ratios[agent.api] = ratio
            if any(cells):
                rows.append(Row(f"{count:,} leases: {what}", tuple(cells), ratios=ratios))
    return rows


def _cell(values: Sequence[float], unit: str, digits: int) -> str:
    """All runs; "lost" for a time that did not end."""
    if not values:
        return ""
    return "lost" if math.isinf(median(values)) else span(values, unit, digits)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """How many times as much of it flanneld needs; None if one needs nothing or did not get there."""
    if not ours or not theirs:
        return None
    one, other = median(ours), median(theirs)
    return other / one if one and other and math.isfinite(one) and math.isfinite(other) else None


def _in_own_network(subject: Subject, size: Size, folder: Path | None) -> dict[str, Any]:
    progress(f"{size.leases:,} leases: {subject.name}")
    words = ("unshare", "--net", sys.executable, "-m", __name__)
    given = json.dumps([*subject, *size, str(folder or "")])
    outcome = subprocess.run(
        (*words, given),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=20 * LIMIT_SECONDS + 2 * size.churn_seconds,
        check=True,
    )
    figures: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return figures


# -- inside the namespace ---------------------------------------------------------------------------


class RouteFeed(threading.Thread):
    """Follows the routes of this namespace: which gateways each subnet has, and since when."""

    def __init__(self) -> None:
        super().__init__(name="route-feed", daemon=True)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((0, RTMGRP_IPV4_ROUTE))
        self._changed = threading.Condition()
        self.routes: dict[str, dict[str, float]] = {}
        self.arrivals: dict[tuple[str, str], float] = {}
        """When a subnet first had a route through a gateway, since `follow_arrivals`."""
        self._last = 0.0

    def run(self) -> None:
        while True:
            data = self._socket.recv(1 << 20)
            now = time.monotonic()
            with self._changed:
                for kind, flags, subnet, gateway in _changes(data):
                    there = self.routes.setdefault(subnet, {})
                    if kind == RTM_DELROUTE:
                        there.pop(gateway, None)
                        if not there:
                            del self.routes[subnet]
                        continue
                    if flags & NLM_F_REPLACE:
                        there.clear()
                    there[gateway] = self._last = now
                    self.arrivals.setdefault((subnet, gateway), now)
                self._changed.notify_all()

    def wait_for_count(self, count: int) -> tuple[float, int]:
        """Wait until `count` subnets have a route, or no further route comes. When the last one came, and
        how many are missing.
        """
        begun = time.monotonic()
        with self._changed:
            self._wait_while_they_come(lambda: len(self.routes) >= count, begun)
            return max(self._last, begun), count - len(self.routes)

    def follow_arrivals(self) -> None:
        """Forget what arrived so far."""
        with self._changed:
            self.arrivals.clear()

    def wait_for_arrivals(self, wanted: Collection[tuple[str, str]]) -> None:
        """Wait until each of these subnets has had a route through its gateway, or no further route comes."""
        with self._changed:
            self._wait_while_they_come(
                lambda: all(each in self.arrivals for each in wanted), time.monotonic()
            )

    def _wait_while_they_come(self, is_done: Callable[[], bool], begun: float) -> None:
        while not is_done():
            quiet_at = max(self._last, begun) + (QUIET_SECONDS if self.routes else LIMIT_SECONDS)
            if not self._changed.wait(max(0.0, quiet_at - time.monotonic())) and time.monotonic() >= quiet_at:
                return

    def wait_for(self, subnet: str, gateway: str, since: float) -> float | None:
        """The seconds after which the subnet had a new route through the gateway, or None."""

        def is_there() -> bool:
            return self.routes.get(subnet, {}).get(gateway, 0.0) > since

        with self._changed:
            if not self._changed.wait_for(is_there, LIMIT_SECONDS):
                return None
            return self.routes[subnet][gateway] - since

    def change(self, subnet: str, gateway: str = "") -> None:
        """Delete the route to a subnet, or with a gateway replace it, as `ip route replace` does."""
        self._socket.send(_request(subnet, gateway))

    def flush(self) -> None:
        """Delete every route of the network and wait until the kernel has said so."""
        _ip("route", "flush", "root", NETWORK)
        with self._changed:
            if not self._changed.wait_for(lambda: not self.routes, LIMIT_SECONDS):
                raise TimeoutError(f"{len(self.routes)} routes are left after all were deleted")


def _changes(data: bytes) -> list[tuple[int, int, str, str]]:
    """Route messages of one read, as (kind, flags, subnet, gateway): rtnetlink(7), those inside our
    network.
    """
    found = []
    place = 0
    while place + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, place)
        if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
            bits = data[place + 17]
            attribute, subnet, gateway = place + 28, "", ""
            while attribute + 4 <= place + length:
                size, name = struct.unpack_from("=HH", data, attribute)
                value = data[attribute + 4 : attribute + size]
                if name == RTA_DST and value[0] == FIRST_OCTET and bits < 32:
                    subnet = f"{socket.inet_ntoa(value)}/{bits}"
                elif name == RTA_GATEWAY:
                    gateway = socket.inet_ntoa(value)
                attribute += max(4, (size + 3) & ~3)
            if subnet:
                found.append((kind, flags, subnet, gateway))
        place += max(16, (length + 3) & ~3)
    return found


def _request(subnet: str, gateway: str) -> bytes:
    """The message that deletes a route of the main table, or replaces it by one through the gateway:
    rtnetlink(7).
    """
    address, _, bits = subnet.partition("/")
    protocol, scope, kind = (RTPROT_BOOT, 0, RTN_UNICAST) if gateway else (0, RT_SCOPE_NOWHERE, 0)
    route = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, int(bits), 0, 0, RT_TABLE_MAIN, protocol, scope, kind, 0
    )
    body = route + struct.pack("=HH", 8, RTA_DST) + socket.inet_aton(address)
    if gateway:
        body += struct.pack("=HH", 8, RTA_GATEWAY) + socket.inet_aton(gateway)
        body += struct.pack("=HHI", 8, RTA_OIF, socket.if_nametoindex(DEVICE))
    message, flags = (RTM_NEWROUTE, NLM_F_REPLACE) if gateway else (RTM_DELROUTE, 0)
    return struct.pack("=IHHII", 16 + len(body), message, NLM_F_REQUEST | flags, 0, 0) + body


class Running:
    """A running daemon of this namespace."""

    def __init__(self, subject: Subject, store: Daemon, folder: Path, *, ip_masq: bool = False) -> None:
        self.subnet_file = folder / "subnet.env"
        self.subnet_file.unlink(missing_ok=True)
        self._log = folder / "daemon.log"
        words = ["--etcd-endpoints", store.url, "--etcd-prefix", PREFIX, "--iface", DEVICE]
        words += ["--subnet-file", str(self.subnet_file)]
        if ip_masq:
            words.append("--ip-masq")
        if not subject.is_flannel:
            words = [sys.executable, "-m", "netstore.cli.agent", "--store-api", subject.api, *words]
        else:
            words = [subject.program, *words, "--healthz-port", "0"]
            if subject.api == "v3":  # it does not start without a pair, and uses none with http
                pair = Certificates(folder / "pair")
                words += ["--etcd-certfile", str(pair.client_certificate)]
                words += ["--etcd-keyfile", str(pair.client_key)]
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def cpu_seconds(self) -> float:
        """Processor time used so far, in steps of 10 ms."""
        return sum(self._ticks) / os.sysconf("SC_CLK_TCK")

    @property
    def kernel_seconds(self) -> float:
        """That of it which the kernel used."""
        return self._ticks[1] / os.sysconf("SC_CLK_TCK")

    @property
    def _ticks(self) -> tuple[int, int]:
        """Of the program and of the kernel (proc(5), utime and stime)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    @property
    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that this daemon does."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {what}:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.001)

    def wait_until_leased(self) -> None:
        self.wait_until(self.subnet_file.exists, "lease")

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


def _environment() -> dict[str, str]:
    """An environment in which Python keeps its bytecode, as an installed program does."""
    kept = clean_environment()
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "netstore-bench-bytecode")}


class Leases:
    """Writes network config and leases over one connection, as other nodes' daemons would over many."""

    def __init__(self, store: Daemon, api: str) -> None:
        self._v2 = http.client.HTTPConnection(store.host, store.port, timeout=20)
        self._v3 = V3Client(store.url) if api == "v3" else None
        self._lease = 0
        if self._v3 is not None:
            self._lease = self._v3.lease.LeaseGrant(LeaseGrantRequest(TTL=LEASE_TTL)).ID
        document = {"Network": NETWORK, "SubnetLen": 24, "Backend": {"Type": "host-gw"}}
        self._put("config", json.dumps(document), None)

    def write(self, count: int) -> float:
        """Write `count` leases; the seconds it took."""
        begun = time.monotonic()
        for number in range(1, count + 1):
            self.put(number, gateway_of(number))
        return time.monotonic() - begun

    def seed(self, count: int) -> None:
        """Write `count` leases before anybody follows them, `SEEDED_AT_ONCE` at a time."""
        for first in range(1, count + 1, SEEDED_AT_ONCE):
            numbers = range(first, min(first + SEEDED_AT_ONCE, count + 1))
            entries = [(*self._entry(number, gateway_of(number)), LEASE_TTL) for number in numbers]
            if self._v3 is not None:
                puts = [RequestOp(request_put=self._request(*entry)) for entry in entries]
                self._v3.kv.Txn(TxnRequest(success=puts))
            else:
                self._pipeline(entries)

    def put(self, number: int, address: str) -> None:
        """Write the lease of one node with this address."""
        self._put(*self._entry(number, address), LEASE_TTL)

    def _entry(self, number: int, address: str) -> tuple[str, str]:
        """Key and value of the lease of one node with this address."""
        value: dict[str, str | None] = {"PublicIP": address}
        if self._v3 is not None:
            value["PublicIPv6"] = None
        value["BackendType"] = "host-gw"
        name = subnet_of(number).replace("/", "-")
        return f"subnets/{name}", json.dumps(value, separators=(",", ":"))

    def _request(self, key: str, value: str, ttl: int | None) -> PutRequest:
        """A write in the v3 API."""
        lease = self._lease if ttl else 0
        return PutRequest(key=f"{PREFIX}/{key}".encode(), value=value.encode(), lease=lease)

    def _put(self, key: str, value: str, ttl: int | None) -> None:
        if self._v3 is not None:
            self._v3.kv.Put(self._request(key, value, ttl))
            return
        self._v2.request("PUT", f"/v2/keys{PREFIX}/{key}", _form(value, ttl), FORM)
        response = self._v2.getresponse()
        answer = response.read()
        if response.status not in {200, 201}:
            raise RuntimeError(f"lease not taken: {answer!r}")

    def _pipeline(self, entries: Sequence[tuple[str, str, int | None]]) -> None:
        """Writes in the v2 API, sent at once on a connection of their own, which the store closes after the
        last answer (RFC 9112, 9.3.2).
        """
        requests = []
        for place, (key, value, ttl) in enumerate(entries, 1):
            body = _form(value, ttl)
            fields = {**FORM, "Host": "store", "Content-Length": len(body)}
            if place == len(entries):
                fields["Connection"] = "close"
            head = "".join(f"{name}: {field}\r\n" for name, field in fields.items())
            requests.append(f"PUT /v2/keys{PREFIX}/{key} HTTP/1.1\r\n{head}\r\n{body}")
        with socket.create_connection((self._v2.host, self._v2.port), timeout=LIMIT_SECONDS) as connection:
            connection.sendall("".join(requests).encode())
            with connection.makefile("rb") as answers:
                created = answers.read().count(b"HTTP/1.1 201")
        if created != len(entries):
            raise RuntimeError(f"{created} of {len(entries)} leases were taken")


def _form(value: str, ttl: int | None) -> str:
    """The body of a write in the v2 API."""
    return urlencode({"value": value} if ttl is None else {"ttl": str(ttl), "value": value})


def subnet_of(number: int) -> str:
    return f"{FIRST_OCTET}.{64 + number // 256}.{number % 256}.0/24"


def gateway_of(number: int) -> str:
    return f"10.77.{1 + number // 250}.{1 + number % 250}"


def other_gateway(turn: int) -> str:
    """An address that no lease had before."""
    return f"10.77.{100 + turn // 250}.{1 + turn % 250}"


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


def _prepare_network() -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "add", DEVICE, "type", "veth", "peer", "name", "bench1")
    _ip("address", "add", f"{PUBLIC_IP}/16", "dev", DEVICE)
    _ip("link", "set", DEVICE, "up")
    _ip("link", "set", "bench1", "up")


class Measurement:
    """One daemon with one number of leases."""

    def __init__(self, subject: Subject, size: Size, folder: Path) -> None:
        self._subject, self._size, self._folder = subject, size, folder
        self._feed = RouteFeed()
        self._feed.start()
        self.figures: dict[str, Any] = {"subject": subject.name, "leases": size.leases}

    def run(self) -> None:
        """Measure everything. A daemon that ends, or never does what is waited for, has no further figures:
        `broken` says why.
        """
        try:
            self._run()
        except (RuntimeError, TimeoutError) as error:
            self.figures["broken"] = str(error)

    def _run(self) -> None:
        (self._folder / "many").mkdir()
        with start_netstored(self._folder / "many") as store:
            writer = Leases(store, self._subject.api)
            writer.seed(self._size.leases)
            for run in range(self._size.runs):
                self._start(store, writer, is_last=run == self._size.runs - 1)
                self._feed.flush()
        (self._folder / "live").mkdir()
        with start_netstored(self._folder / "live") as store:
            self._live(store)

    def _add(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    def _start(self, store: Daemon, writer: Leases, *, is_last: bool) -> None:
        with Running(self._subject, store, self._folder) as daemon:
            last, missing = self._feed.wait_for_count(self._size.leases)
            self._add("start, wall", math.inf if missing else last - daemon.started)
            self._add("start, CPU", daemon.cpu_seconds)
            self._add("start, CPU of the kernel", daemon.kernel_seconds)
            self._add("start, routes missing", missing)
            if not is_last:
                return
            daemon.wait_until_leased()
            self._add("memory", daemon.memory_mib)
            self._repair_routes()  # before the churn: after it flanneld restores former gateways
            self._churn(daemon, writer)
        if is_last and not self._subject.is_flannel:
            with Running(self._subject, store, self._folder, ip_masq=True) as daemon:
                self._repair_rules(daemon)

    def _churn(self, daemon: Running, writer: Leases) -> None:
        """Leases get other addresses, so many a second; no address is used twice."""
        self._feed.follow_arrivals()
        begun, cpu = time.monotonic(), daemon.cpu_seconds
        sent: dict[tuple[str, str], float] = {}
        for turn in range(CHURN_PER_SECOND * self._size.churn_seconds):
            time.sleep(max(0.0, begun + turn / CHURN_PER_SECOND - time.monotonic()))
            number, address = 1 + turn % min(self._size.leases, 1000), other_gateway(turn)
            sent[subnet_of(number), address] = time.monotonic()
            writer.put(number, address)
        seconds = time.monotonic() - begun
        self._add("churn, changes written a second", len(sent) / seconds)
        self._add("churn, CPU a second", (daemon.cpu_seconds - cpu) / seconds * 1000)
        self._feed.wait_for_arrivals(sent)
        arrivals = self._feed.arrivals
        taken = sorted((arrivals.get(each, math.inf) - at) * 1000 for each, at in sent.items())
        self._add("changes without a route", sum(map(math.isinf, taken)))
        self._add("churn, memory after", daemon.memory_mib)
        self._add("key to route, median", median(taken))
        self._add("key to route, p99", taken[len(taken) * 99 // 100])
        self._add("key to route, most", taken[-1])

    def _repair_routes(self) -> None:
        count = FLANNEL_REPAIRS if self._subject.is_flannel else REPAIRS
        for what in ("deleted route", "changed gateway"):
            if what == "changed gateway" and self._subject.is_flannel:
                continue  # it never corrects one
            taken = []
            victims = random.sample(sorted(self._feed.routes), count + 1)
            for subnet, other in pairwise(victims):
                [right], [wrong] = self._feed.routes[subnet], self._feed.routes[other]
                begun = time.monotonic()
                self._feed.change(subnet, wrong if what == "changed gateway" else "")
                took = self._feed.wait_for(subnet, right, begun)
                if took is None:
                    raise TimeoutError(f"{what}: {subnet} is not repaired after {LIMIT_SECONDS} s")
                taken.append(took * 1000)
            self._add(f"{what}, median", median(taken))
            self._add(f"{what}, most", max(taken))

    def _repair_rules(self, daemon: Running) -> None:
        daemon.wait_until(_has_rules, "rules")
        taken = []
        with _rule_changes() as changes:
            for _ in range(REPAIRS):
                time.sleep(0.3)  # fixed, so that each time all that follows a repair is over
                flush = subprocess.Popen(("nft", "flush", "ruleset"))
                gone = _wait_for_change(changes, NFT_MSG_DELTABLE)
                taken.append((_wait_for_change(changes, NFT_MSG_NEWRULE) - gone) * 1000)
                if flush.wait():
                    raise RuntimeError("nft flush ruleset failed")
        self._add("flushed rules, median", median(taken))
        self._add("flushed rules, most", max(taken))

    def _live(self, store: Daemon) -> None:
        writer = Leases(store, self._subject.api)
        with Running(self._subject, store, self._folder) as daemon:
            daemon.wait_until_leased()
            before, begun = daemon.cpu_seconds, time.monotonic()
            self._add("live, writing them", writer.write(self._size.leases))
            last, missing = self._feed.wait_for_count(self._size.leases)
            self._add("live, last route", last - begun)
            self._add("live, routes missing", missing)
            self._add("live, CPU", daemon.cpu_seconds - before)


def _rule_changes() -> socket.socket:
    """A socket with the kernel's notifications of nftables in this namespace."""
    changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    changes.bind((0, NFNLGRP_NFTABLES))
    changes.settimeout(LIMIT_SECONDS)
    return changes


def _wait_for_change(changes: socket.socket, kind: int) -> float:
    """When the next change of this kind in the agent's table was told; TimeoutError if none is."""
    while True:
        data = changes.recv(1 << 20)
        now = time.monotonic()
        if names_table(data, {TABLE}) and kind in _kinds(data):
            return now


def _kinds(data: bytes) -> list[int]:
    """The lower bytes of the types of all messages of one read: netlink(7)."""
    found = []
    place = 0
    while place + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, place)
        found.append(kind & 0xFF)
        place += max(16, (length + 3) & ~3)
    return found


def _has_rules() -> bool:
    listed = subprocess.run(("nft", "list", "tables"), stdout=subprocess.PIPE, text=True, check=True)
    return " netstore" in listed.stdout


def main(text: str) -> None:
    """Measure inside a namespace of our own and print the figures as one line of JSON."""
    name, api, program, leases, runs, seconds, where = json.loads(text)
    _prepare_network()
    with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=where or None) as folder:
        measurement = Measurement(Subject(name, api, program), Size(leases, runs, seconds), Path(folder))
        measurement.run()
    print(json.dumps(measurement.figures))


if __name__ == "__main__":
    main(sys.argv[1])
