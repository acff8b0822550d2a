"""What the agent asks of the kernel: links, addresses and routes of one network namespace, and news about
them.

`netlink.Netlink` is the real one, `tests.support.kernel.FakeKernel` the one for tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.routeplan import KernelRoute, Step


class KernelError(NetstoreError):
    """The kernel cannot be asked at all; the text says what is missing."""


class NewsLostError(NetstoreError):
    """Messages of the kernel were lost: what is known must be read again."""


class Link(NamedTuple):
    """A network interface; `number` is the kernel's index of it, `up` its administrative state."""

    number: int
    name: str
    mtu: int
    up: bool


class Address(NamedTuple):
    """An IPv4 address of a link. `stable` is False for one that is deprecated, secondary or will expire."""

    link: int
    ip: int
    length: int
    stable: bool = True


class RouteNews(NamedTuple):
    """A change of table main. `how` tells where a new route went among those to its destination."""

    route: KernelRoute
    how: Literal["first", "last", "replace", "gone"]


class News(NamedTuple):
    """What happened, in order per kind. `lost` means some of it is unknown."""

    routes: Sequence[RouteNews] = ()
    links: Sequence[Link] = ()
    links_gone: Sequence[int] = ()
    addresses: bool = False
    lost: bool = False


class Kernel(Protocol):
    """One network namespace. Only one task may use it at a time, apart from `news`, which has a task of its
    own.
    """

    async def links(self) -> list[Link]:
        """All interfaces."""

    async def addresses(self) -> list[Address]:
        """All IPv4 addresses."""

    async def routes(self) -> list[KernelRoute]:
        """All IPv4 routes of table main."""

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        """Carry out the steps in order; the errno of each that failed, by its position.

        NewsLostError: some steps' fate is unknown; read the routes again.
        """

    async def route_to(self, ip: int) -> tuple[int, int] | None:
        """Link and source address the kernel would use for the address; None when it has no way there."""

    async def news(self) -> News:
        """Wait until something happens."""

    def news_now(self) -> News:
        """What has happened already and was not told yet: after `apply`, this includes what it did."""
