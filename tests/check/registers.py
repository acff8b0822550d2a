"""A file of the v2 API as a register with compare-and-swap, for the judge that searches."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    QuorumGet,
    Set,
    Update,
)
from netstore.types import Event
from tests.check.history import NEVER, Door, Fate, Operation
from tests.check.linear import Call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.check.linear import State

UNSEEN: Final = b"\0nobody saw it"
"""Stands for every value that was perhaps written and certainly never read: they are all alike."""


def register_histories(operations: Iterable[Operation], below: bytes) -> Iterator[tuple[bytes, list[Call]]]:
    """The calls on each file below a path, local reads left out: those may be stale."""
    by_key: defaultdict[bytes, list[Call]] = defaultdict(list)
    values: dict[int, bytes] = {}
    """What was written at an index, so that a comparison of indexes becomes one of values."""
    seen: set[bytes] = set()
    listed = list(operations)
    for operation in listed:
        outcome = operation.outcome
        if isinstance(outcome, Event):
            for node in (outcome.node, outcome.prev):
                if node is not None and node.value is not None:
                    values[node.modified] = node.value
                    if node is outcome.prev or isinstance(operation.command, QuorumGet):
                        seen.add(node.value)
    for operation in listed:
        command = operation.command
        path = getattr(command, "path", b"")
        if (
            not path.startswith(below + b"/")
            or operation.door is Door.LOCAL
            or operation.fate is Fate.REFUSED
        ):
            continue
        if isinstance(command, QuorumGet) and operation.fate is not Fate.ANSWERED:
            continue
        returned = operation.returned if operation.fate is Fate.ANSWERED else NEVER
        step = _Step(operation, values)
        kind = None
        if operation.fate is not Fate.ANSWERED:
            if step.written not in seen:
                step.written = UNSEEN
            kind = (type(command), step.wanted, step.written)
        by_key[path].append(Call(operation.called, returned, step, operation, kind))
    yield from sorted(by_key.items())


class _Step:
    """What one operation does to the value (None: no file)."""

    def __init__(self, operation: Operation, values: dict[int, bytes]) -> None:
        command = operation.command
        self._command = command
        self._outcome = operation.outcome
        self._known = operation.fate is Fate.ANSWERED
        self.written: bytes = getattr(command, "value", b"")
        self.wanted: bytes | None = None
        if isinstance(command, CompareAndSwap | CompareAndDelete):
            self.wanted = command.prev_value or values.get(command.prev_index, b"?")

    def __call__(self, state: State) -> tuple[bool, State]:
        """Whether it may happen in this state with the answer it got, and the state after it."""
        code, after = self._effect(state)
        if not self._known:
            return True, after if code == 0 else state
        outcome = self._outcome
        if isinstance(outcome, Fault):
            return outcome.code == code, state
        assert isinstance(outcome, Event)
        if code:
            return False, state
        if isinstance(self._command, QuorumGet):
            return outcome.node.value == state, state
        prev = outcome.prev.value if outcome.prev is not None else None
        return prev == state, after

    def _effect(self, state: State) -> tuple[int, State]:
        command = self._command
        if isinstance(command, Set):
            return 0, self.written
        if isinstance(command, Create):
            return (105, state) if state is not None else (0, self.written)
        if state is None:
            return 100, state
        if isinstance(command, QuorumGet):
            return 0, state
        if isinstance(command, Update):
            return 0, self.written
        if isinstance(command, Delete):
            return 0, None
        if state != self.wanted:
            return 101, state
        return (0, self.written) if isinstance(command, CompareAndSwap) else (0, None)
