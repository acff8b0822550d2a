"""Whose turn it is: fair to principals, then to the connections of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.turns import Turns


class One:
    """A connection as the turns see it."""

    def __init__(self, principal: str, number: int = 0) -> None:
        self.principal = principal
        self.number = number


def order(turns: Turns[One]) -> list[tuple[str, int]]:
    taken = []
    while turns:
        one, _ = turns.take()
        taken.append((one.principal, one.number))
    return taken


def test_principals_take_turns_however_many_connections_they_have() -> None:
    turns: Turns[One] = Turns()
    for number in range(5):
        turns.add(One("many", number), 1)
    turns.add(One("few", 0), 1)
    turns.add(One("one", 0), 1)
    turns.add(One("few", 1), 1)
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
    turns.add(first, 1)
    turns.add(second, 1)
    turns.add(first, 4)
    assert turns.take() == (first, 5)
    assert turns.take() == (second, 1)
    assert not turns


def test_a_new_name_does_not_lose_a_connection() -> None:
    turns: Turns[One] = Turns()
    one = One("address")
    turns.add(one, 1)
    one.principal = "name"
    turns.add(one, 2)
    turns.remove(one)
    turns.remove(one)
    assert len(turns) == 0


@given(st.lists(st.tuples(st.sampled_from("atr"), st.integers(0, 8)), max_size=60))
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int]]) -> None:
    everybody = [One("xyz"[number % 3], number) for number in range(9)]
    turns: Turns[One] = Turns()
    waiting: list[One] = []
    for step, number in steps:
        one = everybody[number]
        if step == "a":
            turns.add(one, 1)
            if one not in waiting:
                waiting.append(one)
        elif step == "r":
            turns.remove(one)
            if one in waiting:
                waiting.remove(one)
        elif waiting:
            taken, _ = turns.take()
            # Of its principal it waited longest.
            assert taken is next(each for each in waiting if each.principal == taken.principal)
            waiting.remove(taken)
        assert len(turns) == len(waiting)
    assert {number for _, number in order(turns)} == {one.number for one in waiting}
