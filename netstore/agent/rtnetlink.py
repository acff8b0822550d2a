"""Encodes and decodes rtnetlink messages (RFC 3549, rtnetlink(7)) of links, addresses, routes and neighbour
tables.

pyroute2 encodes; its sockets and its event loop are not used. Encoding a route takes it 140 us, so for the
kinds of message that are sent by the thousand it encodes a template once, and the values are written into
copies of that. Messages are decoded here, for the few attributes that are needed; tests compare the result
with pyroute2's.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import TYPE_CHECKING, Final, Literal

from netstore.agent.codecs import message_classes
from netstore.agent.deviceplan import (
    KINDS,
    AddAddress,
    ChangeDevice,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
)
from netstore.agent.entryplan import DeleteEntry, Entry, SetEntry
from netstore.agent.kernel import Address, EntryChange, Link, Notifications, RouteChange, Tunnel
from netstore.agent.routeplan import AddRoute, BoundRoute, DeleteRoute, KernelRoute, in_kernel
from netstore.agent.wanted import Ipip, Vxlan
from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import Subnet6, is_link_local6, show_ip6

with message_classes():
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped] # has no types
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped] # has no types
    from pyroute2.netlink.rtnl.ndmsg import ndmsg  # type: ignore[import-untyped] # has no types
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped] # has no types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.agent.kernel import Step
    from netstore.agent.wanted import Device

ERROR, DONE, _OVERRUN = 2, 3, 4
NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
"""Message types."""

_REQUEST, ACK, DUMP_INTERRUPTED = 0x001, 0x004, 0x010
_DUMP: Final = 0x300
_REPLACE, _EXCLUSIVE, _CREATE, _APPEND = 0x100, 0x200, 0x400, 0x800
"""Message flags (NLM_F_*)."""

_BRIDGE: Final = 7
"""AF_BRIDGE, the family of forwarding entries."""

_TABLE_MAIN: Final = 254
_CLONED: Final = 0x200
_UP: Final = 1
_ONLINK: Final = 4
_PERMANENT: Final = 0x80
_SELF: Final = 2
_NO_DAD: Final = 2

_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_ALIAS = 1, 3, 4, 10, 18, 20
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_GROUP, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING = 1, 2, 3, 4, 7
_VXLAN_PORT, _VXLAN_GROUP6, _VXLAN_LOCAL6, _VXLAN_GBP = 15, 16, 17, 23
_IPTUN_LINK, _IPTUN_LOCAL, _IPTUN_REMOTE = 1, 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_SECONDARY, _IFA_DEPRECATED, _IFA_PERMANENT = 0x01, 0x20, 0x80
_NDA_DST, _NDA_LLADDR = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NEXTHOP = 7, 9, 15, 18, 30

_header = Struct("=IHHII")
_route = Struct("=BBBBBBBBI")
_link = Struct("=BxHiII")
_address = Struct("=BBBBI")
_neighbour = Struct("=BxxxiHBB")
_next_hop = Struct("=HBBi")
_attribute = Struct("=HH")
_number = Struct("=I")
_ip = Struct("!I")
_port = Struct("!H")


# Encoding


def encode(
    message: rtmsg | ifinfmsg | ifaddrmsg | ndmsg,
    kind: int,
    flags: int,
    fields: dict[str, int],
    attributes: Sequence[tuple[str, object]],
) -> bytes:
    """A message with the sequence number 0, by pyroute2."""
    message["header"]["type"] = kind
    message["header"]["flags"] = _REQUEST | flags
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def encode_route(
    kind: int, flags: int, fields: dict[str, int], attributes: Sequence[tuple[str, object]]
) -> bytes:
    """A route message of table main, by pyroute2."""
    return encode(
        rtmsg(), kind, flags, {"family": socket.AF_INET, "table": _TABLE_MAIN, **fields}, attributes
    )


class Template:
    """An encoded message into which values are written.

    Their offsets are found by encoding `marks` that occur nowhere else in the message, so that nothing is
    assumed about pyroute2's layout. Only the header that the protocol defines has fixed offsets.
    """

    def __init__(self, message: bytes, marks: Sequence[bytes]) -> None:
        self._bytes = message
        self._places = [slice(at := message.index(mark), at + len(mark)) for mark in marks]

    def filled(self, sequence: int, *values: bytes) -> bytearray:
        """The message with this number and these values, each as long as its mark."""
        message = bytearray(self._bytes)
        _number.pack_into(message, 8, sequence)
        for place, value in zip(self._places, values, strict=True):
            message[place] = value
        return message


_MARKS: Final = {4: b"\x5a\x5b\x5c\x5d", 16: bytes(range(0xA0, 0xB0)), 6: bytes(range(0xC0, 0xC6))}
_SECOND_MARKS: Final = {4: b"\x6a\x6b\x6c\x6d", 16: bytes(range(0xD0, 0xE0))}
_INDEX_MARK: Final = b"\x7a\x7b\x7c\x7d"


def _shown(address: bytes) -> str:
    """A packed address as text."""
    ip = int.from_bytes(address, "big")
    return show_ip(ip) if len(address) == 4 else show_ip6(ip)


def _family(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def _shown_mac(mac: bytes) -> str:
    return mac.hex(":")


def _route_template(kind: int, flags: int, size: int, *, gateway: bool) -> Template:
    """A template for our routes with addresses of `size` bytes."""
    index = _number.unpack(_INDEX_MARK)[0]
    form = Subnet6 if size == 16 else Subnet
    right = in_kernel(BoundRoute(form(0, 0), int(gateway), index))
    fields = {
        "family": _family(_MARKS[size]),
        "dst_len": 0,
        "proto": right.protocol,
        "type": right.kind,
        "scope": right.scope,
    }
    attributes: list[tuple[str, object]] = [("RTA_DST", _shown(_MARKS[size])), ("RTA_OIF", index)]
    marks = [_MARKS[size], _INDEX_MARK]
    if gateway:
        attributes.insert(1, ("RTA_GATEWAY", _shown(_SECOND_MARKS[size])))
        marks.append(_SECOND_MARKS[size])
    return Template(encode_route(kind, flags, fields, attributes), marks)


_ROUTE_FLAGS: Final = {
    "create": (NEWROUTE, _CREATE | _EXCLUSIVE),
    "append": (NEWROUTE, _CREATE | _APPEND),
    "replace": (NEWROUTE, _REPLACE),
    "delete": (_DELROUTE, 0),
}
_ROUTES: Final = {
    (how, size, gateway): _route_template(*flags, size, gateway=gateway)
    for how, flags in _ROUTE_FLAGS.items()
    for size in (4, 16)
    for gateway in (False, True)
}


def _entry_template(kind: int, flags: int, size: int, *, forwarding: bool) -> Template:
    """A template for permanent entries with addresses of `size` bytes."""
    address, mac = _MARKS[size], _MARKS[6]
    fields = {
        "family": _BRIDGE if forwarding else _family(address),
        "ifindex": _number.unpack(_INDEX_MARK)[0],
        "state": _PERMANENT,
        "flags": _SELF if forwarding else 0,
    }
    attributes = [("NDA_DST", _shown(address)), ("NDA_LLADDR", _shown_mac(mac))]
    return Template(encode(ndmsg(), kind, flags, fields, attributes), [_INDEX_MARK, address, mac])


_ENTRIES: Final = {
    (kind, size, forwarding): _entry_template(
        kind, _CREATE | _REPLACE if kind == NEWNEIGH else 0, size, forwarding=forwarding
    )
    for kind in (NEWNEIGH, _DELNEIGH)
    for size in (4, 16)
    for forwarding in (False, True)
}


def links_request() -> bytes:
    """The request to list all links; the sequence number is 0."""
    return encode(ifinfmsg(), _GETLINK, _DUMP, {"family": socket.AF_UNSPEC}, [])


def addresses_request(family: int = socket.AF_INET) -> bytes:
    """The request to list all addresses of a family; the sequence number is 0."""
    return encode(ifaddrmsg(), _GETADDR, _DUMP, {"family": family}, [])


def routes_request(family: int = socket.AF_INET) -> bytes:
    """The request to list all routes of a family in table main; the sequence number is 0."""
    return encode_route(_GETROUTE, _DUMP, {"family": family}, [])


def neighbours_request(ifindex: int) -> bytes:
    """The request to list the neighbours of a device, of both families; the sequence number is 0."""
    return encode(ndmsg(), _GETNEIGH, _DUMP, {"family": socket.AF_UNSPEC}, [("NDA_IFINDEX", ifindex)])


def forwarding_request(ifindex: int) -> bytes:
    """The request to list the forwarding entries of a device; the sequence number is 0."""
    return encode(ndmsg(), _GETNEIGH, _DUMP, {"family": _BRIDGE, "ifindex": ifindex}, [])


def route_to_request(ip: int, *, is_ipv6: bool = False) -> bytes:
    """The request for the route to an address; the sequence number is 0."""
    if is_ipv6:
        family, length, words = socket.AF_INET6, 128, show_ip6(ip)
    else:
        family, length, words = socket.AF_INET, 32, show_ip(ip)
    return encode(rtmsg(), _GETROUTE, 0, {"family": family, "dst_len": length}, [("RTA_DST", words)])


def encode_step(step: Step, sequence: int) -> bytearray:
    """The message for one step."""
    if isinstance(step, AddRoute):
        return _encode_route_step(step.how, step.route, sequence)
    if isinstance(step, DeleteRoute):
        subnet, gateway, ifindex = step.route[:3]
        route = BoundRoute(subnet, gateway, ifindex, step.route.onlink)
        if step.route == in_kernel(route):
            return _encode_route_step("delete", route, sequence)
        return bytearray(with_sequence(_encode_other_deletion(step.route), sequence))
    if isinstance(step, SetEntry | DeleteEntry):
        kind = NEWNEIGH if isinstance(step, SetEntry) else _DELNEIGH
        ifindex, key, value, _ = step.entry
        is_forwarding = step.entry.is_forwarding
        address, mac = (value, key) if is_forwarding else (key, value)
        template = _ENTRIES[kind, len(address), is_forwarding]
        return template.filled(sequence, _number.pack(ifindex), address, mac)
    return bytearray(with_sequence(_encode_device_step(step), sequence))


def _encode_route_step(how: str, route: BoundRoute, sequence: int) -> bytearray:
    subnet, gateway, ifindex, onlink = route
    size = 16 if isinstance(subnet, Subnet6) else 4
    values = [subnet.base.to_bytes(size, "big"), _number.pack(ifindex)]
    if gateway:
        values.append(gateway.to_bytes(size, "big"))
    message = _ROUTES[how, size, gateway != 0].filled(sequence, *values)
    message[17] = subnet.length
    message[24] = _ONLINK if onlink else 0
    return message


def _encode_other_deletion(route: KernelRoute) -> bytes:
    """Deletion of a route with our protocol number or flannel's that is not of the form the templates are
    for.
    """
    is_ipv6 = isinstance(route.subnet, Subnet6)
    show = show_ip6 if is_ipv6 else show_ip
    attributes: list[tuple[str, object]] = [("RTA_DST", show(route.subnet.base))]
    if route.plain:
        attributes.append(("RTA_OIF", route.ifindex))
        if route.gateway:
            attributes.append(("RTA_GATEWAY", show(route.gateway)))
    if route.metric:
        attributes.append(("RTA_PRIORITY", route.metric))
    fields = {
        "family": socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        "dst_len": route.subnet.length,
        "proto": route.protocol,
        "type": route.kind,
        "scope": route.scope,
        "tos": route.tos,
    }
    return encode_route(_DELROUTE, 0, fields, attributes)


def _encode_device_step(step: Step) -> bytes:
    if isinstance(step, CreateDevice):
        return _encode_creation(step.device, step.link)
    if isinstance(step, ChangeDevice):
        attributes: list[tuple[str, object]] = []
        if step.mtu is not None:
            attributes.append(("IFLA_MTU", step.mtu))
        if step.mac is not None:
            attributes.append(("IFLA_ADDRESS", _shown_mac(step.mac)))
        if step.alias is not None:
            attributes.append(("IFLA_IFALIAS", step.alias))
        fields = {"index": step.ifindex}
        if step.up is not None:
            fields |= {"flags": _UP if step.up else 0, "change": _UP}
        return encode(ifinfmsg(), NEWLINK, 0, fields, attributes)
    if isinstance(step, DeleteDevice):
        return encode(ifinfmsg(), _DELLINK, 0, {"index": step.ifindex}, [])
    assert isinstance(step, AddAddress | DeleteAddress)  # noqa: S101 - the others were encoded before
    address = _shown(step.address)
    is_ipv6 = len(step.address) == 16
    fields = {
        "family": _family(step.address),
        "prefixlen": step.length,
        "index": step.ifindex,
        "flags": _NO_DAD if is_ipv6 else 0,
    }
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if isinstance(step, AddAddress):
        return encode(ifaddrmsg(), NEWADDR, _CREATE | _EXCLUSIVE, fields, attributes)
    return encode(ifaddrmsg(), _DELADDR, 0, fields, attributes)


def _encode_creation(device: Device, link: int) -> bytes:
    """The creation of a device, which stays down."""
    kind = device.kind
    data: list[tuple[str, object]] = []
    if isinstance(kind, Vxlan):
        data = [
            ("IFLA_VXLAN_ID", kind.vni),
            ("IFLA_VXLAN_LOCAL" if len(kind.local) == 4 else "IFLA_VXLAN_LOCAL6", _shown(kind.local)),
            ("IFLA_VXLAN_LINK", link),
            ("IFLA_VXLAN_LEARNING", int(kind.learning)),
        ]
        if kind.port:
            data.append(("IFLA_VXLAN_PORT", kind.port))
        if kind.gbp:
            data.append(("IFLA_VXLAN_GBP", True))
    elif isinstance(kind, Ipip):
        data = [
            ("IFLA_IPIP_LINK", link),
            ("IFLA_IPIP_LOCAL", _shown(kind.local)),
            ("IFLA_IPIP_PMTUDISC", 1),
        ]
    info: list[tuple[str, object]] = [("IFLA_INFO_KIND", KINDS[type(kind)])]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", device.name), ("IFLA_MTU", device.mtu)]
    if device.mac is not None:
        attributes.append(("IFLA_ADDRESS", _shown_mac(device.mac)))
    attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    return encode(ifinfmsg(), NEWLINK, _CREATE | _EXCLUSIVE, {"family": socket.AF_UNSPEC}, attributes)


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


def parse_routes(data: bytes, at: int, end: int) -> list[KernelRoute]:
    """The routes of an RTM_NEWROUTE or RTM_DELROUTE payload: none unless it is of table main, one, or for
    IPv6 with several next hops one for each. The kernel tells one protocol number for all of these.
    """
    family, length, _, tos, table, protocol, scope, kind, flags = _route.unpack_from(data, at)
    if flags & _CLONED:
        return []
    form: type[Subnet | Subnet6]
    if family == socket.AF_INET:
        size, form = 4, Subnet
    elif family == socket.AF_INET6:
        size, form = 16, Subnet6
    else:
        return []
    base = gateway = ifindex = metric = 0
    hops: tuple[int, int] | None = None
    plain = True
    at += 12
    while at + 4 <= end:  # not _attribute_spans: this loop runs for every route
        span, attribute = _attribute.unpack_from(data, at)
        if span < 4 or at + span > end:
            return []
        if attribute == _RTA_DST:
            base = int.from_bytes(data[at + 4 : at + 4 + size], "big")
        elif attribute == _RTA_GATEWAY:
            gateway = int.from_bytes(data[at + 4 : at + 4 + size], "big")
        elif attribute == _RTA_OIF:
            ifindex = _number.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_PRIORITY:
            metric = _number.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_TABLE:
            table = _number.unpack_from(data, at + 4)[0]
        elif attribute == _RTA_MULTIPATH and size == 16:
            hops = (at + 4, at + span)
        elif attribute in (_RTA_MULTIPATH, _RTA_VIA, _RTA_NEXTHOP):
            plain = False
        at += span + 3 & ~3
    if table != _TABLE_MAIN:
        return []
    subnet = form(base, length)
    shape = (protocol, metric, tos, kind, scope, plain)
    if hops is None:
        return [KernelRoute(subnet, gateway, ifindex, *shape, bool(flags & _ONLINK))]
    return [
        KernelRoute(subnet, via, through, *shape, onlink) for via, through, onlink in _next_hops(data, *hops)
    ]


def _next_hops(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Gateway, interface and whether it is on-link by decree, of each next hop of an IPv6 route."""
    while at + 8 <= end:
        length, flags, _, ifindex = _next_hop.unpack_from(data, at)
        if length < 8 or at + length > end:
            return
        gateway = 0
        for attribute, start, size in _attribute_spans(data, at + 8, at + length):
            if attribute == _RTA_GATEWAY:
                gateway = int.from_bytes(data[start : start + size], "big")
        yield gateway, ifindex, bool(flags & _ONLINK)
        at += length + 3 & ~3


def parse_link(data: bytes, at: int, end: int) -> Link:
    """The link of an RTM_NEWLINK or RTM_DELLINK payload."""
    _, _, ifindex, flags, _ = _link.unpack_from(data, at)
    name, mtu, mac, alias, kind, tunnel, master = "", 0, b"", "", "", None, 0
    for attribute, start, size in _attribute_spans(data, at + 16, end):
        if attribute == _IFLA_NAME:
            name = _text(data, start, size)
        elif attribute == _IFLA_MTU:
            mtu = _number.unpack_from(data, start)[0]
        elif attribute == _IFLA_MASTER:
            master = _number.unpack_from(data, start)[0]
        elif attribute == _IFLA_ADDRESS:
            mac = data[start : start + size]
        elif attribute == _IFLA_ALIAS:
            alias = _text(data, start, size)
        elif attribute == _IFLA_LINKINFO:
            kind, tunnel = _parse_link_info(data, start, start + size)
    return Link(ifindex, name, mtu, bool(flags & _UP), mac, kind, alias, tunnel, master)


def _text(data: bytes, start: int, size: int) -> str:
    return data[start : start + size].rstrip(b"\0").decode("utf-8", "replace")


def _parse_link_info(data: bytes, at: int, end: int) -> tuple[str, Tunnel | None]:
    """The kind of a virtual device, and its parameters if it is a VXLAN or IPIP one."""
    kind, span = "", (0, 0)
    for attribute, start, size in _attribute_spans(data, at, end):
        if attribute == _INFO_KIND:
            kind = _text(data, start, size)
        elif attribute == _INFO_DATA:
            span = start, start + size
    if kind == "vxlan":
        return kind, _parse_vxlan(data, *span)
    if kind == "ipip":
        return kind, _parse_ipip(data, *span)
    return kind, None


def _parse_vxlan(data: bytes, at: int, end: int) -> Tunnel:
    found = {kind: data[start : start + size] for kind, start, size in _attribute_spans(data, at, end)}
    return Tunnel(
        local=_given(found.get(_VXLAN_LOCAL) or found.get(_VXLAN_LOCAL6)),
        link=_as_number(found.get(_VXLAN_LINK)),
        remote=_given(found.get(_VXLAN_GROUP) or found.get(_VXLAN_GROUP6)),
        vni=_as_number(found.get(_VXLAN_ID)),
        port=int.from_bytes(found.get(_VXLAN_PORT, b""), "big"),
        learning=any(found.get(_VXLAN_LEARNING, b"")),
        gbp=_VXLAN_GBP in found,
    )


def _parse_ipip(data: bytes, at: int, end: int) -> Tunnel:
    found = {kind: data[start : start + size] for kind, start, size in _attribute_spans(data, at, end)}
    return Tunnel(
        local=_given(found.get(_IPTUN_LOCAL)),
        link=_as_number(found.get(_IPTUN_LINK)),
        remote=_given(found.get(_IPTUN_REMOTE)),
    )


def _given(address: bytes | None) -> bytes:
    """A packed address; empty if it is absent or the unspecified one."""
    return address if address is not None and any(address) else b""


def _as_number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "little")


def parse_address(data: bytes, at: int, end: int) -> Address | None:
    """The address of an RTM_NEWADDR or RTM_DELADDR payload; None unless it is of IPv4 or IPv6."""
    family, length, flags, _, ifindex = _address.unpack_from(data, at)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    ip = local = 0
    for attribute, start, size in _attribute_spans(data, at + 8, end):
        if attribute == _IFA_ADDRESS:
            ip = int.from_bytes(data[start : start + size], "big")
        elif attribute == _IFA_LOCAL:
            local = int.from_bytes(data[start : start + size], "big")
        elif attribute == _IFA_FLAGS:
            flags = _number.unpack_from(data, start)[0]
    preferred = not flags & (_IFA_SECONDARY | _IFA_DEPRECATED)
    return Address(ifindex, local or ip, length, preferred and bool(flags & _IFA_PERMANENT), preferred)


def parse_entry(data: bytes, at: int, end: int) -> Entry | None:
    """The entry of an RTM_NEWNEIGH or RTM_DELNEIGH payload; None if it has no key. The value is empty while
    the kernel does not know it.
    """
    family, ifindex, state, _, _ = _neighbour.unpack_from(data, at)
    address = mac = b""
    for attribute, start, size in _attribute_spans(data, at + 12, end):
        if attribute == _NDA_DST:
            address = data[start : start + size]
        elif attribute == _NDA_LLADDR:
            mac = data[start : start + size]
    permanent = bool(state & _PERMANENT)
    if family == _BRIDGE:
        return Entry(ifindex, mac, address, permanent) if len(mac) == 6 else None
    return Entry(ifindex, address, mac, permanent) if len(address) in (4, 16) else None


def parse_notifications(datagrams: Sequence[bytes], *, lost: bool) -> Notifications:
    """The changes in datagrams of the multicast groups; `lost` if some datagrams were dropped."""
    routes: list[RouteChange] = []
    links: list[Link] = []
    removed_links: list[int] = []
    entries: list[EntryChange] = []
    addresses = False
    bared: list[int] = []
    for data in datagrams:
        for kind, flags, _, at, end in messages(data):
            if kind in (NEWROUTE, _DELROUTE):
                routes += _route_changes(parse_routes(data, at, end), kind, flags)
            elif kind in (NEWNEIGH, _DELNEIGH):
                entry = parse_entry(data, at, end)
                if entry is not None:
                    entries.append(EntryChange(entry, kind == _DELNEIGH))
            elif kind == NEWLINK:
                links.append(parse_link(data, at, end))
            elif kind == _DELLINK:
                removed_links.append(parse_link(data, at, end).ifindex)
            elif kind in (NEWADDR, _DELADDR):
                address = parse_address(data, at, end)
                if address is None or (data[at] == socket.AF_INET6 and is_link_local6(address.ip)):
                    continue  # each interface of a pod gets one by itself
                addresses = True
                if kind == _DELADDR:
                    bared.append(address.ifindex)
            elif kind == _OVERRUN:
                lost = True
    return Notifications(routes, links, removed_links, addresses, lost, entries, bared)


def _route_changes(routes: list[KernelRoute], kind: int, flags: int) -> list[RouteChange]:
    """What a notification says of its routes."""
    if kind == _DELROUTE:
        return [RouteChange(route, "delete") for route in routes]
    if routes and isinstance(routes[0].subnet, Subnet6) and (flags & _REPLACE or len(routes) > 1):
        first, *others = routes
        return [RouteChange(first, "reset"), *(RouteChange(route, "append") for route in others)]
    how: Literal["prepend", "append", "replace"]
    how = "replace" if flags & _REPLACE else "append" if flags & _APPEND else "prepend"
    return [RouteChange(route, how) for route in routes]


def parse_route_to(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Interface index and source address of the answer to `route_to_request`; None without an interface."""
    ifindex = source = 0
    for attribute, start, size in _attribute_spans(data, at + 12, end):
        if attribute == _RTA_OIF:
            ifindex = _number.unpack_from(data, start)[0]
        elif attribute == _RTA_PREFSRC:
            source = int.from_bytes(data[start : start + size], "big")
    return (ifindex, source) if ifindex else None
