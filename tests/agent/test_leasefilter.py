"""Which leases are accepted, and why others are rejected."""

from __future__ import annotations

import random
from typing import Any

import pytest

from netstore.agent.kernel import Address, Link
from netstore.agent.leasefilter import (
    IPV4,
    IPV6,
    ProtectedAddresses,
    conflict,
    protected_addresses,
    rejection,
)
from netstore.agent.routeplan import BOOT, PROTOCOL, KernelRoute
from netstore.network.addresses import Subnet, parse_ip, reserved
from netstore.network.config import Network6, parse_network
from netstore.network.ipv6 import Subnet6, parse_cidr6, parse_ip6

NETWORK = parse_network(b'{"Network":"10.0.0.0/9","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
OWN = Subnet(parse_ip("10.23.5.0"), 24)
OWN_IP = parse_ip("192.168.77.11")
LINKS = [Link(2, "eth0", 1500, up=True), Link(3, "lan2", 1500, up=True)]
ADDRESSES = [
    Address(2, OWN_IP, 24),
    Address(3, parse_ip("10.77.0.5"), 24),
    Address(3, parse_ip("10.99.0.1"), 32),
]
ROUTES = [
    KernelRoute(Subnet(0, 0), parse_ip("192.168.77.1"), 2, protocol=3),
    KernelRoute(Subnet(0, 0), parse_ip("10.64.0.1"), 3, protocol=3),
    KernelRoute(Subnet(parse_ip("172.16.0.0"), 12), parse_ip("10.50.0.1"), 3, protocol=4),
    KernelRoute(Subnet(parse_ip("10.60.0.0"), 24), parse_ip("10.61.0.1"), 2),
    KernelRoute(Subnet(parse_ip("10.62.0.0"), 24), parse_ip("10.62.0.0"), 3, protocol=3),
    KernelRoute(Subnet(parse_ip("10.63.0.0"), 24), parse_ip("10.63.0.1"), 3, protocol=3),
]
HOSTS = {parse_ip("10.70.0.9"): "the store's address 10.70.0.9"}
PROTECTED = protected_addresses(IPV4, [NETWORK], LINKS, ADDRESSES, routes=ROUTES, hosts=HOSTS)


def told(cidr: str, ip: str = "192.168.77.12") -> str:
    return why(cidr, ip) or ""


def why(
    cidr: str,
    ip: str = "192.168.77.12",
    protected: ProtectedAddresses[Subnet] | None = None,
    own_ip: int = OWN_IP,
) -> str | None:
    base, _, length = cidr.partition("/")
    subnet = Subnet(parse_ip(base), int(length))
    return rejection(IPV4, subnet, parse_ip(ip), NETWORK, own=(OWN, own_ip), protected=protected or PROTECTED)


def test_a_normal_lease_is_accepted() -> None:
    assert told("10.23.6.0/24") == ""


def test_a_lease_of_an_earlier_subnet_len_is_accepted() -> None:
    assert told("10.24.6.0/25") == ""
    assert told("10.30.0.0/16") == ""


def test_leases_outside_the_network_and_of_this_node_are_rejected() -> None:
    assert "not in the network" in told("10.200.6.0/24")
    assert "not in the network" in told("0.0.0.0/0")
    assert "not in the network" in told("10.0.0.0/8")
    assert "own subnet" in told("10.23.5.128/25")
    assert "own subnet" in told("10.23.4.0/23")
    assert "this node's own" in told("10.23.6.0/24", "192.168.77.11")
    assert "this node's own" in told("10.23.6.0/24", "10.77.0.5")


def test_a_lease_that_overlaps_a_network_of_the_node_is_rejected() -> None:
    assert "overlaps the network 10.77.0.0/24 of lan2" in told("10.77.0.0/24")
    assert "overlaps the network 10.77.0.0/24 of lan2" in told("10.77.0.128/25")
    assert "this node's own address 10.99.0.1" in told("10.99.0.0/24")


def test_a_lease_that_contains_a_protected_address_is_rejected() -> None:
    assert "10.70.0.9" in told("10.70.0.0/24")
    assert "store" in told("10.70.0.8/31")
    assert "next hop 10.50.0.1 of the route to 172.16.0.0/12" in told("10.50.0.0/24")
    assert told("10.61.0.0/24") == "", "next hops of the agent's own routes are not protected"
    assert told("10.62.0.0/24") == "", "nor are those of tunnels that flannel made"
    assert "next hop 10.63.0.1" in told("10.63.0.0/24")
    assert "next hop 10.64.0.1 of the route to 0.0.0.0/0" in told("10.64.0.0/24")


def test_routes_of_other_programs_without_a_gateway_are_networks() -> None:
    routes = [
        KernelRoute(Subnet(parse_ip("10.55.0.0"), 24), 0, 3, protocol=4),
        KernelRoute(Subnet(parse_ip("10.56.0.0"), 24), 0, 3, protocol=4, kind=6),  # a blackhole
        KernelRoute(Subnet(parse_ip("10.57.0.0"), 24), 0, 3),
        KernelRoute(Subnet(parse_ip("10.0.0.0"), 8), 0, 3, protocol=4),
        KernelRoute(Subnet(parse_ip("10.58.0.0"), 20), parse_ip("10.77.0.9"), 3, protocol=186),
    ]
    protected = protected_addresses(IPV4, [NETWORK], LINKS, ADDRESSES, routes=routes, hosts={})

    assert (
        why("10.55.0.128/25", protected=protected)
        == "10.55.0.128/25 overlaps the network 10.55.0.0/24 of lan2"
    )
    for accepted in ("10.56.0.0/24", "10.57.0.0/24", "10.99.9.0/24", "10.58.1.0/24"):
        assert why(accepted, protected=protected) is None


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_lookups_agree_with_a_plain_search(family: Any) -> None:
    chance = random.Random(7)  # noqa: S311 - a fixed sequence
    rest = family.subnet(0, 0).bits - 32  # as in IPv4, with this many bits behind

    def drawn(low: int, high: int) -> Any:
        ip = chance.randrange(1 << 12) << 20 | chance.randrange(1 << 12)
        return family.subnet.around(ip << rest, chance.randrange(low, high))

    networks = {(each := drawn(8, 31), f"if{each.length}") for _ in range(60)}
    single = {drawn(32, 33).base: f"{number}" for number in range(60)}
    protected = ProtectedAddresses((), networks, single.items())
    found = 0
    for _ in range(2000):
        subnet = drawn(8, 32)
        over = protected.network_over(subnet)
        assert (
            (over in networks and over[0].overlaps(subnet))
            if over
            else not any(each.overlaps(subnet) for each, _ in networks)
        )
        inside = {what for ip, what in single.items() if subnet.holds(ip)}
        what = protected.single_in(subnet)
        assert what in inside if inside else what is None
        found += over is not None and bool(inside)
    assert found


def test_a_network_or_broadcast_address_as_next_hop_is_rejected() -> None:
    assert "network or broadcast address" in told("10.23.6.0/24", "192.168.77.255")
    assert "network or broadcast address" in told("10.23.6.0/24", "192.168.77.0")


def test_a_lease_far_larger_than_subnet_len_is_rejected() -> None:
    assert "far larger" in told("10.32.0.0/11")
    assert "far larger" in told("10.30.0.0/15")


def test_an_interface_network_that_covers_the_pod_network_is_not_protected() -> None:
    wide = protected_addresses(
        IPV4, [NETWORK], LINKS, [Address(2, parse_ip("10.200.0.5"), 8)], routes=(), hosts={}
    )
    assert why("10.23.6.0/24", protected=wide, own_ip=parse_ip("10.200.0.5")) is None


def test_reserved_ranges_are_rejected_in_any_network() -> None:
    everything = type(NETWORK)(Subnet(0, 0), 24, 0, 2**32 - 256, "host-gw", b"{}")
    for base, length in (("127.1.0.0", 24), ("224.1.1.0", 24), ("0.1.2.0", 24), ("169.254.3.0", 24)):
        subnet = Subnet(parse_ip(base), length)
        assert "addresses" in str(reserved(subnet))
        found = rejection(IPV4, subnet, None, everything, own=(OWN, OWN_IP), protected=PROTECTED)
        assert str(reserved(subnet)) in str(found)


def test_a_public_ip_inside_the_pod_network_is_rejected() -> None:
    assert "which has no nodes" in told("10.23.6.0/24", "10.5.5.7")


def test_a_network_around_one_of_two_ranges_is_not_protected() -> None:
    other = parse_network(b'{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
    wide = [Address(2, parse_ip("10.200.0.5"), 8)]
    for networks in ([NETWORK, other], [other, NETWORK]):
        protected = protected_addresses(IPV4, networks, LINKS, wide, routes=(), hosts={})
        assert why("10.23.6.0/24", protected=protected) is None
    protected = protected_addresses(IPV4, [other], LINKS, wide, routes=(), hosts={})
    assert why("10.23.6.0/24", protected=protected) is not None


def test_a_range_that_this_node_uses_otherwise_is_in_conflict() -> None:
    routes = [*ROUTES, KernelRoute(Subnet(parse_ip("10.90.3.0"), 24), 0, 3, protocol=3)]
    protected = protected_addresses(IPV4, [NETWORK], LINKS, ADDRESSES, routes=routes, hosts=HOSTS)

    def found(fields: str, *own: Subnet) -> str:
        document = f'{{{fields},"SubnetLen":24,"Backend":{{"Type":"host-gw"}}}}'
        return conflict(parse_network(document.encode()), own, protected) or ""

    assert found('"Network":"10.23.0.0/16"') == ""
    assert "own address 10.77.0.5" in found('"Network":"10.77.0.0/16","SubnetMin":"10.77.9.0"')
    bridge = Subnet(parse_ip("10.77.0.0"), 24)
    assert found('"Network":"10.77.0.0/16"', bridge) == "", "of this node's pods"
    assert "overlaps the network 10.90.3.0/24 of lan2" in found('"Network":"10.90.0.0/16"')
    assert "the next hop 10.63.0.1" in found('"Network":"10.63.0.0/16","SubnetMin":"10.63.0.0"')
    assert "the store's address 10.70.0.9" in found('"Network":"10.70.0.0/16","SubnetMin":"10.70.0.0"')
    assert found('"Network":"10.70.0.0/16","SubnetMin":"10.70.1.0"') == ""
    assert found('"Network":"10.90.0.0/16","SubnetMin":"10.90.9.0"') == ""


def test_what_is_in_the_present_range_is_in_no_conflict() -> None:
    """As the bridge of an earlier subnet length, or a network that the nodes leave out already."""
    new = parse_network(b'{"Network":"10.77.0.0/16","SubnetLen":25,"Backend":{"Type":"host-gw"}}')
    assert "own address 10.77.0.5" in str(conflict(new, [OWN], PROTECTED))
    assert conflict(new, [new.network, OWN], PROTECTED) is None


CNI_SUBNET = Subnet(parse_ip("10.23.77.0"), 24)
OTHERS_BRIDGE = Subnet(parse_ip("10.30.0.0"), 16)


def with_bridges(*, up: bool, has_port: bool) -> ProtectedAddresses[Subnet]:
    """What a node protects that has the bridge of a former subnet, one of another program in the pod network,
    and one around another pod network.
    """
    bridges = [Link(at, f"br{at}", 1500, up=up, kind="bridge") for at in (4, 5)]
    bridges.append(Link(6, "virbr0", 1500, up=True, kind="bridge"))
    ports = [Link(at + 10, f"veth{at}", 1500, up=True, kind="veth", master=at) for at in (4, 5) if has_port]
    addresses = [
        *ADDRESSES,
        Address(4, CNI_SUBNET.base + 1, 24),
        Address(5, OTHERS_BRIDGE.base + 1, 16),
        Address(6, parse_ip("172.30.0.1"), 16),
    ]
    # `ip link set br down` removes the routes out of it, and `up` makes them, whether it has ports or not.
    routes = [KernelRoute(subnet, 0, at, protocol=2) for subnet, at in ((CNI_SUBNET, 4), (OTHERS_BRIDGE, 5))]
    pods = [
        NETWORK,
        parse_network(b'{"Network":"172.30.8.0/21","SubnetLen":24,"Backend":{"Type":"host-gw"}}'),
    ]
    links = [*LINKS, *bridges, *ports]
    return protected_addresses(IPV4, pods, links, addresses, routes=routes if up else (), hosts={})


@pytest.mark.parametrize(
    ("up", "has_port", "is_former_left", "is_others_left"),
    [
        (True, True, False, False),
        (True, False, True, False),
        (False, True, True, True),
        (False, False, True, True),
    ],
)
def test_a_bridge_in_the_pod_network_protects_what_the_kernel_sends_there(
    *, up: bool, has_port: bool, is_former_left: bool, is_others_left: bool
) -> None:
    protected = with_bridges(up=up, has_port=has_port)
    assert (why("10.23.77.0/25", protected=protected) is None) is is_former_left
    assert (why("10.30.5.0/24", protected=protected) is None) is is_others_left
    new = parse_network(b'{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
    assert (conflict(new, (), protected) is None) is is_former_left
    left = {CNI_SUBNET} if is_former_left else set()
    assert protected.left == left | ({OTHERS_BRIDGE} if is_others_left else set()), "not for this node"
    assert parse_ip("172.30.0.1") in protected.own, "the bridge is not in the pod network but around it"
    assert "overlaps the network 10.77.0.0/24 of lan2" in str(why("10.77.0.0/24", protected=protected))


def net6(text: str) -> Subnet6:
    return Subnet6.exact(*parse_cidr6(text))


NETWORK6 = Network6(net6("fd23::/48"), 64, parse_ip6("fd23:0:0:1::"), parse_ip6("fd23:0:0:ffff::"))
OWN6 = net6("fd23:0:0:7::/64"), parse_ip6("fd77::11")
LINKS6 = [Link(1, "lo", 65536, up=True), Link(2, "eth0", 1500, up=True), Link(3, "cni0", 1500, up=True)]
ADDRESSES6 = [
    Address(1, parse_ip6("::1"), 128),
    Address(2, parse_ip6("fd77::11"), 64),
    Address(2, parse_ip6("fe80::11"), 64),
    Address(3, parse_ip6("fd23:0:0:9::1"), 64),
    Address(1, parse_ip6("fd23:0:0:a::53"), 128),
]
ROUTES6 = [
    KernelRoute(Subnet6(0, 0), parse_ip6("fd23:0:0:b::1"), 2, 3),
    KernelRoute(net6("fd23:0:0:c::/64"), parse_ip6("fd23:0:0:c::1"), 2, PROTOCOL),
    KernelRoute(net6("fd23:0:0:e::/64"), parse_ip6("fd23:0:0:e::"), 4, BOOT, onlink=True),
    KernelRoute(net6("fd23:0:0:f::/64"), 0, 3, BOOT),
    KernelRoute(net6("fd23:0:0:10::/64"), 0, 1, BOOT, kind=7),
    KernelRoute(net6("fe80::/64"), 0, 3, 2),
    KernelRoute(NETWORK6.network, 0, 3, BOOT),
]
PROTECTED6 = protected_addresses(
    IPV6,
    [NETWORK6],
    LINKS6,
    ADDRESSES6,
    routes=ROUTES6,
    hosts={parse_ip6("fd23:0:0:d::1"): "the store's address fd23:0:0:d::1"},
)


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
def test_an_ipv6_subnet_that_would_divert_other_traffic_is_rejected(
    subnet: str, public_ip: str | None, reason: str | None
) -> None:
    ip = None if public_ip is None else parse_ip6(public_ip)
    found = rejection(IPV6, net6(subnet), ip, NETWORK6, own=OWN6, protected=PROTECTED6)
    assert (found is None) if reason is None else (reason in (found or ""))


def test_an_ipv6_network_of_the_host_around_the_pod_network_is_not_protected() -> None:
    wide = protected_addresses(
        IPV6, [NETWORK6], LINKS6, [Address(2, parse_ip6("fd23:0:1::11"), 32)], routes=(), hosts={}
    )
    assert wide.networks == ()
    assert (
        rejection(IPV6, net6("fd23:0:0:5::/64"), parse_ip6("fd77::12"), NETWORK6, own=OWN6, protected=wide)
        is None
    )
