"""The loop's side of a device or engine with threads: calls are handed over and run here, one at a time."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 30.0
"""Seconds after which a test gives up; nothing is asserted about how long things take."""


class Hand:
    """`hand` is the `deliver` of the thing under test; `count` tells how many calls came."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.count = 0

    def __call__(self, call: Callable[[], object]) -> None:
        self._calls.put(call)

    def turn(self) -> None:
        """Run one call, waiting for it."""
        call = self._calls.get(timeout=seconds(PATIENCE))
        self.count += 1
        call()

    def until(self, true: Callable[[], bool]) -> None:
        """Run calls until something is so."""
        while not true():
            self.turn()

    def drain(self) -> None:
        """Run the calls that are there."""
        while not self._calls.empty():
            self.turn()
