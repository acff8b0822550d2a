"""How far a start is, which may take minutes: told in the log, and to the service manager, which would give
it up otherwise. Only what moves is told: a start that stands still is ended by the manager's time limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.ops.notify import ServiceManager

TOLD_SECONDS: Final = 5.0
"""So often it is told how far loading is."""

STEP_SECONDS: Final = 60.0
"""The manager is asked for so much time until it is told the next time."""

LEAST_VERIFIED: Final = 1024 * 1024
"""Bytes of the state that a slow disk verifies in a second, at least; how far that is nobody tells."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> None:
        """One line."""


class Start:
    """Tells how far the start of a store is. Plain calls, which block for no longer than a datagram."""

    def __init__(self, manager: ServiceManager, now: Callable[[], float], log: Log) -> None:
        """`now` is monotonic."""
        self._manager = manager
        self._now = now
        self._log = log
        self._told = now()
        self._records = 0

    def verifying(self, size: int) -> None:
        """A state of so many bytes, which was not closed, is about to be verified."""
        self._log.info("state_verifying", bytes=size)
        self._manager.extend(
            STEP_SECONDS + size / LEAST_VERIFIED, f"verifying the state, {size / 1e6:.0f} MB"
        )

    def loading(self, records: int, size: int) -> None:
        """A state of so many records is about to be read; they and what holds them are so many bytes."""
        self._records = records
        self._told = self._now()
        self._log.info("state_loading", records=records, bytes=size)
        self._manager.extend(STEP_SECONDS, f"loading {records} keys, {size / 1e6:.0f} MB")

    def loaded(self, records: int) -> None:
        """So many were read so far."""
        now = self._now()
        if now - self._told < TOLD_SECONDS:
            return
        self._told = now
        self._log.info("state_loading", records=self._records, loaded=records)
        percent = 100 * records // max(self._records, 1)
        self._manager.extend(STEP_SECONDS, f"loading {self._records} keys, {percent}%")
