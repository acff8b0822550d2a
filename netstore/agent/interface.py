"""Which interface and address carry the traffic between nodes. Pure; the order of the wishes is flannel's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from netstore.errors import NetstoreError
from netstore.network.addresses import is_link_local, is_unicast, parse_ip, show_ip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute


class NoInterfaceError(NetstoreError):
    """No interface fits the wishes now; the text says which wish failed."""


class Wishes(NamedTuple):
    """What the operator asked for: names or addresses, then patterns, then an address to reach; or nothing at
    all.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: int | None = None


class Choice(NamedTuple):
    """An interface and the address of it that is used."""

    link: Link
    address: Address


def choose(
    wishes: Wishes,
    links: Sequence[Link],
    addresses: Sequence[Address],
    routes: Sequence[KernelRoute],
    way: tuple[int, int] | None,
) -> Choice:
    """The first wish that some interface fulfils. `way` is link and source address towards
    `wishes.can_reach`.

    Without any wish: the interface of the default route with the lowest metric. NoInterfaceError if nothing
    fits; that may change, so the caller asks again.
    """
    scene = _Scene(links, addresses)
    for name in wishes.names:
        if (found := scene.by_name(name)) is not None:
            return found
    for pattern in wishes.patterns:
        if (found := scene.by_pattern(re.compile(pattern))) is not None:
            return found
    if wishes.can_reach is not None and way is not None and (found := scene.by_way(*way)) is not None:
        return found
    if wishes.names or wishes.patterns or wishes.can_reach is not None:
        wanted = [*wishes.names, *wishes.patterns]
        if wishes.can_reach is not None:
            wanted.append(f"a way to {show_ip(wishes.can_reach)}")
        raise NoInterfaceError(
            f"no interface with an IPv4 address fits {', '.join(wanted)}; there are: {scene.told()}"
        )
    defaults = [route for route in routes if route.subnet.length == 0 and route.link]
    for route in sorted(defaults, key=lambda route: route.metric):
        if (found := scene.by_link(route.link)) is not None:
            return found
    raise NoInterfaceError(f"no default route; name an interface with --iface. There are: {scene.told()}")


class _Scene:
    """Links and their addresses, the best address of each link first."""

    def __init__(self, links: Sequence[Link], addresses: Sequence[Address]) -> None:
        self._links = {link.number: link for link in links}
        usable = [one for one in addresses if is_unicast(one.ip) and one.link in self._links]
        self._addresses = sorted(usable, key=lambda one: (is_link_local(one.ip), not one.stable))

    def told(self) -> str:
        words = [f"{self._links[one.link].name} {show_ip(one.ip)}" for one in self._addresses]
        return ", ".join(words) or "none"

    def by_link(self, number: int) -> Choice | None:
        for address in self._addresses:
            if address.link == number:
                return Choice(self._links[number], address)
        return None

    def by_name(self, name: str) -> Choice | None:
        try:
            ip = parse_ip(name)
        except ValueError:
            numbers = [link.number for link in self._links.values() if link.name == name]
            return self.by_link(numbers[0]) if numbers else None
        return self._by_ip(ip)

    def by_pattern(self, pattern: re.Pattern[str]) -> Choice | None:
        for address in self._addresses:
            if pattern.search(show_ip(address.ip)):
                return Choice(self._links[address.link], address)
        for address in self._addresses:
            if pattern.search(self._links[address.link].name):
                return Choice(self._links[address.link], address)
        return None

    def by_way(self, number: int, source: int) -> Choice | None:
        for address in self._addresses:
            if address.link == number and address.ip == source:
                return Choice(self._links[number], address)
        return self.by_link(number)

    def _by_ip(self, ip: int) -> Choice | None:
        for address in self._addresses:
            if address.ip == ip:
                return Choice(self._links[address.link], address)
        return None
