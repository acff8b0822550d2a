"""The state on disk: LMDB behind `seams.Engine`, and its in-memory twin.

LMDB gives what is asked for here: ordered tables, one transaction for the data and the applied index, and
after any crash the last commit. What it cannot give is a commit that the loop need not wait for. So:

    write -> pending -> (every commit_interval, or commit_changes) -> in flight -> LMDB

The loop owns `pending` and `in flight`, plain dictionaries of the newest value per key, and looks there
before it looks in LMDB; the storage thread owns the write transaction and gets `in flight` whole, read-only.
The write-ahead log has everything that is not committed yet, so losing the two dictionaries in a crash costs
a longer replay, nothing else.
"""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from hashlib import sha256
from heapq import merge
from operator import itemgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import lmdb

from netstore.codec import prefixed, read_prefixed, read_u64, u64
from netstore.disk.datadir import sync_folder
from netstore.errors import CorruptData, NetstoreError
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Done = Callable[[OSError | None], None]
    Deliver = Callable[[Callable[[], object]], object]
    Changes = dict[tuple[str, bytes], bytes | None]
    Pair = tuple[bytes, bytes]

COMMIT_INTERVAL: Final = 0.1
"""Seconds between commits, as in etcd: the log is replayed from the last one, so longer is a longer start."""

COMMIT_CHANGES: Final = 10_000
"""Changes that are committed without waiting for the interval; the overlay holds about twice as many."""

MAP_BYTES: Final = 1 << 30
"""Address space reserved at first; the file is only as large as its data."""

MAP_LIMIT_BYTES: Final = 1 << 36
"""The map doubles up to this (64 GiB); beyond it a commit fails like one on a full disk."""

FULL_BYTES: Final = 1 << 20
"""With less free space than this a failed commit is taken for a full disk."""

_NO_STATE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
"""What opening a file says whose bytes are not what was written."""

_OWN: Final = "engine"
_APPLIED: Final = b"applied"
_LONG: Final = "long:"
"""Prefix of the table beside each table for keys that LMDB does not take: over 511 bytes, or empty."""


class _Batch(NamedTuple):
    serial: int
    applied: Index
    changes: Changes


class _Tick:
    """There is something to commit: ask for it after the interval."""


class _Image(NamedTuple):
    path: Path
    done: Done


class _Stop:
    pass


class LmdbEngine:
    """Tables in one LMDB file. See `seams.Engine` for the contract; called on the loop unless said otherwise.

    A look-up costs about 1 us more than a dictionary's. `scan` holds a read transaction while it is
    consumed and sorts the overlay's part of the range first: for loading at start-up.

    Failures: a full disk or map is reported to `on_failure` and to every waiting `sync`, and the commit is
    tried again each interval, with nothing lost. Any other failure ends commits for good (what a failed sync
    left behind is unknown): it is reported the same way, and the member should stop; the log has everything.
    Either way reads go on. The caller bounds the overlay: it stops writing when `durable` falls too far
    behind `applied`.
    """

    def __init__(
        self,
        path: Path,
        deliver: Deliver,
        tables: Sequence[str],
        on_failure: Callable[[OSError], None],
        *,
        commit_interval: float = COMMIT_INTERVAL,
        commit_changes: int = COMMIT_CHANGES,
        map_bytes: int = MAP_BYTES,
        map_limit_bytes: int = MAP_LIMIT_BYTES,
    ) -> None:
        """Open or create the file `path`, mode 0600. Blocks. NetstoreError when it cannot be opened,
        CorruptData when that is because it is no state.
        """
        self._path = path
        self._deliver = deliver
        self._on_failure = on_failure
        self._commit_interval = commit_interval
        self._commit_changes = commit_changes
        self._map_limit_bytes = map_limit_bytes
        self._map_bytes = map_bytes
        try:
            self._open(tables)
            applied = self._stored_applied()
        except _NO_STATE as error:
            raise CorruptData(f"{path}: not a state ({error}); nothing was changed") from error
        except (lmdb.Error, OSError) as error:
            raise NetstoreError(
                f"{path}: the state cannot be opened ({error}): check the disk, and who owns the file"
            ) from error
        self._longest_key = self._env.max_key_size()
        # The loop's side. A serial numbers the writes; the applied index need not move with each.
        self._pending: Changes = {}
        self._in_flight: Changes = {}
        self._serial = self._handed = self._committed = 0
        self._applied = self._durable = applied
        self._busy = False
        self._ticking = False
        self._waiting: list[tuple[int, Done]] = []
        self._fatal: OSError | None = None
        # Both sides: held for the moment in which the map moves, and while it must not (a copy being made).
        self._reading = threading.Lock()
        self._copying = threading.Lock()
        self._queue: SimpleQueue[_Batch | _Image | _Tick | _Stop] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def applied(self) -> Index:
        return self._applied

    def durable(self) -> Index:
        return self._durable

    def get(self, table: str, key: bytes) -> bytes | None:
        place = (table, key)
        for overlay in (self._pending, self._in_flight):
            if place in overlay:
                return overlay[place]
        with self._reading, self._env.begin() as txn:
            if 0 < len(key) <= self._longest_key:
                return txn.get(key, db=self._tables[table])
            stored = txn.get(_digest(key), db=self._tables[_LONG + table])
            return None if stored is None else _split(stored)[1]

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `seams.Engine`. About 1 us for each key: one transaction, and one call of LMDB for all that are
        stored.
        """
        found: dict[bytes, bytes | None] = {}
        overlays = [overlay for overlay in (self._in_flight, self._pending) if overlay]
        stored = keys
        if overlays:
            stored = []
            for key in keys:
                place = (table, key)
                for overlay in overlays:
                    if place in overlay:
                        found[key] = overlay[place]
                if key not in found:
                    stored.append(key)
        if not all(0 < len(key) <= self._longest_key for key in stored):
            return [self.get(table, key) for key in keys]
        with self._reading, self._env.begin() as txn:
            found.update(txn.cursor(self._tables[table]).getmulti(stored))
        return [found.get(key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        overlay = {
            key: value
            for changes in (self._in_flight, self._pending)
            for (name, key), value in changes.items()
            if name == table and start <= key and (end is None or key < end)
        }
        return self._merge(self._env.begin(), table, start, end, overlay)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`. A dictionary update; ValueError when `applied` goes back."""
        if applied < self._applied:
            raise ValueError(f"applied index {applied} after {self._applied}")
        self._applied = applied
        self._serial += 1
        self._pending.update(changes)
        if len(self._pending) >= self._commit_changes:
            self._hand_over()
        else:
            self._tick()

    def sync(self, done: Done) -> None:
        if self._fatal is not None:
            self._deliver(partial(done, self._fatal))
        elif self._committed == self._serial:
            self._deliver(partial(done, None))
        else:
            self._waiting.append((self._serial, done))
            self._hand_over()

    def install(self, image: object, done: Done) -> None:
        """See `seams.Engine`. `image` is the path of a file made by `copy_to`, on the same file system: it is
        moved.

        What was written and not committed is dropped; syncs that wait are answered with the copy's.
        """
        if not isinstance(image, Path):
            raise TypeError(f"{image!r} is not the path of a copy")
        self._pending, self._in_flight = {}, {}
        self._handed = self._serial
        self._queue.put(_Image(image, done))

    def copy_to(self, file: int) -> None:
        """Write a consistent copy of the last commit to a file descriptor. Blocks: for a thread of its own.

        Reads and commits go on; only growing the map waits for it.
        """
        with self._copying:
            try:
                self._env.copyfd(file)
            except lmdb.Error as error:
                raise self._as_os_error(error) from error

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that hold something, as of the last commit. About 20 us."""
        with self._reading, self._env.begin() as txn:
            tables = [txn.stat(table) for table in self._tables.values()]
        pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in tables)
        page = self._env.stat()["psize"]
        return (self._env.info()["last_pgno"] + 1) * page, pages * page

    def close(self) -> None:
        """See `seams.Engine`. OSError when the last commit fails; the log still has what is missing."""
        self._queue.put(_Stop())
        self._thread.join()
        error = self._fatal
        if error is None and self._committed != self._serial:
            error = self._commit(_Batch(self._serial, self._applied, {**self._in_flight, **self._pending}))
        for _, done in self._waiting:
            done(error)
        self._env.close()
        if error is not None:
            raise error

    def _merge(
        self,
        txn: lmdb.Transaction,
        table: str,
        start: bytes,
        end: bytes | None,
        overlay: dict[bytes, bytes | None],
    ) -> Iterator[tuple[bytes, bytes]]:
        with txn:
            long = [_split(value) for _, value in _range(txn.cursor(self._tables[_LONG + table]), b"", None)]
            above = sorted(pair for pair in long if start <= pair[0] and (end is None or pair[0] < end))
            below = _range(txn.cursor(self._tables[table]), start, end)
            stored = (pair for pair in merge(below, above, key=itemgetter(0)) if pair[0] not in overlay)
            fresh = sorted((key, value) for key, value in overlay.items() if value is not None)
            yield from merge(stored, fresh, key=itemgetter(0))

    def _tick(self) -> None:
        if not (self._ticking or self._busy or self._fatal):
            self._ticking = True
            self._queue.put(_Tick())

    def _hand_over(self) -> None:
        """Give everything written so far to the storage thread; while that is at work, `_settle` will."""
        if self._busy or self._fatal or self._handed == self._serial:
            return
        self._busy = True
        self._ticking = False
        self._in_flight = {**self._in_flight, **self._pending} if self._in_flight else self._pending
        self._pending = {}
        self._handed = self._serial
        self._queue.put(_Batch(self._serial, self._applied, self._in_flight))

    def _settle(self, batch: _Batch, error: OSError | None) -> None:
        """On the loop: a commit was made or failed."""
        self._busy = False
        if error is None:
            self._committed = batch.serial
            self._durable = batch.applied
            self._in_flight = {}
            ready = [done for serial, done in self._waiting if serial <= batch.serial]
            self._waiting = [wait for wait in self._waiting if wait[0] > batch.serial]
        else:
            self._handed = self._committed
            if error.errno != errno.ENOSPC:
                self._fatal = error
            ready = [done for _, done in self._waiting]
            self._waiting = []
        if error is None and (self._waiting or len(self._pending) >= self._commit_changes):
            self._hand_over()
        elif self._handed != self._serial:
            self._tick()
        if error is not None:
            self._on_failure(error)
        for done in ready:
            done(error)

    def _installed(self, image: _Image, outcome: Index | OSError) -> None:
        """On the loop: the copy is in place, or it never will be and nothing more is committed."""
        if isinstance(outcome, OSError):
            error = self._fatal = outcome
        else:
            error = None
            self._applied = self._durable = outcome
            self._committed = self._serial
        ready, self._waiting = self._waiting, []
        for done in (image.done, *(wait[1] for wait in ready)):
            done(error)

    # From here on: the storage thread (and `close`, once that has ended).

    def _run(self) -> None:
        queue = self._queue
        while True:
            job = queue.get()
            if isinstance(job, _Tick):
                try:
                    job = queue.get(timeout=self._commit_interval)
                except Empty:
                    self._call(self._hand_over)
                    continue
            if isinstance(job, _Stop):
                return
            if isinstance(job, _Batch):
                self._call(partial(self._settle, job, self._commit(job)))
            if isinstance(job, _Image):
                self._call(partial(self._installed, job, self._replace(job.path)))

    def _call(self, call: Callable[[], object]) -> None:
        try:
            self._deliver(call)
        except RuntimeError:
            return  # the loop has ended; `close` commits what is left

    def _commit(self, batch: _Batch) -> OSError | None:
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    self._put(txn, batch)
            except lmdb.MapFullError as error:
                if not self._grow():
                    return OSError(errno.ENOSPC, f"{self._path}: {error}")
            except lmdb.Error as error:
                return self._as_os_error(error)
            else:
                return None

    def _open(self, tables: Sequence[str]) -> None:
        self._env = lmdb.open(
            str(self._path),
            subdir=False,
            map_size=self._map_bytes,
            max_dbs=2 * len(tables) + 1,
            mode=0o600,
            readahead=False,
        )
        self._names = tables
        self._tables = {name: self._env.open_db(name.encode()) for name in (_OWN, *tables)}
        self._tables |= {_LONG + name: self._env.open_db((_LONG + name).encode()) for name in tables}

    def _stored_applied(self) -> Index:
        with self._env.begin(db=self._tables[_OWN]) as txn:
            stored = txn.get(_APPLIED)
        return Index(read_u64(stored, 0)[0] if stored else 0)

    def _replace(self, image: Path) -> Index | OSError:
        """Move a copy into the place of the file; its applied index. The loop does not read meanwhile."""
        with self._copying:
            self._env.close()
            try:
                image.rename(self._path)
                sync_folder(self._path.parent)
                self._open(self._names)
                return self._stored_applied()
            except OSError as error:
                return error
            except lmdb.Error as error:
                return self._as_os_error(error)

    def _put(self, txn: lmdb.Transaction, batch: _Batch) -> None:
        # One call per change: LMDB's binding lets the loop run during each, also in `putmulti` (figures:
        # DESIGN.md).
        tables, longest = self._tables, self._longest_key
        for (table, key), value in batch.changes.items():
            if 0 < len(key) <= longest:
                place, db, stored = key, tables[table], value
            else:
                place, db = _digest(key), tables[_LONG + table]
                stored = None if value is None else prefixed(key) + value
            if stored is None:
                txn.delete(place, db=db)
            else:
                txn.put(place, stored, db=db)
        txn.put(_APPLIED, u64(batch.applied), db=tables[_OWN])

    def _as_os_error(self, error: lmdb.Error) -> OSError:
        # LMDB reports a write that the full disk cut short as an input/output error. Trying such a commit
        # again is safe whatever it was: all its pages are written anew, and the root moves only after they
        # were synced.
        status = os.statvfs(self._path)
        full = status.f_bavail * status.f_frsize < FULL_BYTES or "No space left" in str(error)
        return OSError(errno.ENOSPC if full else errno.EIO, f"{self._path}: {error}")

    def _grow(self) -> bool:
        """Double the map; False at its limit. No transaction is open: look-ups hold the lock."""
        size = self._env.info()["map_size"] * 2
        if size > self._map_limit_bytes:
            return False
        with self._copying, self._reading:
            self._env.set_mapsize(size)
        return True


def applied_in(path: Path) -> Index:
    """What the state in this file has applied; the file must not be open in this process. Blocks.

    CorruptData when it is no state.
    """
    try:
        with (
            lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=1) as env,
            env.begin() as txn,
        ):
            stored = txn.get(_APPLIED, db=env.open_db(_OWN.encode(), txn, create=False))
    except lmdb.NotFoundError:
        return Index(0)  # made, and ended before anything was written
    except (lmdb.Error, OSError) as error:
        raise CorruptData(f"{path}: not a state that can be read ({error})") from error
    return Index(read_u64(stored, 0)[0] if stored else 0)


def _range(cursor: lmdb.Cursor, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    if not (cursor.set_range(start) if start else cursor.first()):
        return
    for key, value in cast("Iterator[Pair]", cursor):  # bytes, because the environment gives no buffers
        if end is not None and key >= end:
            return
        yield key, value


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _split(stored: bytes) -> tuple[bytes, bytes]:
    """The key and value of a pair in a table for long keys."""
    key, at = read_prefixed(stored, 0)
    return key, stored[at:]


class MemoryEngine:
    """The twin in memory, for the same contract (`seams.Engine`).

    Nothing is durable before `commit`, `sync` or `close`.

    So a test chooses what a crash loses.
    """

    def __init__(self, deliver: Deliver, tables: Sequence[str]) -> None:
        self._deliver = deliver
        self._seen: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._kept: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._journal: list[tuple[Index, Changes]] = []
        self._durable = Index(0)
        self._failure: OSError | None = None

    def applied(self) -> Index:
        return self._journal[-1][0] if self._journal else self._durable

    def durable(self) -> Index:
        return self._durable

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._seen[table].get(key)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._seen[table].items()
        return iter(
            sorted((key, value) for key, value in pairs if start <= key and (end is None or key < end))
        )

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        if applied < self.applied():
            raise ValueError(f"applied index {applied} after {self.applied()}")
        self._journal.append((applied, dict(changes)))
        _change(self._seen, changes)

    def sync(self, done: Done) -> None:
        if self._failure is None:
            self.commit()
        self._deliver(partial(done, self._failure))

    def close(self) -> None:
        """See `seams.Engine`; OSError after `fail`."""
        if self._failure is not None:
            raise self._failure
        self.commit()

    def install(self, image: object, done: Done) -> None:
        """See `seams.Engine`. `image` is another of this kind, of which what is durable is taken."""
        if not isinstance(image, MemoryEngine):
            raise TypeError(f"{image!r} is not a copy of an engine in memory")
        if self._failure is None:
            self._seen, self._kept = image.kept(), image.kept()
            self._durable = image.durable()
            self._journal.clear()
        self._deliver(partial(done, self._failure))

    def commit(self, writes: int | None = None) -> None:
        """Make the oldest `writes` durable that are not yet; None: all."""
        count = len(self._journal) if writes is None else writes
        for applied, changes in self._journal[:count]:
            _change(self._kept, changes)
            self._durable = applied
        del self._journal[:count]

    def fail(self, error: OSError | None) -> None:
        """From now on no sync succeeds; None: they do again."""
        self._failure = error

    def kept(self) -> dict[str, dict[bytes, bytes]]:
        """A copy of the tables as far as they are durable."""
        return {name: dict(pairs) for name, pairs in self._kept.items()}

    def crash(self) -> MemoryEngine:
        """The engine as it opens after a power loss: only what was durable."""
        twin = MemoryEngine(self._deliver, tuple(self._kept))
        twin._seen, twin._kept, twin._durable = self.kept(), self.kept(), self._durable
        return twin


def _change(tables: dict[str, dict[bytes, bytes]], changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
    for (table, key), value in changes.items():
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value
