"""A clock that goes on while the machine is suspended.

trio counts by CLOCK_MONOTONIC, which stands still then; the store goes on, and ends the lease of a node that
sleeps. CLOCK_BOOTTIME is the same clock with that time in it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS: Final = 10.0
"""Maximum seconds awake after which a suspension is noticed."""

_LEAST: Final = 0.01
"""Seconds of difference that are not counted: the two clocks are not read at one instant."""


def suspended_seconds() -> float:
    """For how long this machine was suspended since it was booted."""
    booted = time.clock_gettime(time.CLOCK_BOOTTIME)  # first, so that a pause in between counts as nothing
    return booted - time.clock_gettime(time.CLOCK_MONOTONIC)


class LastingClock:
    """trio's clock, and the time for which the machine was suspended since this one was made. It never goes
    back. A look costs two system calls that need not enter the kernel.
    """

    def __init__(self, suspended: Callable[[], float] | None = None) -> None:
        """`suspended` tells for how long the machine was suspended since any time before."""
        self._suspended: Callable[[], float] = suspended or suspended_seconds
        self._before = self._suspended()
        self.added = 0.0
        """The seconds of suspension that were noticed so far."""

    def now(self) -> float:
        """Seconds, as those of trio's clock while nothing was suspended."""
        added = self._suspended() - self._before
        if added - self.added > _LEAST:
            self.added = added
        return trio.current_time() + self.added

    def deadline(self, until: float) -> float:
        """When it is `until`, by trio's clock, unless the machine is suspended meanwhile."""
        return until - self.added

    async def sleep(self, seconds: float) -> None:
        """Sleep so long. If the machine is suspended meanwhile, up to `LOOK_SECONDS` longer."""
        until = self.now() + seconds
        while True:
            await trio.sleep(max(0.0, min(until - self.now(), LOOK_SECONDS)))
            if self.now() >= until:
                return
