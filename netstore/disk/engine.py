"""The state on disk: `seams.Engine` over LMDB, as the loop uses it.

LMDB has ordered tables, one transaction for data and applied index, and the last commit after any crash;
`tables` adds checksums. What it does not have is a commit that the loop need not wait for. So:

    write -> pending -> (each commit_interval, commit_changes or commit_bytes) -> in flight -> LMDB

`pending` and `in flight` are overlays (`overlay`) that belong to the loop, which looks in both before it
looks in LMDB. The storage thread (`committer`) gets `in flight` whole and only reads it. A crash loses both
overlays; the write-ahead log still has what was in them and is replayed from the last commit.
"""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from netstore.disk.committer import Batch, Committer, Install
from netstore.disk.lmdbfile import damaged
from netstore.disk.merged import read_step, scan
from netstore.disk.overlay import Overlay, memory_cost
from netstore.disk.shared import SharedTables
from netstore.disk.threads import report
from netstore.disk.verification import OpenMarker
from netstore.errors import NetstoreError, StateDamaged
from netstore.limits import Budget
from netstore.seams import PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.disk.summary import Summary
    from netstore.disk.tables import Pair, Tracker
    from netstore.disk.threads import CallSoon
    from netstore.histogram import Histogram
    from netstore.types import Index

    Done = Callable[[OSError | None], None]

COMMIT_INTERVAL: Final = 0.1
"""Seconds between commits, as in etcd. A start replays the log from the last commit, so longer means a longer
start.
"""

COMMIT_CHANGES: Final = 10_000
"""So many changes are committed without waiting for the interval."""

COMMIT_BYTES: Final = 16 << 20
"""Changes of so many bytes are committed without waiting for the interval."""

OVERLAY_BYTES: Final = 64 << 20
"""Uncommitted changes beyond which there are `excess_bytes`: two commits, and what comes while they are made.
"""

INDEX_STEP: Final = 2_000
"""Uncommitted changes that one call of `some` indexes, which takes 2 ms."""

MAP_BYTES: Final = 1 << 30
"""Address space reserved at first; the file is only as large as its data."""

MAP_LIMIT_BYTES: Final = 1 << 36
"""The map doubles up to this (64 GiB); beyond it a commit fails as on a full disk."""

_NO_STATE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
"""What LMDB raises when it opens a file that is damaged, or none of its own."""


def _ignore() -> None:
    """Nobody waits for the engine."""


class LmdbEngine:
    """Tables in one LMDB file. See `seams.Engine` for the contract; called on the loop unless said otherwise.

    A look-up costs about 1 us more than a dictionary's. `scan` is for start-up: it keeps a read transaction
    open while it is consumed, and first sorts the uncommitted changes of its range.

    Failures: a full disk, a full map or a lack of memory is reported to `on_failure` and to every waiting
    `sync`, and the commit is retried each interval; nothing is lost. After any other failure there are no
    more commits (a failed sync leaves an unknown state): it is reported the same way, and the member should
    stop; the log has everything. Reads go on in both cases. The engine does not limit what is written: its
    user begins no write while there are `excess_bytes` (`node.backpressure`). What is prepared for one write
    has no limit at all.

    Damage: a read of a record that is not what was written raises StateDamaged. `on_damage` is called too, in
    case the exception is handled as the failure of one request: the member must end. Its next start verifies
    the whole file (`verification.OpenMarker`).
    """

    def __init__(
        self,
        path: Path,
        call_soon: CallSoon,
        tables: Sequence[str],
        on_failure: Callable[[OSError], None],
        *,
        on_damage: Callable[[StateDamaged], None] | None = None,
        commit_interval: float = COMMIT_INTERVAL,
        commit_changes: int = COMMIT_CHANGES,
        commit_bytes: int = COMMIT_BYTES,
        overlay_bytes: int = OVERLAY_BYTES,
        budget: Budget | None = None,
        map_bytes: int = MAP_BYTES,
        map_limit_bytes: int = MAP_LIMIT_BYTES,
    ) -> None:
        """Open or create the file `path`, mode 0600. Blocks. NetstoreError when it cannot be opened;
        CorruptData when it is no state, or damaged.
        """
        self._path = path
        self._call_soon = call_soon
        self._on_failure = on_failure
        self._on_damage = on_damage
        self._commit_changes = commit_changes
        budget = budget or Budget(overlay_bytes)
        self._overlay_bytes = min(overlay_bytes, budget.limit)
        self._commit_bytes = min(commit_bytes, self._overlay_bytes // 4)
        self._marker = OpenMarker(path)
        try:
            self._marker.check()
            self._marker.set()
            self._shared = SharedTables(path, tables, map_bytes, map_limit_bytes)
        except _NO_STATE as error:
            raise damaged(path, f"not a state that can be read ({error})") from error
        except (lmdb.Error, OSError) as error:
            raise NetstoreError(
                f"{path}: the state cannot be opened ({error}): check the disk, and who owns the file"
            ) from error
        self.log_position: Callable[[], bytes] = bytes
        """Returns how far the log is on stable storage; recorded by each commit (`disk.diagnose.Position`).
        """
        self.eased: Callable[[], object] = _ignore
        """See `seams.Engine`."""
        self.pull: Callable[[], object] = _ignore
        """See `seams.Engine`."""
        self._is_stale = False
        """There is something to pull."""
        self._pending = Overlay()
        self._in_flight = Overlay()
        """The batch that the committer has; after a failed commit, changes that the next batch begins with.
        """
        self._account = budget.account()
        self._pending_bytes = 0
        self._prepared = 0
        """Bytes in `_pending` that belong to a write that is not complete: no batch is made before it is."""
        self._serial = self._batched = self._committed = 0
        """Numbers of writes, since several may have one applied index: the last one, the last one that is
        part of a batch, and the last one that is committed.
        """
        self._applied = self._durable = self._shared.tables.summary.applied
        self._busy = False
        """The committer has a batch."""
        self._installs = False
        """The committer has a snapshot to install, or has installed it, which the loop was not told yet. The
        file may be the old state or the new one, so nothing is committed.
        """
        self._interval_runs = False
        self._waiting: list[tuple[int, Done]] = []
        """Callers of `sync`, with the serial that they wait for."""
        self._failing = False
        self._fatal: OSError | None = None
        """The failure after which there are no more commits."""
        self._damage: StateDamaged | None = None
        self._sizes_before: tuple[int, int] | None = None
        """The result of `sizes` while a snapshot is installed and there is no open file."""
        self._committer = Committer(
            self._shared,
            call_soon,
            commit_interval,
            due=self._interval_over,
            committed=self._batch_done,
            installed=self._installed,
        )

    def applied(self) -> Index:
        return self._applied

    def durable(self) -> Index:
        return self._durable

    @property
    def summary(self) -> Summary:
        """What the last commit recorded about the file; also after `close`."""
        return self._shared.tables.summary

    @property
    def is_damaged(self) -> bool:
        """A record was read that is not what was written."""
        return self._damage is not None

    def excess_bytes(self) -> int:
        """See `seams.Engine`."""
        return max(0, self._account.held - self._prepared - self._overlay_bytes)

    def failing(self) -> bool:
        """See `seams.Engine`."""
        return self._failing

    # --- reading

    def get(self, table: str, key: bytes) -> bytes | None:
        place = (table, key)
        for overlay in (self._pending, self._in_flight):
            for layer in reversed(overlay.layers):
                if place in layer:
                    return layer[place]
        shared = self._shared
        try:
            with shared.reading:
                return shared.tables.get(table, key)
        except StateDamaged as error:
            self._found_damage(error)
            raise

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `seams.Engine`. About 1 us for each key: one transaction, and few calls of LMDB for all that
        are stored.
        """
        found: dict[bytes, bytes | None] = {}
        overlays = [layer for layer in (*self._in_flight.layers, *self._pending.layers) if layer]
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
        shared = self._shared
        longest = shared.tables.longest
        if not all(0 < len(key) <= longest for key in stored):
            return [self.get(table, key) for key in keys]
        try:
            with shared.reading:
                found.update(shared.tables.get_many(table, stored))
        except StateDamaged as error:
            self._found_damage(error)
            raise
        return [found.get(key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[Pair]:
        changes = {
            key: value
            for overlay in (self._in_flight, self._pending)
            for (name, key), value in overlay.items()
            if name == table and start <= key and (end is None or key < end)
        }
        pairs = scan(self._shared, table, start, end, changes, self._found_damage)
        next(pairs)  # begins its transaction
        return pairs

    def some(self, table: str, start: bytes, most: int, size: int) -> tuple[list[Pair], bytes | None]:
        """See `seams.Engine`. Indexes uncommitted changes, at most INDEX_STEP in a call: a call that does not
        come to the end of them returns nothing. Each change is indexed once, or once more where its layer was
        copied after a failed commit (`Overlay.append`). Keys that LMDB does not take come in the order of
        their hashes, after the others, except for the empty one, which comes first.
        """
        work = INDEX_STEP
        tables = self._shared.tables
        for overlay in (self._in_flight, self._pending):
            work = overlay.index(work, tables.locate)
        if work <= 0:
            return [], start
        overlays = (self._pending, self._in_flight)
        found: list[Pair] = []
        database, place = tables.locate(table, start) if start else (table, b"")
        if not start and (value := self.get(table, b"")) is not None:
            found.append((b"", value))
            size -= len(value)
        try:
            if database == table:
                pairs, following = read_step(
                    self._shared, overlays, table, database, place, most - len(found), size
                )
                found += pairs
                if following is not None:
                    return found, following
                database, place = tables.long_database(table), b""
                size -= sum(len(value) for _, value in pairs)
            pairs, following = read_step(
                self._shared, overlays, table, database, place, most - len(found), size
            )
        except StateDamaged as error:
            self._found_damage(error)
            raise
        return found + pairs, following

    def count(self, table: str) -> int | None:
        """See `seams.Engine`."""
        return None if self._pending or self._in_flight else self._shared.tables.count(table)

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """See `seams.Engine`."""
        error = damaged(self._path, f"table {table}, key {key!r}: there is no such record")
        self._found_damage(error)
        return error

    def _found_damage(self, error: StateDamaged) -> None:
        if self._damage is None:
            self._damage = error
            if self._on_damage is not None:
                self._on_damage(error)

    # --- writing

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`. Costs what `write` does. No batch is made before that `write`, so what was
        written before waits too. The changes are charged to the budget at once, but count in `excess_bytes`
        only from the `write` on: the command that they belong to must be finished. Its size is their only
        bound.
        """
        size = memory_cost(changes)
        self._prepared += size  # first: what is there of them if this fails must not be committed
        self._account.charge(size)
        self._pending.update(changes)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`. A dictionary update, and 0.1 us for each change; ValueError when `applied`
        decreases. If it fails for want of memory, nothing is committed any more: the write is not complete.
        """
        if applied < self._applied:
            raise ValueError(f"applied index {applied} after {self._applied}")
        self.prepare(changes)
        serial, size = self._serial + 1, self._pending_bytes + self._prepared
        # Nothing from here on needs memory.
        self._applied, self._serial = applied, serial
        self._pending_bytes, self._prepared = size, 0
        self._is_stale = False
        full = len(self._pending) >= self._commit_changes or self._pending_bytes >= self._commit_bytes
        if full or self._waiting:
            self._begin_commit()
        else:
            self._start_interval()

    def changed(self) -> None:
        """See `seams.Engine`. What is not pulled yet is in no overlay and not charged to the budget: the
        caller bounds it (`Machine.is_save_due`).
        """
        self._is_stale = True
        if not self._interval_runs:
            self._start_interval()

    def _pull(self) -> None:
        if self._is_stale:
            self.pull()

    def sync(self, done: Done) -> None:
        if self._fatal is not None:
            self._call_soon(partial(done, self._fatal))
            return
        self._pull()
        if self._committed == self._serial and not self._is_stale:
            self._call_soon(partial(done, None))
        else:  # what cannot be pulled now is part of the next write
            self._waiting.append((self._serial + self._is_stale, done))
            try:
                self._begin_commit()
            except BaseException:
                self._waiting.pop()
                raise

    def _start_interval(self) -> None:
        if not (self._interval_runs or self._busy or self._fatal):
            self._interval_runs = True
            self._committer.start_interval()

    def _interval_over(self) -> None:
        """If a write is incomplete, its last part starts the next interval."""
        self._interval_runs = False
        self._pull()
        self._begin_commit()

    def _begin_commit(self) -> None:
        """Give everything written so far to the committer; if that is busy, `_batch_done` does it later."""
        if self._busy or self._fatal or self._prepared or self._installs or self._batched == self._serial:
            return
        self._interval_runs = False
        changes, fresh = self._pending, Overlay()
        # Everything that may raise MemoryError comes before the first change of this object.
        if self._in_flight:  # a commit has failed
            changes = self._in_flight
            changes.append(self._pending)
        self._committer.commit(Batch(self._serial, self._applied, self.log_position(), changes))
        self._busy = True
        self._in_flight, self._pending = changes, fresh
        self._pending_bytes = 0
        self._batched = self._serial

    def _batch_done(self, batch: Batch, error: OSError | None) -> None:
        """Called on the loop by the committer."""
        self._busy = False
        self._failing = error is not None
        if error is None:
            self._committed = batch.serial
            self._durable = batch.applied
            self._in_flight = Overlay()
            self._committer.free(batch.changes)
            behind = self.excess_bytes() > 0
            self._account.hold(self._pending_bytes + self._prepared)
            if behind:
                self.eased()
            ready = [done for serial, done in self._waiting if serial <= batch.serial]
            self._waiting = [wait for wait in self._waiting if wait[0] > batch.serial]
        else:
            self._batched = self._committed
            if error.errno not in PASSING:
                self._fatal = error
            ready = [done for _, done in self._waiting]
            self._waiting = []
        full = len(self._pending) >= self._commit_changes or self._pending_bytes >= self._commit_bytes
        if error is None and (self._waiting or full):
            self._begin_commit()
        elif self._is_stale or self._batched != self._serial:
            self._start_interval()
        if error is not None:
            self._on_failure(error)
        for done in ready:
            done(error)

    # --- snapshots, sizes, verification

    def install(self, snapshot: object, done: Done) -> None:
        """See `seams.Engine`. `snapshot` is the path of a file made by `copy_to`, on the same file system: it
        is moved into place.

        What was written and not committed is dropped; a `sync` that waits is answered when the snapshot is
        installed.
        """
        if not isinstance(snapshot, Path):
            raise TypeError(f"{snapshot!r} is not the path of a copy")
        for changes in (self._pending, self._in_flight):
            self._committer.free(changes)
        self._pending, self._in_flight = Overlay(), Overlay()
        self._account.hold(0)
        self._pending_bytes = self._prepared = 0
        self._is_stale = False
        self._batched = self._serial
        self._sizes_before = self.sizes()
        self._installs = True
        self._committer.install(Install(snapshot, done))

    def _installed(self, job: Install, outcome: Index | OSError) -> None:
        """Called on the loop by the committer. After a failure there are no more commits."""
        self._installs = False
        self._failing = isinstance(outcome, OSError)
        error: OSError | None = None
        if isinstance(outcome, OSError):
            error = self._fatal = outcome
        else:
            self._sizes_before = None
            self._applied = self._durable = outcome
            self._batched = self._committed = self._serial
        ready, self._waiting = self._waiting, []
        for done in (job.done, *(wait[1] for wait in ready)):
            done(error)

    def copy_to(self, file: int) -> Index:
        """Write a snapshot of the last commit to a file descriptor; its applied index. Blocks: for a thread
        of its own. See `SharedTables.copy_to`.
        """
        return self._shared.copy_to(file)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that are in use, as of the last commit; while a snapshot is
        installed, those before it. About 20 us.
        """
        return self._sizes_before if self._sizes_before is not None else self._shared.sizes()

    @property
    def commits(self) -> Histogram:
        """Seconds of each commit."""
        return self._committer.commits

    @property
    def databases(self) -> list[str]:
        """What `verify_step` has to go through."""
        return sorted(self._shared.tables.databases)

    def verify_step(self, tracker: Tracker, max_records: int, max_bytes: int) -> int | None:
        """See `SharedTables.verify_step`. Damage is also reported to `on_damage`. For any thread."""
        try:
            return self._shared.verify_step(tracker, max_records, max_bytes)
        except StateDamaged as error:
            report(self._call_soon, self._found_damage, error)
            raise

    def close(self) -> None:
        """See `seams.Engine`. OSError when the last commit fails; the log still has what is missing. What
        `pull` raises is raised when all else is done.
        """
        try:
            if self._fatal is None and self._damage is None:
                self._pull()
        finally:
            self._close()

    def _close(self) -> None:
        self._committer.stop()
        error = self._fatal
        cancelled = OSError(errno.ECANCELED, f"{self._path}: closed before all was written")
        is_whole = not (self._prepared or self._installs)
        if is_whole and error is None and self._damage is None and self._committed != self._serial:
            changes = self._in_flight
            changes.append(self._pending)
            error = self._shared.commit(self._applied, self.log_position(), changes)
        for serial, done in self._waiting:
            done(error if is_whole and serial <= self._serial else cancelled)
        self._account.close()
        self._shared.close()
        if self._damage is None:
            self._marker.clear()
        if error is not None:
            raise error
