"""Which subnets of a network are free, in flannel's order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.network.addresses import Subnet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.network.config import Network

CANDIDATES: Final = 100
"""Nodes that start at the same time choose at random among this many free subnets (flannel), so few collide.
"""


def free_subnets(network: Network, taken: Iterable[Subnet], limit: int = CANDIDATES) -> list[Subnet]:
    """The first `limit` subnets of the network that overlap no taken one; taken ones may have any length.

    O(n log n) for n taken subnets, independent of the size of the network.
    """
    length, step = network.subnet_len, 1 << (32 - network.subnet_len)
    free: list[Subnet] = []
    at = network.subnet_min
    for start, end in sorted((subnet.base, subnet.last) for subnet in taken):
        while at + step <= start and at <= network.subnet_max and len(free) < limit:
            free.append(Subnet(at, length))
            at += step
        if len(free) == limit:
            return free
        if end >= at:
            at += (end - at) // step * step + step
    while at <= network.subnet_max and len(free) < limit:
        free.append(Subnet(at, length))
        at += step
    return free
