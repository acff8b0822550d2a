"""`growth`: what a put, a read and an event cost one netstored, and what it holds, with more and more keys
and watchers.

Costs are processor time of the process. What grows faster than the logarithm of the number is named: from
10,000 to 1,000,000 keys a cost may grow by half.
"""

from __future__ import annotations

import math
import random
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contrib.bench import svg
from contrib.bench.fan import AT_ONCE, Fan
from contrib.bench.h2load import fill
from contrib.bench.objects import Callers
from contrib.bench.report import Row, Table, progress
from contrib.bench.stores import cpu_seconds, memory_mib
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.daemon import Daemon

CALLERS: Final = 20
CALLS: Final = 10_000
LISTS: Final = 400
PAGE: Final = 500
EVENTS: Final = 100_000
"""Events of a round, whatever the number of watchers, but no more than `MOST_PUTS` puts."""

MOST_PUTS: Final = 5_000
STREAMS: Final = 100
"""Watchers on one connection."""

VALUE: Final = b"v" * 256
TOLERATED: Final = 1.15
"""Times the logarithm: what may be the machine's."""

LEAST: Final = 10
"""A number below has no logarithm to speak of."""

PREFIX: Final = b"/list/"
WATCHED: Final = b"/watched"

Points = list[tuple[int, float]]
"""Number -> cost."""

_NOTES: Final = {
    "put us": "keys drawn at random, each as likely; real loads write few keys often",
    "range us": "the same",
    "list us a key": f"pages of {PAGE} keys that lie together, from places drawn at random",
    "memory bytes a key": "resident memory without what is mapped from files, less that of an empty store;"
    " names of 14 bytes, and values of 256 bytes, which are in the file",
    "event us": "to all watchers of one key, so each is encoded once",
    "other put us": "of a key that nobody watches",
    "memory KiB a watcher": f"{STREAMS} watchers on a connection",
}


def measure(
    keys: Sequence[int], watchers: Sequence[int], folder: Path | None, file: Path | None
) -> Iterator[Table]:
    """Both tables; a drawing into `file`."""
    found = _of_keys(keys, folder)
    yield _table("keys", found)
    watched = _of_watchers(watchers, folder)
    yield _table("watchers", watched)
    if file is not None:
        file.write_text(drawn({"keys": found, "watchers": watched}))


def worse_than_logarithmic(points: Points) -> list[str]:
    """Words for each step at which a cost grew faster than the logarithm of the number."""
    steps = []
    for (few, before), (many, after) in pairwise(points):
        allowed = math.log(many) / math.log(few) if few >= LEAST else math.inf
        if before > 0 and after / before > allowed * TOLERATED:
            steps.append(
                f"{after / before:.2f} times from {few:,} to {many:,}, the logarithm {allowed:.2f} times"
            )
    return steps


def drawn(found: dict[str, dict[str, Points]]) -> str:
    """A panel for each cost, over the logarithm of the number."""
    panels = []
    for what, costs in found.items():
        for name, points in costs.items():
            ticks = [(math.log10(number), f"{number:,}") for number, _ in points]
            line = [(math.log10(number), cost) for number, cost in points]
            marks = ["faster than the logarithm"] if worse_than_logarithmic(points) else []
            panels.append(svg.Panel(f"{name}, by {what}", {"netstored": line}, ticks, marks=marks))
    return svg.page(panels, 2, "what more keys and watchers cost")


def _table(what: str, found: dict[str, Points]) -> Table:
    rows = []
    for name, points in found.items():
        worse = worse_than_logarithmic(points)
        note = _NOTES[name] + "".join(f". WORSE THAN LOGARITHMIC: {step}" for step in worse)
        rows.append(Row(name, tuple(f"{cost:,.2f}" for _, cost in points), note))
    numbers = [number for number, _ in next(iter(found.values()))]
    named = [row.name for row in rows if "WORSE" in row.note]
    verdict = (
        f"grows faster than the logarithm: {', '.join(named)}"
        if named
        else "nothing grows faster than the logarithm"
    )
    return Table(
        title=f"what one netstored needs with so many {what}",
        note=f"processor time of the process; {verdict}",
        columns=tuple(f"{number:,}" for number in numbers),
        rows=tuple(rows),
        figures=found,
    )


def _cost(daemon: Daemon, work: Callable[[], int]) -> float:
    """Microseconds of its processor for each piece of work."""
    before = cpu_seconds(daemon.pid)
    pieces = work()
    return (cpu_seconds(daemon.pid) - before) / pieces * 1e6


def _of_keys(numbers: Sequence[int], folder: Path | None) -> dict[str, Points]:
    found: dict[str, Points] = {"put us": [], "range us": [], "list us a key": [], "memory bytes a key": []}
    chance = random.Random(1)  # noqa: S311 - a load
    with (
        tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
        start_netstored(Path(scratch)) as daemon,
    ):
        client, callers = V3Client(daemon.url), Callers(daemon.url, CALLERS)
        empty = memory_mib(daemon.pid, "RssAnon")
        for number in numbers:
            progress(f"growth: {number:,} keys")
            _compact(client)
            fill(client, number, len(VALUE), PREFIX)
            _compact(client)
            names = [PREFIX + b"%08d" % chance.randrange(number) for _ in range(CALLS)]
            gets = [pb.RangeRequest(key=name).SerializeToString() for name in names]
            puts = [pb.PutRequest(key=name, value=VALUE).SerializeToString() for name in names]
            pages = [
                pb.RangeRequest(key=name, range_end=b"/list0", limit=PAGE).SerializeToString()
                for name in names[:LISTS]
            ]
            held = (memory_mib(daemon.pid, "RssAnon") - empty) * (1 << 20) / number
            for what, method, messages, each in (
                ("range us", "KV/Range", gets, 1),
                ("list us a key", "KV/Range", pages, PAGE),
                ("put us", "KV/Put", puts, 1),
            ):
                _made(callers, method, messages[: len(messages) // 10])
                cost = _cost(daemon, partial(_made, callers, method, messages))
                found[what].append((number, cost / each))
            found["memory bytes a key"].append((number, held))
        callers.close()
        client.close()
    return found


def _compact(client: V3Client) -> None:
    """Forget history, so that what is measured is the keys."""
    revision = client.kv.Range(pb.RangeRequest(key=b"none")).header.revision
    if revision > 1:
        client.kv.Compact(pb.CompactionRequest(revision=revision, physical=True), timeout=300.0)


def _made(callers: Callers, method: str, messages: list[bytes]) -> int:
    return len(callers.run(method, enumerate(messages), lambda _number, _answer: None))


def _of_watchers(numbers: Sequence[int], folder: Path | None) -> dict[str, Points]:
    found: dict[str, Points] = {"event us": [], "other put us": [], "memory KiB a watcher": []}
    for number in numbers:
        progress(f"growth: {number:,} watchers")
        with (
            tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
            start_netstored(Path(scratch)) as daemon,
        ):
            client, callers = V3Client(daemon.url), Callers(daemon.url, CALLERS)
            others = [
                pb.PutRequest(key=b"/other/%04d" % (each % 1_000), value=VALUE).SerializeToString()
                for each in range(CALLS)
            ]
            _made(callers, "KV/Put", others)
            empty = memory_mib(daemon.pid, "RssAnon")
            fan = Fan(daemon.url, WATCHED, number, max(1, number // STREAMS))
            held = (memory_mib(daemon.pid, "RssAnon") - empty) * 1024 / number
            tell = partial(_told, callers, fan, number)
            tell()
            found["event us"].append((number, _cost(daemon, tell)))
            found["other put us"].append((number, _cost(daemon, partial(_made, callers, "KV/Put", others))))
            found["memory KiB a watcher"].append((number, held))
            fan.close()
            callers.close()
            client.close()
    return found


def _told(callers: Callers, fan: Fan, watchers: int) -> int:
    """Events, once all have come."""
    left = puts = max(1, min(MOST_PUTS, EVENTS // watchers))
    request = pb.PutRequest(key=WATCHED, value=fan.mark).SerializeToString()
    while left:
        some = min(left, AT_ONCE)
        _made(callers, "KV/Put", [request] * some)
        fan.wait(some * watchers)
        left -= some
    return puts * watchers
