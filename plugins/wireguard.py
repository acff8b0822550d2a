"""The backend wireguard: encrypted tunnels between the nodes (WireGuard). Every node publishes its public
key, and encrypts what it sends to a peer's subnet for that peer's key alone.

Device, options and leases are those of flannel, so nodes with flannel and nodes with the agent share one
network. `wireguardkeys` has the private key, and how it is changed.

No part shows a private or preshared key: not in what it prints, logs or raises.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
import trio
from netstore_plugins.peers import bounded, other_type, own, published, refuse_problem
from netstore_plugins.wireguardkeys import Key, Keys, encode_key, parse_key

from netstore import __version__
from netstore.agent.backend import (
    Device,
    Host,
    Manifest,
    Prepared,
    Refused,
    Route,
    Subnet,
    Subnet6,
    SubnetLease,
    TunnelPeer,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.network.backends import LEAST_MTU, LEAST_MTU_IPV6, WireguardOptions
from netstore.network.backends import WIREGUARD_OVERHEAD as OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

NAME: Final = "wireguard"

DEVICE: Final = "flannel-wg"
DEVICE6: Final = "flannel-wg-v6"

DAY_SECONDS: Final = 86_400

_PRIVATE: Final = (Subnet(10 << 24, 8), Subnet(172 << 24 | 16 << 16, 12), Subnet(192 << 24 | 168 << 16, 16))
"""RFC 1918."""

_PRIVATE6: Final = (Subnet6(0xFC << 120, 7), Subnet6(0xFE80 << 112, 10))
"""RFC 4193, and link-local addresses (RFC 4291)."""


class PeerData(msgspec.Struct, frozen=True):
    """BackendData and BackendV6Data of a lease. flannel before 0.26.6 does not write the port."""

    public_key: str = msgspec.field(default="", name="PublicKey")
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = msgspec.field(default=0, name="Port")


def _peer_data(data: bytes | None, field: str) -> tuple[bytes, int]:
    """The public key and the port, 0 for none, that a peer published. ValueError says what is wrong."""
    return _decoded(bounded(data, field), field)


@lru_cache(maxsize=16_384)
def _decoded(data: bytes | None, field: str) -> tuple[bytes, int]:
    try:
        given = published(data, PeerData)
        if not given.public_key:
            raise ValueError("it has no PublicKey")  # noqa: TRY301 - told by the except below
        return parse_key(given.public_key), given.port
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


class WireguardTunnels:
    """The backend `wireguard`."""

    manifest: ClassVar[Manifest] = Manifest(
        name=NAME, version=__version__, options=WireguardOptions, ipv6=True, modules=("wireguard",)
    )

    def __init__(self, options: WireguardOptions) -> None:
        self._options = options
        refuse_problem(NAME, options)
        self._preshared = parse_key(options.psk) if options.psk else None
        self._keys: Keys | None = None
        self._offered: Key | None = None
        self._suffix = ""
        self._suffixes: tuple[str, ...] = ("",)
        """Of the used device and of all, as of the last `declare`."""
        self._faults: Mapping[str, str] = {}
        """Those of the last `declare`: `prepare` is not always told them."""

    def _kept(self, host: Host) -> Keys:
        if self._keys is None:
            self._keys = Keys(host.folder, self._options.rotate_days * DAY_SECONDS)
        return self._keys

    async def prepare(self, host: Host) -> Prepared:
        """Read or make the key, and choose the one to publish. The MTU is the path's less all headers."""
        options = self._options
        if options.mode == "ipv6" and host.public_ip6 is None:
            raise Refused(
                "wireguard: Mode is ipv6, but the network has no IPv6; set EnableIPv6 and IPv6Network, or"
                " choose another Mode"
            )
        mtu = self._mtu(host)
        key = self._offered = self._offer(host)
        port = options.listen_port + key.slot.port
        port6 = options.listen_port_v6 + key.slot.port if options.mode == "separate" else port
        return Prepared(mtu, _data(key, port), _data(key, port6) if host.address6 is not None else None)

    def _mtu(self, host: Host) -> int:
        path = self._options.mtu or host.link.mtu
        least = LEAST_MTU if host.address6 is None else LEAST_MTU_IPV6
        if path - OVERHEAD < least:
            raise Refused(
                f"wireguard: an MTU of {path} leaves less than {least} bytes for packets in a tunnel; raise"
                " the option MTU or the interface's, or choose another interface with --iface"
            )
        return path - OVERHEAD

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """The devices, one for each key."""
        del peers
        keys, self._faults = self._kept(host), host.faults
        used = self._used(keys, host)
        warnings = []
        try:
            keys.advance(used, trio.current_time())
        except Refused as error:  # the key that is used goes on serving
            warnings.append(f"wireguard: the key cannot be changed: {error}")
        self._suffix, self._suffixes = used.slot.suffix, tuple(key.slot.suffix for key in keys.all)
        return Wanted(
            devices=self._devices(host, keys),
            warnings=warnings,
            prepare_again=self._offer(host) is not self._offered,
            peers_depend_on=(used, *keys.all),
        )

    def _devices(self, host: Host, keys: Keys) -> list[Device]:
        """For each key the devices, without their peers."""
        options, mtu = self._options, self._mtu(host)
        ends = [(DEVICE, options.listen_port, _addresses(host.subnet))]
        if options.mode != "separate":
            both = [each for each in (host.subnet, host.subnet6) if each is not None]
            ends = [(DEVICE, options.listen_port, _addresses(*both) if both else None)]
        elif host.address6 is not None:
            ends.append((DEVICE6, options.listen_port_v6, _addresses(host.subnet6)))
        return [
            Device(
                name + key.slot.suffix,
                Wireguard(port + key.slot.port, key.private),
                mtu=mtu,
                addresses=addresses,
            )
            for name, port, addresses in ends
            for key in keys.all
        ]

    def _offer(self, host: Host) -> Key:
        """The key to publish: of devices that are there, up and, as far as is known, configured."""
        ready = {
            name
            for name, link in host.devices.items()
            if link.kind == NAME and link.up and name not in self._faults
        }
        is_separate = self._options.mode == "separate" and host.address6 is not None
        return self._kept(host).offered(ready, (DEVICE, DEVICE6) if is_separate else (DEVICE,))

    def _used(self, keys: Keys, host: Host) -> Key:
        """The key of the device that packets leave through: the one that peers can know."""
        try:
            public, _ = _peer_data(host.published, "BackendData")
        except ValueError:
            public = b""
        return keys.published(public) or self._offer(host)

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """A peer of the devices of each key, and a route to each of its subnets through the used one."""
        if (reason := other_type(peer, NAME)) is not None:
            return Wanted(refused={peer.subnet: reason})
        if self._options.mode == "separate":
            return self._separate(host, peer)
        return self._joint(host, peer)

    def _separate(self, host: Host, peer: SubnetLease) -> Wanted:
        options = self._options
        wanted = [Wanted()]
        refused: dict[Subnet, str] = {}
        try:
            public_key, port = self._foreign(peer.backend_data, "BackendData")
        except ValueError as error:
            refused[peer.subnet] = str(error)
        else:
            endpoint = peer.public_ip.to_bytes(4), port or options.listen_port
            wanted.append(self._through(DEVICE, public_key, endpoint, (peer.subnet,)))
        if host.address6 is not None and peer.subnet6 is not None:
            try:
                if peer.public_ip6 is None:
                    raise ValueError("it has no PublicIPv6")  # noqa: TRY301 - told by the except below
                public_key, port = self._foreign(peer.backend_v6_data, "BackendV6Data")
            except ValueError as error:
                refused[peer.subnet] = f"IPv6: {error}"
            else:
                endpoint = peer.public_ip6.to_bytes(16), port or options.listen_port_v6
                wanted.append(self._through(DEVICE6, public_key, endpoint, (peer.subnet6,)))
        return Wanted(
            [route for each in wanted for route in each.routes],
            refused,
            tunnel_peers=[far for each in wanted for far in each.tunnel_peers],
        )

    def _joint(self, host: Host, peer: SubnetLease) -> Wanted:
        """One device for both families. Its port is in BackendData; flannel's BackendV6Data has a port there
        that nothing listens on.
        """
        try:
            public_key, port = self._foreign(peer.backend_data, "BackendData")
            address = self._endpoint(host, peer)
        except ValueError as error:
            return Wanted(refused={peer.subnet: str(error)})
        subnets = [peer.subnet, peer.subnet6 if host.address6 is not None else None]
        return self._through(
            DEVICE,
            public_key,
            (address, port or self._options.listen_port),
            tuple(each for each in subnets if each is not None),
        )

    def _foreign(self, data: bytes | None, field: str) -> tuple[bytes, int]:
        """The public key and the port that a peer published. ValueError says what is wrong."""
        public_key, port = _peer_data(data, field)
        if self._keys is not None and self._keys.published(public_key) is not None:
            raise ValueError(own(f"PublicKey {encode_key(public_key)}", "the key"))
        return public_key, port

    def _through(
        self,
        name: str,
        public_key: bytes,
        endpoint: tuple[bytes, int],
        subnets: tuple[Subnet | Subnet6, ...],
    ) -> Wanted:
        """The peer in the devices of each key, and the routes through that of the used one."""
        options = self._options
        far = WireguardPeer(
            public_key, endpoint, subnets, self._preshared, options.persistent_keepalive_interval
        )
        return Wanted(
            [Route(subnet, 0, name + self._suffix) for subnet in subnets],
            tunnel_peers=[TunnelPeer(name + suffix, far) for suffix in self._suffixes],
        )

    def _endpoint(self, host: Host, peer: SubnetLease) -> bytes:
        """The address to send to, packed. ValueError if the peer has none of the family.

        In the mode auto, IPv4 if the peer's address of it is not private, else IPv6 if both ends have one
        that is not private, else IPv4 (flannel).
        """
        mode, ip, ip6 = self._options.mode, peer.public_ip, peer.public_ip6
        if mode == "auto":
            public6 = _is_public6(ip6) and _is_public6(host.public_ip6)
            mode = "ipv6" if public6 and any(each.holds(ip) for each in _PRIVATE) else "ipv4"
        if mode == "ipv4":
            return ip.to_bytes(4)
        if ip6 is None:
            raise ValueError("it has no PublicIPv6, and this network's Mode is ipv6")
        return ip6.to_bytes(16)

    async def stop(self) -> None:
        """There is nothing to stop: the devices stay, unlike flannel's, and so do all sessions."""

    async def teardown(self) -> None:
        """There is nothing to undo: the agent removes devices and routes. The key stays kept."""


def _data(key: Key, port: int) -> bytes:
    """What the lease publishes, with the fields in flannel's order."""
    return b'{"PublicKey":"%s","Port":%d}' % (encode_key(key.public).encode(), port)


def _addresses(*subnets: Subnet | Subnet6 | None) -> tuple[tuple[bytes, int], ...] | None:
    """The first address of each subnet, alone; None while a subnet is not held."""
    found = []
    for subnet in subnets:
        if subnet is None:
            return None
        size = 4 if isinstance(subnet, Subnet) else 16
        found.append((subnet.base.to_bytes(size), size * 8))
    return tuple(found)


def _is_public6(ip: int | None) -> bool:
    """Whether it is an address that may be reached from anywhere."""
    return ip is not None and not any(each.holds(ip) for each in _PRIVATE6)
