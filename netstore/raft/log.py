"""The log as the protocol sees it: what is remembered, what is on disk, committed and applied, and how the
marks move.

Invariant: compacted <= applied <= handed to apply <= committed <= last, and persisted <= handed to disk <=
last. Entries handed out for applying never pass `persisted`: the state machine of this member is never ahead
of its own disk.

All remembered entries are in one list by reference; a slice costs its own length, a term look-up is one index
operation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from netstore.raft.entry import ENTRY_OVERHEAD_BYTES
from netstore.raft.invariant import InvariantBroken
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry

MAX_APPLY_ENTRIES: Final = 4096
"""Most entries handed out at once for applying, so that catching up does not block the host's turn for
long."""

_TERM = attrgetter("term")


class _Flight:
    """A batch given to the disk: its last place, and how far its sync will vouch for what is remembered
    now."""

    __slots__ = ("index", "term", "vouches")

    def __init__(self, index: Index, term: Term) -> None:
        self.index = index
        self.term = term
        self.vouches = index


class Log:
    """The remembered part of a log that starts after `compacted` (whose entry had `compacted_term`)."""

    __slots__ = (
        "_entries",
        "_flights",
        "_unhanded",
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
        """A log as found on disk: all of `entries` are persisted, nothing after `compacted` is committed or
        applied."""
        self._entries: list[Entry] = []
        self._flights: deque[_Flight] = deque()
        self._unhanded = 0
        self.bytes = 0
        """Of all entries that are remembered, `ENTRY_OVERHEAD_BYTES` for each included."""
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
        self._unhanded = 0
        """What was not given to the disk weighs so much at most, what was cut meanwhile included."""

    # --- looking

    def term(self, index: int) -> Term:
        """The term of the entry at `index`, which must lie in compacted..last."""
        place = index - self.compacted - 1
        if place >= 0 and index <= self.last:
            return self._entries[place].term
        if place == -1:
            return self.compacted_term
        raise InvariantBroken(
            f"term of entry {index} asked of a log that holds {self.compacted}..{self.last}"
        )

    def holds(self, index: int) -> bool:
        """Whether `term(index)` can be answered."""
        return self.compacted <= index <= self.last

    def matches(self, index: int, term: int) -> bool:
        """The consistency check of AppendEntries (section 3.5): is there an entry with that term at that
        place?"""
        return self.compacted <= index <= self.last and self.term(index) == term

    def between(self, low: int, high: int) -> list[Entry]:
        """Entries low..high, both included and both remembered; empty if high < low. Costs its length."""
        if high < low:
            return []
        if low <= self.compacted or high > self.last:
            raise InvariantBroken(
                f"entries {low}..{high} asked of a log that holds {self.compacted + 1}..{self.last}"
            )
        start = self.compacted + 1
        return self._entries[low - start : high + 1 - start]

    def from_(self, low: int, max_bytes: int) -> tuple[list[Entry], int]:
        """Entries from `low` on that fit `max_bytes` together, at least one if there is one, and their size.
        Costs its length."""
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

    def last_not_above(self, index: int, term: int) -> tuple[Index, Term]:
        """The last place at or before `index` whose term is at most `term`: where two logs may still agree.

        Terms never fall along a log, so everything after that place is known to differ. Logarithmic cost.
        What was forgotten is not judged: the compacted place may be given whatever its term, and a place
        before it is given back with term 0.
        """
        high = min(index, self.last) - self.compacted
        if high < 0:
            return Index(index), Term(0)
        count = bisect_right(self._entries, term, 0, high, key=_TERM)
        place = Index(self.compacted + count)
        return place, self.term(place)

    def place_before(self, max_bytes: int) -> Index:
        """The last place after which the remembered entries have at most `max_bytes` together. Costs the
        number of those."""
        size = 0
        for back, entry in enumerate(reversed(self._entries)):
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if size > max_bytes:
                return Index(self.last - back)
        return self.compacted

    # --- growing

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that continue the log. Costs their number."""
        first = entries[0]
        if first.index != self.last + 1 or first.term < self.last_term:
            raise InvariantBroken(
                f"entry {first.term}/{first.index} appended after {self.last_term}/{self.last}"
            )
        self._entries.extend(entries)
        size = _size(entries)
        self.bytes += size
        self._unhanded += size
        final = entries[-1]
        self.last = Index(self.compacted + len(self._entries))
        self.last_term = final.term
        if final.index != self.last:
            raise InvariantBroken(f"appended entries end at {final.index}, not at {self.last}")

    def merge(self, entries: Sequence[Entry]) -> Index | None:
        """Take entries from a leader; the one before them is known to match (section 3.5, steps 3 and 4).

        What is there already stays; at the first difference the own tail is cut, but never what is committed.
        Returns the first index that is new, None if nothing is.
        """
        for skip, entry in enumerate(entries):
            if entry.index <= self.last:
                if entry.term == self.term(entry.index):
                    continue
                self._cut(entry.index)
            self.append(entries[skip:] if skip else entries)
            return entry.index
        return None

    def _cut(self, index: Index) -> None:
        if index <= self.commit:
            raise InvariantBroken(f"a leader would replace entry {index}, committed up to {self.commit}")
        start = index - self.compacted - 1
        self.bytes -= _size(self._entries[start:])
        del self._entries[start:]
        self.last = Index(index - 1)
        self.last_term = self.term(self.last)
        self.handed = min(self.handed, self.last)
        self.persisted = min(self.persisted, self.last)
        for flight in self._flights:
            flight.vouches = min(flight.vouches, self.last)

    # --- the disk

    def hand_out(self, max_bytes: int) -> list[Entry]:
        """The next entries not yet given to the disk that have at most `max_bytes` together, or one that has
        more; they count as given from now on.
        """
        size = self._unhanded
        if size <= max_bytes:
            entries = self.between(self.handed + 1, self.last)
        else:
            entries, size = self.from_(self.handed + 1, max_bytes)
        if entries:
            final = entries[-1]
            self.handed = final.index
            self._flights.append(_Flight(final.index, final.term))
        self._unhanded = 0 if self.handed == self.last else self._unhanded - size
        return entries

    def synced(self, index: int, term: int) -> bool:
        """The disk holds everything given to it up to the batch that ended with this entry. True if that
        moved `persisted`.

        Batches reach the disk in the order they were given, and the oldest one that fits is meant. A batch
        that was partly overruled since vouches only for what is still remembered; an unknown one (before a
        snapshot came, or told twice) changes nothing. DESIGN.md tells the story of why the term alone would
        not do.
        """
        flights = self._flights
        for count, flight in enumerate(flights, 1):
            if flight.index == index and flight.term == term:
                for _ in range(count):
                    flights.popleft()
                if flight.vouches > self.persisted:
                    self.persisted = flight.vouches
                    return True
                return False
        return False

    # --- committing and applying

    def commit_to(self, index: int) -> bool:
        """Everything up to `index` is committed. True if that is news; a smaller index is not."""
        if index <= self.commit:
            return False
        if index > self.last:
            raise InvariantBroken(f"commit {index} of a log that ends at {self.last}")
        self.commit = Index(index)
        return True

    def appliable(self) -> bool:
        """Whether `hand_committed` would give something."""
        return self.applying < self.commit and self.applying < self.persisted

    def hand_committed(self) -> list[Entry]:
        """The next committed and persisted entries to apply, at most MAX_APPLY_ENTRIES; they count as given
        from now on."""
        high = min(self.commit, self.persisted, self.applying + MAX_APPLY_ENTRIES)
        if high <= self.applying:
            return []
        entries = self.between(self.applying + 1, high)
        self.applying = Index(high)
        return entries

    def applied_to(self, index: Index) -> None:
        """The state machine holds everything up to `index`."""
        if not self.applied <= index <= self.applying:
            raise InvariantBroken(
                f"applied {index}, but {self.applied} was and only {self.applying} was handed out"
            )
        self.applied = index

    # --- forgetting

    def compact(self, index: Index) -> None:
        """Forget entries up to `index`, which must be applied. A smaller index than before changes
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
        """A state copy replaces everything up to `index`; what is remembered goes. Only forward."""
        if index <= self.commit:
            raise InvariantBroken(f"state copy at {index} put over a log committed up to {self.commit}")
        self._entries.clear()
        self.bytes = self._unhanded = 0
        self._flights.clear()
        self.compacted = self.last = self.commit = self.applying = self.applied = index
        self.handed = self.persisted = index
        self.compacted_term = self.last_term = term


def _size(entries: Sequence[Entry]) -> int:
    return sum([len(entry.data) for entry in entries]) + len(entries) * ENTRY_OVERHEAD_BYTES
