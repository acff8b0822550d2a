"""rtnetlink messages compared with pyroute2's encoding and decoding."""

from __future__ import annotations

import socket
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # type: ignore[import-untyped]

from netstore.agent.deviceplan import (
    AddAddress,
    ChangeDevice,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
)
from netstore.agent.entryplan import DeleteEntry, Entry, SetEntry
from netstore.agent.kernel import Address, EntryChange, Link, RouteChange, Tunnel
from netstore.agent.routeplan import (
    PROTOCOL,
    AddRoute,
    BoundRoute,
    DeleteRoute,
    KernelRoute,
    in_kernel,
)
from netstore.agent.rtnetlink import (
    encode,
    encode_route,
    encode_step,
    messages,
    parse_address,
    parse_entry,
    parse_link,
    parse_notifications,
    parse_routes,
)
from netstore.agent.wanted import Device, Ipip, Vxlan, Wireguard
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.ipv6 import Subnet6, parse_ip6, show_ip6

NEWROUTE, DELROUTE, NEWADDR, DELADDR, NEWLINK, DELLINK, NEWNEIGH, DELNEIGH = 24, 25, 20, 21, 16, 17, 28, 29
REQUEST, ACK, REPLACE, EXCLUSIVE, CREATE, APPEND = 1, 4, 0x100, 0x200, 0x400, 0x800

numbers = st.integers(1, 2**31 - 1)
ips = st.integers(1 << 24, 2**32 - 1)
subnets = st.builds(Subnet.around, ips, st.integers(1, 32))
ips6 = st.integers(1 << 124, 2**128 - 1)
subnets6 = st.builds(Subnet6.around, ips6, st.integers(8, 128))
macs = st.binary(min_size=6, max_size=6)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
routes = st.one_of(
    st.builds(BoundRoute, subnets, st.just(0) | ips, numbers, st.booleans()),
    st.builds(BoundRoute, subnets6, st.just(0) | ips6, numbers, st.booleans()),
)


def show(subnet: Subnet | Subnet6, ip: int) -> str:
    return show_ip6(ip) if isinstance(subnet, Subnet6) else show_ip(ip)


def fields_of(route: BoundRoute | KernelRoute, **more: int) -> dict[str, int]:
    is_ipv6 = isinstance(route.subnet, Subnet6)
    return {
        "family": socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        "dst_len": route.subnet.length,
        "proto": PROTOCOL,
        "type": 1,
        "scope": 0 if route.gateway or is_ipv6 else 253,
        "flags": 4 if route.onlink else 0,
        **more,
    }


def attributes_of(route: BoundRoute | KernelRoute) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("RTA_DST", show(route.subnet, route.subnet.base))]
    if route.gateway:
        found.append(("RTA_GATEWAY", show(route.subnet, route.gateway)))
    return [*found, ("RTA_OIF", route.ifindex)]


def numbered(message: bytes, sequence: int) -> bytes:
    return message[:8] + sequence.to_bytes(4, "little") + message[12:]


WAYS: dict[Literal["create", "append", "replace"], int] = {
    "create": CREATE | EXCLUSIVE,
    "append": CREATE | APPEND,
    "replace": REPLACE,
}


@given(routes, numbers, st.sampled_from(sorted(WAYS)))
def test_a_filled_template_equals_pyroute2s_encoding(
    route: BoundRoute, sequence: int, how: Literal["create", "append", "replace"]
) -> None:
    expected = encode_route(NEWROUTE, WAYS[how], fields_of(route), attributes_of(route))
    assert encode_step(AddRoute(route, how), sequence) == numbered(expected, sequence)
    old = in_kernel(route)
    expected = encode_route(DELROUTE, 0, fields_of(old), attributes_of(old))
    assert encode_step(DeleteRoute(old), sequence) == numbered(expected, sequence)
    [(_, _, _, at, end)] = list(messages(numbered(expected, sequence)))
    [found] = parse_routes(expected, at, end)
    metric = 1024 if isinstance(route.subnet, Subnet6) else 0  # the kernel's, which it tells
    assert found._replace(metric=metric) == old


@given(addresses, macs, numbers, numbers, st.booleans(), st.booleans())
def test_the_messages_of_entries_equal_pyroute2s_encoding(  # noqa: PLR0917 - hypothesis hands them over
    address: bytes, mac: bytes, ifindex: int, sequence: int, is_forwarding: bool, is_new: bool
) -> None:
    entry = Entry(ifindex, mac, address) if is_forwarding else Entry(ifindex, address, mac)
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    fields = {"family": 7 if is_forwarding else family, "ifindex": ifindex, "state": 0x80}
    expected = encode(
        ndmsg(),
        NEWNEIGH if is_new else DELNEIGH,
        CREATE | REPLACE if is_new else 0,
        fields | ({"flags": 2} if is_forwarding else {}),
        [("NDA_DST", socket.inet_ntop(family, address)), ("NDA_LLADDR", mac.hex(":"))],
    )
    step = SetEntry(entry) if is_new else DeleteEntry(entry)
    assert encode_step(step, sequence) == numbered(expected, sequence)
    [(_, _, _, at, end)] = list(messages(expected))
    assert parse_entry(expected, at, end) == entry
    assert parse_notifications([expected], lost=False).entries == [EntryChange(entry, not is_new)]


def test_a_neighbour_that_is_not_valid_any_more_has_no_mac() -> None:
    data = encode(
        ndmsg(), NEWNEIGH, 0, {"family": 2, "ifindex": 3, "state": 0x20}, [("NDA_DST", "10.23.1.0")]
    )
    [change] = parse_notifications([data], lost=False).entries
    assert change == EntryChange(Entry(3, bytes([10, 23, 1, 0]), b"", permanent=False))


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
    found = parse_routes(data, at, end)
    assert told == twin["header"]["type"]
    if twin.get_attr("RTA_TABLE", twin["table"]) != 254:
        assert found == []
        return
    [route] = found
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
    numbers,
    st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True),
    st.integers(68, 65536),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_a_link_is_read_as_pyroute2_reads_it(number: int, name: str, mtu: int, up: bool, master: int) -> None:
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_MASTER", master)]
    data = encoded(ifinfmsg(), NEWLINK, {"index": number, "flags": 0x10002 | up}, attributes)
    twin = decoded(data)
    [(_, _, _, at, end)] = list(messages(data))
    found = parse_link(data, at, end)
    assert found == Link(
        twin["index"],
        twin.get_attr("IFLA_IFNAME"),
        twin.get_attr("IFLA_MTU"),
        bool(twin["flags"] & 1),
        master=twin.get_attr("IFLA_MASTER"),
    )


@given(
    numbers,
    ips,
    st.integers(1, 32),
    st.sampled_from([(0x80, True, True), (0, False, True), (0x81, False, False), (0xA0, False, False)]),
)
def test_an_address_is_read_as_pyroute2_reads_it(
    link: int, ip: int, length: int, flags: tuple[int, bool, bool]
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
        twin["index"], parse_ip(twin.get_attr("IFA_LOCAL")), twin["prefixlen"], *flags[1:]
    )


def test_notifications_say_how_a_route_changed() -> None:
    route = BoundRoute(Subnet(parse_ip("10.23.1.0"), 24), parse_ip("192.168.77.12"), 2)
    seen = in_kernel(route)
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


SUBNET6 = Subnet6(parse_ip6("fd23:0:0:1::"), 64)


def test_several_next_hops_of_ipv6_are_a_route_for_each() -> None:
    hops = [
        {"oif": 2, "attrs": [("RTA_GATEWAY", "fd77::12")]},
        {"oif": 3, "flags": 4, "attrs": [("RTA_GATEWAY", "fd77::13")]},
    ]
    fields = {"family": socket.AF_INET6, "dst_len": 64, "proto": PROTOCOL, "type": 1}
    data = encode_route(
        NEWROUTE,
        CREATE | APPEND,
        fields,
        [("RTA_DST", "fd23:0:0:1::"), ("RTA_PRIORITY", 1024), ("RTA_MULTIPATH", hops)],
    )
    first = in_kernel(BoundRoute(SUBNET6, parse_ip6("fd77::12"), 2))
    second = in_kernel(BoundRoute(SUBNET6, parse_ip6("fd77::13"), 3, onlink=True))
    assert parse_notifications([data], lost=False).routes == [
        RouteChange(first, "reset"),
        RouteChange(second, "append"),
    ]


def test_link_local_addresses_of_pods_interfaces_are_no_news() -> None:
    for address, is_news in (("fe80::1", False), ("fd77::1", True)):
        data = encoded(
            ifaddrmsg(), NEWADDR, {"family": socket.AF_INET6, "index": 9}, [("IFA_ADDRESS", address)]
        )
        assert parse_notifications([data], lost=False).addresses is is_news


LOCAL, LOCAL6 = bytes([192, 168, 77, 11]), parse_ip6("fd77::11").to_bytes(16, "big")
MAC = bytes.fromhex("0a1b2c3d4e5f")


def test_the_creation_of_devices_is_read_as_what_was_asked_for() -> None:
    cases: list[tuple[Vxlan | Ipip | Wireguard, Tunnel | None]] = [
        (Vxlan(1, LOCAL, "eth0"), Tunnel(LOCAL, 2, vni=1)),
        (
            Vxlan(4095, LOCAL6, "eth0", 4789, learning=True, gbp=True),
            Tunnel(LOCAL6, 2, b"", 4095, 4789, learning=True, gbp=True),
        ),
        (Ipip(LOCAL, "eth0"), Tunnel(LOCAL, 2)),
        (Wireguard(51820, b"k" * 32), None),
    ]
    for kind, tunnel in cases:
        message = bytes(encode_step(CreateDevice(Device("flannel.1", kind, 1450, MAC), 2), 7))
        [(told, flags, sequence, at, end)] = list(messages(message))
        assert (told, flags, sequence) == (NEWLINK, REQUEST | CREATE | EXCLUSIVE, 7)
        name = type(kind).__name__.lower()
        assert parse_link(message, at, end) == Link(0, "flannel.1", 1450, False, MAC, name, "", tunnel)


def test_the_messages_that_change_a_device() -> None:
    change = ChangeDevice(5, mtu=1400, mac=MAC, alias="netstore 10.23.0.0/16", up=True)
    twin = decoded(bytes(encode_step(change, 1)))
    assert (twin["index"], twin["flags"], twin["change"], twin["header"]["type"]) == (5, 1, 1, NEWLINK)
    names = ("IFLA_MTU", "IFLA_ADDRESS", "IFLA_IFALIAS")
    assert [twin.get_attr(name) for name in names] == [1400, "0a:1b:2c:3d:4e:5f", "netstore 10.23.0.0/16"]
    twin = decoded(bytes(encode_step(DeleteDevice(5, "flannel.1"), 1)))
    assert (twin["index"], twin["header"]["type"]) == (5, DELLINK)
    for address, family, flags in ((LOCAL, socket.AF_INET, 0), (LOCAL6, socket.AF_INET6, 2)):
        shown = socket.inet_ntop(family, address)
        twin = decoded(bytes(encode_step(AddAddress(5, address, len(address) * 8), 1)))
        assert (twin["family"], twin["prefixlen"], twin["index"]) == (family, len(address) * 8, 5)
        assert (twin["flags"], twin.get_attr("IFA_LOCAL"), twin.get_attr("IFA_ADDRESS")) == (
            flags,
            shown,
            shown,
        )
        twin = decoded(bytes(encode_step(DeleteAddress(5, address, 32), 1)))
        assert (twin["header"]["type"], twin.get_attr("IFA_LOCAL")) == (DELADDR, shown)


def test_other_families_and_truncated_messages_are_ignored() -> None:
    data = encode_route(NEWROUTE, 0, {"family": 28, "dst_len": 20}, [])
    assert parse_notifications([data], lost=True) == ([], [], [], False, True, [], [])
    for cut in range(len(data)):
        assert list(messages(data[:cut])) == []


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_can_be_split_into_messages(datagrams: list[bytes]) -> None:
    for data in datagrams:
        for _, _, _, at, end in messages(data):
            assert 16 <= at <= end <= len(data)
