"""Which leases of other nodes may become routes on this node. Pure.

Everybody who may write to the store can write a lease with any subnet and any next hop, and all nodes would
follow it. So a lease is accepted only for what leases are for. Whatever the network config allows, a lease is
rejected if its route would divert other traffic of this node: to its own addresses and networks, the next
hops of its other routes, the store, the name servers or other nodes, or to addresses that are never routed.
Leases that overlap each other are found by `network.overlaps`. A lease whose IPv6 subnet is rejected is
served over IPv4 only.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from netstore.agent.deviceplan import BRIDGE
from netstore.agent.routeplan import PROTOCOL, UNICAST
from netstore.network.addresses import Subnet, is_unicast, reserved, show_ip
from netstore.network.ipv6 import Subnet6, is_unicast6, reserved6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute
    from netstore.network.config import Network, Range

S = TypeVar("S", Subnet, Subnet6)

MAX_EXTRA_BITS: Final = 8
"""How many bits shorter than SubnetLen a lease's prefix may be. Nodes keep subnets of an earlier, shorter
SubnetLen for a while, but no node ever had a subnet more than 256 times as large.
"""


HOST_LENGTH: Final = 32
"""Prefix length of a single IPv4 address. An interface network of this length is no network."""


@dataclass(frozen=True, slots=True)
class Family(Generic[S]):
    """What differs between IPv4 and IPv6."""

    subnet: type[S]
    public_ip: str
    """The field of a lease that has the address of its node."""
    show: Callable[[int], str]
    reserved: Callable[[S], str | None]
    is_host: Callable[[int], bool]


IPV4: Final = Family(Subnet, "PublicIP", show_ip, reserved, is_unicast)
IPV6: Final = Family(Subnet6, "PublicIPv6", show_ip6, reserved6, is_unicast6)


class ProtectedAddresses(Generic[S]):
    """Addresses of one family of this node and of what it depends on, for which no lease may make a route.

    `own` are the node's addresses, `networks` the networks of its interfaces with the interface's name,
    `single` single addresses with a description of each. `left` are networks of bridges that are down, or
    left by pods: other nodes may have subnets there, this one takes none, which the bridge's address would
    not fit. Looking one up takes O(log n), because a node with kube-proxy in its ipvs mode has an address for
    every service.
    """

    def __init__(
        self,
        own: Iterable[int] = (),
        networks: Iterable[tuple[S, str]] = (),
        single: Iterable[tuple[int, str]] = (),
        left: Iterable[S] = (),
    ) -> None:
        self.left: frozenset[S] = frozenset(left)
        self.own = frozenset(own)
        self.networks: tuple[tuple[S, str], ...] = tuple(sorted(networks))
        self.single = tuple(sorted(single))
        self._names: dict[S, str] = dict(reversed(self.networks))
        self._lengths = sorted({subnet.length for subnet in self._names})
        self._bases: list[int] = [subnet.base for subnet, _ in self.networks]
        self._ips = [ip for ip, _ in self.single]
        self._edges: dict[int, S] = {
            edge: subnet
            for subnet in self._names
            if subnet.bits == HOST_LENGTH and subnet.length < 31  # IPv6 has no broadcast
            for edge in (subnet.base, subnet.last)
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProtectedAddresses):
            return NotImplemented
        mine = self.own, self.networks, self.single, self.left
        return mine == (other.own, other.networks, other.single, other.left)

    __hash__ = None  # type: ignore[assignment] # as of a set: it has an equal with the same content

    def network_over(self, subnet: S) -> tuple[S, str] | None:
        """A network that overlaps the subnet, with its interface."""
        for length in self._lengths:
            if length > subnet.length:
                break
            covering = type(subnet).around(subnet.base, length)
            if (name := self._names.get(covering)) is not None:
                return covering, name
        at = bisect_left(self._bases, subnet.base)
        return self.networks[at] if at < len(self._bases) and self._bases[at] <= subnet.last else None

    def single_in(self, subnet: S) -> str | None:
        """The description of an address in the subnet."""
        at = bisect_left(self._ips, subnet.base)
        return self.single[at][1] if at < len(self._ips) and self._ips[at] <= subnet.last else None

    def edge(self, ip: int) -> tuple[S, str] | None:
        """The network whose network or broadcast address this is, with its interface."""
        subnet = self._edges.get(ip)
        return None if subnet is None else (subnet, self._names[subnet])


def protected_addresses(
    family: Family[S],
    pods: Collection[Range[S]],
    links: Sequence[Link],
    addresses: Sequence[Address],
    *,
    routes: Iterable[KernelRoute],
    hosts: Mapping[int, str],
) -> ProtectedAddresses[S]:
    """The addresses to protect, from the kernel's tables of this family and what the hosts are that the node
    needs. `pods` are the pod networks, of which there are two while nodes go from one to another.

    The networks are those of the interfaces' addresses, and those that another program's route reaches
    without a gateway. One that covers a whole pod network is left out: hosts with a wide netmask are common,
    and protecting it would reject every lease. The addresses that nodes use in it are protected one by one.
    Reserved ones, as link-local, are left out too: no pod network has them.

    A bridge inside a pod network protects what the kernel has a route for. While it is down, that is nothing
    but its address, which stays this node's whatever routes there are. While it is up, it has a route to its
    network, also without ports, so that a longer lease would take traffic from it as soon as it has one. The
    exception is a bridge without ports whose network is a subnet as nodes have them: bridges stay when their
    last pod and its subnet are gone, and the subnet is another node's then.

    Routes with a gateway are not protected, only their gateways: a daemon that announces the pod network in
    larger pieces is normal beside the routes of this agent. A gateway that is the first address of its
    route's own destination is left out as well: so are flannel's routes through a tunnel, and the lease of
    that subnet is what such a route was made for.
    """
    names = {link.ifindex: link.name for link in links}
    masters = {link.master for link in links}
    bridges = [link for link in links if link.kind == BRIDGE]
    down = {link.ifindex for link in bridges if not link.up}
    idle = {link.ifindex for link in bridges if link.ifindex not in masters}
    ranges = [each.network for each in pods]
    host_length, show = ranges[0].bits, family.show

    def is_left(subnet: S, ifindex: int) -> bool:
        """Whether it is the network of a bridge that protects nothing."""
        around = [each for each in pods if each.network.covers(subnet) and each.network != subnet]
        if ifindex in down:
            return bool(around)
        return ifindex in idle and any(subnet.length == each.subnet_len for each in around)

    found_at = [(family.subnet.around(each.ip, each.length), each) for each in addresses]
    left = {subnet for subnet, each in found_at if is_left(subnet, each.ifindex)}
    addresses = [each for subnet, each in found_at if not is_left(subnet, each.ifindex)]
    usual = [each for each in addresses if family.reserved(family.subnet(each.ip, host_length)) is None]
    found: set[tuple[S, int]] = {(family.subnet.around(each.ip, each.length), each.ifindex) for each in usual}
    single = {each.ip: f"this node's own address {show(each.ip)}" for each in usual}
    for route in routes:
        subnet = route.subnet
        if route.protocol == PROTOCOL or route.kind != UNICAST or not isinstance(subnet, family.subnet):
            continue
        if route.gateway:
            if route.gateway == subnet.base:
                continue
            single.setdefault(route.gateway, f"the next hop {show(route.gateway)} of the route to {subnet}")
        elif route.plain and family.reserved(subnet) is None and not is_left(subnet, route.ifindex):
            found.add((subnet, route.ifindex))
    for ip, what in hosts.items():
        single.setdefault(ip, what)
    return ProtectedAddresses(
        (each.ip for each in addresses),
        (
            (subnet, names.get(ifindex, f"interface {ifindex}"))
            for subnet, ifindex in found
            if subnet.length < host_length and not any(subnet.covers(each) for each in ranges)
        ),
        single.items(),
        left,
    )


def conflict(
    network: Network, present: Collection[Subnet], protected: ProtectedAddresses[Subnet]
) -> str | None:
    """Why the nodes cannot take their subnets by this network config, as far as this node's addresses and
    networks go; None if they can. `present` are the present range and the node's own subnets: what is in them
    does no more harm than before. O(present * (addresses + networks)).
    """

    def is_present(subnet: Subnet) -> bool:
        return any(each.covers(subnet) for each in present)

    for ip in sorted(protected.own):
        if network.network.holds(ip) and not is_present(Subnet(ip, HOST_LENGTH)):
            return (
                f"the new Network {network.network} contains this node's own address {show_ip(ip)}; choose"
                " another one"
            )
    low, high = network.subnet_min, Subnet(network.subnet_max, network.subnet_len).last
    taken = [(subnet, f"overlaps the network {subnet} of {name}") for subnet, name in protected.networks]
    taken += [(Subnet(ip, HOST_LENGTH), f"contains {what}") for ip, what in protected.single]
    for subnet, what in taken:
        if subnet.base <= high and subnet.last >= low and not is_present(subnet):
            return (
                f"the new Network {network.network} {what} on this node; choose another one, or SubnetMin and"
                " SubnetMax that leave it out"
            )
    return None


def rejection(
    family: Family[S],
    subnet: S,
    public_ip: int | None,
    network: Range[S],
    *,
    own: tuple[S | None, int | None],
    protected: ProtectedAddresses[S],
) -> str | None:
    """Why this node should make no route to a subnet through the address of its node, or None; other leases
    are not considered. `own` are the node's own subnet and address, as its lease says. O(log n).
    """
    own_subnet, own_ip = own
    if not network.network.covers(subnet):
        return f"{subnet} is not in the network {network.network}"
    if own_subnet is not None and own_subnet.overlaps(subnet):
        return f"{subnet} overlaps this node's own subnet {own_subnet}"
    if public_ip is not None and (what := _misuse(family, public_ip, network, own_ip, protected)) is not None:
        return f"{family.public_ip} {family.show(public_ip)} {what}"
    if (what := family.reserved(subnet)) is not None:
        return f"{subnet} contains {what}"
    if subnet.length < network.subnet_len - MAX_EXTRA_BITS:
        return f"{subnet} is far larger than the network's subnets, which are /{network.subnet_len}"
    if (over := protected.network_over(subnet)) is not None:
        return f"{subnet} overlaps the network {over[0]} of {over[1]}"
    if (what := protected.single_in(subnet)) is not None:
        return f"{subnet} contains {what}"
    return None


def _misuse(
    family: Family[S],
    public_ip: int,
    network: Range[S],
    own_ip: int | None,
    protected: ProtectedAddresses[S],
) -> str | None:
    """What is wrong with the address of another node."""
    if public_ip == own_ip or public_ip in protected.own:
        return "is this node's own"
    if not family.is_host(public_ip):
        return "is not an address of a host"
    if network.network.holds(public_ip):
        return f"is in the pod network {network.network}, which has no nodes"
    if (edge := protected.edge(public_ip)) is not None:
        return f"is the network or broadcast address of {edge[0]} on {edge[1]}"
    return None
