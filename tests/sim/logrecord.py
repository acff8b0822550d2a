"""What a member's disk has promised, kept beside the real log, and compared with it after every crash."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.disk.wal import Wal
from netstore.seams import SyncFailed
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.disk.wal import Replay
    from netstore.raft.entry import Entry, HardState, SnapshotMeta

    Done = Callable[[OSError | None], None]


NOT_HELD: Final = -1
"""Stands for the term of an entry that is forgotten."""


@dataclass(slots=True, frozen=True, eq=False)
class Batch:
    """One record handed to the log."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    mark: SnapshotMeta | None = None
    before: int = 0
    """The term of the entry before them, NOT_HELD if it is forgotten."""


class LogRecord:
    """The log as reported safe, and the batches nobody was told about yet. The naive twin of `disk.wal`."""

    def __init__(self) -> None:
        self.hard_state: HardState | None = None
        self.mark: SnapshotMeta | None = None
        self.entries: list[Entry] = []
        """Everything after the mark."""
        self._pending: deque[Batch] = deque()

    def issued(self, batch: Batch) -> None:
        """Handed to the disk."""
        self._pending.append(batch)

    def settled(self, batch: Batch, error: OSError | None) -> None:
        """Reported by the disk: safe, or failed. After a failed sync anything of it may still be there."""
        if isinstance(error, SyncFailed):
            return
        if self._pending.popleft() is not batch:
            raise AssertionError("the log reported its batches out of order")
        if error is None:
            self._take(batch)

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry there, 0 for a forgotten one, None when the disk does not promise one."""
        start = self.mark.index if self.mark else 0
        if index <= start:
            return self.mark.term if self.mark and index == start else Term(0)
        place = index - start - 1
        return self.entries[place].term if place < len(self.entries) else None

    def term_before(self, entries: Sequence[Entry]) -> int:
        """The term of the entry before these, as the log will be once all that was issued is written."""
        index = entries[0].index - 1
        for batch in reversed(self._pending):
            if batch.mark is not None and batch.mark.index >= index:
                return batch.mark.term if batch.mark.index == index else NOT_HELD
            if batch.entries and batch.entries[0].index <= index:
                place = index - batch.entries[0].index
                return batch.entries[place].term if place < len(batch.entries) else NOT_HELD
        start = self.mark.index if self.mark else 0
        if index < start:
            return NOT_HELD
        term = self.term_at(Index(index))
        return NOT_HELD if term is None else term

    def reconcile(self, replay: Replay) -> bool:
        """After a crash: whether the log says what was promised, with or without batches under way."""
        while not self._is(replay):
            if not self._pending:
                return False
            self._take(self._pending.popleft())
        self._pending.clear()
        return True

    def _is(self, replay: Replay) -> bool:
        return (
            replay.hard_state == self.hard_state
            and replay.mark == self.mark
            and len(replay.entries) == len(self.entries)
            and replay.entries == self.entries
        )

    def _take(self, batch: Batch) -> None:
        start = self.mark.index if self.mark else 0
        if batch.mark is not None:
            place = batch.mark.index - start - 1
            keeps = place == -1 or (
                0 <= place < len(self.entries) and self.entries[place].term == batch.mark.term
            )
            self.entries = self.entries[place + 1 :] if keeps else []
            self.mark = batch.mark
            return
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.entries:
            first = batch.entries[0].index
            if first <= start:
                raise AssertionError(f"entries from {first} written under the mark at {start}")
            del self.entries[first - start - 1 :]
            self.entries.extend(batch.entries)


class WatchedWal(Wal):
    """The real log with its record beside it."""

    record: LogRecord
    stored: Callable[[int, Sequence[Entry]], None]
    """Hears of all entries that are safe, and of the term before them."""

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], done: Done, *, held: bool = False
    ) -> None:
        batch = Batch(hard_state, entries, None, self.record.term_before(entries) if entries else 0)
        self.record.issued(batch)
        super().append(hard_state, entries, partial(self._settled, batch, done), held=held)

    def mark(self, meta: SnapshotMeta, done: Done, *, replaces: bool = False) -> None:
        batch = Batch(None, (), meta)
        self.record.issued(batch)
        super().mark(meta, partial(self._settled, batch, done), replaces=replaces)

    def _settled(self, batch: Batch, done: Done, error: OSError | None) -> None:
        self.record.settled(batch, error)
        if error is None and batch.entries:
            self.stored(batch.before, batch.entries)
        done(error)
