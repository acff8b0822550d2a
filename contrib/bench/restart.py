"""`restart`: how long a member with many keys takes from its start to an answered linearizable read, after a
clean stop and after SIGKILL.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from contrib.bench import compare
from contrib.bench.h2load import fill
from contrib.bench.report import Table, progress
from contrib.bench.stores import cpu_seconds, in_turn, memory_mib
from netstore.proto import rpc_pb2 as pb
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrib.bench.report import Row
    from contrib.bench.stores import Stores
    from tests.support.daemon import Daemon

LIMIT: Final = 300.0
VALUE: Final = 16
PAUSE: Final = 0.01

_NOTE: Final = (
    "small values, each key written once, files in the page cache: a machine that boots reads them first"
)
_KILLED: Final = f"{_NOTE}; killed at rest, so little of the log is to be applied again"


def measure(stores: Stores, folder: Path | None, rounds: int, counts: Sequence[int]) -> Table:
    """All numbers of keys."""
    figures: dict[str, dict[str, list[float]]] = {}
    rows: list[Row] = []
    for count in counts:
        with stores.running(folder) as running:
            for name, client in running.clients.items():
                progress(f"restart: filling {name} with {count:,} keys")
                fill(client, count, VALUE)
            for how, note in (("a clean stop", _NOTE), ("SIGKILL", _KILLED)):
                progress(f"restart after {how}, {count:,} keys: {rounds} rounds")
                took: dict[str, list[float]] = {name: [] for name in stores.names}
                used: dict[str, list[float]] = {name: [] for name in stores.names}
                held: dict[str, list[float]] = {name: [] for name in stores.names}
                for number in range(rounds):
                    for name in in_turn(stores.names, number):
                        daemon = running.asked[name]
                        took[name].append(again(daemon, kill=how == "SIGKILL"))
                        used[name].append(cpu_seconds(daemon.pid))
                        held[name].append(memory_mib(daemon.pid))
                title = f"{count:,} keys, after {how}"
                figures |= {title: took, f"{title}, cpu": used, f"{title}, MiB": held}
                rows += [
                    compare.value_row(title, took, "s", note, digits=2),
                    compare.value_row(f"  {title}: processor time", used, "s", "", digits=2),
                    compare.value_row(f"  {title}: memory", held, "MiB", ""),
                ]
    return Table(
        title="from the start of the process to an answered linearizable read",
        note=f"medians of {rounds} alternating rounds",
        columns=compare.value_columns(stores.names),
        rows=tuple(rows),
        figures=figures,
    )


def again(daemon: Daemon, *, kill: bool) -> float:
    """Seconds from the start until it has answered a linearizable read; TimeoutError past the limit."""
    if kill:
        daemon.kill()
    else:
        daemon.stop(LIMIT)
    began = time.monotonic()
    daemon.spawn_again()
    while time.monotonic() - began < LIMIT:
        try:
            # A channel of grpcio that was refused waits a second before it tries again.
            socket.create_connection((daemon.host, daemon.port), LIMIT).close()
        except OSError:
            time.sleep(PAUSE)
            continue
        client = V3Client(daemon.url)
        try:
            client.kv.Range(pb.RangeRequest(key=b"none"), timeout=LIMIT)
        except Refused:
            time.sleep(PAUSE)
        else:
            return time.monotonic() - began
        finally:
            client.close()
    raise TimeoutError(f"no answer in {LIMIT:.0f} s; it wrote:\n{daemon.log[-2000:]}")
