"""Whether what a plugin returned is what the protocol says: types and ranges of every value. Pure.

A wrong value would otherwise show far from the plugin, as in a message to the kernel that cannot be encoded.
Cheap enough for each call: about 1 us a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, cast

import msgspec

from netstore.agent.backend import Prepared, Refused
from netstore.agent.entryplan import MAC_BYTES
from netstore.agent.wanted import (
    Device,
    Forwarding,
    Ipip,
    Neighbour,
    Route,
    TunnelPeer,
    Vxlan,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6

if TYPE_CHECKING:
    from collections.abc import Iterable

MTUS: Final = range(68, 1 << 31)
"""From the least that IPv4 needs (RFC 791) to the greatest that the kernel can be told."""

MAX_NAME_BYTES: Final = 15
"""Of an interface (IFNAMSIZ without the final zero)."""

KEY_BYTES: Final = 32
"""Of a key of WireGuard."""

_PACKED: Final = (4, 16)


def checked_prepared(value: object) -> Prepared:
    """What `prepare` returned. Refused if it is not valid."""
    if type(value) is not Prepared:
        _refuse("prepare", value, "a Prepared")
    if type(value.mtu) is not int or value.mtu not in MTUS:
        _refuse("Prepared.mtu", value.mtu, f"an MTU from {MTUS[0]} to {MTUS[-1]}")
    for name, data in (("backend_data", value.backend_data), ("backend_v6_data", value.backend_v6_data)):
        if data is None:
            continue
        try:
            msgspec.json.decode(bytes(memoryview(data)))
        except (TypeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _refuse(f"Prepared.{name}", data, "JSON as bytes, or None")
    return value


def checked_wanted(value: object, method: str = "declare") -> Wanted:
    """What `declare` or `declare_peer` returned. Refused if it is not valid."""
    if type(value) is not Wanted:
        _refuse(method, value, "a Wanted")
    for route in _each("routes", value.routes):
        if type(route) is not Route or not _is_route(route):
            _refuse("Wanted.routes", route, "a Route to a subnet, with a gateway of its family and a device")
    for device in _each("devices", value.devices):
        if type(device) is not Device or not _is_device(device):
            _refuse("Wanted.devices", device, "a Device with a name, kind, MTU, MAC and packed addresses")
    for neighbour in _each("neighbours", value.neighbours):
        if type(neighbour) is not Neighbour or not _is_entry(neighbour, neighbour.mac, neighbour.address):
            _refuse("Wanted.neighbours", neighbour, "a Neighbour with a packed address and a MAC of 6 bytes")
    for one in _each("forwarding", value.forwarding):
        if type(one) is not Forwarding or not _is_entry(one, one.mac, one.remote):
            _refuse("Wanted.forwarding", one, "a Forwarding with a MAC of 6 bytes and a packed address")
    for each in _each("tunnel_peers", value.tunnel_peers):
        if type(each) is not TunnelPeer or not _is_name(each.device) or not _is_peer(each.peer):
            _refuse("Wanted.tunnel_peers", each, "a TunnelPeer with a device and a WireguardPeer")
    if not isinstance(value.refused, Mapping) or not all(
        type(subnet) in (Subnet, Subnet6) and type(reason) is str for subnet, reason in value.refused.items()
    ):
        _refuse("Wanted.refused", value.refused, "a dict of subnets with the reason of each")
    if not all(type(warning) is str for warning in _each("warnings", value.warnings)):
        _refuse("Wanted.warnings", value.warnings, "a list of texts")
    return value


def _each(name: str, values: object) -> Iterable[object]:
    if type(values) in (tuple, list):  # the usual case, ten times as fast
        return cast("Iterable[object]", values)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        _refuse(f"Wanted.{name}", values, "a list")
    return values


def _is_number(value: object, end: int) -> bool:
    """Whether it is an int in range(end); a bool is none."""
    return type(value) is int and 0 <= value < end


def _is_bytes(value: object, *lengths: int) -> bool:
    return type(value) is bytes and len(value) in lengths


def _bits(subnet: object) -> int:
    """The bits of an address of the subnet's family; 0 if it is no subnet."""
    if type(subnet) is Subnet:
        bits = 32
    elif type(subnet) is Subnet6:
        bits = 128
    else:
        return 0
    base, length = subnet
    is_valid = _is_number(length, bits + 1) and _is_number(base, 1 << bits)
    return bits if is_valid and not base & ((1 << (bits - length)) - 1) else 0


def _is_route(route: Route) -> bool:
    subnet, gateway, device, onlink = route
    bits = _bits(subnet)
    return bits > 0 and _is_number(gateway, 1 << bits) and _is_name(device) and type(onlink) is bool


def _is_name(name: object) -> bool:
    return type(name) is str and 0 < len(name) <= MAX_NAME_BYTES and "/" not in name and name.isprintable()


def _is_entry(entry: Neighbour | Forwarding, mac: object, address: object) -> bool:
    return _is_bytes(mac, MAC_BYTES) and _is_bytes(address, *_PACKED) and _is_name(entry.device)


def _is_device(device: Device) -> bool:
    return (
        _is_kind(device.kind)
        and _is_name(device.name)
        and type(device.mtu) is int
        and device.mtu in MTUS
        and (device.mac is None or _is_bytes(device.mac, MAC_BYTES))
        and (device.addresses is None or all(_is_address(*one) for one in device.addresses))
    )


def _is_kind(kind: object) -> bool:
    if isinstance(kind, Vxlan):
        return (
            _is_number(kind.vni, 1 << 24)
            and _is_number(kind.port, 1 << 16)
            and _is_bytes(kind.local, *_PACKED)
            and _is_name(kind.link)
            and type(kind.learning) is type(kind.gbp) is bool
        )
    if isinstance(kind, Ipip):
        return _is_bytes(kind.local, *_PACKED) and _is_name(kind.link)
    return (
        isinstance(kind, Wireguard)
        and _is_number(kind.port, 1 << 16)
        and _is_bytes(kind.private_key, KEY_BYTES)
        and all(_is_peer(peer) for peer in kind.peers)
    )


def _is_peer(peer: object) -> bool:
    return (
        type(peer) is WireguardPeer
        and _is_bytes(peer.public_key, KEY_BYTES)
        and (peer.preshared_key is None or _is_bytes(peer.preshared_key, KEY_BYTES))
        and _is_bytes(peer.endpoint[0], *_PACKED)
        and _is_number(peer.endpoint[1], 1 << 16)
        and _is_number(peer.keepalive, 1 << 16)
        and all(_bits(subnet) for subnet in peer.allowed)
    )


def _is_address(address: object, length: object) -> bool:
    return (
        isinstance(address, bytes)
        and _is_bytes(address, *_PACKED)
        and _is_number(length, 8 * len(address) + 1)
    )


def _refuse(name: str, value: object, right: str) -> NoReturn:
    raise Refused(f"the backend gave as {name} {repr(value)[:200]}, not {right}; correct the plugin")
