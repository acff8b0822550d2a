"""Raises the cluster's feature level once every member knows the next one (contrib/doc/format-entry.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.member import OWN
from netstore.state.commands import RaiseLevel, encode

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.node.member import Member
    from netstore.state.machine import Outcome


class Levels:
    """One for each member; `look` has to be called now and then, and the leader's proposes."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._raising = False

    def look(self) -> None:
        """Propose the level that all members have told they know, where that is more than the cluster's.

        What members tell while the proposal is on its way is judged again when it is applied.
        """
        member = self._member
        machine = member.machine
        if self._raising or member.leader != member.id:
            return
        level = min(machine.roster.common_level, machine.LEVEL)
        if level > machine.roster.level:
            self._raising = True
            member.propose(encode(RaiseLevel(level)), self._raised, OWN)

    def _raised(self, _: Outcome | Fault) -> None:
        self._raising = False
