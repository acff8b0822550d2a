"""The byte form of the state in the engine: what `machine` saves and loads.

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
from netstore.state.v2.history import CAPACITY
from netstore.state.v2.tree import Timed
from netstore.state.v3.lease import LeaseRecord
from netstore.state.v3.mvcc import LOAD_BYTES, LOAD_STEP, NEVER
from netstore.state.v3.records import RECORDS
from netstore.types import EtcdIndex, Event, LeaseId, Nanos, NodeId, NodeView, Revision

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
TABLES: Final = (NODES, WINDOW, MEMBERS, REMOVED, STATE, RECORDS, LEASES, ALARMS, V3_STATE)
"""Every table the state uses."""

STATE_KEY: Final = b"state"


class Scalars(msgspec.Struct, array_like=True, frozen=True):
    """The index, the counters in the order of `statistics.REPLICATED`, the agreed version, and the feature
    level.
    """

    index: EtcdIndex
    counts: tuple[int, ...]
    version: str
    level: int = 1


class V3Scalars(msgspec.Struct, array_like=True, frozen=True):
    """Where the v3 keys stand (`Mvcc.revision`, `compacted`, `swept`), and what everything applied came to
    (`trail.Trail`).
    """

    revision: Revision
    compacted: Revision
    swept: Revision
    trail: int


NEW_V3: Final = V3Scalars(Revision(1), NEVER, NEVER, 0)
"""What a store starts with, before anything is written."""


class _NodeRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    created: EtcdIndex
    modified: EtcdIndex
    value: bytes | None
    dir: bool
    expires: Nanos
    ttl: int = 0
    since: EtcdIndex = EtcdIndex(0)
    remaining: int = 0


class _EventRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    action: str
    index: EtcdIndex
    key: bytes
    node: _NodeRecord
    prev: _NodeRecord | None
    refresh: bool
    internal: bool


_T = TypeVar("_T")

encode: Final = msgspec.msgpack.Encoder().encode
"""The byte form of a record (a MemberInfo, Scalars)."""

_decode_node: Final = msgspec.msgpack.Decoder(_NodeRecord)
_decode_lease: Final = msgspec.msgpack.Decoder(LeaseRecord)
_decode_event: Final = msgspec.msgpack.Decoder(_EventRecord)


_WINDOW_KEYS: Final = tuple(b"%03d" % place for place in range(CAPACITY))


def window_key(index: EtcdIndex) -> bytes:
    """Where the event with this index lies in its table, until the one a thousand later takes its place."""
    return _WINDOW_KEYS[index % CAPACITY]


def member_key(member: NodeId) -> bytes:
    """Where a member's record lies in its table."""
    return b"%016x" % member


def lease_key(lease: LeaseId) -> bytes:
    """Where a lease's record lies in its table."""
    return b"%016x" % (lease & 2**64 - 1)


def alarm_key(member: NodeId, kind: int) -> bytes:
    """Where an alarm lies in its table."""
    return b"%016x %d" % (member, kind)


# Plain tuples are written and structs are read: a tuple is the cheapest thing to encode, and this is done for
# every change; a struct is checked while it is decoded.


def pack_node(node: NodeView, timed: Timed | None = None) -> bytes:
    """The record of a node, and of its TTL if it has one."""
    if timed is None:
        return encode((node.created, node.modified, node.value, node.dir, node.expires))
    life = (node.expires, timed.ttl, timed.since, timed.remaining)
    return encode((node.created, node.modified, node.value, node.dir, *life))


def pack_event(event: Event) -> bytes:
    """The record of an event.

    What was removed below a directory is left out: only live watchers ask for it.
    """
    node, prev = event.node, event.prev
    return encode(
        (
            event.action,
            event.index,
            node.key,
            (node.created, node.modified, node.value, node.dir, node.expires),
            prev and (prev.created, prev.modified, prev.value, prev.dir, prev.expires),
            event.refresh,
            event.internal,
        )
    )


def load_nodes(engine: Engine, *, whole: bool) -> Iterator[list[tuple[NodeView, Timed | None]]]:
    """Every stored node, with what one with a TTL counts by, in steps of `LOAD_STEP`; in the order of their
    paths, but where the table is not read as a `whole` long paths come last, in any order (`Engine.some`).
    The state must not change meanwhile.

    As a whole the table is read by one scan and compared with its sum, else only the records are counted.
    """
    found = 0
    for some in _some_records(engine, NODES, _decode_node, whole=whole):
        nodes: list[tuple[NodeView, Timed | None]] = []
        for path, record in some:
            timed = None
            if record.expires:
                if not record.since:
                    raise corrupt(f"table {NODES}, key {path!r}: it ends at an instant, and has no TTL")
                timed = Timed(record.ttl, record.since, record.remaining)
            nodes.append((_view(path, record), timed))
        found += len(nodes)
        yield nodes
    _count(engine, NODES, found)


def load_leases(engine: Engine, *, whole: bool) -> Iterator[list[LeaseRecord]]:
    """Every stored lease, as `load_nodes`."""
    found = 0
    for some in _some_records(engine, LEASES, _decode_lease, whole=whole):
        found += len(some)
        yield [record for _, record in some]
    _count(engine, LEASES, found)


def load_events(engine: Engine) -> Iterator[Event]:
    """Every stored event, in no useful order."""
    for _, record in _records(engine, WINDOW, _decode_event):
        yield Event(
            record.action,
            record.index,
            _view(record.key, record.node),
            None if record.prev is None else _view(record.key, record.prev),
            refresh=record.refresh,
            internal=record.internal,
        )


def load_all(engine: Engine, table: str, kind: type[_T]) -> Iterator[_T]:
    """Every record of a small table."""
    return (record for _, record in _records(engine, table, msgspec.msgpack.Decoder(kind)))


def corrupt(what: str) -> StateDamaged:
    """The stored state is not what was written."""
    return StateDamaged(f"{what}; restore this member from its peers or from a backup")


def _some_records(
    engine: Engine, table: str, decoder: msgspec.msgpack.Decoder[_T], *, whole: bool
) -> Iterator[list[tuple[bytes, _T]]]:
    if whole:
        yield from batches(_records(engine, table, decoder), LOAD_STEP)
        return
    start: bytes | None = b""
    while start is not None:
        stored, start = engine.some(table, start, LOAD_STEP, LOAD_BYTES)
        yield [(key, _decoded(decoder, table, key, each)) for key, each in stored]


def _count(engine: Engine, table: str, found: int) -> None:
    count = engine.count(table)
    if count not in {None, found}:
        raise corrupt(f"table {table}: {found} records, {count} were written")


def _decoded(decoder: msgspec.msgpack.Decoder[_T], table: str, key: bytes, stored: bytes) -> _T:
    try:
        return decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise corrupt(f"table {table}, key {key!r}: {error}") from None


def _records(engine: Engine, table: str, decoder: msgspec.msgpack.Decoder[_T]) -> Iterator[tuple[bytes, _T]]:
    for key, stored in engine.scan(table, b"", None):
        yield key, _decoded(decoder, table, key, stored)


def _view(path: bytes, record: _NodeRecord) -> NodeView:
    return NodeView(path, record.created, record.modified, record.value, record.dir, record.expires)
