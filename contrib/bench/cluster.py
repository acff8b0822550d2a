"""Three members of netstored and three of etcd, on loopback: v2 sets through the leader, and how long nobody
can write after the leader was killed.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Final

import trio

from contrib.bench import keys
from contrib.bench.report import Row, Table, progress
from tests.support.cluster import Members, converged, write
from tests.support.daemon import Daemon, spawn
from tests.support.patience import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ELECTION_TIMEOUT_MS: Final = 1_000
PACE: Final = ("--heartbeat-interval", "100", "--election-timeout", str(ELECTION_TIMEOUT_MS))
"""The defaults of both; said, so that nobody has to look them up."""

CONNECTIONS: Final = (1, 64)

WRITE_EVERY: Final = 0.01
"""Seconds between two writes of the steady writer. It does not wait for answers: a write that is lost with
the leader must not keep the next one from being tried.
"""

BEFORE_KILL: Final = (0.5, 0.8)
"""Seconds of writing before a kill: at no fixed place between two heartbeats."""

LONGEST_WAIT: Final = 60.0
"""Seconds anything may take before the measurement is given up."""

_REQUEST: Final = (
    b"PUT /v2/keys/failover HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=1"
)


class Etcds(Members):
    """Three members of Debian's etcd with the same flags."""

    def spawn(self, name: str, *flags: str) -> Daemon:
        """Start a member for the first time, and do not wait."""
        peer_url = self.peer_url(name)
        client_url = f"http://{self.host_of(name)}:{self.ports[name][0]}"
        data = self.folder / f"{name}.data"
        command = (
            *("etcd", "--enable-v2", "--name", name, "--data-dir", str(data)),
            *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *self.flags,
            *flags,
        )
        daemon = self.daemons[name] = spawn(command, client_url, data, self.folder / f"{name}.log")
        return daemon


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


def measure(folder: Path, rounds: int, seconds: int, kills: int) -> Iterator[Table]:
    """Sets by wrk for `rounds` rounds of `seconds`, then `kills` leaders of each; the data lies in `folder`.

    A table is yielded as soon as it is there. AssertionError when a cluster does not come back in a minute.
    """
    for name in ("ours", "theirs"):
        (folder / name).mkdir()
    with (
        Members(folder / "ours", flags=PACE) as ours,
        Etcds(folder / "theirs", flags=PACE) as theirs,
    ):
        clusters = {"netstored": ours, "etcd": theirs}
        yield _sets(clusters, folder, rounds, seconds)
        yield _failovers(clusters, folder, kills)


def _sets(clusters: dict[str, Members], folder: Path, rounds: int, seconds: int) -> Table:
    leaders = {store: members[_leader(members)] for store, members in clusters.items()}
    for leader in leaders.values():
        keys.wrk(leader, "set", 8, 1)
    figures = {
        f"set, {count} connection{'' if count == 1 else 's'}": keys.alternate(
            leaders, "set", count, rounds, seconds
        )
        for count in CONNECTIONS
    }
    return Table(
        title="v2 keys by wrk through the leader of three members, 1,000 keys of 32 bytes",
        note=f"medians of {rounds} alternating rounds of {seconds} s; data on {keys.file_system(folder)}",
        columns=("netstored", "etcd", "ratio", "p99 netstored", "p99 etcd"),
        rows=tuple(keys.row(name, by_store) for name, by_store in figures.items()),
        figures=figures,
    )


def _failovers(clusters: dict[str, Members], folder: Path, kills: int) -> Table:
    chance = random.Random()  # noqa: S311 - moments in time
    found: dict[str, list[Kill]] = {store: [] for store in clusters}
    for number in range(kills):
        if number % 5 == 0:
            progress(f"kills of the leader: {number + 1} of {kills}")
        for store in sorted(clusters, reverse=number % 2 == 1):
            found[store].append(_fail_over(clusters[store], chance.uniform(*BEFORE_KILL), number))
    spans = {store: [each.without_writes_ms for each in list_] for store, list_ in found.items()}
    shown: tuple[tuple[str, Callable[[list[float]], float]], ...] = (("median", median), ("p99", _p99))
    return Table(
        title=f"time without writes after kill -9 of the leader of three, {kills} kills each",
        note=(
            "from the signal to the first answer to a write begun after it at a survivor; ratio etcd /"
            f" netstored; {' '.join(PACE)}; p99 by nearest rank; data on {keys.file_system(folder)}"
        ),
        columns=("netstored", "etcd", "ratio"),
        rows=(
            *(_row(name, "ms", 1.0, spans, rank) for name, rank in shown),
            *(_row(name, "election timeouts", ELECTION_TIMEOUT_MS, spans, rank) for name, rank in shown),
        ),
        figures={store: [asdict(each) for each in list_] for store, list_ in found.items()},
    )


def _row(
    name: str, unit: str, size: float, spans: dict[str, list[float]], rank: Callable[[list[float]], float]
) -> Row:
    ours, theirs = (rank(spans[store]) / size for store in ("netstored", "etcd"))
    digits = 0 if unit == "ms" else 2
    return Row(f"{name}, {unit}", (f"{ours:.{digits}f}", f"{theirs:.{digits}f}", f"{theirs / ours:.2f}"))


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
