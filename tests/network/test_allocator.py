"""Free subnets, compared with a search that tests every subnet against every taken one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip
from netstore.network.allocator import free_subnets
from netstore.network.config import Network

BASE = parse_ip("10.23.0.0")


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
