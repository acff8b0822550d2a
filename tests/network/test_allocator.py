"""Free subnets, compared with a search that tests every subnet against every taken one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip
from netstore.network.allocator import counterpart, free_subnets
from netstore.network.config import Network, Network6
from netstore.network.ipv6 import Subnet6, parse_ip6

BASE = parse_ip("10.23.0.0")
BASE6 = parse_ip6("fd23::")


def network(length: int, subnet_len: int) -> Network:
    base = Subnet.around(BASE, length)
    step = 1 << (32 - subnet_len)
    return Network(base, subnet_len, base.base + step, base.last + 1 - step, "host-gw", b"{}")


def walk(network: Network, taken: list[Subnet], limit: int) -> list[Subnet]:
    """The simple implementation that the fast one is compared with."""
    step = 1 << (32 - network.subnet_len)
    every = [
        Subnet(base, network.subnet_len) for base in range(network.subnet_min, network.subnet_max + 1, step)
    ]
    return [subnet for subnet in every if not any(subnet.overlaps(other) for other in taken)][:limit]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Network, list[Subnet]]:
    length = draw(st.integers(16, 24))
    made = network(length, length + draw(st.integers(2, 6)))
    inside = st.integers(made.network.base - 5000, made.network.last + 5000)
    taken = draw(st.lists(st.builds(Subnet.around, inside, st.integers(length - 2, 32)), max_size=40))
    return made, taken


@given(cases(), st.integers(1, 100))
def test_free_subnets_equal_a_full_comparison(case: tuple[Network, list[Subnet]], limit: int) -> None:
    made, taken = case
    assert free_subnets(made, taken, limit) == walk(made, taken, limit)


def test_the_first_subnet_of_a_network_stays_unused() -> None:
    assert [str(one) for one in free_subnets(network(24, 26), [])] == [
        "10.23.0.64/26",
        "10.23.0.128/26",
        "10.23.0.192/26",
    ]


def test_the_cost_does_not_depend_on_the_size_of_the_network() -> None:
    huge = Network(Subnet(0, 0), 30, 4, 2**32 - 4, "host-gw", b"{}")
    assert len(free_subnets(huge, [Subnet(0, 1)])) == 100


def network6(length: int, subnet_len: int) -> Network6:
    base = Subnet6.around(BASE6, length)
    step = 1 << (128 - subnet_len)
    return Network6(base, subnet_len, base.base + step, base.last + 1 - step)


@st.composite
def cases6(draw: st.DrawFn) -> tuple[Network6, list[Subnet6]]:
    length = draw(st.integers(40, 120))
    made = network6(length, length + draw(st.integers(2, 6)))
    inside = st.integers(
        made.network.base - made.network.size // 8, made.network.last + made.network.size // 8
    )
    taken = draw(
        st.lists(st.builds(Subnet6.around, inside, st.integers(length - 2, length + 8)), max_size=40)
    )
    return made, taken


@given(cases6(), st.integers(1, 100))
def test_free_subnets_of_ipv6_equal_a_full_comparison(
    case: tuple[Network6, list[Subnet6]], limit: int
) -> None:
    made, taken = case
    step = 1 << (128 - made.subnet_len)
    every = [Subnet6(base, made.subnet_len) for base in range(made.subnet_min, made.subnet_max + 1, step)]
    free = [subnet for subnet in every if not any(subnet.overlaps(other) for other in taken)]
    assert free_subnets(made, taken, limit) == free[:limit]


def test_the_cost_does_not_depend_on_the_size_of_a_network_of_ipv6() -> None:
    huge = Network6(Subnet6(0, 0), 126, 4, 2**128 - 4)
    assert len(free_subnets(huge, [Subnet6(0, 1)])) == 100


@given(cases(), cases6(), st.integers(0, 63))
def test_the_counterpart_is_at_the_same_place(
    case: tuple[Network, list[Subnet]], case6: tuple[Network6, list[Subnet6]], place: int
) -> None:
    (made, _), (made6, _) = case, case6
    places = 1 << (made.subnet_len - made.network.length)
    places6 = 1 << (made6.subnet_len - made6.network.length)
    place %= places
    subnet = Subnet(made.network.base + place * (1 << (32 - made.subnet_len)), made.subnet_len)
    every = [
        Subnet6(made6.network.base + number * (1 << (128 - made6.subnet_len)), made6.subnet_len)
        for number in range(places6)
    ]
    expected = every[place] if 0 < place < places6 else None
    assert counterpart(made, subnet, made6) == expected


def test_counterparts_in_text() -> None:
    wide = network6(48, 64)
    assert str(counterpart(network(16, 24), Subnet(parse_ip("10.23.79.0"), 24), wide)) == "fd23:0:0:4f::/64"
