"""Which bodies are read while memory is short, and who is refused."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from netstore.limits import Budget
from netstore.net.bodyadmission import (
    FEW,
    LOOKED_AT,
    PACE,
    PATIENCE_SECONDS,
    REFUSED_AT_ONCE,
    SMALL,
    STARVATION_SECONDS,
    TOO_MANY,
    TOO_SLOW,
    BodyAdmission,
    Claim,
    QueueFull,
)
from netstore.net.incremental import STEPS_AT_ONCE
from tests.support.log import AnyLevel

BODY = 100 * 1024
LIMIT = 8 * BODY  # four are admitted for all, and one more of each household up to the limit
ME, YOU = "192.0.2.1", "192.0.2.2"


class Lines(AnyLevel):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.failed = 0

    def take(self, event: str, fields: dict[str, Any]) -> None:
        if event == "connection_failed":
            self.failed += 1
        else:
            assert event == "requests_wait_for_memory"
            self.lines.append(fields)


class One:
    """A body as the admission sees it, and the connection on which it comes."""

    def __init__(self, here: Here, principal: str) -> None:
        self.account = here.memory.account()
        self.principal = principal
        self.unread: float | None = None
        self.claim = Claim(self, self)
        self.told = 0
        self.was_cut = False
        self.verdict: tuple[int, bytes] | None = None

    def admitted(self) -> None:
        self.told += 1

    def given_up(self, status: int, reason: bytes) -> None:
        self.verdict = status, reason

    def cut(self) -> None:
        self.was_cut = True


class Here:
    def __init__(self) -> None:
        self.memory = Budget(LIMIT)
        self.log = Lines()
        self.woken = 0
        self.admission = BodyAdmission(self.memory, self.log, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def release(self, one: One) -> None:
        """It is over, and the round ends."""
        self.admission.release(one.claim)
        self.admission.step(0.0)

    def ask(self, principal: str, size: int = BODY, kept: int = 1000) -> One:
        one = One(self, principal)
        self.admission.ask(one.claim, size, kept)
        return one

    def many(self, principal: str, count: int) -> list[One]:
        return [self.ask(principal) for _ in range(count)]


def granted(ones: list[One]) -> list[bool]:
    return [one.claim.granted for one in ones]


def test_as_many_are_admitted_as_fit_and_the_others_come_after_them() -> None:
    here = Here()
    ones = here.many(ME, 9)
    assert granted(ones) == [True] * 4 + [False] * 5
    assert (here.memory.used, here.admission.waiting) == (4 * BODY, 5)
    order = []
    while any(granted(ones)):
        one = next(one for one in ones if one.claim.granted)
        order.append(ones.index(one))
        here.release(one)
        assert here.memory.used <= 4 * BODY
    assert order == list(range(9))
    assert [one.told for one in ones] == [0] * 4 + [1] * 5
    assert (here.memory.used, here.admission.waiting) == (0, 0)


def test_one_is_always_admitted_whatever_others_hold_and_however_large_it_is() -> None:
    here = Here()
    answers = here.memory.account()
    answers.charge(3 * LIMIT)
    ones = [here.ask(ME, 2 * LIMIT), here.ask(ME), here.ask(YOU)]
    assert granted(ones) == [True, False, False]
    here.release(ones[0])
    assert granted(ones) == [False, True, False]
    here.release(ones[1])
    assert granted(ones) == [False, False, True]


def test_who_takes_what_it_is_owed_makes_room_for_bodies() -> None:
    here = Here()
    answers = here.memory.account()
    answers.charge(LIMIT)
    ones = here.many(ME, 3)
    assert granted(ones) == [True, False, False]
    answers.charge(-LIMIT)
    here.admission.step(1.0)
    here.admission.step(2.0)
    assert granted(ones) == [True] * 3


def test_who_sends_much_locks_no_other_household_out() -> None:
    here = Here()
    mine = here.many(ME, 20)
    yours = here.many(YOU, 2)
    assert granted(yours) == [True, False]
    assert sum(granted(mine)) == 4
    here.release(yours[0])
    assert granted(yours) == [False, True], "it has none again, and its turn"


def test_households_take_turns() -> None:
    here = Here()
    first = here.many("192.0.2.9", 4)
    others = here.many(ME, 8)[1:]
    yours = here.many(YOU, 3)[1:]
    for one in first:
        here.release(one)
    assert sum(granted(others)) <= 3
    assert any(granted(yours))


class Stream:
    """Bodies of so many bytes of several households, each of which has begun when the one before it ends."""

    def __init__(self, here: Here, households: int, size: int) -> None:
        self.here = here
        self.size = size
        self.names = [f"198.51.{number}.1" for number in range(households)]
        self.running = deque(here.ask(name, size) for name in self.names)
        self.came = 0

    def step(self, now: float) -> None:
        """One that is read is over; its household has the next."""
        over = next((one for one in self.running if one.claim.granted), None)
        if over is not None:
            self.came += 1
            self.running.remove(over)
            self.here.admission.release(over.claim)
            self.running.append(self.here.ask(over.principal, self.size))
        self.here.admission.step(now)

    def until(self, one: One) -> float:
        """How many seconds it waits at ten bodies a second; at most 100."""
        for tick in range(1_000):
            self.step(tick / 10)
            if one.claim.granted:
                return tick / 10
        return 100.0


@pytest.mark.parametrize("want", [5 * BODY, LIMIT, 2 * LIMIT])
@pytest.mark.parametrize("households", [1, 2, 7, 20, 2 * LOOKED_AT])
@pytest.mark.parametrize("size", [SMALL + 1, BODY, 3 * BODY])
def test_a_large_body_comes_though_smaller_ones_of_others_never_end(
    want: int, households: int, size: int
) -> None:
    here = Here()
    others = Stream(here, households, size)
    large = here.ask(ME, want)
    if large.claim.granted:
        return  # no more than a few were there
    turns = 2 * (households + LIMIT / size)  # of those before it, and of those that are read
    assert others.until(large) < STARVATION_SECONDS + turns / 10
    before = others.came
    here.release(large)
    for _ in range(10):
        others.step(50.0)
    assert others.came == before + 10, "they go on"


def test_small_bodies_go_on_beside_a_large_one_that_is_owed_its_memory() -> None:
    here = Here()
    held = here.ask(YOU, BODY)
    large = here.ask(ME, 2 * LIMIT)
    here.admission.step(STARVATION_SECONDS)
    assert granted([here.ask("198.51.1.1", SMALL + 1), here.ask("198.51.2.1", SMALL)]) == [False, True]
    here.release(held)
    assert large.claim.granted


@pytest.mark.parametrize("size", [2_000, BODY])
def test_a_small_body_comes_though_others_never_end_while_answers_hold_the_memory(size: int) -> None:
    here = Here()
    here.memory.account().charge(LIMIT - 10_000)
    others = Stream(here, 5, size)
    small = here.ask(ME, SMALL)
    assert not small.claim.granted
    assert others.until(small) < STARVATION_SECONDS + 2


def test_what_was_owed_to_who_is_gone_is_owed_no_more() -> None:
    here = Here()
    here.ask(YOU, BODY)
    large = here.ask(ME, 2 * LIMIT)
    here.admission.step(STARVATION_SECONDS)
    assert not here.ask("198.51.1.1", BODY).claim.granted
    here.release(large)
    assert here.ask("198.51.2.1", BODY).claim.granted


def test_who_has_one_admitted_is_owed_nothing() -> None:
    """Its next one waits for its own."""
    here = Here()
    here.many(ME, 6)
    here.admission.step(STARVATION_SECONDS)
    here.admission.step(2 * STARVATION_SECONDS)
    assert here.ask(YOU, BODY).claim.granted


def test_who_asks_for_few_bytes_goes_on_beside_large_bodies_of_others() -> None:
    here = Here()
    here.many(ME, 6)
    few = int(LIMIT * FEW)
    yours = [here.ask(YOU, few // 4) for _ in range(5)]
    assert granted(yours) == [True] * 4 + [False]
    assert not here.ask(ME, few // 4).claim.granted, "it has its part"
    here.release(yours[0])
    assert granted(yours) == [False] + [True] * 4


def test_small_bodies_that_do_not_come_are_bounded_as_large_ones_are() -> None:
    """Each is a head and no more."""
    here = Here()
    ones = [here.ask(f"198.51.{number}.1", SMALL) for number in range(200)]
    assert here.memory.used <= LIMIT
    assert here.memory.used == sum(granted(ones)) * SMALL
    mine = Here()
    for _ in range(200):
        mine.ask(ME, SMALL)
    assert mine.memory.used <= LIMIT // 2
    assert mine.ask(YOU, SMALL).claim.granted


def test_a_large_body_is_read_however_many_small_ones_are() -> None:
    here = Here()
    others = [here.ask(f"198.51.{number}.1", SMALL) for number in range(60)]
    assert not all(granted(others))
    large, small = here.ask(ME, 2 * LIMIT), here.ask(YOU, SMALL)
    here.admission.step(1.0)
    assert granted([large, small]) == [True, False]
    assert here.memory.used <= 3 * LIMIT


def test_households_that_wait_behind_many_that_have_their_part_are_seen() -> None:
    here = Here()
    answers = here.memory.account()
    others = [f"198.51.{number}.1" for number in range(2 * LOOKED_AT)]
    for name in others:
        here.ask(name, 2000)
    answers.charge(LIMIT // 2)
    more = [here.ask(name, int(LIMIT * FEW)) for name in others]
    assert sum(granted(more)) == 1
    answers.charge(LIMIT // 2)
    mine = here.ask(ME, 2000)
    assert granted([mine]) == [False]
    answers.charge(-LIMIT // 2)
    for _ in range(3):
        here.admission.step(1.0)
    assert granted([mine]) == [True]
    assert sum(granted(more)) == 1


def test_what_waits_to_grow_gives_up_what_it_has_and_is_the_next() -> None:
    here = Here()
    ones = here.many(ME, 6)
    assert not here.admission.ask(ones[0].claim, 2 * BODY, BODY)
    assert here.admission.waiting == 3
    assert granted(ones)[:4] == [False, True, True, True]
    for one in ones[1:]:
        if one.claim.granted:
            here.release(one)
    assert ones[0].claim.size == 2 * BODY


def test_all_that_grow_come_to_an_end() -> None:
    """They hold parts, and each of them wants all there is."""
    here = Here()
    ones = [here.ask(ME, BODY) for _ in range(4)]
    for one in ones:
        here.admission.ask(one.claim, 2 * LIMIT, BODY)
    for _ in range(4):
        (one,) = (each for each in ones if each.claim.granted)
        here.release(one)
    assert here.memory.used == 0


def test_beyond_the_room_the_next_ones_are_refused_of_who_has_most_that_wait() -> None:
    here = Here()
    here.many(ME, 4)
    kept = LIMIT // 20
    waiting = [here.ask(ME, BODY, kept) for _ in range(9)]
    with pytest.raises(QueueFull):
        here.ask(ME, BODY, kept)
    here.ask(YOU, BODY, kept)
    yours = here.ask(YOU, BODY, kept)
    assert waiting[-1].verdict == (503, TOO_MANY)
    assert yours.verdict is None
    assert [one.verdict for one in waiting[:-1]] == [None] * 8
    for one in waiting:
        here.release(one)
    here.release(waiting[0])


def test_who_has_most_that_waits_is_who_has_most_bytes_of_it() -> None:
    here = Here()
    here.many(ME, 4)
    many = [here.ask(ME, BODY, 0) for _ in range(20)]
    large = here.ask(YOU, BODY, LIMIT // 3)
    assert large.claim.granted, "it has its part"
    large = here.ask(YOU, BODY, LIMIT // 3)
    here.ask("192.0.2.3", BODY, 0)
    here.ask("192.0.2.3", BODY, LIMIT // 4)
    assert large.verdict == (503, TOO_MANY)
    assert [one.verdict for one in many] == [None] * 20


def test_what_has_come_of_those_that_wait_is_never_more_than_their_room() -> None:
    here = Here()
    here.many(ME, 4)
    for _ in range(300):
        here.ask(ME, BODY, 500)
    for number in range(40):
        try:
            here.ask(f"198.51.{number}.1", BODY, LIMIT // 5)
            here.ask(f"198.51.{number}.1", BODY, LIMIT // 5)
        except QueueFull:
            continue
        finally:
            assert here.admission._kept <= LIMIT // 2
    assert here.admission._kept > LIMIT // 4


def test_so_many_are_refused_for_one_at_most() -> None:
    here = Here()
    here.admission._room = 100 * LIMIT
    here.many(ME, 4)
    waiting = [here.ask(ME, BODY, 0) for _ in range(2 * REFUSED_AT_ONCE)]
    here.admission._room = here.admission._kept - 512 * REFUSED_AT_ONCE
    assert here.ask(YOU, BODY, 0).claim.granted, "it has its part"
    with pytest.raises(QueueFull):
        here.ask(YOU, BODY, 0)
    assert sum(one.verdict is not None for one in waiting) == REFUSED_AT_ONCE


def test_to_give_back_admits_nobody_and_asks_for_a_look() -> None:
    """A connection that goes gives back thousands at once."""
    here = Here()
    ones = here.many(ME, 5)
    before = here.woken
    here.admission.release(ones[0].claim)
    assert (ones[4].claim.granted, here.woken) == (False, before + 1)
    here.admission.step(1.0)
    assert ones[4].claim.granted
    here.admission.release(ones[1].claim)
    assert here.woken == before + 1, "nobody waits"


def test_those_that_are_too_slow_are_looked_for_in_pieces() -> None:
    here = Here()
    size = LIMIT // 2 // (2 * STEPS_AT_ONCE)
    ones = [here.ask(ME, size) for _ in range(2 * STEPS_AT_ONCE)]
    for _ in range(2):
        here.ask(ME, LIMIT)
    for _ in range(PATIENCE_SECONDS - 1):
        here.admission.sweep()
        while here.admission.looking:
            here.admission.step(1.0)
    here.admission.sweep()
    given_up = 0
    for _ in range(2):
        now = sum(one.verdict is not None for one in ones)
        assert 0 < now - given_up <= STEPS_AT_ONCE
        given_up = now
        assert here.admission.looking
        here.admission.step(1.0)
    assert all(one.verdict == (408, TOO_SLOW) for one in ones)


def test_what_one_raises_when_it_is_told_ends_its_connection_and_no_other() -> None:
    here = Here()
    first = here.many(ME, 4)
    faulty, good, late = here.ask(ME), here.ask(ME), here.ask(ME)

    def fall(*_: object) -> None:
        raise MemoryError

    for one in (faulty, late):
        one.admitted = fall  # type: ignore[method-assign]
        one.given_up = fall  # type: ignore[method-assign, assignment]
    for one in first:
        here.admission.release(one.claim)
    here.admission.step(1.0)
    assert granted([faulty, good, late]) == [True] * 3
    assert (faulty.was_cut, good.was_cut, good.told, late.was_cut) == (True, False, 1, True)
    assert here.log.failed == 2
    last = here.many(ME, 2)[1]
    assert not last.claim.granted
    for _ in range(PATIENCE_SECONDS):
        here.admission.sweep()
    assert good.verdict == (408, TOO_SLOW)
    assert here.log.failed == 4


def test_what_is_to_come_is_said_until_it_is_whole() -> None:
    """Its connection is read for it whatever else is held, and not for what has come."""
    here = Here()
    done, gone = here.many(ME, 2)
    assert done.account.coming == gone.account.coming == BODY
    here.admission.completed(done.claim)
    here.admission.completed(done.claim)
    assert (done.account.coming, done.account.promised) == (0, BODY)
    for one in (done, gone):
        here.release(one)
        assert (one.account.coming, one.account.promised, one.account.held) == (0, 0, 0)


def test_who_was_admitted_and_sends_too_little_is_given_up_while_others_wait() -> None:
    here = Here()
    quick, slow, done, idle = here.many(ME, 4)
    here.admission.completed(done.claim)
    for second in range(1, 10):
        quick.claim.received = second * PACE
        here.admission.sweep()
    assert slow.verdict is None, "nobody waits"
    late = here.many(ME, 1)
    quick.claim.received = slow.claim.received = idle.claim.received = 10 * PACE
    here.admission.sweep()
    for second in range(PATIENCE_SECONDS):
        quick.claim.received += PACE
        here.admission.sweep()
        assert (idle.verdict is not None) == (second == PATIENCE_SECONDS - 1)
    here.admission.step(1.0)
    assert idle.verdict == (408, TOO_SLOW)
    assert (quick.verdict, done.verdict) == (None, None)
    assert granted(late) == [True]


def test_who_is_not_read_is_not_too_slow() -> None:
    """Its connection stands in line for its turn, say."""
    here = Here()
    late, slow, quick, idle = here.many(ME, 4)
    here.ask(ME)
    late.unread = slow.unread = quick.unread = 10.0
    for second in range(1, 20 * PATIENCE_SECONDS):
        if not second % 5:
            # Each has its turn now and then: what comes in one is no more than a read.
            quick.claim.received += PACE // 2
            slow.claim.received += PACE // 2 - 1
            quick.unread = slow.unread = 10.0 + second
        here.admission.sweep()
        assert (idle.verdict is None) == (second < PATIENCE_SECONDS)
    assert [one.verdict for one in (late, slow, quick)] == [None, (408, TOO_SLOW), None]
    late.unread = None
    for _ in range(PATIENCE_SECONDS):
        here.admission.sweep()
    here.ask(ME, LIMIT)
    here.admission.sweep()
    assert late.verdict == (408, TOO_SLOW)


def test_the_line_names_the_setting_and_is_not_repeated() -> None:
    here = Here()
    here.many(ME, 20)
    (line,) = here.log.lines
    assert (line["limit"], line["principal"], line["bytes"]) == ("memory_budget", ME, BODY)
    assert "raise memory_budget" in line["fix"]
    here.admission.step(11.0)
    here.many(ME, 2)
    assert len(here.log.lines) == 2


def test_who_has_to_wait_does_so_though_the_line_that_says_so_cannot_be_written() -> None:
    here = Here()

    def full(event: str, **_: object) -> None:
        raise OSError(event)

    here.log.warning = full  # type: ignore[method-assign]
    ones = here.many(ME, 5)
    assert granted(ones) == [True] * 4 + [False]
    here.release(ones[0])
    assert ones[4].told == 1


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
    here.admission.step(1.0)
    assert 0 < sum(granted(ones)) <= LOOKED_AT
    here.release(first)
    here.admission.step(1.0)


def test_what_is_over_twice_is_given_back_once() -> None:
    here = Here()
    ones = here.many(ME, 5)
    for one in ones * 2:
        here.release(one)
    assert (here.memory.used, here.admission.waiting) == (0, 0)
    assert [one.account.promised for one in ones] == [0] * 5
