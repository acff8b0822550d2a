"""`python -m contrib.bench.soak`: whether memory and speed stay as they are while the same keys change again
and again.

A round is so many puts and transactions on the same keys, in an order drawn anew; the history is compacted
every so many seconds. For each round and store: how long it took, the processor time of the store, and its
anonymous memory (RssAnon: what is not a page of its file) at the end of the round. The stores take turns. A
time that goes up with the rounds, or memory that does not stop growing, is a fault.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contrib.bench.stores import OURS, beside
from netstore.proto import rpc_pb2 as pb
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from contrib.bench.stores import Start
    from tests.support.daemon import Daemon

OUTSTANDING: Final = 100
"""Calls that wait for their answers at once."""

LEAST_KEYS: Final = 2

TICKS: Final = os.sysconf("SC_CLK_TCK")


class Size(NamedTuple):
    """What a round is."""

    puts: int
    txns: int
    keys: int
    value: int
    compact_seconds: float


class Soaked:
    """One store and how far it has come."""

    def __init__(self, daemon: Daemon, size: Size) -> None:
        self.daemon = daemon
        self.client = V3Client(daemon.url)
        self._size = size
        self._since_compaction = 0.0
        """Seconds of its own rounds."""
        self._compacted_at = 0.0

    def round(self, seed: int) -> str:
        """Do one round, the same for all stores; its figures."""
        began, worked = time.monotonic(), self._worked()
        self._compacted_at = began - self._since_compaction
        waiting: deque[Any] = deque()
        for name, request in requests(self._size, seed):
            waiting.append(getattr(self.client.kv, name)(request, wait=False))
            if len(waiting) >= OUTSTANDING:
                self._finish(waiting.popleft())
        while waiting:
            self._finish(waiting.popleft())
        self._since_compaction = time.monotonic() - self._compacted_at
        seconds, worked = time.monotonic() - began, self._worked() - worked
        return f"{seconds:7.1f} s {worked:7.1f} s cpu {self._anonymous():6.0f} MiB"

    def _finish(self, call: Any) -> None:
        """Wait for the answer to a call, a future of grpc; compact if that is due."""
        answer = call.result()
        now = time.monotonic()
        if now - self._compacted_at >= self._size.compact_seconds:
            self._compacted_at = now
            self.client.kv.Compact(pb.CompactionRequest(revision=answer.header.revision))

    def _anonymous(self) -> float:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]  # always there

    def _worked(self) -> float:
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def requests(size: Size, seed: int) -> Iterator[tuple[str, Message]]:
    """The calls of a round: a transaction compares a key's version, and changes it and another one."""
    draw = random.Random(seed)  # noqa: S311 - the same for all stores
    every = max(1, size.puts // max(1, size.txns))
    for number in range(size.puts):
        yield "Put", _put(size, draw)
        if number % every == 0 and number // every < size.txns:
            first, second = _put(size, draw), _put(size, draw)
            while second.key == first.key:
                second = _put(size, draw)
            compare = pb.Compare(
                result=pb.Compare.GREATER, target=pb.Compare.VERSION, key=first.key, version=0
            )
            puts = [pb.RequestOp(request_put=first), pb.RequestOp(request_put=second)]
            yield "Txn", pb.TxnRequest(compare=[compare], success=puts, failure=puts)


def _put(size: Size, draw: random.Random) -> pb.PutRequest:
    return pb.PutRequest(key=b"/soak/%08d" % draw.randrange(size.keys), value=draw.randbytes(size.value))


def soak(starters: dict[str, Start], folder: Path, size: Size, rounds: int) -> None:
    """All rounds on all stores, a line for each."""
    stores: dict[str, Soaked] = {}
    try:
        for name, start in starters.items():
            (folder / name).mkdir()
            stores[name] = Soaked(start(folder / name), size)
        for number in range(rounds):
            told = [f"{name}: {store.round(number)}" for name, store in stores.items()]
            print(f"round {number + 1}:  {'   '.join(told)}", flush=True)
    finally:
        for store in stores.values():
            store.client.close()
            store.daemon.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds (9)")
    parser.add_argument("--puts", type=int, default=100_000, help="puts in a round (100000)")
    parser.add_argument("--txns", type=int, default=20_000, help="transactions in a round (20000)")
    parser.add_argument("--keys", type=int, default=20_000, help="keys that change (20000)")
    parser.add_argument("--value", type=int, default=256, help="bytes of a value (256)")
    parser.add_argument("--compact-seconds", type=float, default=60.0, help="between compactions (60)")
    parser.add_argument("--alone", action="store_true", help="netstored only")
    parser.add_argument("--etcd", metavar="PATH", default="etcd", help="the etcd beside it (Debian's)")
    parser.add_argument("--against", metavar="CHECKOUT", type=Path, help="netstored of this folder beside it")
    given = parser.parse_args()
    if given.keys < LEAST_KEYS:
        parser.error(f"--keys: {LEAST_KEYS} or more, because a transaction changes two")
    if given.rounds < 1:
        parser.error("--rounds: 1 or more")
    starters = beside(given.against, given.etcd).one
    if given.alone:
        starters = {OURS: starters[OURS]}
    size = Size(given.puts, given.txns, given.keys, given.value, given.compact_seconds)
    with tempfile.TemporaryDirectory(prefix="netstore-soak-") as folder:
        soak(starters, Path(folder), size, given.rounds)


if __name__ == "__main__":
    main()
