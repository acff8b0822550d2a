"""The open state file as several threads use it: the loop reads, the committer commits, the scrubber verifies
and others copy it out.

Two locks: `reading` is held by a read of the loop, for a scan from its first record to its last; the other
one by a commit, and by whatever must not run during one. With both, the map may be moved or the file
replaced.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Final

import lmdb

from netstore.disk.lmdbfile import HEADROOM_BYTES, has_address_space
from netstore.disk.tables import Tables
from netstore.errors import CorruptData
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from netstore.disk.tables import Changes, Tracker
    from netstore.types import Index

_MAP_MULTIPLE: Final = 1 << 20
"""The map grows by multiples of this."""

FULL_BYTES: Final = 1 << 20
"""A commit that fails while there is less free space than this is taken for a full disk."""

COPY_GROWTH_BYTES: Final = 256 << 20
"""While a copy is under way the file may grow to the pages in use when it began, and by as much again or by
this, whichever is more; one that is larger already does not grow. The commit that takes the file beyond that
gives up the copy. A reader that stands still would otherwise let the file grow to its limit, and no file of
LMDB shrinks. The size of the file when the copy begins would let each new attempt double it.
"""

_COPY_PIECE_BYTES: Final = 256 * 1024
"""A snapshot is copied out in pieces of this size, and may be cancelled between them."""


class SharedTables:
    """One state file, from opening to closing; also after a snapshot has replaced it."""

    def __init__(self, path: Path, names: Sequence[str], map_bytes: int, map_limit_bytes: int) -> None:
        """Open or create it. Blocks. See `Tables.open`."""
        self._path = path
        self._names = names
        self._map_bytes = map_bytes
        self.map_limit_bytes = map_limit_bytes
        self.tables = Tables.open(path, names, map_bytes)
        """Read by the loop with `reading` held; another object after `replace`."""
        self.reading = threading.RLock()
        self._writing = threading.Lock()
        self._copies: dict[lmdb.Transaction, int] = {}
        """Read transactions of copies that are under way and not cancelled, with the bytes beyond which the
        file may not grow for each.
        """
        self._tracker: Tracker | None = None
        self._generation = 0
        """How many snapshots have replaced the file."""
        self._closed = False

    def commit(self, applied: Index, log: bytes, changes: Changes) -> OSError | None:
        """Commit changes with a sync; None, or why it failed. The map grows if it must. For the committer's
        thread. See `Tables.write`.
        """
        while True:
            try:
                with self._writing:
                    self._put(applied, log, changes)
            except lmdb.MapFullError as error:
                if not self._grow() and not self._give_up_copies():
                    return OSError(errno.ENOSPC, f"{self._path}: {error}")
            except (MemoryError, lmdb.MemoryError):
                return OSError(errno.ENOMEM, f"{self._path}: {os.strerror(errno.ENOMEM)}")
            except (OSError, lmdb.Error) as error:
                failure = error if isinstance(error, OSError) else self._as_os_error(error)
                if failure.errno != errno.ENOSPC or not self._give_up_copies():
                    return failure
            else:
                return None

    def _give_up_copies(self) -> bool:
        """Cancel copies, which keep the file's old pages from being used again; whether there were any."""
        with self._writing:
            had_some = bool(self._copies)
            self._cancel_copies()
        return had_some

    def _put(self, applied: Index, log: bytes, changes: Changes) -> None:
        self.tables.write(applied, log, changes, self._tracker)
        if self._copies:
            size = self._bytes()
            for copy, most in list(self._copies.items()):
                if size > most:
                    del self._copies[copy]
                    copy.abort()

    def _bytes(self) -> int:
        """Bytes of the file up to the last page in use, with `_writing` held."""
        env = self.tables.env
        return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])

    def replace(self, snapshot: Path) -> Index | OSError:
        """Move a snapshot into the place of the file; its applied index. The loop must not read meanwhile.
        For the committer's thread.
        """
        with self._writing:
            self._cancel_copies()
            self._generation += 1
            self._tracker = None
            self.tables.close()
            try:
                snapshot.rename(self._path)
                sync_folder(self._path.parent)
                self.tables = Tables.open(self._path, self._names, self._map_bytes)
            except CorruptData as error:
                return OSError(errno.EIO, str(error))
            except (MemoryError, lmdb.MemoryError):
                return OSError(errno.EIO, f"{self._path}: no memory to open it again")
            except OSError as error:
                return error
            except lmdb.Error as error:
                return self._as_os_error(error)
            return self.tables.summary.applied

    def copy_to(self, file: int) -> Index:
        """Write a snapshot of the last commit to a file descriptor; its applied index. Blocks: for a thread
        of its own.

        Reads and commits go on, which LMDB's own copy would keep waiting: a read transaction keeps the pages
        of that commit from being reused, and the kernel copies them out of the file. OSError (EAGAIN) when
        the copy was cancelled, because the map had to grow, the map or the disk is full, the file grew by too
        much meanwhile (`COPY_GROWTH_BYTES`), or the state was replaced or closed: try again.
        """
        with self._writing:  # between two commits the two meta pages belong to the last one
            if self._closed:
                raise OSError(errno.EAGAIN, f"{self._path}: closed")
            applied = self.tables.summary.applied
            page = self.tables.env.stat()["psize"]
            end, used = self.tables.pages()
            source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                metas = memoryview(os.pread(source, 2 * page, 0))
                copy = self.tables.env.begin()
            except BaseException:
                os.close(source)
                raise
            self._copies[copy] = max(end, used + max(COPY_GROWTH_BYTES, used))
        at = len(metas)
        try:
            while metas:
                metas = metas[os.write(file, metas) :]
            while at < end and copy in self._copies:
                sent = os.sendfile(file, source, at, min(end - at, _COPY_PIECE_BYTES))
                if not sent:
                    raise OSError(errno.EIO, f"{self._path}: ends before offset {end}")
                at += sent
        finally:
            os.close(source)
            with self._writing:
                cancelled = copy not in self._copies
                self._copies.pop(copy, None)
                copy.abort()
        if cancelled:
            raise OSError(errno.EAGAIN, f"{self._path}: the copy was given up: the state needed room")
        return applied

    def verify_step(self, tracker: Tracker, max_records: int, max_bytes: int) -> int | None:
        """Verify the next records of a database; how many bytes they have, None when all of it is verified.
        Commits wait meanwhile. StateDamaged; OSError (EAGAIN) when the file was replaced since the tracker's
        first step, or is closed. For any thread.
        """
        with self._writing:
            if self._closed or tracker.generation not in (-1, self._generation):
                raise OSError(errno.EAGAIN, f"{self._path}: replaced")
            tracker.generation = self._generation
            self._tracker = tracker
            with self.tables.env.begin() as txn:
                size = self.tables.verify_step(txn, tracker, max_records, max_bytes)
            if not size:
                self._tracker = None
                self.tables.compare(tracker)
                return None
            return size

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that are in use, as of the last commit. About 20 us."""
        with self.reading:
            return self.tables.pages()

    def close(self) -> None:
        """Close the file, once no thread commits any more. Copies that are under way are cancelled."""
        with self._writing:
            self._closed = True
            self._cancel_copies()
            self.tables.close()

    def _as_os_error(self, error: lmdb.Error) -> OSError:
        # LMDB reports a write that the full disk cut short as an input/output error. Such a commit can be
        # tried again whatever the cause was: it writes all its pages anew, and the meta page only after they
        # are synced.
        status = os.statvfs(self._path)
        full = status.f_bavail * status.f_frsize < FULL_BYTES or "No space left" in str(error)
        return OSError(errno.ENOSPC if full else errno.EIO, f"{self._path}: {error}")

    def _grow(self) -> bool:
        """Double the map, or add a quarter where there is too little address space; False at its limit."""
        now = self.tables.env.info()["map_size"]
        for more in (now, now // 4 & -_MAP_MULTIPLE):
            if more and now + more <= self.map_limit_bytes and has_address_space(more + HEADROOM_BYTES):
                break
        else:
            return False
        size = now + more
        with self._writing, self.reading:  # LMDB requires that no transaction is open
            self._cancel_copies()
            self.tables.env.set_mapsize(size)
        return True

    def _cancel_copies(self) -> None:
        """End copies that are under way, with `_writing` held: their callers try again."""
        while self._copies:
            self._copies.popitem()[0].abort()
