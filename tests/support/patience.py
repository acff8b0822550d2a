"""How long tests wait: bounds that grow with the load of the machine.

A bound is written in seconds of a quiet machine. It only ends a test that would never end, so a longer one
costs nothing. `seconds` is for calls that take a number; loops with `until` or `Deadline` also notice load
that comes later. `tests/tidy/test_patience.py` finds bounds that do not grow.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MARGIN: Final = 3.0
"""Bounds are so many times longer than the load tells: the kernel shares cores among sessions, not processes,
and more load may come after a call was made.
"""

LIMIT: Final = 15.0
"""Seconds that a condition may take on a quiet machine, unless a test says otherwise."""

PAUSE: Final = 0.02
"""Seconds between the first looks at a condition."""

LONGEST_PAUSE: Final = 0.2
"""Between later ones. A look often starts a program, and what is waited for needs the processor, too."""

CORES: Final = len(os.sched_getaffinity(0))

_LOAD: Final = Path("/proc/loadavg")


def slowness() -> float:
    """How much longer than on a quiet machine something may take now: by the number of processes that want a
    core or wait for a disk, now and in the last minute.
    """
    last_minute, _, _, now, *_ = _LOAD.read_text().split()
    waiting = max(float(last_minute), float(now.partition("/")[0]))
    return MARGIN * max(1.0, waiting / CORES)


def seconds(quiet: float) -> float:
    """The bound for a call that may take so many seconds on a quiet machine."""
    return quiet * slowness()


class Deadline:
    """When a wait has lasted as long as so many seconds of a quiet machine."""

    def __init__(self, quiet: float) -> None:
        self.quiet = quiet
        self._left = quiet
        self._began = self._last = time.monotonic()

    def passed(self) -> bool:
        """To be asked often: what passed since it was asked last counts by the load of now."""
        now = time.monotonic()
        self._left -= (now - self._last) / slowness()
        self._last = now
        return self._left <= 0

    def __str__(self) -> str:
        return f"{self.quiet:g} s ({self._last - self._began:.0f} s on this busy machine)"


def until(condition: Callable[[], T], what: str, limit: float = LIMIT) -> T:
    """Wait until the condition gives something true, and return it."""
    deadline, pause = Deadline(limit), PAUSE
    while not (found := condition()):
        if deadline.passed():
            raise AssertionError(f"not within {deadline}: {what}; last: {found!r}")
        time.sleep(pause)  # fixed: between two looks
        pause = min(LONGEST_PAUSE, pause * 1.2)
    return found
