"""The backend vxlan: VXLAN tunnels (RFC 7348) between the nodes, through one device for each address family.

Every node publishes the MAC address of its device, its VTEP. A packet to a peer's subnet is routed to the
first address of that subnet, which is a neighbour with the peer's MAC, and frames to this MAC are forwarded
to the peer's address. Nothing is learnt from traffic or by flooding, unless the option Learning is set.

Device, addresses and leases are those of flannel, so nodes with flannel and nodes with the agent share one
network, and a node that changes from one to the other keeps its device and its MAC.
"""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec
from netstore_plugins import keptfile
from netstore_plugins.peers import bounded, other_type, own, published, refuse_problem

from netstore import __version__
from netstore.agent.backend import (
    Device,
    Forwarding,
    Host,
    Manifest,
    Neighbour,
    Prepared,
    Refused,
    Route,
    Subnet,
    Subnet6,
    SubnetLease,
    Vxlan,
    Wanted,
)
from netstore.network.backends import (
    LEAST_MTU,
    LEAST_MTU_IPV6,
    VXLAN_OVERHEAD,
    VXLAN_OVERHEAD_IPV6,
    VxlanOptions,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

NAME: Final = "vxlan"

_MAC: Final = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", re.IGNORECASE | re.ASCII)
_MAC_TEXT_BYTES: Final = 32


class VtepData(msgspec.Struct, frozen=True):
    """BackendData and BackendV6Data of a lease. flannel before 0.24 does not write the VNI."""

    vni: int | None = msgspec.field(default=None, name="VNI")
    vtep_mac: str = msgspec.field(default="", name="VtepMAC")


class _Family(NamedTuple):
    """What differs between IPv4 and IPv6. `size` is that of an address in bytes."""

    size: int
    prefix: str
    overhead: int
    kept: str
    blame: str


_IPV4: Final = _Family(4, "flannel.", VXLAN_OVERHEAD, "mac", "")
_IPV6: Final = _Family(16, "flannel-v6.", VXLAN_OVERHEAD_IPV6, "mac-v6", "IPv6: ")


def parse_mac(text: str) -> bytes:
    """The six octets of a MAC address that a device can have. ValueError says what is wrong."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a MAC address")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if not is_unicast(mac):
        raise ValueError(f"{text} is not an address of one device")
    return mac


def is_unicast(mac: bytes) -> bool:
    """Whether a device can have this MAC address (IEEE 802)."""
    return len(mac) == 6 and not mac[0] & 1 and any(mac)


@lru_cache(maxsize=16_384)
def _vtep(data: bytes | None, name: str, vni: int) -> bytes:
    """The MAC in `bounded` data of a peer. ValueError says why it cannot be used."""
    try:
        given = published(data, VtepData)
        if not given.vtep_mac:
            raise ValueError("it has no VtepMAC")  # noqa: TRY301 - told by the except below
        mac = parse_mac(given.vtep_mac)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if given.vni not in (None, vni):
        raise ValueError(f"its VNI is {given.vni}, this node's {vni}")
    return mac


class VxlanTunnels:
    """The backend `vxlan`.

    The MAC addresses are decided in the first `prepare` and are the same from then on.
    """

    manifest: ClassVar[Manifest] = Manifest(
        name=NAME, version=__version__, options=VxlanOptions, ipv6=True, modules=("vxlan",)
    )

    def __init__(self, options: VxlanOptions) -> None:
        refuse_problem(NAME, options)
        self._options = options
        self._macs: dict[_Family, bytes] = {}

    async def prepare(self, host: Host) -> Prepared:
        """Decide the MAC addresses. The MTU is the path's less the headers of the largest tunnel."""
        refuse_problem(NAME, self._options, ipv6=host.address6 is not None)
        families = _families(host)
        mtu = min(self._mtu(host, family) for family in families)
        for family in families:
            if family not in self._macs:
                self._macs[family] = self._choose_mac(host, family)
        return Prepared(mtu, self._data(_IPV4), self._data(_IPV6) if host.address6 is not None else None)

    def _mtu(self, host: Host, family: _Family) -> int:
        path = self._options.mtu or host.link.mtu
        if path > host.link.mtu:
            raise Refused(
                f"vxlan: the option MTU is {path}, but {host.link.name} carries {host.link.mtu};"
                " lower the option, or leave it out"
            )
        least = LEAST_MTU if host.address6 is None else LEAST_MTU_IPV6
        if path - family.overhead < least:
            raise Refused(
                f"vxlan: an MTU of {path} leaves less than {least} bytes for packets in a tunnel;"
                " raise the interface's MTU, or choose another interface with --iface"
            )
        return path - family.overhead

    def _device_name(self, family: _Family) -> str:
        return f"{family.prefix}{self._options.vni}"

    def _choose_mac(self, host: Host, family: _Family) -> bytes:
        """As the options say; else the device's, which peers know; else the kept one; else a new one."""
        if self._options.vtep_mac:
            return bytes.fromhex(re.sub("[:-]", "", self._options.vtep_mac)) + host.public_ip.to_bytes(4)
        path = host.folder / family.kept
        kept = _kept_mac(path)
        there = host.devices.get(self._device_name(family))
        if there is not None and there.kind == NAME and is_unicast(there.mac):
            mac = there.mac
        else:
            mac = kept or _random_mac()
        if mac != kept:
            keptfile.write(path, mac.hex(":").encode() + b"\n")
        return mac

    def _data(self, family: _Family) -> bytes:
        """What the lease publishes, with the fields in flannel's order."""
        return b'{"VNI":%d,"VtepMAC":"%s"}' % (self._options.vni, self._macs[family].hex(":").encode())

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """The devices."""
        del peers
        devices = [self._device(host, _IPV4, host.address.ip, host.subnet)]
        if host.address6 is not None:
            devices.append(self._device(host, _IPV6, host.address6, host.subnet6))
        return Wanted(devices=devices)

    def _device(self, host: Host, family: _Family, local: int, subnet: Subnet | Subnet6 | None) -> Device:
        size = family.size
        return Device(
            self._device_name(family),
            Vxlan(
                self._options.vni,
                local.to_bytes(size),
                host.link.name,
                self._options.port,
                self._options.learning,
                self._options.gbp,
            ),
            mtu=self._mtu(host, family),
            mac=self._macs[family],
            addresses=None if subnet is None else ((subnet.base.to_bytes(size), size * 8),),
        )

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """A route for each family, the neighbour it goes to, and where its frames go."""
        if (reason := other_type(peer, NAME)) is not None:
            return Wanted(refused={peer.subnet: reason})
        routes: list[Route] = []
        neighbours: list[Neighbour] = []
        forwarding: list[Forwarding] = []
        refused: dict[Subnet, str] = {}
        ends: list[tuple[_Family, Subnet | Subnet6, int | None, bytes | None]] = [
            (_IPV4, peer.subnet, peer.public_ip, peer.backend_data)
        ]
        if host.address6 is not None and peer.subnet6 is not None:
            ends.append((_IPV6, peer.subnet6, peer.public_ip6, peer.backend_v6_data))
        for family, subnet, public_ip, data in ends:
            try:
                if public_ip is None:
                    raise ValueError("it has no PublicIPv6")  # noqa: TRY301 - told by the except below
                mac = self._mac_of(family, data)
            except ValueError as error:
                refused[peer.subnet] = f"{family.blame}{error}"
                continue
            reaches = host.reaches if family is _IPV4 else host.reaches6
            if self._options.direct_routing and reaches(public_ip):
                routes.append(Route(subnet, public_ip, host.link.name))
                continue
            name = self._device_name(family)
            routes.append(Route(subnet, subnet.base, name, onlink=True))
            neighbours.append(Neighbour(name, subnet.base.to_bytes(family.size), mac))
            forwarding.append(Forwarding(name, mac, public_ip.to_bytes(family.size)))
        return Wanted(routes, refused, neighbours=neighbours, forwarding=forwarding)

    def _mac_of(self, family: _Family, data: bytes | None) -> bytes:
        """The MAC that a peer published. ValueError says why it cannot be used."""
        field = "BackendData" if family is _IPV4 else "BackendV6Data"
        mac = _vtep(bounded(data, field), field, self._options.vni)
        if mac == self._macs[family]:
            raise ValueError(own(f"VtepMAC {mac.hex(':')}", family.kept))
        return mac

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def teardown(self) -> None:
        """There is nothing to undo: the agent removes devices, routes and entries. The MAC stays kept."""


def _families(host: Host) -> tuple[_Family, ...]:
    return (_IPV4,) if host.address6 is None else (_IPV4, _IPV6)


def _kept_mac(path: Path) -> bytes | None:
    """The MAC in the file; None if there is none, or it is not a MAC."""
    text = keptfile.read(path, _MAC_TEXT_BYTES)
    try:
        return None if text is None else parse_mac(text.decode("ascii", "replace").strip())
    except ValueError:
        return None


def _random_mac() -> bytes:
    """A random MAC, locally administered and of one device (IEEE 802)."""
    first, *rest = secrets.token_bytes(6)
    return bytes((first & 0xFC | 2, *rest))
