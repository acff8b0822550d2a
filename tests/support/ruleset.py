"""Netfilter rules in memory: the agent's tables, iptables' chain FORWARD, and notifications of changes."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import trio

from netstore.agent.programs import ProgramError, ProgramMissingError
from netstore.agent.ruleset import Ruleset
from netstore.network.masquerade import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.network.masquerade import Family


class FakeRuleset(Ruleset):
    """One network namespace. Each rule has a handle that no other ever had, as in the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, Any]]] = {}
        """Family -> objects of the agent's table there."""
        self.forward: dict[str, list[str]] = {"iptables": ["-P FORWARD ACCEPT"], "ip6tables": []}
        """Program -> lines of `-S FORWARD`; none where the program is not used."""
        self.foreign_chains: list[dict[str, Any]] = []
        self.writes = 0
        self.looks = 0
        self.has_nft = True
        self.has_iptables = True
        self.refuses = ""
        """Why each change is refused."""
        self._handles = itertools.count(1)
        self._listeners: list[Callable[[], None]] = []

    # The methods of agent.ruleset.Ruleset

    async def own_tables(self) -> set[str]:
        await self._nft()
        return set(self.tables)

    async def table(self, family: Family) -> bytes:
        await self._nft()
        self.looks += 1
        found = self.tables.get(family.name)
        return b"" if found is None else json.dumps({"nftables": found}).encode()

    async def chains(self) -> bytes:
        await self._nft()
        return json.dumps({"nftables": [{"chain": chain} for chain in self.foreign_chains]}).encode()

    async def write(self, document: bytes) -> None:
        await self._nft()
        if self.refuses:
            raise ProgramError(self.refuses)
        self.writes += 1
        for command in json.loads(document)["nftables"]:
            [(verb, objects)] = command.items()
            [(kind, each)] = objects.items()
            assert each.get("table", each.get("name")) == TABLE
            if verb == "delete":
                del self.tables[each["family"]]
            elif kind == "table":
                self.tables.setdefault(each["family"], [])
            else:
                self.tables[each["family"]].append({kind: each | {"handle": next(self._handles)}})
        self.notify()

    async def forward_chain(self, family: Family) -> str:
        await trio.lowlevel.checkpoint()
        if not self.has_iptables:
            raise ProgramMissingError(f"{family.iptables} is not installed; install the package iptables")
        return "\n".join(self.forward[family.iptables])

    async def change_forward_chain(self, family: Family, words: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise ProgramError(self.refuses)
        action, chain, *rest = words
        rule = " ".join(("-A", chain, *rest))
        if action == "-D":
            self.forward[family.iptables].remove(rule)
        else:
            assert action == "-A"
            self.forward[family.iptables].append(rule)
        self.notify()

    async def follow(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)
        try:
            await trio.sleep_forever()
        finally:
            self._listeners.remove(changed)

    # Changes by other programs

    def flush(self) -> None:
        """`nft flush ruleset`."""
        self.tables.clear()
        self.notify()

    def notify(self) -> None:
        """Tell of a change."""
        for listener in self._listeners:
            listener()

    async def _nft(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.has_nft:
            raise ProgramMissingError("nft is not installed; install the package nftables")
