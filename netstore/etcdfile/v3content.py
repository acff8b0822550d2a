"""What the buckets of an etcd database contain (v3 API, snapshot file compatibility)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.codec import Malformed
from netstore.etcdfile.protofields import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.etcdfile.boltreader import Database

_REVISION: Final = Struct(">QcQ")
_TOMBSTONE: Final = b"t"
_SIGN64: Final = 2**63
_MOST_ALARMS: Final = 1_000
_SHORT_BYTES: Final = 64
"""More than the values have that tell a fact."""

_MOST_NUMBER: Final = 2**31 - 1
"""Largest number of a change within its revision that fits into a place (`state.v3.index`)."""


class Change(NamedTuple):
    """One change of one key: the message KeyValue, which for a deletion has only a key."""

    revision: int
    number: int
    is_deletion: bool
    pair: bytes


class LeaseFound(NamedTuple):
    """A lease, in seconds; `remaining` is 0 if no checkpoint recorded what is left."""

    id: int
    ttl: int
    remaining: int


class Facts(NamedTuple):
    """What a database says about itself."""

    consistent_index: int
    """The last entry of etcd's log that it includes; 0 if it does not say."""
    compacted: int
    """The revision of the last compaction, 0 if there was none."""
    swept: int
    """The revision of the last compaction that was carried out on disk, 0 if there was none."""
    auth_enabled: bool
    users: int
    roles: int
    members: int
    alarms: tuple[tuple[int, int], ...]
    """Member and kind (1: no space, 2: corrupt)."""


def changes(database: Database) -> Iterator[Change]:
    """All changes, in order. CorruptData if one is none."""
    for key, pair in database.bucket(b"key"):
        if len(key) not in {_REVISION.size, _REVISION.size + 1} or key[_REVISION.size :] not in {
            b"",
            _TOMBSTONE,
        }:
            raise database.damaged("a key of the bucket key is no revision")
        revision, _, number = _REVISION.unpack_from(key)
        if not 0 < revision < _SIGN64 or number > _MOST_NUMBER:
            raise database.damaged(f"revision {revision}, change {number}")
        yield Change(revision, number, len(key) > _REVISION.size, pair)


def leases(database: Database) -> Iterator[LeaseFound]:
    """All leases, in the order of their ids as unsigned numbers. CorruptData if one is none."""
    for key, stored in database.bucket(b"lease"):
        message = _message(database, stored)
        id_ = message.signed(1)
        if key != (id_ % 2**64).to_bytes(8, "big") or not id_:
            raise database.damaged(f"lease {id_:x} under another key")
        yield LeaseFound(id_, message.signed(2), message.signed(3))


def facts(database: Database) -> Facts:
    """What the small buckets say. CorruptData if it cannot be read."""
    meta = _values(database, b"meta", b"consistent_index", b"scheduledCompactRev", b"finishedCompactRev")
    auth = _values(database, b"auth", b"authEnabled")
    alarms: list[tuple[int, int]] = []
    for key, _ in database.bucket(b"alarm"):
        if len(alarms) == _MOST_ALARMS:
            raise database.damaged(f"more than {_MOST_ALARMS} alarms")
        alarm = _message(database, key)
        alarms.append((alarm.number(1), alarm.number(2)))
    return Facts(
        int.from_bytes(meta.get(b"consistent_index", b""), "big"),
        int.from_bytes(meta.get(b"scheduledCompactRev", b"")[:8], "big"),
        int.from_bytes(meta.get(b"finishedCompactRev", b"")[:8], "big"),
        auth.get(b"authEnabled") == b"\1",
        _count(database, b"authUsers"),
        _count(database, b"authRoles"),
        _count(database, b"members"),
        tuple(alarms),
    )


def _values(database: Database, bucket: bytes, *names: bytes) -> dict[bytes, bytes]:
    """The short values of these keys, as far as they are there."""
    return {
        key: value for key, value in database.bucket(bucket) if key in names and len(value) <= _SHORT_BYTES
    }


def _count(database: Database, bucket: bytes) -> int:
    return sum(1 for _ in database.bucket(bucket))


def _message(database: Database, data: bytes) -> Message:
    try:
        return Message(data)
    except Malformed as error:
        raise database.damaged(f"not a message ({error})") from None
