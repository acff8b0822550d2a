"""The storage thread: commits batches of changes, waits for the commit interval, installs snapshots.

It takes jobs from a queue in order, and reports each result on the loop. What it is given it only reads; a
batch that is committed comes back as a job to free its memory.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.disk.overlay import free_in_steps
from netstore.disk.threads import report
from netstore.histogram import Histogram, doubling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.disk.overlay import Overlay
    from netstore.disk.shared import SharedTables
    from netstore.disk.threads import CallSoon
    from netstore.types import Index

    Done = Callable[[OSError | None], None]


COMMIT_BOUNDS: Final = doubling(0.001, 14)
"""Upper bounds of the seconds that a commit takes, as etcd has them."""


class Batch(NamedTuple):
    """What is committed in one transaction."""

    serial: int
    """Of the last write that is part of it."""
    applied: Index
    log: bytes
    """How far the log was on stable storage."""
    changes: Overlay


class Install(NamedTuple):
    """A snapshot that is to replace the state."""

    snapshot: Path
    done: Done


class _StartInterval:
    """Call `due` after the commit interval, unless a batch comes before."""


class _Free(NamedTuple):
    """Changes that nobody reads any more."""

    changes: Overlay


class _Stop:
    pass


class Committer:
    """The thread and its queue. Methods are called on the loop, and the three callbacks too."""

    def __init__(
        self,
        shared: SharedTables,
        call_soon: CallSoon,
        interval: float,
        *,
        due: Callable[[], None],
        committed: Callable[[Batch, OSError | None], None],
        installed: Callable[[Install, Index | OSError], None],
    ) -> None:
        """Starts the thread. `due` is called when the interval is over; `committed` and `installed` with the
        result of each job.
        """
        self._shared = shared
        self._call_soon = call_soon
        self._interval = interval
        self._due = due
        self._committed = committed
        self._installed = installed
        self.commits = Histogram(COMMIT_BOUNDS)
        """Seconds of each commit, with its sync."""
        self._queue: SimpleQueue[Batch | Install | _StartInterval | _Free | _Stop] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def start_interval(self) -> None:
        """Call `due` after the commit interval, unless a batch comes before."""
        self._queue.put(_StartInterval())

    def commit(self, batch: Batch) -> None:
        """Commit a batch, which does not change any more."""
        self._queue.put(batch)

    def install(self, job: Install) -> None:
        """Replace the state by a snapshot. The loop must not read until that is reported."""
        self._queue.put(job)

    def free(self, changes: Overlay) -> None:
        """Free the memory of changes that nobody reads any more."""
        self._queue.put(_Free(changes))

    def stop(self) -> None:
        """Finish the jobs in the queue and end the thread. Blocks."""
        self._queue.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        queue, shared = self._queue, self._shared
        due: float | None = None
        while True:
            try:
                job = queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except Empty:
                due = None
                report(self._call_soon, self._due)
                continue
            if isinstance(job, _Stop):
                return
            if isinstance(job, _StartInterval):
                due = time.monotonic() + self._interval
            if isinstance(job, Batch):
                due = None
                began = time.monotonic()
                failure = shared.commit(job.applied, job.log, job.changes)
                self.commits.observe(time.monotonic() - began)
                report(self._call_soon, self._committed, job, failure)
            if isinstance(job, _Free):
                free_in_steps(job.changes)
            if isinstance(job, Install):
                report(self._call_soon, self._installed, job, shared.replace(job.snapshot))
