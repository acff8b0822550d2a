"""The kernel through netlink sockets on Trio: non-blocking, no threads. `rtnetlink` encodes and decodes the
messages.

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

from netstore.agent.kernel import KernelError, NotificationsLostError
from netstore.agent.rtnetlink import (
    ACK,
    DONE,
    DUMP_INTERRUPTED,
    ERROR,
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    NEWROUTE,
    addresses_request,
    encode_step,
    forwarding_request,
    links_request,
    messages,
    neighbours_request,
    parse_address,
    parse_entry,
    parse_link,
    parse_notifications,
    parse_route_to,
    parse_routes,
    route_to_request,
    routes_request,
    with_sequence,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from netstore.agent.entryplan import Entry
    from netstore.agent.genetlink import WireguardSocket
    from netstore.agent.kernel import Address, Link, Notifications, Step
    from netstore.agent.routeplan import KernelRoute
    from netstore.agent.wanted import Wireguard

BATCH: Final = 512
"""Messages in one send: 27 KiB. As many error messages fit into the receive buffer."""

SMALL_BATCH: Final = 16
"""Messages after which the caller goes on at once: 0.3 ms. Otherwise the task that waits for notifications
would wake up for what these messages lead to, which the caller takes next, and the caller once more for that
task.
"""

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

_GROUPS: Final = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10
"""RTNLGRP_LINK, RTNLGRP_NEIGH, and of both families RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV4_ROUTE."""

_signed = Struct("=i")


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
        self._wireguard: WireguardSocket | None = None
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._requests, self._notifications):
            trio.lowlevel.notify_closing(sock)
            sock.close()
        if self._wireguard is not None:
            self._wireguard.close()

    async def links(self) -> list[Link]:
        """All interfaces."""
        found = [
            parse_link(data, at, end)
            for data in await self._dump(links_request())
            for kind, _, _, at, end in messages(data)
            if kind == NEWLINK
        ]
        return list({link.ifindex: link for link in found}.values())

    async def addresses(self) -> list[Address]:
        """All IPv4 addresses."""
        return await self._addresses(socket.AF_INET)

    async def addresses6(self) -> list[Address]:
        """All IPv6 addresses."""
        return await self._addresses(socket.AF_INET6)

    async def _addresses(self, family: int) -> list[Address]:
        found = [
            parse_address(data, at, end)
            for data in await self._dump(addresses_request(family))
            for kind, _, _, at, end in messages(data)
            if kind == NEWADDR
        ]
        return [address for address in found if address is not None]

    async def routes(self) -> list[KernelRoute]:
        """All IPv4 routes of table main; about 4 us each."""
        return await self._routes(socket.AF_INET)

    async def routes6(self) -> list[KernelRoute]:
        """All IPv6 routes of table main; one with several next hops is a route for each."""
        return await self._routes(socket.AF_INET6)

    async def _routes(self, family: int) -> list[KernelRoute]:
        found: list[KernelRoute] = []
        for data in await self._dump(routes_request(family)):
            for kind, _, _, at, end in messages(data):
                if kind == NEWROUTE:
                    found += parse_routes(data, at, end)
            await trio.lowlevel.checkpoint()  # a datagram has about 500 routes: 2 ms
        return found

    async def entries(self, ifindex: int) -> list[Entry]:
        """All neighbour and forwarding entries of one device that have a MAC and an address."""
        found: list[Entry | None] = []
        for request in (neighbours_request(ifindex), forwarding_request(ifindex)):
            for data in await self._dump(request):
                for kind, _, _, at, end in messages(data):
                    if kind == NEWNEIGH:
                        found.append(parse_entry(data, at, end))
                await trio.lowlevel.checkpoint()
        return [entry for entry in found if entry is not None and entry.value and entry.ifindex == ifindex]

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
            batch[-1][6:8] = (flags | ACK).to_bytes(2, "little")
            await self._send(b"".join(batch))
            done = False
            while not done:
                data = await self._receive()
                for kind, _, sequence, at, _ in messages(data):
                    if kind != ERROR or not first <= sequence <= last:
                        continue
                    code = -_signed.unpack_from(data, at)[0]
                    if code:
                        failed[start + sequence - first] = code
                    done = done or sequence == last
            if len(batch) > SMALL_BATCH:
                await trio.lowlevel.checkpoint()
        return failed

    async def wireguard(self, ifindex: int) -> Wireguard | None:
        """The configuration of a WireGuard device; None if there is no such device."""
        return await self._wireguard_socket().configuration(ifindex)

    async def configure_wireguard(self, ifindex: int, wanted: Wireguard, present: Wireguard) -> int:
        """Change a WireGuard device from one configuration to another. Returns 0 or an errno."""
        return await self._wireguard_socket().configure(ifindex, wanted, present)

    def _wireguard_socket(self) -> WireguardSocket:
        if self._wireguard is None:
            from netstore.agent.genetlink import WireguardSocket  # noqa: PLC0415 - few need it; 60 ms

            self._wireguard = WireguardSocket()
        return self._wireguard

    async def route_to(self, ip: int, *, is_ipv6: bool = False) -> tuple[int, int] | None:
        """Interface index and source address the kernel would use to reach the address, or None if
        unreachable.
        """
        self._sequence += 1
        await self._send(with_sequence(route_to_request(ip, is_ipv6=is_ipv6), self._sequence))
        while True:
            data = await self._receive()
            for kind, _, sequence, at, end in messages(data):
                if sequence != self._sequence:
                    continue
                if kind == ERROR:
                    return None
                return parse_route_to(data, at, end)

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
                    raise KernelError(f"no notifications of the kernel: {error.strerror}") from None
                lost = True
        return parse_notifications(datagrams, lost=lost)

    async def _dump(self, request: bytes) -> list[bytes]:
        for _ in range(DUMP_ATTEMPTS):
            self._sequence += 1
            await self._send(with_sequence(request, self._sequence))
            pieces: list[bytes] = []
            interrupted = done = False
            while not done:
                data = await self._receive()
                for kind, flags, sequence, at, _ in messages(data):
                    if sequence != self._sequence:
                        continue
                    interrupted = interrupted or bool(flags & DUMP_INTERRUPTED)
                    if kind == DONE:
                        done = True
                    elif kind == ERROR:
                        code = -_signed.unpack_from(data, at)[0]
                        raise KernelError(f"the kernel refused to list: {os.strerror(code)}")
                pieces.append(data)
            if not interrupted:
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
            await self._send(data)
        except OSError as error:
            raise KernelError(f"the kernel took no message: {error.strerror}") from None

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
                    raise KernelError(f"no answer of the kernel: {error.strerror}") from None
                raise NotificationsLostError("the kernel's answers did not fit the receive buffer") from None
