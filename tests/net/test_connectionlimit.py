"""Who goes when there is no room for one more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.connectionlimit import SHARE, ConnectionLimit


class One:
    """A connection as the limit sees it."""

    def __init__(self, principal: str, *, idle: bool = True, last_read: float = 0.0) -> None:
        self.principal = principal
        self.idle = idle
        self.last_read = last_read


def limit(most: int, *connections: One, spoken: bool = True) -> ConnectionLimit[One]:
    made: ConnectionLimit[One] = ConnectionLimit(most)
    for each in connections:
        made.add(each)
        if spoken:
            made.heard(each)
    return made


def test_who_never_spoke_goes_first_and_the_oldest_of_them() -> None:
    first, second, third = One("a"), One("a"), One("b")
    here = limit(3, first, second, third, spoken=False)
    assert (here.full, here.can_evict) == (True, True)
    here.heard(first)
    assert here.victim("c") is second
    here.remove(second)
    assert not here.full
    assert here.victim("c") is third
    here.heard(third)
    assert here.victim("c") is None
    assert not here.can_evict


def test_a_lone_client_may_have_all_and_one_that_has_more_than_its_share_gives_way() -> None:
    many = [One("many", idle=number == 5) for number in range(10)]
    here = limit(10, *many)
    assert here.victim("many") is None, "its own next one does not push out the others"
    assert here.can_evict
    assert here.victim("other") is many[5], "an idle one"
    many[5].idle = False
    assert here.victim("other") is many[0], "else the oldest"


def test_of_the_idle_ones_the_least_recently_used_goes() -> None:
    """The oldest of a client is the one that it opened first and uses most."""
    many = [One("many", last_read=100.0 - number) for number in range(10)]
    many[9].idle = False
    here = limit(10, *many)
    assert here.victim("other") is many[8]


def test_idle_ones_are_found_however_many_are_not() -> None:
    """Each look is at others."""
    many = [One("many", idle=number == 900) for number in range(1000)]
    here = limit(1000, *many)
    looks = [here.victim("other") for _ in range(1000 // 64 + 1)]
    assert many[900] in looks


def test_the_addresses_of_one_ipv6_network_are_one_principal() -> None:
    many = [One(f"2001:db8::{number:x}") for number in range(10)]
    here = limit(10, *many)
    assert here.victim("2001:db8:0:1::1") is many[0]
    assert here.victim("2001:db8::ffff") is None
    assert here.victim("10.0.0.1") is many[0]
    for each in many:
        here.remove(each)
    assert (len(here), here._of) == (0, {})


def test_who_has_no_more_than_its_share_keeps_it() -> None:
    here = limit(4, One("a"), One("a"), One("b"), One("c"))
    assert (here.full, here.can_evict, here.victim("d")) == (True, False, None)


def test_a_name_counts_once_it_is_known() -> None:
    connections = [One("10.0.0.1") for _ in range(4)]
    here = limit(4, *connections)
    for number, each in enumerate(connections):
        here.renamed(each, f"client-{number}")
    assert not here.can_evict
    here.renamed(connections[0], "client-1")
    here.renamed(connections[2], "client-1")
    assert here.victim("x") is connections[1]


@given(st.lists(st.tuples(st.sampled_from("jsln"), st.integers(0, 5), st.sampled_from("abc")), max_size=80))
def test_counts_are_those_of_a_plain_list(steps: list[tuple[str, int, str]]) -> None:
    most = 6
    here: ConnectionLimit[One] = ConnectionLimit(most)
    open_: list[One] = []
    spoken: list[One] = []
    for step, place, principal in steps:
        if step == "j":
            open_.append(One(principal))
            here.add(open_[-1])
        elif open_:
            one = open_[place % len(open_)]
            if step == "s":
                here.heard(one)
                spoken.append(one)
            elif step == "l":
                here.remove(one)
                open_.remove(one)
            else:
                here.renamed(one, principal)
        silent = [one for one in open_ if one not in spoken]
        sizes = {name: sum(one.principal == name for one in open_) for name in "abc"}
        large = [name for name, size in sizes.items() if size > SHARE * most and len(open_) <= most]
        assert len(here) == len(open_)
        assert here.full == (len(open_) >= most)
        if silent:
            assert here.victim("z") is silent[0]
        elif large:
            assert here.victim("z") in [one for one in open_ if one.principal == large[0]]
            assert here.victim(large[0]) is None
        elif len(open_) <= most:
            assert here.victim("z") is None
