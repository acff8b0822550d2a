"""The log as it was committed, whoever committed it first: what everything else is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import Fault
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.envelope import command_of
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3.commands import (
    Compact,
    LeaseCheckpoint,
    LeaseExpire,
    LeaseGrant,
    LeaseRenew,
    LeaseRevoke,
)
from tests.check.v3leases import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.raft.entry import Entry
    from netstore.types import Event, KeyChange, Term


JUDGED: Final = frozenset(
    kind.__struct_config__.tag
    for kind in (Compact, LeaseGrant, LeaseRevoke, LeaseRenew, LeaseExpire, LeaseCheckpoint)
)
"""Numbers of commands that are kept though they may change no key: the second byte of their encoding."""


class Ledger:
    """Entries from index 1 on. `events` and `pair_changes` are filled by `replay`."""

    def __init__(self, release: type[Machine] = Machine) -> None:
        """`release` is the latest that any member runs."""
        self._release = release
        self.entries: list[Entry] = []
        self.committed_in: list[Term] = []
        """The term in which each was first seen to be committed; not the term it was made in."""
        self.committed_at: list[float] = []
        """When each was first seen to be committed, in seconds of the run."""
        self.events: list[Event] = []
        """Every change of the tree, internal ones included, in the order of its index."""
        self.pair_changes: list[KeyChange] = []
        """Every change of a v3 key, in the order of its revision."""
        self.steps: list[Step] = []
        """What the judges of watches and leases need of the log: `JUDGED`, and every change of a key."""

    def __len__(self) -> int:
        return len(self.entries)

    def commit(self, entry: Entry, term: Term, now: float) -> Entry:
        """The first entry that was committed at this place: this one, if none was."""
        place = entry.index - 1
        if place < len(self.entries):
            return self.entries[place]
        if place > len(self.entries):
            raise AssertionError(f"entry {entry.index} committed, but only {len(self.entries)} before it")
        self.entries.append(entry)
        self.committed_in.append(term)
        self.committed_at.append(now)
        return entry

    def committed_before(self, term: Term, start: int) -> Iterator[Entry]:
        """Everything from index `start` on that was committed before a term."""
        for place in range(start - 1, len(self.entries)):
            if self.committed_in[place] < term:
                yield self.entries[place]

    def replay(self) -> Machine:
        """A fresh state machine that applied everything, one entry at a time."""
        machine = self._release(MemoryEngine(_nowhere, TABLES))
        self.events, self.pair_changes, self.steps = [], [], []
        last = machine.history.last
        for entry in self.entries:
            data = entry.data
            if entry.kind is EntryKind.CHANGE:
                data = Change.decode(data).context
            command = command_of(data) if data else b""
            outcome = machine.enter(entry.index, data)
            changes = machine.take_changes()
            self.pair_changes += changes
            if changes or (len(command) > 1 and command[1] in JUDGED):
                at = self.committed_at[entry.index - 1]
                done = not isinstance(outcome, Fault)
                self.steps.append(Step(entry.index, at, machine.decode(command), tuple(changes), done))
            machine.save()
            if machine.history.last > last:
                shown = {event.index: event for event in machine.v2.take_events()}
                self.events.extend(shown.get(event.index, event) for event in machine.history.since(last + 1))
                last = machine.history.last
        return machine


def _nowhere(call: Callable[[], object]) -> None:
    call()
