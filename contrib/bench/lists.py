"""`list`: long answers of one member."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from contrib.bench import compare, h2load
from contrib.bench.compare import LOOPBACK
from contrib.bench.h2load import Load, fill
from contrib.bench.objects import Callers
from contrib.bench.report import Table
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from contrib.bench.compare import Figures
    from contrib.bench.stores import Running, Stores
    from tests.support.v3client import V3Client

KEYS: Final = 10_000
SIZE: Final = 1024
PAGE: Final = 500

MORE_KEYS: Final = 20_000
CHANGED_LISTS: Final = 20
"""Lists of a round in which keys change."""

CHANGES: Final = 10
"""Keys that change before each of them."""

_KEPT: Final = "netstored keeps encoded parts of lists while none of their keys changes"
_AGAIN: Final = (
    f"the same list each time, of records that lie together in memory; h2load does not decode it. {_KEPT}:"
    " here none does"
)
_NO_VALUES: Final = (
    "the same list each time, of records that lie together in memory; h2load does not decode it. netstored"
    " keeps no parts of lists without values"
)
_SHARED: Final = (
    "all ask for the same at once, and netstored sends one encoded answer to all who wait for it: lists that"
    f" differ gain nothing by that. {_KEPT}"
)
_CHANGED: Final = (
    f"{CHANGES} keys, drawn at random, are written before each list, and count in the processor time; our own"
    f" client, in Python, takes part of the time. {_KEPT}"
)


def _ask(**fields: object) -> pb.RangeRequest:
    return pb.RangeRequest(**{"key": b"/list/", "range_end": b"/list0", **fields})  # type: ignore[arg-type]  # each has its own type


def _keys(client: V3Client) -> None:
    fill(client, KEYS, SIZE)


def _more_keys(client: V3Client) -> None:
    fill(client, MORE_KEYS, SIZE)


LOADS: Final = (
    Load(f"list of {KEYS:,} keys x 1 KiB, 1 client", "KV/Range", _ask(), 1, 1, _AGAIN, prepare=_keys),
    Load(
        f"list of {MORE_KEYS:,} keys x 1 KiB, 1 client",
        "KV/Range",
        _ask(),
        *(1, 1),
        _AGAIN,
        prepare=_more_keys,
    ),
    Load(f"list of {KEYS:,} keys x 1 KiB, 10 clients", "KV/Range", _ask(), 10, 1, _SHARED, prepare=_keys),
    Load(f"page of {PAGE} keys x 1 KiB, 1 client", "KV/Range", _ask(limit=PAGE), 1, 1, _AGAIN, prepare=_keys),
    Load(f"{KEYS:,} keys without values", "KV/Range", _ask(keys_only=True), 1, 1, _NO_VALUES, prepare=_keys),
    Load(
        f"count of {KEYS:,} keys",
        "KV/Range",
        _ask(count_only=True),
        *(1, 1),
        "netstored keeps counts beside its index, so that this costs the same for any number of keys",
        prepare=_keys,
    ),
)


def _changed(running: Running, name: str, rounds: int) -> Figures:
    """One client writes some keys, and lists all; each answer has what was written."""
    callers = {store: Callers(daemon.url, 1) for store, daemon in running.asked.items()}
    for client in running.clients.values():
        _keys(client)
    chance = random.Random(1)  # noqa: S311 - a load
    wanted = _ask().SerializeToString()

    def listed(_: int, answer: bytes) -> None:
        if len(answer) < KEYS * SIZE:
            raise RuntimeError(f"a list of {len(answer)} bytes")

    def make(store: str) -> tuple[int, list[float]]:
        took = []
        for _ in range(CHANGED_LISTS):
            keys = [b"/list/%08d" % chance.randrange(KEYS) for _ in range(CHANGES)]
            puts = [pb.PutRequest(key=key, value=b"y" * SIZE).SerializeToString() for key in keys]
            callers[store].run("KV/Put", enumerate(puts), lambda _number, _answer: None)
            took += callers[store].run("KV/Range", [(0, wanted)], listed)
        return CHANGED_LISTS, took

    figures = h2load.by_callers(running, name, rounds, make)
    for each in callers.values():
        each.close()
    return figures


def measure(stores: Stores, folder: Path | None, rounds: int, seconds: int) -> Table:
    """All of them on fresh stores."""
    figures: dict[str, Figures] = {}
    notes = {load.name: load.note for load in LOADS}
    for load in LOADS:
        with stores.running(folder) as running:
            figures[load.name] = h2load.run(running, load, rounds, seconds)
    name = f"list of {KEYS:,} keys x 1 KiB, {CHANGES} of them changed"
    with stores.running(folder) as running:
        figures[name] = _changed(running, name, rounds)
    notes[name] = _CHANGED
    return Table(
        title="long lists of one member",
        note=f"medians of {rounds} alternating rounds of {seconds} s; {LOOPBACK}",
        columns=compare.load_columns(stores.names),
        rows=tuple(compare.load_row(name, each, notes[name]) for name, each in figures.items()),
        figures=figures,
    )
