"""The routes of one network: the wanted ones, the kernel's, and which of them have to be compared.

Invariants:

- `present` is the kernel's table main, limited to `ranges`, as of the last notification processed.
- A route the kernel rejected is tried again only when the wanted route changes, or when `retry` says that
  links, addresses or on-link routes changed.
- A route of ours goes only when it is not declared any more, or when the one in its place is in the kernel.
- Steps are planned only for the destinations in `dirty`, and these leave it only when nothing has to be done.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from netstore.agent.routeplan import PROTOCOL, AddRoute, BoundRoute, plan
from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import Subnet6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from netstore.agent.kernel import RouteChange
    from netstore.agent.routeplan import DeleteRoute, KernelRoute, RouteStep
    from netstore.agent.wanted import Route

    Destination = Subnet | Subnet6

_OUT_OF_DATE: Final = frozenset({errno.EEXIST, errno.ENOENT})
"""Errors that mean that the kernel's table is not what `present` says."""


class RouteTable:
    """The routes of one network.

    `ranges` are the subnets whose routes are managed: the network, and the former one if it was changed. A
    range of IPv4 and one of IPv6 are never equal, because no network of pods begins at the address 0.
    """

    def __init__(self, ranges: Iterable[Destination]) -> None:
        self.ranges = tuple(ranges)
        self._ranges4 = tuple(each for each in self.ranges if isinstance(each, Subnet))
        self._ranges6 = tuple(each for each in self.ranges if isinstance(each, Subnet6))
        self.named: dict[Destination, Route] = {}
        """The wanted routes, with the name of their device."""
        self.wanted: dict[Destination, BoundRoute] = {}
        """Those of them whose device exists."""
        self.unbound: dict[Destination, str] = {}
        """For the others, the reason."""
        self.outside: set[Destination] = set()
        """Declared destinations that are in none of the ranges; there is no wanted route for them."""
        self.gateways: frozenset[int] = frozenset()
        self.present: dict[Destination, list[KernelRoute]] = {}
        self.foreign: dict[Destination, KernelRoute] = {}
        """Routes of others that prevent wanted ones."""
        self.rejected: dict[BoundRoute, int] = {}
        """Wanted routes the kernel rejected, with the errno."""
        self.dirty: set[Destination] | None = None
        """Destinations to compare; None for all."""
        self.used: set[str] = set()
        """The names of the devices of the wanted routes."""
        self._unresolved: set[Destination] | None = set()
        """Destinations whose wanted route is new or changed; None for all."""

    @property
    def has_ipv6(self) -> bool:
        """Whether routes of IPv6 are managed."""
        return bool(self._ranges6)

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be looked up or compared."""
        return self.dirty == set() and self._unresolved == set()

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

    def declare(self, routes: Iterable[Route], gateways: Collection[int]) -> None:
        """Replace the wanted routes. `gateways` are the public addresses of the accepted leases."""
        before, self.named = self.named, {}
        self.outside = set()
        for route in routes:
            if self.is_in_ranges(route):
                self.named[route.subnet] = route
            else:
                self.outside.add(route.subnet)
        self.used = {route.device for route in self.named.values()}
        self.gateways = frozenset(gateways)
        changed = {subnet for subnet, route in self.named.items() if before.get(subnet) != route}
        changed.update(subnet for subnet in before if subnet not in self.named)
        if self._unresolved is not None:
            self._unresolved |= changed
        self.mark(self.foreign)

    def rebind(self) -> None:
        """Devices changed, so those of all wanted routes have to be looked up."""
        self._unresolved = None

    def bind(self, numbers: Mapping[str, int]) -> None:
        """Look up the devices of the routes that were declared. `numbers` are those of the devices that can
        be used, by name.
        """
        subnets, self._unresolved = self._unresolved, set()
        if subnets is None:
            subnets = {*self.wanted, *self.unbound, *self.named}
        for subnet in subnets:
            before = self.wanted.pop(subnet, None)
            self.unbound.pop(subnet, None)
            named = self.named.get(subnet)
            if named is not None:
                ifindex = numbers.get(named.device)
                if ifindex is None:
                    self.unbound[subnet] = f"there is no usable device {named.device}"
                else:
                    self.wanted[subnet] = BoundRoute(subnet, named.gateway, ifindex, named.onlink)
            if before is not None and self.wanted.get(subnet) != before:
                self.rejected.pop(before, None)
        self.mark(subnets)

    def mark(self, subnets: Iterable[Destination]) -> None:
        """These destinations have to be compared."""
        if self.dirty is not None:
            self.dirty.update(subnets)

    def retry(self) -> None:
        """The kernel may accept now what it rejected."""
        self.mark(route.subnet for route in self.rejected)
        self.rejected.clear()

    def load(self, routes: Iterable[KernelRoute]) -> None:
        """Take over the kernel's whole table."""
        present: dict[Destination, list[KernelRoute]] = {}
        for route in routes:
            if self.is_in_ranges(route):
                present.setdefault(route.subnet, []).append(route)
        self.present = present
        self.dirty = None

    def is_in_ranges(self, route: KernelRoute | Route) -> bool:
        """Whether the route's destination is managed."""
        subnet = route.subnet
        if isinstance(subnet, Subnet6):
            return any(managed.covers(subnet) for managed in self._ranges6)
        return any(managed.covers(subnet) for managed in self._ranges4)

    def steps(self, devices: Collection[int]) -> tuple[list[AddRoute], list[DeleteRoute]]:
        """The additions and deletions for the dirty destinations, which have to be looked at again after
        them. `devices` are the numbers of the backend's devices. While the device of a wanted route cannot be
        used, the route that it is to replace stays.
        """
        additions, deletions, foreign = plan(self.wanted, self.present, self.gateways, self.dirty, devices)
        if self.dirty is None:
            self.foreign = foreign
        else:
            for subnet in self.dirty:
                self.foreign.pop(subnet, None)
            self.foreign.update(foreign)
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
        return {
            one.ifindex
            for subnet in subnets
            for one in self.present.get(subnet, ())
            if one.protocol == PROTOCOL
        }

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
        self.mark((subnet,))
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
