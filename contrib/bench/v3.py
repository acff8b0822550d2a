"""The v3 API of two stores side by side: unary calls by h2load, watches by a client of ours, memory, restart.

h2load sends one fixed body again and again, so puts go to one key. Both stores are started afresh for each
load and take turns within a round's time; what the calls did is checked by the revision afterwards.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Self

from contrib.bench.report import Row, Table, progress, span
from contrib.bench.stores import columns
from contrib.bench.v3watch import Fan
from netstore.proto import rpc_pb2 as pb
from tests.support.v3client import V3Client
from tests.support.v3kubernetes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

    from contrib.bench.stores import Start
    from tests.support.daemon import Daemon
    from tests.support.v3kubernetes import Outcome

KEY: Final = b"/bench/key"
LEASE: Final = 7
VALUE: Final = b"v" * 256
LIST_KEYS: Final = 10_000
LARGE: Final = 1024

Figures = dict[str, list[dict[str, float]]]
"""Store -> one measurement for each round."""


@dataclass(frozen=True)
class Load:
    """One load of h2load: `connections` with `streams` calls open on each."""

    name: str
    method: str
    request: Message
    connections: int
    streams: int
    revisions: int = 0
    """How many revisions a call makes."""
    prepare: Callable[[V3Client], None] | None = None


def _put(key: bytes, value: bytes = VALUE) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def _fill(client: V3Client, count: int, size: int) -> None:
    for first in range(0, count, 100):
        ops = [_put(b"/list/%08d" % number, b"x" * size) for number in range(first, first + 100)]
        client.kv.Txn(pb.TxnRequest(success=ops))


def _some_keys(client: V3Client) -> None:
    _fill(client, 1_000, 256)
    client.kv.Put(pb.PutRequest(key=KEY, value=VALUE))


def _many_keys(client: V3Client) -> None:
    _fill(client, LIST_KEYS, LARGE)


def _lease(client: V3Client) -> None:
    client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3600, ID=LEASE))


_PUT: Final = pb.PutRequest(key=KEY, value=VALUE)
_TXN: Final = pb.TxnRequest(success=[_put(KEY + b"1"), _put(KEY + b"2")])
_LIST: Final = pb.RangeRequest(key=b"/list/", range_end=b"/list0")

LOADS: Final = (
    Load("put, 1 client", "KV/Put", _PUT, 1, 1, 1),
    Load("put, 100 clients on 20 connections", "KV/Put", _PUT, 20, 5, 1),
    Load("put, 1,000 clients on 100 connections", "KV/Put", _PUT, 100, 10, 1),
    Load("txn of two puts, 100 clients", "KV/Txn", _TXN, 20, 5, 1),
    Load("range, linearizable, 100 clients", "KV/Range", pb.RangeRequest(key=KEY), 20, 5, 0, _some_keys),
    Load(
        "range, serializable, 100 clients",
        "KV/Range",
        pb.RangeRequest(key=KEY, serializable=True),
        20,
        5,
        0,
        _some_keys,
    ),
    Load("list of 10,000 keys x 1 KiB, 1 client", "KV/Range", _LIST, 1, 1, 0, _many_keys),
    Load(
        "lease keepalive, 100 clients",
        "Lease/LeaseKeepAlive",
        pb.LeaseKeepAliveRequest(ID=LEASE),
        20,
        5,
        0,
        _lease,
    ),
)


def measure(folder: Path, stores: dict[str, Start], rounds: int, seconds: int) -> Table:
    """Run every load of unary calls for `rounds` rounds of `seconds` on each store."""
    figures = {load.name: _run(folder, stores, load, rounds, seconds) for load in LOADS}
    rows = [_row(name, by_store) for name, by_store in figures.items()]
    fanned = _fan_out(folder, stores, rounds)
    figures["watch"] = fanned
    rows.append(_row("watch, 1,000 watchers of a key: events", fanned))
    return Table(
        title="v3 calls by h2load, values of 256 bytes, one member, fsync on",
        note=f"medians of {rounds} rounds of {seconds} s, stores taking turns, fresh for each load",
        columns=(*columns(stores), *(f"p99 {name}" for name in stores)),
        rows=tuple(rows),
        figures=figures,
    )


def _run(folder: Path, starters: dict[str, Start], load: Load, rounds: int, seconds: int) -> Figures:
    progress(f"v3 {load.name}: {rounds} rounds of {seconds} s on each store")
    results: Figures = {name: [] for name in starters}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        body = Path(scratch) / "body"
        message = load.request.SerializeToString()
        body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        with _Stores(Path(scratch), starters) as stores:
            for client in stores.clients.values():
                if load.prepare is not None:
                    load.prepare(client)
            for name in starters:
                _h2load(stores.daemons[name].url, load, body, 1)
            for number in range(rounds):
                for name in sorted(starters, reverse=number % 2 == 1):
                    before = _revision(stores.clients[name])
                    figures = _h2load(stores.daemons[name].url, load, body, seconds)
                    made = _revision(stores.clients[name]) - before
                    if made < figures["calls"] * load.revisions:
                        raise RuntimeError(f"{name}: {figures['calls']} calls made {made} revisions")
                    results[name].append(figures)
    return results


class _Stores:
    """Both stores, running, each with a client."""

    def __init__(self, folder: Path, starters: dict[str, Start]) -> None:
        self.daemons: dict[str, Daemon] = {}
        for name, start in starters.items():
            (folder / name).mkdir()
            self.daemons[name] = start(folder / name)
        self.clients = {name: V3Client(daemon.url) for name, daemon in self.daemons.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients.values():
            client.close()
        for daemon in self.daemons.values():
            daemon.stop()


def _revision(client: V3Client) -> int:
    revision: int = client.kv.Range(pb.RangeRequest(key=b"none", serializable=True)).header.revision
    return revision


def _h2load(url: str, load: Load, body: Path, seconds: int) -> dict[str, float]:
    log = body.with_name("log")
    log.unlink(missing_ok=True)
    outcome = subprocess.run(
        (
            *("h2load", "-d", str(body), "-D", str(seconds), f"--log-file={log}"),
            *("-c", str(load.connections), "-m", str(load.streams)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"{url}/etcdserverpb.{load.method}",
        ),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", outcome.stdout)
    if counts is None or any(map(int, counts.groups()[1:])):
        raise RuntimeError(f"{load.name} on {url}:\n{outcome.stdout}")
    times = sorted(int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines())
    calls = len(times)
    return {
        "calls": calls,
        "per_second": calls / seconds,
        "p99_ms": times[int(calls * 0.99)] / 1000 if times else float("inf"),
    }


def _row(name: str, by_store: Mapping[str, list[dict[str, float]]]) -> Row:
    ours, theirs = (median(each["per_second"] for each in rounds) for rounds in by_store.values())
    tails = [
        f"{median(each['p99_ms'] for each in rounds):.2f} ms" if rounds[0]["p99_ms"] else ""
        for rounds in by_store.values()
    ]
    return Row(name, (f"{ours:,.0f}/s", f"{theirs:,.0f}/s", f"{ours / theirs:.2f}", *tails))


# --- watches


WATCHERS: Final = 1_000
CHANGES: Final = 300


def _fan_out(folder: Path, starters: dict[str, Start], rounds: int) -> Figures:
    """How many events a second reach 1,000 watchers on 20 connections while one client writes."""
    progress(f"v3 watch: {rounds} rounds on each store")
    results: Figures = {name: [] for name in starters}
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _Stores(Path(scratch), starters) as stores:
        fans = {name: Fan(daemon.url, KEY, WATCHERS, 20) for name, daemon in stores.daemons.items()}
        for number in range(rounds):
            for name in sorted(starters, reverse=number % 2 == 1):
                client, fan = stores.clients[name], fans[name]
                for _ in range(10):
                    client.kv.Put(pb.PutRequest(key=KEY, value=fan.mark))
                fan.wait(10 * WATCHERS)
                began = time.monotonic()
                pending = [
                    client.kv.Put(pb.PutRequest(key=KEY, value=fan.mark), wait=False) for _ in range(CHANGES)
                ]
                fan.wait(CHANGES * WATCHERS)
                took = time.monotonic() - began
                for call in pending:
                    call.result()
                results[name].append({"per_second": CHANGES * WATCHERS / took, "p99_ms": 0.0})
        for fan in fans.values():
            fan.close()
    return results


# --- Kubernetes


def measure_kubernetes(folder: Path, starters: dict[str, Start], nodes: int, rounds: int) -> Table:
    """A control plane of so many nodes on each store, everything it sees checked (`tests.support`)."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in starters}
    for number in range(rounds):
        progress(f"v3 control plane of {nodes:,} nodes: round {number + 1} of {rounds}")
        for name in sorted(starters, reverse=number % 2 == 1):
            with tempfile.TemporaryDirectory(dir=folder) as scratch, starters[name](Path(scratch)) as daemon:
                outcomes[name].append(run(daemon.url, nodes=nodes, rounds=3, trust_progress=name != "etcd"))
    rates = {name: [each.calls / each.seconds for each in runs] for name, runs in outcomes.items()}
    rows = [Row("calls of 4 writers, 8 informers following", _compared(rates, "/s"))]
    for what in ("create", "update", "delete", "list"):
        for share in (0.5, 0.99):
            times = {
                name: [sorted(each.took[what])[int(len(each.took[what]) * share)] * 1000 for each in runs]
                for name, runs in outcomes.items()
            }
            rows.append(Row(f"{what}, p{share * 100:g}", _compared(times, "ms")))
    return Table(
        title=f"v3 under a Kubernetes control plane of {nodes:,} nodes",
        note=f"all of {rounds} rounds; a client in Python, the same for both",
        columns=columns(starters),
        rows=tuple(rows),
        figures={name: [asdict(each) for each in runs] for name, runs in outcomes.items()},
    )


# --- memory and restart


def measure_size(folder: Path, starters: dict[str, Start], rounds: int, restart_keys: int) -> Table:
    """Memory after 100,000 keys of 1 KiB, and how long a restart with many small keys takes."""
    peaks: dict[str, list[float]] = {name: [] for name in starters}
    restarts: dict[str, list[float]] = {name: [] for name in starters}
    for number in range(rounds):
        progress(f"v3 memory: round {number + 1} of {rounds}")
        with tempfile.TemporaryDirectory(dir=folder) as scratch, _Stores(Path(scratch), starters) as stores:
            for name, client in stores.clients.items():
                _fill(client, 100_000, LARGE)
                peaks[name].append(_peak_mib(stores.daemons[name].pid))
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _Stores(Path(scratch), starters) as stores:
        for name, client in stores.clients.items():
            progress(f"v3 restart: filling {name} with {restart_keys:,} keys")
            _fill(client, restart_keys, 16)
        progress(f"v3 restart: {rounds} rounds")
        for _ in range(rounds):
            for name, daemon in stores.daemons.items():
                daemon.stop()
                began = time.monotonic()
                daemon.start_again(limit=300.0)
                restarts[name].append(time.monotonic() - began)
    rows = [
        Row("peak RSS, 100,000 keys x 1 KiB", _compared(peaks, "MiB")),
        Row(f"restart with {restart_keys:,} small keys", _compared(restarts, "s")),
    ]
    return Table(
        title="v3 memory and restart",
        note=f"all of {rounds} rounds; the ratio is of medians",
        columns=columns(starters),
        rows=tuple(rows),
        figures={"peak_mib": peaks, "restart_s": restarts},
    )


def _compared(values: Mapping[str, list[float]], unit: str) -> tuple[str, str, str]:
    ours, theirs = values.values()
    return (span(ours, unit, 1), span(theirs, unit, 1), f"{median(ours) / median(theirs):.2f}")


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]  # every process has it
