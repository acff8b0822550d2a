"""What a backend declares, for the node and for each peer: the state that it wants in the kernel, as plain
values. Pure.

The agent compares what is declared with what is there, makes the difference, and repairs it when another
program changes it. Names of devices stand for devices that may not exist yet. An address is *packed* where a
value may be of either family: 4 or 16 bytes in network order.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - inspect reads the types of the fields
from typing import NamedTuple

import msgspec

from netstore.network.addresses import Subnet  # noqa: TC001
from netstore.network.ipv6 import Subnet6  # noqa: TC001


class Route(NamedTuple):
    """A route to `subnet` out of the device with this name, in table main.

    `gateway` is an address of the subnet's family, 0 for none. With `onlink` the kernel does not ask whether
    the gateway is reachable through the device (RTNH_F_ONLINK).
    """

    subnet: Subnet | Subnet6
    gateway: int
    device: str
    onlink: bool = False


class Vxlan(msgspec.Struct, frozen=True):
    """A VXLAN device (RFC 7348). `local` is packed, `link` the name of the interface that carries it, `port`
    the UDP port (0: the kernel's, 8472). `learning` and `gbp` are the kernel's flags of these names.
    """

    vni: int
    local: bytes
    link: str
    port: int = 0
    learning: bool = False
    gbp: bool = False


class Ipip(msgspec.Struct, frozen=True):
    """An IPv4 in IPv4 tunnel (RFC 2003) to any remote address. `local` is packed."""

    local: bytes
    link: str


class WireguardPeer(msgspec.Struct, frozen=True):
    """A peer of a WireGuard device. Keys have 32 bytes. `endpoint` is a packed address and a UDP port;
    `keepalive` is in seconds, 0 for none.
    """

    public_key: bytes
    endpoint: tuple[bytes, int]
    allowed: tuple[Subnet | Subnet6, ...]
    preshared_key: bytes | None = None
    keepalive: int = 0

    def __repr__(self) -> str:
        return f"WireguardPeer({self.public_key.hex()[:8]}, {len(self.allowed)} subnets)"


class Wireguard(msgspec.Struct, frozen=True):
    """A WireGuard device. The private key has 32 bytes and is never shown."""

    port: int
    private_key: bytes
    peers: tuple[WireguardPeer, ...] = ()

    def __repr__(self) -> str:
        return f"Wireguard(port={self.port}, {len(self.peers)} peers)"


class Device(msgspec.Struct, frozen=True):
    """A device that the backend needs. One of this name with other parameters of its kind is made anew; mtu,
    mac, addresses and peers are changed in place. Peers of WireGuard are declared each by itself, as
    `TunnelPeer`, or all in the device.

    `addresses` are packed, each with its prefix length; other addresses of the device are removed, but not
    the link-local ones of IPv6. None leaves the device's addresses alone. `mac` has 6 bytes; None leaves the
    kernel's choice.
    """

    name: str
    kind: Vxlan | Ipip | Wireguard
    mtu: int
    mac: bytes | None = None
    addresses: tuple[tuple[bytes, int], ...] | None = None


class Neighbour(NamedTuple):
    """A permanent neighbour entry (ARP or ND) of a device. `address` is packed, `mac` has 6 bytes."""

    device: str
    address: bytes
    mac: bytes


class Forwarding(NamedTuple):
    """A permanent forwarding entry (FDB) of a VXLAN device: frames to `mac` go to the packed address."""

    device: str
    mac: bytes
    remote: bytes


class TunnelPeer(NamedTuple):
    """A peer of the WireGuard device with this name."""

    device: str
    peer: WireguardPeer


class Wanted(msgspec.Struct, frozen=True):
    """What should be in the kernel for the node, or for one of its peers, and for each peer that cannot be
    served the reason.

    The rest is for the node alone. `warnings` are what an operator should know though every peer is served.
    With `prepare_again` the agent calls `prepare` again, because the lease must publish other data than
    before. When `peers_depend_on` is another value than before, all peers are declared anew.
    """

    routes: Sequence[Route] = ()
    refused: dict[Subnet, str] = {}
    devices: Sequence[Device] = ()
    neighbours: Sequence[Neighbour] = ()
    forwarding: Sequence[Forwarding] = ()
    warnings: Sequence[str] = ()
    prepare_again: bool = False
    tunnel_peers: Sequence[TunnelPeer] = ()
    peers_depend_on: object = None
