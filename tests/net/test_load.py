"""What counts as having taken much of the loop, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.load import (
    HALF_LIFE,
    LEAST,
    LIGHT,
    LONG_TURN,
    MOST,
    NEWCOMER,
    ConnectionLoad,
    Load,
    Loads,
)

NEW = Load(0.0, NEWCOMER).level(0.0)
"""The level of a connection that is new."""


def test_a_load_is_halved_every_half_life() -> None:
    load = Load(10.0)
    load.add(10.0, 8.0)
    assert load.seconds(10.0) == 8.0
    assert load.seconds(10.0 + HALF_LIFE) == pytest.approx(4.0)
    assert load.seconds(10.0 + 3 * HALF_LIFE) == pytest.approx(1.0)
    load.add(10.0 + 3 * HALF_LIFE, 0.5)
    assert load.seconds(10.0 + 3 * HALF_LIFE) == pytest.approx(1.5)
    assert load.seconds(9.0) == pytest.approx(1.5), "a clock that went back makes nobody heavier"


def test_a_level_is_a_factor_of_two() -> None:
    def level(seconds: float) -> int:
        return Load(0.0, seconds).level(0.0)

    assert level(0.0) == level(LEAST / 2) == 0
    assert [level(LEAST * 1.5 * 2**step) for step in range(MOST)] == list(range(1, MOST + 1))
    assert level(1e9) == MOST


def test_a_connection_counts_in_its_household() -> None:
    loads = Loads()
    one, other = loads.join("10.0.0.1", 0.0), loads.join("10.0.0.1", 0.0)
    elsewhere = loads.join("10.0.0.2", 0.0)
    one.add(0.0, 1.0)
    assert (one.level(0.0), other.level(0.0), elsewhere.level(0.0)) == (MOST, NEW, NEW)
    assert one.household is other.household
    assert (one.household.level(0.0), elsewhere.household.level(0.0)) == (MOST, 0)


def test_who_is_new_stands_behind_who_takes_little() -> None:
    loads = Loads()
    here = loads.join("10.0.0.1", 0.0)
    now = 20 * HALF_LIFE
    here.add(now, LEAST)
    new = loads.join("10.0.0.1", now)
    assert here.level(now) < new.level(now)
    assert (NEW > LIGHT, new.is_light(now), new.is_light(now + 3 * HALF_LIFE)) == (True, False, True)


def test_one_that_takes_less_comes_before_many_that_take_little_each() -> None:
    loads = Loads()
    many = [loads.join("10.0.0.1", 0.0) for _ in range(1000)]
    one = loads.join("10.0.0.2", 0.0)
    for each in many:
        each.add(0.0, LEAST / 2)
    one.add(0.0, 20 * LEAST)
    assert one.household.level(0.0) < many[0].household.level(0.0)
    assert not many[0].is_light(0.0)
    assert many[0].is_light(3 * HALF_LIFE)


def test_to_open_another_connection_makes_nobody_light() -> None:
    loads = Loads()
    one = loads.join("10.0.0.1", 0.0)
    one.add(0.0, 1.0)
    loads.leave(one, 0.0)
    again = loads.join("10.0.0.1", 0.0)
    assert again.level(0.0) == again.household.level(0.0) == one.level(0.0) == MOST
    assert loads.join("10.0.0.2", 0.0).level(0.0) == NEW
    assert again.level(MOST * HALF_LIFE + HALF_LIFE * 3) < 4


def test_a_connection_with_a_name_counts_with_the_name() -> None:
    loads = Loads()
    one, other = loads.join("10.0.0.1", 0.0), loads.join("10.0.0.1", 0.0)
    loads.move(one, "kubelet", 0.0)
    one.add(0.0, 1.0)
    assert (one.household.name, other.level(0.0)) == ("kubelet", NEW)
    assert (one.household.connections, other.household.connections) == (1, 1)


def test_households_without_connections_are_forgotten() -> None:
    loads = Loads()
    now = 0.0
    for number in range(1000):
        loads.leave(loads.join(f"10.0.{number // 256}.{number % 256}", now), now)
        now += HALF_LIFE
    assert len(loads) <= 2 * (MOST + 2)


def test_who_left_twice_takes_nobody_along_who_came_after() -> None:
    loads = Loads()
    gone = (MOST + 1) * HALF_LIFE
    loads.leave(loads.join("a", 0.0), 0.0)
    loads.leave(loads.join("a", 0.5), 0.5)
    loads.join("b", gone + 0.2)
    here = loads.join("a", gone + 0.3)
    loads.join("b", gone + 0.6)
    loads.join("b", gone + 0.7)
    assert loads.join("a", gone + 0.8).household is here.household


@given(st.lists(st.tuples(st.sampled_from("jlawt"), st.integers(0, 3), st.integers(0, 30)), max_size=80))
def test_a_household_is_there_while_it_has_a_connection_or_a_load(
    steps: list[tuple[str, int, int]],
) -> None:
    loads = Loads()
    now = 0.0
    kept: list[ConnectionLoad] = []
    for step, number, amount in steps:
        if step == "j":
            kept.append(loads.join(f"n{number}", now))
        elif step == "t":
            now += amount * HALF_LIFE / 3
        elif kept:
            load = kept[number % len(kept)]
            if step == "l":
                kept.remove(load)
                before = load.household.seconds(now)
                loads.leave(load, now)
                again = loads.join(load.household.name, now)
                assert again.household.seconds(now) == pytest.approx(before, abs=LEAST)
                loads.leave(again, now)
            elif step == "a":
                load.add(now, amount / 100)
            else:
                loads.move(load, f"n{amount % 4}", now)
    for load in kept:
        count = sum(each.household is load.household for each in kept)
        assert load.household.connections == count
        assert loads.join(load.household.name, now).household is load.household
        load.household.connections -= 1


def test_one_turn_that_took_long_makes_none_long() -> None:
    load = Loads().join("ann", 0.0)

    def seen(turns: int, seconds: float) -> bool:
        for _ in range(turns):
            load.add_turn(0.0, seconds)
        return load.has_long_turns

    assert not seen(8, LONG_TURN / 4)
    assert not seen(1, 1.0)
    assert seen(3, 2 * LONG_TURN)
    assert not seen(4, LONG_TURN / 4)
