"""The netlink sockets: the real kernel in a network namespace."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from netstore.agent.kernel import KernelError, Notifications
from netstore.agent.leasefilter import IPV4, protected_addresses
from netstore.agent.netlink import BATCH, Netlink
from netstore.agent.routeplan import PROTOCOL, AddRoute, BoundRoute, DeleteRoute
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.config import parse_network
from tests.support.inside import inside
from tests.support.netns import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from tests.support.netns import Node


@pytest.mark.trio
async def test_a_kernel_that_takes_no_message_is_an_error_the_agent_handles(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def send(self, data: bytes) -> int:
            raise BlockingIOError

    async def never(_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
    with Netlink() as kernel:
        monkeypatch.setattr(kernel, "_requests", Full())
        try:
            with pytest.raises(KernelError, match="took no message"):
                await kernel.links()
        finally:
            monkeypatch.undo()


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Any:
    with Wire(nodes=1, length=16) as wire:
        yield wire.members[0]


def run(node: Node, call: Callable[[Netlink], Awaitable[None]]) -> None:
    async def main() -> None:
        with Netlink() as kernel:
            await call(kernel)

    inside(node.netns, lambda: trio.run(main))


@pytest.mark.root
@pytest.mark.peer("ip")
def test_links_addresses_and_routes_of_the_kernel(node: Node) -> None:
    node.ip("address", "add", "169.254.7.7/16", "dev", "eth0")
    node.ip("route", "add", "10.1.0.0/24", "via", "192.168.77.1", "metric", "7", "proto", "static")
    node.ip("route", "add", "10.2.0.0/24", "nexthop", "via", "192.168.77.1", "nexthop", "via", "192.168.77.2")
    node.ip("route", "add", "10.3.0.0/24", "via", "192.168.77.1", "table", "77")

    async def look(kernel: Netlink) -> None:
        links = {link.name: link for link in await kernel.links()}
        eth0 = links["eth0"]
        assert (eth0.mtu, eth0.up, links["lo"].ifindex) == (1500, True, 1)
        shown = [show_ip(one.ip) for one in await kernel.addresses() if one.ifindex == eth0.ifindex]
        assert shown == [node.address, "169.254.7.7"]
        table = {str(route.subnet): route for route in await kernel.routes()}
        static = table["10.1.0.0/24"]
        assert (static.protocol, static.metric, show_ip(static.gateway)) == (4, 7, "192.168.77.1")
        assert not table["10.2.0.0/24"].plain
        assert "10.3.0.0/24" not in table, "only table main is read"
        assert await kernel.route_to(parse_ip("10.9.9.9")) == (eth0.ifindex, parse_ip(node.address))

    run(node, look)
    node.ip("route", "delete", "default")

    async def look_again(kernel: Netlink) -> None:
        assert await kernel.route_to(parse_ip("10.9.9.9")) is None

    run(node, look_again)


@pytest.mark.root
@pytest.mark.peer("ip")
def test_a_bridge_is_protected_as_the_kernel_routes_to_it(node: Node) -> None:
    """What `leasefilter` takes for the kernel's rule: the route to a bridge's network is there while it is
    up, with or without ports, and its address is the node's own in any case.
    """
    node.ip("link", "add", "br0", "type", "bridge")
    node.ip("address", "add", "10.30.0.1/16", "dev", "br0")
    text = b'{"Network":"10.0.0.0/9","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
    protected: list[bool] = []

    async def look(kernel: Netlink) -> None:
        found = protected_addresses(
            IPV4,
            [parse_network(text)],
            await kernel.links(),
            await kernel.addresses(),
            routes=await kernel.routes(),
            hosts={},
        )
        protected.append(found.network_over(Subnet(parse_ip("10.30.5.0"), 24)) is not None)

    def destination(address: str) -> list[str]:
        return node.ip("route", "get", address).split()[:4]

    run(node, look)
    assert "br0" not in destination("10.30.5.5"), "no route while it is down"
    node.ip("link", "set", "br0", "up")
    run(node, look)
    assert destination("10.30.5.5") == ["10.30.5.5", "dev", "br0", "src"], "without a port"
    node.ip("link", "set", "br0", "down")
    run(node, look)
    assert "br0" not in destination("10.30.5.5")
    assert destination("10.30.0.1")[:2] == ["local", "10.30.0.1"]
    assert protected == [False, True, False]


@pytest.mark.root
@pytest.mark.peer("ip")
def test_who_waits_for_notifications_is_not_woken_by_a_few_steps_of_another_task(node: Node) -> None:
    async def work(kernel: Netlink) -> None:
        told: list[Notifications] = []
        eth0 = next(link.ifindex for link in await kernel.links() if link.name == "eth0")

        async def listen() -> None:
            while True:
                told.append(await kernel.notifications())

        async with trio.open_nursery() as nursery:
            kernel.pending_notifications()
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(20):
                subnet = Subnet(parse_ip("10.0.0.0") + number * 256, 24)
                route = BoundRoute(subnet, parse_ip("192.168.78.1"), eth0)
                assert await kernel.apply([AddRoute(route)]) == {}
                [change] = kernel.pending_notifications().routes
                assert change.route.subnet == subnet
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert told == []

    run(node, work)


@pytest.mark.root
@pytest.mark.peer("ip")
def test_many_steps_are_carried_out_and_failures_returned_by_position(node: Node) -> None:
    async def work(kernel: Netlink) -> None:
        eth0 = next(link.ifindex for link in await kernel.links() if link.name == "eth0")
        base, gateway = parse_ip("10.0.0.0"), parse_ip("192.168.78.1")
        puts = [
            AddRoute(BoundRoute(Subnet(base + n * 256, 24), gateway + n % 100, eth0))
            for n in range(3 * BATCH)
        ]
        far = parse_ip("172.16.0.1")
        puts[5] = AddRoute(BoundRoute(puts[5].route.subnet, far, eth0))
        puts[BATCH - 1] = AddRoute(BoundRoute(puts[BATCH - 1].route.subnet, far, eth0))
        puts[-1] = AddRoute(BoundRoute(puts[-1].route.subnet, gateway, 999))
        failed = await kernel.apply(puts)
        assert failed == {
            5: errno.ENETUNREACH,
            BATCH - 1: errno.ENETUNREACH,
            len(puts) - 1: errno.ENETUNREACH,
        }
        ours = [route for route in await kernel.routes() if route.protocol == PROTOCOL]
        assert len(ours) == len(puts) - 3
        heard = 0
        while routes := kernel.pending_notifications().routes:
            heard += sum(change.route.protocol == PROTOCOL for change in routes)
        assert heard == len(ours)
        assert (await kernel.apply(puts[:1])) == {0: errno.EEXIST}
        assert await kernel.apply([]) == {}
        gone = await kernel.apply([DeleteRoute(route) for route in [*ours, ours[0]]])
        assert gone == {len(ours): errno.ESRCH}
        assert not [route for route in await kernel.routes() if route.protocol == PROTOCOL]

    run(node, work)


@pytest.mark.root
@pytest.mark.peer("ip")
def test_routes_of_any_form_with_our_protocol_are_deleted_exactly(node: Node) -> None:
    for words in (
        "10.9.0.0/24 dev eth0 metric 7",
        "10.9.1.0/24 proto 78 nexthop via 192.168.77.1 nexthop via 192.168.77.2",
        "blackhole 10.9.2.0/24",
        "10.9.3.0/24 via 192.168.77.1 tos 4",
    ):
        node.ip("route", "add", *words.split(), *(() if "proto" in words else ("proto", "78")))
    node.ip("route", "add", "10.9.3.0/24", "via", "192.168.77.1", "metric", "9", "proto", "static")

    async def work(kernel: Netlink) -> None:
        ours = [route for route in await kernel.routes() if route.protocol == PROTOCOL]
        assert len(ours) == 4
        assert await kernel.apply([DeleteRoute(route) for route in ours]) == {}

    run(node, work)
    assert "proto 78" not in node.ip("route")
    assert "10.9.3.0/24 via 192.168.77.1 dev eth0 proto static metric 9" in node.ip("route")


@pytest.mark.root
@pytest.mark.peer("ip")
def test_changes_by_other_programs_are_notified(node: Node) -> None:
    node.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")  # else it tells of an address seconds later

    async def work(kernel: Netlink) -> None:
        node.ip("route", "add", "10.1.0.0/24", "via", "192.168.77.1")
        heard = await kernel.notifications()
        while not heard.routes:  # it is told of the link and its neighbours too
            heard = await kernel.notifications()
        assert [(str(one.route.subnet), one.how) for one in heard.routes] == [("10.1.0.0/24", "prepend")]
        node.ip("route", "replace", "10.1.0.0/24", "via", "192.168.77.2")
        node.ip("route", "append", "10.1.0.0/24", "via", "192.168.77.3")
        node.ip("route", "delete", "10.1.0.0/24", "via", "192.168.77.2")
        assert [one.how for one in kernel.pending_notifications().routes] == ["replace", "append", "delete"]
        node.ip("address", "add", "10.7.7.7/24", "dev", "eth0")
        assert kernel.pending_notifications().addresses
        node.ip("link", "set", "eth0", "down")
        assert [(link.name, link.up) for link in kernel.pending_notifications().links][-1:] == [
            ("eth0", False)
        ]

    run(node, work)


@pytest.mark.root
@pytest.mark.peer("ip")
def test_an_overflow_of_the_receive_buffer_is_noticed(node: Node) -> None:
    async def work(kernel: Netlink) -> None:
        kernel._notifications.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        eth0 = next(link.ifindex for link in await kernel.links() if link.name == "eth0")
        base, gateway = parse_ip("10.0.0.0"), parse_ip("192.168.78.1")
        await kernel.apply(
            [AddRoute(BoundRoute(Subnet(base + n * 256, 24), gateway, eth0)) for n in range(300)]
        )
        assert kernel.pending_notifications().lost

    run(node, work)
