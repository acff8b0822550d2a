"""Subnets and leases that overlap, found in one pass over them in ascending order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from netstore.network.config import Network, Network6
    from netstore.network.lease import SubnetLease

S = TypeVar("S", Subnet, Subnet6)
T = TypeVar("T")


def nested(ordered: Iterable[tuple[S, T]]) -> Iterator[tuple[S, T, list[tuple[S, T]]]]:
    """Each subnet and its label, with the earlier ones that cover it, outermost first, equal ones once.

    `ordered` ascends by subnet. Subnets that overlap are nested, so whatever overlaps a subnet is either in
    its list or has the subnet in its own. The list is valid until the next step.
    """
    covering: list[tuple[S, T]] = []
    for subnet, label in ordered:
        while covering and not covering[-1][0].covers(subnet):
            covering.pop()
        yield subnet, label, covering
        if not covering or covering[-1][0] != subnet:
            covering.append((subnet, label))


def conflicts(
    leases: Mapping[str, SubnetLease], network: Network, created: Callable[[str], int] = lambda _: 0
) -> dict[str, str]:
    """For each lease that is rejected because it overlaps another one, by name: the reason.

    Of two leases that overlap, the one that fits the network config is accepted; if neither fits, both are
    rejected. Of several nodes' leases of one subnet the oldest is accepted, by the index at which the name
    was `created`, then by name. A node may have its subnet under two names for a moment, while the network
    changes between single and dual stack: the name of the network's present form is accepted then, and is as
    old as the other. O(n log n).
    """
    since: dict[tuple[Subnet, int], int] = {}
    for name, lease in leases.items():
        node = lease.subnet, lease.public_ip
        since[node] = min(since.get(node, created(name)), created(name))
    ordered = sorted(
        (
            lease.subnet,
            since[lease.subnet, lease.public_ip],
            (lease.subnet6 is None) != (network.ipv6 is None),
            name,
        )
        for name, lease in leases.items()
    )
    return _conflicts(((subnet, name) for subnet, _, _, name in ordered), network.fits)


def conflicts6(
    leases: Mapping[str, SubnetLease], network: Network6, created: Callable[[str], int] = lambda _: 0
) -> dict[str, str]:
    """The twin of `conflicts` for IPv6: the leases of which only the IPv4 subnet may be used."""
    ordered = sorted(
        (lease.subnet6, created(name), name) for name, lease in leases.items() if lease.subnet6 is not None
    )
    return _conflicts(((subnet, name) for subnet, _, name in ordered), network.fits)


def _conflicts(ordered: Iterable[tuple[S, str]], fits: Callable[[S], bool]) -> dict[str, str]:
    found: dict[str, str] = {}
    for subnet, name, covering in nested(ordered):
        for larger, other in covering:
            if larger == subnet or not fits(subnet):
                found.setdefault(name, f"{subnet} overlaps the lease {other}")
            if larger != subnet and not fits(larger):
                found.setdefault(other, f"{larger} overlaps the lease {name}")
    return found
