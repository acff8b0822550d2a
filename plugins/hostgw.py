"""The backend host-gw: a route to each node's subnet through that node's address. All nodes must share one
layer 2 network.

There is no encapsulation and no configuration for the node's own subnet, and leases have no BackendData. The
agent programs the routes; the kernel rejects gateways that are not on-link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from netstore import __version__
from netstore.agent.backend import Host, Manifest, Prepared, Refused, Route, SubnetLease, Wanted, show_ip

if TYPE_CHECKING:
    from collections.abc import Sequence


class HostGateway:
    """The backend `host-gw`. It has no options and no state."""

    manifest: ClassVar[Manifest] = Manifest(name="host-gw", version=__version__)

    def __init__(self, options: object) -> None:
        del options

    async def prepare(self, host: Host) -> Prepared:
        """The interface's MTU. Refuses a PublicIP that is not the interface's address, since peers use it as
        their gateway.
        """
        if host.public_ip != host.address.ip:
            raise Refused(
                f"host-gw: public IP {show_ip(host.public_ip)} is not the address {show_ip(host.address.ip)}"
                f" of {host.link.name}, and nodes behind NAT cannot be routed to; leave --public-ip out or"
                " choose the interface that has it"
            )
        if not host.link.mtu:
            raise Refused(f"host-gw: {host.link.name} has no MTU; choose another interface with --iface")
        return Prepared(mtu=host.link.mtu)

    async def reconcile(self, host: Host, peers: Sequence[SubnetLease]) -> Wanted:
        """A route for each peer with this backend type; the other peers are refused."""
        name, ifindex = self.manifest.name, host.link.ifindex
        return Wanted(
            [Route(peer.subnet, peer.public_ip, ifindex) for peer in peers if peer.backend_type == name],
            {
                peer.subnet: f"its backend is {peer.backend_type or 'not named'}, not {name}"
                for peer in peers
                if peer.backend_type != name
            },
        )

    async def teardown(self) -> None:
        """There is nothing to undo: the agent removes the routes."""
