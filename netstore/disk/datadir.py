"""The data folder: its lock, the identity of its member, its format version, and the files in it.

    PATH/           0700
      lock          locked while a daemon runs; has its process id
      identity      format version, cluster, member, name, and a checksum (contrib/doc/format-datadir.md)
      token         the cluster's join token, 0600; absent in a member that joined by its certificate alone
      replacing     the identity of the member that replaces a damaged one; only until that is done
      instance      a random number, in a member that archives its log
      archive-place the folder in which this member began an archive of its log, or went on with one
      unfinished    while the folder is filled by an import or a restore; no member starts on it. A log that
                    is elsewhere has the same, with the same random number
      wal/          the write-ahead log, if it is not elsewhere; has a copy of `identity`, so that a log
                    that is not mounted is not taken for an empty one
      state/        the state
      fixtures/     certificates that the member made itself, with their keys; absent in most

A folder whose data is damaged can be given to another member: the old files are kept in a folder `damaged`
inside each of `wal` and `state`, until that happens again.

Whatever is wrong is raised as a NetstoreError whose text says what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netstore.codec import crc32c
from netstore.errors import CorruptData, NetstoreError
from netstore.inputfile import NotRegular, check_regular, open_regular, read_regular
from netstore.outputfile import sync_folder
from netstore.types import ClusterId, NodeId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FORMAT: Final = 2
"""Version of the folder, of its log and of its state. Any other is refused. The only earlier one was never
released, and reading its log as this version would lose acknowledged writes.
"""

STATE_FILE: Final = "state.lmdb"
"""The file of the state, in the folder `state`."""

DAMAGED: Final = "damaged"
"""Folder for the files of a damaged member, inside the folders that they were in."""

_IDENTITY: Final = "identity"
_REPLACING: Final = "replacing"
_UNFINISHED: Final = "unfinished"
_BEGUN: Final = f"{_UNFINISHED}.new"
"""All that an import or a restore has made which was killed before `_UNFINISHED` was there."""
_MARK_TITLE: Final = b"the data of a member is being written here"
_INSTANCE: Final = "instance"
_ARCHIVE_PLACE: Final = "archive-place"
"""No name that is likely to be given to a folder: archives, logs and backups may be in the data folder."""

MAX_NAME_BYTES: Final = 255
"""Longest member name."""

MAX_TOKEN_CHARACTERS: Final = 256
"""Longest join token."""

MAX_NOTE_BYTES: Final = 64 * 1024
"""Most that a file of a few lines in a folder can have: an identity, the number of a folder, a path."""

_JOIN: Final = "token"

OWN_CERTIFICATES: Final = "fixtures"
"""Folder for certificates that the member made itself, named as in etcd."""

_OWN_NAMES: Final = frozenset(
    {"lock", "lost+found", "state", "wal", OWN_CERTIFICATES, _JOIN, f"{_JOIN}.new", f"{_IDENTITY}.new"}
)
"""What a folder has before it has an identity, at most; also the root of a disk of its own."""

_ETCD_LOG: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.wal")
"""Names of the files of an etcd's log."""

_OWN_LOG: Final = re.compile(r"[0-9a-f]{16}\.wal")
"""Names of the files of a member's log."""

_TITLE: Final = "netstore data folder"
_JOIN_TITLE: Final = "netstore join token"


@dataclass(slots=True, frozen=True)
class MemberIdentity:
    """The member that a folder belongs to. `name` is only displayed."""

    cluster_id: ClusterId
    member_id: NodeId
    name: str

    def encode(self) -> bytes:
        """The text of the file `identity`. ValueError for a name with a line break or over MAX_NAME_BYTES."""
        if not self.name.isprintable() or len(self.name.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"member name {self.name!r} is not a printable text of at most {MAX_NAME_BYTES} bytes"
            )
        lines = (
            _TITLE,
            f"format {FORMAT}",
            f"cluster {self.cluster_id:x}",
            f"member {self.member_id:x}",
            f"name {self.name}",
        )
        text = "".join(f"{line}\n" for line in lines).encode()
        return add_checksum_line(text)

    @classmethod
    def decode(cls, data: bytes) -> MemberIdentity:
        """The inverse of `encode`. ValueError, with the reason, for anything else."""
        text = split_checksum_line(data)
        if text is None:
            raise ValueError("damaged: the checksum does not fit")
        lines = text.decode().split("\n")
        words = dict(line.partition(" ")[::2] for line in lines[1:-1])
        version = int(words["format"])
        if version > FORMAT:
            raise ValueError(
                f"written in format {version}, this version reads up to {FORMAT}: upgrade netstore"
            )
        if version < FORMAT:
            raise ValueError(
                f"written in format {version}, by a build before the first release; this version reads format"
                f" {FORMAT} only: start the build that wrote it and copy the keys from it, or move the data"
                " folder away and start this member anew"
            )
        return cls(ClusterId(int(words["cluster"], 16)), NodeId(int(words["member"], 16)), words["name"])


class DataDir:
    """A locked data folder."""

    def __init__(self, path: Path, wal_dir: Path, found: MemberIdentity | None, *locks: int) -> None:
        """For `lock`, `read` and `make`. `locks`: descriptors that are closed to unlock it."""
        self.path = path
        self.wal_dir = wal_dir
        self.state_dir = path / "state"
        self.found = found
        """The member it belonged to when it was locked; None for a new or empty folder until `adopt`."""
        self.narrowed: list[str] = []
        """Files whose mode was wider than 0600 and was corrected."""
        self._locks = locks

    @classmethod
    def lock(cls, path: Path, wal_dir: Path | None = None) -> DataDir:
        """Create the folder if necessary, lock it and read its identity, if it has one. Blocks.

        A file in it that other users might read gets mode 0600 again: the mode of the folder kept them out.

        NetstoreError, in one line with the fix, when the folder is accessible to other users, has files of
        other users or of another program, is in use, unreadable, not a folder, in another format, damaged, or
        when its log is another member's.
        """
        wal = path / "wal" if wal_dir is None else wal_dir
        _check_no_etcd(path)
        _make_folder(path)
        _check_no_foreign(path)
        _check_no_etcd_log(wal)
        lock = _lock(path)
        try:
            _make_folder(wal, own=wal_dir is None)
            _make_folder(path / "state", own=True)
            _finish_replacing(path, wal)
            narrowed = [each for folder in (path, wal, path / "state") for each in _make_private(folder)]
            found = _read_both(path, wal)
        except BaseException:
            os.close(lock)
            raise
        locked = cls(path, wal, found, lock)
        locked.narrowed = narrowed
        return locked

    @classmethod
    def read(cls, path: Path, wal_dir: Path | None = None) -> DataDir:
        """Lock the folder of a member that does not run, to read it: nothing in it is changed. Several
        processes may read it at the same time. A copy without the file `lock` is read as well, and nothing
        keeps a member from being started on that meanwhile. Blocks.

        NetstoreError, in one line with the fix, if a member runs on it, or it is no member's, cannot be read,
        or has the log of another member.
        """
        wal = path / "wal" if wal_dir is None else wal_dir
        check_not_both(path)
        lock = _lock_shared(path)
        try:
            found = _read_settled(path, wal)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, wal, found, lock)

    @classmethod
    def glance(cls, path: Path) -> DataDir:
        """The folder without a lock, to look at its identity and notes; a member may run on it, or nothing be
        there. Nothing may be written. Blocks.

        NetstoreError when it cannot be read; CorruptData when its identity is damaged.
        """
        return cls(path, path / "wal", _read_identity(path))

    @staticmethod
    def check(path: Path, wal_dir: Path | None = None) -> None:
        """Whether a member may start on a folder, as far as that is seen without a change to it; a member may
        run on it, or nothing be there. Blocks.

        NetstoreError as from `lock`, but not for a folder in use or files of other users in it.
        """
        wal = path / "wal" if wal_dir is None else wal_dir
        _check_no_etcd(path)
        begun = _check_private(path)
        if begun:
            _check_no_foreign(path)
        _check_no_etcd_log(wal)
        _check_private(wal, own=wal_dir is None)
        if begun and _read_identity(path, _REPLACING) is None:
            _check_private(path / "state", own=True)
            _read_both(path, wal)

    @classmethod
    def make(cls, path: Path, wal_dir: Path | None = None) -> DataDir:
        """Lock a folder to fill it with the data of a member that never ran: a new or empty folder, or one
        that was not filled to the end, which is emptied; so is `wal_dir`, the folder for its log, if it is
        not to be inside. No member starts on either before `adopt`, which makes them complete. Blocks.

        NetstoreError, in one line with the fix, for a folder that has anything in it, or cannot be used, and
        for a log folder that another data folder is filled with, or was not filled with to the end.
        """
        wal = path / "wal" if wal_dir is None else wal_dir
        _make_folder(path)
        if _is_same(wal, path):
            raise NetstoreError(f"--wal-dir: {wal} is the data folder itself: choose another one, or none")
        outside = not _is_same(wal, path / "wal")
        _check_unused(path)
        if outside and wal.exists():
            _check_unused_log(wal, _read_mark(path))
        with contextlib.ExitStack() as failed:
            locks = [_lock(path)]
            failed.callback(os.close, locks[0])
            _check_unused(path)  # another process may have filled it before it was locked
            mark = _read_mark(path) or b"%b\n%b\n" % (_MARK_TITLE, os.urandom(16).hex().encode())
            if outside:
                _make_folder(wal)
                locks.append(_lock_log(wal))
                failed.callback(os.close, locks[1])
                _check_unused_log(wal, mark)
            for folder in (path, wal) if outside else (path,):
                write_atomically(folder, _UNFINISHED, mark)
            made = cls(path, wal, None, *locks)
            made._empty()
            for folder in (made.wal_dir, made.state_dir):
                _make_folder(folder, own=True)
            failed.pop_all()
        return made

    @property
    def identity(self) -> MemberIdentity:
        """The member it belongs to. ValueError while there is none."""
        if self.found is None:
            raise ValueError(f"{self.path} has no identity yet")
        return self.found

    def instance(self) -> str:
        """A number that was drawn for this folder, in hexadecimal: it tells the folder from one that was
        begun anew with the same settings, whose ids are the same. Drawn when it is asked for first. Blocks.

        NetstoreError when it cannot be read or written; CorruptData when it is damaged.
        """
        found = self.known_instance()
        if not found:
            found = os.urandom(16).hex()
            write_atomically(self.path, _INSTANCE, add_checksum_line(f"{found}\n".encode()))
        return found

    def known_instance(self) -> str:
        """The number of this folder; empty if it was not drawn yet. Blocks; raises as `instance`."""
        return self._note(_INSTANCE, "remove it, another one is drawn then").decode()

    def archive_folder(self) -> str:
        """The folder in which the last archive of this data was written; empty if there was none. Blocks.

        NetstoreError when it cannot be read; CorruptData when it is damaged.
        """
        return os.fsdecode(self._note(_ARCHIVE_PLACE, "remove it if the archive is mounted"))

    def _note(self, name: str, fix: str) -> bytes:
        """The line in a file of the folder; empty if there is no such file."""
        path = self.path / name
        with explain_errors(path):
            if not path.exists():
                return b""
            text = split_checksum_line(read_regular(path, MAX_NOTE_BYTES))
        if text is None:
            raise CorruptData(f"{path}: damaged; nothing was changed: {fix}")
        return text.removesuffix(b"\n")

    def note_archive_folder(self, folder: Path) -> None:
        """Keep where the archive of this data is written, on stable storage. Blocks.

        NetstoreError when it cannot be written.
        """
        write_atomically(self.path, _ARCHIVE_PLACE, add_checksum_line(os.fsencode(folder) + b"\n"))

    def adopt(self, fresh: MemberIdentity) -> None:
        """Write the identity of a folder that has none, on stable storage. Blocks.

        NetstoreError when it cannot be written.
        """
        if self.found is not None:
            raise ValueError(f"{self.path} is member {self.found.member_id:x}'s")
        _write_identity(self.wal_dir, fresh)
        _write_identity(self.path, fresh)
        self.found = fresh
        self._unmark()

    def discard(self) -> None:
        """Remove what was written since `make`, and unlock the folder, which is empty then. Blocks."""
        if self.found is not None:
            raise ValueError(f"{self.path} is complete")
        self._empty()
        (self.path / "lock").unlink(missing_ok=True)
        self._unmark()
        self.close()

    def _unmark(self) -> None:
        for folder in (self.wal_dir, self.path):  # a log's mark without the folder's would be another's
            (folder / _UNFINISHED).unlink(missing_ok=True)

    def _empty(self) -> None:
        for folder in (self.path / "wal", self.state_dir):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self.wal_dir.iterdir() if self.wal_dir.exists() else ():
            if file.name != _UNFINISHED and file.is_file():  # a disk of its own has lost+found
                file.unlink()
        (self.path / _JOIN).unlink(missing_ok=True)

    def replace(self, fresh: MemberIdentity) -> None:
        """Give the folder, whose data is damaged, to another member; no file in it may be open. Blocks.

        The old files are kept in `damaged`. If it is interrupted at any point, the next `lock` completes it.
        """
        for folder in (self.wal_dir, self.state_dir):
            shutil.rmtree(folder / DAMAGED, ignore_errors=True)
        _write_identity(self.path, fresh, _REPLACING)
        _finish_replacing(self.path, self.wal_dir)
        self.found = fresh

    def close(self) -> None:
        """Unlock it."""
        for lock in self._locks:
            os.close(lock)


@contextlib.contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Raise an OSError about `path` as a NetstoreError in one line with a fix."""
    try:
        yield
    except PermissionError as error:
        raise NetstoreError(
            f"{path}: {error.strerror}: run as the owner of the folder, or give it to this user with chown"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise NetstoreError(f"{path}: a file is in the way of the folder: choose another folder") from error
    except NotRegular as error:
        raise NetstoreError(
            f"{error.filename}: {error.strerror}; nothing was changed: move it away, or choose another"
        ) from error
    except OSError as error:
        raise NetstoreError(f"{path}: {error.strerror}: check the disk, or choose another folder") from error


def _make_folder(path: Path, *, own: bool = False) -> None:
    """Create a folder if necessary, and check that it is private. `own`: it is inside a member's folder.

    An empty folder of this user is made private, as `_check_private` lets it pass.
    """
    with explain_errors(path):
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
            sync_folder(path.parent)
    _check_private(path, own=own)
    with explain_errors(path):
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)


def _check_private(path: Path, *, own: bool = False) -> bool:
    """Refuse a folder that is not private, or no folder. Returns whether it is there. `own`: it is inside a
    member's folder.

    An empty folder of this user may be closed by `_make_folder`, such as a volume of a container: it has
    nothing that another may have read. One that others may write to may not, since it can be a folder of the
    system, as /tmp.
    """
    with explain_errors(path):
        if not path.exists():
            return False
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError
        names = set(os.listdir(path))  # noqa: PTH208 - may fail, as may all here
        mode = status.st_mode & 0o777
        empty = not own and names <= {"lost+found"} and status.st_uid == os.geteuid() and not mode & 0o022
        if mode & 0o077 and not empty:
            # Nobody is told to close a folder of the system, as /etc, because its name was given by mistake.
            if not (own or _IDENTITY in names or names <= _OWN_NAMES):
                raise NetstoreError(
                    f"{path}: mode {mode:04o} lets other users in, and it has files that are no member's:"
                    " choose another folder"
                )
            raise NetstoreError(f"{path}: mode {mode:04o} lets other users in: run chmod 700 {path}")
    return True


def _check_no_etcd(path: Path) -> None:
    """Refuse the folder of an etcd, whatever its mode, and say how its data is taken over; and that of a
    member in which an etcd was run.
    """
    check_not_both(path)
    with explain_errors(path):
        is_etcd = _has_etcd(path)
    if is_etcd:
        raise NetstoreError(
            f"{path}: has the data of an etcd (the folder member); nothing was changed: stop that etcd, run"
            f" netstorectl import --data-dir NEW {path}, and start netstored with --data-dir NEW"
        )


def check_not_both(path: Path) -> None:
    """NetstoreError for the folder of a member in which an etcd was run: neither has the writes of the other.
    Blocks.
    """
    member = path / "member"
    with explain_errors(path):
        is_both = _has_etcd(path) and (path / _IDENTITY).exists()
    if is_both:
        raise NetstoreError(
            f"{path}: has the data of this member, and of an etcd that was run in the same folder ({member});"
            " nothing was changed: stop that etcd, and move the folder member into an empty folder, OTHER. If"
            " its writes count, run netstorectl import --data-dir NEW OTHER, and start netstored with"
            " --data-dir NEW; if this member's do, start it as before"
        )


def _has_etcd(path: Path) -> bool:
    return any((path / "member" / each).exists() for each in ("snap", "wal"))


def _check_no_etcd_log(wal: Path) -> None:
    """Refuse the log folder of an etcd, whatever its mode, and say how its data is taken over."""
    with explain_errors(wal):
        names = os.listdir(wal) if wal.exists() else []  # noqa: PTH208 - may fail
    found = min(filter(_ETCD_LOG.fullmatch, names), default=None)
    if found is not None and _IDENTITY not in names:
        raise NetstoreError(
            f"{wal}: has the log of an etcd ({found}); nothing was changed: stop that etcd, run netstorectl"
            f" import --data-dir NEW --source-wal-dir {wal} FOLDER with its data folder, and start netstored"
            " with --data-dir NEW"
        )


def _check_no_foreign(path: Path) -> None:
    """Refuse a folder that is no member's and has anything else in it, before anything there is changed: a
    store that began empty beside the data of another would hide it from its clients.
    """
    with explain_errors(path):
        names = set(os.listdir(path))  # noqa: PTH208 - may fail
    if _IDENTITY in names:
        return
    if names & {_UNFINISHED, _BEGUN}:
        raise NetstoreError(
            f"{path}: an import or a restore into it did not come to its end; nothing was changed: run it"
            " again, or empty the folder"
        )
    foreign = sorted(names - _OWN_NAMES)
    if foreign:
        raise NetstoreError(
            f"{path}: no member's folder, but it has {_show_names(foreign)}; nothing was changed: choose an"
            " empty folder"
        )


def _check_unused(path: Path) -> None:
    """Refuse a folder that has anything in it, unless that is what an import or a restore left unfinished."""
    with explain_errors(path):
        names = set(os.listdir(path))  # noqa: PTH208 - may fail
        own = {
            each for each in ("state", "wal") if (path / each).is_dir() and not any((path / each).iterdir())
        }
    used = sorted(names - own - {"lock", "lost+found", _BEGUN})
    if used and (_UNFINISHED not in names or _IDENTITY in names):
        raise NetstoreError(
            f"{path}: has {_show_names(used)}; nothing was changed: choose a new or empty folder"
        )


def _check_unused_log(wal: Path, mark: bytes | None) -> None:
    """Refuse a log folder outside the data folder that has anything in it, unless that was left by an import
    or a restore into the data folder with this mark. That may have come as far as the log's identity.
    """
    found = _read_mark(wal)
    if found is not None and found == mark:
        return
    _check_unused(wal)
    if found is not None:
        raise NetstoreError(
            f"{wal}: has the log of an import or a restore into another data folder, which still runs or did"
            " not come to its end; nothing was changed: choose another folder, or empty this one"
        )


def _read_mark(folder: Path) -> bytes | None:
    """What tells the folders of one unfinished import or restore from those of another."""
    with explain_errors(folder / _UNFINISHED):
        try:
            return read_regular(folder / _UNFINISHED, MAX_NOTE_BYTES)
        except FileNotFoundError:
            return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are those of one folder, which need not exist."""
    with explain_errors(one):
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _show_names(names: Sequence[str]) -> str:
    """The first three names, for a message; control characters are escaped."""
    shown = ", ".join(repr(name[:64]) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _make_private(folder: Path) -> list[str]:
    """Set mode 0600 for the files of a folder; returns those that had a wider one. `read_token` checks the
    join token's.
    """
    narrowed = []
    with explain_errors(folder):
        owners = {os.geteuid(), folder.stat().st_uid}
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            status = entry.stat(follow_symlinks=False)
            if status.st_uid not in owners:
                raise NetstoreError(
                    f"{entry.path}: belongs to user {status.st_uid}, not to who runs this or has the folder:"
                    f" give it back with chown, or remove it"
                )
            wide = stat.S_ISREG(status.st_mode) and status.st_mode & 0o077
            if wide and entry.name != _JOIN:
                os.chmod(entry.path, 0o600)  # noqa: PTH101 - an entry has its path as text
                narrowed.append(entry.path)
    return narrowed


def _open_lock(path: Path, flags: int) -> int:
    """Open the file of a lock, without waiting if it is a pipe. OSError; NotRegular if it is no file."""
    lock = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        check_regular(path, os.fstat(lock))
    except OSError:
        os.close(lock)
        raise
    return lock


def _lock(path: Path) -> int:
    with explain_errors(path / "lock"):
        lock = _open_lock(path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = f"in use by process {_holder(lock)}: stop it"
        if _is_shared(lock):
            holder = "is being read, as by netstorectl export: wait until that has ended"
        os.close(lock)
        raise NetstoreError(f"{path}: {holder}, or choose another data folder") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _lock_log(wal: Path) -> int:
    """Lock a log folder while it is filled. The folder itself, so that no file is left in it."""
    with explain_errors(wal):
        lock = os.open(wal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise NetstoreError(
                f"{wal}: in use by another import or restore: choose another folder for the log"
            ) from None
    return lock


def _lock_shared(path: Path) -> int:
    """Lock a folder against a member; nothing is written. Without a file `lock`, no member runs on it: a copy
    may have been made without. The folder itself is opened then, which locks nothing.
    """
    with explain_errors(path / "lock"):
        try:
            lock = _open_lock(path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(lock)
        os.close(lock)
        raise NetstoreError(f"{path}: in use by process {holder}: stop it first") from None
    return lock


def _is_shared(lock: int) -> bool:
    """Whether those who have the lock of an open file only read; it is shared with them then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> str:
    """Who wrote its process id into a lock's file, as a member does when it has locked it."""
    return os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"


def _read_both(path: Path, wal: Path, option: str = "--wal-dir") -> MemberIdentity | None:
    """The identity of the folder, which must be that of its log too; None when both have none. `option` is
    the one that names the folder of the log.
    """
    identity = _read_identity(path)
    if identity is None:
        _check_no_log(path, wal)
    elif _read_identity(wal) != identity:
        _check_no_etcd_log(wal)
        anew = "" if (path / "state" / STATE_FILE).exists() else f", or remove {path} to let it begin anew"
        raise NetstoreError(
            f"{wal}: not the log folder of member {identity.member_id:x}: mount or restore the one that"
            f" belongs to {path}, or name it with {option}{anew}"
        )
    return identity


def _read_settled(path: Path, wal: Path) -> MemberIdentity:
    """The identity of a folder that belongs to a member, and is not being given to another one.
    The folder is the source of a command.
    """
    if _read_identity(path, _REPLACING) is not None:
        raise NetstoreError(f"{path}: was being given to another member: start that one first")
    found = _read_both(path, wal, "--source-wal-dir")
    if found is None:
        raise NetstoreError(f"{path}: not the data folder of a member: it has no identity")
    return found


def _read_identity(folder: Path, name: str = _IDENTITY) -> MemberIdentity | None:
    path = folder / name
    with explain_errors(path):
        try:
            data = read_regular(path, MAX_NOTE_BYTES)
        except FileNotFoundError:
            return None
    try:
        return MemberIdentity.decode(data)
    except (ValueError, KeyError) as error:
        raise CorruptData(f"{path}: {error}; nothing was changed") from error


def _write_identity(folder: Path, identity: MemberIdentity, name: str = _IDENTITY) -> None:
    write_atomically(folder, name, identity.encode())


def write_atomically(folder: Path, name: str, content: bytes) -> None:
    """Write a temporary file, sync, rename, sync: a crash leaves the old file or the new one. Mode 0600."""
    aside = folder / f"{name}.new"
    with explain_errors(aside):
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.fchmod(file, 0o600)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        aside.rename(folder / name)
        sync_folder(folder)


def add_checksum_line(text: bytes) -> bytes:
    """A text, and its checksum as the last line."""
    return text + f"check {crc32c(text):08x}\n".encode()


def is_data_folder(folder: Path) -> bool:
    """Whether a folder is that of a member, whole or damaged. Blocks. OSError if it cannot be read."""
    try:
        with open_regular(folder / _IDENTITY) as file:
            return file.read(len(_TITLE)) == _TITLE.encode()
    except FileNotFoundError:
        return False


def check_no_store(folder: Path) -> None:
    """NetstoreError if a folder that is named for an archive has the data or the log of a member, or of an
    etcd. Nothing need be there. Blocks. OSError if it cannot be read.
    """
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names alone
    what = ""
    with contextlib.suppress(NotRegular):
        if _IDENTITY in names and is_data_folder(folder):
            what = "the data of a netstored"
    if _has_etcd(folder):
        what = "the data of an etcd (the folder member)"
    elif any(map(_ETCD_LOG.fullmatch, names)):
        what = "the log of an etcd"
    elif any(map(_OWN_LOG.fullmatch, names)):
        what = "the log of a netstored"
    elif STATE_FILE in names or (folder / "state" / STATE_FILE).exists():
        what = "the data of a netstored"
    if what:
        raise NetstoreError(
            f"{folder}: has {what}; nothing was changed: leave it as it is, and name a folder of its own"
        )


def split_checksum_line(data: bytes) -> bytes | None:
    """The text before the last line; None when the checksum in that does not fit."""
    text = data.rpartition(b"check ")[0]
    return text if add_checksum_line(text) == data else None


def read_token(folder: Path) -> str | None:
    """The cluster's join token in a member's data folder; None if there is none. Blocks.

    NetstoreError when the file cannot be read, or other users can read it; CorruptData when it is damaged.
    """
    path = folder / _JOIN
    with explain_errors(path):
        try:
            data, mode = read_regular(path, MAX_NOTE_BYTES), path.stat().st_mode & 0o777
        except FileNotFoundError:
            return None
    if mode & 0o077:
        raise NetstoreError(f"{path}: mode {mode:04o} lets other users read it: run chmod 600 {path}")
    text = split_checksum_line(data)
    title, _, rest = (text or b"").partition(b"\ntoken ")
    token = rest.removesuffix(b"\n").decode("utf-8", "replace")
    if text is None or title != _JOIN_TITLE.encode() or not _is_token(token):
        raise CorruptData(
            f"{path}: damaged; nothing was changed: remove it, and start this member once with --join-token,"
            " as netstorectl member token tells it on another member"
        )
    return token


def keep_token(folder: Path, token: str) -> None:
    """Write the join token to a data folder, on stable storage, readable by its owner alone. Blocks.

    ValueError for one that is empty, too long or not printable; NetstoreError when it cannot be written.
    """
    if not _is_token(token):
        raise ValueError(f"a join token has 1 to {MAX_TOKEN_CHARACTERS} printable characters")
    text = f"{_JOIN_TITLE}\ntoken {token}\n".encode()
    write_atomically(folder, _JOIN, add_checksum_line(text))


def _is_token(token: str) -> bool:
    return 0 < len(token) <= MAX_TOKEN_CHARACTERS and token.isprintable()


def _finish_replacing(path: Path, wal: Path) -> None:
    """Complete `DataDir.replace`, if it was begun: move the old files away, and write the new identity."""
    fresh = _read_identity(path, _REPLACING)
    if fresh is None:
        return
    with explain_errors(path):
        for folder in (wal, path / "state"):
            _make_folder(folder / DAMAGED, own=True)
            for file in folder.iterdir():
                if file.name not in (DAMAGED, _IDENTITY):
                    file.rename(folder / DAMAGED / file.name)
            sync_folder(folder / DAMAGED)
            sync_folder(folder)
    _write_identity(wal, fresh)
    _write_identity(path, fresh)
    (path / _REPLACING).unlink()
    sync_folder(path)


def _check_no_log(path: Path, wal: Path) -> None:
    """Refuse a log, or a state, whose member is not known any more."""
    if _read_mark(wal) is not None:
        raise NetstoreError(
            f"{wal}: an import or a restore into it, with another data folder than {path}, did not come to"
            " its end; nothing was changed: run it again, or empty the folder"
        )
    _check_no_etcd_log(wal)
    state = path / "state" / STATE_FILE
    found = next(iter(sorted(wal.glob("*.wal"))), state if state.exists() else None)
    if found is None:
        return
    places = str(path) if _is_same(wal, path / "wal") else f"{path} and {wal}"
    raise NetstoreError(
        f"{path}: no identity, but {found} is there, the data of a member; nothing was changed: put the file"
        f" {_IDENTITY} back, or the whole folder from a copy of it. Only if other members or a backup have"
        f" all of the data, move {places} away: this member then begins empty, without anything that it had"
    )
