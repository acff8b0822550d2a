"""`list`: long answers of one member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contrib.bench import compare, h2load
from contrib.bench.compare import LOOPBACK
from contrib.bench.h2load import Load, fill
from contrib.bench.report import Table
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from contrib.bench.stores import Stores
    from tests.support.v3client import V3Client

KEYS: Final = 10_000
SIZE: Final = 1024
PAGE: Final = 500

_AGAIN: Final = "the same list each time, of records that lie together in memory; h2load does not decode it"
_SHARED: Final = (
    "all ask for the same at once, and netstored sends one encoded answer to all who wait for it: lists that"
    " differ gain nothing by that"
)


def _ask(**fields: object) -> pb.RangeRequest:
    return pb.RangeRequest(**{"key": b"/list/", "range_end": b"/list0", **fields})  # type: ignore[arg-type]  # each has its own type


def _keys(client: V3Client) -> None:
    fill(client, KEYS, SIZE)


LOADS: Final = (
    Load(f"list of {KEYS:,} keys x 1 KiB, 1 client", "KV/Range", _ask(), 1, 1, _AGAIN, prepare=_keys),
    Load(f"list of {KEYS:,} keys x 1 KiB, 10 clients", "KV/Range", _ask(), 10, 1, _SHARED, prepare=_keys),
    Load(f"page of {PAGE} keys x 1 KiB, 1 client", "KV/Range", _ask(limit=PAGE), 1, 1, _AGAIN, prepare=_keys),
    Load(f"{KEYS:,} keys without values", "KV/Range", _ask(keys_only=True), 1, 1, _AGAIN, prepare=_keys),
    Load(
        f"count of {KEYS:,} keys",
        "KV/Range",
        _ask(count_only=True),
        *(1, 1),
        "netstored keeps counts beside its index, so that this costs the same for any number of keys",
        prepare=_keys,
    ),
)


def measure(stores: Stores, folder: Path | None, rounds: int, seconds: int) -> Table:
    """All of them on fresh stores."""
    figures = {}
    for load in LOADS:
        with stores.running(folder) as running:
            figures[load.name] = h2load.run(running, load, rounds, seconds)
    return Table(
        title="long lists of one member",
        note=f"medians of {rounds} alternating rounds of {seconds} s; {LOOPBACK}",
        columns=compare.load_columns(stores.names),
        rows=tuple(compare.load_row(load.name, figures[load.name], load.note) for load in LOADS),
        figures=figures,
    )
