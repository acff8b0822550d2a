"""Alarms (v3 API, Alarm): replicated marks that shut a part of the store until somebody has looked.

`NOSPACE` refuses what grows the store; raised by a member whose state has reached its quota. `CORRUPT`
refuses everything; raised when members were found to differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.errors import Fault, refusal
from netstore.state.v3commands import CORRUPT, NOSPACE, LeaseGrant, Put, SetAlarm, Txn
from netstore.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.state.v3commands import Operation, V3Command

PUT_COST: Final = 256
"""Bytes that a put is reckoned to cost beside its key and value, as by etcd."""

GRANT_COST: Final = 64
"""Bytes that a lease is reckoned to cost, as by etcd."""


def cost(command: V3Command) -> int:
    """By how many bytes a command may grow the store; 0 for what never does. A transaction costs as much as
    the dearer of its branches.
    """
    if isinstance(command, Put):
        return PUT_COST + len(command.key) + len(command.value)
    if isinstance(command, Txn):
        return max(_cost_of_all(command.success), _cost_of_all(command.failure))
    return GRANT_COST if isinstance(command, LeaseGrant) else 0


class Alarms:
    """The replicated table of (member, kind)."""

    def __init__(self) -> None:
        self._active: set[tuple[NodeId, int]] = set()
        self._sorted: list[tuple[NodeId, int]] = []
        self.nospace = False
        """Some member has no space."""
        self.corrupt = False
        """Some member was found to differ."""

    @property
    def active(self) -> list[tuple[NodeId, int]]:
        """All that are raised, by member and kind; not to be changed."""
        return self._sorted

    def set(self, command: SetAlarm) -> list[tuple[NodeId, int]]:
        """Raise or clear one; what changed."""
        alarm = (NodeId(command.member), command.kind)
        if (alarm in self._active) is command.active:
            return []
        self._active ^= {alarm}
        self._look()
        return [alarm]

    def restore(self, alarms: Iterable[tuple[NodeId, int]]) -> None:
        """Become what was stored."""
        self._active = set(alarms)
        self._look()

    def refuse(self, command: V3Command) -> Fault | None:
        """What a raised alarm has against a command."""
        if self.corrupt and not isinstance(command, SetAlarm):
            return refusal(errors.CORRUPT)
        return refusal(errors.QUOTA) if self.nospace and cost(command) else None

    def _look(self) -> None:
        self._sorted = sorted(self._active)
        kinds = {kind for _, kind in self._active}
        self.nospace = NOSPACE in kinds
        self.corrupt = CORRUPT in kinds


def _cost_of_all(operations: Iterable[Operation]) -> int:
    return sum(cost(operation) for operation in operations)
