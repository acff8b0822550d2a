"""Long work done in slices between the turns of the member: how much one slice does, and how it is run.

A task is an iterator; each step of it is a slice of a millisecond or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

SLICE_WATCHES: Final = 250
"""Watches that are sent something, and groups of them, in one slice: about 1.5 ms, at 6 us for one over
gRPC.
"""

SLICE_MOVES: Final = 100
"""Watches that leave their group in one slice: 20 us for one that has a range of its own."""

SLICE_LOOKS: Final = 1_500
"""Pairs of a change and a group that are looked at in one slice: 0.5 ms, 2 ms where no look-up was cached."""

SLICE_EVENTS: Final = 1_000
"""Events that are encoded in one slice: 1.5 ms."""

SLICE_HISTORY_LOOKS: Final = 5_000
"""Changes of the history looked at in one slice: about 0.5 ms when none is selected."""

SLICE_HISTORY_CHANGES: Final = 250
"""Changes read from history in one slice, give or take one revision: about 1 ms."""


def run_slice(task: Iterator[None], done: list[bool]) -> None:
    """Do one slice; `done` gets an entry when it was the last."""
    if next(task, done) is done:
        done.append(True)


def slice_ends(items: Sized) -> Iterator[bool]:
    """For each item that is there now, whether a slice ends after it and another follows."""
    count = len(items)
    for number in range(1, count + 1):
        yield number % SLICE_WATCHES == 0 and number < count
