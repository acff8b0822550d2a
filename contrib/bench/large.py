"""`large`: much data in one member: writing it, what it takes in memory and on disk, lists, compaction, a
snapshot, and how long the member needs until it serves again.

The stores run one after the other on the same disk, each with a quota above the size. Small puts go on, one
at a time, while each long piece of work runs: the longest of them says how long the work keeps others
waiting.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc

from contrib.bench import compare, h2load
from contrib.bench.compare import LOOPBACK
from contrib.bench.h2load import KEY, PUT, Load, put_op
from contrib.bench.report import Row, Table, progress
from contrib.bench.restart import again
from contrib.bench.stores import Running, cpu_seconds, memory_mib
from netstore.proto import rpc_pb2 as pb
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contrib.bench.compare import Sample
    from contrib.bench.stores import Start, Stores
    from tests.support.daemon import Daemon

MIB: Final = 1 << 20
GIB: Final = 1 << 30

VALUE: Final = 64 << 10
"""Bytes of a value."""

OPERATIONS: Final = 4
"""Puts of a transaction."""

UNDER_WAY: Final = 16
"""Transactions that wait for their answers at once: 4 MiB."""

SPACE: Final = 4
"""Free space that is needed, in sizes of the data: keys, the log, and what was overwritten."""

QUOTA: Final = 4
"""The quota of each store, in sizes of the data, beside `SMALL_PUTS`."""

SMALL_PUTS: Final = 1 << 30
"""Bytes for the versions that small puts leave: the faster a store is, the more."""

SNAPSHOT_COUNT: Final = 10_000
"""Of both stores. An etcd keeps so many entries of its log in memory and some thousands more; 100,000, its
default before 3.6, would be more than the data.
"""

SLOWEST: Final = 4.0
"""MiB a second: writing that is slower after `PATIENCE` seconds is given up."""

PATIENCE: Final = 60.0

CALL: Final = 60.0
"""Seconds that a write may take."""

LIMIT: Final = 1_800.0
"""Seconds of one call: a compaction, a snapshot, a list of everything."""

PAGE: Final = 500
PAGES: Final = 10
CHANGED: Final = 10
"""One of so many keys is overwritten."""

PAUSE: Final = 0.01
"""Seconds between two of the small puts that go on meanwhile."""

PREFIX: Final = b"/registry/configmaps/large/"
END: Final = b"/registry/configmaps/large0"

Figures = dict[str, float]
"""What was measured of a store, by what it is."""


class Size(NamedTuple):
    """How much data, and the rounds of small puts."""

    gib: float
    rounds: int
    seconds: int


@dataclass
class Found:
    """What was measured of a store; `given_up` says why no more was."""

    figures: Figures = field(default_factory=dict)
    puts: list[Sample] = field(default_factory=list)
    given_up: str = ""


class Measure(NamedTuple):
    """A line of the table. `note` says what in it does not hold elsewhere."""

    name: str
    unit: str
    note: str = ""
    digits: int = 1
    more: bool = False
    """More of it is better."""


_CLIENT: Final = "our own client, in Python, takes part of the time"
_MEANWHILE: Final = (
    "the longest of small puts, one at a time and 10 ms after the one before, while the work goes on"
)
_MOST: Final = "at its most, seen after each of these puts"
_RESIDENT: Final = (
    "with the pages of its files that it has mapped, which the kernel takes back when it needs them"
)
_PAGES: Final = f"from {PAGES} places drawn at random, 32 MiB each where there are so many keys; not decoded"
_START: Final = (
    "from the start of the process to an answered linearizable read; files in the page cache, as far as they"
    " fit: a machine that boots reads them first"
)

MEASURES: Final = (
    Measure("fill", "MiB/s", _CLIENT, more=True),
    Measure("fill: processor time", "s"),
    Measure("fill: longest put meanwhile", "ms", _MEANWHILE),
    Measure("fill: anonymous memory", "MiB", _MOST),
    Measure("memory after the fill", "MiB", _RESIDENT),
    Measure("memory after the fill, anonymous", "MiB"),
    Measure("disk after the fill", "MiB", "blocks of all files of the data folder, the log's too"),
    Measure(f"page of {PAGE} keys", "ms", _PAGES),
    Measure(f"page of {PAGE} keys: longest put meanwhile", "ms", _MEANWHILE),
    Measure(f"page of {PAGE} keys: anonymous memory", "MiB", _MOST),
    Measure("all keys without values", "ms", "the first such list; not decoded"),
    Measure("all keys without values: longest put meanwhile", "ms", _MEANWHILE),
    Measure("all keys without values: anonymous memory", "MiB", _MOST),
    Measure("count of all keys", "ms", "the first"),
    Measure(f"overwrite of one key of {CHANGED}", "MiB/s", _CLIENT, more=True),
    Measure("overwrite: processor time", "s"),
    Measure("overwrite: longest put meanwhile", "ms", _MEANWHILE),
    Measure("compaction", "s", "physical: until the call is answered", digits=2),
    Measure("compaction: processor time", "s", digits=2),
    Measure("compaction: longest put meanwhile", "ms", _MEANWHILE),
    Measure("compaction: anonymous memory", "MiB", _MOST),
    Measure("snapshot", "s", _CLIENT, digits=2),
    Measure("snapshot: rate", "MiB/s", _CLIENT, more=True),
    Measure("snapshot: size", "MiB"),
    Measure("snapshot: processor time", "s", digits=2),
    Measure("snapshot: longest put meanwhile", "ms", _MEANWHILE),
    Measure("snapshot: anonymous memory", "MiB", _MOST),
    Measure("memory before the stop", "MiB", _RESIDENT),
    Measure("memory before the stop, anonymous", "MiB"),
    Measure("memory at its most", "MiB", _RESIDENT),
    Measure("clean stop", "s", digits=2),
    Measure("start after it", "s", _START, digits=2),
    Measure("start after it: processor time", "s", digits=2),
    Measure("start after SIGKILL", "s", f"{_START}; killed at rest", digits=2),
    Measure("start after SIGKILL: processor time", "s", digits=2),
    Measure("memory after that start, anonymous", "MiB"),
    Measure("disk at the end", "MiB"),
)


class GivenUp(Exception):  # noqa: N818 - named for what happened
    """A store refused what was to be measured, or was too slow at it."""


def lack_of_space(gib: float, folder: Path | None) -> str | None:
    """Why that much data cannot be written there."""
    place = folder or Path(tempfile.gettempdir())
    needed, free = SPACE * gib, shutil.disk_usage(place).free / GIB
    if free >= needed:
        return None
    return f"{gib:,.10g} GiB of data need {needed:,.10g} GiB free in {place}; there are {free:.1f}"


def measure(stores: Stores, folder: Path | None, size: Size) -> Iterator[Table]:
    """Both tables: of all the work, done once, and of rounds of small puts after the fill."""
    found = {name: Found() for name in stores.names}
    for name, start in stores.one.items():
        try:
            of_store(name, start, folder, size, found[name])
        except GivenUp as reason:
            found[name].given_up = str(reason)
            progress(f"large: {name}: given up: {reason}")
    given_up = "".join(
        f". {name.upper()} WAS GIVEN UP: {each.given_up}" for name, each in found.items() if each.given_up
    )
    yield Table(
        title=f"{size.gib:g} GiB of data in one member, values of {VALUE >> 10} KiB",
        note=f"each done once, one store after the other on the same disk; {LOOPBACK}{given_up}",
        columns=compare.value_columns(stores.names),
        rows=tuple(
            row(each, [known.figures.get(each.name) for known in found.values()]) for each in MEASURES
        ),
        figures={name: {**each.figures, "given up": each.given_up} for name, each in found.items()},
    )
    puts = {name: each.puts for name, each in found.items()}
    if all(puts.values()):
        yield Table(
            title=f"small puts in a member with {size.gib:g} GiB of data",
            note=f"medians of {size.rounds} rounds of {size.seconds} s, one store after the other",
            columns=compare.load_columns(stores.names),
            rows=(compare.load_row(_PUTS.name, puts, _PUTS.note),),
            figures=puts,
        )


def row(what: Measure, values: list[float | None]) -> Row:
    """Its line; nothing where a store was given up before."""
    cells = ["" if value is None else f"{value:,.{what.digits}f} {what.unit}" for value in values]
    ours, theirs = values
    if ours is None or theirs is None:
        return Row(what.name, (*cells, ""), what.note)
    found = compare.ratios([ours], [theirs], less=not what.more)
    return Row(what.name, (*cells, compare.spread(found)), what.note, {"value": found[0]} if found else {})


def of_store(name: str, start: Start, folder: Path | None, size: Size, found: Found) -> None:
    """All of it with one store, which is gone afterwards. What is known goes into `found` at once. GivenUp if
    the store refuses something or takes too long, RuntimeError if it has lost something.
    """
    quota = int(QUOTA * size.gib * GIB) + SMALL_PUTS
    flags = ("--quota-backend-bytes", str(quota), "--snapshot-count", str(SNAPSHOT_COUNT))
    with (
        tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
        start(Path(scratch), *flags) as daemon,
    ):
        try:
            _Work(name, daemon, size, found).all()
        except Refused as refused:
            raise GivenUp(f"a call was refused: {refused}") from None
        except grpc.RpcError as error:
            raise GivenUp(f"a call was refused: {Refused(error)}") from None
        except TimeoutError as error:
            raise GivenUp(str(error)) from None


_PUTS: Final = Load("put, 100 clients", "KV/Put", PUT, 20, 5, f"beside the data, {h2load.ONE_KEY}", 1)


class _Work:
    """One store, and what was measured of it."""

    def __init__(self, name: str, daemon: Daemon, size: Size, found: Found) -> None:
        self._name = name
        self._daemon = daemon
        self._client = V3Client(daemon.url)
        self._keys = max(1, int(size.gib * GIB / VALUE))
        self._size = size
        self._found = found
        self._figures = found.figures
        self._chance = random.Random(1)  # noqa: S311 - a load
        self._bytes = self._chance.randbytes(2 * VALUE + self._keys)
        """Values are parts of it, each from another place."""

    def all(self) -> None:
        """Everything, in the order of `MEASURES`."""
        try:
            self._fill()
            self._puts()
            self._lists()
            self._overwrite()
            self._compaction()
            self._snapshot()
            self._memory("before the stop")
            self._figures["memory at its most"] = memory_mib(self._daemon.pid, "VmHWM")
        finally:
            self._client.close()
        self._restarts()

    def _fill(self) -> None:
        self._tell(f"filling it with {self._size.gib:g} GiB")
        self._rate("fill", "fill", range(self._keys))
        self._memory("after the fill")
        self._figures["disk after the fill"] = disk_mib(self._daemon.data_dir)

    def _puts(self) -> None:
        name, daemon = self._name, self._daemon
        running = Running({name: daemon}, {name: self._client}, {name: [daemon]})
        try:
            puts = h2load.run(running, _PUTS, self._size.rounds, self._size.seconds)
        except RuntimeError as refused:
            raise GivenUp(f"small puts: {refused}") from None
        self._found.puts += puts[name]

    def _lists(self) -> None:
        self._tell("lists")
        places = [self._chance.randrange(max(1, self._keys - PAGE)) for _ in range(PAGES)]
        pages = [pb.RangeRequest(key=_key(place), range_end=END, limit=PAGE) for place in places]
        name = f"page of {PAGE} keys"
        least = min(PAGE, self._keys) * VALUE
        self._figures[name] = self._timed(name, lambda: self._ranges(pages, least)) * 1000 / PAGES
        everything = [pb.RangeRequest(key=PREFIX, range_end=END, keys_only=True)]
        name = "all keys without values"
        least = self._keys * len(_key(0))
        self._figures[name] = self._timed(name, lambda: self._ranges(everything, least)) * 1000
        began = time.monotonic()
        self._count()
        self._figures["count of all keys"] = (time.monotonic() - began) * 1000

    def _overwrite(self) -> None:
        self._tell(f"overwriting one key of {CHANGED}")
        keys = self._chance.sample(range(self._keys), max(1, self._keys // CHANGED))
        self._rate(f"overwrite of one key of {CHANGED}", "overwrite", keys)

    def _compaction(self) -> None:
        self._tell("compaction")
        request = pb.CompactionRequest(revision=self._count(), physical=True)
        self._figures["compaction"] = self._timed(
            "compaction", lambda: self._client.kv.Compact(request, timeout=LIMIT)
        )

    def _snapshot(self) -> None:
        self._tell("snapshot")
        taken = 0

        def take() -> None:
            nonlocal taken
            for part in self._client.maintenance.Snapshot(pb.SnapshotRequest(), timeout=LIMIT):
                taken += len(part.blob)

        took = self._figures["snapshot"] = self._timed("snapshot", take)
        if taken < self._keys * VALUE:
            raise RuntimeError(f"{self._name}: a snapshot of {taken} bytes, less than its values")
        self._figures["snapshot: size"] = taken / MIB
        self._figures["snapshot: rate"] = taken / MIB / took

    def _restarts(self) -> None:
        daemon = self._daemon
        self._tell("starts")
        began = time.monotonic()
        daemon.stop(LIMIT)
        self._figures["clean stop"] = time.monotonic() - began
        for how in ("start after it", "start after SIGKILL"):
            self._figures[how] = again(daemon, kill=how == "start after SIGKILL")
            self._figures[f"{how}: processor time"] = cpu_seconds(daemon.pid)
            self._client = V3Client(daemon.url)
            try:
                self._count()
            finally:
                self._client.close()
        self._figures["memory after that start, anonymous"] = memory_mib(daemon.pid, "RssAnon")
        self._figures["disk at the end"] = disk_mib(daemon.data_dir)

    def _rate(self, name: str, what: str, keys: Iterable[int]) -> None:
        """Write these keys."""
        written = 0

        def write() -> None:
            nonlocal written
            written = self._write(keys)

        took = self._timed(what, write)
        self._figures[name] = written / MIB / took

    def _write(self, keys: Iterable[int]) -> int:
        """Bytes of values, once all calls are answered."""
        began = time.monotonic()
        waiting: deque[Any] = deque()
        operations: list[pb.RequestOp] = []
        written = 0

        def finish() -> None:
            waiting.popleft().result()
            passed = time.monotonic() - began
            if passed > PATIENCE and written / MIB / passed < SLOWEST:
                raise GivenUp(
                    f"{written / MIB:.0f} MiB written in {passed:.0f} s, less than {SLOWEST:g} MiB/s"
                )

        for number in keys:
            place = self._chance.randrange(len(self._bytes) - VALUE)
            operations.append(put_op(_key(number), self._bytes[place : place + VALUE]))
            written += VALUE
            if len(operations) == OPERATIONS:
                waiting.append(self._transaction(operations))
                operations = []
                if len(waiting) >= UNDER_WAY:
                    finish()
        if operations:
            waiting.append(self._transaction(operations))
        while waiting:
            finish()
        return written

    def _transaction(self, operations: list[pb.RequestOp]) -> Any:
        return self._client.kv.Txn(pb.TxnRequest(success=operations), wait=False, timeout=CALL)

    def _ranges(self, requests: list[pb.RangeRequest], least: int) -> None:
        """Answers of so many bytes or more, which are not decoded."""
        ask: Any = self._client.channel.unary_unary("/etcdserverpb.KV/Range")
        for request in requests:
            answer = ask(request.SerializeToString(), timeout=LIMIT)
            if len(answer) < least:
                raise RuntimeError(f"{self._name}: a list of {len(answer)} bytes, not {least}")

    def _count(self) -> int:
        """The revision, after a look at whether all keys are there."""
        request = pb.RangeRequest(key=PREFIX, range_end=END, count_only=True)
        answer = self._client.kv.Range(request, timeout=LIMIT)
        if answer.count != self._keys:
            raise RuntimeError(f"{self._name} has {answer.count} keys, not {self._keys}")
        revision: int = answer.header.revision
        return revision

    def _timed(self, what: str, work: Callable[[], object]) -> float:
        """Seconds that it takes; its processor time, and the longest small put and the most memory meanwhile,
        become figures."""
        before = cpu_seconds(self._daemon.pid)
        longest = most = 0.0
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(_seconds, work)
            while not under_way.done():
                put = time.monotonic()
                self._client.kv.Put(pb.PutRequest(key=KEY, value=PUT.value), timeout=CALL)
                longest = max(longest, time.monotonic() - put)
                most = max(most, memory_mib(self._daemon.pid, "RssAnon"))
                time.sleep(PAUSE)
        took = under_way.result()
        self._tell(f"{what}: {time.monotonic() - began:.1f} s")
        self._figures[f"{what}: processor time"] = cpu_seconds(self._daemon.pid) - before
        self._figures[f"{what}: longest put meanwhile"] = longest * 1000
        self._figures[f"{what}: anonymous memory"] = most
        return took

    def _memory(self, when: str) -> None:
        self._figures[f"memory {when}"] = memory_mib(self._daemon.pid)
        self._figures[f"memory {when}, anonymous"] = memory_mib(self._daemon.pid, "RssAnon")

    def _tell(self, what: str) -> None:
        progress(f"large: {self._name}: {what}")


def disk_mib(folder: Path) -> float:
    """Blocks of all files in it."""
    return sum(file.stat().st_blocks for file in folder.rglob("*") if file.is_file()) * 512 / MIB


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _key(number: int) -> bytes:
    return PREFIX + b"object-%08d" % number
