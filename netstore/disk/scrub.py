"""The scrubber: verifies the whole state in the background, so that damage is found before the record is
needed.

Each round verifies every record, that each is found by its key, and that the records of each database add up
to what the last commit recorded (`LmdbEngine.verify_step`). It reads through the page cache, as the member
does, so damage on the disk under a cached page is found when that page is read from the disk again.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from netstore.disk.tables import Tracker
from netstore.errors import StateDamaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Log

ROUND_SECONDS: Final = 3600.0
"""From the start of a round to the start of the next one, if the round takes less than that."""

STEP_RECORDS: Final = 32
"""Records that are verified in one step, during which commits wait."""

STEP_BYTES: Final = 64 * 1024

RECORD_COST: Final = 512
"""A record counts as so many bytes at least, because small ones take the same time. At 4 MiB a second that is
1 % of a core.
"""

_MIB: Final = 1 << 20


class Verified(Protocol):
    """The part of `disk.engine.LmdbEngine` that is used here."""

    @property
    def databases(self) -> list[str]:
        """The databases to verify."""

    def verify_step(self, tracker: Tracker, most_records: int, most_bytes: int) -> int | None:
        """Verify the next records of a database; how many bytes they have, None at its end."""


class Scrubber:
    """Verifies one engine in a thread of its own, at `mib_per_second`; 0: never. Damage, which the engine
    reports, ends the rounds.
    """

    def __init__(
        self,
        engine: Verified,
        mib_per_second: int,
        log: Log,
        *,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`wait` waits so many seconds, and returns whether to end."""
        self._engine = engine
        self._rate = mib_per_second * _MIB
        self._log = log
        self._wake = threading.Event()
        self._ending = False
        self._hurried = False
        self._wait = wait or self._pause
        self._thread = threading.Thread(target=self._run, name="state-scrubber", daemon=True)
        self.verified_bytes = 0
        """Of the current round, or of the last one."""
        self.rounds = 0
        """Complete ones."""

    def start(self) -> None:
        """Start the thread, unless the rate is 0."""
        if self._rate:
            self._thread.start()

    def stop(self) -> None:
        """End the thread. Blocks for one step."""
        self._ending = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def hurry(self) -> None:
        """Begin the next round as soon as the current one is over, because something may be damaged. From any
        thread.
        """
        self._hurried = True
        self._wake.set()

    def _pause(self, seconds: float) -> bool:
        """Wait until then, or until `stop` or `hurry`; whether to end."""
        self._wake.wait(seconds)
        if not self._ending:
            self._wake.clear()
        return self._ending

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                over = self._round()
            except StateDamaged:
                return  # the engine has reported it: the member ends
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                over = False  # the state was replaced, or is closed
            if over:
                self.rounds += 1
                seconds = round(time.monotonic() - began, 1)
                self._log.info("state_verified", bytes=self.verified_bytes, seconds=seconds)
            rest = 0.0 if self._hurried else ROUND_SECONDS - (time.monotonic() - began)
            if self._wait(max(rest, 1.0) if over else 1.0):
                return

    def _round(self) -> bool:
        """Verify everything once. False when it was stopped."""
        self._hurried = False
        self.verified_bytes = 0
        for database in self._engine.databases:
            tracker = Tracker(database)
            while (size := self._engine.verify_step(tracker, STEP_RECORDS, STEP_BYTES)) is not None:
                self.verified_bytes += size
                if self._wait(max(size, STEP_RECORDS * RECORD_COST) / self._rate):
                    return False
        return not self._ending
