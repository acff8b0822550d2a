"""The kernel's rtnetlink interface (RFC 3549, rtnetlink(7)) on Trio: non-blocking sockets, no threads.

pyroute2 encodes the messages; its sockets and its event loop are not used. Encoding a route takes it 140 us,
so for the two kinds of message that are sent by the thousand it encodes a template once, and the numbers are
written into copies of that. Answers are parsed here, for the three kinds of message and the few attributes
that are needed; tests compare the parsers with pyroute2's.

There are two sockets: one for requests, one for the multicast groups. Many requests are sent at once, and
only the last of them asks for an acknowledgement (NLM_F_ACK): the kernel processes them in order, and reports
each failure with its sequence number in any case.
"""

from __future__ import annotations

import errno
import os
import socket
from struct import Struct
from typing import TYPE_CHECKING, Final, Self

import trio
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped] # has no types
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped] # has no types
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped] # has no types

from netstore.agent.kernel import (
    Address,
    KernelError,
    Link,
    Notifications,
    NotificationsLostError,
    RouteChange,
)
from netstore.agent.routeplan import PROTOCOL, UNICAST, UNIVERSE, AddRoute, DeleteRoute, KernelRoute, Route
from netstore.network.addresses import Subnet, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from netstore.agent.routeplan import Step

BATCH: Final = 512
"""Messages in one send: 27 KiB. As many error messages fit into the receive buffer."""

MAX_DATAGRAMS_AT_ONCE: Final = 1024
"""Datagrams read before other tasks may run."""

ANSWER_TIMEOUT: Final = 5.0
"""Seconds. The kernel answers during the send call, so having to wait at all means that something is wrong.
"""

DUMP_ATTEMPTS: Final = 5
"""A dump that was interrupted by changes (NLM_F_DUMP_INTR) is repeated up to this many times. The last result
is used in any case; notifications report the changes.
"""

RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
READ_BYTES: Final = 128 * 1024

_NETLINK_GET_STRICT_CHK: Final = 12
_SOL_NETLINK: Final = 270
_SO_RCVBUFFORCE: Final = 33

_GROUPS: Final = 1 << 0 | 1 << 4 | 1 << 6
"""RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE."""

_ERROR, _DONE, _OVERRUN = 2, 3, 4
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

_REQUEST, _ACK, _DUMP_CUT = 0x001, 0x004, 0x010
_DUMP: Final = 0x300
_REPLACE, _EXCLUSIVE, _CREATE, _APPEND = 0x100, 0x200, 0x400, 0x800

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
_signed = Struct("=i")
_ip = Struct("!I")


# Encoding


def encode_route(
    kind: int, flags: int, fields: dict[str, int], attributes: list[tuple[str, object]]
) -> bytes:
    """A route message of table main, by pyroute2."""
    return _encoded(
        rtmsg(), kind, flags, {"family": socket.AF_INET, "table": _TABLE_MAIN, **fields}, attributes
    )


def _encoded(
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


CREATE_ROUTE: Final = RouteTemplate(_NEWROUTE, _CREATE | _EXCLUSIVE)
APPEND_ROUTE: Final = RouteTemplate(_NEWROUTE, _CREATE | _APPEND)
DELETE_ROUTE: Final = RouteTemplate(_DELROUTE, 0)


def encode_step(step: Step, sequence: int) -> bytearray:
    """The message for one step."""
    if isinstance(step, AddRoute):
        template = APPEND_ROUTE if step.append else CREATE_ROUTE
        return template.filled(sequence, step.route.subnet, step.route.gateway, step.route.ifindex)
    route = step.route
    if route.gateway and route == KernelRoute(route.subnet, route.gateway, route.ifindex):
        return DELETE_ROUTE.filled(sequence, route.subnet, route.gateway, route.ifindex)
    return bytearray(_with_sequence(_encode_other_deletion(step), sequence))


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


def _with_sequence(message: bytes, sequence: int) -> bytes:
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
            if kind in (_NEWROUTE, _DELROUTE):
                route = parse_route(data, at, end)
                if route is None:
                    continue
                if kind == _DELROUTE:
                    routes.append(RouteChange(route, "delete"))
                elif flags & _REPLACE:
                    routes.append(RouteChange(route, "replace"))
                else:
                    routes.append(RouteChange(route, "append" if flags & _APPEND else "prepend"))
            elif kind == _NEWLINK:
                links.append(parse_link(data, at, end))
            elif kind == _DELLINK:
                removed_links.append(parse_link(data, at, end).ifindex)
            elif kind in (_NEWADDR, _DELADDR):
                addresses = True
            elif kind == _OVERRUN:
                lost = True
    return Notifications(routes, links, removed_links, addresses, lost)


# Sockets


def _open(groups: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise KernelError(f"cannot open a netlink socket: {error.strerror}") from None
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        # Without CAP_NET_ADMIN the agent cannot write routes either; for reading, the system's limit will do.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # Linux before 4.20 dumps all tables; parse_route filters them
            raise
    sock.bind((0, groups))
    return sock


class Netlink:
    """The kernel, in the network namespace of this thread. Use it as a context manager."""

    def __init__(self) -> None:
        self._requests = _open(0)
        self._notifications = _open(_GROUPS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._requests, self._notifications):
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def links(self) -> list[Link]:
        """All interfaces."""
        request = _encoded(ifinfmsg(), _GETLINK, _DUMP, {"family": socket.AF_UNSPEC}, [])
        found = [
            parse_link(data, at, end)
            for data in await self._dump(request)
            for kind, _, _, at, end in messages(data)
            if kind == _NEWLINK
        ]
        return list({link.ifindex: link for link in found}.values())

    async def addresses(self) -> list[Address]:
        """All IPv4 addresses."""
        request = _encoded(ifaddrmsg(), _GETADDR, _DUMP, {"family": socket.AF_INET}, [])
        found = [
            parse_address(data, at, end)
            for data in await self._dump(request)
            for kind, _, _, at, end in messages(data)
            if kind == _NEWADDR
        ]
        return [address for address in found if address is not None]

    async def routes(self) -> list[KernelRoute]:
        """All IPv4 routes of table main; about 4 us each."""
        found = [
            parse_route(data, at, end)
            for data in await self._dump(encode_route(_GETROUTE, _DUMP, {}, []))
            for kind, _, _, at, end in messages(data)
            if kind == _NEWROUTE
        ]
        return [route for route in found if route is not None]

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        """Carry out the steps in order, `BATCH` in each send. Returns the errno of each failed step by its
        position.
        """
        failed: dict[int, int] = {}
        for start in range(0, len(steps), BATCH):
            first = self._sequence + 1
            batch = [encode_step(step, first + n) for n, step in enumerate(steps[start : start + BATCH])]
            self._sequence = last = self._sequence + len(batch)
            flags = int.from_bytes(batch[-1][6:8], "little")
            batch[-1][6:8] = (flags | _ACK).to_bytes(2, "little")
            await self._send(b"".join(batch))
            done = False
            while not done:
                data = await self._receive()
                for kind, _, sequence, at, _ in messages(data):
                    if kind != _ERROR or not first <= sequence <= last:
                        continue
                    code = -_signed.unpack_from(data, at)[0]
                    if code:
                        failed[start + sequence - first] = code
                    done = done or sequence == last
            await trio.lowlevel.checkpoint()
        return failed

    async def route_to(self, ip: int) -> tuple[int, int] | None:
        """Interface index and source address the kernel would use to reach the address, or None if
        unreachable.
        """
        self._sequence += 1
        request = _encoded(
            rtmsg(), _GETROUTE, 0, {"family": socket.AF_INET, "dst_len": 32}, [("RTA_DST", show_ip(ip))]
        )
        await self._send(_with_sequence(request, self._sequence))
        while True:
            data = await self._receive()
            for kind, _, sequence, at, end in messages(data):
                if sequence != self._sequence:
                    continue
                if kind == _ERROR:
                    return None
                return _parse_route_to(data, at, end)

    async def notifications(self) -> Notifications:
        """Wait for changes."""
        await trio.lowlevel.wait_readable(self._notifications)
        return self.pending_notifications()

    def pending_notifications(self) -> Notifications:
        """The changes received and not yet returned."""
        datagrams: list[bytes] = []
        lost = False
        while len(datagrams) < MAX_DATAGRAMS_AT_ONCE:
            try:
                datagrams.append(self._notifications.recv(READ_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
        return parse_notifications(datagrams, lost=lost)

    async def _dump(self, request: bytes) -> list[bytes]:
        for _ in range(DUMP_ATTEMPTS):
            self._sequence += 1
            await self._send(_with_sequence(request, self._sequence))
            pieces: list[bytes] = []
            cut = done = False
            while not done:
                data = await self._receive()
                for kind, flags, sequence, at, _ in messages(data):
                    if sequence != self._sequence:
                        continue
                    cut = cut or bool(flags & _DUMP_CUT)
                    if kind == _DONE:
                        done = True
                    elif kind == _ERROR:
                        code = -_signed.unpack_from(data, at)[0]
                        raise KernelError(f"the kernel refused to list: {os.strerror(code)}")
                pieces.append(data)
            if not cut:
                break
        return pieces

    async def _send(self, data: bytes) -> None:
        try:
            self._requests.send(data)
        except BlockingIOError:
            with trio.move_on_after(ANSWER_TIMEOUT) as waiting:
                await trio.lowlevel.wait_writable(self._requests)
            if waiting.cancelled_caught:
                raise KernelError(f"the kernel took no message within {ANSWER_TIMEOUT:g} s") from None
            self._requests.send(data)

    async def _receive(self) -> bytes:
        while True:
            try:
                return self._requests.recv(READ_BYTES)
            except BlockingIOError:
                with trio.move_on_after(ANSWER_TIMEOUT) as waiting:
                    await trio.lowlevel.wait_readable(self._requests)
                if waiting.cancelled_caught:
                    raise KernelError(f"the kernel did not answer within {ANSWER_TIMEOUT:g} s") from None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise NotificationsLostError("the kernel's answers did not fit the receive buffer") from None


def _parse_route_to(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    ifindex = source = 0
    for attribute, start, _ in _attribute_spans(data, at + 12, end):
        if attribute == _RTA_OIF:
            ifindex = _number.unpack_from(data, start)[0]
        elif attribute == _RTA_PREFSRC:
            source = _ip.unpack_from(data, start)[0]
    return (ifindex, source) if ifindex else None
