"""Which IPv6 subnets of other nodes' leases may become routes on this node: the twin of `leasefilter`. Pure.

A lease whose IPv6 subnet is refused is served over IPv4 only.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.agent.routeplan import PROTOCOL, UNICAST
from netstore.network.ipv6 import Subnet6, is_unicast6, reserved6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute
    from netstore.network.config import Network6

MAX_EXTRA_BITS: Final = 8
"""How many bits shorter than IPv6SubnetLen a lease's prefix may be, as for IPv4."""

HOST_LENGTH: Final = 128
"""Prefix length of a single address."""


class ProtectedAddresses6(NamedTuple):
    """IPv6 addresses of this node and of what it depends on, for which no lease may make a route.

    `own` are the node's addresses, `networks` the networks of its interfaces with the interface's name,
    `single` single addresses in ascending order, with a description of each.
    """

    own: frozenset[int] = frozenset()
    networks: tuple[tuple[Subnet6, str], ...] = ()
    single: tuple[tuple[int, str], ...] = ()

    def single_in(self, subnet: Subnet6) -> str | None:
        """The description of a single address in the subnet."""
        at = bisect_left(self.single, (subnet.base, ""))
        return self.single[at][1] if at < len(self.single) and self.single[at][0] <= subnet.last else None


def protected_addresses6(
    network: Network6,
    links: Iterable[Link],
    addresses: Sequence[Address],
    routes: Iterable[KernelRoute],
    hosts: Mapping[int, str],
) -> ProtectedAddresses6:
    """The addresses to protect, from the kernel's tables and what the hosts are that the node needs, chosen
    as those of IPv4 are (`leasefilter.protected_addresses`): so the gateways of flannel's tunnel routes are
    left out. Link-local addresses are left out too: no pod network has them.
    """
    names = {link.ifindex: link.name for link in links}
    global_ones = [each for each in addresses if reserved6(Subnet6(each.ip, 128)) is None]
    found = {(Subnet6.around(each.ip, each.length), each.ifindex) for each in global_ones}
    single = {each.ip: f"this node's own address {show_ip6(each.ip)}" for each in global_ones}
    for route in routes:
        if route.protocol == PROTOCOL or route.kind != UNICAST or not isinstance(route.subnet, Subnet6):
            continue
        if route.gateway:
            if route.gateway != route.subnet.base:
                single.setdefault(
                    route.gateway, f"the next hop {show_ip6(route.gateway)} of the route to {route.subnet}"
                )
        elif route.plain and reserved6(route.subnet) is None:
            found.add((route.subnet, route.ifindex))
    for ip, what in hosts.items():
        single.setdefault(ip, what)
    return ProtectedAddresses6(
        frozenset(each.ip for each in global_ones),
        tuple(
            sorted(
                (subnet, names.get(ifindex, f"interface {ifindex}"))
                for subnet, ifindex in found
                if subnet.length < HOST_LENGTH and not subnet.covers(network.network)
            )
        ),
        tuple(sorted(single.items())),
    )


def rejection6(
    subnet: Subnet6,
    public_ip: int | None,
    network: Network6,
    own: tuple[Subnet6 | None, int | None],
    protected: ProtectedAddresses6,
) -> str | None:
    """Why this node should make no route to an IPv6 subnet through a PublicIPv6, or None; other leases are
    not considered. `own` are the node's own subnet and PublicIPv6. O(interfaces).
    """
    own_subnet, own_ip = own
    if not network.network.covers(subnet):
        return f"{subnet} is not in the network {network.network}"
    if own_subnet is not None and own_subnet.overlaps(subnet):
        return f"{subnet} overlaps this node's own subnet {own_subnet}"
    if subnet.length < network.subnet_len - MAX_EXTRA_BITS:
        return f"{subnet} is far larger than the network's subnets, which are /{network.subnet_len}"
    if public_ip is not None:
        if public_ip == own_ip or public_ip in protected.own:
            return f"PublicIPv6 {show_ip6(public_ip)} is this node's own"
        if not is_unicast6(public_ip):
            return f"PublicIPv6 {show_ip6(public_ip)} is not an address of a host"
        if network.network.holds(public_ip):
            return f"PublicIPv6 {show_ip6(public_ip)} is in the pod network {network.network}"
    for taken, name in protected.networks:
        if taken.overlaps(subnet):
            return f"{subnet} overlaps the network {taken} of {name}"
    if (what := protected.single_in(subnet)) is not None:
        return f"{subnet} contains {what}"
    return None
