"""`cluster`: three members of each store on loopback: v3 calls and v2 sets through the leader, and how long
nobody can write after the leader was killed.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import trio

from contrib.bench import compare, h2load, wrk
from contrib.bench.h2load import GET, ONE_KEY, ONE_READ, PUT, Load, some_keys
from contrib.bench.report import Table, progress
from contrib.bench.stores import PACE, Running, in_turn
from tests.support.cluster import Members, converged, write
from tests.support.patience import until
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.bench.compare import Figures
    from contrib.bench.stores import Stores
    from tests.support.daemon import Daemon

WRITE_EVERY: Final = 0.01
"""Seconds between two writes of the steady writer. It does not wait for answers: a write that is lost with
the leader must not keep the next one from being tried.
"""

BEFORE_KILL: Final = (0.5, 0.8)
"""Seconds of writing before a kill: at no fixed place between two heartbeats."""

LONGEST_WAIT: Final = 60.0
"""Seconds anything may take before the measurement is given up."""

_THREE: Final = (
    "three members and the load on the same processors, and messages that take no time: on three machines the"
    " network decides, and each member has its own processors"
)
LOADS: Final = (
    Load("put, 1 client", "KV/Put", PUT, 1, 1, _THREE, 1),
    Load("put, 100 clients", "KV/Put", PUT, 20, 5, f"{ONE_KEY}; {_THREE}", 1),
    Load(
        "range, linearizable, 100 clients", "KV/Range", GET, 20, 5, f"{ONE_READ}; {_THREE}", prepare=some_keys
    ),
)
V2: Final = (("v2 set, 1 connection", 1), ("v2 set, 64 connections", 64))

_KILLED: Final = (
    "the processes share a machine, so a connection to a dead leader is refused at once; a leader whose"
    " machine is gone is found out by the election timeout alone"
)

_REQUEST: Final = (
    b"PUT /v2/keys/failover HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=1"
)


@dataclass
class Kill:
    """One leader killed. Milliseconds from the signal until a write begun after it was acknowledged."""

    leader: str
    without_writes_ms: float
    attempts: int
    """Writes begun until then."""


@dataclass
class _Watch:
    """What the writers of one kill know."""

    killed_at: float = 0.0
    first: float = 0.0
    attempts: int = 0
    done: trio.Event = field(default_factory=trio.Event)


def measure(stores: Stores, folder: Path | None, rounds: int, seconds: int, kills: int) -> Iterator[Table]:
    """Loads for `rounds` rounds of `seconds`, then `kills` leaders of each.

    A table is yielded as soon as it is there. AssertionError when a cluster does not come back in a minute.
    """
    with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch, ExitStack() as undo:
        clusters: dict[str, Members] = {}
        for name, start in stores.three.items():
            (Path(scratch) / name).mkdir()
            clusters[name] = undo.enter_context(start(Path(scratch) / name))
        yield _loads(stores, clusters, rounds, seconds)
        if kills:
            yield _failovers(clusters, kills)


def _loads(stores: Stores, clusters: dict[str, Members], rounds: int, seconds: int) -> Table:
    figures: dict[str, Figures] = {}
    notes = {load.name: load.note for load in LOADS} | {name: _THREE for name, _ in V2}
    with ExitStack() as undo:
        leaders = {name: members[_leader(members)] for name, members in clusters.items()}
        clients = {name: V3Client(leader.url) for name, leader in leaders.items()}
        for client in clients.values():
            undo.callback(client.close)
        all_members = {name: list(members.daemons.values()) for name, members in clusters.items()}
        running = Running(leaders, clients, all_members)
        for load in LOADS:
            figures[load.name] = h2load.run(running, load, rounds, seconds)
        for name, connections in V2:
            figures[name] = wrk.run(
                running, name, "set", connections=connections, rounds=rounds, seconds=seconds
            )
    return Table(
        title="three members, through the leader, every write synced by two",
        note=(
            f"medians of {rounds} alternating rounds of {seconds} s; processor time of all three;"
            f" {' '.join(PACE)}"
        ),
        columns=compare.load_columns(stores.names),
        rows=tuple(compare.load_row(name, each, notes[name]) for name, each in figures.items()),
        figures=figures,
    )


def _failovers(clusters: dict[str, Members], kills: int) -> Table:
    chance = random.Random()  # noqa: S311 - moments in time
    found: dict[str, list[Kill]] = {store: [] for store in clusters}
    for number in range(kills):
        if number % 5 == 0:
            progress(f"kills of the leader: {number + 1} of {kills}")
        for store in in_turn(clusters, number):
            found[store].append(_fail_over(clusters[store], chance.uniform(*BEFORE_KILL), number))
    spans = {store: [each.without_writes_ms for each in list_] for store, list_ in found.items()}
    rows = [
        compare.value_row(
            name, {store: [rank(each)] for store, each in spans.items()}, "ms", _KILLED, digits=0
        )
        for name, rank in (("median", median), ("p99", _p99))
    ]
    return Table(
        title=f"time without writes after kill -9 of the leader of three, {kills} kills each",
        note=(
            "from the signal to the first answer to a write begun after it at a survivor;"
            f" {' '.join(PACE)}; p99 by nearest rank"
        ),
        columns=compare.value_columns(list(clusters)),
        rows=tuple(rows),
        figures={store: [asdict(each) for each in list_] for store, list_ in found.items()},
    )


def _p99(values: list[float]) -> float:
    return sorted(values)[ceil(0.99 * len(values)) - 1]


def _fail_over(members: Members, before: float, number: int) -> Kill:
    """Kill the leader under the writer; then bring it back and wait until it has caught up."""
    leader = _leader(members)
    survivors = [daemon for name, daemon in members.daemons.items() if name != leader]
    seen = trio.run(_write_through_a_kill, members[leader], survivors, before)
    members[leader].process.wait(LONGEST_WAIT)
    members[leader].start_again(LONGEST_WAIT)
    write(survivors[0], "caught-up", str(number))
    converged(members, "caught-up", str(number))
    return Kill(leader, (seen.first - seen.killed_at) * 1e3, seen.attempts)


async def _write_through_a_kill(leader: Daemon, survivors: list[Daemon], before: float) -> _Watch:
    """A write every so often, at one survivor after the other, from before the kill until one that was begun
    after it is acknowledged. TooSlowError when none is.
    """
    seen = _Watch()
    with trio.fail_after(LONGEST_WAIT):
        async with trio.open_nursery() as nursery:
            for survivor in survivors:
                nursery.start_soon(_keep_writing, nursery, survivor, WRITE_EVERY * len(survivors), seen)
            await trio.sleep(before)
            seen.killed_at = trio.current_time()
            leader.process.kill()
            await seen.done.wait()
            nursery.cancel_scope.cancel()
    return seen


async def _keep_writing(nursery: trio.Nursery, daemon: Daemon, pause: float, seen: _Watch) -> None:
    while True:
        nursery.start_soon(_write, daemon, seen)
        await trio.sleep(pause)


async def _write(daemon: Daemon, seen: _Watch) -> None:
    begun = trio.current_time()
    counts = bool(seen.killed_at)
    seen.attempts += counts
    with trio.socket.socket() as sock:
        await sock.connect((daemon.host, daemon.port))
        await sock.send(_REQUEST)
        status = (await sock.recv(1 << 16))[9:12]
    if counts and status in {b"200", b"201"} and begun > seen.killed_at and not seen.done.is_set():
        seen.first = trio.current_time()
        seen.done.set()


def _leader(members: Members) -> str:
    return until(members.leader, "the members have a leader", LONGEST_WAIT)
