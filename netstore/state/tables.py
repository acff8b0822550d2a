"""The tables of the state in the engine, and reading their records.

Five tables of the v2 state and the members:
 - `v2`: a record for each node, by path; the root is implied.
 - `v2_window`: the event window as a ring buffer: an event in each slot `index % 1000`.
 - `v2_members`: a record for each member.
 - `v2_removed`: the id of each removed member.
 - `v2_state`: the scalars, under the one key `state`.

Five tables of the v3 state:
 - `v3`: the key-value pairs by place (`v3.index`), in the byte form of `v3.keyvalue`.
 - `v3_leases`: a record for each lease; the keys attached to it follow from the pairs.
 - `v3_alarms`: each raised alarm.
 - `v3_origins`: when and by whom revisions were written (`v3.origins`); of this member only.
 - `v3_state`: the scalars, under the one key `state`.

Two tables of the admitted plugins:
 - `plugins`: a record for each, by name.
 - `wheels`: the parts of their wheels, by name and number.

Every record but those of `v3` and `wheels` is a msgpack array. One that cannot be read raises StateDamaged,
which names table and key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec

from netstore.errors import StateDamaged
from netstore.parted import batches
from netstore.types import EtcdIndex  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.seams import Engine

NODES: Final = "v2"
WINDOW: Final = "v2_window"
MEMBERS: Final = "v2_members"
REMOVED: Final = "v2_removed"
STATE: Final = "v2_state"
LEASES: Final = "v3_leases"
ALARMS: Final = "v3_alarms"
V3_STATE: Final = "v3_state"
RECORDS: Final = "v3"
ORIGINS: Final = "v3_origins"
PLUGINS: Final = "plugins"
WHEELS: Final = "wheels"
TABLES: Final = (
    NODES,
    WINDOW,
    MEMBERS,
    REMOVED,
    STATE,
    RECORDS,
    ORIGINS,
    LEASES,
    ALARMS,
    V3_STATE,
    PLUGINS,
    WHEELS,
)
"""Every table the state uses."""

Record: TypeAlias = tuple[str, bytes, bytes]
"""A table, a key and the value there."""

LOAD_STEP: Final = 500
"""Records read in one step of loading: 2 ms."""

LOAD_BYTES: Final = 1 << 20
"""Bytes of records read in one step; the last record may exceed it."""

STATE_KEY: Final = b"state"


class Scalars(msgspec.Struct, array_like=True, frozen=True):
    """The v2 index, the counters in the order of `statistics.REPLICATED`, the cluster version, and the
    feature level.
    """

    index: EtcdIndex
    counts: tuple[int, ...]
    version: str
    level: int = 1


_T = TypeVar("_T")

encode: Final = msgspec.msgpack.Encoder().encode
"""The byte form of a record, but of those in `v3`."""


def load_all(engine: Engine, table: str, kind: type[_T]) -> Iterator[_T]:
    """Every record of a small table."""
    return (record for _, record in records(engine, table, msgspec.msgpack.Decoder(kind)))


def corrupt(what: str) -> StateDamaged:
    """The error for a stored state that is not what was written."""
    return StateDamaged(f"{what}; restore this member from its peers or from a backup")


def some_records(
    engine: Engine, table: str, decoder: msgspec.msgpack.Decoder[_T], *, whole: bool
) -> Iterator[list[tuple[bytes, _T]]]:
    """Every record of a table with its key, in steps of `LOAD_STEP`. The state must not change meanwhile. The
    caller checks the number of records at the end (`check_count`).

    With `whole` the table is read by one scan in key order, which also verifies its checksum; otherwise step
    by step, and long keys come last, in any order (`Engine.some`).
    """
    if whole:
        yield from batches(records(engine, table, decoder), LOAD_STEP)
        return
    start: bytes | None = b""
    while start is not None:
        stored, start = engine.some(table, start, LOAD_STEP, LOAD_BYTES)
        yield [(key, _decoded(decoder, table, key, each)) for key, each in stored]


def check_count(engine: Engine, table: str, found: int) -> None:
    """StateDamaged if the number of records found is not the number that was written."""
    count = engine.count(table)
    if count not in {None, found}:
        raise corrupt(f"table {table}: {found} records, {count} were written")


def _decoded(decoder: msgspec.msgpack.Decoder[_T], table: str, key: bytes, stored: bytes) -> _T:
    try:
        return decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise corrupt(f"table {table}, key {key!r}: {error}") from None


def records(engine: Engine, table: str, decoder: msgspec.msgpack.Decoder[_T]) -> Iterator[tuple[bytes, _T]]:
    """Every record of a table with its key, by one scan."""
    for key, stored in engine.scan(table, b"", None):
        yield key, _decoded(decoder, table, key, stored)
