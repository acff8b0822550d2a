"""The log of one member: the entries after the last compaction, and how far they are written, committed and
applied.

Invariant: compacted <= applied <= applying <= commit <= last, and persisted <= handed <= last. `applying`
never passes `persisted`: the state machine of this member is never ahead of its own disk.

All entries are in one list; a slice costs its length, a term look-up is one index operation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, data_of
from netstore.raft.invariant import InvariantBroken
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry

MAX_APPLY_ENTRIES: Final = 4096
"""Most entries handed out at once to be applied, so that catching up does not block the host's turn for
long."""

_TERM = attrgetter("term")


class _Write:
    """Entries handed to the disk and not reported yet: index and term of the last one, and up to where the
    present log will be durable when they are."""

    __slots__ = ("durable_to", "index", "term")

    def __init__(self, index: Index, term: Term) -> None:
        self.index = index
        self.term = term
        self.durable_to = index


class Log:
    """The log after `compacted`, whose entry had `compacted_term`."""

    __slots__ = (
        "_entries",
        "_unwritten_bytes",
        "_writes",
        "applied",
        "applying",
        "bytes",
        "commit",
        "compacted",
        "compacted_term",
        "handed",
        "last",
        "last_term",
        "persisted",
    )

    def __init__(self, compacted: Index, term: Term, entries: Sequence[Entry]) -> None:
        """A log as found on disk: `entries` are persisted, and nothing after `compacted` is known to be
        committed or applied."""
        self._entries: list[Entry] = []
        self._writes: deque[_Write] = deque()
        self._unwritten_bytes = 0
        self.bytes = 0
        """Of all entries in memory, with `ENTRY_OVERHEAD_BYTES` for each."""
        self.compacted = compacted
        self.compacted_term = term
        self.last = compacted
        self.last_term = term
        self.commit = compacted
        self.applying = compacted
        self.applied = compacted
        if entries:
            self.append(entries)
        self.handed = self.last
        self.persisted = self.last
        self._unwritten_bytes = 0
        """Upper bound of the size of the entries not handed to the disk: truncated entries still count."""

    # --- queries

    def term(self, index: int) -> Term:
        """The term of the entry at `index`, which must lie in compacted..last."""
        offset = index - self.compacted - 1
        if offset >= 0 and index <= self.last:
            return self._entries[offset].term
        if offset == -1:
            return self.compacted_term
        raise InvariantBroken(
            f"term of entry {index} asked of a log that holds {self.compacted}..{self.last}"
        )

    def holds(self, index: int) -> bool:
        """Whether `term(index)` can be answered."""
        return self.compacted <= index <= self.last

    def matches(self, index: int, term: int) -> bool:
        """The consistency check of AppendEntries (section 3.5): whether the entry at `index` has
        this term."""
        return self.compacted <= index <= self.last and self.term(index) == term

    def between(self, low: int, high: int) -> list[Entry]:
        """Entries low..high, both included, neither compacted; empty if high < low. Costs its length."""
        if high < low:
            return []
        if low <= self.compacted or high > self.last:
            raise InvariantBroken(
                f"entries {low}..{high} asked of a log that holds {self.compacted + 1}..{self.last}"
            )
        start = self.compacted + 1
        return self._entries[low - start : high + 1 - start]

    def entries_from(self, low: int, max_bytes: int) -> tuple[list[Entry], int]:
        """Entries from `low` on of at most `max_bytes` together, or one larger entry, and their size. Costs
        its length."""
        if low > self.last:
            return [], 0
        if low <= self.compacted:
            raise InvariantBroken(f"entry {low} asked of a log that starts at {self.compacted + 1}")
        start = low - self.compacted - 1
        entries = self._entries
        count = len(entries)
        size = len(entries[start].data) + ENTRY_OVERHEAD_BYTES
        end = start + 1
        while end < count:
            grown = size + len(entries[end].data) + ENTRY_OVERHEAD_BYTES
            if grown > max_bytes:
                break
            size = grown
            end += 1
        return entries[start:end], size

    def find_conflict_by_term(self, index: int, term: int) -> tuple[Index, Term]:
        """The last index at or before `index` whose term is at most `term`, and that term: the last entry
        that two logs may have in common.

        Terms never fall along a log, so everything after it is known to differ. O(log n). Compacted entries
        are not compared: the result may be `compacted` whatever its term, and an `index` before that is
        returned with term 0.
        """
        high = min(index, self.last) - self.compacted
        if high < 0:
            return Index(index), Term(0)
        count = bisect_right(self._entries, term, 0, high, key=_TERM)
        found = Index(self.compacted + count)
        return found, self.term(found)

    def compact_index(self, max_bytes: int) -> Index:
        """The smallest index after which the entries have at most `max_bytes` together. Costs the number of
        these."""
        size = 0
        for back, entry in enumerate(reversed(self._entries)):
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if size > max_bytes:
                return Index(self.last - back)
        return self.compacted

    # --- appending

    def append(self, entries: Sequence[Entry], size: int | None = None) -> None:
        """Append entries that continue the log. Costs their number. `size` is what they weigh, if known."""
        first = entries[0]
        if first.index != self.last + 1 or first.term < self.last_term:
            raise InvariantBroken(
                f"entry {first.term}/{first.index} appended after {self.last_term}/{self.last}"
            )
        self._entries.extend(entries)
        if size is None:
            size = _size(entries)
        self.bytes += size
        self._unwritten_bytes += size
        final = entries[-1]
        self.last = Index(self.compacted + len(self._entries))
        self.last_term = final.term
        if final.index != self.last:
            raise InvariantBroken(f"appended entries end at {final.index}, not at {self.last}")

    def merge(self, entries: Sequence[Entry]) -> Index | None:
        """Append the entries of a leader; the entry before them is known to match (section 3.5, steps 3 and
        4).

        Entries that are present already stay; from the first difference on the log is truncated, but never
        what is committed. Returns the first index that is new, or None.
        """
        for skip, entry in enumerate(entries):
            if entry.index <= self.last:
                if entry.term == self.term(entry.index):
                    continue
                self._truncate(entry.index)
            self.append(entries[skip:] if skip else entries)
            return entry.index
        return None

    def _truncate(self, index: Index) -> None:
        if index <= self.commit:
            raise InvariantBroken(f"a leader would replace entry {index}, committed up to {self.commit}")
        start = index - self.compacted - 1
        self.bytes -= _size(self._entries[start:])
        del self._entries[start:]
        self.last = Index(index - 1)
        self.last_term = self.term(self.last)
        self.handed = min(self.handed, self.last)
        self.persisted = min(self.persisted, self.last)
        for write in self._writes:
            write.durable_to = min(write.durable_to, self.last)

    # --- the disk

    def take_unwritten(self, max_bytes: int) -> list[Entry]:
        """The next entries for the disk, of at most `max_bytes` together, or one larger entry; they count as
        handed to the disk.
        """
        size = self._unwritten_bytes
        if size <= max_bytes:
            entries = self._entries[self.handed - self.compacted :]
        else:
            entries, size = self.entries_from(self.handed + 1, max_bytes)
        if entries:
            final = entries[-1]
            self.handed = final.index
            self._writes.append(_Write(final.index, final.term))
        self._unwritten_bytes = 0 if self.handed == self.last else self._unwritten_bytes - size
        return entries

    def synced(self, index: int, term: int) -> bool:
        """The disk reports the write that ended with this entry. True if `persisted` moved.

        Writes become durable in the order they were handed to the disk, and the oldest one that fits is
        meant. A write whose entries were truncated since counts only up to there; an unknown one (from before
        a snapshot, or reported twice) changes nothing. DESIGN.md explains why index and term are not enough.
        """
        writes = self._writes
        for count, write in enumerate(writes, 1):
            if write.index == index and write.term == term:
                for _ in range(count):
                    writes.popleft()
                if write.durable_to > self.persisted:
                    self.persisted = write.durable_to
                    return True
                return False
        return False

    # --- committing and applying

    def commit_to(self, index: int) -> bool:
        """Everything up to `index` is committed. True if the commit index moved; it never falls."""
        if index <= self.commit:
            return False
        if index > self.last:
            raise InvariantBroken(f"commit {index} of a log that ends at {self.last}")
        self.commit = Index(index)
        return True

    def has_committed(self) -> bool:
        """Whether `take_committed` would give entries."""
        return self.applying < self.commit and self.applying < self.persisted

    def take_committed(self) -> list[Entry]:
        """The next entries to apply, committed and persisted, at most MAX_APPLY_ENTRIES; `applying` moves
        past them."""
        high = min(self.commit, self.persisted, self.applying + MAX_APPLY_ENTRIES)
        if high <= self.applying:
            return []
        start = self.compacted
        entries = self._entries[self.applying - start : high - start]
        self.applying = Index(high)
        return entries

    def applied_to(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        if not self.applied <= index <= self.applying:
            raise InvariantBroken(
                f"applied {index}, but {self.applied} was and only {self.applying} was handed out"
            )
        self.applied = index

    # --- compaction

    def compact(self, index: Index) -> None:
        """Drop entries up to `index`, which must be applied. An index that is compacted already changes
        nothing."""
        if index <= self.compacted:
            return
        if index > self.applied:
            raise InvariantBroken(f"compaction at {index}, but only {self.applied} is applied")
        self.compacted_term = self.term(index)
        count = index - self.compacted
        self.bytes -= _size(self._entries[:count])
        del self._entries[:count]
        self.compacted = index

    def restart_after(self, index: Index, term: Term) -> None:
        """A snapshot at `index` replaces the whole log. Its index must be after the commit index."""
        if index <= self.commit:
            raise InvariantBroken(f"snapshot at {index} put over a log committed up to {self.commit}")
        self._entries.clear()
        self.bytes = self._unwritten_bytes = 0
        self._writes.clear()
        self.compacted = self.last = self.commit = self.applying = self.applied = index
        self.handed = self.persisted = index
        self.compacted_term = self.last_term = term


def _size(entries: Sequence[Entry]) -> int:
    return sum(map(len, map(data_of, entries))) + len(entries) * ENTRY_OVERHEAD_BYTES
