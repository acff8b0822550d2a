"""Hosts that this node cannot do without: the store and the name servers. No lease may make a route for their
addresses (`leasefilter`).

The store's names are resolved again and again, because a lease that is harmless today would cut the node off
when the store moves into its subnet.
"""

from __future__ import annotations

import contextlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

from netstore.network.addresses import is_unicast, parse_ip, show_ip
from netstore.network.ipv6 import is_unicast6, parse_ip6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

RESOLVE_SECONDS: Final = 5.0
"""Maximum time to resolve the names once."""

RESOLVE_INTERVAL: Final = 30.0
"""Seconds between two times."""

KEEP_SECONDS: Final = 600.0
"""How long an address counts after a name had it: names with many addresses tell a few at a time."""

MAX_ADDRESSES: Final = 256
"""Addresses remembered for each name; more than any store has."""

RESOLV_CONF: Final = Path("/etc/resolv.conf")

MAX_NAME_SERVERS: Final = 16
"""Name servers read from the file; resolvers use three (resolv.conf(5))."""

MAX_FILE_BYTES: Final = 64 * 1024


class RequiredAddresses(NamedTuple):
    """Addresses of both families, with what each is."""

    ipv4: Mapping[int, str] = {}
    ipv6: Mapping[int, str] = {}


class RequiredHosts:
    """The addresses of those hosts. `hosts` are the store's names and addresses; `changed` is called when the
    addresses differ from before.
    """

    def __init__(
        self, hosts: Iterable[str], changed: Callable[[], None], resolv_conf: Path = RESOLV_CONF
    ) -> None:
        self.addresses = RequiredAddresses()
        self._seen: dict[str, dict[_Address, float]] = {}
        """The addresses of each name, those found last at the end, with when each was found last."""
        self._fixed: set[_Address] = set()
        for host in dict.fromkeys(hosts):
            address = _parse(host)
            if address is None:
                self._seen[host] = {}
            else:
                self._fixed.add(address)
        self._changed = changed
        self._resolv_conf = resolv_conf

    async def update(self) -> None:
        """Resolve the names and read the name servers. At most `RESOLVE_SECONDS`; a name that does not
        resolve keeps its addresses.
        """
        found: dict[str, set[_Address]] = {}
        with trio.move_on_after(RESOLVE_SECONDS):
            async with trio.open_nursery() as nursery:
                for name in self._seen:
                    nursery.start_soon(_resolve, name, found)
        now = trio.current_time()
        for name, addresses in found.items():
            known = self._seen[name]
            for address in addresses:
                known.pop(address, None)  # so that the latest come last
                known[address] = now
            latest = list(known.items())[-MAX_ADDRESSES:]
            self._seen[name] = {address: seen for address, seen in latest if now - seen < KEEP_SECONDS}
        kinds = dict.fromkeys(name_servers(self._resolv_conf), "the name server")
        kinds |= dict.fromkeys(
            (*self._fixed, *chain.from_iterable(self._seen.values())), "the store's address"
        )
        before = self.addresses
        self.addresses = RequiredAddresses(
            {ip: f"{kind} {show_ip(ip)}" for (ip, is_ipv6), kind in kinds.items() if not is_ipv6},
            {ip: f"{kind} {show_ip6(ip)}" for (ip, is_ipv6), kind in kinds.items() if is_ipv6},
        )
        if before != self.addresses:
            self._changed()

    async def keep(self) -> NoReturn:
        """Update the addresses every `RESOLVE_INTERVAL` seconds, forever."""
        while True:
            await trio.sleep(RESOLVE_INTERVAL)
            await self.update()


class _Address(NamedTuple):
    """An address of either family."""

    ip: int
    is_ipv6: bool


def _parse(text: str) -> _Address | None:
    """The address of either family, or None."""
    for parse, is_ipv6 in ((parse_ip, False), (parse_ip6, True)):
        with contextlib.suppress(ValueError):
            return _Address(parse(text), is_ipv6)
    return None


async def _resolve(name: str, found: dict[str, set[_Address]]) -> None:
    """Add the addresses of the name to `found`; nothing if it does not resolve."""
    try:
        answers = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: a label that is too long
        return
    parsed = (_parse(str(address[0])) for *_, address in answers)
    if addresses := {address for address in parsed if address is not None}:
        found[name] = addresses


def name_servers(path: Path = RESOLV_CONF) -> list[_Address]:
    """The addresses of the name servers in a resolv.conf(5), without those of this host. One with a scope, as
    fe80::1%eth0, is no pod network's.
    """
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found: list[_Address] = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = _parse(words[1])
            if address is not None and (is_unicast6 if address.is_ipv6 else is_unicast)(address.ip):
                found.append(address)
    return found[:MAX_NAME_SERVERS]
