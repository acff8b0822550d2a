"""Which subnets are free, in the order flannel looks for them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.network.addresses import Subnet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.network.config import Network

CANDIDATES: Final = 100
"""Nodes that start together choose among this many free subnets (flannel), so few of them meet."""


def free_subnets(network: Network, taken: Iterable[Subnet], limit: int = CANDIDATES) -> list[Subnet]:
    """The first `limit` subnets of the network that overlap none of the taken ones, whatever their length.

    Costs O(n log n) for n taken subnets, however large the network is.
    """
    length, step = network.subnet_len, 1 << (32 - network.subnet_len)
    holes: list[Subnet] = []
    at = network.subnet_min
    for start, end in sorted((subnet.base, subnet.last) for subnet in taken):
        while at + step <= start and at <= network.subnet_max and len(holes) < limit:
            holes.append(Subnet(at, length))
            at += step
        if len(holes) == limit:
            return holes
        if end >= at:
            at += (end - at) // step * step + step
    while at <= network.subnet_max and len(holes) < limit:
        holes.append(Subnet(at, length))
        at += step
    return holes
