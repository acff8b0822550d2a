"""The route plan, carried out on a fake kernel: it reaches the wanted routes without a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.routeplan import (
    BOOT,
    METRIC6,
    PROTOCOL,
    AddRoute,
    BoundRoute,
    DeleteRoute,
    KernelRoute,
    RouteStep,
    in_kernel,
    plan,
)
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from tests.support.kernel import ETH0, FakeKernel

if TYPE_CHECKING:
    from collections.abc import Iterator

SUBNETS = [Subnet(parse_ip(f"10.23.{number}.0"), 24) for number in range(3)]
SUBNETS6 = [Subnet6(parse_ip6(f"fd23:0:0:{number}::"), 64) for number in range(1, 4)]
ALL: list[Subnet | Subnet6] = [*SUBNETS, *SUBNETS6]
GATEWAYS = [parse_ip(f"192.168.77.{number}") for number in (12, 13, 14)]
GATEWAYS6 = [parse_ip6(f"fd77::{number}") for number in (12, 13, 14)]
NODES = [*GATEWAYS[:2], *GATEWAYS6[:2]]
TUNNEL = 3
STATIC = 4

Wanted = dict[Subnet | Subnet6, BoundRoute]

bound_routes = st.one_of(
    st.builds(BoundRoute, st.sampled_from(SUBNETS), st.sampled_from(GATEWAYS), st.just(2)),
    st.builds(BoundRoute, st.sampled_from(SUBNETS6), st.sampled_from(GATEWAYS6), st.just(2)),
    st.builds(
        lambda subnet: BoundRoute(subnet, subnet.base, TUNNEL, onlink=True),
        st.sampled_from([*SUBNETS, *SUBNETS6]),
    ),
    st.builds(BoundRoute, st.sampled_from([*SUBNETS, *SUBNETS6]), st.just(0), st.just(TUNNEL)),
)
wanted_tables = st.lists(bound_routes, max_size=5).map(
    lambda routes: {route.subnet: route for route in routes}
)

kernel_routes = st.one_of(
    st.builds(
        KernelRoute,
        st.sampled_from(SUBNETS),
        st.sampled_from(GATEWAYS),
        st.sampled_from([2, TUNNEL]),
        st.sampled_from([PROTOCOL, BOOT, STATIC]),
        st.sampled_from([0, 0, 50]),
        st.sampled_from([0, 0, 0, 4]),
        st.sampled_from([1, 1, 1, 6]),
    ),
    st.builds(
        KernelRoute,
        st.sampled_from(SUBNETS6),
        st.sampled_from(GATEWAYS6),
        st.sampled_from([2, TUNNEL]),
        st.sampled_from([PROTOCOL, BOOT, STATIC]),
        st.sampled_from([METRIC6, METRIC6, 50]),
        st.just(0),  # the kernel tells no type of service for IPv6
        st.just(1),
        st.just(0),
        st.just(value=True),
        st.just(value=False),
    ),
    bound_routes.map(in_kernel),
    st.builds(
        lambda route, protocol: in_kernel(route)._replace(protocol=protocol),
        bound_routes,
        st.sampled_from([BOOT, STATIC]),
    ),
)


def next_hop(route: KernelRoute) -> object:
    """What the kernel has only once: of IPv6 one next hop for each destination and metric."""
    if isinstance(route.subnet, Subnet6):
        return route.subnet, route.metric, route.gateway, route.ifindex
    return route


kernel_tables = st.lists(kernel_routes, max_size=8, unique_by=next_hop)


def metric_of(subnet: Subnet | Subnet6) -> int:
    return METRIC6 if isinstance(subnet, Subnet6) else 0


def is_flannels(route: KernelRoute) -> bool:
    return (
        route.protocol == BOOT
        and route.plain
        and (route.gateway in NODES or route.ifindex == TUNNEL)
        and (route.metric, route.tos, route.kind) == (metric_of(route.subnet), 0, 1)
    )


def table_of(routes: list[KernelRoute]) -> dict[Subnet | Subnet6, list[KernelRoute]]:
    table: dict[Subnet | Subnet6, list[KernelRoute]] = {}
    for route in routes:
        table.setdefault(route.subnet, []).append(route)
    return table


class Roomy(FakeKernel):
    """Every next hop is on-link."""

    def __init__(self) -> None:
        super().__init__()
        self.link_list.append(ETH0._replace(ifindex=TUNNEL, name="flannel.1"))

    def _on_link(self, route: KernelRoute) -> bool:
        return True


@given(wanted_tables, kernel_tables)
def test_a_plan_leads_to_the_wanted_routes_and_leaves_foreign_routes_alone(
    wanted: Wanted, routes: list[KernelRoute]
) -> None:
    kernel = Roomy()
    kernel.table = table_of(routes)
    additions, deletions, foreign = plan(wanted, table_of(routes), NODES, devices=[TUNNEL])
    reachable = {route.subnet for route in routes if route.kind == 1}
    added = {step.route.subnet for step in additions}
    assert not added & {step.route.subnet for step in deletions}, "the kernel may refuse the addition"

    def steps() -> Iterator[RouteStep]:
        yield from additions
        yield from deletions
        second = plan(wanted, kernel.table, NODES, devices=[TUNNEL])
        assert not second.additions
        assert {step.route.subnet for step in second.deletions} <= added
        yield from second.deletions

    for step in steps():
        assert kernel._carry_out(step) == 0, f"{step} failed"
        if isinstance(step, DeleteRoute):
            mine = step.route.protocol == PROTOCOL
            assert mine or (is_flannels(step.route) and step.route.subnet in wanted)
        for subnet in reachable & wanted.keys() - foreign.keys():
            assert kernel.table[subnet], "a live subnet was without a route"
    for subnet in ALL:
        there = kernel.table.get(subnet, [])
        own = [route for route in there if route.protocol == PROTOCOL]
        route = wanted.get(subnet)
        if route is None:
            assert own == []
        elif subnet in foreign:
            assert foreign[subnet] in there
            assert foreign[subnet].protocol != PROTOCOL
            assert not is_flannels(foreign[subnet])
        else:
            assert own == [in_kernel(route)]
            first = next(one for one in there if (one.metric, one.tos) == (metric_of(subnet), 0))
            assert first == own[0], "the kernel would use another route"
    untouched = [
        route
        for route in routes
        if route.protocol != PROTOCOL and not (is_flannels(route) and route.subnet in wanted)
    ]
    left = [route for there in kernel.table.values() for route in there]
    assert all(route in left for route in untouched)
    assert plan(wanted, kernel.table, NODES, devices=[TUNNEL])[:2] == ([], []), "the plan was incomplete"


@given(wanted_tables, kernel_tables)
def test_plans_for_single_subnets_add_up_to_the_plan_for_all(
    wanted: Wanted, routes: list[KernelRoute]
) -> None:
    present = table_of(routes)
    whole = plan(wanted, present, NODES)
    parts = [plan(wanted, present, NODES, [subnet]) for subnet in ALL]
    assert sorted(map(repr, whole.additions)) == sorted(repr(each) for part in parts for each in part[0])
    assert sorted(map(repr, whole.deletions)) == sorted(repr(each) for part in parts for each in part[1])
    assert whole.foreign == {subnet: route for part in parts for subnet, route in part.foreign.items()}


def test_a_route_is_shown_as_iproute2_shows_it() -> None:
    route = KernelRoute(SUBNETS[1], NODES[0], 2, STATIC, 50)
    assert str(route) == "10.23.1.0/24 via 192.168.77.12 dev #2 proto 4 metric 50"
    route = in_kernel(BoundRoute(SUBNETS6[0], GATEWAYS6[0], 2))
    assert str(route) == "fd23:0:0:1::/64 via fd77::12 dev #2 proto 78 metric 1024"


def test_a_foreign_route_with_another_metric_does_not_block() -> None:
    subnet, route = SUBNETS[0], BoundRoute(SUBNETS[0], NODES[0], 2)
    there = [KernelRoute(subnet, GATEWAYS[2], 2, STATIC, metric=50)]
    assert plan({subnet: route}, {subnet: there}, NODES) == ([AddRoute(route)], [], {})


def test_flannels_route_stays_where_a_foreign_route_blocks_ours() -> None:
    subnet, route = SUBNETS[0], BoundRoute(SUBNETS[0], NODES[0], 2)
    static, flannels = KernelRoute(subnet, GATEWAYS[2], 2, STATIC), KernelRoute(subnet, NODES[0], 2, BOOT)
    assert plan({subnet: route}, {subnet: [static, flannels]}, NODES) == ([], [], {subnet: static})


def test_flannels_route_of_ipv6_through_the_same_next_hop_is_replaced_in_one_step() -> None:
    route = BoundRoute(SUBNETS6[0], GATEWAYS6[0], 2)
    flannels = in_kernel(route)._replace(protocol=BOOT)
    assert plan({route.subnet: route}, {route.subnet: [flannels]}, NODES) == (
        [AddRoute(route, "replace")],
        [],
        {},
    )
