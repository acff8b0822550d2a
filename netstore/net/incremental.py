"""Work on many connections that is done in pieces, the next one in the next round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_AT_ONCE: Final = 500
"""Connections, or claims, that are looked at in one piece, or changed: a millisecond and a half."""


def run_steps(steps: Iterator[None]) -> Iterator[None] | None:
    """Do some of the steps; what is left of them."""
    for _ in range(STEPS_AT_ONCE):
        if next(steps, steps) is steps:
            return None
    return steps
