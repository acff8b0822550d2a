"""The routes of one network: the wanted ones, the kernel's, and which of them have to be compared.

Invariants:

- `present` is the kernel's table main, limited to `ranges`, as of the last notification processed.
- A route the kernel rejected is tried again only when the wanted route changes, or when `retry` says that
  links, addresses or on-link routes changed.
- A route of ours goes only when it is not declared any more, or when the one in its place is in the kernel.
- Steps are planned only for the destinations in `dirty`, and these leave it only when nothing has to be done.

What may concern all routes is a generator: it yields after each part of `SLICE` routes, so that the caller
can let others run.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from netstore.agent.routeplan import PROTOCOL, AddRoute, BoundRoute, plan
from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import Subnet6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

    from netstore.agent.kernel import RouteChange
    from netstore.agent.routeplan import DeleteRoute, KernelRoute, RouteStep
    from netstore.agent.wanted import Route

    Destination = Subnet | Subnet6

SLICE: Final = 512
"""Routes or entries in one part of a long piece of work: 1 ms."""

_OUT_OF_DATE: Final = frozenset({errno.EEXIST, errno.ENOENT})
"""Errors that mean that the kernel's table is not what `present` says."""


class RouteTable:
    """The routes of one network.

    `ranges` are the subnets whose routes are managed: the network, and former ones if it was changed. A
    range of IPv4 and one of IPv6 are never equal, because no network of pods begins at the address 0.
    """

    def __init__(self, ranges: Iterable[Destination]) -> None:
        self.manage(ranges)
        self.named: dict[Destination, Route] = {}
        """The wanted routes, with the name of their device."""
        self.wanted: dict[Destination, BoundRoute] = {}
        """Those of them whose device exists."""
        self.unbound: dict[Destination, str] = {}
        """For the others, the reason."""
        self.outside: set[Destination] = set()
        """Declared destinations that are in none of the ranges; there is no wanted route for them."""
        self.gateways: Collection[int] = frozenset()
        self.present: dict[Destination, list[KernelRoute]] = {}
        self.foreign: dict[Destination, KernelRoute] = {}
        """Routes of others that prevent wanted ones."""
        self.rejected: dict[BoundRoute, int] = {}
        """Wanted routes the kernel rejected, with the errno."""
        self.dirty: set[Destination] = set()
        """Destinations to compare."""
        self.used: Counter[str] = Counter()
        """The names of the devices of the wanted routes, with the number of these."""
        self._unresolved: set[Destination] = set()
        """Destinations whose wanted route is new or changed, or whose device is another one."""
        self._numbers: dict[str, int | None] = {}
        """The numbers of the used devices when they were last looked up."""

    def manage(self, ranges: Iterable[Destination]) -> None:
        """The ranges are these from now on; the kernel's table has to be loaded again."""
        self.ranges = tuple(ranges)
        self._ranges4 = tuple(each for each in self.ranges if isinstance(each, Subnet))
        self._ranges6 = tuple(each for each in self.ranges if isinstance(each, Subnet6))

    def has_ours(self, managed: Destination) -> bool:
        """Whether a route of ours, or a wanted one, is in this range."""
        there = {subnet for subnet, routes in self.present.items() if any(map(_is_ours, routes))}
        if isinstance(managed, Subnet6):
            return any(isinstance(each, Subnet6) and managed.covers(each) for each in {*there, *self.named})
        return any(isinstance(each, Subnet) and managed.covers(each) for each in {*there, *self.named})

    @property
    def has_ipv6(self) -> bool:
        """Whether routes of IPv6 are managed."""
        return bool(self._ranges6)

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be looked up or compared."""
        return not self.dirty and not self._unresolved

    @property
    def problems(self) -> dict[Destination, str]:
        """For each wanted route that is not in place, the reason."""
        found = dict(self.unbound)
        if self.outside:
            networks = " and ".join(map(str, self.ranges))
            words = f"its destination is not in {networks}; correct the backend, or the network config"
            found.update(dict.fromkeys(self.outside, words))
        found.update((route.subnet, _rejection(route, code)) for route, code in self.rejected.items())
        for subnet, route in self.foreign.items():
            found[subnet] = (
                f"another program's route is in its place: {route}; remove it to let the agent's in"
            )
        return found

    def declare(self, changes: Mapping[Destination, Route | None], gateways: Collection[int]) -> None:
        """Change the wanted routes; None for those that are wanted no more. `gateways` are the public
        addresses of the accepted leases.
        """
        for subnet, declared in changes.items():
            self.outside.discard(subnet)
            former, route = self.named.get(subnet), declared
            if route is not None and not self.is_in_ranges(route):
                self.outside.add(subnet)
                route = None
            if route == former:
                continue
            if former is not None:
                del self.named[subnet]
                self.used[former.device] -= 1
                if not self.used[former.device]:
                    del self.used[former.device]
                    self._numbers.pop(former.device, None)
            if route is not None:
                self.named[subnet] = route
                self.used[route.device] += 1
            self._unresolved.add(subnet)
        self.gateways = gateways
        self.dirty.update(subnet for subnet, one in self.foreign.items() if one.gateway in gateways)

    def clear(self) -> None:
        """No route is wanted."""
        self.declare(dict.fromkeys([*self.named, *self.outside]), ())

    def rebind(self, number_of: Callable[[str], int | None]) -> None:
        """Devices changed: those whose number is another one have to be looked up for all their routes."""
        changed = {name for name, number in self._numbers.items() if number_of(name) != number}
        if changed:
            self._unresolved.update(subnet for subnet, route in self.named.items() if route.device in changed)

    def bind(self, number_of: Callable[[str], int | None]) -> Generator[None]:
        """Look up the devices of the routes that were declared. `number_of` is the number of the device of
        that name, None if it cannot be used.
        """
        taken = 0
        while self._unresolved:
            subnet = self._unresolved.pop()
            before = self.wanted.pop(subnet, None)
            self.unbound.pop(subnet, None)
            named = self.named.get(subnet)
            if named is not None:
                ifindex = self._numbers[named.device] = number_of(named.device)
                if ifindex is None:
                    self.unbound[subnet] = f"there is no usable device {named.device}"
                else:
                    self.wanted[subnet] = BoundRoute(subnet, named.gateway, ifindex, named.onlink)
            if before is not None and self.wanted.get(subnet) != before:
                self.rejected.pop(before, None)
            self.dirty.add(subnet)
            taken += 1
            if taken % SLICE == 0:
                yield
        self._unresolved = set()  # one that was emptied keeps its room, 88 bytes for each route

    def retry(self) -> None:
        """The kernel may accept now what it rejected."""
        self.dirty.update(route.subnet for route in self.rejected)
        self.rejected.clear()

    def load(self, routes: Sequence[KernelRoute]) -> Generator[None]:
        """Take over the kernel's whole table."""
        present: dict[Destination, list[KernelRoute]] = {}
        for start in range(0, len(routes), SLICE):
            for route in routes[start : start + SLICE]:
                if self.is_in_ranges(route):
                    present.setdefault(route.subnet, []).append(route)
            yield
        self.present = present
        self.dirty.update(self.wanted)
        self.dirty.update(present)

    def is_in_ranges(self, route: KernelRoute | Route) -> bool:
        """Whether the route's destination is managed."""
        subnet = route.subnet
        if isinstance(subnet, Subnet6):
            return any(managed.covers(subnet) for managed in self._ranges6)
        return any(managed.covers(subnet) for managed in self._ranges4)

    def steps(
        self, devices: Collection[int]
    ) -> Generator[None, None, tuple[list[AddRoute], list[DeleteRoute]]]:
        """The additions and deletions for the dirty destinations, which have to be looked at again after
        them. `devices` are the numbers of the backend's devices. While the device of a wanted route cannot be
        used, the route that it is to replace stays.
        """
        additions: list[AddRoute] = []
        deletions: list[DeleteRoute] = []
        subnets = list(self.dirty)
        for start in range(0, len(subnets), SLICE):
            if start:
                yield
            part = subnets[start : start + SLICE]
            planned = plan(self.wanted, self.present, self.gateways, part, devices)
            if self.foreign:
                for subnet in part:
                    self.foreign.pop(subnet, None)
            self.foreign.update(planned.foreign)
            additions += planned.additions
            deletions += planned.deletions
        if self.rejected:
            additions = [step for step in additions if step.route not in self.rejected]
        if self.unbound:
            deletions = [step for step in deletions if step.route.subnet not in self.unbound]
        self.dirty = {step.route.subnet for step in additions}
        self.dirty.update(step.route.subnet for step in deletions)
        return additions, deletions

    def waiting_numbers(self) -> set[int]:
        """The numbers of the interfaces used by routes of ours whose successors are not possible now."""
        subnets = {*self.unbound, *(route.subnet for route in self.rejected)}
        return {one.ifindex for subnet in subnets for one in self.present.get(subnet, ()) if _is_ours(one)}

    def failed(self, step: RouteStep, code: int) -> bool:
        """A step failed with this errno. True if the kernel's table has to be read again."""
        if isinstance(step, AddRoute):
            if code in _OUT_OF_DATE:
                return True
            self.rejected[step.route] = code
        else:  # it is gone, or a route of IPv6 that only shares the destination with one of ours
            self._forget(step.route)
        return False

    def apply(self, change: RouteChange) -> None:
        """The kernel's table changed."""
        route = change.route
        subnet = route.subnet
        self.dirty.add(subnet)
        if change.how == "delete":
            self._forget(route)
            return
        there = self.present.setdefault(subnet, [])
        if change.how == "append":
            if route not in there:
                there.append(route)
            return
        if change.how == "reset":
            there[:] = [one for one in there if one.metric != route.metric]
        elif change.how == "replace":
            same = [one for one in there if (one.metric, one.tos) == (route.metric, route.tos)]
            for one in same[:1]:
                there.remove(one)
        if route in there:
            there.remove(route)
        there.insert(0, route)

    def _forget(self, route: KernelRoute) -> None:
        """The route is gone. Of several next hops of IPv6 the kernel tells one protocol and one scope."""
        there = self.present.get(route.subnet, [])
        if route in there:
            there.remove(route)
        elif isinstance(route.subnet, Subnet6):
            there[:] = [one for one in there if _next_hop(one) != _next_hop(route)]
        if not there:
            self.present.pop(route.subnet, None)


def _is_ours(route: KernelRoute) -> bool:
    return route.protocol == PROTOCOL


def _next_hop(route: KernelRoute) -> tuple[int, int, int]:
    return route.gateway, route.ifindex, route.metric


def _rejection(route: BoundRoute, code: int) -> str:
    show = show_ip6 if isinstance(route.subnet, Subnet6) else show_ip
    via = show(route.gateway)
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return f"next hop {via} is not on-link; it is tried again when a link or an address changes"
    if code in (errno.EPERM, errno.EACCES):
        return "no permission to write routes; the agent needs CAP_NET_ADMIN"
    return f"the kernel rejected the route via {via}: {os.strerror(code)}"
