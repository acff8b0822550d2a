"""The main judge: the store's own index is the candidate order, and everything is held against it.

`judge` takes what clients were told and every change that happened, in order (from the committed log, or
from a watch of everything). It checks that

 a. each answer is the model's answer at its place in the order;
 b. an operation that ended before another began does not come after it;
 c. a read sits at or after the largest index anybody had been told when it began (plain local reads excepted:
    they may be stale, never torn);
 d. every change was asked for by exactly one operation, that was not refused and had begun; one without an
    answer happened at most once.

Time is linear in operations and changes. etcd's robustness tests judge the same way, by a replay of the log.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from netstore.errors import Fault
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    InOrder,
    QuorumGet,
    Set,
    Update,
)
from netstore.types import Event
from tests.check.history import Door, Fate, Operation, Wrong
from tests.check.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.state.commands import Command

_ACTIONS: dict[type, str] = {
    Set: "set",
    Create: "create",
    InOrder: "create",
    Update: "update",
    CompareAndSwap: "compareAndSwap",
    Delete: "delete",
    CompareAndDelete: "compareAndDelete",
}


def judge(operations: Sequence[Operation], events: Sequence[Event]) -> None:
    """Wrong when the history is not one that the changes explain."""
    floors = _floors(operations)
    answered = [each for each in operations if each.fate is Fate.ANSWERED]
    authors: dict[int, Operation] = {}
    looks: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in answered:
        index = _index(operation)
        if not 0 <= index <= len(events):
            raise Wrong(f"answered from index {index}, but only {len(events)} changes happened: {operation}")
        changed = isinstance(operation.outcome, Event) and not isinstance(operation.command, QuorumGet)
        if operation.door is not Door.LOCAL and index < floors[operation.serial] + changed:
            floor = floors[operation.serial]
            raise Wrong(f"answered from index {index}, though {floor} had been told before: {operation}")
        if not changed:
            looks[index].append(operation)
        elif index in authors:
            raise Wrong(f"one change, two authors: {authors[index]} and {operation}")
        else:
            authors[index] = operation
    strays = _Strays((each for each in operations if each.fate in (Fate.UNKNOWN, Fate.OPEN)), floors)
    model = Model()
    _look(model, looks[0])
    for event in events:
        author = authors.get(event.index)
        if author is None and not event.internal and event.action != "expire":
            author = strays.claim(event)
            if author is None:
                raise Wrong(f"nobody asked for this change: {event}")
        elif author is not None and _told(author.outcome) != _told(event):
            raise Wrong(f"told of another change than {event}: {author}")
        if author is not None:
            _check_author(model, author.command, event)
        model.fold(event)
        _look(model, looks.get(event.index, ()))


def _told(outcome: object) -> Event:
    """A change as whoever made it is told of it: what else went is for those who watched there."""
    assert isinstance(outcome, Event)
    return msgspec.structs.replace(outcome, removed=())


def _floors(operations: Iterable[Operation]) -> dict[int, int]:
    """For each operation the largest index that anybody had been told when it began."""
    points: list[tuple[int, Operation | None, int]] = []
    for operation in operations:
        points.append((operation.called, operation, 0))
        if operation.fate is Fate.ANSWERED:
            points.append((operation.returned, None, _index(operation)))
    points.sort(key=lambda point: point[0])
    floors: dict[int, int] = {}
    floor = 0
    for _, begun, index in points:
        if begun is not None:
            floors[begun.serial] = floor
        else:
            floor = max(floor, index)
    return floors


def _index(operation: Operation) -> int:
    outcome = operation.outcome
    assert isinstance(outcome, Event | Fault)
    return outcome.index


def _look(model: Model, operations: Iterable[Operation]) -> None:
    """Reads and refusals at this index."""
    for operation in operations:
        outcome, command = operation.outcome, operation.command
        wanted = model.refusal(command)
        if isinstance(outcome, Fault):
            if wanted != outcome.code:
                raise Wrong(f"refused with {outcome.code}, not {wanted}: {operation}")
            continue
        assert isinstance(outcome, Event)
        assert isinstance(command, QuorumGet)
        node = model.view(command.path, command.recursive)
        if wanted or node != outcome.node:
            raise Wrong(f"read something else than {wanted or node}: {operation}")


def _check_author(model: Model, command: Command, event: Event) -> None:
    wanted = model.refusal(command)
    if wanted or not _fits(command, event):
        raise Wrong(f"{command} cannot have led to {event}: {wanted or 'it asked for something else'}")


def _fits(command: Command, event: Event) -> bool:
    if _ACTIONS.get(type(command)) != event.action:
        return False
    node = event.node
    if isinstance(command, InOrder):
        return node.key == b"%b/%020d" % (command.path, event.index) and node.value == command.value
    if isinstance(command, Delete | CompareAndDelete):
        return node.key == command.path and node.value is None
    assert isinstance(command, Set | Create | Update | CompareAndSwap)
    value = command.value
    if getattr(command, "refresh", False):
        value = event.prev.value or b"" if event.prev is not None else b""
    return node.key == command.path and node.value == value and node.expires == command.expires


class _Strays:
    """Operations nobody knows the outcome of, found again by what they would have changed."""

    def __init__(self, operations: Iterable[Operation], floors: dict[int, int]) -> None:
        self._floors = floors
        self._by_effect: defaultdict[tuple[object, ...], list[Operation]] = defaultdict(list)
        for operation in operations:
            command = operation.command
            if isinstance(command, QuorumGet) or operation.door is not Door.LOG:
                continue
            assert isinstance(
                command, Set | Create | InOrder | Update | CompareAndSwap | Delete | CompareAndDelete
            )
            effect = command.prev_value if isinstance(command, CompareAndDelete) else _value(command)
            self._by_effect[_ACTIONS[type(command)], command.path, effect].append(operation)

    def claim(self, event: Event) -> Operation | None:
        """Who asked for this change, once: an operation that began when nobody had been told of it yet."""
        path = event.node.key
        value = event.node.value or b""
        if event.action == "compareAndDelete" and event.prev is not None:
            value = event.prev.value or b""  # values are unique: it names whoever wanted to see it
        places: list[tuple[object, ...]] = [(event.action, path, b"" if event.refresh else value)]
        if event.action == "create":
            places.append((event.action, path[: path.rfind(b"/")] or b"/", value))
        for place in places:
            candidates = self._by_effect.get(place, [])
            for operation in candidates:
                if self._floors[operation.serial] < event.index and _fits(operation.command, event):
                    candidates.remove(operation)
                    return operation
        return None


def _value(command: Command) -> bytes:
    return getattr(command, "value", b"")
