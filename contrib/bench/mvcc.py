"""`python -m contrib.bench.mvcc`: what the bare v3 state costs, without log, network or other members.

Processor time of the thread that is the loop in a member, and the best of several rounds: what else runs on
the machine can only make it slower.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.disk.engine import LmdbEngine
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3 import commands as v3
from netstore.types import Index
from netstore.watch.streams import Selection
from netstore.watch.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH: Final = 64
"""Commands applied before the state is handed to the engine, as under load."""

PIECE: Final = 5_000
"""Commands made at a time, so that they do not count as the store's memory."""

VALUE: Final = b"v" * 1024


class _Calls:
    """What the engine's thread wants done on the loop, which here is the benchmark."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], object]] = []

    def add(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)

    def run(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()


class _Bench:
    """A machine on a real engine, and the figures so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.lmdb"
        self._calls = _Calls()
        self.engine, self.machine = self._open()

    def _open(self) -> tuple[LmdbEngine, Machine]:
        def failed(error: OSError) -> None:
            raise error

        engine = LmdbEngine(self._path, self._calls.add, TABLES, failed)
        machine = Machine(engine)
        machine.load()
        return engine, machine

    def reopen(self) -> float:
        """Close, open and load again; the seconds that loading took."""
        self.engine.close()
        gc.collect()
        start = time.thread_time()
        self.engine, self.machine = self._open()
        return time.thread_time() - start

    def apply(self, commands: list[bytes], watches: Watches | None = None) -> float:
        """Microseconds for each command, batches saved and published included."""
        machine, calls = self.machine, self._calls
        start = time.thread_time()
        for at in range(0, len(commands), BATCH):
            for command in commands[at : at + BATCH]:
                machine.apply(Index(machine.applied + 1), command)
            changes = machine.take_changes()
            if watches is not None:
                watches.publish(changes)
            machine.save()
            calls.run()
        return (time.thread_time() - start) / len(commands) * 1e6


class _Nowhere:
    """A sink that counts."""

    backlog = 0

    def __init__(self) -> None:
        self.responses = 0

    def send(self, *_: object, **__: object) -> None:
        """One more."""
        self.responses += 1

    def broken(self) -> None:
        """Never: nothing is made here that could fail."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.mvcc", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="keys in the store (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (5)")
    parser.add_argument("--folder", type=Path, help="where the state lies (a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=arguments.folder) as folder:
        _measure(_Bench(Path(folder)), arguments.keys, arguments.rounds)


def _measure(bench: _Bench, count: int, rounds: int) -> None:
    spent = 0.0
    for first in range(0, count, PIECE):
        names = [_name(number) for number in range(first, min(first + PIECE, count))]
        spent += bench.apply([encode(v3.Put(name, VALUE)) for name in names]) * len(names)
    _show(f"put, {count:,} new keys of 1 KiB", spent / count)
    _show_memory()
    several = [_name(number) for number in range(0, count, max(1, count // 2_000))][:2_000]
    puts = [encode(v3.Put(name, VALUE)) for name in several]
    _show("put, key that is there", min(bench.apply(puts) for _ in range(rounds)))
    creates = [
        [
            encode(v3.Txn((v3.Compare(name + suffix, v3.MOD),), (v3.Put(name + suffix, VALUE),)))
            for name in several
        ]
        for suffix in (b"-%d" % number for number in range(rounds))
    ]
    _show("txn, create as Kubernetes does", min(bench.apply(commands) for commands in creates))

    watches = Watches(bench.machine.mvcc, lambda: None)
    for prefix in range(200):
        kind = b"/registry/kind-%03d" % prefix
        watches.open(_Nowhere()).create(Selection(kind + b"/", kind + b"0", prev_kv=True))
    _show("put, 200 watched prefixes, none hit", min(bench.apply(puts, watches) for _ in range(rounds)))
    sinks = [_Nowhere() for _ in range(1_000)]
    for sink in sinks:
        watches.open(sink).create(Selection(b"/registry/pods/", b"/registry/pods0", prev_kv=True))
    alone = min(bench.apply(puts) for _ in range(rounds))
    told = min(bench.apply(puts[:BATCH], watches) for _ in range(rounds)) - alone
    _show(f"event to 1,000 watches, batch of {BATCH}, for each watch", told / 1_000)

    _show("range, one key", _each(bench, [v3.Range(name) for name in several], rounds))
    whole = v3.Range(b"/registry/pods/", b"/registry/pods0", limit=1_000)
    _show("range, 1,000 keys, for each", _each(bench, [whole] * 5, rounds) / 1_000)
    _show("count of everything", _each(bench, [v3.Range(b"/", b"0", count_only=True)] * 50, rounds))
    revision = bench.machine.mvcc.revision - 10_000
    page = v3.Range(_name(count // 2), b"/registry/pods0", limit=500, revision=max(revision, 2))
    _show("page of 500 keys, 10,000 revisions ago, for each", _each(bench, [page] * 5, rounds) / 500)

    compact = encode(v3.Compact(bench.machine.mvcc.revision))
    bench.apply([compact])
    log = bench.machine.mvcc._index.log  # noqa: SLF001
    records, longest, start = log.end - log.first, 0.0, time.thread_time()
    while bench.machine.sweeping:
        step = time.thread_time()
        bench.machine.sweep()
        longest = max(longest, time.thread_time() - step)
    _show(f"compaction of {records:,} changes, for each", (time.thread_time() - start) / records * 1e6)
    _show("  its longest step", longest * 1e6)
    seconds = bench.reopen()
    print(f"{'load, for each record':52} {seconds / count * 1e6:10.2f} us  ({seconds:.2f} s)")
    _show_memory()


def _name(number: int) -> bytes:
    return b"/registry/pods/default/pod-%08d" % number


def _show_memory() -> None:
    """Of the process: its own, and what of the state's file is mapped."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {line[0]: int(line[1]) for line in lines if line[0] in {"RssAnon:", "RssFile:"}}
    own, mapped = kib["RssAnon:"] / 1024, kib["RssFile:"] / 1024
    print(f"{'resident memory, own and mapped from files':52} {own:6.0f} MiB, {mapped:.0f} MiB", flush=True)


def _each(bench: _Bench, queries: list[v3.Range], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for query in queries:
            bench.machine.mvcc.range(query)
        best = min(best, (time.thread_time() - start) / len(queries) * 1e6)
    return best


def _show(what: str, microseconds: float) -> None:
    print(f"{what:52} {microseconds:10.2f} us", flush=True)


if __name__ == "__main__":
    main()
