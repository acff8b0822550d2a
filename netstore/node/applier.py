"""Committed entries on their way into the state: applied in order, a bounded amount of work in each turn.

Each outcome completes the proposal that waits for it here. The changes of a turn are published to watchers
together.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from netstore.errors import CannotApply, MustStop, NetstoreError
from netstore.histogram import Histogram, doubling
from netstore.node.logsize import log_size
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind, data_of
from netstore.state.display import describe, payload_hash
from netstore.state.envelope import REQUEST, command_of, is_bare, request_of
from netstore.state.machine import UNFINISHED
from netstore.types import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.meter import Parts
    from netstore.node.proposals import Proposals
    from netstore.node.slowness import Slowness
    from netstore.raft.core import Raft
    from netstore.raft.entry import Entry
    from netstore.state.machine import Machine
    from netstore.types import Index
    from netstore.watch.hub import Hub
    from netstore.watch.watches import Watches

TURN_UNITS: Final = 5_000
"""About how many microseconds of work one turn applies entries for: the limit for one piece of work on the
loop.
"""

APPLY_BOUNDS: Final = doubling(0.0001, 20)
"""Upper bounds of the seconds that entries are applied for in a turn; etcd has the same for one entry."""

CHECK_ENTRIES: Final = 1_024
"""Members compare their states at every entry whose index is a multiple of this, in a message of 45 bytes."""


class Observer(Protocol):
    """Looks at the state at certain places of the log (`node.consistency`)."""

    def reached(self) -> None:
        """An entry without a command, or every `CHECK_ENTRIES`th, was just applied, and nothing after it."""


class Applier:
    """Applies committed entries to the state of one member."""

    def __init__(
        self,
        machine: Machine,
        raft: Raft,
        proposals: Proposals,
        *,
        hub: Hub,
        watches: Watches,
        parts: Parts,
        slowness: Slowness,
        wake: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._raft = raft
        self._proposals = proposals
        self._hub = hub
        self._watches = watches
        self._parts = parts
        self._slowness = slowness
        self._wake = wake
        machine.v2.awaited = self._is_awaited
        self.observer: Observer | None = None
        self.waiting: deque[Entry] = deque()
        """Committed entries that are not applied. Until then they stay in the log in memory."""
        self.waiting_bytes = 0
        """What they weigh in the log."""
        self.applying = Histogram(APPLY_BOUNDS)
        """Seconds of applying in each turn that applied something."""
        self.work_limit = 0
        """Value of `machine.applying.worked` at which this turn has applied enough."""
        self._is_unfinished = False
        """The first of them is applied in part (`machine.UNFINISHED`)."""
        self._payload = b""
        """The payload of that one: request id and command."""
        self._last_term = Term(0)
        """Term of the entry applied last."""

    def apply(self, committed: Sequence[Entry] = ()) -> bool:
        """Take these entries, and apply waiting ones until the turn has worked enough; the rest waits for the
        next turn. True when an entry was applied completely.

        A command that took several turns ends the turn in which it is finished, however little that was: the
        state is saved, swept and hashed between two such commands, even where nothing else is in the log.
        """
        machine, waiting = self._machine, self.waiting
        if committed:
            self._slowness.committed(committed[-1].index, self._parts.at)
            waiting.extend(committed)
            self.waiting_bytes += log_size(list(map(data_of, committed)))
        if not waiting:
            return False
        before = machine.applied
        if not self._raft.apply_paused:
            if not self._is_unfinished:
                self._apply_whole()
            if self._is_unfinished:
                self._go_on()
        has_applied = machine.applied != before
        if has_applied:
            self._raft.applied_to(machine.applied)
        self.applying.observe(self._parts.ran("apply"))
        events, changes = machine.v2.take_events(), machine.take_changes()
        if events:
            self._hub.publish(*events)
        if changes:
            self._watches.publish(changes)
        if events or changes:
            self._parts.ran("watches")
        return has_applied

    def _apply_whole(self) -> None:
        """Apply waiting entries until the turn has worked enough, or a command has more than one piece."""
        begin, complete, number = self._machine.begin, self._proposals.complete, int.from_bytes
        applying, limit, observer = self._machine.applying, self.work_limit, self.observer
        count = 0
        for entry in self.waiting:
            if applying.worked >= limit:
                break
            payload = self._payload = entry.data
            if entry.term != self._last_term or entry.kind is EntryKind.CHANGE:
                payload = self._prepare(entry)
            index = entry.index
            try:
                outcome = begin(index, payload)
            except Exception as error:
                self._explain(entry, error)
                raise
            if outcome is UNFINISHED:
                self._is_unfinished = True
                break
            count += 1
            if observer is not None and (
                index % CHECK_ENTRIES == 0 or (outcome is None and is_bare(payload))
            ):
                observer.reached()
            if payload:
                complete(number(payload[REQUEST], "little"), outcome)  # as `request_of`
        self._drop(count)

    def _go_on(self) -> None:
        """Continue the unfinished command. It ends the turn when it is finished."""
        machine, entry = self._machine, self.waiting[0]
        while self._is_unfinished and machine.applying.worked < self.work_limit:
            try:
                outcome = machine.go_on()
            except Exception as error:
                self._explain(entry, error)
                raise
            if outcome is not UNFINISHED:
                self._is_unfinished = False
                self.work_limit = 0
                if self.observer is not None and entry.index % CHECK_ENTRIES == 0:
                    self.observer.reached()
                self._proposals.complete(request_of(self._payload), outcome)
                self._drop(1)

    def _drop(self, count: int) -> None:
        """So many of the waiting entries were applied."""
        waiting = self.waiting
        if count == len(waiting):
            waiting.clear()
            self.waiting_bytes = 0
        else:
            applied = [waiting.popleft().data for _ in range(count)]
            self.waiting_bytes -= log_size(applied)

    def _explain(self, entry: Entry, error: Exception) -> None:
        """Note in an error of applying which entry it was; CannotApply in place of an error that is not
        expected.
        """
        if isinstance(error, CannotApply):
            error.entry = entry.index, payload_hash(self._payload)
        elif not isinstance(error, MustStop | NetstoreError | MemoryError):
            raise _cannot_apply(entry, self._payload, error) from error

    def clear(self) -> None:
        """Forget what waits: a snapshot that takes the place of the state contains it."""
        self.waiting.clear()
        self.waiting_bytes = 0
        self._is_unfinished = False

    def has_command_at(self, index: Index) -> bool:
        """Whether the entry at `index` was applied, is still in the log, and is none after which states are
        compared.
        """
        log = self._raft.log
        if index % CHECK_ENTRIES == 0 or not log.compacted < index <= log.applied:
            return False
        (entry,) = log.between(index, index)
        payload = Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data
        return not is_bare(payload)

    def _is_awaited(self) -> bool:
        """Whether a request of this member waits for the entry that is being applied."""
        return self._proposals.awaits(request_of(self._payload))

    def _prepare(self, entry: Entry) -> bytes:
        """Before an entry is applied that is of a new term or changes the members: returns its payload."""
        if entry.term != self._last_term:
            self._last_term = entry.term
            self._proposals.requeue_lost(entry.term)
            self._wake()
        if entry.kind is EntryKind.CHANGE:
            self._raft.apply_change(entry)
            self._payload = Change.decode(entry.data).context
        return self._payload


def _cannot_apply(entry: Entry, payload: bytes, error: Exception) -> CannotApply:
    what = describe(command_of(payload)) if payload else "which has no command"
    fault = CannotApply(
        f"entry {entry.index} of the log, {what}, cannot be applied: {type(error).__name__}: {error}; this is"
        f" a fault of netstored. netstored --inspect-log {entry.index}:{entry.index} shows the entry,"
        f" --skip-entry {entry.index} passes over it"
    )
    fault.entry = entry.index, payload_hash(payload)
    return fault
