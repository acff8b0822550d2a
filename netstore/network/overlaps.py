"""Subnets and leases that overlap, found in one pass over them in ascending order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from netstore.network.addresses import Subnet
    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease

T = TypeVar("T")


def nested(ordered: Iterable[tuple[Subnet, T]]) -> Iterator[tuple[Subnet, T, list[tuple[Subnet, T]]]]:
    """Each subnet and its label, with the earlier ones that cover it, outermost first, equal ones once.

    `ordered` ascends by subnet. Subnets that overlap are nested, so whatever overlaps a subnet is either in
    its list or has the subnet in its own. The list is valid until the next step.
    """
    covering: list[tuple[Subnet, T]] = []
    for subnet, label in ordered:
        while covering and not covering[-1][0].covers(subnet):
            covering.pop()
        yield subnet, label, covering
        if not covering or covering[-1][0] != subnet:
            covering.append((subnet, label))


def conflicts(leases: Mapping[str, SubnetLease], network: Network) -> dict[str, str]:
    """For each lease that is rejected because it overlaps another one, by name: the reason.

    Of two leases that overlap, the one that fits the network config is accepted; if neither fits, both are
    rejected. Of several names for one subnet the first is accepted. O(n log n).
    """
    found: dict[str, str] = {}
    for subnet, name, covering in nested(sorted((lease.subnet, name) for name, lease in leases.items())):
        for larger, other in covering:
            if larger == subnet or not network.fits(subnet):
                found.setdefault(name, f"{subnet} overlaps the lease {other}")
            if larger != subnet and not network.fits(larger):
                found.setdefault(other, f"{larger} overlaps the lease {name}")
    return found
