"""Python's collector of cycles, kept from holding the loop.

Nearly everything here is freed as soon as nobody refers to it, and without the collector. What it looks for
are objects that refer to each other; it does so now and then, in one go, and by itself looks through all
objects there are: 20 ms for 100,000 open streams. `Collector` lets it look through each object while it is
young, up to three times, and never again: what is there after it has looked through everything, or has looked
for `LOOKED_SECONDS`, is set aside (`gc.freeze`), however young it is.

When the interpreter looks by itself depends on how many more objects were made than let go of. Where old ones
go as fast as new ones come it never does, and the new ones are all looked through at once by and by: so it is
also made to look after each `WORKED_SECONDS` of work.

So a cycle of objects that lived long is never freed, and of those that live for a moment the few that are
there at such a moment. Whatever lives long and is let go of again (connections, streams, watches, leases) has
to break its cycles itself, as `net.connection.Closed` does; an exception must not be kept by its own frame.

What counts is what objects refer to: the collector walks a list of a million numbers whole. Who keeps so many
for a while keeps them where it has nothing to walk (`array`, bytes).
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

THRESHOLDS: Final = (700, 10, 1)
"""The oldest generation gains some 701 * 11 * 2 objects before it is looked through: 1.5 ms."""

WORKED_SECONDS: Final = 0.003
"""Work after which the youngest objects are looked through: nothing makes more than some 15,000 meanwhile."""

LOOKED_SECONDS: Final = 0.001
"""Looking since something was set aside last, after which all there is is: some 10,000 objects."""


class Collector:
    """Keeps the interpreter's collector short, from `begin` to `end`. One for a process."""

    __slots__ = ("_began", "_clock", "_looked", "_worked")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._began = 0.0
        self._looked = 0.0
        """Seconds of looking since something was set aside."""
        self._worked = 0.0

    def begin(self) -> None:
        """Set aside all that is there, once it was looked through, and from now on all that gets old."""
        gc.collect()
        gc.freeze()
        gc.collect()  # of next to nothing: how many were found last decides when all are looked through again
        gc.set_threshold(*THRESHOLDS)
        if self._collecting not in gc.callbacks:
            gc.callbacks.append(self._collecting)

    def end(self) -> None:
        """Nothing is set aside any more. May be said again."""
        if self._collecting in gc.callbacks:
            gc.callbacks.remove(self._collecting)

    def worked(self, seconds: float) -> None:
        """The loop has done so much work. Looks through the youngest objects now and then: 0.05 us, and 5 us
        every `WORKED_SECONDS`, beside what there is to look at.
        """
        self._worked += seconds
        if self._worked > WORKED_SECONDS:
            self._worked = 0.0
            gc.collect(0)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = self._clock()
            return
        self._looked += self._clock() - self._began
        if self._looked > LOOKED_SECONDS or info["generation"] == len(THRESHOLDS) - 1:
            self._looked = 0.0
            gc.freeze()
