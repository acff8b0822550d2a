"""The steps that turn the kernel's routes of both families into the wanted routes. Pure.

Invariants:

- Routes of others are never changed or removed. The one exception: a route with protocol `boot` to a leased
  subnet, through a gateway that is the public address of an accepted lease or out of a device of the
  backend's, was written by flannel, and is replaced.
- No step can overwrite a foreign route, even one that appeared after the plan was made: a new route is
  created only if none exists (NLM_F_EXCL), and an old route of ours is replaced by adding the new one first
  and then deleting exactly the old one.
- A route that is replaced is deleted only by a plan that finds its successor in the kernel: where the kernel
  refuses the new one, the old one stays. IPv6 refuses a second route through the same next hop, so there a
  route that differs in nothing but protocol or flags is replaced (NLM_F_REPLACE).
- Steps for one destination depend only on the routes to that destination, so the plan for some destinations
  is a part of the plan for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import Subnet6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

PROTOCOL: Final = 78
"""The routing protocol number of all our routes (rtnetlink's rtm_protocol); iproute2 has no name for it."""

BOOT: Final = 3
"""RTPROT_BOOT: the protocol of flannel's routes, and of routes made with `ip route add`."""

UNICAST: Final = 1
UNIVERSE: Final = 0
LINK_SCOPE: Final = 253

METRIC6: Final = 1024
"""IP6_RT_PRIO_USER: the metric of an IPv6 route that was made without one."""


class BoundRoute(NamedTuple):
    """A wanted route whose device is known by its number: to `subnet` through `gateway` (0 for none), out of
    the interface `ifindex`. Table main, the default metric.
    """

    subnet: Subnet | Subnet6
    gateway: int
    ifindex: int
    onlink: bool = False


class KernelRoute(NamedTuple):
    """A route in the kernel's table main.

    `gateway` is 0 if there is none. `plain` is False for multipath routes of IPv4, nexthop objects and
    gateways of another address family.
    """

    subnet: Subnet | Subnet6
    gateway: int
    ifindex: int
    protocol: int = PROTOCOL
    metric: int = 0
    tos: int = 0
    kind: int = UNICAST
    scope: int = UNIVERSE
    plain: bool = True
    onlink: bool = False

    def __str__(self) -> str:
        show = show_ip6 if isinstance(self.subnet, Subnet6) else show_ip
        via = f" via {show(self.gateway)}" if self.gateway else ""
        metric = f" metric {self.metric}" if self.metric else ""
        return f"{self.subnet}{via} dev #{self.ifindex} proto {self.protocol}{metric}"


def in_kernel(route: BoundRoute) -> KernelRoute:
    """The route as the kernel tells it once it is there."""
    subnet, gateway, ifindex, onlink = route
    if type(subnet) is Subnet6:
        return KernelRoute(subnet, gateway, ifindex, metric=METRIC6, onlink=onlink)
    scope = UNIVERSE if gateway else LINK_SCOPE
    return KernelRoute(subnet, gateway, ifindex, scope=scope, onlink=onlink)


class AddRoute(NamedTuple):
    """Make the route. `create` it if there is none to its subnet, `append` it behind the existing one, or
    `replace` the one through the same next hop (IPv6).
    """

    route: BoundRoute
    how: Literal["create", "append", "replace"] = "create"


class DeleteRoute(NamedTuple):
    """Delete exactly this route."""

    route: KernelRoute


RouteStep = AddRoute | DeleteRoute


class Plan(NamedTuple):
    """The routes to add and to delete, and for each wanted route that a foreign route prevents, that foreign
    route.
    """

    additions: list[AddRoute]
    deletions: list[DeleteRoute]
    foreign: dict[Subnet | Subnet6, KernelRoute]


def plan(
    wanted: Mapping[Subnet | Subnet6, BoundRoute],
    present: Mapping[Subnet | Subnet6, Sequence[KernelRoute]],
    gateways: Collection[int],
    subnets: Collection[Subnet | Subnet6] | None = None,
    devices: Collection[int] = (),
) -> Plan:
    """The steps from `present` towards `wanted`, for the given subnets or for all; a second plan from what
    they lead to has the deletions of what they replaced.

    `present` has the routes of table main by destination, `gateways` the public addresses of the accepted
    leases, `devices` the numbers of the backend's devices. O(routes) for all subnets, O(subnets) for some.
    """
    additions: list[AddRoute] = []
    deletions: list[DeleteRoute] = []
    foreign: dict[Subnet | Subnet6, KernelRoute] = {}
    if subnets is None:
        subnets = dict.fromkeys(wanted) | dict.fromkeys(present)
    for subnet in subnets:
        route = wanted.get(subnet)
        there = present.get(subnet)
        if not there:
            if route is not None:
                additions.append(AddRoute(route))
            continue
        ours = [one for one in there if one.protocol == PROTOCOL]
        if route is None:
            deletions.extend(DeleteRoute(one) for one in ours)
            continue
        right = in_kernel(route)
        if len(there) == 1 and ours and right == there[0]:
            continue
        rivals = [one for one in there if _same_priority(one, right)]
        flannels = [
            one
            for one in rivals
            if one.protocol == BOOT
            and one.kind == UNICAST
            and one.plain
            and (one.gateway in gateways or one.ifindex in devices)
        ]
        blocking = next((one for one in rivals if one not in ours and one not in flannels), None)
        obsolete = [one for one in ours if one != right]
        if blocking is not None:
            foreign[subnet] = blocking
        elif right in ours:
            obsolete += flannels
        else:
            replaced = [one for one in obsolete if one in rivals]
            additions.append(AddRoute(route, _way_in(right, [*replaced, *flannels])))
            continue  # the others go when this one is there
        deletions.extend(DeleteRoute(one) for one in obsolete)
    return Plan(additions, deletions, foreign)


def _way_in(right: KernelRoute, replaced: Sequence[KernelRoute]) -> Literal["create", "append", "replace"]:
    """How a route is made in whose place there are others."""
    if not replaced:
        return "create"
    is_twin = isinstance(right.subnet, Subnet6) and any(
        (one.gateway, one.ifindex) == (right.gateway, right.ifindex) for one in replaced
    )
    return "replace" if is_twin else "append"


def _same_priority(route: KernelRoute, other: KernelRoute) -> bool:
    """Whether they have the same metric and type of service, so that the kernel uses only the first of them
    (of IPv6: each for a part of the traffic).
    """
    return route.metric == other.metric and route.tos == other.tos
