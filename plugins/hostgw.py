"""host-gw: a plain route to each node's subnet through that node's address. All nodes share one layer 2
network.

Nothing is encapsulated, nothing is configured for the node's own subnet, and the lease says no more than
PublicIP and type. The agent holds the routes; the kernel is the judge of what is on-link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from netstore import __version__
from netstore.agent.backend import Host, Lease, Manifest, Prepared, Refused, Route, Wanted, show_ip

if TYPE_CHECKING:
    from collections.abc import Sequence


class HostGateway:
    """The backend `host-gw`. It has no options and keeps nothing between calls."""

    manifest: ClassVar[Manifest] = Manifest(
        name="host-gw", version=__version__, follows=frozenset({"link", "addresses"})
    )

    def __init__(self, options: object) -> None:
        del options  # there are none

    async def prepare(self, host: Host) -> Prepared:
        """The interface's MTU. Refuses a published address that is not the interface's: others route to it
        directly.
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

    async def reconcile(self, host: Host, peers: Sequence[Lease]) -> Wanted:
        """A route per peer of this type; the others are named."""
        name, link = self.manifest.name, host.link.number
        return Wanted(
            [Route(peer.subnet, peer.public_ip, link) for peer in peers if peer.backend_type == name],
            {
                peer.subnet: f"its backend is {peer.backend_type or 'not named'}, not {name}"
                for peer in peers
                if peer.backend_type != name
            },
        )

    async def teardown(self) -> None:
        """Nothing was made but routes, which the agent removes."""
