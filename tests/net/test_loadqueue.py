"""Whose turn it is: who took little comes first; then fair to principals, then to the connections of one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.load import LAST_IN_HOUSEHOLD, LEVELS, MOST, OWN
from netstore.net.loadqueue import LoadQueue


class House:
    """A household as the turns see it."""

    def __init__(self, name: str, took: int = 0) -> None:
        self.name = name
        self.took = took

    def level(self, _: float) -> int:
        return self.took


class One:
    """A connection as the turns see it."""

    def __init__(self, principal: str | House, number: int = 0, took: int = 0) -> None:
        self.load: Any = self
        self.household = principal if isinstance(principal, House) else House(principal)
        self.number = number
        self.took = took

    @property
    def name(self) -> str:
        return self.household.name

    def level(self, _: float) -> int:
        return self.took


def order(turns: LoadQueue[One]) -> list[tuple[str, int]]:
    taken = []
    while turns:
        one, _ = turns.take()
        taken.append((one.name, one.number))
    return taken


def test_principals_take_turns_however_many_connections_they_have() -> None:
    turns: LoadQueue[One] = LoadQueue()
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
    turns: LoadQueue[One] = LoadQueue()
    first, second = One("a"), One("a")
    turns.add(first, 1, 0.0)
    turns.add(second, 1, 0.0)
    turns.add(first, 4, 0.0)
    assert turns.take() == (first, 5)
    assert turns.take() == (second, 1)
    assert not turns


def test_a_new_name_does_not_lose_a_connection() -> None:
    turns: LoadQueue[One] = LoadQueue()
    one = One("address")
    turns.add(one, 1, 0.0)
    one.household = House("name")
    turns.add(one, 2, 0.0)
    turns.remove(one)
    turns.remove(one)
    assert len(turns) == 0


def test_who_took_least_comes_first_whoever_it_is() -> None:
    turns: LoadQueue[One] = LoadQueue()
    for number, level in enumerate((10, 3, 7, 3, 0)):
        turns.add(One("abcab"[number], number, level), 1, 0.0)
    assert turns.first == 0
    assert [number for _, number in order(turns)] == [4, 3, 1, 2, 0], "b has just had its turn"
    assert turns.first == LEVELS


def test_what_the_household_took_comes_first() -> None:
    turns: LoadQueue[One] = LoadQueue()
    greedy, modest = House("greedy", MOST), House("modest", 1)
    assert turns.add(One(greedy, 1, took=0), 1, 0.0) == OWN * MOST
    assert turns.add(One(modest, 2, took=MOST), 1, 0.0, LAST_IN_HOUSEHOLD) == OWN + MOST + LAST_IN_HOUSEHOLD
    assert turns.add(One(modest, 3, took=MOST), 1, 0.0) == OWN + MOST
    assert turns.first == OWN + MOST
    assert [number for _, number in order(turns)] == [3, 2, 1]


def test_who_is_behind_comes_after_all_others_of_its_household_however_little_it_took() -> None:
    turns: LoadQueue[One] = LoadQueue()
    house = House("a", MOST)
    for number in range(50):
        turns.add(One(house, number), 1, 0.0, LAST_IN_HOUSEHOLD)
    turns.add(One(house, 99, took=MOST), 1, 0.0)
    assert turns.take()[0].number == 99


def test_a_household_whose_load_has_changed_takes_all_along() -> None:
    """Or who came before the change would stand before, or behind, who came after it."""
    turns: LoadQueue[One] = LoadQueue()
    house, other = House("a", 4), House("b", 5)
    for number in range(50):
        turns.add(One(house, number), 1, 0.0, LAST_IN_HOUSEHOLD)
    turns.add(One(other, 200), 1, 0.0)
    house.took = 5
    turns.add(One(house, 100, took=3), 1, 0.1)
    assert turns.first == 5 * OWN
    assert [number for _, number in order(turns)] == [200, 100, *range(50)]
    for number in range(50):
        turns.add(One(house, number), 1, 0.1)
    turns.add(One(other, 200), 1, 0.1)
    other.took = 4
    turns.review(1.0, 51)
    assert turns.take()[0].number == 200


def test_who_waits_under_another_name_by_now_moves_no_household_of_that_name() -> None:
    turns: LoadQueue[One] = LoadQueue()
    one = One(House("address", 3))
    turns.add(one, 1, 0.0)
    one.household = House("name", 9)
    turns.review(1.0, 1)
    assert turns.first == 3 * OWN
    assert turns.take() == (one, 1)


def test_who_has_waited_longest_is_served_in_the_end() -> None:
    """However much those at the front ask for."""
    turns: LoadQueue[One] = LoadQueue()
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
    turns: LoadQueue[One] = LoadQueue()
    many = [One("a", number) for number in range(100)]
    for one in many:
        one.took = 5
        turns.add(one, 1, 0.0)
    late = One("b", 1000)
    late.took = 8
    turns.add(late, 4, 0.0, 2)
    turns.review(1.0, 200)
    assert turns.first == 5
    late.took = 0
    many[7].took = 9
    for _ in range(10):
        assert turns.first == 5
        turns.review(2.0, 10)
    turns.review(2.0, 1)
    assert turns.first == 2
    assert turns.take() == (late, 4)
    assert [number for _, number in order(turns)] == list(range(100)), "nobody is moved back"


@given(st.lists(st.tuples(st.sampled_from("atsr"), st.integers(0, 8), st.integers(0, OWN - 1)), max_size=60))
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int, int]]) -> None:
    everybody = [One("xyz"[number % 3], number) for number in range(9)]
    turns: LoadQueue[One] = LoadQueue()
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
