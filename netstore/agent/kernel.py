"""What the agent needs from the kernel: links, addresses and routes of one network namespace, and
notifications of their changes.

`netlink.Netlink` is the real implementation, `tests.support.kernel.FakeKernel` the one for tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.routeplan import KernelRoute, Step


class KernelError(NetstoreError):
    """The kernel did not answer, or refused to list; the text says what is missing."""


class NotificationsLostError(NetstoreError):
    """Netlink messages were dropped, so the known state may be outdated and must be read again."""


class Link(NamedTuple):
    """A network interface. `ifindex` is its number in the kernel, `up` its administrative state, `kind` its
    driver's name where it is a virtual one (`vxlan`), else empty.
    """

    ifindex: int
    name: str
    mtu: int
    up: bool
    mac: bytes = b""
    kind: str = ""


class Address(NamedTuple):
    """An IPv4 address of a link. `stable` is False if it is deprecated, secondary or will expire."""

    ifindex: int
    ip: int
    length: int
    stable: bool = True


class RouteChange(NamedTuple):
    """A change of table main.

    `how`: the route was put before or behind the others to its destination, replaced one of them, or was
    deleted.
    """

    route: KernelRoute
    how: Literal["prepend", "append", "replace", "delete"]


class Notifications(NamedTuple):
    """What changed, in order within each field. `addresses`: some address changed. `lost`: messages were
    dropped.
    """

    routes: Sequence[RouteChange] = ()
    links: Sequence[Link] = ()
    removed_links: Sequence[int] = ()
    addresses: bool = False
    lost: bool = False


class Kernel(Protocol):
    """One network namespace. Only one task at a time may call it, except that `notifications` has its own
    task.
    """

    async def links(self) -> list[Link]:
        """All interfaces."""

    async def addresses(self) -> list[Address]:
        """All IPv4 addresses."""

    async def routes(self) -> list[KernelRoute]:
        """All IPv4 routes of table main."""

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        """Carry out the steps in order. Returns the errno of each failed step by its position.

        NotificationsLostError: the outcome of some steps is unknown; read the routes again.
        """

    async def route_to(self, ip: int) -> tuple[int, int] | None:
        """Interface index and source address the kernel would use to reach the address, or None if
        unreachable.
        """

    async def notifications(self) -> Notifications:
        """Wait for changes."""

    def pending_notifications(self) -> Notifications:
        """The changes received and not yet returned; after `apply` these include what it did."""
