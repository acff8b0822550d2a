"""WireGuard devices through a generic netlink socket, with a kernel of the test at its other end.

That kernel answers as Linux does (genetlink(7)); tests/plugins/test_traffic.py has a real one where the
module is there.
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from pyroute2.netlink import ctrlmsg  # type: ignore[import-untyped] # has no types

from netstore.agent.genetlink import WireguardSocket
from netstore.agent.kernel import KernelError
from netstore.agent.rtnetlink import messages
from netstore.agent.wanted import Wireguard
from tests.agent.test_wgnetlink import FAMILY, IFINDEX, FakeDevice, device, key, peer, same

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_header = Struct("=IHHII")

NEW = Wireguard(0, b"")
"""A device that was made just now."""


def answer(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return _header.pack(16 + len(payload), kind, flags, sequence, 0) + payload


class FakeGenetlink:
    """The kernel's end: the family, and one device."""

    def __init__(self, end: trio.socket.SocketType, ours: socket.socket) -> None:
        self.end = end
        self.ours = ours
        self.device = FakeDevice()
        self.has_family = True
        self.code = 0
        """The errno of all requests about a device."""
        self.is_silent = False
        self.requests = 0

    def devices(self) -> WireguardSocket:
        """The socket under test, at the other end."""
        return WireguardSocket(lambda: self.ours)

    async def serve(self) -> None:
        while True:
            data = await self.end.recv(1 << 20)
            if self.is_silent:
                continue
            for kind, flags, sequence, at, _ in messages(data):
                self.requests += 1
                for one in self._answers(kind, flags, sequence, data, at):
                    await self.end.send(one)

    def _answers(self, kind: int, flags: int, sequence: int, data: bytes, at: int) -> list[bytes]:
        if kind == 16:
            return [self._family(sequence)]
        assert kind == FAMILY
        if self.code:
            return [answer(2, 0, sequence, (-self.code).to_bytes(4, "little", signed=True) + bytes(16))]
        if data[at] == 0:
            assert flags == 0x301
            parts = [answer(FAMILY, 2, sequence, each) for each in self.device.told()]
            return [answer(FAMILY, 2, sequence - 1, b"old"), *parts, answer(3, 2, sequence, bytes(4))]
        self.device.take([data[:8] + bytes(4) + data[12:]])
        return [answer(2, 0, sequence, bytes(20))]

    def _family(self, sequence: int) -> bytes:
        if not self.has_family:
            return answer(2, 0, sequence, (-errno.ENOENT).to_bytes(4, "little", signed=True) + bytes(16))
        told = ctrlmsg()
        told["cmd"] = 1
        told["attrs"] = [["CTRL_ATTR_FAMILY_NAME", "wireguard"], ["CTRL_ATTR_FAMILY_ID", FAMILY]]
        told.encode()
        return answer(16, 0, sequence, bytes(told.data[16:]))


@pytest.fixture
async def kernel() -> AsyncIterator[FakeGenetlink]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    async with trio.open_nursery() as nursery:
        with ours, trio.socket.from_stdlib_socket(theirs) as end:
            fake = FakeGenetlink(end, ours)
            nursery.start_soon(fake.serve)
            yield fake
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_device_is_configured_read_and_changed(kernel: FakeGenetlink) -> None:
    sock = kernel.devices()
    fresh = await sock.configuration(IFINDEX)
    assert fresh is not None
    wanted = device(*(peer(number) for number in range(1, 8)))
    assert await sock.configure(IFINDEX, wanted, fresh) == 0
    found = await sock.configuration(IFINDEX)
    assert found is not None
    assert same(found, wanted)
    kernel.device.touched.clear()
    fewer = device(*wanted.peers[1:])
    assert await sock.configure(IFINDEX, fewer, found) == 0
    assert kernel.device.touched == [key(1)]
    sock.close()
    sock.close()


@pytest.mark.trio
async def test_the_endpoint_of_a_peer_that_moved_is_left_alone(kernel: FakeGenetlink) -> None:
    sock = kernel.devices()
    wanted = device(peer(1))
    assert await sock.configure(IFINDEX, wanted, NEW) == 0
    kernel.device.peers[key(1)]["endpoint"] = "203.0.113.9", 4000
    roamed = await sock.configuration(IFINDEX)
    assert roamed is not None
    requests = kernel.requests
    assert await sock.configure(IFINDEX, wanted, roamed) == 0
    assert kernel.requests == requests
    sock.close()


@pytest.mark.trio
async def test_a_kernel_without_wireguard_has_no_such_device(kernel: FakeGenetlink) -> None:
    kernel.has_family = False
    sock = kernel.devices()
    assert await sock.configuration(IFINDEX) is None
    assert await sock.configure(IFINDEX, device(peer(1)), NEW) == errno.EOPNOTSUPP
    kernel.has_family = True  # the module was loaded
    assert await sock.configuration(IFINDEX) is not None
    sock.close()


@pytest.mark.trio
async def test_what_the_kernel_refuses_is_an_errno_and_is_told_again(kernel: FakeGenetlink) -> None:
    sock = kernel.devices()
    wanted = device(peer(1))
    kernel.code = errno.EPERM
    assert await sock.configure(IFINDEX, wanted, NEW) == errno.EPERM
    with pytest.raises(KernelError, match="does not show a WireGuard device: Operation not permitted"):
        await sock.configuration(IFINDEX)
    kernel.code = errno.ENODEV
    assert await sock.configuration(IFINDEX) is None
    kernel.code = 0
    assert await sock.configure(IFINDEX, wanted, NEW) == 0
    assert same(await sock.configuration(IFINDEX) or device(), wanted)
    sock.close()


@pytest.mark.trio
async def test_a_kernel_that_does_not_answer_is_an_error(
    kernel: FakeGenetlink, autojump_clock: trio.testing.MockClock
) -> None:
    kernel.is_silent = True
    with pytest.raises(KernelError, match="did not answer within 5 s"):
        await kernel.devices().configuration(IFINDEX)


@pytest.mark.trio
async def test_the_real_kernel_says_whether_it_has_wireguard() -> None:
    sock = WireguardSocket()
    try:
        assert await sock.configuration(0x7FFFFFFF) is None
    finally:
        sock.close()
