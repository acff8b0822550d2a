"""What the agent needs from the kernel: links, addresses, routes and neighbour tables of one network
namespace, and notifications of their changes.

`netlink.Netlink` is the real implementation, `tests.support.kernel.FakeKernel` the one for tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.deviceplan import DeviceStep
    from netstore.agent.entryplan import Entry, EntryStep
    from netstore.agent.routeplan import KernelRoute, RouteStep
    from netstore.agent.wanted import Wireguard

    Step: TypeAlias = RouteStep | EntryStep | DeviceStep


class KernelError(NetstoreError):
    """The kernel did not answer, or refused to list; the text says what is missing."""


class NotificationsLostError(NetstoreError):
    """Netlink messages were dropped, so the known state may be outdated and must be read again."""


class Tunnel(NamedTuple):
    """The parameters of a VXLAN or IPIP device as the kernel tells them; addresses are packed.

    `link` is the number of the interface that carries it, 0 for any, and `remote` its group or only remote
    address, empty if it has none.
    """

    local: bytes = b""
    link: int = 0
    remote: bytes = b""
    vni: int = 0
    port: int = 0
    learning: bool = False
    gbp: bool = False


class Link(NamedTuple):
    """A network interface. `ifindex` is its number in the kernel, `up` its administrative state, `kind` its
    driver's name where it is a virtual one (`vxlan`), else empty. `alias` is the note that programs may leave
    at it, `tunnel` what is known of a VXLAN or IPIP device. `master` is the ifindex of the bridge or the like
    that it is a port of, 0 if there is none.
    """

    ifindex: int
    name: str
    mtu: int
    up: bool
    mac: bytes = b""
    kind: str = ""
    alias: str = ""
    tunnel: Tunnel | None = None
    master: int = 0


class Address(NamedTuple):
    """An address of a link. `stable` is False if it is deprecated, secondary, temporary or will expire;
    `preferred` is False if it is deprecated, secondary or temporary (RFC 8981).
    """

    ifindex: int
    ip: int
    length: int
    stable: bool = True
    preferred: bool = True


class RouteChange(NamedTuple):
    """A change of table main.

    `how`: the route was put before or behind the others to its destination, replaced one of them, was put in
    the place of all with its metric (IPv6), or was deleted.
    """

    route: KernelRoute
    how: Literal["prepend", "append", "replace", "reset", "delete"]


class EntryChange(NamedTuple):
    """A change of a neighbour table: the entry as it is now, or as it was when it was deleted."""

    entry: Entry
    deleted: bool = False


class Notifications(NamedTuple):
    """What changed, in order within each field. `addresses`: some address changed. `lost`: messages were
    dropped. `bared`: the numbers of the interfaces that lost an address.
    """

    routes: Sequence[RouteChange] = ()
    links: Sequence[Link] = ()
    removed_links: Sequence[int] = ()
    addresses: bool = False
    lost: bool = False
    entries: Sequence[EntryChange] = ()
    bared: Sequence[int] = ()


class Kernel(Protocol):
    """One network namespace. Only one task at a time may call it, except that `notifications` has its own
    task.
    """

    async def links(self) -> list[Link]:
        """All interfaces."""

    async def addresses(self) -> list[Address]:
        """All IPv4 addresses."""

    async def addresses6(self) -> list[Address]:
        """All IPv6 addresses; `ip` is below 2**128."""

    async def routes(self) -> list[KernelRoute]:
        """All IPv4 routes of table main."""

    async def routes6(self) -> list[KernelRoute]:
        """All IPv6 routes of table main; one with several next hops is a route for each."""

    async def entries(self, ifindex: int) -> list[Entry]:
        """All neighbour and forwarding entries of one device that have a MAC and an address."""

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        """Carry out the steps in order. Returns the errno of each failed step by its position.

        NotificationsLostError: the outcome of some steps is unknown; read the state again.
        """

    async def wireguard(self, ifindex: int) -> Wireguard | None:
        """The configuration of a WireGuard device; None if there is no such device."""

    async def configure_wireguard(self, ifindex: int, wanted: Wireguard, present: Wireguard) -> int:
        """Change a WireGuard device from one configuration to another; peers in both keep their sessions.
        Returns 0 or an errno.
        """

    async def route_to(self, ip: int, *, is_ipv6: bool = False) -> tuple[int, int] | None:
        """Interface index and source address the kernel would use to reach the address, or None if
        unreachable.
        """

    async def notifications(self) -> Notifications:
        """Wait for changes."""

    def pending_notifications(self) -> Notifications:
        """The changes received and not yet returned; after `apply` these include what it did."""
