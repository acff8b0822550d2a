"""The steps that turn the kernel's routes into the wanted routes. Pure.

Invariants:

- Routes of others are never changed or removed. The one exception: a route with protocol `boot` to a leased
  subnet through a gateway that is the PublicIP of a lease was written by flannel, and is replaced.
- No step can overwrite a foreign route, even one that appeared after the plan was made: a new route is
  created only if none exists (NLM_F_EXCL), and an old route of ours is replaced by adding the new one first
  and then deleting exactly the old one.
- Steps for one destination depend only on the routes to that destination, so the plan for some destinations
  is a part of the plan for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.network.addresses import show_ip

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netstore.network.addresses import Subnet

PROTOCOL: Final = 78
"""The routing protocol number of all our routes (rtnetlink's rtm_protocol); iproute2 has no name for it."""

BOOT: Final = 3
"""RTPROT_BOOT: the protocol of flannel's routes, and of routes made with `ip route add`."""

UNICAST: Final = 1
UNIVERSE: Final = 0


class Route(NamedTuple):
    """A wanted route: to `subnet` through `gateway`, out of the interface `ifindex`. Table main, metric 0."""

    subnet: Subnet
    gateway: int
    ifindex: int


class KernelRoute(NamedTuple):
    """A route in the kernel's table main.

    `gateway` is 0 if there is none. `plain` is False for multipath routes, nexthop objects and gateways of
    another address family.
    """

    subnet: Subnet
    gateway: int
    ifindex: int
    protocol: int = PROTOCOL
    metric: int = 0
    tos: int = 0
    kind: int = UNICAST
    scope: int = UNIVERSE
    plain: bool = True

    def __str__(self) -> str:
        via = f" via {show_ip(self.gateway)}" if self.gateway else ""
        metric = f" metric {self.metric}" if self.metric else ""
        return f"{self.subnet}{via} dev #{self.ifindex} proto {self.protocol}{metric}"


class AddRoute(NamedTuple):
    """Create the route if there is none to its subnet; with `append`, add it behind the existing one."""

    route: Route
    append: bool = False


class DeleteRoute(NamedTuple):
    """Delete exactly this route."""

    route: KernelRoute


Step = AddRoute | DeleteRoute


class Plan(NamedTuple):
    """Steps in order, and for each wanted route that a foreign route prevents, that foreign route."""

    steps: list[Step]
    foreign: dict[Subnet, KernelRoute]


def plan(
    wanted: Mapping[Subnet, Route],
    present: Mapping[Subnet, Sequence[KernelRoute]],
    gateways: Collection[int],
    subnets: Collection[Subnet] | None = None,
) -> Plan:
    """The steps from `present` to `wanted`, for the given subnets or for all.

    `present` has the routes of table main by destination, `gateways` the PublicIPs of all leases. O(routes)
    for all subnets, O(subnets) for some.
    """
    steps: list[Step] = []
    deletions: list[Step] = []
    foreign: dict[Subnet, KernelRoute] = {}
    if subnets is None:
        subnets = dict.fromkeys(wanted) | dict.fromkeys(present)
    for subnet in subnets:
        route = wanted.get(subnet)
        there = present.get(subnet)
        if not there:
            if route is not None:
                steps.append(AddRoute(route))
            continue
        ours = [one for one in there if _is_ours(one)]
        if route is None:
            deletions.extend(DeleteRoute(one) for one in ours)
            continue
        flannels = [one for one in there if one not in ours and _is_flannels(one, gateways)]
        blocking = next(
            (one for one in there if one not in ours and one not in flannels and _has_our_priority(one)), None
        )
        right = KernelRoute(route.subnet, route.gateway, route.ifindex)
        if blocking is not None:
            foreign[subnet] = blocking
        elif right not in ours:
            replaces = any(_has_our_priority(one) for one in ours + flannels)
            steps.append(AddRoute(route, append=replaces))
        deletions.extend(
            DeleteRoute(one) for one in (*ours, *(() if blocking is not None else flannels)) if one != right
        )
    return Plan(steps + deletions, foreign)


def _is_ours(route: KernelRoute) -> bool:
    return route.protocol == PROTOCOL


def _is_flannels(route: KernelRoute, gateways: Collection[int]) -> bool:
    """Whether flannel's host-gw backend wrote it: unicast, protocol boot, no metric, through a node."""
    return (
        route.protocol == BOOT
        and route.kind == UNICAST
        and route.plain
        and not route.metric
        and not route.tos
        and route.gateway in gateways
    )


def _has_our_priority(route: KernelRoute) -> bool:
    """Whether it has the metric and type of service of our routes, so that the kernel uses only the first of
    them.
    """
    return not route.metric and not route.tos
