"""The scrubber: goes through the whole state in the background, so that rot is found before it is asked for.

Each round verifies every record, that each is found by its key, and that each table is what the last commit
says of it (`LmdbEngine.verify_step`). It reads through the page cache, as the member does: what rotted on the
disk under pages that are in memory is found when they are read anew.
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
"""From the begin of a round to the begin of the next one, if the round is over by then."""

STEP_RECORDS: Final = 32
"""Records verified at a time, during which no commit is made."""

STEP_BYTES: Final = 64 * 1024

RECORD_COST: Final = 512
"""Bytes a record counts as at least: small ones cost the same time. At 4 MiB a second, 1 % of a core."""

_MIB: Final = 1 << 20


class Verified(Protocol):
    """The part of `disk.engine.LmdbEngine` that is used here."""

    @property
    def tables(self) -> list[str]:
        """What there is to go through."""

    def verify_step(self, tracker: Tracker, most_records: int, most_bytes: int) -> int | None:
        """Verify the next records of a table; their bytes, None at its end."""


class Scrubber:
    """Verifies one engine with a thread of its own, at `mib_per_second`; 0: never. Damage, which the engine
    tells, ends the rounds.
    """

    def __init__(
        self,
        engine: Verified,
        mib_per_second: int,
        log: Log,
        *,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`wait` waits so many seconds, and says whether to end."""
        self._engine = engine
        self._rate = mib_per_second * _MIB
        self._log = log
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self._run, name="state-scrubber", daemon=True)
        self.verified_bytes = 0
        """Of the round that is under way, or that was the last."""
        self.rounds = 0
        """That came to their end."""

    def start(self) -> None:
        """Begin, unless there is nothing to do."""
        if self._rate:
            self._thread.start()

    def stop(self) -> None:
        """End. Blocks for one step."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                over = self._round()
            except StateDamaged:
                return  # the engine has told it: the member ends
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                over = False  # another state: begin anew
            if over:
                self.rounds += 1
                seconds = round(time.monotonic() - begun, 1)
                self._log.info("state_verified", bytes=self.verified_bytes, seconds=seconds)
            rest = ROUND_SECONDS - (time.monotonic() - begun)
            if self._wait(max(rest, 1.0) if over else 1.0):
                return

    def _round(self) -> bool:
        """Go through everything once. False when it was stopped."""
        self.verified_bytes = 0
        for table in self._engine.tables:
            tracker = Tracker(table)
            while (size := self._engine.verify_step(tracker, STEP_RECORDS, STEP_BYTES)) is not None:
                self.verified_bytes += size
                if self._wait(max(size, STEP_RECORDS * RECORD_COST) / self._rate):
                    return False
        return not self._stop.is_set()
