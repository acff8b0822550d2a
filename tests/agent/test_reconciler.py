"""The reconciler on a fake kernel: whatever others do, what is wanted comes back, and nothing else is
touched.
"""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.kernel import Address, KernelError, Link, Notifications, NotificationsLostError
from netstore.agent.reconciler import MAX_QUEUED
from netstore.agent.routeplan import BOOT, AddRoute, BoundRoute, DeleteRoute, KernelRoute, in_kernel
from netstore.agent.wanted import Route, Wanted
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from tests.support.kernel import ETH0, FakeKernel
from tests.support.reconciler import WholeReconciler

NETWORK = Subnet(parse_ip("10.23.0.0"), 16)
NODE, OTHER, FAR = (parse_ip(f"192.168.{text}") for text in ("77.12", "77.13", "99.1"))
STATIC = 4


def subnet(number: int) -> Subnet:
    return Subnet(NETWORK.base + number * 256, 24)


def routes(*numbers: int, gateway: int = NODE) -> list[Route]:
    return [Route(subnet(number), gateway, "eth0") for number in numbers]


def wanted(*numbers: int, gateway: int = NODE) -> Wanted:
    return Wanted(routes(*numbers, gateway=gateway))


def ours(number: int, gateway: int = NODE, link: int = 2) -> KernelRoute:
    return KernelRoute(subnet(number), gateway, link)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def reconciler(kernel: FakeKernel) -> WholeReconciler:
    return WholeReconciler(kernel, [NETWORK], ETH0, lambda: None)


@pytest.mark.trio
async def test_many_routes_are_one_send(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(wanted(*range(200)), {NODE})
    assert (len(kernel.table), kernel.sends, kernel.dumps) == (200, 1, 1)
    await reconciler.set_wanted(wanted(*range(201)), {NODE})
    assert (len(kernel.table), kernel.sends, kernel.dumps) == (201, 2, 1)
    assert kernel.steps[-1] == AddRoute(BoundRoute(subnet(200), NODE, 2))


@pytest.mark.trio
async def test_a_deleted_route_is_added_again_without_reading_the_table(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1, 2), {NODE})
    kernel.delete(ours(1))
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]
    assert (kernel.dumps, reconciler.repairs) == (1, 1)


@pytest.mark.trio
async def test_lost_notifications_lead_to_reading_the_table(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1, 2), {NODE})
    kernel.delete(ours(1))
    kernel.lose_notifications()
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]
    assert kernel.dumps == 2


@pytest.mark.trio
async def test_lost_answers_lead_to_reading_the_table(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    kernel.lose_next_answer = True
    await reconciler.set_wanted(wanted(1, 2), {NODE})
    assert kernel.dumps == 2
    assert not reconciler.problems


@pytest.mark.trio
async def test_after_an_error_of_the_kernel_the_next_call_completes_the_work(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(_: object) -> dict[int, int]:
        raise KernelError("the kernel did not answer")

    await reconciler.set_wanted(wanted(1), {NODE})
    monkeypatch.setattr(kernel, "apply", unanswered)
    with pytest.raises(KernelError):
        await reconciler.set_wanted(wanted(1, 2), {NODE})
    monkeypatch.undo()
    await reconciler.repair()
    assert kernel.table[subnet(2)] == [ours(2)]


@pytest.mark.trio
async def test_a_route_that_appears_between_plan_and_apply_is_not_replaced(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reconciler.set_wanted(Wanted(), set())
    static = KernelRoute(subnet(1), OTHER, 2, STATIC)
    kernel.table[subnet(1)] = [static]  # without a notification
    await reconciler.set_wanted(wanted(1), {NODE})
    assert kernel.table[subnet(1)] == [static]
    assert "remove it" in reconciler.problems["10.23.1.0/24"]
    kernel.delete(static)
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]
    assert not reconciler.problems


@pytest.mark.trio
async def test_a_rejected_next_hop_is_tried_again_when_addresses_change(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(Wanted(routes(1, gateway=FAR) + routes(2)), {NODE, FAR})
    assert "192.168.99.1 is not on-link" in reconciler.problems["10.23.1.0/24"]
    sends = kernel.sends
    await reconciler.set_wanted(Wanted(routes(1, gateway=FAR) + routes(2, 3)), {NODE, FAR})
    await reconciler.repair()
    assert [step.route.subnet for step in kernel.route_steps].count(subnet(1)) == 1
    assert kernel.sends == sends + 1
    kernel.set_addresses(*kernel.address_list, Address(2, parse_ip("192.168.99.2"), 24))
    assert await reconciler.repair() is True
    assert not reconciler.problems
    assert kernel.table[subnet(1)] == [ours(1, FAR)]


@pytest.mark.trio
async def test_a_route_stays_while_the_one_in_its_place_is_refused(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1, 2), {NODE})
    await reconciler.set_wanted(Wanted(routes(1, gateway=FAR) + routes(2, gateway=OTHER)), {NODE})
    assert kernel.table[subnet(1)] == [ours(1)]
    assert kernel.table[subnet(2)] == [ours(2, OTHER)]
    assert "192.168.99.1 is not on-link" in reconciler.problems["10.23.1.0/24"]
    assert not reconciler.pending
    kernel.set_addresses(*kernel.address_list, Address(2, parse_ip("192.168.99.2"), 24))
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1, FAR)]
    assert not reconciler.problems


@pytest.mark.trio
async def test_many_routes_are_replaced_in_two_sends(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(wanted(*range(200)), {NODE})
    sends = kernel.sends
    await reconciler.set_wanted(wanted(*range(200), gateway=OTHER), {NODE})
    assert kernel.sends == sends + 2
    assert all(there == [ours(0, OTHER)._replace(subnet=one)] for one, there in kernel.table.items())


@pytest.mark.trio
async def test_a_route_that_was_rejected_and_is_wanted_no_more_is_no_problem(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1, 2, gateway=FAR), {FAR})
    assert (len(reconciler.problems), reconciler.in_place) == (2, 0)
    await reconciler.set_wanted(wanted(1), {FAR})
    assert (reconciler.problems, reconciler.in_place) == ({}, 1)


@pytest.mark.trio
async def test_a_route_of_ipv6_that_another_program_replaces_comes_back(kernel: FakeKernel) -> None:
    six = Subnet6(parse_ip6("fd23:0:0:1::"), 64)
    node, other = parse_ip6("fd77::12"), parse_ip6("fd77::13")
    kernel.address_list6 = [Address(2, parse_ip6("fd77::11"), 64)]
    reconciler = WholeReconciler(kernel, [NETWORK, Subnet6(parse_ip6("fd23::"), 48)], ETH0, lambda: None)
    await reconciler.set_wanted(Wanted([Route(six, node, "eth0")]), {node})
    ours = in_kernel(BoundRoute(six, node, 2))
    assert kernel.table == {six: [ours]}
    for theirs in (ours._replace(gateway=other), ours._replace(protocol=BOOT)):
        kernel.replace(theirs)
        await reconciler.repair()
        assert kernel.table == {six: [ours]}
    kernel.delete(ours)
    await reconciler.repair()
    assert (kernel.table, kernel.dumps) == ({six: [ours]}, 1)


@pytest.mark.trio
async def test_routes_removed_without_notification_when_a_link_went_down_are_restored(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    kernel.set_link(ETH0._replace(up=False))
    assert await reconciler.repair() is True
    assert reconciler.problems
    kernel.set_link(ETH0)
    assert await reconciler.repair() is True
    assert kernel.table[subnet(1)] == [ours(1)]
    assert not reconciler.problems


@pytest.mark.trio
async def test_changes_of_pod_interfaces_are_ignored(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    for number in range(3, 50):
        kernel.set_link(Link(number, f"veth{number}", 1500, up=True))
        kernel.remove_link(number)
        kernel.add(KernelRoute(Subnet(parse_ip("10.99.0.1"), 32), 0, number, STATIC))
    assert await reconciler.repair() is False
    assert kernel.dumps == 1


@pytest.mark.trio
async def test_a_bridge_that_begins_or_ceases_to_protect_its_network_is_told(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    bridge = Link(5, "br5", 1500, up=False, kind="bridge")
    steps: list[tuple[Link | int, bool]] = [
        (bridge, True),
        (bridge._replace(up=True), True),
        (bridge._replace(up=True, mtu=1400), False),
        (Link(6, "veth6", 1500, up=True, kind="veth"), False),
        (Link(6, "veth6", 1500, up=True, kind="veth", master=5), True),
        (Link(7, "veth7", 1500, up=True, kind="veth", master=5), False),
        (6, False),
        (7, True),
        (5, True),
    ]
    for at, (change, is_told) in enumerate(steps):
        if isinstance(change, Link):
            kernel.set_link(change)
        else:
            kernel.remove_link(change)
        assert await reconciler.repair() is is_told, at


@pytest.mark.trio
async def test_a_link_that_comes_back_with_another_ifindex_is_noticed(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    kernel.remove_link(2)
    assert await reconciler.repair() is True
    kernel.set_link(Link(9, "eth0", 1500, up=True))
    kernel.set_addresses(Address(9, parse_ip("192.168.77.11"), 24))
    assert await reconciler.repair() is True
    assert reconciler.link.ifindex == 9
    await reconciler.set_wanted(wanted(1), {NODE})
    assert kernel.table[subnet(1)] == [ours(1, link=9)]


@pytest.mark.trio
async def test_routes_of_an_earlier_run_are_removed_only_in_the_ranges(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    elsewhere = KernelRoute(Subnet(parse_ip("10.99.0.0"), 24), NODE, 2)
    kernel.table = {subnet(7): [ours(7)], elsewhere.subnet: [elsewhere]}
    await reconciler.set_wanted(wanted(1), {NODE})
    assert {subnet for subnet, routes in kernel.table.items() if routes} == {subnet(1), elsewhere.subnet}


@pytest.mark.trio
async def test_flannels_route_is_recognised_when_its_gateway_has_a_lease(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    kernel.table = {subnet(1): [KernelRoute(subnet(1), OTHER, 2, BOOT)]}
    await reconciler.set_wanted(wanted(1), {NODE})
    assert reconciler.problems
    await reconciler.set_wanted(wanted(1), {NODE, OTHER})
    assert kernel.table[subnet(1)] == [ours(1)]


@pytest.mark.trio
async def test_clear_removes_all_our_routes(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    static = KernelRoute(subnet(9), OTHER, 2, STATIC)
    kernel.table = {subnet(9): [static]}
    await reconciler.set_wanted(wanted(1, 2), {NODE})
    assert await reconciler.clear() == 2
    assert [route for routes in kernel.table.values() for route in routes] == [static]


@pytest.mark.trio
async def test_a_program_that_undoes_every_change_does_not_block_the_call(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = kernel._carry_out

    def undone(step: AddRoute | DeleteRoute) -> int:
        code = carry_out(step)
        if isinstance(step, AddRoute):
            kernel.delete(ours(1))
        return code

    monkeypatch.setattr(kernel, "_carry_out", undone)
    await reconciler.set_wanted(wanted(1), {NODE})
    assert 1 < kernel.sends < 10
    assert reconciler.pending, "left for the next call"
    monkeypatch.undo()
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]
    assert not reconciler.pending


@pytest.mark.trio
async def test_answers_lost_in_the_last_round_leave_the_work_to_the_next_call(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(_: object) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        raise NotificationsLostError("lost by the test")

    monkeypatch.setattr(kernel, "apply", lost)
    await reconciler.set_wanted(wanted(1), {NODE})
    assert reconciler.pending
    monkeypatch.undo()
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]
    assert not reconciler.pending


@pytest.mark.trio
async def test_an_empty_batch_does_not_hide_the_one_behind_it(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    kernel.table.clear()  # without a notification
    reconciler._queue += [Notifications(), Notifications(lost=True)]
    await reconciler.repair()
    assert not reconciler._queue
    assert kernel.table[subnet(1)] == [ours(1)]


@pytest.mark.trio
async def test_a_listener_that_finds_nothing_queues_nothing(kernel: FakeKernel) -> None:
    wakes: list[None] = []
    reconciler = WholeReconciler(kernel, [NETWORK], ETH0, lambda: wakes.append(None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.listen)
        kernel.notify(Notifications())
        kernel.notify(Notifications(addresses=True))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (list(reconciler._queue), len(wakes)) == ([Notifications(addresses=True)], 1)


@pytest.mark.trio
async def test_nothing_is_changed_before_the_wanted_routes_are_known(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    kernel.add(ours(1))
    await reconciler.repair(full=True)
    assert not kernel.steps
    await reconciler.set_wanted(wanted(1), {NODE})
    assert not kernel.steps


@pytest.mark.trio
async def test_reasons_of_other_rejections(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, words in ((errno.EPERM, "CAP_NET_ADMIN"), (errno.EINVAL, "Invalid argument")):
        monkeypatch.setattr(kernel, "_carry_out", lambda _, code=code: code)
        await reconciler.repair(full=True)
        await reconciler.set_wanted(wanted(1), {NODE})
        assert words in reconciler.problems["10.23.1.0/24"]


def test_too_many_notifications_become_one_lost_notification(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    for _ in range(MAX_QUEUED + 5):
        reconciler._queue.append(Notifications(addresses=True))
        if len(reconciler._queue) > MAX_QUEUED:
            break
    assert len(reconciler._queue) == MAX_QUEUED + 1


changes = st.lists(
    st.tuples(
        st.sampled_from(["hold", "delete", "static", "replace", "append-ours", "lose", "repair", "flap"]),
        st.integers(0, 3),
        st.sampled_from([NODE, OTHER]),
    ),
    max_size=25,
)


@pytest.mark.trio
@given(changes)
async def test_after_any_history_the_wanted_routes_are_in_place(history: list[tuple[str, int, int]]) -> None:
    kernel = FakeKernel()
    reconciler = WholeReconciler(kernel, [NETWORK], ETH0, lambda: None)
    want: dict[Subnet, int] = {}
    for what, number, gateway in history:
        there = kernel.table.get(subnet(number), [])
        if what == "hold":
            want[subnet(number)] = gateway
            if gateway == OTHER and number == 3:
                want.pop(subnet(number))
            await reconciler.set_wanted(all_of(want), {NODE})
        elif what == "delete" and there:
            kernel.delete(there[0])
        elif what == "static":
            static = KernelRoute(subnet(number), gateway, 2, STATIC, metric=number * 10)
            if static not in there:
                kernel.add(static)
        elif what == "replace":
            kernel.replace(ours(number, gateway))
        elif what == "append-ours" and ours(number, gateway) not in there:
            kernel.table.setdefault(subnet(number), []).append(ours(number, gateway))
            kernel.lose_notifications()
        elif what == "lose":
            kernel.lose_notifications()
        elif what == "repair":
            await reconciler.repair()
        elif what == "flap":
            kernel.set_link(ETH0._replace(up=False))
            kernel.set_link(ETH0)
    await reconciler.repair()
    await reconciler.set_wanted(all_of(want), {NODE})
    for one in map(subnet, range(4)):
        own = [route for route in kernel.table.get(one, []) if route.protocol == 78]
        if one in reconciler.routes.foreign:
            assert any(route.protocol == STATIC and not route.metric for route in kernel.table[one])
        elif one in want:
            assert own == [KernelRoute(one, want[one], 2)]
        else:
            assert own == []
    assert in_order(reconciler.routes.present) == in_order(kernel.table)


def all_of(want: dict[Subnet, int]) -> Wanted:
    return Wanted([Route(one, gateway, "eth0") for one, gateway in want.items()])


def in_order(table: dict[Subnet | Subnet6, list[KernelRoute]]) -> dict[Subnet | Subnet6, list[KernelRoute]]:
    """In the kernel's order: by metric; routes with the same metric keep their order."""
    return {one: sorted(routes, key=lambda route: route.metric) for one, routes in table.items() if routes}


@pytest.mark.trio
async def test_a_route_outside_the_networks_is_refused_and_not_tried(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    outside = Route(Subnet(parse_ip("10.99.0.0"), 24), NODE, "eth0")
    await reconciler.set_wanted(Wanted([*routes(1), outside]), {NODE})
    assert list(kernel.table) == [subnet(1)]
    assert "not in 10.23.0.0/16" in reconciler.problems["10.99.0.0/24"]
    assert (reconciler.in_place, reconciler.pending, kernel.sends) == (1, False, 1)
    await reconciler.set_wanted(wanted(1), {NODE})
    assert not reconciler.problems


@pytest.mark.trio
@pytest.mark.parametrize("error", [NotificationsLostError("lost"), KernelError("no answer")])
async def test_a_reading_that_fails_is_done_again(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail() -> list[KernelRoute]:
        raise error

    await reconciler.set_wanted(wanted(1), {NODE})
    kernel.table.clear()  # without a notification
    monkeypatch.setattr(kernel, "routes", fail)
    with pytest.raises(type(error)):
        await reconciler.repair(full=True)
    monkeypatch.undo()
    await reconciler.repair()
    assert kernel.table[subnet(1)] == [ours(1)]


@pytest.mark.trio
async def test_clear_tells_what_the_kernel_kept(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(wanted(1), {NODE})
    kernel.refusals[DeleteRoute] = errno.EPERM
    with pytest.raises(KernelError, match=r"still has 1 .*10\.23\.1\.0/24"):
        await reconciler.clear()


FORMER, THIRD = Subnet(parse_ip("10.24.0.0"), 16), Subnet(parse_ip("10.25.0.0"), 16)


@pytest.mark.trio
async def test_a_former_range_is_managed_until_its_routes_are_gone(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    """Also where the range changes twice while routes of the first one are there."""
    first, second = Route(subnet(1), NODE, "eth0"), Route(Subnet(FORMER.base, 24), NODE, "eth0")
    third = Route(Subnet(THIRD.base, 24), NODE, "eth0")
    foreign = KernelRoute(Subnet(NETWORK.base + 9 * 256, 24), OTHER, 2, protocol=STATIC)
    kernel.table[foreign.subnet] = [foreign]
    reconciler.manage([FORMER, NETWORK])
    await reconciler.set_wanted(Wanted([first, second]), {NODE})
    reconciler.manage([THIRD, FORMER])
    assert reconciler.routes.ranges == (THIRD, FORMER, NETWORK)
    await reconciler.set_wanted(Wanted([first, second, third]), {NODE})
    assert reconciler.problems == {}
    await reconciler.set_wanted(Wanted([third]), {NODE})
    assert {each for each, routes in kernel.table.items() if routes} == {third.subnet, foreign.subnet}
    reconciler.manage([THIRD])
    assert len(reconciler.routes.ranges) == 1
