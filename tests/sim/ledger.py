"""The log as it was committed, whoever committed it first: what everything else is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.engine import MemoryEngine
from netstore.node.proposals import REQUEST_ID_SIZE
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.machine import Machine
from netstore.state.mirror import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.raft.entry import Entry
    from netstore.types import Event, KeyChange, Term


class Ledger:
    """Entries from index 1 on. `events` and `pair_changes` are filled by `replay`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.committed_in: list[Term] = []
        """The term in which each was first seen to be committed; not the term it was made in."""
        self.events: list[Event] = []
        """Every change of the tree, internal ones included, in the order of its index."""
        self.pair_changes: list[KeyChange] = []
        """Every change of a v3 key, in the order of its revision."""

    def __len__(self) -> int:
        return len(self.entries)

    def commit(self, entry: Entry, term: Term) -> Entry:
        """The first entry that was committed at this place: this one, if none was."""
        place = entry.index - 1
        if place < len(self.entries):
            return self.entries[place]
        if place > len(self.entries):
            raise AssertionError(f"entry {entry.index} committed, but only {len(self.entries)} before it")
        self.entries.append(entry)
        self.committed_in.append(term)
        return entry

    def committed_before(self, term: Term, start: int) -> Iterator[Entry]:
        """Everything from index `start` on that was committed before a term."""
        for place in range(start - 1, len(self.entries)):
            if self.committed_in[place] < term:
                yield self.entries[place]

    def replay(self) -> Machine:
        """A fresh state machine that applied everything, one entry at a time."""
        machine = Machine(MemoryEngine(_nowhere, TABLES))
        self.events, self.pair_changes = [], []
        last = machine.history.last
        for entry in self.entries:
            data = entry.data
            if entry.kind is EntryKind.CHANGE:
                data = Change.decode(data).context
            machine.apply(entry.index, data[REQUEST_ID_SIZE:])
            self.pair_changes += machine.take_changes()
            machine.save()
            if machine.history.last > last:
                shown = {event.index: event for event in machine.take_events()}
                self.events.extend(shown.get(event.index, event) for event in machine.history.since(last + 1))
                last = machine.history.last
        return machine


def _nowhere(call: Callable[[], object]) -> None:
    call()
