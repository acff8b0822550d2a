"""Fair admission to what is bounded for the whole member."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.admission import PARTS, Admission, WeighedAdmission, household

if TYPE_CHECKING:
    from random import Random


def test_one_principal_leaves_half_to_the_others() -> None:
    places = Admission(64)
    assert sum(places.enter("greedy") for _ in range(1_000)) == 32 == places.most_of_one
    odd = Admission(5)
    assert sum(odd.enter("greedy") for _ in range(1_000)) == odd.most_of_one
    assert sum(places.enter("other") for _ in range(1_000)) == 64 // PARTS
    assert places.enter("third")


def test_a_place_that_is_given_back_can_be_taken() -> None:
    places = Admission(2)
    assert [places.enter("a"), places.enter("a"), places.enter("b"), places.enter("c")] == [
        True,
        False,
        True,
        False,
    ]
    places.leave("a")
    assert places.enter("c")
    with pytest.raises(KeyError):
        places.leave("a")


def test_bytes_are_shared_and_the_first_request_may_have_any_size() -> None:
    held = Admission(800)
    assert held.enter("a", 1_000)
    assert not held.enter("b", 1)
    held.leave("a", 1_000)
    assert held.enter("a", 400)
    assert not held.enter("a", 1)
    assert held.enter("b", 100)
    assert not held.enter("b", 1)
    held.leave("a", 400)
    assert held.enter("b", 1)


@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=200))
def test_counts_are_right_and_empty_households_are_forgotten(
    most: int, steps: list[tuple[str, bool]]
) -> None:
    places = Admission(most)
    held: dict[str, int] = {}
    for principal, enters in steps:
        if enters:
            if places.enter(principal):
                held[principal] = held.get(principal, 0) + 1
        elif held.get(principal):
            places.leave(principal)
            held[principal] -= 1
        assert places._held == {name: count for name, count in held.items() if count}
        assert places.taken == sum(held.values()) <= most


@pytest.mark.parametrize(
    ("principal", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("system:node:a", "system:node:a"),
        ("", ""),
    ],
)
def test_the_household_of_a_principal(principal: str, counted: str) -> None:
    assert household(principal) == counted
    assert household(household(principal)) == counted


def test_the_addresses_of_one_ipv6_network_have_one_share() -> None:
    places = Admission(64)
    assert sum(places.enter(f"2001:db8::{number:x}") for number in range(64)) == 32
    assert sum(places.enter(f"2001:db8:0:1::{number:x}") for number in range(64)) == 64 // PARTS
    for number in range(32):
        places.leave(f"2001:db8::{number:x}")
    assert places.taken == 64 // PARTS


@given(
    st.integers(1, 40),
    st.integers(1, 400),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 90), st.integers(0, 1)), max_size=200),
    st.randoms(),
)
def test_weighed_admission_grants_what_both_admissions_would(
    most: int, most_size: int, steps: list[tuple[str, int, int]], coins: Random
) -> None:
    both, places, sizes = WeighedAdmission(most, most_size), Admission(most), Admission(most_size)
    held: list[tuple[str, int, int]] = []
    for principal, size, count in steps:
        wanted = not count or places.enter(principal)
        if wanted and not sizes.enter(principal, size):
            wanted = False
            if count:
                places.leave(principal)
        assert both.enter(principal, size, count) == wanted
        if wanted:
            held.append((principal, size, count))
        if held and coins.random() < 0.5:
            gone = held.pop(coins.randrange(len(held)))
            both.leave(*gone)
            sizes.leave(*gone[:2])
            if gone[2]:
                places.leave(gone[0])
        assert (both.taken, both.size) == (places.taken, sizes.taken)
    for gone in held:
        both.leave(*gone)
    assert (both._held, both.taken, both.size) == ({}, 0, 0)
