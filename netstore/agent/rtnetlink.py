"""Encodes and decodes rtnetlink messages (RFC 3549, rtnetlink(7)) of links, IPv4 addresses and IPv4 routes.

pyroute2 encodes; its sockets and its event loop are not used. Encoding a route takes it 140 us, so for the
two kinds of message that are sent by the thousand it encodes a template once, and the numbers are written
into copies of that. Messages are decoded here, for the three kinds and the few attributes that are needed;
tests compare the result with pyroute2's.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import TYPE_CHECKING, Final

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped] # has no types
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped] # has no types
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped] # has no types

from netstore.agent.kernel import Address, Link, Notifications, RouteChange
from netstore.agent.routeplan import PROTOCOL, UNICAST, UNIVERSE, AddRoute, DeleteRoute, KernelRoute, Route
from netstore.network.addresses import Subnet, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.agent.routeplan import Step

ERROR, DONE, _OVERRUN = 2, 3, 4
NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
"""Message types."""

_REQUEST, ACK, DUMP_INTERRUPTED = 0x001, 0x004, 0x010
_DUMP: Final = 0x300
_REPLACE, _EXCLUSIVE, _CREATE, _APPEND = 0x100, 0x200, 0x400, 0x800
"""Message flags (NLM_F_*)."""

_TABLE_MAIN: Final = 254
_CLONED: Final = 0x200
_UP: Final = 1

_IFLA_NAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_SECONDARY, _IFA_DEPRECATED, _IFA_PERMANENT = 0x01, 0x20, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NEXTHOP = 7, 9, 15, 18, 30

_header = Struct("=IHHII")
_route = Struct("=BBBBBBBBI")
_link = Struct("=BxHiII")
_address = Struct("=BBBBI")
_attribute = Struct("=HH")
_number = Struct("=I")
_ip = Struct("!I")


# Encoding


def encode_route(
    kind: int, flags: int, fields: dict[str, int], attributes: list[tuple[str, object]]
) -> bytes:
    """A route message of table main, by pyroute2."""
    return _encode(
        rtmsg(), kind, flags, {"family": socket.AF_INET, "table": _TABLE_MAIN, **fields}, attributes
    )


def _encode(
    message: rtmsg | ifinfmsg | ifaddrmsg,
    kind: int,
    flags: int,
    fields: dict[str, int],
    attributes: list[tuple[str, object]],
) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = _REQUEST | flags
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


class RouteTemplate:
    """An encoded message about one of our routes, into which the numbers of a route are written.

    Their offsets are found by encoding numbers that occur nowhere else in the message, so that nothing is
    assumed about pyroute2's layout.
    """

    def __init__(self, kind: int, flags: int) -> None:
        marks = Route(Subnet(0x5A5B5C5D, 32), 0x6A6B6C6D, 0x7A7B7C7D)
        fields = {"dst_len": 32, "proto": PROTOCOL, "type": UNICAST, "scope": UNIVERSE}
        self._bytes = encode_route(kind, flags, fields, _attributes(marks))
        self._destination = self._bytes.index(_ip.pack(marks.subnet.base))
        self._gateway = self._bytes.index(_ip.pack(marks.gateway))
        self._ifindex = self._bytes.index(_number.pack(marks.ifindex))

    def filled(self, sequence: int, subnet: Subnet, gateway: int, ifindex: int) -> bytearray:
        """The message for one route."""
        message = bytearray(self._bytes)
        _number.pack_into(message, 8, sequence)
        message[17] = subnet.length
        _ip.pack_into(message, self._destination, subnet.base)
        _ip.pack_into(message, self._gateway, gateway)
        _number.pack_into(message, self._ifindex, ifindex)
        return message


def _attributes(route: Route | KernelRoute) -> list[tuple[str, object]]:
    return [
        ("RTA_DST", show_ip(route.subnet.base)),
        ("RTA_GATEWAY", show_ip(route.gateway)),
        ("RTA_OIF", route.ifindex),
    ]


CREATE_ROUTE: Final = RouteTemplate(NEWROUTE, _CREATE | _EXCLUSIVE)
APPEND_ROUTE: Final = RouteTemplate(NEWROUTE, _CREATE | _APPEND)
DELETE_ROUTE: Final = RouteTemplate(_DELROUTE, 0)


def links_request() -> bytes:
    """The request to list all links; the sequence number is 0."""
    return _encode(ifinfmsg(), _GETLINK, _DUMP, {"family": socket.AF_UNSPEC}, [])


def addresses_request() -> bytes:
    """The request to list all IPv4 addresses; the sequence number is 0."""
    return _encode(ifaddrmsg(), _GETADDR, _DUMP, {"family": socket.AF_INET}, [])


def routes_request() -> bytes:
    """The request to list all IPv4 routes of table main; the sequence number is 0."""
    return encode_route(_GETROUTE, _DUMP, {}, [])


def route_to_request(ip: int) -> bytes:
    """The request for the route to an address; the sequence number is 0."""
    fields = {"family": socket.AF_INET, "dst_len": 32}
    return _encode(rtmsg(), _GETROUTE, 0, fields, [("RTA_DST", show_ip(ip))])


def encode_step(step: Step, sequence: int) -> bytearray:
    """The message for one step."""
    if isinstance(step, AddRoute):
        template = APPEND_ROUTE if step.append else CREATE_ROUTE
        return template.filled(sequence, step.route.subnet, step.route.gateway, step.route.ifindex)
    route = step.route
    if route.gateway and route == KernelRoute(route.subnet, route.gateway, route.ifindex):
        return DELETE_ROUTE.filled(sequence, route.subnet, route.gateway, route.ifindex)
    return bytearray(with_sequence(_encode_other_deletion(step), sequence))


def _encode_other_deletion(step: DeleteRoute) -> bytes:
    """Deletion of a route with our protocol number or flannel's that is not of the form the templates are
    for.
    """
    route = step.route
    attributes: list[tuple[str, object]] = [("RTA_DST", show_ip(route.subnet.base))]
    if route.plain:
        attributes.append(("RTA_OIF", route.ifindex))
        if route.gateway:
            attributes.append(("RTA_GATEWAY", show_ip(route.gateway)))
    if route.metric:
        attributes.append(("RTA_PRIORITY", route.metric))
    fields = {
        "dst_len": route.subnet.length,
        "proto": route.protocol,
        "type": route.kind,
        "scope": route.scope,
        "tos": route.tos,
    }
    return encode_route(_DELROUTE, 0, fields, attributes)


def with_sequence(message: bytes, sequence: int) -> bytes:
    """The message with this sequence number."""
    length, kind, flags, _, port = _header.unpack_from(message)
    return _header.pack(length, kind, flags, sequence, port) + message[16:]


# Decoding


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Type, flags, sequence number, start and end of the payload of each message in a datagram."""
    at, size = 0, len(data)
    while at + 16 <= size:
        length, kind, flags, sequence, _ = _header.unpack_from(data, at)
        if length < 16 or at + length > size:
            return
        yield kind, flags, sequence, at + 16, at + length
        at += length + 3 & ~3


def _attribute_spans(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and length of each attribute."""
    while at + 4 <= end:
        length, kind = _attribute.unpack_from(data, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, at + 4, length - 4
        at += length + 3 & ~3


def parse_route(data: bytes, at: int, end: int) -> KernelRoute | None:
    """The route of an RTM_NEWROUTE or RTM_DELROUTE payload; None unless it is an IPv4 route of table main."""
    family, length, _, tos, table, protocol, scope, kind, flags = _route.unpack_from(data, at)
    if family != socket.AF_INET or flags & _CLONED:
        return None
    base = gateway = ifindex = metric = 0
    plain = True
    at += 12
    while at + 4 <= end:  # not _attribute_spans: this loop runs for every route
        size, attribute = _attribute.unpack_from(data, at)
        if size < 4 or at + size > end:
            return None
        if attribute == _RTA_DST:
            base = _ip.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_GATEWAY:
            gateway = _ip.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_OIF:
            ifindex = _number.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_PRIORITY:
            metric = _number.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_TABLE:
            table = _number.unpack_from(data, at + 4)[0]
        elif attribute in (_RTA_MULTIPATH, _RTA_VIA, _RTA_NEXTHOP):
            plain = False
        at += size + 3 & ~3
    if table != _TABLE_MAIN:
        return None
    return KernelRoute(Subnet(base, length), gateway, ifindex, protocol, metric, tos, kind, scope, plain)


def parse_link(data: bytes, at: int, end: int) -> Link:
    """The link of an RTM_NEWLINK or RTM_DELLINK payload."""
    _, _, ifindex, flags, _ = _link.unpack_from(data, at)
    name, mtu = "", 0
    for attribute, start, size in _attribute_spans(data, at + 16, end):
        if attribute == _IFLA_NAME:
            name = data[start : start + size].rstrip(b"\0").decode("utf-8", "replace")
        elif attribute == _IFLA_MTU:
            mtu = _number.unpack_from(data, start)[0]
    return Link(ifindex, name, mtu, bool(flags & _UP))


def parse_address(data: bytes, at: int, end: int) -> Address | None:
    """The address of an RTM_NEWADDR or RTM_DELADDR payload; None unless it is IPv4."""
    family, length, flags, _, ifindex = _address.unpack_from(data, at)
    if family != socket.AF_INET:
        return None
    ip = local = 0
    for attribute, start, _ in _attribute_spans(data, at + 8, end):
        if attribute == _IFA_ADDRESS:
            ip = _ip.unpack_from(data, start)[0]
        elif attribute == _IFA_LOCAL:
            local = _ip.unpack_from(data, start)[0]
        elif attribute == _IFA_FLAGS:
            flags = _number.unpack_from(data, start)[0]
    stable = bool(flags & _IFA_PERMANENT) and not flags & (_IFA_SECONDARY | _IFA_DEPRECATED)
    return Address(ifindex, local or ip, length, stable)


def parse_notifications(datagrams: Sequence[bytes], *, lost: bool) -> Notifications:
    """The changes in datagrams of the multicast groups; `lost` if some datagrams were dropped."""
    routes: list[RouteChange] = []
    links: list[Link] = []
    removed_links: list[int] = []
    addresses = False
    for data in datagrams:
        for kind, flags, _, at, end in messages(data):
            if kind in (NEWROUTE, _DELROUTE):
                route = parse_route(data, at, end)
                if route is None:
                    continue
                if kind == _DELROUTE:
                    routes.append(RouteChange(route, "delete"))
                elif flags & _REPLACE:
                    routes.append(RouteChange(route, "replace"))
                else:
                    routes.append(RouteChange(route, "append" if flags & _APPEND else "prepend"))
            elif kind == NEWLINK:
                links.append(parse_link(data, at, end))
            elif kind == _DELLINK:
                removed_links.append(parse_link(data, at, end).ifindex)
            elif kind in (NEWADDR, _DELADDR):
                addresses = True
            elif kind == _OVERRUN:
                lost = True
    return Notifications(routes, links, removed_links, addresses, lost)


def parse_route_to(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Interface index and source address of the answer to `route_to_request`; None without an interface."""
    ifindex = source = 0
    for attribute, start, _ in _attribute_spans(data, at + 12, end):
        if attribute == _RTA_OIF:
            ifindex = _number.unpack_from(data, start)[0]
        elif attribute == _RTA_PREFSRC:
            source = _ip.unpack_from(data, start)[0]
    return (ifindex, source) if ifindex else None
