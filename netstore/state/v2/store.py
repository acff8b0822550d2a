"""The v2 store: the tree, its event window and its counters, with a method for each command of the v2 API.

The counters are etcd's, with its oddities (v2 API, statistics): some refusals count as successes.
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from netstore.errors import Fault
from netstore.parted import batches
from netstore.state import tables
from netstore.state.applying import COMMAND_UNITS, NODE_UNITS, UNIT_BYTES
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    ExpireNodes,
    InOrder,
    QuorumGet,
    Set,
    TtlCheckpoint,
    Update,
)
from netstore.state.v2.history import History
from netstore.state.v2.loading import Stored
from netstore.state.v2.records import load_events, load_nodes, pack_event, pack_node, window_key
from netstore.state.v2.statistics import REPLICATED, Statistics
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER, Life
from netstore.state.v2.walk import Walk
from netstore.types import EtcdIndex, Event, Nanos, NodeView

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from netstore.limits import Budget
    from netstore.seams import Engine
    from netstore.state.applying import Applying
    from netstore.state.checksum import RunningChecksum

Outcome: TypeAlias = Event | Walk | Fault | None
"""The change, the answer or the refusal; None if there is none."""

Work: TypeAlias = "Generator[int, None, Outcome]"
"""A command that is carried out in pieces; after each it yields the units of work done."""

CLEAR_UNITS: Final = 4
"""Units for each node that is removed with a directory, saving included."""


class V2Store:
    """The tree, the event window and the counters, with a method for each command (`handlers`)."""

    def __init__(
        self, engine: Engine, checksum: RunningChecksum, applying: Applying, walks: Budget | None = None
    ) -> None:
        """`walks` is the memory budget of stepwise listings."""
        self._engine = engine
        self._checksum = checksum
        self._applying = applying
        self.tree = Tree(walks)
        self.history = History()
        self.statistics = Statistics()
        self.watched: Callable[[bytes], bool] = _perhaps
        """Whether there may be a live watcher of a path, which must be told when the node is removed with a
        directory (`Event.removed`). Differs between members: only delivery depends on it.
        """
        self.awaited: Callable[[], bool] = _always
        """Whether a request of this member waits for the outcome of what is being applied: otherwise a
        QuorumGet reads nothing. Differs between members, which is safe because reads change nothing.
        """
        self.loaded = 0
        """Nodes read since `load_steps` began."""
        self._events: list[Event] = []
        self._window: dict[int, bytes] = {}
        """The records of the events since the last save, by their slots."""

    def handlers(self) -> dict[type, Callable[..., Outcome | Work]]:
        """The method for each command."""
        return {
            Set: self.set,
            Create: self.create,
            Update: self.update,
            CompareAndSwap: self.compare_and_swap,
            InOrder: self.create_in_order,
            Delete: self.delete,
            CompareAndDelete: self.compare_and_delete,
            QuorumGet: self.quorum_get,
            ExpireNodes: self.expire,
            TtlCheckpoint: self.checkpoint_ttl,
        }

    # --- loading and saving

    def load_steps(self, *, whole: bool) -> Generator[None, None, Stored]:
        """Read the stored nodes in bounded steps, for `restore`, which changes the state."""
        stored = Stored()
        for nodes in load_nodes(self._engine, whole=whole):
            stored.add(nodes)
            self.loaded += len(nodes)
            yield
        if stored.stray is not None:
            raise tables.corrupt(f"table {tables.NODES}, key {stored.stray!r} lies in no directory")
        return stored

    def restore_counts(self, counts: tuple[int, ...]) -> None:
        """Set the replicated counters as stored, and the others to 0."""
        if len(counts) != len(REPLICATED):
            raise tables.corrupt(
                f"table {tables.STATE}: {len(counts)} counters, and there are {len(REPLICATED)}"
            )
        self.statistics.restore(counts)

    def restore(self, index: EtcdIndex, stored: Stored) -> Iterator[None]:
        """Replace window and tree by what is stored. Returns the steps that free the old tree."""
        self.history.restore(load_events(self._engine))
        if self.history.last != index:
            raise tables.corrupt(
                f"table {tables.WINDOW} ends at {self.history.last}, the state is at {index}"
            )
        before = self.tree.restore(index, stored)
        self._events = []
        self._window = {}
        return before

    def save(self, changes: dict[tuple[str, bytes], bytes | None], *, nodes_only: bool = False) -> None:
        """Add the records of the nodes that changed since the last call and, unless `nodes_only` (a command
        is half done), of the window.
        """
        for path, node in self.tree.take_changes().items():
            if node is None:
                changes[tables.NODES, path] = None
            else:
                timed = self.tree.timed.get(path) if node.expires else None
                changes[tables.NODES, path] = pack_node(node, timed)
        if not nodes_only:
            window, self._window = self._window, {}
            for slot, packed in window.items():
                changes[tables.WINDOW, window_key(slot)] = packed

    def take_events(self) -> list[Event]:
        """The events since the last call for live watchers, in order."""
        events, self._events = self._events, []
        return events

    # --- commands

    def set(self, command: Set) -> Outcome:
        """Carry out a Set."""
        life = _life(command) if command.expires else FOR_EVER
        outcome = self.tree.set(command.path, command.value, command.dir, life, command.refresh)
        if type(outcome) is Event:
            self.statistics.sets_success += 1
            self._record(outcome)
        else:
            self.statistics.sets_fail += 1
        return outcome

    def create(self, command: Create) -> Outcome:
        """Carry out a Create."""
        return self._created(self.tree.create(command.path, command.value, command.dir, _life(command)))

    def create_in_order(self, command: InOrder) -> Outcome:
        """Carry out an InOrder."""
        return self._created(
            self.tree.create_in_order(command.path, command.value, command.dir, _life(command))
        )

    def _created(self, outcome: Event | Fault) -> Outcome:
        if isinstance(outcome, Event):
            self.statistics.create_success += 1
            self._record(outcome)
        else:
            self.statistics.create_fail += 1
            if outcome.code == 104:
                self.statistics.sets_fail += 1
        return outcome

    def update(self, command: Update) -> Outcome:
        """Carry out an Update."""
        outcome = self.tree.update(command.path, command.value, _life(command), command.refresh)
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code in (102, 107):
            self.statistics.update_success += 1
        else:
            self.statistics.update_fail += 1
        return outcome

    def compare_and_swap(self, command: CompareAndSwap) -> Outcome:
        """Carry out a CompareAndSwap."""
        outcome = self.tree.compare_and_swap(
            command.path,
            command.prev_value,
            command.prev_index,
            command.value,
            _life(command),
            command.refresh,
        )
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code == 107:
            self.statistics.compare_and_swap_success += 1
        else:
            self.statistics.compare_and_swap_fail += 1
        return outcome

    def delete(self, command: Delete) -> Outcome | Work:
        """Carry out a Delete, in pieces if it removes a directory that is not empty."""
        outcome = self.tree.delete(command.path, command.dir, command.recursive)
        work: Work | None = None
        if isinstance(outcome, Event):
            work = self._record_removal(outcome)
        if isinstance(outcome, Event) or outcome.code == 107:
            self.statistics.delete_success += 1
        else:
            self.statistics.delete_fail += 1
        return work or outcome

    def compare_and_delete(self, command: CompareAndDelete) -> Outcome:
        """Carry out a CompareAndDelete."""
        outcome = self.tree.compare_and_delete(command.path, command.prev_value, command.prev_index)
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code in (101, 102):
            self.statistics.compare_and_delete_success += 1
        else:
            self.statistics.compare_and_delete_fail += 1
        return outcome

    def quorum_get(self, command: QuorumGet) -> Outcome:
        """Carry out a QuorumGet: read, if a request of this member waits for the answer."""
        if not self.awaited():
            self._count_get(self.tree.fault(command.path))
            return None
        tree = self.tree
        nodes, size = tree.listed, tree.listed_bytes
        outcome = self.look(command.path, command.recursive)
        self._applying.worked += NODE_UNITS * (tree.listed - nodes) + (tree.listed_bytes - size) // UNIT_BYTES
        return outcome

    def look(self, path: bytes, recursive: bool = False) -> Event | Walk | Fault:
        """Read the tree in bounded time (`Tree.look`), and count it."""
        outcome = self.tree.look(path, recursive)
        if type(outcome) is Fault:
            self._count_get(outcome)
        else:
            self.statistics.gets_success += 1
        return outcome

    def _count_get(self, fault: Fault | None) -> None:
        if fault is None or fault.code == 300:  # a limit of this member, not an answer of the store
            self.statistics.gets_success += 1
        else:
            self.statistics.gets_fail += 1

    def get(self, path: bytes, recursive: bool = False) -> Event | Fault:
        """Read the tree in one call (`Tree.get`), and count it."""
        outcome = self.tree.get(path, recursive)
        if type(outcome) is Event:
            self.statistics.gets_success += 1
        else:
            self.statistics.gets_fail += 1
        return outcome

    def expire(self, command: ExpireNodes) -> Work:
        """Carry out an ExpireNodes in pieces."""
        for path, since in command.nodes:
            event = self.tree.expire(path, since)
            if event is not None:
                self.statistics.expire_count += 1
                work = self._record_removal(event)
                if work is not None:
                    yield from work
            yield COMMAND_UNITS
        return None

    def checkpoint_ttl(self, command: TtlCheckpoint) -> Outcome:
        """Carry out a TtlCheckpoint."""
        self._applying.worked += NODE_UNITS * len(command.nodes)
        for path, since, seconds in command.nodes:
            self.tree.checkpoint_ttl(path, since, seconds)
        return None

    def _record(self, event: Event) -> None:
        # `_remember`, without a call
        self._window[self.history.add(event)] = packed = pack_event(event)
        self._checksum.add(packed)
        if len(packed) >= UNIT_BYTES:
            self._applying.worked += len(packed) // UNIT_BYTES
        if event.prev is None:
            self._applying.worked += NODE_UNITS * event.node.key.count(b"/")
        if not event.refresh:
            self._events.append(event)

    def _record_removal(self, event: Event) -> Work | None:
        """Record a removal; the work that is left if it was a directory that was not empty."""
        if not self.tree.clearing:
            self._record(event)
            return None
        self._remember(event)
        return self._clear(event)

    def _clear(self, event: Event) -> Work:
        tree = self.tree
        runs: list[list[bytes]] = []
        while tree.clearing:
            gone = tree.clear()
            if run := sorted(filter(self.watched, gone)):
                runs.append(run)
            yield (CLEAR_UNITS + tree.walkers) * len(gone)
        told: list[bytes] = []
        for some in batches(merge(*runs), tree.clear_step):
            told += some
            yield CLEAR_UNITS * len(some)
        self._events.append(msgspec.structs.replace(event, removed=tuple(told)))
        return event

    def record_internal(self, action: str, path: bytes) -> None:
        """Record a change of the cluster's own data: it takes an index and a slot of the window, and is shown
        to nobody.
        """
        index = self.tree.skip()
        self._remember(Event(action, index, NodeView(path, index, index), internal=True))

    def _remember(self, event: Event) -> None:
        self._window[self.history.add(event)] = packed = pack_event(event)
        self._applying.worked += len(packed) // UNIT_BYTES
        self._checksum.add(packed)


def _perhaps(_: bytes) -> bool:
    return True


def _always() -> bool:
    return True


def _life(command: Set | Create | Update | CompareAndSwap | InOrder) -> Life:
    return Life(Nanos(command.expires), command.ttl) if command.expires else FOR_EVER
