"""Which IPv6 subnets become routes: what would divert other traffic is refused, with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.kernel import Address, Link
from netstore.agent.leasefilter6 import ProtectedAddresses6, protected_addresses6, rejection6
from netstore.agent.routeplan import BOOT, PROTOCOL, KernelRoute
from netstore.network.addresses import parse_ip
from netstore.network.config import Network6
from netstore.network.ipv6 import Subnet6, parse_cidr6, parse_ip6

NODE = parse_ip("192.168.77.12")


def net6(text: str) -> Subnet6:
    return Subnet6.exact(*parse_cidr6(text))


NETWORK = Network6(net6("fd23::/48"), 64, parse_ip6("fd23:0:0:1::"), parse_ip6("fd23:0:0:ffff::"))
OWN = net6("fd23:0:0:7::/64"), parse_ip6("fd77::11")
LINKS = [Link(1, "lo", 65536, up=True), Link(2, "eth0", 1500, up=True), Link(3, "cni0", 1500, up=True)]
ADDRESSES = [
    Address(1, parse_ip6("::1"), 128),
    Address(2, parse_ip6("fd77::11"), 64),
    Address(2, parse_ip6("fe80::11"), 64),
    Address(3, parse_ip6("fd23:0:0:9::1"), 64),
    Address(1, parse_ip6("fd23:0:0:a::53"), 128),
]
ROUTES = [
    KernelRoute(Subnet6(0, 0), parse_ip6("fd23:0:0:b::1"), 2, 3),
    KernelRoute(net6("fd23:0:0:c::/64"), parse_ip6("fd23:0:0:c::1"), 2, PROTOCOL),
    KernelRoute(net6("fd23:0:0:e::/64"), parse_ip6("fd23:0:0:e::"), 4, BOOT, onlink=True),
    KernelRoute(net6("fd23:0:0:f::/64"), 0, 3, BOOT),
    KernelRoute(net6("fd23:0:0:10::/64"), 0, 1, BOOT, kind=7),
    KernelRoute(net6("fe80::/64"), 0, 3, 2),
    KernelRoute(NETWORK.network, 0, 3, BOOT),
]
PROTECTED = protected_addresses6(NETWORK, LINKS, ADDRESSES, ROUTES, [parse_ip6("fd23:0:0:d::1")])


@pytest.mark.parametrize(
    ("subnet", "public_ip", "reason"),
    [
        ("fd23:0:0:5::/64", "fd77::12", None),
        ("fd23:0:0:5::/64", None, None),
        ("fd23:0:0:5::/64", "fe80::12", None),
        ("fd23:0:0:c::/64", "fd77::12", None),
        ("fd23:0:0:e::/64", "fd77::12", None),
        ("fd23:0:0:10::/64", "fd77::12", None),
        ("fd23:0:0:f::/64", "fd77::12", "overlaps the network fd23:0:0:f::/64 of cni0"),
        ("fd24:0:0:5::/64", "fd77::12", "not in the network fd23::/48"),
        ("::/0", "fd77::12", "not in the network"),
        ("fd23::/48", "fd77::12", "overlaps this node's own subnet"),
        ("fd23:0:0:7::/64", "fd77::12", "overlaps this node's own subnet"),
        ("fd23:0:0:7:8000::/65", "fd77::12", "overlaps this node's own subnet"),
        ("fd23:0:0:4000::/50", "fd77::12", "far larger"),
        ("fd23:0:0:5::/64", "fd77::11", "this node's own"),
        ("fd23:0:0:5::/64", "fd23:0:0:9::1", "this node's own"),
        ("fd23:0:0:5::/64", "ff02::1", "not an address of a host"),
        ("fd23:0:0:5::/64", "fd23:0:0:6::1", "in the pod network"),
        ("fd23:0:0:9::/65", "fd77::12", "overlaps the network fd23:0:0:9::/64 of cni0"),
        ("fd23:0:0:a::/64", "fd77::12", "this node's own address fd23:0:0:a::53"),
        ("fd23:0:0:b::/64", "fd77::12", "the next hop fd23:0:0:b::1 of the route to ::/0"),
        ("fd23:0:0:d::/64", "fd77::12", "the store's address fd23:0:0:d::1"),
    ],
)
def test_a_subnet_that_would_divert_other_traffic_is_refused(
    subnet: str, public_ip: str | None, reason: str | None
) -> None:
    ip = None if public_ip is None else parse_ip6(public_ip)
    found = rejection6(net6(subnet), ip, NETWORK, OWN, PROTECTED)
    assert (found is None) if reason is None else (reason in (found or ""))


def test_a_network_of_the_host_around_the_pod_network_does_not_refuse_everything() -> None:
    wide = protected_addresses6(NETWORK, LINKS, [Address(2, parse_ip6("fd23:0:1::11"), 32)], (), ())
    assert wide.networks == ()
    assert rejection6(net6("fd23:0:0:5::/64"), parse_ip6("fd77::12"), NETWORK, OWN, wide) is None


@given(st.lists(st.integers(0, 63), max_size=8), st.integers(0, 63), st.integers(120, 128))
def test_single_addresses_are_found_as_by_a_full_comparison(ips: list[int], ip: int, length: int) -> None:
    subnet = Subnet6.around(ip, length)
    protected = ProtectedAddresses6(single=tuple(sorted((each, f"{each}") for each in set(ips))))
    inside = sorted(each for each in set(ips) if subnet.holds(each))
    assert protected.single_in(subnet) == (f"{inside[0]}" if inside else None)
