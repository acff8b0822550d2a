"""The loop of a device or engine under test: it collects calls from other threads and makes them one at a
time.
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT: Final = 30.0
"""Seconds on a quiet machine after which a test fails; no test asserts how long anything takes."""


class FakeLoop:
    """Passed as `call_soon`. `count` is how many calls were made."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.count = 0

    def __call__(self, call: Callable[[], object]) -> None:
        self._calls.put(call)

    def run_one(self) -> None:
        """Wait for a call and make it."""
        call = self._calls.get(timeout=seconds(TIMEOUT))
        self.count += 1
        call()

    def run_until(self, true: Callable[[], bool]) -> None:
        """Make calls until a condition is true."""
        while not true():
            self.run_one()

    def run_ready(self) -> None:
        """Make the calls that are there."""
        while not self._calls.empty():
            self.run_one()
