"""Long work on many connections in short pieces, one in each round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_AT_ONCE: Final = 500
"""Steps of one piece, each for one connection or claim: a millisecond and a half."""


def run_steps(steps: Iterator[None]) -> Iterator[None] | None:
    """Do the next `STEPS_AT_ONCE` steps; returns the iterator with the rest, or None if there is none."""
    for _ in range(STEPS_AT_ONCE):
        if next(steps, steps) is steps:
            return None
    return steps
