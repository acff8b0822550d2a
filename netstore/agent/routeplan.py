"""Wanted routes, kernel routes, and the steps between them. Pure.

Invariants:

- A route this project did not write is never changed or removed. The one exception: a route with the protocol
  `boot` to a leased subnet through a gateway that is the PublicIP of a lease is flannel's work, and is taken
  over.
- No step can replace a foreign route, even one that appeared a moment ago: a new route is created only if
  nothing is there, and another route of ours is superseded by adding first and removing exactly the old one
  after.
- Steps for one destination depend on what is there for that destination only, so a plan for a few is part of
  the plan for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.network.addresses import show_ip

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netstore.network.addresses import Subnet

PROTOCOL: Final = 78
"""The routing protocol number of every route of ours (rtnetlink, rtm_protocol): not in iproute2's list of
names.
"""

BOOT: Final = 3
"""The protocol of flannel's routes, and of those made by hand with `ip route add`."""

UNICAST: Final = 1
UNIVERSE: Final = 0


class Route(NamedTuple):
    """A route that should be there: to `subnet` through `gateway`, out of the link with that index. Table
    main, metric 0.
    """

    subnet: Subnet
    gateway: int
    link: int


class KernelRoute(NamedTuple):
    """A route of table main as the kernel tells it. `gateway` is 0 for none; `plain` is False for several
    next hops.
    """

    subnet: Subnet
    gateway: int
    link: int
    protocol: int = PROTOCOL
    metric: int = 0
    tos: int = 0
    kind: int = UNICAST
    scope: int = UNIVERSE
    plain: bool = True

    def __str__(self) -> str:
        via = f" via {show_ip(self.gateway)}" if self.gateway else ""
        metric = f" metric {self.metric}" if self.metric else ""
        return f"{self.subnet}{via} dev #{self.link} proto {self.protocol}{metric}"


class Put(NamedTuple):
    """Create the route if there is none to its subnet; with `beside`, add it behind the one that is there."""

    route: Route
    beside: bool = False


class Drop(NamedTuple):
    """Remove exactly this route."""

    route: KernelRoute


Step = Put | Drop


class Plan(NamedTuple):
    """Steps in order, and the foreign routes that stand where a wanted route should be."""

    steps: list[Step]
    foreign: dict[Subnet, KernelRoute]


def plan(
    wanted: Mapping[Subnet, Route],
    present: Mapping[Subnet, Sequence[KernelRoute]],
    gateways: Collection[int],
    subnets: Collection[Subnet] | None = None,
) -> Plan:
    """Steps from present to wanted, for the given subnets or for all. `gateways` are the PublicIPs of all
    leases.

    `present` lists the routes of table main per destination. O(routes) for all, O(subnets) for some.
    """
    steps: list[Step] = []
    drops: list[Step] = []
    foreign: dict[Subnet, KernelRoute] = {}
    if subnets is None:
        subnets = dict.fromkeys(wanted) | dict.fromkeys(present)
    for subnet in subnets:
        route = wanted.get(subnet)
        there = present.get(subnet)
        if not there:
            if route is not None:
                steps.append(Put(route))
            continue
        ours = [one for one in there if _is_ours(one)]
        if route is None:
            drops.extend(Drop(one) for one in ours)
            continue
        old = [one for one in there if one not in ours and _is_flannels(one, gateways)]
        rival = next((one for one in there if one not in ours and one not in old and _is_rival(one)), None)
        right = KernelRoute(route.subnet, route.gateway, route.link)
        if rival is not None:
            foreign[subnet] = rival
        elif right not in ours:
            in_the_way = any(_is_rival(one) for one in ours + old)
            steps.append(Put(route, beside=in_the_way))
        drops.extend(Drop(one) for one in (*ours, *(() if rival is not None else old)) if one != right)
    return Plan(steps + drops, foreign)


def _is_ours(route: KernelRoute) -> bool:
    return route.protocol == PROTOCOL


def _is_flannels(route: KernelRoute, gateways: Collection[int]) -> bool:
    """What flannel's host-gw writes: unicast, boot, no metric, through a node."""
    return (
        route.protocol == BOOT
        and route.kind == UNICAST
        and route.plain
        and not route.metric
        and not route.tos
        and route.gateway in gateways
    )


def _is_rival(route: KernelRoute) -> bool:
    """Whether the kernel keeps it in the place of a route of ours: same destination, same metric, same type
    of service.
    """
    return not route.metric and not route.tos
