"""Encodes and decodes the generic netlink messages of WireGuard devices (linux/wireguard.h, genetlink(7)).

pyroute2 encodes the part of a message that is about the device. A peer takes it 880 us to encode and 630 us
to decode, which is seconds for a device with thousands of them, so peers are encoded and decoded here; tests
compare the result with pyroute2's.

Messages that may hold keys are never part of an error or a log line.
"""

from __future__ import annotations

import socket
import sys
from binascii import b2a_base64
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.agent.codecs import message_classes
from netstore.agent.wanted import Wireguard, WireguardPeer
from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6

with message_classes():
    from pyroute2.netlink import ctrlmsg  # type: ignore[import-untyped] # has no types
    from pyroute2.netlink.generic.wireguard import wgmsg  # type: ignore[import-untyped] # has no types

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FAMILY: Final = "wireguard"

MAX_MESSAGE_BYTES: Final = 32 * 1024
"""Of a message that is sent. The kernel would take more, but an attribute cannot have more than 64 KiB."""

MAX_ALLOWED: Final = 512
"""Subnets of a peer in one message; a peer with more is continued in the next."""

KEY_BYTES: Final = 32

_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_CONTROLLER, _GET_FAMILY = 16, 3
_GET_DEVICE, _SET_DEVICE = 0, 1
_REPLACE_PEERS: Final = 1
_REMOVE, _REPLACE_ALLOWED = 1, 2

_PRIVATE_KEY, _LISTEN_PORT, _PEERS = 3, 6, 8
_PUBLIC_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE, _ALLOWED = 1, 2, 3, 4, 5, 9
_FAMILY, _ADDRESS, _LENGTH = 1, 2, 3
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF

_attribute = Struct("=HH")
_number32 = Struct("=I")
_number16 = Struct("=H")
_sockaddr4 = Struct("=H2s4s8x")
_sockaddr6 = Struct("=H2s4x16s4x")

_NO_KEY: Final = bytes(KEY_BYTES)


# Encoding


def family_request() -> bytes:
    """The request for the number of the family `wireguard`; the sequence number is 0."""
    return _encode(ctrlmsg(), _CONTROLLER, _REQUEST, _GET_FAMILY, [("CTRL_ATTR_FAMILY_NAME", FAMILY)])


def get_request(family: int, ifindex: int) -> bytes:
    """The request for the device and all its peers; the sequence number is 0."""
    return _encode(wgmsg(), family, _REQUEST | _DUMP, _GET_DEVICE, [("WGDEVICE_A_IFINDEX", ifindex)])


def set_requests(
    family: int, ifindex: int, wanted: Wireguard, present: Wireguard | None, told: Wireguard | None = None
) -> Iterator[bytes]:
    """The messages that make the present device the wanted one, in the order to send them in; sequence
    numbers are 0. None are needed if the two are equal.

    `present` is None for a new device; then whatever peers it has are replaced. Otherwise peers that are
    right already are left alone, and keep their sessions. A subnet that moves from one peer to another does
    so at once, because peers are added before others are removed.

    `told` is what this process set last. The kernel follows a peer whose address changes, so an endpoint is
    set anew only if another one is wanted than the told one.
    """
    head: list[tuple[str, object]] = []
    if present is None or present.private_key != wanted.private_key:
        head.append(("WGDEVICE_A_PRIVATE_KEY", _base64(wanted.private_key)))
    if present is None:
        head.append(("WGDEVICE_A_FLAGS", _REPLACE_PEERS))
    if present is None or present.port != wanted.port:
        head.append(("WGDEVICE_A_LISTEN_PORT", wanted.port))
    peers = _changes(wanted, present, told)
    message = _Message(family, ifindex, head)
    for peer in peers:
        if not message.fits(peer):
            yield message.encoded()
            message = _Message(family, ifindex, [])
        message.add(peer)
    if head or message.peers:
        yield message.encoded()


class _Message:
    """A WG_CMD_SET_DEVICE message that is being filled with peers."""

    def __init__(self, family: int, ifindex: int, head: list[tuple[str, object]]) -> None:
        attributes = [("WGDEVICE_A_IFINDEX", ifindex), *head]
        self._head = _encode(wgmsg(), family, _REQUEST | _ACK, _SET_DEVICE, attributes)
        self._size = len(self._head) + _attribute.size
        self.peers: list[bytes] = []

    def fits(self, peer: bytes) -> bool:
        return not self.peers or self._size + len(peer) <= MAX_MESSAGE_BYTES

    def add(self, peer: bytes) -> None:
        self.peers.append(peer)
        self._size += len(peer)

    def encoded(self) -> bytes:
        nest = _nested(_PEERS, self.peers) if self.peers else b""
        return _number32.pack(len(self._head) + len(nest)) + self._head[4:] + nest


def _changes(wanted: Wireguard, present: Wireguard | None, told: Wireguard | None) -> Iterator[bytes]:
    before = {peer.public_key: peer for peer in present.peers} if present else {}
    known = {peer.public_key: peer.endpoint for peer in told.peers} if told else {}
    for peer in wanted.peers:
        old = before.pop(peer.public_key, None)
        set_endpoint = (
            old is None
            or not old.endpoint[0]
            or (old.endpoint != peer.endpoint and known.get(peer.public_key) != peer.endpoint)
        )
        if old is None or set_endpoint or not _is_same(old, peer):
            yield from _peer(peer, set_endpoint=set_endpoint)
    for public_key in before:
        yield _nested(0, [_bytes(_PUBLIC_KEY, public_key), _number(_FLAGS, _REMOVE)])


def _is_same(one: WireguardPeer, other: WireguardPeer) -> bool:
    """Whether they differ in nothing but the endpoint. The kernel has no order of the subnets."""
    return (
        one.preshared_key == other.preshared_key
        and one.keepalive == other.keepalive
        and set(one.allowed) == set(other.allowed)
    )


def _peer(peer: WireguardPeer, *, set_endpoint: bool) -> Iterator[bytes]:
    fields = [
        _bytes(_PUBLIC_KEY, peer.public_key),
        _number(_FLAGS, _REPLACE_ALLOWED),
        _bytes(_PRESHARED_KEY, peer.preshared_key or _NO_KEY),
        _bytes(_KEEPALIVE, _number16.pack(peer.keepalive)),
    ]
    if set_endpoint:
        fields.append(_bytes(_ENDPOINT, _sockaddr(*peer.endpoint)))
    allowed = [_allowed(subnet) for subnet in peer.allowed]
    yield _nested(0, [*fields, _nested(_ALLOWED, allowed[:MAX_ALLOWED])])
    for at in range(MAX_ALLOWED, len(allowed), MAX_ALLOWED):
        more = _nested(_ALLOWED, allowed[at : at + MAX_ALLOWED])
        yield _nested(0, [_bytes(_PUBLIC_KEY, peer.public_key), more])


def _allowed(subnet: Subnet | Subnet6) -> bytes:
    if isinstance(subnet, Subnet):
        family, address = socket.AF_INET, subnet.base.to_bytes(4)
    else:
        family, address = socket.AF_INET6, subnet.base.to_bytes(16)
    return _nested(
        0,
        [
            _bytes(_FAMILY, _number16.pack(family)),
            _bytes(_ADDRESS, address),
            _bytes(_LENGTH, bytes((subnet.length,))),
        ],
    )


def _sockaddr(address: bytes, port: int) -> bytes:
    if len(address) == 4:
        return _sockaddr4.pack(socket.AF_INET, port.to_bytes(2), address)
    return _sockaddr6.pack(socket.AF_INET6, port.to_bytes(2), address)


def _number(kind: int, value: int) -> bytes:
    return _bytes(kind, _number32.pack(value))


def _bytes(kind: int, value: bytes) -> bytes:
    return _attribute.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, attributes: list[bytes]) -> bytes:
    return _bytes(kind | _NESTED, b"".join(attributes))


def _base64(key: bytes) -> bytes:
    return b2a_base64(key, newline=False)


def _encode(
    message: ctrlmsg | wgmsg, kind: int, flags: int, command: int, attributes: list[tuple[str, object]]
) -> bytes:
    message["cmd"] = command
    message["version"] = 1
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


# Decoding


def parse_family(payload: bytes) -> int:
    """The family's number in the payload of the answer to `family_request`. ValueError if it is not there."""
    for kind, value in _attributes(payload, 4):
        if kind == 1 and len(value) == 2:  # CTRL_ATTR_FAMILY_ID
            return int.from_bytes(value, sys.byteorder)
    raise ValueError("the answer names no family")


def parse_device(payloads: Iterable[bytes]) -> Wireguard:
    """The device in the payloads of all answers to one `get_request`. Keys that the kernel does not show are
    empty, and so is the endpoint of a peer that has none.
    """
    private_key, port = b"", 0
    peers: dict[bytes, WireguardPeer] = {}
    for payload in payloads:
        for kind, value in _attributes(payload, 4):
            if kind == _PRIVATE_KEY:
                private_key = value
            elif kind == _LISTEN_PORT:
                port = _number16.unpack(value)[0]
            elif kind == _PEERS:
                for _, each in _attributes(value):
                    peer = _parse_peer(each)
                    first = peers.get(peer.public_key)  # a peer that did not fit is continued
                    if first is not None:
                        peer = msgspec.structs.replace(first, allowed=first.allowed + peer.allowed)
                    peers[peer.public_key] = peer
    return Wireguard(port, private_key, tuple(peers.values()))


def _parse_peer(data: bytes) -> WireguardPeer:
    public_key, preshared_key, keepalive = b"", None, 0
    endpoint = (b"", 0)
    allowed: list[Subnet | Subnet6] = []
    for kind, value in _attributes(data):
        if kind == _PUBLIC_KEY:
            public_key = value
        elif kind == _PRESHARED_KEY:
            preshared_key = value if value != _NO_KEY else None
        elif kind == _KEEPALIVE:
            keepalive = _number16.unpack(value)[0]
        elif kind == _ENDPOINT:
            endpoint = _parse_sockaddr(value)
        elif kind == _ALLOWED:
            allowed += [_parse_allowed(each) for _, each in _attributes(value)]
    return WireguardPeer(public_key, endpoint, tuple(allowed), preshared_key, keepalive)


def _parse_sockaddr(data: bytes) -> tuple[bytes, int]:
    if _number16.unpack_from(data)[0] == socket.AF_INET:
        _, port, address = _sockaddr4.unpack_from(data)
    else:
        _, port, address = _sockaddr6.unpack_from(data)
    return address, int.from_bytes(port)


def _parse_allowed(data: bytes) -> Subnet | Subnet6:
    fields = dict(_attributes(data))
    address, length = fields[_ADDRESS], fields[_LENGTH][0]
    base = int.from_bytes(address)
    return Subnet(base, length) if len(address) == 4 else Subnet6(base, length)


def _attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute."""
    end = len(data)
    while at + 4 <= end:
        length, kind = _attribute.unpack_from(data, at)
        if length < 4 or at + length > end:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += length + 3 & ~3
