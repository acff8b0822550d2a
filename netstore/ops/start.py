"""Reports the progress of a start, which may take minutes, to the log and to the service manager.

Each report extends the manager's time limit. Nothing is reported unless there was progress, so that the
manager ends a start that hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.disk.engine import LmdbEngine
    from netstore.node.host import Host
    from netstore.ops.notify import ServiceManager
    from netstore.seams import Log

TOLD_SECONDS: Final = 5.0
"""Shortest time between two reports."""

STEP_SECONDS: Final = 120.0
"""Time that a report asks the manager for. Long enough for the longest step without a report: reading one
file of the log, 64 MiB.
"""

LEAST_VERIFIED: Final = 1024 * 1024
"""Bytes a second at which a slow disk reads or syncs and verifies a state: verification has no reports of its
own, so the time for all of it is asked for at its start.
"""

POLL_SECONDS: Final = 0.1
"""How often `follow` looks."""


class Start:
    """The start of one store. Implements `node.storage.Progress`. A call blocks only to send a datagram."""

    def __init__(self, manager: ServiceManager, now: Callable[[], float], log: Log) -> None:
        """`now` is a monotonic clock."""
        self._manager = manager
        self._now = now
        self._log = log
        self._told = now()
        self._records = 0
        self._applied: int | None = None
        """Applied index in the last report, or at the first call."""
        self._loaded = -1
        self.over = False
        """Clients are served, or the member stops: nothing is reported any more. Set by the server."""

    def moved(self, doing: str, size: int) -> None:
        """So many bytes of one phase are done. `doing` describes the phase, as "reading the log"."""
        if self._is_time():
            self._log.info("start_moves", doing=doing, bytes=size)
            self._manager.extend(STEP_SECONDS, f"{doing}, {size / 1e6:.0f} MB")

    def applied(self, index: int) -> None:
        """The log is applied up to this index. May repeat an index. The first call, and the first after
        `loading`, reports nothing: it tells where applying begins.
        """
        if self._applied is None:
            self._applied = index
        elif index != self._applied and self._is_time():
            self._applied = index
            self._log.info("start_moves", doing="applying the log", index=index)
            self._manager.extend(STEP_SECONDS, f"applying the log, entry {index}")

    def verifying(self, size: int) -> None:
        """A state of so many bytes is to be verified: a received snapshot, or one that was not closed."""
        if self.over:
            return
        self._log.info("state_verifying", bytes=size)
        self._manager.extend(
            STEP_SECONDS + size / LEAST_VERIFIED, f"verifying the state, {size / 1e6:.0f} MB"
        )

    def loading(self, records: int, size: int) -> None:
        """A state of so many records and bytes is about to be loaded."""
        self._records, self._loaded, self._applied = records, -1, None
        self._told = self._now()
        self._log.info("state_loading", records=records, bytes=size)
        self._manager.extend(STEP_SECONDS, f"loading {records} records, {size / 1e6:.0f} MB")

    def loaded(self, records: int) -> None:
        """So many records are loaded so far. May repeat a number."""
        if records == self._loaded or not self._is_time():
            return
        self._loaded = records
        self._log.info("state_loading", records=self._records, loaded=records)
        percent = 100 * records // max(self._records, 1)
        self._manager.extend(STEP_SECONDS, f"loading {self._records} records, {percent}%")

    def _is_time(self) -> bool:
        """Whether the next report is due; if so, the time of the last one is set."""
        now = self._now()
        is_time = not self.over and now - self._told >= TOLD_SECONDS
        if is_time:
            self._told = now
        return is_time

    async def follow(self, host: Host, engine: LmdbEngine) -> None:
        """Report until clients are served. A member that joins receives its state from others, loads it, and
        applies what was written meanwhile; this may happen several times.
        """
        was_loading = False
        while not self.over:
            if host.snapshot_install.is_loading:
                if not was_loading:
                    self.loading(host.machine.stored, engine.sizes()[1])
                self.loaded(host.machine.loaded)
            else:
                self.applied(host.machine.applied)
            was_loading = host.snapshot_install.is_loading
            await trio.sleep(POLL_SECONDS)
