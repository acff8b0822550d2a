"""The subnets of one address family by the leases that have them, and which leases are rejected because they
overlap. Pure.

Subnets that overlap are nested: one of them covers the other. So what a lease is rejected for is found with a
look at the lengths and at the neighbours of its subnet in ascending order, whatever number of leases there
are, and a change of one lease concerns few others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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


class Claim(NamedTuple):
    """What decides between the leases of one subnet: the node by its PublicIP, the index of the store at
    which the lease was created, and whether its name is of the other form than the network's (single or dual
    stack).
    """

    node: int
    created: int = 0
    is_other_form: bool = False


class Overlaps(Generic[S]):
    """The leases by subnet. `fits` tells whether a node may hold a subnet under the network config.

    Of two leases that overlap, the one that fits the network config is accepted; if neither fits, both are
    rejected. Of several nodes' leases of one subnet the oldest is accepted, by the index at which they were
    created, then by name. A node may have its subnet under two names for a moment, while the network changes
    between single and dual stack: the name of the network's present form is accepted then, and is as old as
    the other.

    A change takes O(log n), and O(k) for k leases of the same subnet or k overlapping ones that do not fit.
    """

    def __init__(self, fits: Callable[[S], bool]) -> None:
        self._fits: Callable[[S], bool] = fits
        self._subnets: dict[str, S] = {}
        self._groups: dict[S, dict[str, Claim]] = {}
        self._first: dict[S, str] = {}
        """The lease that is accepted of each subnet, as far as others of this subnet are concerned."""
        self._ordered: list[S] = []
        self._lengths: Counter[int] = Counter()
        self._odd: list[S] = []
        """The subnets that do not fit, in ascending order."""

    def __contains__(self, name: str) -> bool:
        return name in self._subnets

    def put(self, name: str, subnet: S, claim: Claim) -> set[str]:
        """Take a lease, in the place of its former one. Returns the names whose `reason` may have changed."""
        former = self._subnets.get(name)
        if former == subnet and self._groups[subnet][name] == claim:
            return set()
        changed: set[str] = self.remove(name) if former is not None and former != subnet else set()
        self._subnets[name] = subnet
        group = self._groups.get(subnet)
        if group is None:
            group = self._groups[subnet] = {}
            insort(self._ordered, subnet)
            self._lengths[subnet.length] += 1
            if not self._fits(subnet):
                insort(self._odd, subnet)
        group[name] = claim
        return changed | self._decide(subnet)

    def remove(self, name: str) -> set[str]:
        """Remove a lease, if it is there. Returns the names whose `reason` may have changed."""
        subnet = self._subnets.pop(name, None)
        if subnet is None:
            return set()
        group = self._groups[subnet]
        del group[name]
        if not group:
            del self._groups[subnet]
            del self._ordered[bisect_left(self._ordered, subnet)]
            self._lengths[subnet.length] -= 1
            if not self._lengths[subnet.length]:
                del self._lengths[subnet.length]
            if not self._fits(subnet):
                del self._odd[bisect_left(self._odd, subnet)]
        return self._decide(subnet) | {name}

    def reason(self, name: str) -> str | None:
        """Why a lease is rejected, None if it is not, or not known."""
        subnet = self._subnets.get(name)
        if subnet is None:
            return None
        first = self._first[subnet]
        if self._fits(subnet):
            return None if first == name else f"{subnet} overlaps the lease {first}"
        for larger in self._covering(subnet):
            return f"{subnet} overlaps the lease {self._first[larger]}"
        if first != name:
            return f"{subnet} overlaps the lease {first}"
        at = bisect_right(self._ordered, subnet)
        if at < len(self._ordered) and subnet.covers(self._ordered[at]):
            return f"{subnet} overlaps the lease {self._first[self._ordered[at]]}"
        return None

    def _decide(self, subnet: S) -> set[str]:
        """Choose the accepted lease of a subnet. Returns the names whose reason may have changed."""
        group: dict[str, Claim] = self._groups.get(subnet, {})
        before = self._first.pop(subnet, None)
        if group:
            since: dict[int, int] = {}
            for claim in group.values():
                since[claim.node] = min(claim.created, since.get(claim.node, claim.created))
            self._first[subnet] = min(
                (since[claim.node], claim.is_other_form, claim.created, name) for name, claim in group.items()
            )[-1]
        changed = set(group)
        if self._odd and self._first.get(subnet) != before:
            for other in self._covering(subnet):
                if not self._fits(other):
                    changed.update(self._groups[other])
            for at in range(bisect_right(self._odd, subnet), len(self._odd)):
                if not subnet.covers(self._odd[at]):
                    break
                changed.update(self._groups[self._odd[at]])
        return changed

    def _covering(self, subnet: S) -> Iterator[S]:
        """The larger subnets that cover this one, the largest first."""
        for length in sorted(self._lengths):
            if length >= subnet.length:
                return
            larger = type(subnet).around(subnet.base, length)
            if larger in self._groups:
                yield larger
