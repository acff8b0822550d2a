"""Which subnets of a network are free, in flannel's order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.network.config import Network, Network6, Range

S = TypeVar("S", Subnet, Subnet6)

CANDIDATES: Final = 100
"""Nodes that start at the same time choose at random among this many free subnets (flannel), so few collide.
"""


def free_subnets(network: Range[S], taken: Iterable[S], limit: int = CANDIDATES) -> list[S]:
    """The first `limit` subnets of the network that overlap no taken one; taken ones may have any length.

    O(n log n) for n taken subnets, independent of the size of the network.
    """
    length, subnet = network.subnet_len, type(network.network)
    step = 1 << (network.network.bits - length)
    spans = sorted((each.base, each.last) for each in taken)
    free = _free(network.subnet_min, network.subnet_max, step, spans, limit)
    return [subnet(base, length) for base in free]


def counterpart(network: Network, subnet: Subnet, network6: Network6) -> Subnet6 | None:
    """The IPv6 subnet at the place in its network that the IPv4 subnet has in its own; None if nodes may not
    hold that one.
    """
    place = (subnet.base - network.network.base) // subnet.size
    found = Subnet6(network6.network.base + (place << (128 - network6.subnet_len)), network6.subnet_len)
    return found if network6.fits(found) else None


def _free(low: int, high: int, step: int, spans: list[tuple[int, int]], limit: int) -> list[int]:
    """The first `limit` bases from `low` to `high`, a `step` apart, with no address in one of the spans."""
    free: list[int] = []
    at = low
    for start, end in spans:
        while at + step <= start and at <= high and len(free) < limit:
            free.append(at)
            at += step
        if len(free) == limit:
            return free
        if end >= at:
            at += (end - at) // step * step + step
    while at <= high and len(free) < limit:
        free.append(at)
        at += step
    return free
