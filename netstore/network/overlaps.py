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


class _Rank(NamedTuple):
    """The order of the leases of one subnet."""

    since: int
    is_other_form: bool
    created: int
    name: str


class _Group:
    """The leases of one subnet that has several, in their order. A change costs O(log k) for k of them, and
    the moving of k pointers.
    """

    def __init__(self) -> None:
        self._created: dict[int, list[int]] = {}
        """By node, when its leases were created, ascending."""
        self._names: dict[int, list[tuple[bool, int, str]]] = {}
        """By node, its leases in their order."""
        self._ranks: list[_Rank] = []
        """The first lease of each node, ascending."""
        self.size = 0

    @property
    def first(self) -> _First:
        """The lease that is accepted."""
        rank = self._ranks[0]
        return _First(rank.since, rank.name)

    def add(self, name: str, claim: Claim) -> None:
        """Take a lease that is not there yet."""
        self._withdraw(claim.node)
        insort(self._created.setdefault(claim.node, []), claim.created)
        insort(self._names.setdefault(claim.node, []), (claim.is_other_form, claim.created, name))
        self._rank(claim.node)
        self.size += 1

    def remove(self, name: str, claim: Claim) -> None:
        """Remove a lease that is there."""
        created, names = self._created[claim.node], self._names[claim.node]
        self._withdraw(claim.node)
        del created[bisect_left(created, claim.created)]
        del names[bisect_left(names, (claim.is_other_form, claim.created, name))]
        if names:
            self._rank(claim.node)
        else:
            del self._created[claim.node], self._names[claim.node]
        self.size -= 1

    def _rank_of(self, node: int) -> _Rank:
        return _Rank(self._created[node][0], *self._names[node][0])

    def _rank(self, node: int) -> None:
        insort(self._ranks, self._rank_of(node))

    def _withdraw(self, node: int) -> None:
        """The rank of a node that has leases is about to change."""
        if node in self._names:
            del self._ranks[bisect_left(self._ranks, self._rank_of(node))]


class Overlaps(Generic[S]):
    """The leases by subnet. `fits` tells whether a node may hold a subnet under the network config; while
    nodes go from one SubnetLen to another, subnets of both lengths fit.

    Of two leases that overlap, the one that fits the network config is accepted; if neither fits, both are
    rejected. Of several that fit and overlap, as several nodes' leases of one subnet, one is rejected if
    another one is older, by the index at which they were created, then by name. A node may have its subnet
    under two names for a moment, while the network changes between single and dual stack: the name of the
    network's present form is accepted then, and is as old as the other.

    A change takes O(log n) for each length that there is, however many leases have the same subnet. Besides,
    the first lease of a subnet and the end of the last one take O(k log n) for k other subnets inside of it,
    and another accepted lease of a subnet that fits takes O(k) for those k accepted leases of smaller subnets
    that are older than one of the two and younger than the other.
    """

    def __init__(self, fits: Callable[[S], bool]) -> None:
        self._fits: Callable[[S], bool] = fits
        self._subnets: dict[str, S] = {}
        self._claims: dict[str, Claim] = {}
        self._first: dict[S, _First] = {}
        """The lease that is accepted of each subnet, as far as others of this subnet are concerned."""
        self._groups: dict[S, _Group] = {}
        """The leases of a subnet that has several. Usually none has."""
        self._smaller: dict[S, list[_First]] = {}
        """The accepted leases of the smaller subnets inside of one, oldest first. Both fit; none is empty."""
        self._fitting: SubnetIndex[S] = SubnetIndex()
        self._odd: SubnetIndex[S] = SubnetIndex()
        """The subnets that do not fit."""

    def __contains__(self, name: str) -> bool:
        return name in self._subnets

    def put(self, name: str, subnet: S, claim: Claim) -> set[str]:
        """Take a lease, in the place of its former one. Returns the names of the leases that may be accepted
        or rejected otherwise than before; of others only the reason may be another one (`reason`).
        """
        former, former_claim = self._subnets.get(name), self._claims.get(name)
        if former == subnet and former_claim == claim:
            return set()
        changed: set[str] = self.remove(name) if former is not None and former != subnet else set()
        first = self._first.get(subnet)
        self._subnets[name], self._claims[name] = subnet, claim
        if first is None:
            self._index_of(subnet).add(subnet)
            if self._fits(subnet) and (
                smaller := sorted(self._first[each] for each in self._fitting.inside(subnet))
            ):
                self._smaller[subnet] = smaller
        group = self._groups.get(subnet)
        if group is None and first is not None and first.name != name:
            group = self._groups[subnet] = _Group()
            group.add(first.name, self._claims[first.name])
        if group is None:  # the usual case
            now = _First(claim.created, name)
        else:
            if former == subnet and former_claim is not None:
                group.remove(name, former_claim)
            group.add(name, claim)
            now = group.first
        return changed | {name} | self._accept(subnet, now)

    def remove(self, name: str) -> set[str]:
        """Remove a lease, if it is there. Returns names as `put` does."""
        subnet = self._subnets.pop(name, None)
        if subnet is None:
            return set()
        claim, group = self._claims.pop(name), self._groups.get(subnet)
        if group is None:
            changed = self._accept(subnet, None)
            self._index_of(subnet).remove(subnet)
            self._smaller.pop(subnet, None)
            return changed | {name}
        group.remove(name, claim)
        now = group.first
        if group.size == 1:
            del self._groups[subnet]
        return self._accept(subnet, now) | {name}

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

    def _index_of(self, subnet: S) -> SubnetIndex[S]:
        return self._fitting if self._fits(subnet) else self._odd

    def _accept(self, subnet: S, now: _First | None) -> set[str]:
        """This lease is the first of the subnet now; None if there is none. Returns names as `put` does."""
        before = self._first.pop(subnet, None)
        if now is not None:
            self._first[subnet] = now
        if now == before:
            return set()
        changed = {each.name for each in (before, now) if each is not None}
        # Of any other subnet this may concern only the first lease: the others are rejected for that one.
        if before is None or now is None:  # what does not fit is rejected, whichever lease it overlaps
            changed.update(self._first[each].name for each in self._odd.overlapping(subnet))
        if self._fits(subnet):
            for each in self._fitting.covering(subnet):
                changed.add(self._first[each].name)
                self._replace_smaller(each, before, now)
            changed.update(each.name for each in self._between(subnet, before, now))
        return changed

    def _between(self, subnet: S, before: _First | None, now: _First | None) -> list[_First]:
        """The accepted leases of smaller subnets for which it matters which of these the subnet has."""
        smaller = self._smaller.get(subnet, [])
        places = [len(smaller) if each is None else bisect_left(smaller, each) for each in (before, now)]
        return smaller[min(places) : max(places)]

    def _replace_smaller(self, subnet: S, before: _First | None, now: _First | None) -> None:
        """The accepted lease of a smaller subnet inside of this one is another now."""
        smaller = self._smaller.setdefault(subnet, [])
        if before is not None:
            del smaller[bisect_left(smaller, before)]
        if now is not None:
            insort(smaller, now)
        if not smaller:
            del self._smaller[subnet]
