"""Keeps pauses of Python's cyclic garbage collector short.

Reference counting frees nearly everything at once. The collector finds reference cycles; a full collection
traverses all objects in one piece: 20 ms with 100,000 open streams. `Collector` lets it traverse each object
while it is young, up to three times, and then never again: after a full collection, or after
`LOOKED_SECONDS` of collecting, all objects there are are moved to the permanent generation (`gc.freeze`),
however young they are.

The interpreter starts a collection when allocations exceed deallocations by a threshold. While old objects
are freed as fast as new ones are made that never happens, and one late collection traverses very many new
objects. So the youngest generation is also collected after each `WORKED_SECONDS` of work.

The price: a cycle of frozen objects is never freed. That is every long-lived cycle, and a few short-lived
ones that existed when the others were frozen. So what lives long and is dropped again (connections, streams,
watches, leases) has to break its cycles itself, as `net.session.Closed` does, and a frame must not keep an
exception that refers to the frame.

A traversal visits every reference: all of a list of a million numbers. Large collections that live for a
while should be stored where there are no references (`array`, bytes).
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THRESHOLDS: Final = (700, 10, 1)
"""Thresholds of `gc.set_threshold`. The oldest generation gains some 701 * 11 * 2 objects before it is
collected: 1.5 ms.
"""

WORKED_SECONDS: Final = 0.003
"""Work after which the youngest generation is collected: nothing makes more than some 15,000 objects
meanwhile.
"""

LOOKED_SECONDS: Final = 0.001
"""Time spent collecting since the last freeze after which all objects are frozen: some 10,000 objects."""


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing within the block, and never look again at what is there after it. For the imports of a
    program: nearly all that they make stays, and the collector would traverse it several times.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class Collector:
    """Bounds the pauses of the collector from `begin` to `end`. One for a process."""

    __slots__ = ("_began", "_clock", "_looked", "_worked")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._began = 0.0
        self._looked = 0.0
        """Seconds of collecting since the last freeze."""
        self._worked = 0.0

    def begin(self) -> None:
        """Collect once, freeze what is there, and from now on freeze what gets old."""
        gc.collect()
        gc.freeze()
        gc.collect()  # finds little: by what the last full collection left, the next one is due
        gc.set_threshold(*THRESHOLDS)
        if self._collecting not in gc.callbacks:
            gc.callbacks.append(self._collecting)

    def end(self) -> None:
        """Freeze nothing any more. May be called again."""
        if self._collecting in gc.callbacks:
            gc.callbacks.remove(self._collecting)

    def worked(self, seconds: float) -> None:
        """The loop has done so much work. Collects the youngest generation after each `WORKED_SECONDS`: costs
        0.05 us, and then 5 us beside the collection.
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
