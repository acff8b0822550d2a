"""The netfilter rules of one network namespace, through the programs nft and iptables."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from netstore.agent import programs
from netstore.agent.nftevents import NftEvents
from netstore.agent.programs import ProgramError
from netstore.network.masquerade import TABLE, listed_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.network.masquerade import Family

FILTER: Final = "filter"
"""The table with iptables' chain FORWARD."""

LOCK_SECONDS: Final = 5
"""How long iptables waits for its lock while another program changes rules."""

_LEGACY_TABLES: Final = {"iptables": "ip_tables_names", "ip6tables": "ip6_tables_names"}
"""Program -> file below /proc/thread-self/net with the tables that iptables-legacy has."""


class Ruleset:
    """All methods raise ProgramError if a program fails, ProgramMissingError if it is not installed."""

    def __init__(self) -> None:
        self._is_legacy: dict[str, bool] = {}
        self._events: NftEvents | None = None

    async def own_tables(self) -> set[str]:
        """The families in which there is a table of the agent's."""
        return listed_tables(await _nft("-j", "list", "tables"))

    async def table(self, family: Family) -> bytes:
        """The agent's table as nft lists it, with handles that no former table or rule had; b"" if there is
        none.
        """
        try:
            return await _nft("-j", "list", "table", family.name, TABLE)
        except ProgramError as error:
            if os.strerror(errno.ENOENT) in str(error):
                return b""
            raise

    async def chains(self) -> bytes:
        """All chains of all tables as `nft -j list chains` prints them."""
        return await _nft("-j", "list", "chains")

    async def write(self, document: bytes) -> None:
        """Carry out a document for `nft -j`, in one transaction."""
        await _nft("-j", "-f", "-", data=document)

    async def forward_chain(self, family: Family) -> str:
        """What `iptables -S FORWARD` prints; "" if iptables is not used.

        Looking at a table makes iptables-legacy create it, so that it is asked only for one that exists.
        """
        program = family.iptables
        if program not in self._is_legacy:
            told = await programs.run((program, "-V"), package="iptables")
            self._is_legacy[program] = b"nf_tables" not in told
        if self._is_legacy[program] and FILTER not in _legacy_tables(program):
            return ""
        listing = await programs.run((program, "-w", str(LOCK_SECONDS), "-S", "FORWARD"), package="iptables")
        return listing.decode(errors="replace")

    async def change_forward_chain(self, family: Family, words: Sequence[str]) -> None:
        """One of the steps of `network.forwardrules`."""
        await programs.run((family.iptables, "-w", str(LOCK_SECONDS), *words))

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a table of the agent's, or that of iptables' chain FORWARD, was changed, by
        whomever. Runs forever. Without permission to listen, or nftables in the kernel, it is never called.
        """
        try:
            with NftEvents() as self._events:
                while True:
                    await self._events.changed({TABLE, FILTER})
                    changed()
        except OSError:
            self._events = None
            await trio.sleep_forever()

    def forget_changes(self) -> None:
        """Do not tell `follow` of what was changed until now. A change is told before the program that made
        it has ended. An error here is left to `follow`: what is not forgotten leads to another look.
        """
        if self._events is not None:
            with suppress(OSError):
                self._events.discard()


async def _nft(*words: str, data: bytes = b"") -> bytes:
    return await programs.run(("nft", *words), data, package="nftables")


def _legacy_tables(program: str) -> list[str]:
    try:
        return Path("/proc/thread-self/net", _LEGACY_TABLES[program]).read_text().split()
    except OSError:
        return []
