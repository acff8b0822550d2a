"""The records of the v2 tree and of its event window in the engine: their byte form, and loading them."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.state.tables import NODES, WINDOW, check_count, corrupt, encode, records, some_records
from netstore.state.v2.history import CAPACITY
from netstore.state.v2.ttl import Timed
from netstore.types import EtcdIndex, Event, Nanos, NodeView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.seams import Engine


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


_decode_node: Final = msgspec.msgpack.Decoder(_NodeRecord)
_decode_event: Final = msgspec.msgpack.Decoder(_EventRecord)

_WINDOW_KEYS: Final = tuple(b"%03d" % place for place in range(CAPACITY))


def window_key(index: int) -> bytes:
    """The key of an event in its table; the event with an index greater by 1000 has the same."""
    return _WINDOW_KEYS[index % CAPACITY]


# Records are encoded from plain tuples, which is fastest and done for every change, and decoded to structs,
# which validates them.

_fields_of: Final = attrgetter("created", "modified", "value", "dir", "expires")
"""Of a node that has no TTL, in the order of its record."""


def pack_node(node: NodeView, timed: Timed | None = None) -> bytes:
    """The record of a node, and of its TTL if it has one."""
    if timed is None:
        return encode(_fields_of(node))
    return encode((*_fields_of(node), timed.ttl, timed.since, timed.remaining))


def pack_event(event: Event) -> bytes:
    """The record of an event, without the paths that were removed below a directory: only live watchers need
    them.
    """
    node, prev = event.node, event.prev
    return encode(
        (
            event.action,
            event.index,
            node.key,
            _fields_of(node),
            prev and _fields_of(prev),
            event.refresh,
            event.internal,
        )
    )


def unpack_node(path: bytes, stored: bytes) -> tuple[NodeView, Timed | None]:
    """The node of a record, and its TTL if it has one. StateDamaged if it is none."""
    try:
        return _node(path, _decode_node.decode(stored))
    except msgspec.MsgspecError as error:
        raise corrupt(f"table {NODES}, key {path!r}: {error}") from None


def unpack_event(key: bytes, stored: bytes) -> Event:
    """The event of a record. StateDamaged if it is none."""
    try:
        return _event(_decode_event.decode(stored))
    except msgspec.MsgspecError as error:
        raise corrupt(f"table {WINDOW}, key {key!r}: {error}") from None


def load_nodes(engine: Engine, *, whole: bool) -> Iterator[list[tuple[NodeView, Timed | None]]]:
    """Every stored node, with its TTL if it has one, in the steps and the order of `tables.some_records`."""
    found = 0
    for some in some_records(engine, NODES, _decode_node, whole=whole):
        found += len(some)
        yield [_node(path, record) for path, record in some]
    check_count(engine, NODES, found)


def load_events(engine: Engine) -> Iterator[Event]:
    """Every stored event, in no useful order."""
    return (_event(record) for _, record in records(engine, WINDOW, _decode_event))


def _node(path: bytes, record: _NodeRecord) -> tuple[NodeView, Timed | None]:
    if not record.expires:
        return _view(path, record), None
    if not record.since:
        raise corrupt(f"table {NODES}, key {path!r}: it ends at an instant, and has no TTL")
    return _view(path, record), Timed(record.ttl, record.since, record.remaining)


def _event(record: _EventRecord) -> Event:
    return Event(
        record.action,
        record.index,
        _view(record.key, record.node),
        None if record.prev is None else _view(record.key, record.prev),
        refresh=record.refresh,
        internal=record.internal,
    )


def _view(path: bytes, record: _NodeRecord) -> NodeView:
    return NodeView(path, record.created, record.modified, record.value, record.dir, record.expires)
