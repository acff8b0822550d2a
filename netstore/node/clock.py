"""The clocks of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from netstore.types import Nanos

if TYPE_CHECKING:
    from netstore.seams import Log


class SystemClock:
    """Implements `seams.Clock`."""

    monotonic = staticmethod(time.monotonic)
    """Seconds from an unknown start; never decreases. The function itself, for speed: it is called for each
    request.
    """

    def __init__(self, log: Log) -> None:
        """`log` gets one line if the wall clock cannot be read."""
        self._log = log
        self._wall = 0
        self._is_told = False

    def wall(self) -> Nanos:
        """Wall time; it may jump either way. Never before 1970, which log entries cannot represent; beyond
        2262, where nanoseconds do not fit into 64 bits, the last time that could be read.
        """
        try:
            self._wall = max(time.time_ns(), 0)
        except OverflowError:
            if not self._is_told:
                self._is_told = True
                self._log.warning(
                    "wall_clock_wrong", reason="it is beyond the year 2262", fix="set the clock"
                )
        return Nanos(self._wall)
