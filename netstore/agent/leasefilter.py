"""Which leases of others become routes on this node. Pure.

The store is shared: whoever may write a lease names a subnet and a next hop, and every node would follow. So
no lease is believed beyond what it is for. Refused, whatever the network config allows, is a lease that would
take this node's traffic to anything but pods: its own addresses and networks, the next hops of its other
routes, the store, other nodes, or ranges that are nobody's to route. Leases that overlap each other are
found by `network.overlaps`.
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
    from netstore.network.lease import Lease

LARGEST_TIMES: Final = 8
"""How many bits shorter than SubnetLen a lease may be: nodes keep subnets of an earlier, larger SubnetLen for
a while, and none that is 256 times as large was ever one node's.
"""


class Ground(NamedTuple):
    """What of this node, and of what it depends on, no lease may take over.

    `networks` are the networks of its interfaces with the interface's name; `places` are single addresses,
    each with what it is. `own` are the node's own addresses.
    """

    own: frozenset[int] = frozenset()
    networks: tuple[tuple[Subnet, str], ...] = ()
    places: tuple[tuple[int, str], ...] = ()


def ground(
    network: Network,
    links: Iterable[Link],
    addresses: Sequence[Address],
    routes: Iterable[KernelRoute],
    stores: Iterable[int],
) -> Ground:
    """What the kernel says, as far as it matters here. `stores` are the addresses of the store.

    An interface whose network holds the whole pod network does not count as a network: hosts with a wide
    netmask are common, and what of it is used by nodes shows in their addresses.
    """
    names = {link.number: link.name for link in links}
    networks = {
        (Subnet.around(each.ip, each.length), names.get(each.link, f"interface {each.link}"))
        for each in addresses
    }
    places = {each.ip: f"this node's own address {show_ip(each.ip)}" for each in addresses}
    for route in routes:
        if route.gateway and route.protocol != PROTOCOL:
            places.setdefault(
                route.gateway, f"the next hop {show_ip(route.gateway)} of the route to {route.subnet}"
            )
    for ip in stores:
        places.setdefault(ip, f"the store's address {show_ip(ip)}")
    return Ground(
        frozenset(each.ip for each in addresses),
        tuple(sorted(each for each in networks if not each[0].covers(network.network))),
        tuple(sorted(places.items())),
    )


def objection(lease: Lease, network: Network, own: Subnet | None, own_ip: int, ground: Ground) -> str | None:
    """Why this node should make no route for the lease, looked at alone, or None. `own` is the node's own
    subnet. O(interfaces).
    """
    subnet, public_ip = lease.subnet, lease.public_ip
    if not network.network.covers(subnet):
        return f"{subnet} is not in the network {network.network}"
    if own is not None and own.overlaps(subnet):
        return f"{subnet} overlaps this node's own subnet {own}"
    if public_ip == own_ip or public_ip in ground.own:
        return f"PublicIP {show_ip(public_ip)} is this node's own"
    if network.network.holds(public_ip):
        return f"PublicIP {show_ip(public_ip)} is in the network {network.network}, where no node is"
    if (what := reserved(subnet)) is not None:
        return f"{subnet} holds {what}"
    if subnet.length < network.subnet_len - LARGEST_TIMES:
        return f"{subnet} is far larger than the network's subnets, which are /{network.subnet_len}"
    for taken, name in ground.networks:
        if taken.overlaps(subnet):
            return f"{subnet} overlaps the network {taken} of {name}"
        if taken.length < 31 and public_ip in (taken.base, taken.last):
            return f"PublicIP {show_ip(public_ip)} is not a host's: {taken} of {name} begins or ends there"
    for ip, what in ground.places:
        if subnet.holds(ip):
            return f"{subnet} holds {what}"
    return None
