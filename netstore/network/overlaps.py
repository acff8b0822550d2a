"""The subnets of one address family by the leases that have them, and which leases are rejected because they
overlap. Pure.

Subnets that overlap are nested: one of them covers the other. So what a lease is rejected for is found with a
look at the lengths and at the neighbours of its subnet in ascending order, whatever number of leases there
are, and a change of one lease concerns few others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from itertools import islice
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


class SubnetIndex(Generic[S]):
    """Subnets, of which those that overlap one are found in O(log n) for each length that there is, and O(k)
    for k that are inside of it.
    """

    def __init__(self, subnets: Iterable[S] = ()) -> None:
        self._ordered: list[S] = sorted(subnets)
        self._lengths: Counter[int] = Counter(subnet.length for subnet in self._ordered)

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, subnet: S) -> None:
        """Take a subnet that is not there yet."""
        insort(self._ordered, subnet)
        self._lengths[subnet.length] += 1

    def remove(self, subnet: S) -> None:
        """Remove a subnet that is there."""
        del self._ordered[bisect_left(self._ordered, subnet)]
        self._lengths[subnet.length] -= 1
        if not self._lengths[subnet.length]:
            del self._lengths[subnet.length]

    def covering(self, subnet: S) -> Iterator[S]:
        """Those that are larger than the subnet and cover it, the largest first."""
        for length in sorted(self._lengths):
            if length >= subnet.length:
                return
            larger = type(subnet).around(subnet.base, length)
            at = bisect_left(self._ordered, larger)
            if at < len(self._ordered) and self._ordered[at] == larger:
                yield larger

    def inside(self, subnet: S) -> Iterator[S]:
        """Those that are smaller than the subnet and inside of it, in ascending order."""
        for at in range(bisect_right(self._ordered, subnet), len(self._ordered)):
            if not subnet.covers(self._ordered[at]):
                return
            yield self._ordered[at]

    def overlapping(self, subnet: S) -> Iterator[S]:
        """Those that share an address with the subnet, without itself."""
        yield from self.covering(subnet)
        yield from self.inside(subnet)


class _First(NamedTuple):
    """The lease that is accepted of a subnet: the index since when its node has that, and its name."""

    since: int
    name: str


class Overlaps(Generic[S]):
    """The leases by subnet. `fits` tells whether a node may hold a subnet under the network config; while
    nodes go from one SubnetLen to another, subnets of both lengths fit.

    Of two leases that overlap, the one that fits the network config is accepted; if neither fits, both are
    rejected. Of several that fit and overlap, as several nodes' leases of one subnet, one is rejected if
    another one is older, by the index at which they were created, then by name. A node may have its subnet
    under two names for a moment, while the network changes between single and dual stack: the name of the
    network's present form is accepted then, and is as old as the other.

    A change takes O(log n) for each length that there is, O(k) for k leases of the same subnet, and
    O(k log n) for k leases of smaller subnets inside of it if another lease of the subnet is accepted then.
    """

    def __init__(self, fits: Callable[[S], bool]) -> None:
        self._fits: Callable[[S], bool] = fits
        self._subnets: dict[str, S] = {}
        self._claims: dict[str, Claim] = {}
        self._first: dict[S, _First] = {}
        """The lease that is accepted of each subnet, as far as others of this subnet are concerned."""
        self._groups: dict[S, set[str]] = {}
        """The names of the leases of a subnet that has several. Usually none has."""
        self._smaller: dict[S, list[_First]] = {}
        """The accepted leases of the smaller subnets inside of one, oldest first. Both fit; none is empty."""
        self._fitting: SubnetIndex[S] = SubnetIndex()
        self._odd: SubnetIndex[S] = SubnetIndex()
        """The subnets that do not fit."""

    def __contains__(self, name: str) -> bool:
        return name in self._subnets

    def put(self, name: str, subnet: S, claim: Claim) -> set[str]:
        """Take a lease, in the place of its former one. Returns the names whose `reason` may have changed."""
        former = self._subnets.get(name)
        if former == subnet and self._claims[name] == claim:
            return set()
        changed: set[str] = self.remove(name) if former is not None and former != subnet else set()
        self._subnets[name], self._claims[name] = subnet, claim
        first = self._first.get(subnet)
        if first is None:
            self._index_of(subnet).add(subnet)
            if self._fits(subnet) and (
                smaller := sorted(self._first[each] for each in self._fitting.inside(subnet))
            ):
                self._smaller[subnet] = smaller
            return changed | self._decide(subnet, {name})
        names = self._names(subnet) | {name}
        if len(names) > 1:
            self._groups[subnet] = names
        return changed | self._decide(subnet, names)

    def remove(self, name: str) -> set[str]:
        """Remove a lease, if it is there. Returns the names whose `reason` may have changed."""
        subnet = self._subnets.pop(name, None)
        if subnet is None:
            return set()
        del self._claims[name]
        names = self._names(subnet) - {name}
        if len(names) > 1:
            self._groups[subnet] = names
        else:
            self._groups.pop(subnet, None)
        changed = self._decide(subnet, names) | {name}
        if not names:
            self._index_of(subnet).remove(subnet)
            self._smaller.pop(subnet, None)
        return changed

    def reason(self, name: str) -> str | None:
        """Why a lease is rejected, None if it is not, or not known."""
        subnet = self._subnets.get(name)
        if subnet is None:
            return None
        other = self._older(subnet, name) if self._fits(subnet) else self._rival(subnet, name)
        return None if other is None else f"{subnet} overlaps the lease {other}"

    def _older(self, subnet: S, name: str) -> str | None:
        """The lease for which one of a subnet that fits is rejected."""
        first = self._first[subnet]
        if first.name != name:
            return first.name
        larger: list[_First] = [self._first[each] for each in self._fitting.covering(subnet)]
        oldest = min([first, *larger, *islice(self._smaller.get(subnet, ()), 1)])
        return oldest.name if oldest < first else None

    def _rival(self, subnet: S, name: str) -> str | None:
        """The lease for which one of a subnet that does not fit is rejected."""
        first, indexes = self._first[subnet], (self._fitting, self._odd)
        larger: list[S] = [each for index in indexes for each in index.covering(subnet)]
        if larger:
            return self._first[min(larger)].name
        if first.name != name:
            return first.name
        smaller: list[S] = [each for index in indexes for each in islice(index.inside(subnet), 1)]
        return self._first[min(smaller)].name if smaller else None

    def _names(self, subnet: S) -> set[str]:
        """The names of the leases of a subnet that has some."""
        return self._groups.get(subnet) or {self._first[subnet].name}

    def _index_of(self, subnet: S) -> SubnetIndex[S]:
        return self._fitting if self._fits(subnet) else self._odd

    def _decide(self, subnet: S, names: set[str]) -> set[str]:
        """Choose the accepted lease of a subnet, whose leases have these names. Returns the names whose
        reason may have changed.
        """
        before = self._first.pop(subnet, None)
        if len(names) == 1:  # the usual case, four times as fast
            [name] = names
            self._first[subnet] = _First(self._claims[name].created, name)
        elif names:
            group = {name: self._claims[name] for name in names}
            since: dict[int, int] = {}
            for claim in group.values():
                since[claim.node] = min(claim.created, since.get(claim.node, claim.created))
            *_, first = min(
                (since[claim.node], claim.is_other_form, claim.created, name) for name, claim in group.items()
            )
            self._first[subnet] = _First(since[group[first].node], first)
        changed = set(names)
        now = self._first.get(subnet)
        if now == before:
            return changed
        # Of a larger subnet, and of a smaller one that fits, this may concern only the accepted lease.
        changed.update(self._first[each].name for each in self._odd.covering(subnet))
        for each in self._odd.inside(subnet):
            changed.update(self._names(each))
        if self._fits(subnet):
            changed.update(self._first[each].name for each in self._fitting.overlapping(subnet))
            for each in self._fitting.covering(subnet):
                self._replace_smaller(each, before, now)
        return changed

    def _replace_smaller(self, subnet: S, before: _First | None, now: _First | None) -> None:
        """The accepted lease of a smaller subnet inside of this one is another now."""
        smaller = self._smaller.setdefault(subnet, [])
        if before is not None:
            del smaller[bisect_left(smaller, before)]
        if now is not None:
            insort(smaller, now)
        if not smaller:
            del self._smaller[subnet]
