"""The node that the tests of the backends run on, and leases of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.agent.backend import (
    Address,
    Forwarding,
    Host,
    Link,
    Neighbour,
    Subnet,
    Subnet6,
    SubnetLease,
    Wireguard,
)
from netstore.agent.combined import Combined, Owner
from netstore.agent.declaration import checked_wanted
from netstore.network.addresses import parse_ip
from netstore.network.config import Network6, parse_network
from netstore.network.ipv6 import parse_ip6

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from netstore.agent.backend import Backend, Device, Wanted
    from netstore.agent.combined import Changes

ETH0: Final = Link(2, "eth0", 1500, up=True)
ME: Final = parse_ip("192.168.77.11")
ME6: Final = parse_ip6("2001:db8:77::11")
NETWORK: Final = parse_network(b'{"Network":"10.23.0.0/16","Backend":{"Type":"alloc"}}')


def subnet(number: int) -> Subnet:
    """10.23.NUMBER.0/24."""
    return Subnet(parse_ip(f"10.23.{number}.0"), 24)


def subnet6(number: int) -> Subnet6:
    """fd23:0:0:NUMBER::/64."""
    return Subnet6(parse_ip6(f"fd23:0:0:{number:x}::"), 64)


def host(folder: Path, **changes: Any) -> Host:
    """A node of an IPv4 network that holds 10.23.1.0/24; its layer 2 network is 192.168.77.0/24."""
    plain = Host(
        ETH0,
        Address(2, ME, 24),
        ME,
        NETWORK,
        subnet(1),
        networks=(Subnet(parse_ip("192.168.77.0"), 24), Subnet6(parse_ip6("2001:db8:77::"), 64)),
        folder=folder,
    )
    return msgspec.structs.replace(plain, **changes)


def dual(folder: Path, **changes: Any) -> Host:
    """The same in a dual-stack network; it also holds fd23:0:0:1::/64."""
    base = parse_ip6("fd23::")
    six = Network6(Subnet6(base, 48), 64, base + (1 << 64), base + (0xFFFF << 64))
    network = msgspec.structs.replace(NETWORK, ipv6=six)
    return host(
        folder, **{"network": network, "address6": ME6, "public_ip6": ME6, "subnet6": subnet6(1), **changes}
    )


def lease(
    number: int, kind: str, data: bytes | None = None, *, data6: bytes | None = None, **changes: Any
) -> SubnetLease:
    """The lease of node NUMBER, which is 192.168.77.(10 + NUMBER); with `data6` it has IPv6 too."""
    plain = SubnetLease(subnet(number), ME - 1 + number, kind, data)
    if data6 is not None:
        plain = msgspec.structs.replace(
            plain, subnet6=subnet6(number), public_ip6=ME6 - 1 + number, backend_v6_data=data6
        )
    return msgspec.structs.replace(plain, **changes)


async def whole(backend: Backend, where: Host, peers: Sequence[SubnetLease] = ()) -> Wanted:
    """What the agent makes of what the backend declares for the node and for each peer. Items are sorted,
    those of IPv4 first; the peers of WireGuard are in their devices.
    """
    combined = Combined()
    node = checked_wanted(await backend.declare(where, peers))
    combined.put("", Owner(where.public_ip, -1, ""), node)
    plain = msgspec.structs.replace(where, subnet=None, subnet6=None, devices={}, published=None, faults={})
    for peer in peers:
        owner = Owner(peer.public_ip, peer.created, str(peer.subnet))
        combined.put(str(peer.subnet), owner, checked_wanted(backend.declare_peer(plain, peer)))
    found = combined.take_changes()
    routes = [each for each in found.routes.values() if each is not None]
    entries = sorted((len(key), name, key, value) for (name, key), value in found.entries.items() if value)
    return msgspec.structs.replace(
        node,
        routes=sorted(routes, key=lambda each: (isinstance(each.subnet, Subnet6), each.subnet)),
        refused={subnet(int(text.split(".")[2])): reason for text, reason in combined.refused.items()},
        devices=[_with_peers(each, found) for each in node.devices],
        neighbours=[Neighbour(name, key, value) for size, name, key, value in entries if size != 6],
        forwarding=sorted(
            (Forwarding(name, key, value) for size, name, key, value in entries if size == 6),
            key=lambda each: len(each.remote),
        ),
        tunnel_peers=[],
    )


def _with_peers(device: Device, found: Changes) -> Device:
    if not isinstance(device.kind, Wireguard):
        return device
    peers = sorted((key, each) for (name, key), each in found.peers.items() if name == device.name and each)
    kind = msgspec.structs.replace(device.kind, peers=tuple(each for _, each in peers))
    return msgspec.structs.replace(device, kind=kind)
