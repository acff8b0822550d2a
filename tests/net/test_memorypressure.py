"""Who waits, and who goes, when connections hold too much."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from netstore.limits import Account, Budget
from netstore.net.incremental import STEPS_AT_ONCE
from netstore.net.memorypressure import CUT, PACE, PATIENCE_SECONDS, MemoryPressure
from tests.support.log import AnyLevel

LIMIT = 1000


class Lines(AnyLevel):
    def __init__(self) -> None:
        self.cut: list[tuple[str, int]] = []
        self.held_back: list[str] = []

    def take(self, event: str, fields: dict[str, Any]) -> None:
        if event == "connection_cut_for_memory":
            self.cut.append((fields["principal"], fields["bytes"]))
            self.left_out: int = fields["left_out"]
        else:
            assert event == "connections_held_back"
            self.held_back.append(fields["principal"])
            self.line = fields


class One:
    """A connection as the pressure sees it."""

    def __init__(self, here: Here, principal: str, held: int) -> None:
        self.principal = principal
        self.account = here.memory.account()
        self.account.charge(held)
        self.not_taken = held
        self.sent = 0
        self.held_back = False
        self.changes = 0
        self.doomed = False

    def hold_back(self, *, held: bool) -> None:
        self.held_back = held
        self.changes += 1

    def discard(self) -> None:
        self.doomed = True
        self.account.close()


class Here:
    def __init__(self, **held: int) -> None:
        self.memory = Budget(LIMIT)
        self.log = Lines()
        self.looked = 0
        self.ones = [One(self, name, size) for name, size in held.items()]
        self.pressure = MemoryPressure(self.memory, self.holders, self.log)
        for one in self.ones:
            self.pressure.moved(one)

    def holders(self) -> list[One]:
        self.looked += 1
        return self.ones

    def charged(self) -> None:
        """Everybody says that it holds more."""
        for one in self.ones:
            self.pressure.moved(one)

    def waiting(self) -> set[str]:
        return {one.principal for one in self.ones if one.held_back}


def test_below_the_mark_nobody_is_looked_at() -> None:
    here = Here(a=200, b=300)
    here.pressure.step(1.0)
    here.charged()
    assert (here.waiting(), here.looked) == (set(), 0)


def test_a_step_is_due_above_the_mark_and_while_one_waits() -> None:
    here = Here(a=200, b=200)
    due = [here.pressure.due]
    here.ones[0].account.charge(200)
    due.append(here.pressure.due)
    here.pressure.step(1.0)
    assert here.waiting() == {"a"}
    here.ones[0].account.charge(-390)
    due.append(here.pressure.due)  # one waits that may continue
    here.pressure.step(2.0)
    assert here.waiting() == set()
    assert [*due, here.pressure.due] == [False, True, True, False]


def test_the_heaviest_wait_until_what_the_others_hold_fits() -> None:
    here = Here(small=10, heavy=400, medium=150, light=100)
    here.pressure.step(1.0)
    assert here.waiting() == {"heavy"}
    for one in here.ones:
        one.account.charge(100)
    here.pressure.step(1.001)
    assert here.waiting() == {"heavy", "medium"}
    heavy = here.ones[1]
    heavy.account.charge(-350)
    here.ones[3].account.charge(-150)
    here.pressure.step(2.0)
    assert here.waiting() == {"heavy", "medium"}, "above the lower mark nobody who holds much is let go"
    here.ones[2].account.charge(-240)
    heavy.account.charge(200)
    here.pressure.step(3.0)
    assert here.waiting() == {"heavy"}, "who has taken what it was owed goes on"
    heavy.account.charge(-150)
    here.pressure.step(4.0)
    assert here.waiting() == set()
    assert [one.changes for one in here.ones] == [0, 2, 2, 0]
    assert here.log.held_back == ["heavy"], "one line, not one for each of them"


def test_the_line_says_which_limit_holds_them_back_and_how_to_raise_it() -> None:
    here = Here(small=10, heavy=400, medium=150, light=100)
    here.pressure.step(1.0)
    line = here.log.line
    assert line["limit"] == "memory_budget"
    assert (line["principal"], line["bytes"], line["connections"]) == ("heavy", 400, 1)
    assert (line["held_by_all"], line["held_until"]) == (660, 375)
    assert line["reason"] == "client connections hold more than 500 bytes, and these hold most of them"
    assert "raise memory_budget" in line["fix"]


def test_who_took_what_it_was_owed_goes_on_whatever_others_keep() -> None:
    """A crowd that holds a little each, for ever, keeps the sum between the marks."""
    here = Here(me=150, **{f"stranger{number}": 4 for number in range(100)})
    me = here.ones[0]
    here.pressure.step(1.0)
    assert here.waiting() == {"me"}
    me.account.charge(-150)
    here.pressure.step(2.0)
    assert here.waiting() == set()


def test_the_heaviest_change_while_memory_stays_short() -> None:
    here = Here(first=400, second=150, **{f"other{number}": 10 for number in range(10)})
    here.pressure.step(1.0)
    assert here.waiting() == {"first"}
    first, second = here.ones[:2]
    first.account.charge(-400)
    second.account.charge(400)
    here.pressure.step(2.0)
    assert here.waiting() == {"second"}


def test_what_reading_does_not_give_back_makes_nobody_wait() -> None:
    """Open streams are not answers: whoever waited for them to go would wait for ever."""
    here = Here(watcher=900, reader=120, small=30)
    watcher = here.ones[0]
    watcher.account.lasting = 880
    here.pressure.step(1.0)
    assert here.waiting() == set(), "nobody holds more than an equal part of what can be given back"
    here.ones[1].account.charge(100)
    here.pressure.step(2.0)
    assert here.waiting() == {"reader"}


def test_what_requests_were_promised_makes_nobody_wait_and_cuts_nobody() -> None:
    """Only reading on frees that."""
    here = Here(sender=0, reader=250, small=30)
    sender, reader, small = here.ones
    sender.account.promise(int(LIMIT * CUT), 0)
    here.charged()
    here.pressure.step(1.0)
    assert here.waiting() == set()
    assert not here.log.cut
    small.account.charge(300)
    here.pressure.step(2.0)
    assert here.waiting() == {"small"}, "what others hold is beyond the mark now"
    reader.account.charge(600)
    reader.not_taken = reader.account.held
    here.charged()
    assert [one.doomed for one in here.ones] == [False, True, False]


def test_with_what_was_promised_no_more_than_twice_the_budget_is_held() -> None:
    here = Here(sender=0, **{f"stuck{number}": 30 for number in range(40)})
    here.ones[0].account.promise(LIMIT, 0)
    here.charged()
    assert here.memory.used <= LIMIT * CUT
    assert here.memory.used - LIMIT > LIMIT - 60, "and nobody is cut beyond that"


def test_a_look_makes_room_too() -> None:
    """A promise tells nobody: what it is for has not come."""
    here = Here(sender=0, heavy=600, light=500)
    here.ones[0].account.promise(LIMIT, 0)
    here.pressure.step(1.0)
    assert [one.doomed for one in here.ones] == [False, True, False]


def test_who_is_closed_is_not_looked_for_whatever_is_said_to_its_account() -> None:
    here = Here(heavy=400, gone=300)
    gone = here.ones[1]
    here.pressure.forget(gone)
    gone.account.close()
    gone.account.promise(-300, -300)
    gone.account.charge(0, -300)
    here.pressure.moved(gone)
    here.ones[0].account.charge(300)
    here.pressure.step(1.0)
    assert here.waiting() == {"heavy"}
    assert len(here.pressure._by_held) == 1


def test_above_the_mark_they_are_looked_for_now_and_then_only() -> None:
    here = Here(a=600)
    for number in range(50):
        here.pressure.step(1.0 + number / 1000)
    assert here.looked == 1


def test_who_waits_and_takes_nothing_is_cut_once_the_budget_is_spent() -> None:
    here = Here(stuck=700, reader=500)
    here.pressure.step(1.0)
    assert here.waiting() == {"stuck"}
    stuck, reader = here.ones
    for _ in range(PATIENCE_SECONDS):
        assert not stuck.doomed
        reader.sent += PACE
        here.pressure.sweep()
    assert (stuck.doomed, reader.doomed) == (True, False)
    assert here.log.cut == [("stuck", 700)]


def test_within_the_budget_who_waits_may_wait_for_ever() -> None:
    here = Here(stuck=700)
    here.pressure.step(1.0)
    for _ in range(100):
        here.pressure.sweep()
    assert not here.ones[0].doomed


def test_far_beyond_the_budget_the_heaviest_lose_what_they_hold_at_once() -> None:
    here = Here(a=500, b=600, c=700)
    here.charged()
    assert not here.log.cut
    here.ones[0].account.charge(int(LIMIT * CUT))
    here.charged()
    assert [one.doomed for one in here.ones] == [True, False, True]
    assert here.memory.used <= LIMIT


def test_who_was_just_answered_is_not_cut_before_those_who_do_not_read() -> None:
    """Many hold what they do not take, and an answer that is larger than what each of them holds is made."""
    stuck = {f"stuck{number}": 30 for number in range(66)}
    here = Here(**stuck, honest=0)
    honest = here.ones[-1]
    honest.account.charge(40)
    here.pressure.moved(honest)
    assert [one.principal for one in here.ones if one.doomed]
    assert not honest.doomed
    assert here.memory.used <= LIMIT


def test_what_is_fresh_is_cut_too_where_nothing_else_is_held() -> None:
    """Connections that hold nothing stand before them, as those do that were opened first."""
    idle = {f"idle{number}": 0 for number in range(50)}
    here = Here(**idle, **{f"told{number}": 0 for number in range(100)})
    for one in here.ones[50:]:
        one.account.charge(LIMIT // 16)
        here.pressure.moved(one)
        assert here.memory.used <= CUT * LIMIT
    assert {one.principal[:4] for one in here.ones if one.doomed} == {"told"}


def test_the_heaviest_are_not_looked_for_at_each_charge() -> None:
    """Even where nobody could be cut: what is held is not theirs."""
    here = Here(one=10)
    other = here.memory.account()
    other.charge(int(CUT * LIMIT))
    looks = []
    for _ in range(1000):
        other.charge(1)
        here.pressure.moved(here.ones[0])
        looks.append(here.looked)
    assert here.looked <= 1000 // (LIMIT // 16) + 1


def test_many_cuts_are_one_line() -> None:
    here = Here(**{f"stuck{number}": 25 for number in range(70)})
    here.ones[0].account.charge(300)
    here.charged()
    assert sum(one.doomed for one in here.ones) > 10
    assert len(here.log.cut) == 1
    assert here.log.left_out == 0
    before = sum(one.doomed for one in here.ones)
    here.pressure.step(2.0)
    here.ones[-1].account.charge(int(CUT * LIMIT))
    here.charged()
    assert len(here.log.cut) == 2
    assert here.log.left_out == before - 1


class Full(Lines):
    """A log that can be written no more."""

    def take(self, event: str, fields: dict[str, Any]) -> None:
        super().take(event, fields)
        raise OSError("no space left")


def test_the_heaviest_goes_though_the_line_that_says_so_cannot_be_written() -> None:
    """It is in the charge of another, which is to notice nothing."""
    here = Here(heavy=10, small=10)
    here.pressure = MemoryPressure(here.memory, here.holders, Full())
    heavy, small = here.ones
    for one in here.ones:
        one.account = here.memory.account(partial(here.pressure.moved, one))
    heavy.account.charge(2 * LIMIT)
    heavy.not_taken = 2 * LIMIT
    small.account.charge(8)
    assert (heavy.doomed, small.doomed) == (True, False)
    assert here.memory.used < LIMIT
    assert not here.pressure.looking


def test_a_line_is_written_of_who_is_gone_already_with_what_it_held() -> None:
    here = Here(a=500, b=100)
    here.ones[0].account.charge(int(LIMIT * CUT))
    told: list[bool] = []
    warning = here.log.warning

    def noted(event: str, **fields: Any) -> None:
        told.append(here.ones[0].doomed)
        warning(event, **fields)

    here.log.warning = noted  # type: ignore[method-assign]
    here.charged()
    assert told == [True]
    assert here.log.cut == [("a", 500 + int(LIMIT * CUT))]


def test_the_heaviest_wait_though_the_line_that_says_so_cannot_be_written() -> None:
    here = Here(small=10, heavy=600)
    here.pressure = MemoryPressure(here.memory, here.holders, Full())
    here.pressure.step(1.0)
    assert here.waiting() == {"heavy"}
    assert not here.pressure.looking


def test_who_is_gone_is_forgotten() -> None:
    here = Here(a=600)
    here.pressure.step(1.0)
    assert here.pressure.waiting == 1
    here.pressure.forget(here.ones[0])
    assert here.pressure.waiting == 0


class Counted(One):
    """Counts how often it is asked what it holds."""

    def __init__(self, here: QueueFull, held: int) -> None:
        self.here = here
        super().__init__(here, "one", held)

    @property
    def account(self) -> Account:
        self.here.steps += 1
        return self._account

    @account.setter
    def account(self, account: Account) -> None:
        self._account = account


class QueueFull(Here):
    """So many connections that hold the same each."""

    def __init__(self, count: int, limit: int, held: int) -> None:
        self.steps = 0
        super().__init__()
        self.memory.limit = limit
        self.pressure = MemoryPressure(self.memory, self.holders, self.log)
        self.ones = [Counted(self, held) for _ in range(count)]
        for one in self.ones:
            self.pressure.moved(one)


def test_a_look_at_many_is_made_in_pieces() -> None:
    here = QueueFull(10_000, limit=64 << 20, held=5000)
    most = 0
    looks = 0
    here.pressure.step(1.0)
    while here.pressure.looking:
        here.steps = 0
        here.pressure.step(1.0)
        most = max(most, here.steps)
        looks += 1
    assert most <= 8 * STEPS_AT_ONCE
    assert looks >= 20
    waiting = [one for one in here.ones if one.held_back]
    assert here.memory.used - 5000 * len(waiting) <= 32 << 20 < here.memory.used - 5000 * (len(waiting) - 1)
    for one in here.ones:
        one.account.charge(-4000)
    changed = sum(one.changes for one in here.ones)
    here.pressure.step(2.0)
    assert sum(one.changes for one in here.ones) - changed == STEPS_AT_ONCE
    for _ in range(100):
        here.pressure.step(2.0)
    assert not here.pressure.waiting
    assert not any(one.held_back for one in here.ones)


def test_many_that_hold_little_each_are_cut_in_pieces() -> None:
    here = QueueFull(10_000, limit=64 << 20, held=13_400)
    here.steps = 0
    for number in range(100):
        here.ones[number].account.charge(5000)
        here.pressure.moved(here.ones[number])
    assert here.steps <= 100 + 8 * STEPS_AT_ONCE
    looks = 0
    while here.pressure.looking:
        here.steps = 0
        doomed = sum(one.doomed for one in here.ones)
        here.pressure.step(1.0)
        assert here.steps <= 10 * STEPS_AT_ONCE
        assert sum(one.doomed for one in here.ones) - doomed <= STEPS_AT_ONCE
        looks += 1
    assert looks >= 10
    assert (64 << 20) - 18_400 < here.memory.used <= 64 << 20


def test_who_holds_much_is_cut_at_once_among_many() -> None:
    here = QueueFull(10_000, limit=64 << 20, held=0)
    large = here.ones[9_000:9_600]
    for one in large:
        one.account.charge(256 << 10)
        one.not_taken = 256 << 10
        here.pressure.moved(one)
    assert any(one.doomed for one in large)
    assert not here.pressure.looking
    assert here.memory.used <= CUT * here.memory.limit
    for one in here.ones:
        here.pressure.forget(one)
    assert (len(here.pressure._by_held), len(here.pressure._by_not_taken)) == (0, 0)


def test_what_is_fresh_is_bounded_while_those_who_do_not_read_are_looked_for() -> None:
    here = QueueFull(10_000, limit=64 << 20, held=10_000)
    for one in here.ones[9_000:9_100]:
        one.account.charge(2 << 20)
        here.pressure.moved(one)
        assert here.memory.used <= CUT * here.memory.limit


@pytest.mark.parametrize("size", [20_000, 60_000, 120_000])
def test_events_for_many_who_do_not_read_stay_within_twice_the_budget(size: int) -> None:
    """They are told a few hundred at a time, and nobody of them holds much."""
    here = QueueFull(9_000, limit=64 << 20, held=0)
    for number, one in enumerate(here.ones, 1):
        here.steps = 0
        one.account.charge(size)
        here.pressure.moved(one)
        assert here.memory.used <= CUT * here.memory.limit
        assert here.steps <= 8 * STEPS_AT_ONCE
        if number % 250 == 0:
            for told in here.ones[number - 250 : number]:
                told.not_taken = told.account.held
                here.pressure.moved(told)
            here.pressure.step(number / 50_000)
    assert sum(one.doomed for one in here.ones) > 1000


def test_who_gave_back_what_it_held_is_not_cut_for_it() -> None:
    """Nobody is told of what a codec gives back until the connection has its next turn."""
    here = Here(**{f"quick{number}": 90 for number in range(10)}, stuck=80)
    for one in here.ones[:10]:
        one.account.charge(-89)
    here.ones[-1].account.charge(int(CUT * LIMIT))
    here.pressure.moved(here.ones[-1])
    assert [one.principal for one in here.ones if one.doomed] == ["stuck"]


def test_those_who_wait_and_take_too_little_are_looked_at_in_pieces() -> None:
    here = QueueFull(10_000, limit=64 << 20, held=9_000)

    def looking() -> bool:
        return here.pressure.looking

    here.pressure.step(1.0)
    while looking():
        here.pressure.step(1.0)
    assert here.pressure.waiting > 2 * STEPS_AT_ONCE
    for _ in range(PATIENCE_SECONDS):
        here.steps = 0
        here.pressure.sweep()
        assert here.steps <= 8 * STEPS_AT_ONCE
        while looking():
            doomed, here.steps = sum(one.doomed for one in here.ones), 0
            here.pressure.sweep()  # one at a time
            here.pressure.step(1.0)
            assert sum(one.doomed for one in here.ones) - doomed <= STEPS_AT_ONCE
            assert here.steps <= 10 * STEPS_AT_ONCE
    assert (64 << 20) - 9_000 < here.memory.used <= 64 << 20
