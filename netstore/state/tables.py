"""The tables of the state in the engine, and how their records are read.

Five tables of the v2 state and the members:
 - `v2`: a record for each node under its path; the root is implied.
 - `v2_window`: the event window as a ring, an event for each slot `index % 1000`, so that it never grows.
 - `v2_members`: a record for each member.
 - `v2_removed`: the id of each member that was removed.
 - `v2_state`: the scalars, under the one key `state`.

Four tables of the v3 state:
 - `v3`: the pairs by revision, in the byte form of `mvcc`.
 - `v3_leases`: a record for each lease; which keys it has stands in their pairs.
 - `v3_alarms`: each alarm that is raised.
 - `v3_state`: the scalars, under the one key `state`.

Every record is a msgpack array, but in `v3`. What cannot be read raises StateDamaged naming table and key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

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
TABLES: Final = (NODES, WINDOW, MEMBERS, REMOVED, STATE, RECORDS, LEASES, ALARMS, V3_STATE)
"""Every table the state uses."""

LOAD_STEP: Final = 500
"""Records read in one step of loading: 2 ms."""

LOAD_BYTES: Final = 1 << 20
"""Bytes of records read in one step, give or take one."""

STATE_KEY: Final = b"state"


class Scalars(msgspec.Struct, array_like=True, frozen=True):
    """The index, the counters in the order of `statistics.REPLICATED`, the agreed version, and the feature
    level.
    """

    index: EtcdIndex
    counts: tuple[int, ...]
    version: str
    level: int = 1


_T = TypeVar("_T")

encode: Final = msgspec.msgpack.Encoder().encode
"""The byte form of a record (a MemberInfo, Scalars)."""


def load_all(engine: Engine, table: str, kind: type[_T]) -> Iterator[_T]:
    """Every record of a small table."""
    return (record for _, record in records(engine, table, msgspec.msgpack.Decoder(kind)))


def corrupt(what: str) -> StateDamaged:
    """The stored state is not what was written."""
    return StateDamaged(f"{what}; restore this member from its peers or from a backup")


def some_records(
    engine: Engine, table: str, decoder: msgspec.msgpack.Decoder[_T], *, whole: bool
) -> Iterator[list[tuple[bytes, _T]]]:
    """Every record of a table with its key, in steps of `LOAD_STEP`; in the order of their keys, but where
    the table is not read as a `whole` long keys come last, in any order (`Engine.some`). The state must not
    change meanwhile. Whoever reads it all compares the number (`check_count`).

    As a whole the table is read by one scan and compared with its sum, else only the records are counted.
    """
    if whole:
        yield from batches(records(engine, table, decoder), LOAD_STEP)
        return
    start: bytes | None = b""
    while start is not None:
        stored, start = engine.some(table, start, LOAD_STEP, LOAD_BYTES)
        yield [(key, _decoded(decoder, table, key, each)) for key, each in stored]


def check_count(engine: Engine, table: str, found: int) -> None:
    """StateDamaged where so many records were found and another number was written."""
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
