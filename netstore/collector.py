"""Python's collector of cycles, kept from holding the loop.

Nearly everything here is freed as soon as nobody refers to it, and without the collector. What it looks for
are objects that refer to each other; it does so now and then, in one go, and by itself looks through all
objects there are: 20 ms for 100,000 open streams. `bound` lets it look through each object while it is young,
up to three times, and never again: all that is there after it has looked through everything is set aside
(`gc.freeze`), however young it is.

So a cycle of objects that lived long is never freed, and of those that live for a moment the few that are
there at such a moment. Whatever lives long and is let go of again (connections, streams, watches, leases) has
to break its cycles itself, as `net.connection.Closed` does; an exception must not be kept by its own frame.

What counts is what objects refer to: the collector walks a list of a million numbers whole. Who keeps so many
for a while keeps them where it has nothing to walk (`array`, bytes).
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (700, 10, 1)
"""The oldest generation gains some 701 * 11 * 2 objects before it is looked through: 1.5 ms."""


def bound() -> None:
    """Set aside all that is there, once it was looked through, and from now on all that gets old."""
    gc.collect()
    gc.freeze()
    gc.collect()  # of next to nothing: how many were found last decides when all are looked through again
    gc.set_threshold(*THRESHOLDS)
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


def _set_aside(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == len(THRESHOLDS) - 1:
        gc.freeze()
