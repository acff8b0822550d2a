"""Keeps this node's netfilter rules: masquerading in tables of the agent's own, and rules that accept the
pods' packets in iptables' chain FORWARD where that drops them.

Invariants:

- The agent's tables are written as a whole, in one transaction, and compared as a whole: with what nft listed
  right after they were written. Whatever differs then was changed by somebody else, and is written again.
- Nothing of others is changed or removed: no table, no chain, no rule without the agent's comment.
- Nothing is changed before this node's subnet is known: rules of an earlier run stay until then.
- Without `ip_masq` nft is not needed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.programs import ProgramError, ProgramMissingError
from netstore.agent.sysctls import problems
from netstore.errors import NetstoreError
from netstore.network.forwardrules import steps
from netstore.network.masquerade import (
    FAMILIES,
    IPV4,
    IPV6,
    PodNetwork,
    dropping_chains,
    iptables_chain,
    listed_comments,
    masquerade,
    rule_comments,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.agent.problems import ProblemLog
    from netstore.agent.ruleset import Ruleset
    from netstore.network.masquerade import Family
    from netstore.ops.agent import AgentConfig

MAX_LOOKS: Final = 10
"""Looks at the rules within `LOOKS_SECONDS`, however often other programs change theirs. A look takes some
10 ms of processor time. None waits for a former one, so what is destroyed once is repaired at once.
"""

LOOKS_SECONDS: Final = 2.0

MAX_LINES: Final = 10
"""Changes of rules that are logged within `LINES_SECONDS`; beyond that one warning is, until it is quiet."""

LINES_SECONDS: Final = 60.0

CONTESTED: Final = "contested rules"
"""The topic of that warning."""


class PacketFilter:
    """The rules of this node. Call `serve` when the network or the own subnet is known or has changed."""

    def __init__(self, config: AgentConfig, ruleset: Ruleset, log: ProblemLog) -> None:
        self.not_in_place: str | None = "the netfilter rules are not looked at yet"
        """Why rules that pods need are not in place; None if they are."""
        self.repairs = 0
        """How often rules were written again because somebody changed them."""
        self._config = config
        self._ruleset = ruleset
        self._log = log
        self._pods: dict[Family, PodNetwork] | None = None
        self._interface = ""
        self._listings: dict[Family, bytes] = {}
        """What nft listed after the tables were written. Empty: they are to be written."""
        self._former_tables_removed = False
        self._former_rules_removed = False
        self._kernel_settings: set[str] = set()
        self._told_chains: list[str] = []
        self._told_changes: deque[float] = deque(maxlen=MAX_LINES)
        """When changes of rules were logged."""
        self._last_change = 0.0
        self._looks: deque[float] = deque(maxlen=MAX_LOOKS)
        """When the last looks began."""
        self._wake = trio.Event()

    def serve(self, interface: str, ipv4: PodNetwork | None, ipv6: PodNetwork | None = None) -> None:
        """The pod networks are these; `interface` carries the traffic to other nodes."""
        both = {IPV4: ipv4, IPV6: ipv6}
        pods = {family: each for family, each in both.items() if each is not None}
        if (pods, interface) == (self._pods, self._interface):
            return
        subnets = ", ".join(each.subnet for each in pods.values())
        self.not_in_place = f"the netfilter rules for {subnets} are not in place yet"
        self._pods, self._interface = pods, interface
        self._listings = {}
        self._wake.set()

    async def run(self) -> None:
        """Keep the rules forever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ruleset.follow, self._changed)
            while True:
                self._forget_changes()
                pods = self._pods
                if pods is not None:
                    self._looks.append(trio.current_time())
                    await self._check(pods)
                if pods is self._pods:
                    with trio.move_on_after(self._config.iptables_resync):
                        await self._wake.wait()
                if len(self._looks) == MAX_LOOKS:
                    await trio.sleep_until(self._looks[0] + LOOKS_SECONDS)

    async def clear(self) -> None:
        """Remove all rules of the agent. NetstoreError if that fails."""
        self._pods = None
        await self._remove_tables()
        for family in FAMILIES:
            await self._set_forward_rules(family, ())

    def _changed(self) -> None:
        self._wake.set()

    def _forget_changes(self) -> None:
        """What was changed until now is seen by the reading that follows, so it needs no look of its own: the
        agent's own writes first of all.
        """
        self._ruleset.forget_changes()
        self._wake = trio.Event()

    async def _check(self, pods: Mapping[Family, PodNetwork]) -> None:
        quiet_since = trio.current_time() - LINES_SECONDS
        while self._told_changes and self._told_changes[0] <= quiet_since:
            self._told_changes.popleft()
        if self._last_change <= quiet_since:
            self._log.resolve(CONTESTED, "rules_no_longer_contested")
        reasons: list[str] = []
        for part in (self._keep_masquerade, self._keep_forward_rules):
            try:
                await part(pods)
            except NetstoreError as error:
                reasons.append(str(error))
        self._look_at_kernel(pods)
        if self._pods is not pods:
            return  # `serve` was called meanwhile; the next look is at once
        if reasons:
            self.not_in_place = f"the netfilter rules are not in place: {'; '.join(reasons)}"
            self._log.report("rules", "rules_not_kept", reason="; ".join(reasons))
        else:
            if self.not_in_place is not None:
                self._log.info("rules_in_place", masquerade=self._config.ip_masq)
            self.not_in_place = None
            self._log.resolve("rules")

    async def _keep_masquerade(self, pods: Mapping[Family, PodNetwork]) -> None:
        if not self._config.ip_masq:
            if not self._former_tables_removed:
                await self._remove_tables()
                self._former_tables_removed = True
            return
        present = {family: await self._ruleset.table(family) for family in pods}
        if present == self._listings:
            return
        is_repair = bool(self._listings)
        self._listings = {}
        former = () if is_repair else await self._ruleset.own_tables()
        wanted: dict[Family, PodNetwork | None] = {
            family: pods.get(family) for family in FAMILIES if family in pods or family.name in former
        }
        await self._ruleset.write(
            masquerade(wanted, fully_random=not self._config.ip_masq_fully_random_disable)
        )
        self._forget_changes()
        written = {family: await self._ruleset.table(family) for family in pods}
        if any(listed_comments(written[family]) != rule_comments(family, pods[family]) for family in pods):
            self._wake.set()
            raise ProgramError("another program changed table netstore while it was written")
        if is_repair:
            self.repairs += 1
            self._tell_change("rules_repaired", table="netstore", repairs=self.repairs)
        if self._pods is pods:
            self._listings = written

    async def _remove_tables(self) -> None:
        """Remove the agent's tables. Where nft does not work there are none, unless this run wrote them."""
        try:
            present = await self._ruleset.own_tables()
        except NetstoreError:
            if self._listings:
                raise
            return
        removed: Mapping[Family, None] = {family: None for family in FAMILIES if family.name in present}
        if removed:
            await self._ruleset.write(masquerade(removed, fully_random=False))

    async def _keep_forward_rules(self, pods: Mapping[Family, PodNetwork]) -> None:
        wanted = pods if self._config.iptables_forward_rules else {}
        for family in wanted if self._former_rules_removed else FAMILIES:
            await self._set_forward_rules(family, wanted[family].networks if family in wanted else ())
        self._former_rules_removed = True
        if wanted:
            await self._tell_dropping_chains(pods)

    async def _set_forward_rules(self, family: Family, networks: tuple[str, ...]) -> None:
        topic = f"{family.iptables} FORWARD"
        try:
            listing = await self._ruleset.forward_chain(family)
        except ProgramMissingError as error:
            if networks and await self._drops_in_iptables(family):
                reason = f"the chain drops packets of pods, and {error}"
                self._log.report(topic, "forward_chain_not_read", reason=reason)
            else:
                self._log.resolve(topic)
            return
        except ProgramError as error:
            self._log.report(topic, "forward_chain_not_read", reason=str(error))
            return
        self._log.resolve(topic)
        changes = steps(listing, networks)
        for words in changes:
            await self._ruleset.change_forward_chain(family, words)
        if changes:
            rules = [" ".join(words) for words in changes]
            self._tell_change("forward_rules_changed", program=family.iptables, rules=rules)

    async def _drops_in_iptables(self, family: Family) -> bool:
        """Whether another program, with an iptables of its own, made the chain FORWARD drop packets. Only one
        of iptables-nft is seen.
        """
        try:
            return iptables_chain(family) in dropping_chains(await self._ruleset.chains(), family)
        except NetstoreError:
            return False  # other faults of nft are those of the masquerade rules

    def _tell_change(self, event: str, **fields: object) -> None:
        self._last_change = trio.current_time()
        if CONTESTED in self._log.open or len(self._told_changes) == MAX_LINES:
            self._log.report(
                CONTESTED,
                "rules_contested",
                reason="another program keeps changing the agent's rules, maybe a second agent on this node; "
                "only one may write rules",
            )
            return
        self._told_changes.append(self._last_change)
        self._log.info(event, **fields)

    async def _tell_dropping_chains(self, pods: Mapping[Family, PodNetwork]) -> None:
        """Chains that are not iptables' belong to a firewall; only who configures that can accept in them."""
        try:
            listing = await self._ruleset.chains()
            found = {
                chain: family
                for family in pods
                for chain in dropping_chains(listing, family)
                if chain != iptables_chain(family)
            }
        except NetstoreError:
            return  # without nft nobody made one; other faults are those of the masquerade rules
        if list(found) != self._told_chains:
            self._told_chains = list(found)
            for chain, family in found.items():
                network = ", ".join(pods[family].networks)
                self._log.warning(
                    "firewall_may_drop",
                    chain=chain,
                    reason="the chain drops packets of pods unless it has rules that accept them: "
                    f"nft insert rule {chain} {family.name} saddr {{ {network} }} accept, and one with daddr",
                )

    def _look_at_kernel(self, pods: Mapping[Family, PodNetwork]) -> None:
        found = problems(list(pods), self._interface)
        for name, reason in found.items():
            self._log.report(name, "kernel_setting", name=name, reason=reason)
        for name in self._kernel_settings - found.keys():
            self._log.resolve(name, "kernel_setting_corrected", name=name)
        self._kernel_settings = set(found)
