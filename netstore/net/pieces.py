"""Work on many connections that is done in pieces, the next one in the next round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_AT_ONCE: Final = 500
"""Connections, or claims, that are looked at in one piece, or changed: a millisecond and a half."""


def go_on(steps: Iterator[None]) -> Iterator[None] | None:
    """Do some of the steps; what is left of them."""
    for _ in range(STEPS_AT_ONCE):
        if next(steps, steps) is steps:
            return None
    return steps


def rest_of(piece: bytes | memoryview, start: int) -> bytes | memoryview:
    """What is left of a piece from `start` on. Not copied while it is at least half of the object it is part
    of; less of it would be charged alone and keep all of that in memory. All copies of one object together
    are no more than that object.
    """
    rest = memoryview(piece)[start:]
    whole: bytes = rest.obj  # type: ignore[assignment]  # pieces are bytes, or views of bytes
    return rest if 2 * len(rest) >= len(whole) else bytes(rest)
