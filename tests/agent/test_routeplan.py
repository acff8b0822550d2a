"""The route plan, carried out on a fake kernel: it reaches the wanted routes without a gap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.routeplan import BOOT, PROTOCOL, AddRoute, DeleteRoute, KernelRoute, Route, plan
from netstore.network.addresses import Subnet, parse_ip
from tests.support.kernel import FakeKernel

SUBNETS = [Subnet(parse_ip(f"10.23.{number}.0"), 24) for number in range(4)]
GATEWAYS = [parse_ip(f"192.168.77.{number}") for number in (12, 13, 14)]
NODES = GATEWAYS[:2]
STATIC = 4

wanted_tables = st.dictionaries(st.sampled_from(SUBNETS), st.sampled_from(GATEWAYS), max_size=4).map(
    lambda table: {subnet: Route(subnet, gateway, 2) for subnet, gateway in table.items()}
)

kernel_routes = st.builds(
    KernelRoute,
    st.sampled_from(SUBNETS),
    st.sampled_from(GATEWAYS),
    st.sampled_from([2, 3]),
    st.sampled_from([PROTOCOL, BOOT, STATIC]),
    st.sampled_from([0, 0, 50]),
    st.sampled_from([0, 0, 0, 4]),
    st.sampled_from([1, 1, 1, 6]),
)


def is_flannels(route: KernelRoute) -> bool:
    return (
        route.protocol == BOOT
        and route.gateway in NODES
        and (route.metric, route.tos, route.kind) == (0, 0, 1)
    )


def table_of(routes: list[KernelRoute]) -> dict[Subnet, list[KernelRoute]]:
    table: dict[Subnet, list[KernelRoute]] = {}
    for route in routes:
        table.setdefault(route.subnet, []).append(route)
    return table


@given(wanted_tables, st.lists(kernel_routes, max_size=8, unique=True))
def test_a_plan_leads_to_the_wanted_routes_and_leaves_foreign_routes_alone(
    wanted: dict[Subnet, Route], routes: list[KernelRoute]
) -> None:
    kernel = FakeKernel()
    kernel.table = table_of(routes)
    steps, foreign = plan(wanted, table_of(routes), NODES)
    reachable = {route.subnet for route in routes if route.kind == 1}
    for step in steps:
        assert kernel._carry_out(step) == 0, f"{step} failed"
        if isinstance(step, DeleteRoute):
            mine = step.route.protocol == PROTOCOL
            assert mine or (is_flannels(step.route) and step.route.subnet in wanted)
        for subnet in reachable & wanted.keys() - foreign.keys():
            assert kernel.table[subnet], "a live subnet was without a route"
    for subnet in SUBNETS:
        there = kernel.table.get(subnet, [])
        own = [route for route in there if route.protocol == PROTOCOL]
        route = wanted.get(subnet)
        if route is None:
            assert own == []
        elif subnet in foreign:
            assert foreign[subnet] in there
            assert foreign[subnet].protocol != PROTOCOL
        else:
            assert own == [KernelRoute(route.subnet, route.gateway, route.ifindex)]
            first = next(one for one in there if (one.metric, one.tos) == (0, 0))
            assert first == own[0], "the kernel would use another route"
    untouched = [
        route
        for route in routes
        if route.protocol != PROTOCOL and not (is_flannels(route) and route.subnet in wanted)
    ]
    left = [route for there in kernel.table.values() for route in there]
    assert all(route in left for route in untouched)
    assert plan(wanted, kernel.table, NODES).steps == [], "the plan was incomplete"


@given(wanted_tables, st.lists(kernel_routes, max_size=8, unique=True))
def test_plans_for_single_subnets_add_up_to_the_plan_for_all(
    wanted: dict[Subnet, Route], routes: list[KernelRoute]
) -> None:
    present = table_of(routes)
    whole = plan(wanted, present, NODES)
    parts = [plan(wanted, present, NODES, [subnet]) for subnet in SUBNETS]
    assert sorted(map(repr, whole.steps)) == sorted(repr(step) for part in parts for step in part.steps)
    assert whole.foreign == {subnet: route for part in parts for subnet, route in part.foreign.items()}


def test_routes_are_added_before_others_are_deleted() -> None:
    old, new = SUBNETS[:2]
    steps = plan({new: Route(new, NODES[0], 2)}, {old: [KernelRoute(old, NODES[0], 2)]}, NODES).steps
    assert steps == [AddRoute(Route(new, NODES[0], 2)), DeleteRoute(KernelRoute(old, NODES[0], 2))]


def test_a_route_is_shown_as_iproute2_shows_it() -> None:
    route = KernelRoute(SUBNETS[1], NODES[0], 2, STATIC, 50)
    assert str(route) == "10.23.1.0/24 via 192.168.77.12 dev #2 proto 4 metric 50"


def test_a_foreign_route_with_another_metric_does_not_block() -> None:
    subnet, route = SUBNETS[0], Route(SUBNETS[0], NODES[0], 2)
    there = [KernelRoute(subnet, GATEWAYS[2], 2, STATIC, metric=50)]
    assert plan({subnet: route}, {subnet: there}, NODES) == ([AddRoute(route, append=False)], {})


def test_flannels_route_stays_where_a_foreign_route_blocks_ours() -> None:
    subnet, route = SUBNETS[0], Route(SUBNETS[0], NODES[0], 2)
    static, flannels = KernelRoute(subnet, GATEWAYS[2], 2, STATIC), KernelRoute(subnet, NODES[0], 2, BOOT)
    assert plan({subnet: route}, {subnet: [static, flannels]}, NODES) == ([], {subnet: static})
