"""The simplest correct store there is, with clients around it: where judges get histories they must accept.

Commands take effect at one instant between their call and their answer, on a plain dictionary. Some clients
give up, and what they asked for happens later or never. Files below one directory only.
"""

from __future__ import annotations

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
from netstore.types import EtcdIndex, Event, NodeView
from tests.check.history import Door, Fate, Operation

if TYPE_CHECKING:
    from random import Random

    from netstore.state.commands import Command

BELOW: Final = b"/r"
Files = dict[bytes, NodeView]


class Store:
    """Files by path, every state they ever had, and every change."""

    def __init__(self) -> None:
        self.states: list[Files] = [{}]
        self.events: list[Event] = []

    @property
    def index(self) -> EtcdIndex:
        """How many changes there were."""
        return EtcdIndex(len(self.events))

    def do(self, command: Command) -> Event | Fault:
        """Carry out a command, at once and alone."""
        assert isinstance(
            command, Set | Create | Update | CompareAndSwap | Delete | CompareAndDelete | QuorumGet
        )
        if isinstance(command, QuorumGet):
            return self.look(command.path, self.index)
        old = self.states[-1].get(command.path)
        if isinstance(command, Create):
            if old is not None:
                return Fault(105, b"", self.index)
        elif not isinstance(command, Set):
            if old is None:
                return Fault(100, b"", self.index)
            if isinstance(command, CompareAndSwap | CompareAndDelete) and not _as_wanted(command, old):
                return Fault(101, b"", self.index)
        return self._change(command, old)

    def look(self, path: bytes, index: int) -> Event | Fault:
        """What a file was after so many changes."""
        node = self.states[index].get(path)
        return Fault(100, b"", EtcdIndex(index)) if node is None else Event("get", EtcdIndex(index), node)

    def _change(
        self,
        command: Set | Create | Update | CompareAndSwap | Delete | CompareAndDelete,
        old: NodeView | None,
    ) -> Event:
        index = EtcdIndex(self.index + 1)
        files = dict(self.states[-1])
        if isinstance(command, Delete | CompareAndDelete):
            assert old is not None
            node = NodeView(command.path, old.created, index)
            del files[command.path]
        else:
            kept = old is not None and isinstance(command, Update | CompareAndSwap)
            created = old.created if kept and old is not None else index
            node = files[command.path] = NodeView(command.path, created, index, command.value)
        event = Event(_ACTIONS[type(command)], index, node, old)
        self.states.append(files)
        self.events.append(event)
        return event


class Clients:
    """So many calls by some clients on few keys. `operations` is what they were told."""

    def __init__(self, random: Random, *, calls: int = 60, unknown: float = 0.03) -> None:
        self.random = random
        self.store = Store()
        self.operations: list[Operation] = []
        self._unknown = unknown
        self._now = 0
        self._keys = [b"%b/%d" % (BELOW, number) for number in range(random.randrange(1, 4))]
        self._seen: dict[bytes, bytes] = {}
        self._orphans: list[Operation] = []
        clients = random.randrange(2, 6)
        waiting: dict[int, tuple[Operation, Event | Fault | None]] = {}
        while len(self.operations) < calls or waiting:
            if self._orphans and random.random() < 0.1:
                self.store.do(self._orphans.pop(random.randrange(len(self._orphans))).command)
            client = random.randrange(clients)
            if client not in waiting:
                if len(self.operations) < calls:
                    waiting[client] = (self._call(client), None)
                continue
            operation, outcome = waiting[client]
            if outcome is None:
                self._take_effect(waiting, client, operation)
            else:
                del waiting[client]
                self._answer(operation, outcome)

    def _tick(self) -> int:
        self._now += 1
        return self._now

    def _call(self, client: int) -> Operation:
        random = self.random
        number = len(self.operations)
        value = b"%d" % number
        path = random.choice(self._keys)
        seen = self._seen.get(path, b"none")
        door = random.choice((Door.LOG, Door.LOG, Door.LINEAR, Door.LOCAL))
        command: Command = QuorumGet(path)
        if door is Door.LOG:
            command = random.choice(
                (
                    Set(path, value),
                    Set(path, value),
                    Create(path, value),
                    Update(path, value),
                    CompareAndSwap(path, value, prev_value=seen),
                    Delete(path),
                    CompareAndDelete(path, prev_value=seen),
                    QuorumGet(path),
                )
            )
        operation = Operation(number, client, 1, door, command, self._tick())
        self.operations.append(operation)
        return operation

    def _take_effect(
        self,
        waiting: dict[int, tuple[Operation, Event | Fault | None]],
        client: int,
        operation: Operation,
    ) -> None:
        random, store = self.random, self.store
        if random.random() < self._unknown:
            del waiting[client]
            operation.abandon()
            if operation.door is Door.LOG and random.random() < 0.7:
                self._orphans.append(operation)
            return
        if random.random() < 0.02:
            waiting[client] = (operation, Fault(300, b"refused"))
            return
        if operation.door is Door.LOCAL:
            assert isinstance(operation.command, QuorumGet)
            outcome = store.look(operation.command.path, random.randrange(store.index + 1))
        else:
            outcome = store.do(operation.command)
        waiting[client] = (operation, outcome)

    def _answer(self, operation: Operation, outcome: Event | Fault) -> None:
        if self.random.random() < self._unknown:
            operation.abandon()
            return
        operation.end(self._tick(), outcome)
        if isinstance(outcome, Event) and outcome.node.value is not None:
            self._seen[outcome.node.key] = outcome.node.value

    def answered(self) -> list[Operation]:
        """Operations with an answer."""
        return [each for each in self.operations if each.fate is Fate.ANSWERED]


def _as_wanted(command: CompareAndSwap | CompareAndDelete, old: NodeView) -> bool:
    return command.prev_value == old.value


_ACTIONS: Final[dict[type, str]] = {
    Set: "set",
    Create: "create",
    Update: "update",
    CompareAndSwap: "compareAndSwap",
    Delete: "delete",
    CompareAndDelete: "compareAndDelete",
}
