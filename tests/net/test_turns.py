"""Whose turn it is: who took little comes first; then fair to principals, then to the connections of one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.load import LEVELS
from netstore.net.turns import Turns


class One:
    """A connection as the turns see it."""

    def __init__(self, principal: str, number: int = 0) -> None:
        self.load: Any = self
        self.household = self
        self.name = principal
        self.number = number
        self.stands = 0

    def level(self, _: float) -> int:
        return self.stands


def order(turns: Turns[One]) -> list[tuple[str, int]]:
    taken = []
    while turns:
        one, _ = turns.take()
        taken.append((one.name, one.number))
    return taken


def test_principals_take_turns_however_many_connections_they_have() -> None:
    turns: Turns[One] = Turns()
    for number in range(5):
        turns.add(One("many", number), 1, 0.0)
    turns.add(One("few", 0), 1, 0.0)
    turns.add(One("one", 0), 1, 0.0)
    turns.add(One("few", 1), 1, 0.0)
    assert order(turns) == [
        ("many", 0),
        ("few", 0),
        ("one", 0),
        ("many", 1),
        ("few", 1),
        ("many", 2),
        ("many", 3),
        ("many", 4),
    ]


def test_who_waits_keeps_its_place_and_its_reasons_add_up() -> None:
    turns: Turns[One] = Turns()
    first, second = One("a"), One("a")
    turns.add(first, 1, 0.0)
    turns.add(second, 1, 0.0)
    turns.add(first, 4, 0.0)
    assert turns.take() == (first, 5)
    assert turns.take() == (second, 1)
    assert not turns


def test_a_new_name_does_not_lose_a_connection() -> None:
    turns: Turns[One] = Turns()
    one = One("address")
    turns.add(one, 1, 0.0)
    one.name = "name"
    turns.add(one, 2, 0.0)
    turns.remove(one)
    turns.remove(one)
    assert len(turns) == 0


def test_who_took_least_comes_first_whoever_it_is() -> None:
    turns: Turns[One] = Turns()
    for number, level in enumerate((20, 3, 7, 3, 0)):
        turns.add(One("abcab"[number], number), 1, 0.0, level)
    assert turns.first == 0
    assert [number for _, number in order(turns)] == [4, 1, 3, 2, 0]
    assert turns.first == LEVELS


def test_who_has_waited_longest_is_served_in_the_end() -> None:
    """However much those at the front ask for."""
    turns: Turns[One] = Turns()
    behind = [One("a", number) for number in range(6)]
    for one, level in zip(behind, (2, 20, 5, 9, 5, 20), strict=True):
        turns.add(one, 1, 0.0, level)
    for number in range(6):
        turns.add(One("b", 100 + number), 1, 0.0)
        assert turns.longest() == (behind[number], 1)
        one, _ = turns.take()
        assert one.name == "b"
    assert len(turns) == 0


def test_whose_load_has_fallen_comes_further_ahead() -> None:
    turns: Turns[One] = Turns()
    many = [One("a", number) for number in range(100)]
    for one in many:
        one.stands = 5
        turns.add(one, 1, 0.0)
    late = One("b", 1000)
    late.stands = 12
    turns.add(late, 4, 0.0, 2)
    turns.review(1.0, 200)
    assert turns.first == 5
    late.stands = 0
    many[7].stands = 9
    for _ in range(10):
        assert turns.first == 5
        turns.review(2.0, 10)
    turns.review(2.0, 1)
    assert turns.first == 2
    assert turns.take() == (late, 4)
    assert [number for _, number in order(turns)] == list(range(100)), "nobody is moved back"


@given(
    st.lists(st.tuples(st.sampled_from("atsr"), st.integers(0, 8), st.integers(0, LEVELS - 1)), max_size=60)
)
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int, int]]) -> None:
    everybody = [One("xyz"[number % 3], number) for number in range(9)]
    turns: Turns[One] = Turns()
    waiting: list[One] = []
    levels: dict[One, int] = {}
    for step, number, level in steps:
        one = everybody[number]
        if step == "a":
            turns.add(one, 1, 0.0, level)
            if one not in waiting:
                waiting.append(one)
                levels[one] = level
        elif step == "r":
            turns.remove(one)
            if one in waiting:
                waiting.remove(one)
        elif waiting:
            taken, _ = turns.take() if step == "t" else turns.longest()
            if step == "t":
                assert levels[taken] == min(levels[each] for each in waiting)
            else:
                assert taken is waiting[0]
            alike = (each for each in waiting if each.name == taken.name)
            # Of its principal and its level it waited longest.
            assert taken is next(each for each in alike if levels[each] == levels[taken])
            waiting.remove(taken)
        assert len(turns) == len(waiting)
    assert {number for _, number in order(turns)} == {one.number for one in waiting}
