"""Which interface and addresses carry the traffic between nodes, in flannel's order of preference. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from netstore.errors import NetstoreError
from netstore.network.addresses import is_link_local, is_unicast, parse_ip, show_ip
from netstore.network.ipv6 import is_link_local6, is_unicast6, parse_ip6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.kernel import Address, Link
    from netstore.agent.routeplan import KernelRoute


class NoInterfaceError(NetstoreError):
    """No interface matches now; the text says what was looked for and which interfaces exist."""


class Preferences(NamedTuple):
    """What the operator configured, tried in order: names or addresses, patterns, an address to reach.
    Addresses may be of either family.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: str | None = None


class Choice(NamedTuple):
    """An interface and the one of its addresses of each family that is used. `address6` is None if it has no
    IPv6 address that other nodes can use: one that is not link-local.
    """

    link: Link
    address: Address
    address6: Address | None = None


class Addresses(NamedTuple):
    """The addresses of all interfaces, by family."""

    ipv4: Sequence[Address]
    ipv6: Sequence[Address] = ()


def choose_interface(
    preferences: Preferences,
    links: Sequence[Link],
    addresses: Addresses,
    routes: Sequence[KernelRoute],
    reach: tuple[int, int] | None,
) -> Choice:
    """The interface that matches the first preference any interface matches. It has an IPv4 address.

    `reach` is the interface index and source address towards `preferences.can_reach`. Without preferences:
    the interface of the default route with the lowest metric. NoInterfaceError if none matches; that may
    change later.
    """
    candidates = _Candidates(links, addresses)
    for name in preferences.names:
        if (found := candidates.by_name(name)) is not None:
            return found
    for pattern in preferences.patterns:
        if (found := candidates.by_pattern(re.compile(pattern))) is not None:
            return found
    if (
        preferences.can_reach is not None
        and reach is not None
        and (found := candidates.by_source(*reach)) is not None
    ):
        return found
    if preferences.names or preferences.patterns or preferences.can_reach is not None:
        wanted = [f"--iface {name}" for name in preferences.names]
        wanted += [f"--iface-regex {pattern}" for pattern in preferences.patterns]
        if preferences.can_reach is not None:
            wanted.append(f"--iface-can-reach {preferences.can_reach}")
        raise NoInterfaceError(
            f"no interface with an IPv4 address matches {', '.join(wanted)}; there are: {candidates}"
        )
    defaults = [route for route in routes if route.subnet.length == 0 and route.ifindex]
    for route in sorted(defaults, key=lambda route: route.metric):
        if (found := candidates.by_index(route.ifindex)) is not None:
            return found
    raise NoInterfaceError(f"no default route; name an interface with --iface. There are: {candidates}")


class _Candidates:
    """Links with their unicast addresses; of each link the best address first: global, then permanent, then
    not temporary or deprecated.
    """

    def __init__(self, links: Sequence[Link], addresses: Addresses) -> None:
        self._links = {link.ifindex: link for link in links}
        usable = [one for one in addresses.ipv4 if is_unicast(one.ip) and one.ifindex in self._links]
        self._addresses = sorted(
            usable, key=lambda one: (is_link_local(one.ip), not one.stable, not one.preferred)
        )
        self._addresses6 = sorted(
            (one for one in addresses.ipv6 if is_unicast6(one.ip) and not is_link_local6(one.ip)),
            key=lambda one: (not one.stable, not one.preferred),
        )

    def __str__(self) -> str:
        words = [f"{self._links[one.ifindex].name} {show_ip(one.ip)}" for one in self._addresses]
        return ", ".join(words) or "none"

    def by_index(self, ifindex: int) -> Choice | None:
        for address in self._addresses:
            if address.ifindex == ifindex:
                return self._choice(address)
        return None

    def by_name(self, name: str) -> Choice | None:
        found = self._by_ip(name)
        if found is not None:
            return found
        matching = [link.ifindex for link in self._links.values() if link.name == name]
        return self.by_index(matching[0]) if matching else None

    def by_pattern(self, pattern: re.Pattern[str]) -> Choice | None:
        for address in self._addresses:
            if pattern.search(show_ip(address.ip)):
                return self._choice(address)
        for address6 in self._addresses6:
            if pattern.search(show_ip6(address6.ip)) and (found := self._with(address6)) is not None:
                return found
        for address in self._addresses:
            if pattern.search(self._links[address.ifindex].name):
                return self._choice(address)
        return None

    def by_source(self, ifindex: int, source: int) -> Choice | None:
        for address in self._addresses:
            if address.ifindex == ifindex and address.ip == source:
                return self._choice(address)
        for address6 in self._addresses6:
            if address6.ifindex == ifindex and address6.ip == source:
                return self._with(address6)
        return self.by_index(ifindex)

    def _by_ip(self, text: str) -> Choice | None:
        try:
            if ":" in text:
                ip6 = parse_ip6(text)
                return next((self._with(one) for one in self._addresses6 if one.ip == ip6), None)
            ip = parse_ip(text)
        except ValueError:
            return None
        return next((self._choice(one) for one in self._addresses if one.ip == ip), None)

    def _choice(self, address: Address) -> Choice:
        usable = (one for one in self._addresses6 if one.ifindex == address.ifindex)
        return Choice(self._links[address.ifindex], address, next(usable, None))

    def _with(self, address6: Address) -> Choice | None:
        """The interface that has this IPv6 address, with it."""
        found = self.by_index(address6.ifindex)
        return None if found is None else found._replace(address6=address6)
