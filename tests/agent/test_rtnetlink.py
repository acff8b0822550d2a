"""rtnetlink messages compared with pyroute2's encoding and decoding."""

from __future__ import annotations

import socket
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]

from netstore.agent.kernel import Address, Link, RouteChange
from netstore.agent.routeplan import PROTOCOL, AddRoute, DeleteRoute, KernelRoute, Route
from netstore.agent.rtnetlink import (
    encode_route,
    encode_step,
    messages,
    parse_address,
    parse_link,
    parse_notifications,
    parse_route,
)
from netstore.network.addresses import Subnet, parse_ip, show_ip

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
