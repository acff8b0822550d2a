"""Periodic tasks of a member that neither requests nor messages trigger."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_SECONDS: Final = 0.1
"""The shortest period of a task."""


async def do_chores(*chores: tuple[float, Callable[[], object]]) -> None:
    """Make each of the calls every so many seconds, for the first time after one round, until cancelled.

    Periods are rounded down to whole rounds. In a round the calls are made in the order given.
    """
    rounds = [(max(1, int(seconds / ROUND_SECONDS)), call) for seconds, call in chores]
    for number in itertools.count():
        await trio.sleep(ROUND_SECONDS)
        for every, call in rounds:
            if number % every == 0:
                call()
