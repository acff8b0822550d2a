"""Periodic tasks of a member that neither requests nor messages trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_SECONDS: Final = 0.1
"""The shortest period of a task."""

EACH_ROUND: Final = 0.0
"""The period of a task that may wait for the next round, however long that is."""

QUIET_ROUNDS: Final = 5
"""Rounds that are one while the member is quiet, if nothing is due before the last of them."""


async def do_chores(
    *chores: tuple[float, Callable[[], object]], is_quiet: Callable[[], bool] = lambda: False
) -> None:
    """Make each of the calls every so many seconds, for the first time after one round, until cancelled.

    Periods are rounded down to whole rounds. In a round the calls are made in the order given. While the
    member `is_quiet`, `QUIET_ROUNDS` are one, or as many as there are before the next call that is not for
    `EACH_ROUND`: periods are kept.
    """
    rounds = [(max(1, int(seconds / ROUND_SECONDS)), call) for seconds, call in chores]
    periods = [max(1, int(seconds / ROUND_SECONDS)) for seconds, _ in chores if seconds != EACH_ROUND]
    number = 0
    while True:
        some = min([QUIET_ROUNDS, *(-number % every + 1 for every in periods)]) if is_quiet() else 1
        await trio.sleep(some * ROUND_SECONDS)
        for every, call in rounds:
            if -number % every < some:  # one of these rounds is a multiple
                call()
        number += some
