"""Python's collector of cycles, kept from holding the loop.

Nearly everything here is freed as soon as nobody refers to it, and without the collector. What it looks for
are objects that refer to each other; it does so now and then, in one go, and by itself looks through all
objects there are: 20 ms for 100,000 open streams. `bound` lets it look through each object three times while
it is young, and never again: what has lived through that is set aside (`gc.freeze`).

So a cycle of objects that lived long is never freed. Whatever lives long and is let go of again (connections,
streams, watches, leases) has to break its cycles itself, as `net.connection.Closed` does.
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
