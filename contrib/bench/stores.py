"""Which two stores are measured side by side: netstored of this checkout, and what it is held against. And
what the kernel knows of a store's processes.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.support.cluster import Members
from tests.support.daemon import spawn, start_netstored
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tests.support.daemon import Daemon

OURS: Final = "netstored"

PACE: Final = ("--heartbeat-interval", "100", "--election-timeout", "1000")
"""Of the members of clusters: the defaults of both; said, so that nobody has to look them up."""


class Start(Protocol):
    """Starts a store that keeps everything in this folder, with more flags; returns when it serves."""

    def __call__(self, tmp_path: Path, /, *flags: str) -> Daemon:
        """Start it."""


class Etcds(Members):
    """Three members of etcd with the same flags."""

    etcd = "etcd"

    def spawn(self, name: str, *flags: str) -> Daemon:
        """Start a member for the first time, and do not wait."""
        peer_url = self.peer_url(name)
        client_url = f"http://{self.host_of(name)}:{self.ports[name][0]}"
        data = self.folder / f"{name}.data"
        command = (
            *(self.etcd, "--enable-v2", "--name", name, "--data-dir", str(data)),
            *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *self.flags,
            *flags,
        )
        daemon = self.daemons[name] = spawn(command, client_url, data, self.folder / f"{name}.log")
        return daemon


@dataclass(frozen=True)
class Stores:
    """What starts both, by their names; ours is the first."""

    one: dict[str, Start]
    """A member alone."""
    three: dict[str, Callable[[Path], Members]]
    """A cluster; not started before it is entered."""

    @property
    def names(self) -> tuple[str, str]:
        ours, theirs = self.one
        return ours, theirs

    @contextmanager
    def running(self, folder: Path | None) -> Iterator[Running]:
        """A fresh member of each, in a folder of its own that is gone afterwards."""
        with (
            tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
            ExitStack() as undo,
        ):
            daemons = {}
            for name, start in self.one.items():
                (Path(scratch) / name).mkdir()
                daemons[name] = undo.enter_context(start(Path(scratch) / name))
            clients = {name: V3Client(daemon.url) for name, daemon in daemons.items()}
            for client in clients.values():
                undo.callback(client.close)
            yield Running(daemons, clients, {name: [daemon] for name, daemon in daemons.items()})


@dataclass(frozen=True)
class Running:
    """Both stores: the member that is asked, a client of it, and all members, whose processors count."""

    asked: dict[str, Daemon]
    clients: dict[str, V3Client]
    members: Mapping[str, Sequence[Daemon]]

    def cpu_seconds(self, name: str) -> float:
        """What the processes of one store have used so far."""
        return sum(cpu_seconds(daemon.pid) for daemon in self.members[name])


def beside(checkout: Path | None, etcd: str = "etcd") -> Stores:
    """netstored and this etcd, or netstored and that of `checkout`."""
    if checkout is None:
        return Stores(
            {OURS: start_netstored, "etcd": partial(start_etcd, program=etcd)},
            {OURS: partial(Members, flags=PACE), "etcd": partial(_etcds, etcd=etcd)},
        )
    # Python would look into the working folder first, which is this checkout.
    environment = {"PYTHONPATH": str(checkout.resolve()), "PYTHONSAFEPATH": "1"}
    return Stores(
        {OURS: start_netstored, "other": partial(start_netstored, environment=environment)},
        {
            OURS: partial(Members, flags=PACE),
            "other": partial(Members, flags=PACE, environment_of=lambda _: environment),
        },
    )


def _etcds(folder: Path, etcd: str) -> Members:
    members = Etcds(folder, flags=PACE)
    members.etcd = etcd
    return members


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, in user and system mode, in steps of 10 ms (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, kind: str = "VmRSS") -> float:
    """Resident memory now, or at its most with `VmHWM`; `RssAnon` is what is not mapped from files."""
    found: Any = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """The order of the stores in a round: the other one first each time, so that a drift of the machine
    favours neither.
    """
    return sorted(names, reverse=number % 2 == 1)
