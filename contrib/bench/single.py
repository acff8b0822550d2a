"""`single`: one member of each store under v3 calls by h2load, v2 requests by wrk and watchers of our own,
each load on fresh stores; the memory they hold and what they use while nobody asks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from contrib.bench import compare, h2load, wrk
from contrib.bench.compare import LOOPBACK
from contrib.bench.fan import AT_ONCE, Fan
from contrib.bench.h2load import GET, KEY, ONE_KEY, ONE_READ, PUT, Load, put_op, some_keys
from contrib.bench.objects import Callers
from contrib.bench.report import Table, progress
from contrib.bench.stores import memory_mib
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.bench.compare import Figures, Sample
    from contrib.bench.stores import Running, Stores
    from tests.support.v3client import V3Client

LEASE: Final = 7
HOLDERS: Final = 100
RENEWALS: Final = 5_000
"""Of a round."""

WATCHERS: Final = 1_000
CHANGES: Final = 300
FILLED: Final = 100_000
IDLE_SECONDS: Final = 20


def _lease(client: V3Client) -> None:
    client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3600, ID=LEASE))


_ALONE: Final = (
    "one call at a time: mostly the time of a sync, which netstored makes within its loop where syncs are"
    " fast"
)
_LOCAL: Final = "the only voter answers without asking anybody; of three members the leader must ask"

LOADS: Final = (
    Load("put, 1 client", "KV/Put", PUT, 1, 1, _ALONE, 1),
    Load("put, 100 clients", "KV/Put", PUT, 20, 5, ONE_KEY, 1),
    Load("put, 1,000 clients", "KV/Put", PUT, 100, 10, ONE_KEY, 1),
    Load("put of 8 KiB, 100 clients", "KV/Put", pb.PutRequest(key=KEY, value=b"v" * 8192), 20, 5, ONE_KEY, 1),
    Load(
        "txn of two puts, 100 clients",
        "KV/Txn",
        pb.TxnRequest(success=[put_op(KEY + b"1"), put_op(KEY + b"2")]),
        *(20, 5),
        "two keys, written again and again, and nothing compared: `kube` has transactions of objects",
        1,
    ),
    Load("range, linearizable, 1 client", "KV/Range", GET, 1, 1, _LOCAL, prepare=some_keys),
    Load(
        "range, linearizable, 100 clients", "KV/Range", GET, 20, 5, f"{ONE_READ}; {_LOCAL}", prepare=some_keys
    ),
    Load(
        "range, serializable, 100 clients",
        "KV/Range",
        pb.RangeRequest(key=KEY, serializable=True),
        *(20, 5),
        ONE_READ,
        prepare=some_keys,
    ),
    Load(
        "lease keepalive, 100 clients",
        "Lease/LeaseKeepAlive",
        pb.LeaseKeepAliveRequest(ID=LEASE),
        *(20, 5),
        "h2load has one body, so all renew one lease, and those that come together share an entry of the log;"
        " a stream for each renewal: clients keep a stream open. netstored writes renewals to its log, etcd"
        " does not",
        prepare=_lease,
    ),
)

_V2_SET: Final = "a thousand keys of 32 bytes, in one directory, and nobody watches them"
_V2_GET: Final = "a thousand small keys; both answer from memory"
V2: Final = (
    ("v2 set, 1 connection", "set", 1, _ALONE),
    ("v2 set, 64 connections", "set", 64, _V2_SET),
    ("v2 get, 1 connection", "get", 1, _V2_GET),
    ("v2 get, 64 connections", "get", 64, _V2_GET),
)

_WATCH: Final = (
    "all watch one key, so each event is encoded once for all, which is where netstored gains most; watchers"
    " of different keys share nothing"
)


_OWN_LEASES: Final = (
    "our own client, in Python: rates above 20,000/s are its own. A lease for each of the clients, and a"
    " stream for each renewal"
)


_OWN_NAME: Final = f"lease keepalive, {HOLDERS} clients, a lease each"
_WATCH_NAME: Final = f"watch, events to {WATCHERS:,} watchers"


def names() -> list[str]:
    """Of all loads."""
    return [*(load.name for load in LOADS), *(name for name, *_ in V2), _OWN_NAME, _WATCH_NAME]


def measure(
    stores: Stores, folder: Path | None, rounds: int, seconds: int, wanted: str = ""
) -> Iterator[Table]:
    """Each table as soon as it is there. `wanted` is a part of the names of the loads."""
    figures: dict[str, Figures] = {}
    notes: dict[str, str] = {}
    held: dict[str, dict[str, float]] = {}
    for load in LOADS:
        if wanted in load.name:
            with stores.running(folder) as running:
                figures[load.name] = h2load.run(running, load, rounds, seconds)
                held[load.name] = _resident(running)
            notes[load.name] = load.note
    for name, mode, connections, note in V2:
        if wanted in name:
            with stores.running(folder) as running:
                figures[name] = wrk.run(
                    running, name, mode, connections=connections, rounds=rounds, seconds=seconds
                )
                held[name] = _resident(running)
            notes[name] = note
    name = _OWN_NAME
    if wanted in name:
        with stores.running(folder) as running:
            figures[name] = _renewals(running, name, rounds)
            held[name] = _resident(running)
        notes[name] = _OWN_LEASES
    name = _WATCH_NAME
    if wanted in name:
        with stores.running(folder) as running:
            figures[name] = _fan_out(running, rounds)
        notes[name] = _WATCH
    yield Table(
        title="one member, values of 256 bytes, every write synced",
        note=f"medians of {rounds} alternating rounds of {seconds} s, fresh stores for each load; {LOOPBACK}",
        columns=compare.load_columns(stores.names),
        rows=tuple(compare.load_row(name, each, notes[name]) for name, each in figures.items()),
        figures=figures,
    )
    if not wanted:
        yield _held(stores, folder, held, rounds)


def _renewals(running: Running, name: str, rounds: int) -> Figures:
    """Each answer is checked: it is that of the lease that was asked for, which lives."""
    callers = {store: Callers(daemon.url, HOLDERS) for store, daemon in running.asked.items()}
    for client in running.clients.values():
        for lease in range(1, HOLDERS + 1):
            client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3600, ID=lease))
    renewals = [
        (number, pb.LeaseKeepAliveRequest(ID=number % HOLDERS + 1).SerializeToString())
        for number in range(RENEWALS)
    ]

    def check(number: int, answer: bytes) -> None:
        renewed = pb.LeaseKeepAliveResponse.FromString(answer)
        if number % HOLDERS + 1 != renewed.ID or renewed.TTL <= 0:
            raise RuntimeError("a lease was not renewed")

    def make(store: str) -> tuple[int, list[float]]:
        return RENEWALS, callers[store].run("Lease/LeaseKeepAlive", renewals, check)

    figures = h2load.by_callers(running, name, rounds, make)
    for each in callers.values():
        each.close()
    return figures


def _fan_out(running: Running, rounds: int) -> Figures:
    """How many events a second reach watchers on 20 connections while one client writes."""
    progress(f"watch: {rounds} rounds on each store")
    fans = {name: Fan(daemon.url, KEY, WATCHERS, 20) for name, daemon in running.asked.items()}

    def one(name: str) -> Sample:
        client, fan = running.clients[name], fans[name]
        request = pb.PutRequest(key=KEY, value=fan.mark)
        began = time.monotonic()
        for _ in range(CHANGES // AT_ONCE):
            pending = [client.kv.Put(request, wait=False) for _ in range(AT_ONCE)]
            fan.wait(AT_ONCE * WATCHERS)
            for call in pending:
                call.result()
        took = time.monotonic() - began
        return {"calls": CHANGES * WATCHERS, "per_second": CHANGES * WATCHERS / took}

    for name in running.asked:
        one(name)
    figures = compare.alternate(running, rounds, one)
    for fan in fans.values():
        fan.close()
    return figures


def _resident(running: Running) -> dict[str, float]:
    return {name: memory_mib(daemon.pid) for name, daemon in running.asked.items()}


def _held(stores: Stores, folder: Path | None, held: dict[str, dict[str, float]], rounds: int) -> Table:
    """Memory and idle processor time."""
    rows = []
    idle: dict[str, list[float]] = {name: [] for name in stores.names}
    fresh: dict[str, list[float]] = {name: [] for name in stores.names}
    with stores.running(folder) as running:
        progress(f"idle: {IDLE_SECONDS} s")
        time.sleep(2)  # what starting leaves to do
        before = {name: running.cpu_seconds(name) for name in running.asked}
        time.sleep(IDLE_SECONDS)
        for name, daemon in running.asked.items():
            idle[name].append((running.cpu_seconds(name) - before[name]) / IDLE_SECONDS * 100)
            fresh[name].append(memory_mib(daemon.pid))
    rows += [
        compare.value_row(
            "idle, processor",
            idle,
            "%",
            "without clients or other members; both idle at the same time",
            digits=2,
        ),
        compare.value_row("memory, empty", fresh, "MiB", "resident, with what is mapped from files"),
    ]
    for load, each in held.items():
        note = "resident after so many seconds of the load: who served more calls has more history to hold"
        rows.append(
            compare.value_row(f"memory after {load}", {name: [each[name]] for name in each}, "MiB", note)
        )
    now: dict[str, list[float]] = {name: [] for name in stores.names}
    peak: dict[str, list[float]] = {name: [] for name in stores.names}
    for number in range(min(rounds, 3)):
        progress(f"memory of {FILLED:,} keys: round {number + 1}")
        with stores.running(folder) as running:
            for name, client in running.clients.items():
                h2load.fill(client, FILLED, 1024)
                now[name].append(memory_mib(running.asked[name].pid))
                peak[name].append(memory_mib(running.asked[name].pid, "VmHWM"))
    same = "the same keys in both, each written once, and no compaction; mapped files count"
    rows += [
        compare.value_row(f"memory of {FILLED:,} keys x 1 KiB", now, "MiB", same),
        compare.value_row(f"memory of {FILLED:,} keys x 1 KiB, at its most", peak, "MiB", same),
    ]
    return Table(
        title="one member: memory, and idle",
        note="a ratio above 1 says that netstored needs less",
        columns=compare.value_columns(stores.names),
        rows=tuple(rows),
        figures={"idle_percent": idle, "memory_mib": held, "filled_mib": now, "filled_peak_mib": peak},
    )
