"""Which bodies are read while memory is short, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest

from netstore.limits import Budget
from netstore.net.intake import (
    LOOKED_AT,
    PACE,
    PATIENCE_SECONDS,
    SMALL,
    TOO_MANY,
    TOO_SLOW,
    Claim,
    Crowded,
    Intake,
)

BODY = 100 * 1024
LIMIT = 8 * BODY  # four are admitted for all, and one more of each household up to the limit
ME, YOU = "192.0.2.1", "192.0.2.2"


class Lines:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        assert event == "requests_wait_for_memory"
        self.lines.append(fields)


class One:
    """A body as the intake sees it."""

    def __init__(self, here: Here, principal: str) -> None:
        self.claim = Claim(here.memory.account(), principal, self)
        self.told = 0
        self.verdict: tuple[int, bytes] | None = None

    def admitted(self) -> None:
        self.told += 1

    def given_up(self, status: int, reason: bytes) -> None:
        self.verdict = status, reason


class Here:
    def __init__(self) -> None:
        self.memory = Budget(LIMIT)
        self.log = Lines()
        self.intake = Intake(self.memory, self.log)

    def ask(self, principal: str, size: int = BODY, kept: int = 1000) -> One:
        one = One(self, principal)
        self.intake.ask(one.claim, size, kept)
        return one

    def many(self, principal: str, count: int) -> list[One]:
        return [self.ask(principal) for _ in range(count)]


def granted(ones: list[One]) -> list[bool]:
    return [one.claim.granted for one in ones]


def test_as_many_are_admitted_as_fit_and_the_others_come_after_them() -> None:
    here = Here()
    ones = here.many(ME, 9)
    assert granted(ones) == [True] * 4 + [False] * 5
    assert (here.memory.used, here.intake.waiting) == (4 * BODY, 5)
    order = []
    while any(granted(ones)):
        one = next(one for one in ones if one.claim.granted)
        order.append(ones.index(one))
        here.intake.release(one.claim)
        assert here.memory.used <= 4 * BODY
    assert order == list(range(9))
    assert [one.told for one in ones] == [0] * 4 + [1] * 5
    assert (here.memory.used, here.intake.waiting) == (0, 0)


def test_one_is_always_admitted_whatever_others_hold_and_however_large_it_is() -> None:
    here = Here()
    answers = here.memory.account()
    answers.charge(3 * LIMIT)
    ones = [here.ask(ME, 2 * LIMIT), here.ask(ME), here.ask(YOU)]
    assert granted(ones) == [True, False, False]
    here.intake.release(ones[0].claim)
    assert granted(ones) == [False, True, False]
    here.intake.release(ones[1].claim)
    assert granted(ones) == [False, False, True]


def test_who_takes_what_it_is_owed_makes_room_for_bodies() -> None:
    here = Here()
    answers = here.memory.account()
    answers.charge(LIMIT)
    ones = here.many(ME, 3)
    assert granted(ones) == [True, False, False]
    answers.charge(-LIMIT)
    here.intake.look(1.0)
    here.intake.look(2.0)
    assert granted(ones) == [True] * 3


def test_who_sends_much_locks_no_other_household_out() -> None:
    here = Here()
    mine = here.many(ME, 20)
    yours = here.many(YOU, 2)
    assert granted(yours) == [True, False]
    assert sum(granted(mine)) == 4
    here.intake.release(yours[0].claim)
    assert granted(yours) == [False, True], "it has none again, and its turn"


def test_households_take_turns() -> None:
    here = Here()
    first = here.many("192.0.2.9", 4)
    others = here.many(ME, 8)[1:]
    yours = here.many(YOU, 3)[1:]
    for one in first:
        here.intake.release(one.claim)
    assert sum(granted(others)) <= 3
    assert any(granted(yours))


def test_few_bytes_never_wait() -> None:
    here = Here()
    here.many(ME, 6)
    assert here.ask(ME, SMALL).claim.granted


def test_what_waits_to_grow_gives_up_what_it_has_and_is_the_next() -> None:
    here = Here()
    ones = here.many(ME, 6)
    assert not here.intake.ask(ones[0].claim, 2 * BODY, BODY)
    assert here.intake.waiting == 3
    assert granted(ones)[:4] == [False, True, True, True]
    for one in ones[1:]:
        if one.claim.granted:
            here.intake.release(one.claim)
    assert ones[0].claim.size == 2 * BODY


def test_all_that_grow_come_to_an_end() -> None:
    """They hold parts, and each of them wants all there is."""
    here = Here()
    ones = [here.ask(ME, BODY) for _ in range(4)]
    for one in ones:
        here.intake.ask(one.claim, 2 * LIMIT, BODY)
    for _ in range(4):
        (one,) = (each for each in ones if each.claim.granted)
        here.intake.release(one.claim)
    assert here.memory.used == 0


def test_beyond_the_room_the_next_ones_are_refused_of_who_has_most_that_wait() -> None:
    here = Here()
    here.many(ME, 4)
    kept = LIMIT // 20
    waiting = [here.ask(ME, BODY, kept) for _ in range(9)]
    with pytest.raises(Crowded):
        here.ask(ME, BODY, kept)
    here.ask(YOU, BODY, kept)
    yours = here.ask(YOU, BODY, kept)
    assert waiting[-1].verdict == (503, TOO_MANY)
    assert yours.verdict is None
    assert [one.verdict for one in waiting[:-1]] == [None] * 8
    for one in waiting:
        here.intake.release(one.claim)
    here.intake.release(waiting[0].claim)


def test_who_was_admitted_and_sends_too_little_is_given_up_while_others_wait() -> None:
    here = Here()
    quick, slow, done, idle = here.many(ME, 4)
    here.intake.whole(done.claim)
    for second in range(1, 10):
        quick.claim.came = second * PACE
        here.intake.sweep()
    assert slow.verdict is None, "nobody waits"
    late = here.many(ME, 1)
    quick.claim.came = slow.claim.came = idle.claim.came = 10 * PACE
    here.intake.sweep()
    for second in range(PATIENCE_SECONDS):
        quick.claim.came += PACE
        here.intake.sweep()
        assert (idle.verdict is not None) == (second == PATIENCE_SECONDS - 1)
    assert idle.verdict == (408, TOO_SLOW)
    assert (quick.verdict, done.verdict) == (None, None)
    assert granted(late) == [True]


def test_the_line_names_the_setting_and_is_not_repeated() -> None:
    here = Here()
    here.many(ME, 20)
    (line,) = here.log.lines
    assert (line["limit"], line["principal"], line["bytes"]) == ("memory_budget", ME, BODY)
    assert "raise memory_budget" in line["fix"]
    here.intake.look(11.0)
    here.many(ME, 2)
    assert len(here.log.lines) == 2


def test_a_look_admits_so_many_at_most() -> None:
    here = Here()
    answers = here.memory.account()
    answers.charge(LIMIT)
    first = here.ask(ME)
    ones = [
        here.ask(f"198.51.{number // 200}.{number % 200}", SMALL + 1, 0) for number in range(3 * LOOKED_AT)
    ]
    assert not any(granted(ones))
    answers.charge(-LIMIT)
    here.intake.look(1.0)
    assert 0 < sum(granted(ones)) <= LOOKED_AT
    here.intake.release(first.claim)
    here.intake.look(1.0)


def test_what_is_over_twice_is_given_back_once() -> None:
    here = Here()
    ones = here.many(ME, 5)
    for one in ones * 2:
        here.intake.release(one.claim)
    assert (here.memory.used, here.intake.waiting) == (0, 0)
    assert [one.claim.account.promised for one in ones] == [0] * 5
