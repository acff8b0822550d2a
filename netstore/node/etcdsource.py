"""What an etcd left on disk, opened to be imported or restored: a snapshot file, or the data folder of a
stopped member, or one that `etcdctl backup` made. Blocks. Nothing in it is changed, and nothing is read that
an etcd uses: it writes to pages again that the reader has still to read.
"""

from __future__ import annotations

import fcntl
import shlex
from contextlib import ExitStack
from hashlib import sha256
from io import SEEK_END
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final

from netstore.codec import Malformed
from netstore.disk.backupfile import MAGIC, is_backup
from netstore.errors import CorruptData, NetstoreError
from netstore.etcdfile import v2content, v3content
from netstore.etcdfile.boltreader import Database, NoDigest, database_size, unverified_size
from netstore.etcdfile.raftlog import LOG_NAME, NORMAL, SNAPSHOT_NAME, DamagedEnd, RaftLog, read_snapshot
from netstore.inputfile import open_input
from netstore.node.etcdimport import Report, V2Auth, V2State, v3_records
from netstore.outputfile import NO_LOCKS
from netstore.types import EtcdIndex, Index, Nanos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from netstore.etcdfile.raftlog import LeftOut, Snapshot
    from netstore.node.etcdimport import Listed
    from netstore.state.tables import Record

_CORRUPT: Final = 2
"""The kind of alarm."""

_FROM_URL: Final = "import from its URL while it serves"
_NAME_SOURCE: Final = "name a file or folder that can be read"

_DATABASE: Final = "db"
"""Name of the database in a data folder. Only there it has no digest at its end."""

_NO_FACTS: Final = v3content.Facts(0, 0, 0, auth_enabled=False, users=0, roles=0, members=0, alarms=())


def _ignore(_: int) -> None:
    """Nobody waits for progress."""


class EtcdSource:
    """The contents of an etcd, as records."""

    def __init__(self, database: Database | None, v2: V2State | None, applied: Index) -> None:
        """Made by `open_file` and `open_folder`."""
        self._database = database
        self._v2 = v2
        self.applied = applied
        """The index that the log of the new member begins after, at least 1."""
        self.facts = _NO_FACTS if database is None else v3content.facts(database)
        self.v2_auth = V2Auth() if v2 is None else v2.auth
        """Of a running etcd, see `add_listing`."""
        self.has_hidden = False
        """There may be hidden nodes of the v2 tree that are not among the records."""
        self.torn = ""
        """Where the last write of the log was left unfinished by a crash; empty if none was."""
        self.lost: LeftOut | None = None
        """The damaged end of the log, if that was left out."""
        self.uncommitted = 0
        """Entries at the end of the log that were taken over, and of which the member did not know whether a
        majority had them.
        """
        self.may_lack = False
        """The database is one of a data folder, whose log, which has the newest writes, is not there."""
        self.is_backup_folder = False
        """It is a folder of `etcdctl backup`: its database has no members, which a member always has."""

    @property
    def has_corrupt_alarm(self) -> bool:
        """The etcd had found that its members have different data."""
        return any(kind == _CORRUPT for _, kind in self.facts.alarms)

    def check_open(self, *, without_auth: bool) -> None:
        """NetstoreError if this etcd asks for passwords, in either API, and that they are lost is not
        accepted.
        """
        asks = []
        if self.facts.auth_enabled:
            asks.append(f"{self.facts.users} users, {self.facts.roles} roles")
        if self.v2_auth.enabled:
            asks.append(f"in its v2 API{_counted(self.v2_auth)}")
        if asks and not without_auth:
            raise NetstoreError(
                f"this etcd asks for passwords ({'; '.join(asks)}), which netstore"
                " does not have: with the data alone everybody who reaches the store may do everything;"
                " protect it by client certificates, and repeat this with --without-auth"
            )

    def left_out(self, report: Report) -> list[str]:
        """In words, what the records do not have or have otherwise; `report` is that of `records`."""
        told = []
        if self.facts.users and not self.facts.auth_enabled:
            told.append(
                f"{self.facts.users} users and {self.facts.roles} roles were left out: netstore has none"
            )
        if self.v2_auth.users and not self.v2_auth.enabled:
            told.append(
                f"{self.v2_auth.users} users and {self.v2_auth.roles} roles of the v2 API were left out:"
                " netstore has none"
            )
        if report.unleased_count:
            names = ", ".join(repr(key.decode(errors="replace")) for key in report.unleased)
            told.append(
                f"{report.unleased_count} keys have a lease that does not exist, and stay for ever: {names}"
            )
        if self.is_backup_folder and not report.changes and not report.leases:
            told.append(
                "the folder is one of etcdctl backup and has no v3 keys, which that copies only with"
                " --with-v3: if this etcd had any, repeat the backup so, or take the data folder of the"
                " stopped etcd"
            )
        if self.may_lack:
            told.append(
                "the file has no digest, as the database of a data folder has none, and no log beside it: an"
                " etcd acknowledges writes before they are in its database, so the last ones may be missing;"
                " a file of etcdctl snapshot save, or the whole data folder of the stopped etcd, has them"
            )
        return told

    def add_listing(self, root: Listed, index: EtcdIndex, now: Nanos) -> None:
        """Add the v2 tree as a running etcd has listed it, which leaves out hidden nodes, and says nothing of
        passwords.
        """
        self.has_hidden = True
        self._v2 = V2State(now)
        self._v2.restore_listing(root, index)

    def records(self, report: Report) -> Iterator[Record]:
        """All records; `report` is complete when the last was given. CorruptData if something is damaged."""
        if self._database is not None:
            yield from v3_records(self._database, self.facts, self.applied, report)
        if self._v2 is not None:
            yield from self._v2.records(report)

    def digest(self) -> str:
        """SHA-256 of all records and of the index they are of. All is read, and CorruptData raised if
        something is damaged.
        """
        digest = sha256(b"%d" % self.applied)
        for table, key, value in self.records(Report()):
            for part in (table.encode(), key, value):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
        return digest.hexdigest()


def _counted(auth: V2Auth) -> str:
    return f": {auth.users} users, {auth.roles} roles" if auth.users else ""


def open_file(
    path: Path, parts: ExitStack, told: Callable[[int], object] = _ignore, *, skip_digest: bool = False
) -> EtcdSource:
    """A file as of `source_in`, by its name. Closed with `parts`."""
    file = parts.enter_context(open_input(path, _NAME_SOURCE))
    return source_in(file, path, told, skip_digest=skip_digest)


def source_in(
    file: BinaryIO,
    path: Path,
    told: Callable[[int], object] = _ignore,
    *,
    skip_digest: bool = False,
    instead: str = _FROM_URL,
) -> EtcdSource:
    """An opened file that `etcdctl snapshot save` wrote, or the file `db` of a data folder. `told` is called
    with how many bytes were verified so far; the digest is not verified with `skip_digest`. No etcd can use
    the file before it is closed. Blocks.

    NetstoreError if an etcd uses it (see `lock`), of a full backup, and for a `db` that may lack what the log
    has that lies beside it in the data folder; CorruptData, with what to do, if it is damaged.
    """
    database = _database_in(file, path, told, skip_digest=skip_digest, instead=instead)
    index = v3content.facts(database).consistent_index
    source = EtcdSource(database, None, Index(max(1, index)))
    has_digest = file.seek(0, SEEK_END) > unverified_size(file)
    source.may_lack = not has_digest and not _is_shown_by_log(path)
    return source


def lock(file: BinaryIO, path: Path, instead: str) -> None:
    """Keep each etcd from using this file until it is closed, by the lock that etcd itself takes (flock(2)).
    NetstoreError if one uses it; `instead` says what to do but to stop it. Where the file system has no locks
    an etcd cannot use it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NetstoreError(f"{path}: in use by an etcd that runs: stop it, or {instead}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _is_shown_by_log(path: Path) -> bool:
    """Whether the log of the data folder that a database lies in shows that the database lacks nothing; False
    if there is none beside it. NetstoreError if the log has more, or does not tell, as it is damaged.
    """
    snap = path.resolve().parent
    wal = snap.parent / "wal"
    if (path.resolve().name, snap.name) != (_DATABASE, "snap") or not wal.is_dir() or not _log_names(wal):
        return False
    with ExitStack() as parts:
        files = _log_files(wal, parts)
        try:
            _with_log(snap.parent.parent, snap, RaftLog(files), files, parts, now=Nanos(0), told=_ignore)
        except NetstoreError as error:
            raise NetstoreError(
                f"{error}; without its log {path} may lack writes that were acknowledged: to take it all the"
                " same, copy it to another folder"
            ) from None
    return True


def open_folder(
    path: Path,
    wal: Path | None,
    now: Nanos,
    parts: ExitStack,
    told: Callable[[int], object] = _ignore,
    *,
    without_damaged_end: bool = False,
) -> EtcdSource:
    """The data folder of a stopped member; `wal` is where its log is, if not inside. The TTLs of the
    v2 tree count from the last instant that the log has, so that every import of the folder gives the same;
    from `now` if it has none. `told` is called with the number of entries of the log that were
    looked at. With `without_damaged_end` the log ends before what is damaged in its last file. Closed with
    `parts`.

    NetstoreError, with the fix, if it is in use or is no such folder; CorruptData, with file and offset, if
    something in it is damaged.
    """
    snap, wal = path / "member" / "snap", wal or path / "member" / "wal"
    if not snap.is_dir() or not wal.is_dir():
        raise NetstoreError(
            f"{path}: not the data folder of an etcd: {wal if snap.is_dir() else snap} is not there: name the"
            " folder that etcd was given as --data-dir (and with --source-wal-dir its --wal-dir), or a"
            " snapshot file"
        )
    if not _log_names(wal):
        raise NetstoreError(
            f"{wal}: has no log of an etcd: name with --source-wal-dir the folder that etcd was given as"
            " --wal-dir"
        )
    files = _log_files(wal, parts)
    try:
        log = RaftLog(files, without_damaged_end=without_damaged_end)
    except DamagedEnd as error:
        log = RaftLog(files, without_damaged_end=True)
        try:
            _with_log(path, snap, log, files, parts, now=now, told=told)
        except NetstoreError:  # what is before the damage is not enough
            raise CorruptData(str(error)) from None
        raise CorruptData(f"{error}, or go on without them by --without-damaged-end") from None
    return _with_log(path, snap, log, files, parts, now=now, told=told)


def _log_names(wal: Path) -> list[str]:
    return sorted(each.name for each in wal.iterdir() if LOG_NAME.fullmatch(each.name))


def _log_files(wal: Path, parts: ExitStack) -> list[tuple[str, BinaryIO]]:
    """The files of a log with their names, opened and locked."""
    return [(str(wal / name), _opened(wal / name, parts)) for name in _log_names(wal)]


def _with_log(
    path: Path,
    snap: Path,
    log: RaftLog,
    files: Sequence[tuple[str, BinaryIO]],
    parts: ExitStack,
    *,
    now: Nanos,
    told: Callable[[int], object],
) -> EtcdSource:
    """What a data folder has in `snap`, with its log, which is in these files; see `open_folder`."""
    snapshot = _newest_snapshot(snap, log)
    index = 0 if snapshot is None else snapshot.index
    if log.first > index + 1 and log.last >= log.first:
        raise CorruptData(
            f"{files[0][0]}: offset 0: the log begins with entry {log.first}, and the newest v2 snapshot"
            f" is of entry {index}: files are missing"
        )
    if log.commit > max(log.last, index):
        raise CorruptData(
            f"{files[-1][0]}: offset 0: the log ends with entry {log.last}, and entry {log.commit} was"
            " committed: its end is missing; take the folder of another member"
        )
    state = V2State(_last_sync(log) or now)
    if snapshot is not None:
        content = v2content.decode(snapshot.data, str(snap))
        try:
            state.restore(content)
        except ValueError as error:
            raise CorruptData(f"{snap}: offset 0: the v2 snapshot of entry {index}: {error}") from None
    others = state.apply(log.entries(index), told)
    db = snap / _DATABASE
    database = _database_in(_opened(db, parts), db) if db.exists() else None
    source = EtcdSource(database, state, Index(max(1, index, log.last)))
    _check_together(path, database, source.facts, index, log)
    missing = [each for each in others if each > source.facts.consistent_index]
    if missing:
        raise NetstoreError(
            f"{path}: its log has {len(missing)} requests of the v3 API from entry {missing[0]} on of which"
            " its database does not say that it has them: start this etcd once, put any key (etcdctl put),"
            " as etcd 3.4 notes its place only with a change of a key, stop it with SIGTERM, and repeat this"
        )
    source.is_backup_folder = database is not None and not source.facts.members
    source.torn, source.lost = log.torn, log.lost
    source.uncommitted = max(0, log.last - max(log.commit, index))
    return source


def _last_sync(log: RaftLog) -> Nanos | None:
    """The instant of the newest request that ends TTLs. An etcd writes one each half second while there are
    any.
    """
    for index in range(log.last, log.first - 1, -1):
        for entry in islice(log.entries(index - 1), 1):
            if entry.kind != NORMAL or not entry.data:
                continue
            try:
                request = v2content.request_of(entry.data)
            except Malformed as error:
                raise CorruptData(f"{entry.place}: not a request ({error})") from None
            if isinstance(request, v2content.V2Request) and request.method == b"SYNC":
                return request.time
    return None


def _check_together(
    path: Path, database: Database | None, facts: v3content.Facts, snapshot: int, log: RaftLog
) -> None:
    """Refuse a database that is of an earlier moment than the v2 snapshot of entry `snapshot`, and a log that
    ends before what the database has.

    0 is the index of a database that no entry has changed yet. A folder of `etcdctl backup`, which has no
    members, has a log whose entries were numbered anew.
    """
    has = facts.consistent_index
    if database is not None and has < snapshot and (has or any(True for _ in database.bucket(b"key"))):
        raise NetstoreError(
            f"{path}: its database is of entry {has}, and its v2 snapshot of entry {snapshot}, so changes of"
            " the v3 API between them are missing: start this etcd once, stop it with SIGTERM, and repeat"
            " this; if it does not start, take the folder of another member"
        )
    end = max(snapshot, log.last)
    if facts.members and has > end:
        raise CorruptData(
            f"{path}: its log ends with entry {end}, and its database has entry {has}: the end of the log is"
            " damaged or missing; take the folder of another member"
        )


def _newest_snapshot(folder: Path, log: RaftLog) -> Snapshot | None:
    """The newest v2 snapshot that the log knows of."""
    for file in sorted(folder.iterdir(), reverse=True):
        match = SNAPSHOT_NAME.fullmatch(file.name)
        if match and (int(match[2], 16), int(match[1], 16)) in log.snapshots:
            with open_input(file, "take the folder of another member") as opened:
                return read_snapshot(opened, str(file))
    return None


def _database_in(
    file: BinaryIO,
    path: Path,
    told: Callable[[int], object] = _ignore,
    *,
    skip_digest: bool = False,
    instead: str = _FROM_URL,
) -> Database:
    """The database in an opened file; see `source_in`."""
    lock(file, path, instead)
    file.seek(0)
    if is_backup(file.read(len(MAGIC))):
        raise NetstoreError(
            f"{path}: is a full backup of a netstore, not a file of an etcd: restore it with"
            f" netstorectl snapshot restore {shlex.quote(str(path))} --data-dir FOLDER"
        )
    if skip_digest:
        return Database(file, str(path), unverified_size(file))
    try:
        size = database_size(file, str(path), told, without_digest=path.name == _DATABASE)
    except NoDigest as error:
        raise CorruptData(f"{error}; take another copy, or go on with --skip-hash-check") from None
    return Database(file, str(path), size)


def _opened(path: Path, parts: ExitStack) -> BinaryIO:
    """A file of a data folder, which no etcd uses, and which none can open to write meanwhile."""
    file = parts.enter_context(open_input(path, _NAME_SOURCE))
    lock(file, path, _FROM_URL)
    return file
