"""Which leases are served: as they change one by one, the outcome is that of looking at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.leasefilter import ProtectedAddresses
from netstore.agent.servedleases import ServedLeases, Site
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.config import parse_network
from netstore.network.ipv6 import Subnet6, parse_cidr6, parse_ip6
from netstore.network.lease import SubnetLease

if TYPE_CHECKING:
    from netstore.network.config import Network

SINGLE = parse_network(b'{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
DUAL = parse_network(
    b'{"Network":"10.23.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd23::/48",'
    b'"Backend":{"Type":"host-gw"}}'
)
NODE = parse_ip("192.168.77.12")
BASE = parse_ip("10.23.0.0")


def site(network: Network) -> Site:
    return Site(
        network,
        Subnet(BASE, 24),
        None,
        NODE - 1,
        parse_ip6("fd77::11"),
        ProtectedAddresses(),
        ProtectedAddresses(),
    )


def net6(text: str) -> Subnet6:
    return Subnet6.exact(*parse_cidr6(text))


def lease(number: int, subnet6: str | None, public_ip6: str | None = "fd77::12") -> SubnetLease:
    return SubnetLease(
        Subnet(BASE + number * 256, 24),
        NODE,
        "vxlan",
        b"[4]",
        None if subnet6 is None else net6(subnet6),
        None if public_ip6 is None else parse_ip6(public_ip6),
        b"[6]",
    )


PEERS = {
    "both": lease(1, "fd23:0:0:1::/64"),
    "no IPv6": lease(2, None),
    "no PublicIPv6": lease(3, "fd23:0:0:3::/64", None),
    "foreign": lease(4, "fd24::/64"),
    "younger": msgspec.structs.replace(lease(5, "fd23:0:0:1::/64"), created=7),
}


def served(network: Network) -> ServedLeases:
    leases = ServedLeases(site(network))
    for name, each in PEERS.items():
        assert leases.put(name, each) == {name}
    return leases


def test_a_lease_whose_ipv6_subnet_is_refused_is_served_over_ipv4_only() -> None:
    leases = served(DUAL)
    assert leases.rejected_ipv6 == {
        "foreign": "fd24::/64 is not in the network fd23::/48",
        "younger": "fd23:0:0:1::/64 overlaps the lease both",
    }
    narrow = {name: PEERS[name].ipv4_only() for name in ("foreign", "younger")}
    assert leases.served == {**PEERS, **narrow}
    assert leases.put("both", None) == {"both", "younger"}
    assert leases.served["younger"] == PEERS["younger"]
    assert set(leases.rejected_ipv6) == {"foreign"}


def test_without_a_dual_stack_network_only_ipv4_is_served() -> None:
    leases = served(SINGLE)
    assert leases.rejected_ipv6 == {}
    assert leases.served == {name: each.ipv4_only() for name, each in PEERS.items()}


def test_invalid_and_unnoticed_leases_are_not_served_and_own_subnets_are_refused() -> None:
    leases = served(SINGLE)
    assert leases.put("both", None, invalid="it is a directory") == {"both"}
    assert leases.rejected == {"both": "it is a directory"}
    assert leases.put("no IPv6", PEERS["no IPv6"], unnoticed=True) == {"no IPv6"}
    assert leases.put("own", lease(0, None)) == set()
    assert leases.put("both", PEERS["both"]) == {"both"}
    assert leases.rejected == {"own": "10.23.0.0/24 overlaps this node's own subnet 10.23.0.0/24"}
    assert set(leases.served) == PEERS.keys() - {"no IPv6"}


def test_a_changed_lease_among_many_concerns_few() -> None:
    leases = ServedLeases(site(DUAL))
    many = {f"{number}": lease(number, f"fd23:0:0:{number:x}::/64") for number in range(1, 256)}
    for name, each in many.items():
        leases.put(name, each)
    assert len(leases.served) == 255
    moved = msgspec.structs.replace(many["9"], public_ip=NODE + 1)
    assert leases.put("9", moved) == {"9"}
    assert leases.put("9", moved) == set()


leases_drawn = st.builds(
    lambda place, length, node, place6, created: SubnetLease(
        Subnet.around(BASE + place * 64, length),
        NODE + node,
        subnet6=None if place6 is None else Subnet6(parse_ip6("fd23::") + (place6 << 64), 64),
        public_ip6=parse_ip6("fd77::12"),
        created=created,
    ),
    st.integers(0, 30),
    st.integers(21, 26),
    st.integers(-1, 2),
    st.none() | st.integers(1, 3),
    st.integers(0, 3),
)


@given(
    st.sampled_from([SINGLE, DUAL]),
    st.lists(st.tuples(st.integers(0, 6), st.none() | leases_drawn), max_size=20),
)
def test_after_any_changes_it_is_as_if_all_were_put_anew(
    network: Network, drawn: list[tuple[int, SubnetLease | None]]
) -> None:
    leases = ServedLeases(site(network))
    known: dict[str, SubnetLease] = {}
    for number, each in drawn:
        before = dict(leases.served)
        changed = leases.put(f"{number}", each)
        if each is None:
            known.pop(f"{number}", None)
        else:
            known[f"{number}"] = each
        anew = ServedLeases(site(network))
        for name, other in known.items():
            anew.put(name, other)
        assert leases.served == anew.served
        assert leases.rejected == anew.rejected
        assert leases.rejected_ipv6 == anew.rejected_ipv6
        names = {*before, *leases.served}
        assert changed >= {name for name in names if before.get(name) != leases.served.get(name)}


def test_leases_of_two_network_configs_are_served() -> None:
    other = parse_network(b'{"Network":"10.24.0.0/16","SubnetLen":25,"Backend":{"Type":"host-gw"}}')
    both = ServedLeases(site(SINGLE)._replace(former=other))
    one = ServedLeases(site(SINGLE))
    new = SubnetLease(Subnet(parse_ip("10.24.1.128"), 25), NODE, "host-gw")
    odd = SubnetLease(Subnet(parse_ip("10.25.1.0"), 24), NODE, "host-gw")
    inside = SubnetLease(Subnet(parse_ip("10.24.1.192"), 26), NODE + 1, "host-gw")
    for served in (both, one):
        for name, each in (("old", lease(1, None)), ("new", new), ("odd", odd), ("inside", inside)):
            served.put(name, each)
    assert both.served.keys() == {"old", "new"}
    assert one.served.keys() == {"old"}
    assert both.rejected["odd"] == "10.25.1.0/24 is not in the network 10.23.0.0/16"
    assert "overlaps the lease new" in both.rejected["inside"]
    assert both.site.networks == (SINGLE, other)


@pytest.mark.parametrize("order", [1, -1])
def test_many_leases_of_one_subnet_are_not_judged_again_with_each(order: int) -> None:
    """In each family; whether they come oldest first or youngest first."""
    leases = ServedLeases(site(DUAL))
    count = 500
    for number in range(count)[::order]:
        one = SubnetLease(Subnet(BASE + 256, 24), NODE + number, subnet6=net6("fd23::/64"), created=number)
        leases.put(f"4 {number}", one)
        apart = Subnet(BASE + (256 * 2 + number % 200) * 256, 24)
        other = SubnetLease(apart, NODE, subnet6=net6("fd23:0:0:9::/64"), created=number)
        leases.put(f"6 {number}", other)
    assert leases.judged <= 8 * count
    assert leases.rejected["4 250"] == "10.23.1.0/24 overlaps the lease 4 0"
    judged = leases.judged
    leases.put("4 0", None)
    assert leases.judged - judged <= 4
    assert leases.rejected["4 250"] == "10.23.1.0/24 overlaps the lease 4 1"
