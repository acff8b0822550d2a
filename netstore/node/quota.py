"""The quota of a member: how large its v3 state may grow.

A write that would exceed it is refused, and the member raises the NOSPACE alarm, which stops all writes that
grow the store on every member until an operator clears it (v3 API, NOSPACE). The size of the stored data
counts, not that of the file on disk: deleting and compacting make room without defragmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.errors import Reason, refusal
from netstore.node.member import OWN
from netstore.state.commands import encode
from netstore.state.v3.alarm import cost
from netstore.state.v3.commands import NOSPACE, SetAlarm

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.node.member import Member
    from netstore.state.machine import Outcome
    from netstore.state.v3.commands import V3Command

DEFAULT_BYTES: Final = 2 * 1024**3
"""etcd's own default."""


class Quota:
    """Refuses writes that would grow the store beyond `limit` bytes; 0 is the default, less is no limit."""

    def __init__(self, member: Member, limit: int) -> None:
        self._member = member
        self.limit = limit or DEFAULT_BYTES
        self._raising = False

    def refuse(self, command: V3Command) -> Fault | None:
        """The fault that refuses a command, or None."""
        machine = self._member.machine
        if self.limit < 0:
            return None
        size = machine.mvcc.size
        if size < self.limit // 2 and not machine.alarms.nospace:
            return None
        costs = cost(command)
        if not costs or (size + costs < self.limit and not machine.alarms.nospace):
            return None
        if not machine.alarms.nospace:
            self._raise()
        return refusal(Reason.QUOTA)

    def _raise(self) -> None:
        if not self._raising:
            self._raising = True
            self._member.propose(encode(SetAlarm(self._member.id, NOSPACE, active=True)), self._raised, OWN)

    def _raised(self, _: Outcome | Fault) -> None:
        self._raising = False
