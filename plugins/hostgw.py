"""The backend host-gw: a route to each node's subnet through that node's address, for IPv4 and IPv6. All
nodes must share one layer 2 network.

There is no encapsulation and no configuration for the node's own subnets, and leases have no BackendData. The
agent programs the routes; the kernel rejects gateways that are not on-link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from netstore import __version__
from netstore.agent.backend import (
    Host,
    Manifest,
    Prepared,
    Refused,
    Route,
    SubnetLease,
    Wanted,
    show_ip,
    show_ip6,
)

if TYPE_CHECKING:
    from collections.abc import Collection


class HostGateway:
    """The backend `host-gw`. It has no options and no state."""

    manifest: ClassVar[Manifest] = Manifest(name="host-gw", version=__version__, ipv6=True)

    def __init__(self, options: object) -> None:
        del options

    async def prepare(self, host: Host) -> Prepared:
        """The interface's MTU. Refuses public addresses that are not the interface's, since peers use them as
        their gateways.
        """
        if host.public_ip != host.address.ip:
            raise Refused(
                f"host-gw: public IP {show_ip(host.public_ip)} is not the address {show_ip(host.address.ip)}"
                f" of {host.link.name}, and nodes behind NAT cannot be routed to; leave --public-ip out or"
                " choose the interface that has it"
            )
        if host.public_ip6 is not None and host.public_ip6 != host.address6:
            raise Refused(
                f"host-gw: public IPv6 {show_ip6(host.public_ip6)} is not the address that"
                f" {host.link.name} has, and nodes behind NAT cannot be routed to; leave --public-ipv6 out or"
                " choose the interface that has it"
            )
        if not host.link.mtu:
            raise Refused(f"host-gw: {host.link.name} has no MTU; choose another interface with --iface")
        return Prepared(mtu=host.link.mtu)

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """Nothing for the node itself."""
        del host, peers
        return Wanted()

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """A route for each subnet of the peer. One with another backend type is refused."""
        name, device = self.manifest.name, host.link.name
        if peer.backend_type != name:
            reason = f"its backend is {peer.backend_type or 'not named'}, not {name}"
            return Wanted(refused={peer.subnet: reason})
        route = Route(peer.subnet, peer.public_ip, device)
        if host.address6 is None or peer.subnet6 is None:
            return Wanted((route,))
        if peer.public_ip6 is None:
            reason = f"it has no PublicIPv6, so {peer.subnet6} cannot be routed to it"
            return Wanted((route,), {peer.subnet: reason})
        return Wanted((route, Route(peer.subnet6, peer.public_ip6, device)))

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def teardown(self) -> None:
        """There is nothing to undo: the agent removes the routes."""
