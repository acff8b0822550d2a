"""Unary v3 calls by h2load, which sends one fixed body again and again: puts go to one key."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contrib.bench.compare import alternate
from contrib.bench.report import progress
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from contrib.bench.compare import Figures, Sample
    from contrib.bench.stores import Running
    from tests.support.v3client import V3Client

KEY: Final = b"/bench/key"
VALUE: Final = b"v" * 256

ONE_KEY: Final = "one key, written again and again: neither store's index grows, and both keep it in cache"
ONE_READ: Final = "the same key each time, which is in memory"


@dataclass(frozen=True)
class Load:
    """One load: `connections` with `streams` calls open on each. `note` says whom it flatters."""

    name: str
    method: str
    request: Message
    connections: int
    streams: int
    note: str
    revisions: int = 0
    """How many revisions a call makes."""
    prepare: Callable[[V3Client], None] | None = None


def put_op(key: bytes, value: bytes = VALUE) -> pb.RequestOp:
    """A put of a transaction."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def fill(client: V3Client, count: int, size: int, prefix: bytes = b"/list/") -> None:
    """So many keys with values of `size` bytes."""
    for first in range(0, count, 100):
        numbers = range(first, min(first + 100, count))
        ops = [put_op(prefix + b"%08d" % number, b"x" * size) for number in numbers]
        client.kv.Txn(pb.TxnRequest(success=ops), timeout=60.0)


def some_keys(client: V3Client) -> None:
    """A thousand keys, and the one that is read."""
    fill(client, 1_000, len(VALUE))
    client.kv.Put(pb.PutRequest(key=KEY, value=VALUE))


PUT: Final = pb.PutRequest(key=KEY, value=VALUE)
GET: Final = pb.RangeRequest(key=KEY)


def run(running: Running, load: Load, rounds: int, seconds: int) -> Figures:
    """`rounds` rounds of `seconds` on each store, after one second that does not count."""
    progress(f"{load.name}: {rounds} rounds of {seconds} s on each store")
    with tempfile.TemporaryDirectory() as scratch:
        body = Path(scratch) / "body"
        message = load.request.SerializeToString()
        body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        for name, client in running.clients.items():
            if load.prepare is not None:
                load.prepare(client)
            _h2load(running.asked[name].url, load, body, 1)

        def one(name: str) -> Sample:
            client = running.clients[name]
            before = _revision(client)
            sample = _h2load(running.asked[name].url, load, body, seconds)
            made = _revision(client) - before
            if made < sample["calls"] * load.revisions:
                raise RuntimeError(f"{name}: {sample['calls']} calls made {made} revisions")
            return sample

        return alternate(running, rounds, one)


def _revision(client: V3Client) -> int:
    revision: int = client.kv.Range(pb.RangeRequest(key=b"none", serializable=True)).header.revision
    return revision


def _h2load(url: str, load: Load, body: Path, seconds: int) -> Sample:
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
    return {"calls": len(times), "per_second": len(times) / seconds, **latencies(times, 1000)}


def latencies(ordered: list[int] | list[float], unit: float) -> Sample:
    """p50 and p99 of sorted times; `unit` of them are a millisecond."""
    if not ordered:
        return {"p50_ms": float("inf"), "p99_ms": float("inf")}
    return {
        f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / unit
        for share in (50, 99)
    }
