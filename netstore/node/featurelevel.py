"""Raises the cluster's feature level once every member knows the next one (contrib/doc/format-entry.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.member import OWN
from netstore.state.commands import RaiseLevel, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.node.member import Member
    from netstore.state.machine import Outcome


class Levels:
    """The feature level as one member sees it. `look` has to be called now and then; the leader proposes."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._raising = False
        self._settled: list[Callable[[], object]] = []
        """Called when the proposal that is under way has its outcome."""

    def look(self) -> None:
        """Propose the highest level that all members have reported to know, if it is above the cluster's.

        Reports that arrive while the proposal is under way are considered when it is applied.
        """
        member = self._member
        machine = member.machine
        if self._raising or member.leader != member.id:
            return
        level = min(machine.roster.common_level, machine.LEVEL)
        if level > machine.roster.level:
            self._raising = True
            member.propose(encode(RaiseLevel(level)), self._raised, OWN)

    def settle(self, done: Callable[[], object]) -> None:
        """Look, and call `done` when the proposal that is under way, if there is one, has its outcome. So a
        new store takes every request from its first client on.
        """
        self.look()
        if self._raising:
            self._settled.append(done)
        else:
            done()

    def _raised(self, _: Outcome | Fault) -> None:
        self._raising = False
        settled, self._settled = self._settled, []
        for done in settled:
            done()
