"""Where the time of slow requests went: in a queue, on the disk, at the other members, or being applied.

Nothing is measured for one request: a slot knows when it was opened and handed to Raft, the device when its
last writes were synced, and the applier when its last entries turned out to be committed. A request that was
fast costs one comparison; those that are slow because of the same wait share most of the work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.types import Index

SLOW_SECONDS: Final = 0.1
"""A request that waits longer for the log or a read index is slow."""

COMMITS_KEPT: Final = 256
"""Turns in which entries were committed, whose times are kept."""


class Spent(NamedTuple):
    """Seconds that a request waited, in the order of its way. What is not known is part of the one before."""

    queue: float = 0.0
    """Until it was handed to the log, or forwarded to the leader; and, of a member that votes alone, what it
    waited for the event loop afterwards.
    """
    disk: float = 0.0
    """While this member's log was written and synced."""
    quorum: float = 0.0
    """Otherwise until it was committed; a read: until the leader confirmed its index and that was applied."""
    apply: float = 0.0
    """From then on until it was applied."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class Slowness:
    """What is known of the last entries, and of the request that is being answered."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self.is_alone: Callable[[], bool] = lambda: False
        """Whether this member votes alone, so that nothing waits for others."""
        self.syncs: Iterable[tuple[float, float]] = ()
        """When the last writes of the log began and were synced, the oldest first (`disk.posix`)."""
        self._commits: deque[tuple[Index, float]] = deque(maxlen=COMMITS_KEPT)
        self._last = 0.0, 0.0, 0.0
        """When the write asked for last was handed to Raft and committed, and its seconds of the disk."""
        self.spent: Spent | None = None
        """Of the request that is being answered; None if it is not slow."""
        self.traceparent: bytes | None = None
        """Its trace, if it has one and came by the v2 API. Whoever finds `spent` resets both."""

    def committed(self, index: Index, at: float) -> None:
        """Everything up to this index was found to be committed."""
        self._commits.append((index, at))

    def of_write(self, opened: float, sent: float, index: Index) -> Spent:
        """Of a write whose slot was opened and handed to Raft at these times, and whose entry is being
        applied. O(log `COMMITS_KEPT`), and O(`syncs`) for the first of those that were handed over and
        committed together.
        """
        now = self._clock()
        found = bisect_left(self._commits, index, key=itemgetter(0))
        return self._of(opened, sent, self._commits[found][1] if found < len(self._commits) else now, now)

    def of_unfinished(self, opened: float, sent: float, now: float) -> Spent:
        """Of a write that is given up now, and of which nobody knows whether it is committed: once it was
        handed to Raft, if it was, it waited for the disk and a quorum. O(`syncs`) for the first of those that
        were handed over and are given up together.
        """
        return self._of(opened, sent or now, now, now)

    def _of(self, opened: float, sent: float, at: float, now: float) -> Spent:
        """Of a write that was committed at the time `at`."""
        sent = min(max(sent, opened), now) if sent else opened
        committed = min(max(at, sent), now)
        if self._last[:2] != (sent, committed):
            self._last = sent, committed, self._disk(sent, committed)
        disk = self._last[2]
        return self._spent(sent - opened, disk, max(0.0, committed - sent - disk), now - committed)

    def _spent(self, queue: float, disk: float, rest: float, apply: float) -> Spent:
        """`rest`: until it was committed or confirmed."""
        if self.is_alone():
            return Spent(queue + rest, disk, 0.0, apply)
        return Spent(queue, disk, rest, apply)

    def _disk(self, since: float, until: float) -> float:
        """Seconds between these times in which the log was written and synced."""
        return sum(max(0.0, min(ended, until) - max(began, since)) for began, ended in tuple(self.syncs))

    def of_read(self, asked: float) -> Spent:
        """Of a read that was asked for at this time, and is being answered."""
        return self._spent(0.0, 0.0, max(0.0, self._clock() - asked), 0.0)
