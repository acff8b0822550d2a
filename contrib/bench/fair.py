"""`fair`: what small requests wait for while others take all they can.

Eight clients list everything without a pause and one writes at full speed. Meanwhile, each in a process of
its own, one client makes small linearizable gets, one keeps a lease alive, and one watches a key that it
writes itself; the figures are theirs. Each store has the machine for itself while it is measured: the fill,
then so many seconds of load. Run as a program, this is one of those processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import grpc

from contrib.bench import compare
from contrib.bench.report import Row, Table, progress
from contrib.bench.stores import in_turn
from netstore.proto import rpc_pb2 as pb
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.bench.stores import Stores

VALUE: Final = 8192
FILL_OPS: Final = 100
SMALL: Final = b"fair/small"
WATCHED: Final = b"fair/watched"
LEASE: Final = 11
EVERY: Final = 0.01
"""Seconds between two small requests of one client."""

IN_FLIGHT: Final = 16
"""Writes that the writer has under way."""

MEASURED: Final = ("get", "keepalive", "watch")
LOADS: Final = ("list", "write")
_NOTE: Final = (
    "clients in Python, which share two processors with the store: what they wait for the processor counts"
    " too, and etcd lists on all processors, netstored on one"
)
LONGEST_CALL: Final = 60.0


def measure(
    stores: Stores, folder: Path | None, rounds: int, *, seconds: float, mib: int, listers: int
) -> Table:
    """Load and measure both stores, one after the other, in each round."""
    figures: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in stores.names}
    for number in range(rounds):
        for name in in_turn(stores.names, number):
            progress(f"fairness of {name}: round {number + 1} of {rounds}")
            with (
                tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
                stores.one[name](Path(scratch)) as store,
            ):
                figures[name].append(_one(store.url, seconds, mib, listers))
    rows = [
        compare.value_row(
            f"{what}, {share}",
            {name: [each[what][share] for each in runs] for name, runs in figures.items()},
            "ms",
            _NOTE,
        )
        for what in MEASURED
        for share in ("p50", "p99", "max")
    ]
    for what, text in (("list", "lists done"), ("write", "writes done"), ("terms", "elections")):
        counts = (median(each[what]["count"] for each in runs) for runs in figures.values())
        rows.append(Row(text, (*(f"{each:,.0f}" for each in counts), "")))
    return Table(
        title=f"small requests beside {listers} clients that list {mib} MiB and one that writes",
        note=f"{rounds} rounds of {seconds:g} s on each; one request in {EVERY * 1000:g} ms for each kind",
        columns=compare.value_columns(stores.names),
        rows=tuple(rows),
        figures=figures,
    )


def _one(url: str, seconds: float, mib: int, listers: int) -> dict[str, dict[str, float]]:
    client = V3Client(url)
    for first in range(0, mib * (1 << 20) // VALUE, FILL_OPS):
        client.kv.Txn(
            pb.TxnRequest(
                success=[
                    pb.RequestOp(request_put=pb.PutRequest(key=b"big/%08d" % number, value=os.urandom(VALUE)))
                    for number in range(first, first + FILL_OPS)
                ]
            )
        )
    client.kv.Put(pb.PutRequest(key=SMALL, value=b"x"))
    client.lease.LeaseGrant(pb.LeaseGrantRequest(ID=LEASE, TTL=60))
    term = client.kv.Range(pb.RangeRequest(key=SMALL)).header.raft_term
    with ExitStack() as running:
        processes = {}
        for what in (*LOADS, *MEASURED):
            count = listers if what == "list" else 1
            command = (
                sys.executable,
                "-m",
                "contrib.bench.fair",
                "--be",
                what,
                url,
                str(seconds),
                str(count),
            )
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            running.enter_context(process)
            processes[what] = process
        found = {what: json.loads(process.communicate()[0]) for what, process in processes.items()}
    after = client.kv.Range(pb.RangeRequest(key=SMALL)).header.raft_term
    client.close()
    return found | {"terms": {"count": after - term}}


# --- what one process does


def _until(seconds: float, call: Callable[[], object]) -> list[float]:
    """Make the call again and again, with a pause; how long each took, in seconds."""
    taken = []
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        call()
        taken.append(time.monotonic() - begun)
        time.sleep(EVERY)
    return taken


def _summary(taken: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * each for each in taken)
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


def _get(url: str, seconds: float) -> dict[str, float]:
    client = V3Client(url)
    wanted = pb.RangeRequest(key=SMALL)
    return _summary(_until(seconds, lambda: client.kv.Range(wanted, timeout=LONGEST_CALL)))


def _keepalive(url: str, seconds: float) -> dict[str, float]:
    with V3Client(url).lease.LeaseKeepAlive() as stream:

        def renew() -> None:
            stream.send(pb.LeaseKeepAliveRequest(ID=LEASE))
            stream.next(LONGEST_CALL)

        return _summary(_until(seconds, renew))


def _watch(url: str, seconds: float) -> dict[str, float]:
    """From the beginning of a write to its event."""
    client = V3Client(url)
    with client.watch.Watch() as stream:
        stream.send(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=WATCHED)))
        stream.next(LONGEST_CALL)

        def write() -> None:
            client.kv.Put(pb.PutRequest(key=WATCHED, value=b"x"), timeout=LONGEST_CALL)
            stream.next(LONGEST_CALL)

        return _summary(_until(seconds, write))


def _list(url: str, seconds: float, count: int) -> dict[str, float]:
    """`count` clients, each with a connection of its own; the answers are not taken apart."""
    end = time.monotonic() + seconds
    done = [0] * count
    wanted = pb.RangeRequest(key=b"big/", range_end=b"big0", serializable=True).SerializeToString()

    def run(place: int) -> None:
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        with grpc.insecure_channel(urlsplit(url).netloc, options=options) as channel:
            call: Any = channel.unary_unary("/etcdserverpb.KV/Range")
            while time.monotonic() < end:
                try:
                    call(wanted, timeout=max(0.1, end - time.monotonic()))
                except grpc.RpcError:
                    time.sleep(EVERY)
                else:
                    done[place] += 1

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"count": sum(done)}


def _write(url: str, seconds: float) -> dict[str, float]:
    client = V3Client(url)
    end = time.monotonic() + seconds
    done = 0
    waiting: list[Any] = []
    while time.monotonic() < end:
        request = pb.PutRequest(key=b"fair/write/%d" % (done % 1000), value=b"v" * 256)
        waiting.append(client.kv.Put(request, wait=False, timeout=LONGEST_CALL))
        if len(waiting) >= IN_FLIGHT:
            waiting.pop(0).result()
            done += 1
    return {"count": done}


def _be(what: str, url: str, seconds: float, count: int) -> dict[str, float]:
    if what == "list":
        return _list(url, seconds, count)
    parts = {"write": _write, "get": _get, "keepalive": _keepalive, "watch": _watch}
    try:
        return parts[what](url, seconds)
    except (Refused, grpc.RpcError) as fault:
        print(f"{what}: {fault}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    of, at, span, many = sys.argv[2:]
    print(json.dumps(_be(of, at, float(span), int(many))))
