"""Unary v3 calls by h2load, which sends one fixed body again and again: puts go to one key."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contrib.bench.compare import alternate
from contrib.bench.objects import Callers
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
    """`rounds` rounds of `seconds` on each store, after one second that does not count. RuntimeError if a
    call was refused.
    """
    progress(f"{load.name}: {rounds} rounds of {seconds} s on each store")
    with tempfile.TemporaryDirectory() as scratch:
        body = Path(scratch) / "body"
        message = load.request.SerializeToString()
        body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        for name, client in running.clients.items():
            if load.prepare is not None:
                load.prepare(client)
            _h2load(running.asked[name].url, load, body, 1)
        least = {name: answer_bytes(store.url, load) for name, store in running.asked.items()}

        def one(name: str) -> Sample:
            client = running.clients[name]
            before = _revision(client)
            sample = _h2load(running.asked[name].url, load, body, seconds, least[name])
            made = _revision(client) - before
            if made < sample["calls"] * load.revisions:
                raise RuntimeError(f"{name}: {sample['calls']} calls made {made} revisions")
            return sample

        return alternate(running, rounds, one)


def _revision(client: V3Client) -> int:
    revision: int = client.kv.Range(pb.RangeRequest(key=b"none", serializable=True)).header.revision
    return revision


def answer_bytes(url: str, load: Load) -> int:
    """How long an answer is, of a call that is known to succeed. Later ones are as long or longer: revisions
    and versions only grow.
    """
    message = load.request.SerializeToString()
    answers: list[bytes] = []
    with closing(Callers(url, 1)) as callers:
        callers.run(load.method, [(0, message)], lambda _, answer: answers.append(answer))
    return 5 + len(answers[0])


def _h2load(url: str, load: Load, body: Path, seconds: int, least: int = 0) -> Sample:
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
    check(outcome.stdout, least, f"{load.name} on {url}")
    times = sorted(int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines())
    return {"calls": len(times), "per_second": len(times) / seconds, **latencies(times, 1000)}


def check(told: str, least: int, what: str) -> None:
    """RuntimeError unless each call had an answer of at least so many bytes. What h2load calls a success is a
    status of HTTP, which a refused call of gRPC has as well; but it has no message.
    """
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", told)
    data = re.search(r"\((\d+)\) data", told)
    if counts is None or data is None or any(map(int, counts.groups()[1:])):
        raise RuntimeError(f"{what}:\n{told}")
    if int(data[1]) < int(counts[1]) * least:
        raise RuntimeError(f"{what}: {counts[1]} calls, {data[1]} bytes, {least} for each expected:\n{told}")


def latencies(ordered: list[int] | list[float], unit: float) -> Sample:
    """p50 and p99 of sorted times; `unit` of them are a millisecond."""
    if not ordered:
        return {"p50_ms": float("inf"), "p99_ms": float("inf")}
    return {
        f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / unit
        for share in (50, 99)
    }


def by_callers(
    running: Running, name: str, rounds: int, make: Callable[[str], tuple[int, list[float]]]
) -> Figures:
    """`rounds` rounds of our own client on each store, after one that does not count. `make` makes one: the
    number of calls, and the seconds that each took.
    """
    progress(f"{name}: {rounds} rounds on each store")

    def one(store: str) -> Sample:
        began = time.monotonic()
        calls, took = make(store)
        passed = time.monotonic() - began
        return {"calls": calls, "per_second": calls / passed, **latencies(sorted(took), 0.001)}

    for store in running.asked:
        make(store)
    return alternate(running, rounds, one)
