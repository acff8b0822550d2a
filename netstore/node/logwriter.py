"""Records on their way to the log: written in order, synced in groups, and retried while the disk lacks
space.

What arrives while the disk syncs is written together with the next sync (group commit). A single entry that
nothing else waits for is synced within the turn where the disk is fast: `seams.Device.release`. That saves
two changes of thread and a round of the loop, and holds the loop as long as the sync takes.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netstore.errors import MustStop, NetstoreError
from netstore.node.diskspace import remedy
from netstore.node.driver import LogBatch
from netstore.node.logsize import BYTES_PER_TURN, log_size
from netstore.seams import NO_ROOM, PASSING, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.disk.wal import Wal
    from netstore.node.diskspace import DiskSpace
    from netstore.node.driver import Driver
    from netstore.raft.entry import SnapshotMeta
    from netstore.seams import Log

QUICK_SYNCS: Final = 32
"""Where others vote, so many syncs in a row must not have stalled before the loop does one: one that stalls
would cost this member its leadership, or its leader a follower. None of them count for a while after a stall
(`seams.Device.quick_syncs`), so a disk that stalls now and then is left to the writer.
"""


@dataclass(slots=True, frozen=True)
class SnapshotMark:
    """A record that says: a snapshot at this place stands for all entries up to it."""

    meta: SnapshotMeta
    synced: Callable[[], None]
    """Called once it is durable."""
    replaces: bool = False
    """It is that of a snapshot received from the leader: entries before and after it are void."""


class DiskFailed(NetstoreError, MustStop):  # noqa: N818 - named for what happened
    """A write or sync of the log failed. The member stops: what the page cache holds now proves nothing."""


class LogWriter:
    """Gives records to the log and reports to the driver which ones are durable."""

    def __init__(
        self,
        wal: Wal,
        driver: Driver,
        space: DiskSpace,
        log: Log,
        *,
        wake: Callable[[], None],
        fail: Callable[[Exception], None],
        out_of_space: Callable[[], None],
    ) -> None:
        """`fail` ends the member. `out_of_space` is called when the log of the only voter finds no space."""
        self._wal = wal
        self._driver = driver
        self._raft = driver.raft
        self._space = space
        self._log = log
        self._wake = wake
        self._fail = fail
        self._out_of_space = out_of_space
        self.records: deque[LogBatch | SnapshotMark] = deque()
        """Records that are not durable yet, in order. While one cannot be written, those behind it wait."""
        self.handed_over = 0
        """How many of them, the first ones, the log was given."""
        self._was_single = False
        """The last batch was a single entry, and nobody waited for the turn."""
        self._is_syncing_now = False
        """The turn waits for the disk, and takes up the result itself."""

    def write(self, record: LogBatch | SnapshotMark) -> None:
        """Write a record after those before it."""
        self.records.append(record)
        if self._space.log_error is None and self.handed_over == len(self.records) - 1:
            self._hand_over(record)

    def may_sync_now(self, record: LogBatch, *, is_idle: bool) -> bool:
        """Whether to sync this batch within the turn: it and the batch before it are single entries, nobody
        waits for the turn (`is_idle`), nothing is being written, and the disk is fast, which must have been
        so for a while if other members vote (`QUICK_SYNCS`).
        """
        was_single, self._was_single = self._was_single, is_idle and len(record.entries) == 1
        is_lone = was_single and self._was_single and not self.records and self._space.log_error is None
        return is_lone and (self._wal.quick_syncs >= QUICK_SYNCS or self._raft.is_only_voter)

    def write_now(self, record: LogBatch) -> None:
        """Write a batch, and sync it before this returns where the disk is fast."""
        self.records.append(record)
        self._is_syncing_now = True
        try:
            if self._hand_over(record, held=True):
                self._wal.release()
        finally:
            self._is_syncing_now = False

    def write_waiting(self) -> None:
        """Hand over, in order, some of the records that had to wait while the log could not be written:
        `BYTES_PER_TURN`, which one record may exceed. The rest is for the next turns.
        """
        size = 0
        while self.handed_over < len(self.records) and size < BYTES_PER_TURN:
            record = self.records[self.handed_over]
            if not self._hand_over(record):
                return
            if isinstance(record, LogBatch):
                size += log_size([entry.data for entry in record.entries])
        if self.handed_over < len(self.records):
            self._wake()

    def retry(self) -> None:
        """Try again what could not be written, if anything."""
        if self._space.log_error is None or self.handed_over:
            return
        self._space.log_error = None
        self.write_waiting()

    def _hand_over(self, record: LogBatch | SnapshotMark, *, held: bool = False) -> bool:
        """Give a record to the log. False where there is no memory for it now."""
        try:
            if isinstance(record, LogBatch):
                self._wal.append(record.hard_state, record.entries, self._synced, held=held)
            else:
                self._wal.mark(record.meta, self._synced, replaces=record.replaces)
        except MemoryError:  # the log is unchanged: what follows waits behind this record
            self._not_written(OSError(errno.ENOMEM, "Cannot allocate memory"))
            return False
        self.handed_over += 1
        return True

    def _synced(self, failure: OSError | None) -> None:
        """The oldest record handed over is durable, or its write failed; then those behind it fail too. It
        may be tried again if space or means were lacking; anything else, a failed sync above all, ends the
        member.
        """
        self.handed_over -= 1
        if failure is None:
            record = self.records.popleft()
            if isinstance(record, LogBatch):
                self._driver.synced()
                if not self._is_syncing_now:
                    self._wake()
            else:
                record.synced()
        elif isinstance(failure, SyncFailed) or failure.errno not in PASSING:
            self._fail(DiskFailed(f"writing the log failed: {failure}; nothing unsaved was acknowledged"))
        else:
            self._not_written(failure)

    def _not_written(self, failure: OSError) -> None:
        """The log lacked something that may come back. If it lacks several things, space is what is reported:
        only the operator can provide that.
        """
        before = self._space.log_error
        if before is not None and (before.errno in NO_ROOM or failure.errno not in NO_ROOM):
            return
        self._space.log_error = failure
        self._log.error("log_not_writable", error=str(failure), fix=remedy(failure))
        if failure.errno in NO_ROOM and self._raft.is_only_voter:
            self._out_of_space()
