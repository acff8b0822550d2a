"""Who goes when there is no room for one more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.connectionlimit import SHARE, ConnectionLimit


class One:
    """A connection as the crowd sees it."""

    def __init__(self, principal: str, *, idle: bool = True, used: float = 0.0) -> None:
        self.principal = principal
        self.idle = idle
        self.used = used


def crowd(most: int, *connections: One, spoken: bool = True) -> ConnectionLimit[One]:
    made: ConnectionLimit[One] = ConnectionLimit(most)
    for each in connections:
        made.join(each)
        if spoken:
            made.spoke(each)
    return made


def test_who_never_spoke_goes_first_and_the_oldest_of_them() -> None:
    first, second, third = One("a"), One("a"), One("b")
    here = crowd(3, first, second, third, spoken=False)
    assert (here.full, here.yields) == (True, True)
    here.spoke(first)
    assert here.weakest("c") is second
    here.leave(second)
    assert not here.full
    assert here.weakest("c") is third
    here.spoke(third)
    assert here.weakest("c") is None
    assert not here.yields


def test_a_lone_client_may_have_all_and_one_that_has_more_than_its_share_gives_way() -> None:
    many = [One("many", idle=number == 5) for number in range(10)]
    here = crowd(10, *many)
    assert here.weakest("many") is None, "its own next one does not push out the others"
    assert here.yields
    assert here.weakest("other") is many[5], "an idle one"
    many[5].idle = False
    assert here.weakest("other") is many[0], "else the oldest"


def test_of_the_idle_ones_the_least_recently_used_goes() -> None:
    """The oldest of a client is the one that it opened first and uses most."""
    many = [One("many", used=100.0 - number) for number in range(10)]
    many[9].idle = False
    here = crowd(10, *many)
    assert here.weakest("other") is many[8]


def test_idle_ones_are_found_however_many_are_not() -> None:
    """Each look is at others."""
    many = [One("many", idle=number == 900) for number in range(1000)]
    here = crowd(1000, *many)
    looks = [here.weakest("other") for _ in range(1000 // 64 + 1)]
    assert many[900] in looks


def test_the_addresses_of_one_ipv6_network_are_one_principal() -> None:
    many = [One(f"2001:db8::{number:x}") for number in range(10)]
    here = crowd(10, *many)
    assert here.weakest("2001:db8:0:1::1") is many[0]
    assert here.weakest("2001:db8::ffff") is None
    assert here.weakest("10.0.0.1") is many[0]
    for each in many:
        here.leave(each)
    assert (len(here), here._of) == (0, {})


def test_who_has_no_more_than_its_share_keeps_it() -> None:
    here = crowd(4, One("a"), One("a"), One("b"), One("c"))
    assert (here.full, here.yields, here.weakest("d")) == (True, False, None)


def test_a_name_counts_once_it_is_known() -> None:
    connections = [One("10.0.0.1") for _ in range(4)]
    here = crowd(4, *connections)
    for number, each in enumerate(connections):
        here.named(each, f"client-{number}")
    assert not here.yields
    here.named(connections[0], "client-1")
    here.named(connections[2], "client-1")
    assert here.weakest("x") is connections[1]


@given(st.lists(st.tuples(st.sampled_from("jsln"), st.integers(0, 5), st.sampled_from("abc")), max_size=80))
def test_counts_are_those_of_a_plain_list(steps: list[tuple[str, int, str]]) -> None:
    most = 6
    here: ConnectionLimit[One] = ConnectionLimit(most)
    open_: list[One] = []
    spoken: list[One] = []
    for step, place, principal in steps:
        if step == "j":
            open_.append(One(principal))
            here.join(open_[-1])
        elif open_:
            one = open_[place % len(open_)]
            if step == "s":
                here.spoke(one)
                spoken.append(one)
            elif step == "l":
                here.leave(one)
                open_.remove(one)
            else:
                here.named(one, principal)
        silent = [one for one in open_ if one not in spoken]
        sizes = {name: sum(one.principal == name for one in open_) for name in "abc"}
        large = [name for name, size in sizes.items() if size > SHARE * most and len(open_) <= most]
        assert len(here) == len(open_)
        assert here.full == (len(open_) >= most)
        if silent:
            assert here.weakest("z") is silent[0]
        elif large:
            assert here.weakest("z") in [one for one in open_ if one.principal == large[0]]
            assert here.weakest(large[0]) is None
        elif len(open_) <= most:
            assert here.weakest("z") is None
