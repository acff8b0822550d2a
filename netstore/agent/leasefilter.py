"""Which leases of other nodes may become routes on this node. Pure.

Everybody who may write to the store can write a lease with any subnet and any next hop, and all nodes would
follow it. So a lease is accepted only for what leases are for. Whatever the network config allows, a lease is
rejected if its route would divert other traffic of this node: to its own addresses and networks, the next
hops of its other routes, the store or other nodes, or to addresses that are never routed. Leases that overlap
each other are found by `network.overlaps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.agent.routeplan import PROTOCOL
from netstore.network.addresses import Subnet, reserved, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute
    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease

MAX_EXTRA_BITS: Final = 8
"""How many bits shorter than SubnetLen a lease's prefix may be. Nodes keep subnets of an earlier, shorter
SubnetLen for a while, but no node ever had a subnet more than 256 times as large.
"""


class ProtectedAddresses(NamedTuple):
    """Addresses of this node and of what it depends on, for which no lease may make a route.

    `own` are the node's addresses, `networks` the networks of its interfaces with the interface's name,
    `single` single addresses with a description of each.
    """

    own: frozenset[int] = frozenset()
    networks: tuple[tuple[Subnet, str], ...] = ()
    single: tuple[tuple[int, str], ...] = ()


def protected_addresses(
    network: Network,
    links: Iterable[Link],
    addresses: Sequence[Address],
    routes: Iterable[KernelRoute],
    store_ips: Iterable[int],
) -> ProtectedAddresses:
    """The addresses to protect, from the kernel's tables and the addresses of the store.

    An interface network that covers the whole pod network is left out: hosts with a wide netmask are common,
    and protecting it would reject every lease. The addresses that nodes use in it are protected one by one.

    A next hop that is the first address of its route's own destination is left out as well: so are flannel's
    routes through a tunnel, and the lease of that subnet is what such a route was made for.
    """
    names = {link.ifindex: link.name for link in links}
    networks = {
        (Subnet.around(each.ip, each.length), names.get(each.ifindex, f"interface {each.ifindex}"))
        for each in addresses
    }
    single = {each.ip: f"this node's own address {show_ip(each.ip)}" for each in addresses}
    for route in routes:
        if route.gateway and route.protocol != PROTOCOL and route.gateway != route.subnet.base:
            single.setdefault(
                route.gateway, f"the next hop {show_ip(route.gateway)} of the route to {route.subnet}"
            )
    for ip in store_ips:
        single.setdefault(ip, f"the store's address {show_ip(ip)}")
    return ProtectedAddresses(
        frozenset(each.ip for each in addresses),
        tuple(sorted(each for each in networks if not each[0].covers(network.network))),
        tuple(sorted(single.items())),
    )


def rejection(
    lease: SubnetLease, network: Network, own: Subnet | None, own_ip: int, protected: ProtectedAddresses
) -> str | None:
    """Why this node should make no route for the lease, or None; other leases are not considered.

    `own` is the node's own subnet, `own_ip` its PublicIP. O(interfaces).
    """
    subnet, public_ip = lease.subnet, lease.public_ip
    if not network.network.covers(subnet):
        return f"{subnet} is not in the network {network.network}"
    if own is not None and own.overlaps(subnet):
        return f"{subnet} overlaps this node's own subnet {own}"
    if public_ip == own_ip or public_ip in protected.own:
        return f"PublicIP {show_ip(public_ip)} is this node's own"
    if network.network.holds(public_ip):
        return f"PublicIP {show_ip(public_ip)} is in the pod network {network.network}, which has no nodes"
    if (what := reserved(subnet)) is not None:
        return f"{subnet} contains {what}"
    if subnet.length < network.subnet_len - MAX_EXTRA_BITS:
        return f"{subnet} is far larger than the network's subnets, which are /{network.subnet_len}"
    for taken, name in protected.networks:
        if taken.overlaps(subnet):
            return f"{subnet} overlaps the network {taken} of {name}"
        if taken.length < 31 and public_ip in (taken.base, taken.last):
            return f"PublicIP {show_ip(public_ip)} is the network or broadcast address of {taken} on {name}"
    for ip, what in protected.single:
        if subnet.holds(ip):
            return f"{subnet} contains {what}"
    return None
