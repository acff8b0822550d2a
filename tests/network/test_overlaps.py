"""Leases that overlap: which one is accepted, and that the accepted ones are disjoint."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_cidr, parse_ip
from netstore.network.config import parse_network
from netstore.network.lease import SubnetLease
from netstore.network.overlaps import conflicts, nested

NETWORK = parse_network(b'{"Network":"10.0.0.0/9","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
NODE = parse_ip("192.168.77.12")


def lease(cidr: str) -> SubnetLease:
    return SubnetLease(Subnet.exact(*parse_cidr(cidr)), NODE)


def test_of_two_overlapping_leases_the_one_that_fits_the_network_is_accepted() -> None:
    found = conflicts(
        {
            "fits": lease("10.5.5.0/24"),
            "more specific": lease("10.5.5.0/25"),
            "larger": lease("10.5.0.0/16"),
            "apart": lease("10.6.5.0/24"),
        },
        NETWORK,
    )
    assert found == {
        "more specific": "10.5.5.0/25 overlaps the lease larger",
        "larger": "10.5.0.0/16 overlaps the lease fits",
    }


def test_of_two_that_do_not_fit_neither_is_accepted_and_of_two_names_the_first() -> None:
    assert set(conflicts({"a": lease("10.5.0.0/22"), "b": lease("10.5.1.0/25")}, NETWORK)) == {"a", "b"}
    assert set(conflicts({"a": lease("10.5.1.0/24"), "a&fd00::-64": lease("10.5.1.0/24")}, NETWORK)) == {
        "a&fd00::-64"
    }


@given(st.lists(st.tuples(st.integers(0, 2**9 - 1), st.integers(22, 27)), max_size=12, unique=True))
def test_accepted_leases_never_overlap(drawn: list[tuple[int, int]]) -> None:
    base = parse_ip("10.5.0.0")
    leases = {
        f"{number}": SubnetLease(Subnet.around(base + place * 8, length), NODE)
        for number, (place, length) in enumerate(drawn)
    }
    refused = conflicts(leases, NETWORK)
    admitted = [each for name, each in leases.items() if name not in refused]
    for one, other in combinations(admitted, 2):
        assert not one.subnet.overlaps(other.subnet)
    for name, each in leases.items():
        others = [other for key, other in leases.items() if key != name]
        if not any(each.subnet.overlaps(other.subnet) for other in others):
            assert name not in refused
        if NETWORK.fits(each.subnet) and not any(other.subnet == each.subnet for other in others):
            assert name not in refused


subnets = st.builds(Subnet.around, st.integers(0x0A000000, 0x0A0000FF), st.integers(22, 31))


@given(st.lists(subnets, max_size=20))
def test_each_subnet_comes_with_all_earlier_ones_that_cover_it(drawn: list[Subnet]) -> None:
    ordered = sorted(drawn)
    for position, (subnet, label, covering) in enumerate(nested((each, None) for each in ordered)):
        assert (subnet, label) == (ordered[position], None)
        earlier = [each for each in ordered[:position] if each.covers(subnet)]
        assert {each for each, _ in covering} == set(earlier)
        assert [each for each, _ in covering] == sorted({each for each, _ in covering})


def test_many_names_for_one_subnet_cost_no_more_than_as_many_subnets() -> None:
    comparisons = 0

    class Counted(Subnet):
        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return super().__eq__(other)

        __hash__ = Subnet.__hash__

    names = {f"10.5.1.0-24&fd00:{number:x}::-64": number for number in range(1000)}
    leases = {name: SubnetLease(Counted(parse_ip("10.5.1.0"), 24), NODE) for name in names}
    found = conflicts(leases, NETWORK)
    assert len(found) == len(leases) - 1
    assert comparisons < 50 * len(leases)
