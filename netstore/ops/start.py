"""How far a start is, which may take minutes: told in the log, and to the service manager, which would give
it up otherwise. Only what moves is told: a start that stands still is ended by the manager's time limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.ops.notify import ServiceManager
    from netstore.seams import Log

TOLD_SECONDS: Final = 5.0
"""So often it is told how far it is, at most."""

STEP_SECONDS: Final = 120.0
"""The manager is asked for so much time until it is told the next time. A file of the log, 64 MiB, is read in
one step.
"""

LEAST_VERIFIED: Final = 1024 * 1024
"""Bytes that a slow disk reads, or syncs and verifies, in a second, at least; how far it is with verifying
nobody tells.
"""


class Start:
    """Tells how far the start of a store is. Plain calls, which block for no longer than a datagram."""

    def __init__(self, manager: ServiceManager, now: Callable[[], float], log: Log) -> None:
        """`now` is monotonic."""
        self._manager = manager
        self._now = now
        self._log = log
        self._told = now()
        self._records = 0
        self._applied: int | None = None
        """How far the log was applied when that was told last, or seen first."""
        self._loaded = -1
        self.over = False
        """The store serves: nothing is told of it any more. Set by who knows."""

    def moved(self, doing: str, size: int) -> None:
        """So many bytes were read, checked or received so far: what is being done, in words."""
        if self._is_time():
            self._log.info("start_moves", doing=doing, bytes=size)
            self._manager.extend(STEP_SECONDS, f"{doing}, {size / 1e6:.0f} MB")

    def applied(self, index: int) -> None:
        """The log was applied so far. May be told again. Where it begins is no news: at the first call, and
        the first after `loading`.
        """
        if self._applied is None:
            self._applied = index
        elif index != self._applied and self._is_time():
            self._applied = index
            self._log.info("start_moves", doing="applying the log", index=index)
            self._manager.extend(STEP_SECONDS, f"applying the log, entry {index}")

    def verifying(self, size: int) -> None:
        """A state of so many bytes is about to be verified: one that was not closed, or a copy."""
        if self.over:
            return
        self._log.info("state_verifying", bytes=size)
        self._manager.extend(
            STEP_SECONDS + size / LEAST_VERIFIED, f"verifying the state, {size / 1e6:.0f} MB"
        )

    def loading(self, records: int, size: int) -> None:
        """A state of so many records is about to be read; they and what holds them are so many bytes."""
        self._records, self._loaded, self._applied = records, -1, None
        self._told = self._now()
        self._log.info("state_loading", records=records, bytes=size)
        self._manager.extend(STEP_SECONDS, f"loading {records} records, {size / 1e6:.0f} MB")

    def loaded(self, records: int) -> None:
        """So many were read so far. May be told again."""
        if records == self._loaded or not self._is_time():
            return
        self._loaded = records
        self._log.info("state_loading", records=self._records, loaded=records)
        percent = 100 * records // max(self._records, 1)
        self._manager.extend(STEP_SECONDS, f"loading {self._records} records, {percent}%")

    def _is_time(self) -> bool:
        """Whether something is to be told again; then it is."""
        now = self._now()
        is_time = not self.over and now - self._told >= TOLD_SECONDS
        if is_time:
            self._told = now
        return is_time
