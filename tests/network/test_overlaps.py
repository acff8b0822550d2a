"""Leases that overlap: which one is accepted, and that the accepted ones are disjoint."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_cidr, parse_ip
from netstore.network.config import Network6, parse_network
from netstore.network.ipv6 import Subnet6, parse_cidr6, parse_ip6
from netstore.network.lease import SubnetLease
from netstore.network.overlaps import Claim, Overlaps, SubnetIndex, nested

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from netstore.network.config import Network

NETWORK = parse_network(b'{"Network":"10.0.0.0/9","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
DUAL = parse_network(
    b'{"Network":"10.0.0.0/9","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"host-gw"}}'
)
NODE = parse_ip("192.168.77.12")


def fits_both(subnet: Subnet) -> bool:
    """As while nodes go from /24 to /25."""
    return subnet.length in (24, 25)


def conflicts(
    leases: Mapping[str, SubnetLease], network: Network, created: Callable[[str], int] = lambda _: 0
) -> dict[str, str]:
    """The reasons for those that are rejected."""
    overlaps = Overlaps(network.fits)
    for name, each in leases.items():
        is_other_form = (each.subnet6 is None) != (network.ipv6 is None)
        overlaps.put(name, each.subnet, Claim(each.public_ip, created(name), is_other_form))
    return reasons(overlaps, leases)


def conflicts6(
    leases: Mapping[str, SubnetLease], network: Network6, created: Callable[[str], int] = lambda _: 0
) -> dict[str, str]:
    """The same of IPv6."""
    overlaps = Overlaps(network.fits)
    for name, each in leases.items():
        if each.subnet6 is not None:
            overlaps.put(name, each.subnet6, Claim(each.public_ip, created(name)))
    return reasons(overlaps, leases)


def reasons(overlaps: Overlaps[Subnet] | Overlaps[Subnet6], names: Iterable[str]) -> dict[str, str]:
    found = {name: overlaps.reason(name) for name in names}
    return {name: reason for name, reason in found.items() if reason is not None}


def all_conflicts(
    known: Mapping[str, tuple[Subnet, Claim]], fits: Callable[[Subnet], bool]
) -> dict[str, str]:
    """The twin of `Overlaps`: one pass over all in ascending order."""
    since: dict[tuple[Subnet, int], int] = {}
    for subnet, claim in known.values():
        node = subnet, claim.node
        since[node] = min(since.get(node, claim.created), claim.created)
    ordered = sorted(
        (subnet, since[subnet, claim.node], claim.is_other_form, claim.created, name)
        for name, (subnet, claim) in known.items()
    )
    first: dict[Subnet, tuple[int, str]] = {}
    for each in ordered:
        first.setdefault(each[0], (each[1], each[-1]))
    found: dict[str, str] = {}
    for subnet, name, covering in nested((each[0], each[-1]) for each in ordered):
        for larger, other in covering:
            if larger == subnet or not fits(subnet):
                found.setdefault(name, f"{subnet} overlaps the lease {other}")
            if larger != subnet and not fits(larger):
                found.setdefault(other, f"{larger} overlaps the lease {name}")
    for subnet, (age, name) in first.items():
        ages = [first[each] for each in first if fits(each) and each.overlaps(subnet)]
        if fits(subnet) and min(ages) < (age, name):
            found[name] = f"{subnet} overlaps the lease {min(ages)[1]}"
    return found


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


def test_of_two_lengths_that_fit_the_oldest_is_accepted() -> None:
    overlaps = Overlaps(fits_both)
    held = {
        "half": "10.5.5.0/25",
        "whole": "10.5.5.0/24",
        "other half": "10.5.5.128/25",
        "apart": "10.5.6.0/24",
    }
    for number, (name, cidr) in enumerate(held.items()):
        overlaps.put(name, lease(cidr).subnet, Claim(number, number))
    assert reasons(overlaps, held) == {
        "whole": "10.5.5.0/24 overlaps the lease half",
        "other half": "10.5.5.128/25 overlaps the lease whole",
    }
    assert overlaps.remove("half") == {"half", "whole"}
    assert reasons(overlaps, held) == {"other half": "10.5.5.128/25 overlaps the lease whole"}
    assert overlaps.remove("whole") == {"whole", "other half"}
    assert reasons(overlaps, held) == {}


def test_of_two_that_do_not_fit_neither_is_accepted_and_of_two_names_the_first() -> None:
    assert set(conflicts({"a": lease("10.5.0.0/22"), "b": lease("10.5.1.0/25")}, NETWORK)) == {"a", "b"}
    assert set(conflicts({"a": lease("10.5.1.0/24"), "a&fd00::-64": lease("10.5.1.0/24")}, NETWORK)) == {
        "a&fd00::-64"
    }


def test_of_several_nodes_leases_of_one_subnet_the_oldest_is_accepted() -> None:
    leases = {name: lease("10.5.1.0/24") for name in ("10.5.1.0-24", "10.5.1.0-24&fd00::-64")}
    leases["10.5.1.0-24&fd00::-64"] = SubnetLease(leases["10.5.1.0-24"].subnet, NODE + 1)
    assert set(conflicts(leases, NETWORK, {"10.5.1.0-24": 7, "10.5.1.0-24&fd00::-64": 5}.__getitem__)) == {
        "10.5.1.0-24"
    }
    assert set(conflicts(leases, NETWORK, {"10.5.1.0-24": 5, "10.5.1.0-24&fd00::-64": 7}.__getitem__)) == {
        "10.5.1.0-24&fd00::-64"
    }


def test_of_two_names_of_one_nodes_subnet_the_one_of_the_networks_form_is_accepted() -> None:
    subnet, subnet6 = Subnet.exact(*parse_cidr("10.5.1.0/24")), Subnet6.exact(*parse_cidr6("fd00:0:0:5::/64"))
    leases = {"single": SubnetLease(subnet, NODE), "dual": SubnetLease(subnet, NODE, subnet6=subnet6)}
    created = {"single": 5, "dual": 9, "foreign": 7}.__getitem__
    assert set(conflicts(leases, NETWORK, created)) == {"dual"}
    assert set(conflicts(leases, DUAL, created)) == {"single"}
    leases["foreign"] = SubnetLease(subnet, NODE + 1, subnet6=subnet6)
    assert set(conflicts(leases, DUAL, created)) == {"single", "foreign"}


def dual_lease(number: int, cidr6: str | None) -> SubnetLease:
    subnet6 = None if cidr6 is None else Subnet6.exact(*parse_cidr6(cidr6))
    return SubnetLease(Subnet(parse_ip("10.5.0.0") + number * 256, 24), NODE + number, subnet6=subnet6)


def test_ipv6_subnets_that_overlap_are_found_too() -> None:
    leases = {
        "fits": dual_lease(1, "fd00:0:0:5::/64"),
        "more specific": dual_lease(2, "fd00:0:0:5::/65"),
        "larger": dual_lease(3, "fd00::/56"),
        "same": dual_lease(4, "fd00:0:0:5::/64"),
        "apart": dual_lease(5, "fd00:0:0:105::/64"),
        "none": dual_lease(6, None),
    }
    assert conflicts(leases, DUAL) == {}
    assert DUAL.ipv6 is not None
    found = conflicts6(leases, DUAL.ipv6, lambda name: name != "fits")
    assert found == {
        "more specific": "fd00:0:0:5::/65 overlaps the lease larger",
        "larger": "fd00::/56 overlaps the lease fits",
        "same": "fd00:0:0:5::/64 overlaps the lease fits",
    }


@given(st.lists(st.tuples(st.integers(0, 2**9 - 1), st.integers(118, 123)), max_size=12))
def test_accepted_ipv6_subnets_never_overlap(drawn: list[tuple[int, int]]) -> None:
    network = Network6(Subnet6(parse_ip6("fd00::"), 112), 120, 0, parse_ip6("fd00::") + 0xFFFF)
    leases = {
        f"{number}": SubnetLease(
            Subnet(number << 8, 24), NODE, subnet6=Subnet6.around(network.network.base + place * 8, length)
        )
        for number, (place, length) in enumerate(drawn)
    }
    refused = conflicts6(leases, network)
    admitted = [each.subnet6 for name, each in leases.items() if name not in refused and each.subnet6]
    for one, other in combinations(admitted, 2):
        assert not one.overlaps(other)
    for name, each in leases.items():
        others = [other.subnet6 for key, other in leases.items() if key != name and other.subnet6]
        if each.subnet6 and not any(each.subnet6.overlaps(other) for other in others):
            assert name not in refused
        if each.subnet6 and network.fits(each.subnet6) and each.subnet6 not in others:
            assert name not in refused


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


few = [Subnet.around(0x0A000000, length) for length in (22, 24, 25, 26)]
changes = st.tuples(
    st.integers(0, 7),
    st.none()
    | st.sampled_from(few)
    | st.builds(Subnet.around, st.integers(0x0A000000, 0x0A0007FF), st.integers(21, 26)),
    st.builds(Claim, st.integers(1, 3), st.integers(0, 3), st.booleans()),
)


@given(st.lists(changes, max_size=30), st.sampled_from([NETWORK.fits, fits_both]))
def test_after_any_changes_it_is_as_if_all_were_looked_at_anew(
    drawn: list[tuple[int, Subnet | None, Claim]], fits: Callable[[Subnet], bool]
) -> None:
    overlaps = Overlaps(fits)
    known: dict[str, tuple[Subnet, Claim]] = {}
    rejected: set[str] = set()
    for number, subnet, claim in drawn:
        name = f"{number}"
        if subnet is None:
            known.pop(name, None)
            changed = overlaps.remove(name)
        else:
            known[name] = subnet, claim
            changed = overlaps.put(name, subnet, claim)
        rejected -= changed
        rejected |= {each for each in changed if overlaps.reason(each) is not None}
        expected = all_conflicts(known, fits)
        assert rejected == expected.keys(), "a lease that was not told is judged otherwise now"
        assert reasons(overlaps, known) == expected


def test_a_change_among_many_looks_at_few() -> None:
    looked = 0

    def fits(subnet: Subnet) -> bool:
        nonlocal looked
        looked += 1
        return NETWORK.fits(subnet)

    overlaps = Overlaps(fits)
    for number in range(3000):
        overlaps.put(f"{number}", Subnet(parse_ip("10.0.0.0") + number * 256, 24), Claim(number))
    overlaps.put("large", Subnet(parse_ip("10.64.0.0"), 12), Claim(1))
    looked = 0
    assert overlaps.put("1500", Subnet(parse_ip("10.100.0.0"), 24), Claim(1500)) == {"1500"}
    assert overlaps.put("1500", Subnet(parse_ip("10.65.0.0"), 24), Claim(1500)) == {"1500", "large"}
    assert overlaps.remove("1500") == {"1500", "large"}
    assert looked < 20


def test_many_small_subnets_inside_of_one_are_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = 0
    inside = SubnetIndex.inside

    def counted(index: SubnetIndex[Subnet], subnet: Subnet) -> Iterator[Subnet]:
        nonlocal looked
        for each in inside(index, subnet):
            looked += 1
            yield each

    monkeypatch.setattr(SubnetIndex, "inside", counted)
    overlaps = Overlaps[Subnet](lambda subnet: subnet.length in (12, 26))
    large = Subnet(parse_ip("10.64.0.0"), 12)
    small = [Subnet(large.base + number * 64, 26) for number in range(1000)]
    overlaps.put("large", large, Claim(0, 1))
    for number, subnet in enumerate(small, 2):
        for name in overlaps.put(f"{number}", subnet, Claim(number, number)):
            overlaps.reason(name)
    assert overlaps.reason("large") is None
    overlaps.put("500", small[498], Claim(500, 0))
    assert overlaps.reason("large") == f"{large} overlaps the lease 500"
    assert overlaps.remove("500") == {"500", "large"}
    assert overlaps.reason("large") is None
    assert looked == 0
    overlaps.remove("large")
    overlaps.put("large", large, Claim(0, 2000))
    assert overlaps.reason("large") == f"{large} overlaps the lease 2"
    assert looked < 5 * len(small)


def test_many_names_for_one_subnet_are_as_many_leases_of_which_one_is_accepted() -> None:
    names = [f"10.5.1.0-24&fd00:{number:x}::-64" for number in range(100)]
    found = conflicts({name: lease("10.5.1.0/24") for name in names}, NETWORK)
    assert len(found) == len(names) - 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("nodes", [1, 5, 1000])
def test_a_change_of_one_of_many_leases_of_a_subnet_concerns_few(order: int, nodes: int) -> None:
    """Whether they come oldest first or youngest first, and over other leases that are inside of it."""
    overlaps = Overlaps(NETWORK.fits)
    subnet = Subnet(parse_ip("10.64.0.0"), 24)
    for number in range(64):
        overlaps.put(f"inside {number}", Subnet(subnet.base + number * 4, 30), Claim(9))
    concerned = 0
    numbers = range(1000)[::order]
    for number in numbers:
        concerned += len(overlaps.put(f"{number}", subnet, Claim(number % nodes, number)))
    assert concerned <= 64 + 2 * len(numbers)
    assert overlaps.reason("0") is None
    assert overlaps.remove("0") == {"0", "1"}
    assert overlaps.reason("999") == f"{subnet} overlaps the lease 1"
    assert overlaps.put("0", subnet, Claim(0, 5000, is_other_form=True)) <= {"0", "1", "5"}


def test_each_change_of_a_subnet_concerns_the_smaller_ones_in_between() -> None:
    overlaps = Overlaps(fits_both)
    whole = Subnet(parse_ip("10.5.5.0"), 24)
    for place, created in ((0, 10), (128, 20)):
        overlaps.put(f"half {created}", Subnet(whole.base + place, 25), Claim(created, created))
    assert overlaps.put("a", whole, Claim(1, 15)) == {"a", "half 20"}
    assert overlaps.put("b", whole, Claim(2, 12)) == {"a", "b"}
    assert overlaps.put("c", whole, Claim(3, 5)) == {"b", "c", "half 10"}
    assert overlaps.remove("c") == {"b", "c", "half 10"}
