"""WireGuard devices of the kernel through a generic netlink socket on Trio (genetlink(7)); `wgnetlink`
encodes and decodes the messages. The socket is opened when the first device is asked for.

An answer is never shown: it holds keys.
"""

from __future__ import annotations

import errno
import os
import socket
from struct import Struct
from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.kernel import KernelError
from netstore.agent.rtnetlink import DONE, ERROR, messages, with_sequence
from netstore.agent.wanted import Wireguard
from netstore.agent.wgnetlink import (
    FAMILY,
    family_request,
    get_request,
    parse_device,
    parse_family,
    set_requests,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.agent.wanted import WireguardPeer

ANSWER_TIMEOUT: Final = 5.0
"""Seconds; see `netlink.ANSWER_TIMEOUT`."""

RECEIVE_BUFFER_BYTES: Final = 1024 * 1024
READ_BYTES: Final = 128 * 1024

_NETLINK_GENERIC: Final = 16

_signed = Struct("=i")


def open_socket() -> socket.socket:
    """A non-blocking generic netlink socket."""
    kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        sock = socket.socket(socket.AF_NETLINK, kinds, _NETLINK_GENERIC)
    except OSError as error:
        raise KernelError(f"cannot open a netlink socket: {error.strerror}") from None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    sock.bind((0, 0))
    return sock


class WireguardSocket:
    """The WireGuard devices in the network namespace of this thread."""

    def __init__(self, open_socket: Callable[[], socket.socket] = open_socket) -> None:
        self._open_socket = open_socket
        self._socket: socket.socket | None = None
        self._family = 0
        self._sequence = 0
        self._told: dict[int, dict[bytes, WireguardPeer]] = {}
        """The peers as they were set last, by the number of the device and their key."""

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None

    async def configuration(self, ifindex: int) -> Wireguard | None:
        """The configuration of the device; None if it does not exist, or the kernel has no WireGuard."""
        sock = await self._open()
        if sock is None:
            return None
        code, payloads = await self._ask(sock, get_request(self._family, ifindex))
        if code in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        if code:
            raise KernelError(f"the kernel does not show a WireGuard device: {os.strerror(code)}")
        return parse_device(payloads)

    async def configure(self, ifindex: int, wanted: Wireguard, present: Wireguard) -> int:
        """Change the device from one configuration to the other; peers that are in neither stay as they are.
        Returns 0 or an errno; then the change may have been made in part.
        """
        sock = await self._open()
        if sock is None:
            return errno.EOPNOTSUPP
        known = self._told.setdefault(ifindex, {})
        keys = [peer.public_key for peer in (*present.peers, *wanted.peers)]
        former = tuple(known.pop(key) for key in dict.fromkeys(keys) if key in known)
        told = Wireguard(wanted.port, wanted.private_key, former)
        for request in set_requests(self._family, ifindex, wanted, present, told):
            code, _ = await self._ask(sock, request)
            if code:
                return code
        known.update((peer.public_key, peer) for peer in wanted.peers)
        return 0

    async def _open(self) -> socket.socket | None:
        """The socket, once the number of the family is known; None if the kernel has no WireGuard."""
        if self._socket is None:
            self._socket = self._open_socket()
        if not self._family:
            code, payloads = await self._ask(self._socket, family_request())
            if code == errno.ENOENT:
                return None
            if code or not payloads:
                raise KernelError(f"the kernel did not say whether it has {FAMILY}")
            self._family = parse_family(payloads[0])
        return self._socket

    async def _ask(self, sock: socket.socket, request: bytes) -> tuple[int, list[bytes]]:
        """The errno of a request, and the payloads of its answers."""
        self._sequence += 1
        payloads: list[bytes] = []
        try:
            sock.send(with_sequence(request, self._sequence))
            while True:
                data = await self._receive(sock)
                for kind, flags, sequence, at, end in messages(data):
                    if sequence != self._sequence:
                        continue
                    if kind in (ERROR, DONE):
                        return (-_signed.unpack_from(data, at)[0] if end - at >= 4 else 0), payloads
                    payloads.append(data[at:end])
                    if not flags & 2:  # NLM_F_MULTI
                        return 0, payloads
        except OSError as error:
            raise KernelError(f"the kernel's WireGuard cannot be asked: {error.strerror}") from None

    @staticmethod
    async def _receive(sock: socket.socket) -> bytes:
        with trio.move_on_after(ANSWER_TIMEOUT):
            while True:
                try:
                    return sock.recv(READ_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(sock)
        raise KernelError(f"the kernel did not answer within {ANSWER_TIMEOUT:g} s")
