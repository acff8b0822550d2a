"""Backups of one member's state, for clients to keep, made in a thread while the member runs: snapshot files
of the v3 state in etcd's format (`etcdctl snapshot save`), and full backups (`fullbackup`).

The state is copied as of its last commit, after a commit of everything acknowledged so far. For etcd's format
the copy is rewritten as a bbolt file (`etcdfile.boltwriter`): history back to the compacted revision, leases,
alarms and members. One backup is made at a time. Copy and backup are in one folder and need up to twice the
space of the state meanwhile:

    FOLDER/backup-CLUSTER-MEMBER-RANDOM.state.part                  the copy
    FOLDER/backup-CLUSTER-MEMBER-RANDOM.full.part, ....bolt.part    the backup

Members can share a folder: each makes new files only, and removes only those of its own ids, which a crash
left, when it makes the next one there. A copy that is not what was written is a failed backup and no verdict
on the state, which may be on another disk: the state is verified then.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from functools import partial
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeVar

import msgspec

from netstore.codec import varint
from netstore.disk.logpart import MOST_ENTRIES, last_part
from netstore.disk.readahead import read_ahead
from netstore.disk.statefile import StateFile
from netstore.disk.threads import start_thread
from netstore.errors import (
    Fault,
    NetstoreError,
    Reason,
    StateDamaged,
    fault_from_text,
    no_space,
    refusal,
)
from netstore.etcdfile import boltwriter
from netstore.histogram import Histogram, doubling
from netstore.node import fullbackup
from netstore.state import tables
from netstore.state.members import MemberInfo
from netstore.state.tables import RECORDS
from netstore.state.v3 import keyvalue
from netstore.state.v3.lease import LeaseRecord
from netstore.state.v3.store import V3Scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from netstore.disk.backupfile import Header, LogPart
    from netstore.disk.closer import Closer
    from netstore.node.archive import Source
    from netstore.node.fullbackup import Found
    from netstore.raft.log import Log as RaftLog
    from netstore.seams import Log
    from netstore.types import Index

T = TypeVar("T")

SPARE_BYTES: Final = 64 * 1024 * 1024
"""Free disk space that a backup must leave: the log may be on the same disk."""

MADE_BOUNDS: Final = doubling(0.01, 17)
"""Upper bounds of the seconds that a snapshot takes to make, as etcd has them."""

_NUMBER: Final = Struct(">Q")
_REVISION: Final = Struct(">QcQ")
_MASK64: Final = 2**64 - 1


class _StateCopy(NamedTuple):
    """A copy of the state, of which a full backup is to be written."""

    path: Path
    target: Path
    """That of the backup."""
    applied: Index


class FullCopy(NamedTuple):
    """A full backup that was written and synced, not verified: who asked for it moves or removes the file."""

    path: Path
    found: Found


class BoltCopy:
    """A finished snapshot: a file without a name. `api.v3.maintenance.Copy`."""

    def __init__(self, file: BinaryIO, size: int, closer: Closer) -> None:
        self._file: BinaryIO | None = file
        self._closer = closer
        self._at = 0
        self.size = size
        """Bytes that `read` gives in all: a multiple of 512."""

    def read(self, most: int) -> bytes:
        """The next bytes; none at the end. They come from the page cache: the file was written just now, and
        what left it since is fetched ahead. ValueError after `close`.
        """
        file = self._file
        if file is None:
            raise ValueError("read of a snapshot that was closed")
        read_ahead(file.fileno(), self._at, most)
        piece = file.read(most)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Delete the file, later and in another thread. May be called again."""
        file, self._file = self._file, None
        if file is not None:
            self._closer.close(file)


class Backups:
    """Makes backups of one member's state, whose file is in `folder`. Implements
    `api.v3.maintenance.BackupSource` and `api.backup.FullBackupSource`.

    `call_soon` makes a call on the loop, from any thread.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        call_soon: Callable[[Callable[[], object]], None],
        log: Log,
        *,
        closer: Closer,
        suspect: Callable[[], object],
        header: Callable[[], Header],
        log_part: Callable[[Index], LogPart | None],
    ) -> None:
        """`suspect` is called on the loop if a copy is not what was written: the state should be verified.
        `header` gives that of a full backup, as far as the state does not (`fullbackup.header_of`), and
        `log_part` what tells of which log a state is that has applied this entry (`log_part`).
        """
        self._folder = folder
        self._source = source
        self._call_soon = call_soon
        self._log = log
        self._closer = closer
        self._suspect = suspect
        self._header = header
        self._log_part = log_part
        self._busy = False
        self._began = 0.0
        self.made = Histogram(MADE_BOUNDS)
        """Seconds that each snapshot took to make."""

    def make(self, done: Callable[[BoltCopy | Fault], None]) -> None:
        """Make a snapshot in etcd's format that contains everything acknowledged so far; `done` gets it, or
        why there is none, on the loop, and has to close it.
        """
        work = partial(self._bolt_copy, self._source.sizes()[0], self._header())
        self._begin(work, partial(self._bolt_made, done))

    def make_full(self, done: Callable[[FullCopy | Fault], None], folder: Path | None = None) -> None:
        """Make a full backup, in `folder` or where the state is, that contains everything acknowledged so
        far; `done` gets it, or why there is none, on the loop. The next one in that folder removes the file.
        """
        work = partial(self._state_copy, folder or self._folder, self._source.sizes()[0], self._header())
        begun = self._log_part(self._source.applied())
        self._begin(work, partial(self._state_copied, done, begun))

    def _begin(self, work: Callable[[], T], made: Callable[[T | Exception | Fault], None]) -> None:
        """Do `work` in a thread once the state is durable; `made` gets its outcome on the loop, or the Fault
        that it was not begun for.
        """
        if self._busy or self._closer.is_full:
            made(refusal(Reason.SNAPSHOT_BUSY))
            return
        self._busy = True
        self._began = monotonic()
        try:
            self._source.sync(partial(self._durable, work, made))
        except BaseException:  # it has not taken the callback
            self._busy = False
            raise

    def _durable(
        self, work: Callable[[], T], made: Callable[[T | Exception | Fault], None], failure: OSError | None
    ) -> None:
        if failure is not None:
            self._busy = False
            self._log.warning("snapshot_not_made", error=str(failure))
            made(no_space())
            return
        self._start(work, made)

    def _start(self, work: Callable[[], T], made: Callable[[T | Exception | Fault], None]) -> None:
        no_thread = start_thread(partial(self._run, work, made), "backup")
        if no_thread is not None:
            self._over(made, no_thread)

    def _run(self, work: Callable[[], T], made: Callable[[T | Exception | Fault], None]) -> None:
        outcome: T | Exception
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - a backup that fails, however it does, ends no member
            outcome = error
        self._call_soon(partial(self._over, made, outcome))

    def _over(self, made: Callable[[T | Exception | Fault], None], outcome: T | Exception) -> None:
        self._busy = False
        if isinstance(outcome, Exception):
            self._log.warning("snapshot_not_made", error=_in_words(outcome))
        made(outcome)
        if isinstance(outcome, StateDamaged):
            self._suspect()

    # --- etcd's format

    def _bolt_made(
        self, done: Callable[[BoltCopy | Fault], None], outcome: BoltCopy | Exception | Fault
    ) -> None:
        if isinstance(outcome, BoltCopy):
            self.made.observe(monotonic() - self._began)
            self._log.info("snapshot_made", bytes=outcome.size)
            done(outcome)
        else:
            done(outcome if isinstance(outcome, Fault) else refusal(Reason.SNAPSHOT_FAILED))

    def _bolt_copy(self, size: int, header: Header) -> BoltCopy:
        stem = _begin_files(self._folder, header)
        state, bolt = (stem.with_name(f"{stem.name}.{each}.part") for each in ("state", "bolt"))
        _check_room(self._folder, size)
        try:
            with _private(state) as file:
                self._source.copy_to(file.fileno())
            file = _private(bolt)
            try:
                with StateFile(state) as source:
                    written = boltwriter.write(file, buckets(source))
                file.flush()
                file.seek(0)
            except BaseException:
                file.close()
                raise
            return BoltCopy(file, written, self._closer)
        finally:
            state.unlink(missing_ok=True)
            bolt.unlink(missing_ok=True)

    # --- full backups

    def _full_made(
        self, done: Callable[[FullCopy | Fault], None], outcome: FullCopy | Exception | Fault
    ) -> None:
        if isinstance(outcome, FullCopy):
            self._log.info("backup_made", bytes=outcome.found.size, revision=outcome.found.header.revision)
            done(outcome)
        else:
            done(outcome if isinstance(outcome, Fault) else fault_from_text(_in_words(outcome), 0))

    def _state_copy(self, folder: Path, size: int, header: Header) -> tuple[_StateCopy, Header]:
        stem = _begin_files(folder, header)
        state, full = (stem.with_name(f"{stem.name}.{each}.part") for each in ("state", "full"))
        _check_room(folder, size)
        try:
            with _private(state) as file:
                applied = self._source.copy_to(file.fileno())
        except BaseException:
            state.unlink(missing_ok=True)
            raise
        return _StateCopy(state, full, applied), header

    def _state_copied(
        self,
        done: Callable[[FullCopy | Fault], None],
        begun: LogPart | None,
        outcome: tuple[_StateCopy, Header] | Exception | Fault,
    ) -> None:
        """The copy is there; the log is asked on the loop, and `begun` is what it said before the copy."""
        if not isinstance(outcome, tuple):
            self._full_made(done, outcome)
            return
        copy, header = outcome
        part = self._log_part(copy.applied) or begun
        if part is not None:
            header = msgspec.structs.replace(header, log=part)
        self._busy = True
        self._start(partial(_full_copy, copy, header), partial(self._full_written, done, copy))

    def _full_written(
        self,
        done: Callable[[FullCopy | Fault], None],
        copy: _StateCopy,
        outcome: FullCopy | Exception | Fault,
    ) -> None:
        if not isinstance(outcome, FullCopy):
            self._closer.remove(copy.path)  # it is there still if no thread could be started
        self._full_made(done, outcome)


def log_part(log: RaftLog, applied: Index) -> LogPart | None:
    """What tells of which log a state is that has applied this entry; None if the log has forgotten it.
    Reads `logpart.MOST_ENTRIES` entries at most.
    """
    if not log.compacted < applied <= log.last:
        return None
    return last_part(log.between(max(log.compacted + 1, applied - MOST_ENTRIES + 1), applied))


def _full_copy(copy: _StateCopy, header: Header) -> FullCopy:
    try:
        found = fullbackup.run("write", copy.path, copy.target, msgspec.json.encode(header).decode())
    except BaseException:
        copy.target.unlink(missing_ok=True)
        raise
    finally:
        copy.path.unlink(missing_ok=True)
    return FullCopy(copy.target, found)


def _begin_files(folder: Path, header: Header) -> Path:
    """Remove what this member left in a folder, and return the path with which new names there begin."""
    own = f"backup-{header.cluster}-{header.member}-"
    for left in folder.glob(f"{own}*.part"):
        left.unlink(missing_ok=True)
    return folder / f"{own}{secrets.token_hex(8)}"


def _check_room(folder: Path, size: int) -> None:
    """NetstoreError if there is no room for a copy of the state and a backup of it."""
    free, needed = shutil.disk_usage(folder).free, 2 * size + SPARE_BYTES
    if free < needed:
        raise NetstoreError(
            f"{folder}: no room for a backup: {free} bytes are free, and it takes up to {needed} while it is"
            " made: free space, or choose another folder"
        )


def _in_words(error: Exception) -> str:
    match error:
        case StateDamaged():
            what = str(error).partition("; nothing was changed")[0]
            return (
                f"the copy is damaged: {what}; the scrubber, unless it is off, verifies the state itself now"
            )
        case NetstoreError():
            return str(error)
        case OSError():
            return f"{error.filename or 'backup'}: {error.strerror or error}"
        case MemoryError():
            return "not enough memory"
        case _:
            return f"the backup failed ({error})"


def _private(path: Path) -> BinaryIO:
    """A new file. OSError if there is one, or a link, with this name."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(opened, "w+b")


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
        b"members_removed": _removed(source),
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


def _removed(source: StateFile) -> Iterator[tuple[bytes, bytes]]:
    for name in sorted(b"%x" % int(key, 16) for key, _ in source.scan(tables.REMOVED)):
        yield name, b"removed"


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
