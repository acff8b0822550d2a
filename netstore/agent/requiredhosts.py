"""Hosts that this node cannot do without: the store and the name servers. No lease may make a route for their
addresses (`leasefilter`).

The store's names are resolved again and again, because a lease that is harmless today would cut the node off
when the store moves into its subnet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from netstore.network.addresses import is_unicast, parse_ip, show_ip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESOLVE_SECONDS: Final = 5.0
"""Maximum time to resolve the names once."""

RESOLVE_INTERVAL: Final = 30.0
"""Seconds between two times."""

KEEP_SECONDS: Final = 600.0
"""How long an address counts after a name had it: names with many addresses tell a few at a time."""

MAX_ADDRESSES: Final = 256
"""Addresses remembered for all names; more than any store has."""

RESOLV_CONF: Final = Path("/etc/resolv.conf")

MAX_NAME_SERVERS: Final = 16
"""Name servers read from the file; resolvers use three (resolv.conf(5))."""

MAX_FILE_BYTES: Final = 64 * 1024


class RequiredHosts:
    """The IPv4 addresses of those hosts. `hosts` are the store's names and addresses; `changed` is called
    when the addresses differ from before.
    """

    def __init__(
        self, hosts: Iterable[str], changed: Callable[[], None], resolv_conf: Path = RESOLV_CONF
    ) -> None:
        self.addresses: dict[int, str] = {}
        """What each address is."""
        self._names: list[str] = []
        self._fixed: set[int] = set()
        for host in dict.fromkeys(hosts):
            try:
                self._fixed.add(parse_ip(host))
            except ValueError:
                self._names.append(host)
        self._seen: dict[int, float] = {}
        self._changed = changed
        self._resolv_conf = resolv_conf

    async def update(self) -> None:
        """Resolve the names and read the name servers. At most `RESOLVE_SECONDS`; a name that does not
        resolve keeps its addresses.
        """
        found: set[int] = set()
        with trio.move_on_after(RESOLVE_SECONDS):
            async with trio.open_nursery() as nursery:
                for name in self._names:
                    nursery.start_soon(_resolve, name, found)
        now = trio.current_time()
        for ip in found:
            self._seen.pop(ip, None)  # so that the latest come last
            self._seen[ip] = now
        latest = list(self._seen.items())[-MAX_ADDRESSES:]
        self._seen = {ip: seen for ip, seen in latest if now - seen < KEEP_SECONDS or not found}
        addresses = {ip: f"the name server {show_ip(ip)}" for ip in name_servers(self._resolv_conf)}
        addresses |= {ip: f"the store's address {show_ip(ip)}" for ip in (*self._fixed, *self._seen)}
        before, self.addresses = self.addresses, addresses
        if before != addresses:
            self._changed()

    async def keep(self) -> NoReturn:
        """Update the addresses every `RESOLVE_INTERVAL` seconds, forever."""
        while True:
            await trio.sleep(RESOLVE_INTERVAL)
            await self.update()


async def _resolve(name: str, found: set[int]) -> None:
    try:
        answers = await trio.socket.getaddrinfo(name, None, family=trio.socket.AF_INET)
    except (OSError, UnicodeError):  # UnicodeError: a label that is too long
        return
    found.update(parse_ip(str(address[0])) for *_, address in answers)


def name_servers(path: Path = RESOLV_CONF) -> list[int]:
    """The IPv4 addresses of the name servers in a resolv.conf(5), without those of this host."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ip = parse_ip(words[1])
            except ValueError:
                continue
            if is_unicast(ip):
                found.append(ip)
    return found[:MAX_NAME_SERVERS]
