"""The backend alloc: the node holds a subnet, and nothing else is done. The site routes between the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from netstore import __version__
from netstore.agent.backend import Host, Manifest, Prepared, Refused, SubnetLease, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection


class Alloc:
    """The backend `alloc`. It has no options and no state, and its leases name no BackendType (flannel)."""

    manifest: ClassVar[Manifest] = Manifest(name="alloc", version=__version__, lease_type="", ipv6=True)

    def __init__(self, options: object) -> None:
        del options

    async def prepare(self, host: Host) -> Prepared:
        """The interface's MTU."""
        if not host.link.mtu:
            raise Refused(f"alloc: {host.link.name} has no MTU; choose another interface with --iface")
        return Prepared(mtu=host.link.mtu)

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """Nothing."""
        del host, peers
        return Wanted()

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """Nothing, whoever the peer is."""
        del host, peer
        return Wanted()

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def teardown(self) -> None:
        """There is nothing to undo."""
