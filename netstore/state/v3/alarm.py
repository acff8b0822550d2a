"""Alarms (v3 API, Alarm): replicated flags that block a part of the commands until an operator clears them.

`NOSPACE` blocks commands that grow the store; raised by a member whose state has reached its quota. `CORRUPT`
blocks all commands; raised if members were found to differ.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault, Reason, refusal
from netstore.state.v3.commands import CORRUPT, NOSPACE, LeaseGrant, Put, SetAlarm, Txn
from netstore.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.state.v3.commands import Operation, V3Command

PUT_COST: Final = 256
"""Estimated bytes of a put beside its key and value, as in etcd."""

GRANT_COST: Final = 64
"""Estimated bytes of a lease, as in etcd."""


def cost(command: V3Command) -> int:
    """By how many bytes a command may grow the store; 0 if it never does. For a transaction, that of the
    larger branch.
    """
    if isinstance(command, Put):
        return PUT_COST + len(command.key) + len(command.value)
    if isinstance(command, Txn):
        return max(_cost_of_all(command.success), _cost_of_all(command.failure))
    return GRANT_COST if isinstance(command, LeaseGrant) else 0


def alarm_key(member: NodeId, kind: int) -> bytes:
    """The key of an alarm in its table."""
    return b"%016x %d" % (member, kind)


class Alarms:
    """The replicated table of (member, kind)."""

    def __init__(self) -> None:
        self._sorted: list[tuple[NodeId, int]] = []
        self._kinds: Counter[int] = Counter()
        """How many of each kind are raised."""
        self.nospace = False
        """Whether a NOSPACE alarm is raised."""
        self.corrupt = False
        """Whether a CORRUPT alarm is raised."""

    @property
    def active(self) -> list[tuple[NodeId, int]]:
        """The raised alarms, sorted; not to be changed by callers."""
        return self._sorted

    def raised(self, alarm: tuple[NodeId, int]) -> bool:
        """Whether this one is raised. O(log alarms)."""
        place = bisect_left(self._sorted, alarm)
        return self._sorted[place : place + 1] == [alarm]

    def set(self, command: SetAlarm) -> list[tuple[NodeId, int]]:
        """Raise or clear an alarm; returns those that changed. O(log alarms), and moves 8 bytes for each."""
        alarm = (NodeId(command.member), command.kind)
        if self.raised(alarm) is command.active:
            return []
        place = bisect_left(self._sorted, alarm)
        if command.active:
            self._sorted.insert(place, alarm)
        else:
            del self._sorted[place]
        self._kinds[command.kind] += 1 if command.active else -1
        self._look()
        return [alarm]

    def restore(self, alarms: Iterable[tuple[NodeId, int]]) -> None:
        """Replace the alarms by stored ones."""
        self._sorted = sorted(set(alarms))
        self._kinds = Counter(kind for _, kind in self._sorted)
        self._look()

    def refuse(self, command: V3Command) -> Fault | None:
        """The Fault with which a raised alarm blocks a command."""
        if self.corrupt and not isinstance(command, SetAlarm):
            return refusal(Reason.CORRUPT)
        return refusal(Reason.QUOTA) if self.nospace and cost(command) else None

    def _look(self) -> None:
        self.nospace = self._kinds[NOSPACE] > 0
        self.corrupt = self._kinds[CORRUPT] > 0


def _cost_of_all(operations: Iterable[Operation]) -> int:
    return sum(cost(operation) for operation in operations)
