"""Snapshot files of the v3 state in etcd's format, for clients to keep (`etcdctl snapshot save`): made in a
thread, while the member runs.

The state is copied as of its last commit, after a commit of everything acknowledged so far, and rewritten as
a bbolt file (`etcdfile.boltwriter`): history back to the compacted revision, leases, alarms and members. One
is made at a time. Both files are in the folder of the state and need up to twice its space meanwhile; what a
crash leaves of them is removed when the next one is made.
"""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import msgspec

from netstore.codec import varint
from netstore.disk.statefile import StateFile
from netstore.errors import Fault, NetstoreError, Reason, StateDamaged, no_space, refusal
from netstore.etcdfile import boltwriter
from netstore.histogram import Histogram, doubling
from netstore.state import tables
from netstore.state.members import MemberInfo
from netstore.state.tables import RECORDS
from netstore.state.v3 import keyvalue
from netstore.state.v3.lease import LeaseRecord
from netstore.state.v3.store import V3Scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from netstore.seams import Log


MADE_BOUNDS: Final = doubling(0.01, 17)
"""Upper bounds of the seconds that a snapshot takes to make, as etcd has them."""

_STATE: Final = "backup-state.part"
_BOLT: Final = "backup-bolt.part"

_NUMBER: Final = Struct(">Q")
_REVISION: Final = Struct(">QcQ")
_MASK64: Final = 2**64 - 1


class Source(Protocol):
    """The part of `disk.engine.LmdbEngine` that is used here."""

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        """Call `done` on the loop once everything written so far is durable, or with the error."""

    def copy_to(self, file: int) -> None:
        """Write a consistent copy to a file descriptor. Blocks."""


class BoltCopy:
    """A finished snapshot: a file without a name. `api.v3.maintenance.Copy`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        """Bytes that `read` gives in all: a multiple of 512."""

    def read(self, most: int) -> bytes:
        """The next bytes; none at the end. They come from the page cache: the file was written just now."""
        return self._file.read(most)

    def close(self) -> None:
        """Delete the file. May be called again."""
        self._file.close()


class Backups:
    """Makes snapshots of one member's state in `folder`, where the state is. Implements
    `api.v3.maintenance.BackupSource`.

    `call_soon` makes a call on the loop, from any thread.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        call_soon: Callable[[Callable[[], object]], None],
        log: Log,
        damaged: Callable[[StateDamaged], None],
    ) -> None:
        """`damaged` is called on the loop if a copy, and so the state, is not what was written."""
        self._folder = folder
        self._source = source
        self._call_soon = call_soon
        self._log = log
        self._damaged = damaged
        self._busy = False
        self._began = 0.0
        self.made = Histogram(MADE_BOUNDS)
        """Seconds that each snapshot took to make."""

    def make(self, done: Callable[[BoltCopy | Fault], None]) -> None:
        """Make a snapshot that contains everything acknowledged so far; `done` gets it, or why there is none,
        on the loop, and has to close it.
        """
        if self._busy:
            done(refusal(Reason.SNAPSHOT_BUSY))
            return
        self._busy = True
        self._began = monotonic()
        try:
            self._source.sync(partial(self._durable, done))
        except BaseException:  # it has not taken the callback
            self._busy = False
            raise

    def _durable(self, done: Callable[[BoltCopy | Fault], None], failure: OSError | None) -> None:
        if failure is not None:
            self._busy = False
            self._log.warning("snapshot_not_made", error=str(failure))
            done(no_space())
            return
        threading.Thread(target=self._run, args=(done,), name="backup", daemon=True).start()

    def _run(self, done: Callable[[BoltCopy | Fault], None]) -> None:
        outcome: BoltCopy | Exception
        try:
            outcome = self._copy()
        except (OSError, NetstoreError, ValueError) as error:
            outcome = error
        self._call_soon(partial(self._made, done, outcome))

    def _made(self, done: Callable[[BoltCopy | Fault], None], outcome: BoltCopy | Exception) -> None:
        self._busy = False
        if isinstance(outcome, BoltCopy):
            self.made.observe(monotonic() - self._began)
            self._log.info("snapshot_made", bytes=outcome.size)
            done(outcome)
        else:
            self._log.warning("snapshot_not_made", error=str(outcome))
            done(refusal(Reason.SNAPSHOT_FAILED))
            if isinstance(outcome, StateDamaged):
                self._damaged(outcome)

    def _copy(self) -> BoltCopy:
        state, bolt = self._folder / _STATE, self._folder / _BOLT
        try:
            with _private(state) as file:
                self._source.copy_to(file.fileno())
            file = _private(bolt)
            try:
                with StateFile(state) as source:
                    size = boltwriter.write(file, buckets(source))
                file.flush()
                file.seek(0)
            except BaseException:
                file.close()
                raise
            return BoltCopy(file, size)
        finally:
            state.unlink(missing_ok=True)
            bolt.unlink(missing_ok=True)


def _private(path: Path) -> BinaryIO:
    return open(path, "w+b", opener=lambda name, flags: os.open(name, flags, 0o600))


def buckets(source: StateFile) -> dict[bytes, Iterator[tuple[bytes, bytes]]]:
    """The state as the buckets of an etcd database (v3 API, snapshot file compatibility)."""
    return {
        b"alarm": _alarms(source),
        b"auth": iter(()),
        b"authRoles": iter(()),
        b"authUsers": iter(()),
        b"cluster": _cluster(source),
        b"key": _keys(source),
        b"lease": _leases(source),
        b"members": _members(source),
        b"members_removed": ((key.lstrip(b"0"), b"removed") for key, _ in source.scan(tables.REMOVED)),
        b"meta": _meta(source),
    }


def _keys(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    for stored, record in source.scan(RECORDS):
        place = int.from_bytes(stored, "big")
        revision = _REVISION.pack(place >> 32, b"_", (place & 0xFFFFFFFF) >> 1)
        if place & 1:
            yield revision + b"t", keyvalue.encode_key(keyvalue.decode(record).key)
        else:
            yield revision, record


def _leases(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    records = _decoded(source, tables.LEASES, LeaseRecord)
    for record in sorted(records, key=lambda record: record.id & _MASK64):
        id_ = record.id & _MASK64
        left = b"\x18" + varint(record.remaining) if record.remaining else b""
        yield _NUMBER.pack(id_), b"\x08%b\x10%b%b" % (varint(id_), varint(record.ttl), left)


def _alarms(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    alarms = _decoded(source, tables.ALARMS, tuple[int, int])
    yield from sorted((b"\x08%b\x10%b" % (varint(id_), varint(kind)), b"") for id_, kind in alarms)


def _members(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    members = _decoded(source, tables.MEMBERS, MemberInfo)
    for name, member in sorted((b"%x" % member.id, member) for member in members):
        fields: dict[str, object] = {
            "id": member.id,
            "peerURLs": member.peer_urls,
            "name": member.name,
            "clientURLs": member.client_urls,
        }
        yield name, json.dumps(fields | {"isLearner": True} if member.learner else fields).encode()


def _cluster(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    for scalars in _decoded(source, tables.STATE, tables.Scalars):
        yield b"clusterVersion", scalars.version.encode()


def _meta(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    yield b"consistent_index", _NUMBER.pack(1)
    for scalars in _decoded(source, tables.V3_STATE, V3Scalars):
        if scalars.swept > 0:
            yield b"finishedCompactRev", _REVISION.pack(scalars.swept, b"_", 0)
        if scalars.compacted > 0:
            yield b"scheduledCompactRev", _REVISION.pack(scalars.compacted, b"_", 0)


def _decoded(source: StateFile, table: str, kind: type[Any]) -> Iterator[Any]:
    decoder = msgspec.msgpack.Decoder(kind)
    return (decoder.decode(record) for _, record in source.scan(table))
