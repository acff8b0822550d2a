"""The backend ipip: IPv4 in IPv4 tunnels (RFC 2003) between the nodes, through one device to any remote
address. It adds 20 bytes to each packet, and needs no common layer 2 network; routers must let protocol 4
pass.

Device, addresses and leases are those of flannel, so nodes with flannel and nodes with the agent share one
network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from netstore_plugins.peers import other_type

from netstore import __version__
from netstore.agent.backend import (
    Device,
    Host,
    Ipip,
    Manifest,
    Prepared,
    Refused,
    Route,
    SubnetLease,
    Wanted,
)
from netstore.network.backends import IpipOptions

if TYPE_CHECKING:
    from collections.abc import Collection

NAME: Final = "ipip"

DEVICE: Final = "flannel.ipip"

OVERHEAD: Final = 20
"""Bytes of the outer IPv4 header."""

LEAST_MTU: Final = 68
"""RFC 791: what every link must carry."""


class IpIp:
    """The backend `ipip`, for IPv4 alone as in flannel."""

    manifest: ClassVar[Manifest] = Manifest(
        name=NAME, version=__version__, options=IpipOptions, modules=("ipip",)
    )

    def __init__(self, options: IpipOptions) -> None:
        self._options = options

    async def prepare(self, host: Host) -> Prepared:
        """The interface's MTU less the outer header."""
        if host.link.mtu - OVERHEAD < LEAST_MTU:
            raise Refused(
                f"ipip: the MTU {host.link.mtu} of {host.link.name} leaves no room for packets in a tunnel;"
                " choose another interface with --iface"
            )
        return Prepared(mtu=host.link.mtu - OVERHEAD)

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """The device."""
        del peers
        device = Device(
            DEVICE,
            Ipip(host.address.ip.to_bytes(4), host.link.name),
            mtu=host.link.mtu - OVERHEAD,
            addresses=None if host.subnet is None else ((host.subnet.base.to_bytes(4), 32),),
        )
        return Wanted(devices=(device,))

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """A route through the device to the peer's address."""
        if (reason := other_type(peer, NAME)) is not None:
            return Wanted(refused={peer.subnet: reason})
        if self._options.direct_routing and host.reaches(peer.public_ip):
            return Wanted((Route(peer.subnet, peer.public_ip, host.link.name),))
        return Wanted((Route(peer.subnet, peer.public_ip, DEVICE, onlink=True),))

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def teardown(self) -> None:
        """There is nothing to undo: the agent removes routes and device."""
