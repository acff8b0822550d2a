"""Chores are done as often as they are due, in their order."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.node.chores import EACH_ROUND, QUIET_ROUNDS, ROUND_SECONDS, do_chores

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_each_chore_has_its_own_period(autojump_clock: MockClock) -> None:
    done: list[str] = []
    with trio.move_on_after(ROUND_SECONDS * 6.5):
        await do_chores(
            (0.0, lambda: done.append("each")),
            (ROUND_SECONDS * 3.5, lambda: done.append("third")),
            (ROUND_SECONDS, lambda: done.append("each, too")),
        )
    first, other = ["each", "third", "each, too"], ["each", "each, too"]
    assert done == [*first, *other, *other, *first, *other, *other]


async def test_a_chore_that_fails_ends_them(autojump_clock: MockClock) -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(5, "out of order")

    try:
        await do_chores((1.0, lambda: done.append("first")), (1.0, fail), (1.0, lambda: done.append("last")))
    except OSError:
        done.append("failed")
    assert done == ["first", "failed"]


async def test_while_it_is_quiet_chores_keep_their_periods_in_fewer_rounds(autojump_clock: MockClock) -> None:
    done: list[str] = []
    began = trio.current_time()
    rounds: list[float] = []
    with trio.move_on_after(ROUND_SECONDS * 40.5):
        await do_chores(
            (EACH_ROUND, lambda: rounds.append(trio.current_time() - began)),
            (ROUND_SECONDS * 10, lambda: done.append("tenth")),
            is_quiet=lambda: True,
        )
    assert len(rounds) == 40 // QUIET_ROUNDS
    assert done == ["tenth"] * 4


async def test_a_short_period_is_kept_while_it_is_quiet(autojump_clock: MockClock) -> None:
    """The watchdog's: a service manager ends a member that is silent for longer."""
    for rounds in (1, 2, 3, QUIET_ROUNDS, QUIET_ROUNDS + 2):
        at: list[float] = []
        with trio.move_on_after(6.05):
            await do_chores(
                (EACH_ROUND, lambda: None),
                (ROUND_SECONDS * (rounds + 0.5), lambda at=at: at.append(trio.current_time())),  # type: ignore[misc]
                is_quiet=lambda: True,
            )
        gaps = [b - a for a, b in pairwise(at)]
        assert gaps == pytest.approx([ROUND_SECONDS * rounds] * (59 // rounds))
