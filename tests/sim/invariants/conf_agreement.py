"""The committed log determines the configuration at each index (Ongaro's dissertation, section 4.1), also for
members that never saw the entries: what a state copy or a mark in a log says of its members is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft import confchange
from netstore.raft.change import Change
from netstore.raft.entry import ConfState, EntryKind
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.member import Member
    from tests.sim.world import World


class ConfAgreement(Invariant):
    """Folds the changes of the ledger, and compares every member's history of configurations with them."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._folded = 0
        self._known: list[tuple[int, ConfState]] = []

    def booted(self, member: Member) -> None:
        self._compare(member)

    def turned(self, member: Member) -> None:
        raft = member.raft
        if len(self.world.ledger) > self._folded:
            self._fold()
        if member.conf_seen is not raft.conf:
            member.conf_seen = raft.conf
            self._compare(member)

    def _fold(self) -> None:
        if not self._known:
            voters = tuple(node for node, each in self.world.members.items() if each.founders)
            self._known.append((0, ConfState(voters=voters)))
        for entry in self.world.ledger.entries[self._folded :]:
            if entry.kind is EntryKind.CHANGE:
                conf = confchange.after(self._known[-1][1], Change.decode(entry.data))
                if isinstance(conf, ConfState):
                    self._known.append((entry.index, conf))
        self._folded = len(self.world.ledger)

    def _compare(self, member: Member) -> None:
        if not self._known:
            return
        known = min(member.raft.log.commit, self._folded)
        for since, conf in member.raft.conf_history:
            if since > known or (since == 0 and not conf.voters):
                continue  # not committed yet, or not a member yet
            first = next(known for at, known in reversed(self._known) if at <= since)
            require(
                conf == first, "configurations differ", member=member.id, index=since, here=conf, first=first
            )
