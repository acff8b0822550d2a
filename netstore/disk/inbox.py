"""The queue from the loop to the device's writer thread, and the jobs in it."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Done = Callable[[OSError | None], None]


class Write(NamedTuple):
    """Bytes for a file, to be synced."""

    name: str
    offset: int
    data: bytes
    done: Done
    epoch: int
    """How many failures were reported to the caller before it made this write."""
    accepted: bool
    """False: too many bytes were waiting, so the write is to fail in its turn. It has no data."""
    note: bytes


class Remove(NamedTuple):
    """A file to remove."""

    name: str


class PrepareSpare:
    """Try again to prepare the next file."""


class Stop:
    """End the thread."""


Job = Write | Remove | PrepareSpare | Stop


class Inbox:
    """Adding a job while the writer works costs an append to a deque; while it sleeps, one system call more.

    The writer sleeps in a read of an event descriptor. That wakes it faster than a queue or lock would,
    because the system call that wakes it also releases the GIL (DESIGN.md).
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._asleep = False

    def put(self, job: Job, *, held: bool = False) -> None:
        """Add a job. If it is `held`, a writer that sleeps is not woken before `wake`."""
        self._jobs.append(job)
        if not held:
            self.wake()

    def wake(self) -> None:
        """Wake the writer if it sleeps."""
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._wakeup, 1)

    def take(self) -> Job:
        """The next job. Sleeps until there is one. For the writer."""
        while True:
            try:
                return self._jobs.popleft()
            except IndexError:  # there is none, or the loop has taken the last one back
                self._asleep = True
            if self._jobs:  # added before `_asleep` was set. If it was seen, the next read returns at once
                self._asleep = False
                continue
            os.eventfd_read(self._wakeup)
            self._asleep = False

    def take_back(self) -> Job | None:
        """Take the only job there is, for the loop to do, if the writer sleeps: it has nothing under way
        then, and sleeps on until the next `wake`. None if it is awake, or there are more jobs.
        """
        if not self._asleep or len(self._jobs) != 1:
            return None
        try:
            return self._jobs.popleft()
        except IndexError:  # the writer woke up just now and has taken it
            return None

    def __len__(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        """Close the descriptor, once the thread has ended."""
        os.close(self._wakeup)
