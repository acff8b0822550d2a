"""Compaction of the log: entries that the durable state contains are dropped from memory and from disk.

Some are kept for slow followers, those that a member needs which is being brought up (`node.pacing`), and
those that are about to be archived, within the bound on what the log may weigh in memory. The only member of
a cluster keeps few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.limits import Budget
from netstore.node.logwriter import SnapshotMark
from netstore.node.pacing import Pacing
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.disk.wal import Wal
    from netstore.node.logwriter import LogWriter
    from netstore.raft.core import Raft
    from netstore.seams import Engine, Log

CATCH_UP_ENTRIES: Final = 5_000
"""Entries kept in the log behind the durable state, so that a slow member catches up without a snapshot."""

ALONE_ENTRIES: Final = 5_000
"""Entries after which the only member of a cluster compacts its log, whatever `snapshot_count` says: there is
nobody that needs them. 100,000 small ones are 47 MiB of memory. With the `CATCH_UP_ENTRIES` that are kept it
has 10,000, and what comes between two looks at the log.
"""

TOLD_SECONDS: Final = 60.0
"""The only member of a cluster, which compacts as often as every second, tells of it no more often."""

DROPPED_AT_ONCE: Final = 5_000
"""Entries dropped from the log in memory in one piece: 0.8 ms."""

LOG_BYTES: Final = 256 * 1024 * 1024
"""What entries in memory may weigh where no budget is given."""


def _nothing() -> Index | None:
    return None


class LogCompaction:
    """Compacts the log of one member, and looks each tick at what it weighs."""

    def __init__(
        self,
        raft: Raft,
        engine: Engine,
        *,
        wal: Wal,
        writer: LogWriter,
        log: Log,
        snapshot_count: int,
        catch_up_entries: int,
        budget: Budget | None,
    ) -> None:
        """`budget` bounds what entries in memory weigh, whatever `snapshot_count` says."""
        self._raft = raft
        self._engine = engine
        self._wal = wal
        self._writer = writer
        self._log = log
        self._snapshot_count = snapshot_count
        self._catch_up_entries = catch_up_entries
        self.compacted = raft.status().compacted
        """Entries up to this one are dropped, or are about to be."""
        self._dropped = self.compacted
        """Entries up to this one are dropped from memory."""
        self.replacing = False
        """A snapshot is taking the place of log and state: nothing is compacted until `restart`."""
        self._account = (budget or Budget(LOG_BYTES)).account()
        self._limit = LOG_BYTES if budget is None else budget.limit
        self._compact_at = 0
        """What the log has to weigh before a tick tries to compact it again."""
        self.pacing = Pacing(self._limit, self.compacted)
        self.wanted: Callable[[], Index | None] = _nothing
        """Entries after the one that it returns are kept while the log weighs less than its bound; None: it
        asks for none (`node.archive`).
        """
        self._was_paced = False
        self._now = 0.0
        """Monotonic seconds at the last tick."""
        self._tell_at = 0.0
        """When the only member of a cluster tells again that it has compacted."""

    @property
    def is_dropping(self) -> bool:
        """Entries up to `compacted` are still in memory: more calls of `compact` are needed."""
        return self._dropped < self.compacted and not self.replacing

    def compact(self) -> bool:
        """Drop entries that the durable state contains, but for those kept for slow members and for those
        that are brought up; fewer are kept when the log weighs too much, and for a member that is brought up
        as many as it may weigh. True when something was dropped. At most `DROPPED_AT_ONCE` leave the memory
        at once, the others with the next calls, while `is_dropping`.
        """
        self._account.hold(self._raft.log_bytes)
        if self.replacing:
            return False
        if self.is_dropping:
            self._drop()
            return True
        durable = self._engine.durable()
        keep = Index(durable - self._catch_up_entries)
        wanted = None
        if self._raft.log_bytes > self._limit:
            keep = min(durable, max(keep, self._raft.compact_index(self._limit // 2)))
        elif durable - self.compacted < self._compact_after + self._catch_up_entries:
            return False
        else:
            wanted = self.wanted()
        self._measure()
        needed = self.pacing.needed()
        if needed is not None:
            keep = min(keep, needed)
        if wanted is not None:
            keep = min(keep, wanted)
        if keep <= self.compacted:
            self._compact_at = self._raft.log_bytes + self._limit // 16
            return False
        self._compact_at = 0
        meta = self._raft.snapshot_meta(keep)
        self.compacted = meta.index
        self._drop()
        self._writer.write(SnapshotMark(meta, self._drop_files))
        if not self._is_alone or self._now >= self._tell_at:
            self._tell_at = self._now + TOLD_SECONDS
            self._log.info("log_compacted", before=meta.index, durable=durable)
        return True

    @property
    def _is_alone(self) -> bool:
        return self._raft.is_only_voter and not self._raft.conf.learners

    @property
    def _compact_after(self) -> int:
        return min(self._snapshot_count, ALONE_ENTRIES) if self._is_alone else self._snapshot_count

    def tick(self, now: float) -> None:
        """Update how fast this leader may write, from how far behind others are; compact the log if it weighs
        too much before the next regular look at it.
        """
        self._now = now
        pacing, weight = self.pacing, self._raft.log_bytes
        self._measure()
        if pacing.paced and not self._was_paced:
            self._was_paced = True
            peers = [f"{each.id:x}" for each in pacing.behind() if each.counts]
            self._log.info("writes_paced", peers=peers, bytes_per_second=pacing.paced_to)
        pacing.look(now, self._raft.status())
        if self._was_paced and not pacing.paced:
            self._was_paced = False
            self._log.info("writes_not_paced")
        if weight > max(self._limit, self._compact_at) and not self.is_dropping:
            self.compact()

    def restart(self, index: Index) -> None:
        """A snapshot at this place has taken the place of the log."""
        self.replacing = False
        self.compacted = self._dropped = index
        self.pacing.restart(index)

    def _drop(self) -> None:
        before = self._raft.log_bytes
        self._dropped = Index(min(self.compacted, self._dropped + DROPPED_AT_ONCE))
        self._raft.compact(self._dropped)
        self.pacing.forgot(self._dropped, before - self._raft.log_bytes)

    def _drop_files(self) -> None:
        """The mark is durable: files of the log with nothing but older entries are removed."""
        self._wal.drop_before(Index(self.compacted + 1))

    def _measure(self) -> None:
        self.pacing.measure(self._raft.log.last, self._raft.log_bytes)
