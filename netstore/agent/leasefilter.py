"""Which leases of other nodes may become routes on this node. Pure.

Everybody who may write to the store can write a lease with any subnet and any next hop, and all nodes would
follow it. So a lease is accepted only for what leases are for. Whatever the network config allows, a lease is
rejected if its route would divert other traffic of this node: to its own addresses and networks, the next
hops of its other routes, the store, the name servers or other nodes, or to addresses that are never routed.
Leases that overlap each other are found by `network.overlaps`.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from netstore.agent.routeplan import PROTOCOL, UNICAST
from netstore.network.addresses import Subnet, reserved, show_ip

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute
    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease

MAX_EXTRA_BITS: Final = 8
"""How many bits shorter than SubnetLen a lease's prefix may be. Nodes keep subnets of an earlier, shorter
SubnetLen for a while, but no node ever had a subnet more than 256 times as large.
"""


HOST_LENGTH: Final = 32
"""Prefix length of a single address. An interface network of this length is no network."""


class ProtectedAddresses:
    """Addresses of this node and of what it depends on, for which no lease may make a route.

    `own` are the node's addresses, `networks` the networks of its interfaces with the interface's name,
    `single` single addresses with a description of each. Looking one up takes O(log n), because a node with
    kube-proxy in its ipvs mode has an address for every service.
    """

    def __init__(
        self,
        own: Iterable[int] = (),
        networks: Iterable[tuple[Subnet, str]] = (),
        single: Iterable[tuple[int, str]] = (),
    ) -> None:
        self.own = frozenset(own)
        self.networks = tuple(sorted(networks))
        self.single = tuple(sorted(single))
        self._names = dict(reversed(self.networks))
        self._lengths = sorted({subnet.length for subnet in self._names})
        self._bases = [subnet.base for subnet, _ in self.networks]
        self._ips = [ip for ip, _ in self.single]
        self._edges = {
            edge: subnet
            for subnet in self._names
            if subnet.length < 31
            for edge in (subnet.base, subnet.last)
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProtectedAddresses):
            return NotImplemented
        return (self.own, self.networks, self.single) == (other.own, other.networks, other.single)

    __hash__ = None  # type: ignore[assignment] # as of a set: it has an equal with the same content

    def network_over(self, subnet: Subnet) -> tuple[Subnet, str] | None:
        """A network that overlaps the subnet, with its interface."""
        for length in self._lengths:
            if length > subnet.length:
                break
            if (name := self._names.get(covering := Subnet.around(subnet.base, length))) is not None:
                return covering, name
        at = bisect_left(self._bases, subnet.base)
        return self.networks[at] if at < len(self._bases) and self._bases[at] <= subnet.last else None

    def single_in(self, subnet: Subnet) -> str | None:
        """The description of an address in the subnet."""
        at = bisect_left(self._ips, subnet.base)
        return self.single[at][1] if at < len(self._ips) and self._ips[at] <= subnet.last else None

    def edge(self, ip: int) -> tuple[Subnet, str] | None:
        """The network whose network or broadcast address this is, with its interface."""
        subnet = self._edges.get(ip)
        return None if subnet is None else (subnet, self._names[subnet])


def protected_addresses(
    networks: Collection[Network],
    links: Iterable[Link],
    addresses: Sequence[Address],
    routes: Iterable[KernelRoute],
    hosts: Mapping[int, str],
) -> ProtectedAddresses:
    """The addresses to protect, from the kernel's tables and what the hosts are that the node needs.

    The networks are those of the interfaces' addresses, and those that another program's route reaches
    without a gateway. One that covers a whole pod network, of which there are two while nodes go from one
    range to another, is left out: hosts with a wide netmask are common, and protecting it would reject every
    lease. The addresses that nodes use in it are protected one
    by one.

    Routes with a gateway are not protected, only their gateways: a daemon that announces the pod network in
    larger pieces is normal beside the routes of this agent. A gateway that is the first address of its
    route's own destination is left out as well: so are flannel's routes through a tunnel, and the lease of
    that subnet is what such a route was made for.
    """
    names = {link.ifindex: link.name for link in links}
    found = {(Subnet.around(each.ip, each.length), each.ifindex) for each in addresses}
    single = {each.ip: f"this node's own address {show_ip(each.ip)}" for each in addresses}
    for route in routes:
        if route.protocol == PROTOCOL or route.kind != UNICAST:
            continue
        if route.gateway:
            if route.gateway == route.subnet.base:
                continue
            single.setdefault(
                route.gateway, f"the next hop {show_ip(route.gateway)} of the route to {route.subnet}"
            )
        elif route.plain and isinstance(route.subnet, Subnet):
            found.add((route.subnet, route.ifindex))
    for ip, what in hosts.items():
        single.setdefault(ip, what)
    return ProtectedAddresses(
        (each.ip for each in addresses),
        (
            (subnet, names.get(ifindex, f"interface {ifindex}"))
            for subnet, ifindex in found
            if subnet.length < HOST_LENGTH and not any(subnet.covers(each.network) for each in networks)
        ),
        single.items(),
    )


def conflict(network: Network, own: Collection[Subnet], protected: ProtectedAddresses) -> str | None:
    """Why the nodes cannot take their subnets by this network config, as far as this node's addresses and
    networks go; None if they can. `own` are the node's own subnets: what is in them is of its pods.
    O(own * (addresses + networks)).
    """

    def is_of_pods(subnet: Subnet) -> bool:
        return any(each.covers(subnet) for each in own)

    for ip in sorted(protected.own):
        if network.network.holds(ip) and not is_of_pods(Subnet(ip, HOST_LENGTH)):
            return (
                f"the new Network {network.network} contains this node's own address {show_ip(ip)}; choose"
                " another one"
            )
    low, high = network.subnet_min, Subnet(network.subnet_max, network.subnet_len).last
    taken = [(subnet, f"overlaps the network {subnet} of {name}") for subnet, name in protected.networks]
    taken += [(Subnet(ip, HOST_LENGTH), f"contains {what}") for ip, what in protected.single]
    for subnet, what in taken:
        if subnet.base <= high and subnet.last >= low and not is_of_pods(subnet):
            return (
                f"the new Network {network.network} {what} on this node; choose another one, or SubnetMin and"
                " SubnetMax that leave it out"
            )
    return None


def rejection(
    lease: SubnetLease, network: Network, own: Subnet | None, own_ip: int, protected: ProtectedAddresses
) -> str | None:
    """Why this node should make no route for the lease, or None; other leases are not considered.

    `own` is the node's own subnet, `own_ip` its PublicIP.
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
    if (found := protected.network_over(subnet)) is not None:
        return f"{subnet} overlaps the network {found[0]} of {found[1]}"
    if (found := protected.edge(public_ip)) is not None:
        return (
            f"PublicIP {show_ip(public_ip)} is the network or broadcast address of {found[0]} on {found[1]}"
        )
    if (what := protected.single_in(subnet)) is not None:
        return f"{subnet} contains {what}"
    return None
