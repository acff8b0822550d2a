"""Netlink messages compared with pyroute2's encoding and decoding, and the real kernel in a namespace."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]

from netstore.agent.kernel import Address, KernelError, Link, RouteChange
from netstore.agent.netlink import (
    BATCH,
    Netlink,
    encode_route,
    encode_step,
    messages,
    parse_address,
    parse_link,
    parse_notifications,
    parse_route,
)
from netstore.agent.routeplan import PROTOCOL, AddRoute, DeleteRoute, KernelRoute, Route
from netstore.network.addresses import Subnet, parse_ip, show_ip
from tests.support.netns import Wire, inside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from tests.support.netns import Node

NEWROUTE, DELROUTE, NEWADDR, DELADDR, NEWLINK, DELLINK = 24, 25, 20, 21, 16, 17
REQUEST, ACK, REPLACE, EXCLUSIVE, CREATE, APPEND = 1, 4, 0x100, 0x200, 0x400, 0x800

numbers = st.integers(1, 2**31 - 1)
ips = st.integers(1 << 24, 2**32 - 1)
subnets = st.builds(Subnet.around, ips, st.integers(1, 32))
routes = st.builds(Route, subnets, ips, numbers)


def fields_of(route: Route | KernelRoute, **more: int) -> dict[str, int]:
    return {"dst_len": route.subnet.length, "proto": PROTOCOL, "type": 1, "scope": 0, **more}


def attributes_of(route: Route | KernelRoute) -> list[tuple[str, object]]:
    return [
        ("RTA_DST", show_ip(route.subnet.base)),
        ("RTA_GATEWAY", show_ip(route.gateway)),
        ("RTA_OIF", route.ifindex),
    ]


def numbered(message: bytes, sequence: int) -> bytes:
    return message[:8] + sequence.to_bytes(4, "little") + message[12:]


@given(routes, numbers, st.booleans())
def test_a_filled_template_equals_pyroute2s_encoding(route: Route, sequence: int, append: bool) -> None:
    flags = CREATE | (APPEND if append else EXCLUSIVE)
    expected = encode_route(NEWROUTE, flags, fields_of(route), attributes_of(route))
    assert encode_step(AddRoute(route, append), sequence) == numbered(expected, sequence)
    old = KernelRoute(route.subnet, route.gateway, route.ifindex)
    expected = encode_route(DELROUTE, 0, fields_of(old), attributes_of(old))
    assert encode_step(DeleteRoute(old), sequence) == numbered(expected, sequence)


def decoded(data: bytes) -> Any:
    [message] = MarshalRtnl().parse(data)
    return message


@given(
    subnets,
    st.none() | ips,
    numbers,
    st.integers(1, 255),
    st.none() | numbers,
    st.integers(0, 255),
    st.sampled_from([(254, None), (254, 254), (252, 1000), (0, 254), (255, None)]),
    st.sampled_from([NEWROUTE, DELROUTE]),
)
def test_a_route_is_read_as_pyroute2_reads_it(  # noqa: PLR0917 - hypothesis hands them over
    subnet: Subnet,
    gateway: int | None,
    link: int,
    protocol: int,
    metric: int | None,
    tos: int,
    tables: tuple[int, int | None],
    kind: int,
) -> None:
    attributes: list[tuple[str, object]] = [("RTA_DST", show_ip(subnet.base)), ("RTA_OIF", link)]
    if gateway is not None:
        attributes.append(("RTA_GATEWAY", show_ip(gateway)))
    if metric is not None:
        attributes.append(("RTA_PRIORITY", metric))
    if tables[1] is not None:
        attributes.append(("RTA_TABLE", tables[1]))
    fields = {
        "dst_len": subnet.length,
        "proto": protocol,
        "type": 1,
        "scope": 0,
        "tos": tos,
        "table": tables[0],
    }
    data = encode_route(kind, 0, fields, attributes)
    twin = decoded(data)
    [(told, _, _, at, end)] = list(messages(data))
    route = parse_route(data, at, end)
    assert told == twin["header"]["type"]
    if twin.get_attr("RTA_TABLE", twin["table"]) != 254:
        assert route is None
        return
    assert route is not None
    assert str(route.subnet) == f"{twin.get_attr('RTA_DST')}/{twin['dst_len']}"
    assert route.gateway == (parse_ip(twin.get_attr("RTA_GATEWAY")) if gateway is not None else 0)
    assert (route.ifindex, route.metric) == (twin.get_attr("RTA_OIF"), twin.get_attr("RTA_PRIORITY") or 0)
    assert (route.protocol, route.tos, route.kind) == (twin["proto"], twin["tos"], twin["type"])
    assert route.plain


def encoded(message: Any, kind: int, fields: dict[str, int], attributes: list[tuple[str, object]]) -> bytes:
    message["header"]["type"] = kind
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


@given(
    numbers, st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True), st.integers(68, 65536), st.booleans()
)
def test_a_link_is_read_as_pyroute2_reads_it(number: int, name: str, mtu: int, up: bool) -> None:
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu)]
    data = encoded(ifinfmsg(), NEWLINK, {"index": number, "flags": 0x10002 | up}, attributes)
    twin = decoded(data)
    [(_, _, _, at, end)] = list(messages(data))
    found = parse_link(data, at, end)
    assert found == Link(
        twin["index"], twin.get_attr("IFLA_IFNAME"), twin.get_attr("IFLA_MTU"), bool(twin["flags"] & 1)
    )


@given(
    numbers,
    ips,
    st.integers(1, 32),
    st.sampled_from([(0x80, True), (0, False), (0x81, False), (0xA0, False)]),
)
def test_an_address_is_read_as_pyroute2_reads_it(
    link: int, ip: int, length: int, flags: tuple[int, bool]
) -> None:
    attributes: list[tuple[str, object]] = [
        ("IFA_ADDRESS", show_ip(ip ^ 1)),
        ("IFA_LOCAL", show_ip(ip)),
        ("IFA_FLAGS", flags[0]),
    ]
    data = encoded(
        ifaddrmsg(), NEWADDR, {"family": socket.AF_INET, "prefixlen": length, "index": link}, attributes
    )
    twin = decoded(data)
    [(_, _, _, at, end)] = list(messages(data))
    assert parse_address(data, at, end) == Address(
        twin["index"], parse_ip(twin.get_attr("IFA_LOCAL")), twin["prefixlen"], flags[1]
    )


def test_notifications_say_how_a_route_changed() -> None:
    route = Route(Subnet(parse_ip("10.23.1.0"), 24), parse_ip("192.168.77.12"), 2)
    seen = KernelRoute(*route)
    ways: list[tuple[int, Literal["prepend", "append", "replace"]]] = [
        (CREATE | EXCLUSIVE, "prepend"),
        (CREATE, "prepend"),
        (CREATE | APPEND, "append"),
        (REPLACE, "replace"),
    ]
    for flags, how in ways:
        data = encode_route(NEWROUTE, flags, fields_of(route), attributes_of(route))
        assert parse_notifications([data], lost=False).routes == [RouteChange(seen, how)]
    data = encode_route(DELROUTE, 0, fields_of(route), attributes_of(route))
    assert parse_notifications([data + data], lost=False).routes == [RouteChange(seen, "delete")] * 2


def test_other_families_and_truncated_messages_are_ignored() -> None:
    data = encode_route(NEWROUTE, 0, {"family": socket.AF_INET6, "dst_len": 64}, [("RTA_DST", "fd00::")])
    assert parse_notifications([data], lost=True) == ([], [], [], False, True)
    for cut in range(len(data)):
        assert list(messages(data[:cut])) == []


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_can_be_split_into_messages(datagrams: list[bytes]) -> None:
    for data in datagrams:
        for _, _, _, at, end in messages(data):
            assert 16 <= at <= end <= len(data)


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


# The real kernel


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
def test_many_steps_are_carried_out_and_failures_returned_by_position(node: Node) -> None:
    async def work(kernel: Netlink) -> None:
        eth0 = next(link.ifindex for link in await kernel.links() if link.name == "eth0")
        base, gateway = parse_ip("10.0.0.0"), parse_ip("192.168.78.1")
        puts = [
            AddRoute(Route(Subnet(base + n * 256, 24), gateway + n % 100, eth0)) for n in range(3 * BATCH)
        ]
        far = parse_ip("172.16.0.1")
        puts[5] = AddRoute(Route(puts[5].route.subnet, far, eth0))
        puts[BATCH - 1] = AddRoute(Route(puts[BATCH - 1].route.subnet, far, eth0))
        puts[-1] = AddRoute(Route(puts[-1].route.subnet, gateway, 999))
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
            heard += len(routes)
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
    async def work(kernel: Netlink) -> None:
        node.ip("route", "add", "10.1.0.0/24", "via", "192.168.77.1")
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
        await kernel.apply([AddRoute(Route(Subnet(base + n * 256, 24), gateway, eth0)) for n in range(300)])
        assert kernel.pending_notifications().lost

    run(node, work)
