"""Compaction of the v3 keys: after the command was applied, records that cannot be read any more are erased
here, in bounded steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.state.v3.index import DELETED, NUMBER_BITS, PLACE_BYTES, bound_after, past_below, past_place
from netstore.types import Revision

if TYPE_CHECKING:
    from netstore.state.v3.index import KeyIndex
    from netstore.state.v3.records import Records

SWEEP_STEP: Final = 200
"""Changes looked at in one step of a compaction: 1 to 2 ms."""

SWEEP_BYTES: Final = 1 << 20
"""Bytes of records erased in one step; the last may exceed it. Each is read, because its size must be known.
"""


class Pins:
    """The revisions of open reads: what they see is not erased before they are closed."""

    __slots__ = ("_counts", "lost")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.lost = False
        """The state was replaced: the records for the reads do not exist any more."""

    def add(self, revision: int) -> None:
        """A read at this revision is opened."""
        self._counts[revision] = self._counts.get(revision, 0) + 1

    def remove(self, revision: int) -> None:
        """It is closed."""
        count = self._counts.get(revision, 0) - 1
        if count > 0:
            self._counts[revision] = count
        else:
            self._counts.pop(revision, None)

    def allow(self, revision: Revision) -> Revision:
        """The revision up to which a compaction to `revision` may erase now. O(pinned revisions)."""
        return min(revision, Revision(min(self._counts))) if self._counts else revision


class Sweep:
    """Goes through the log of changes up to the compacted revision and erases superseded records."""

    __slots__ = ("_at", "_index", "_records", "swept", "target")

    def __init__(self, index: KeyIndex, records: Records, swept: Revision) -> None:
        self._index = index
        self._records = records
        self.target = swept
        """The revision up to which is erased now, or was."""
        self._at = index.log.first
        self.swept = swept
        """The revision up to which erasing is finished."""

    def begin(self, revision: Revision) -> None:
        """Start to erase up to this revision."""
        self.target = revision
        self._at = self._index.log.first

    def step(self, most: int = SWEEP_STEP, size: int = SWEEP_BYTES) -> int:
        """Look at so many changes, and erase at most as many records and one, or about so many bytes; how
        many records were erased.
        """
        count = 0
        log = self._index.log
        end = log.find(self.target + 1)
        stop = min(self._at + most, end)
        while self._at < stop and most > 0 and size > 0:
            erased, erased_bytes, is_done = self._sweep_key(log.key(self._at), most, size)
            count += erased
            most -= erased
            size -= erased_bytes
            self._at += is_done
        if self._at == end:
            self.swept = self.target
        # Changes at the compacted revision itself stay: a watch may start there.
        log.forget(min(self._at, log.find(self.target)))
        return count

    def _sweep_key(self, key: bytes, most: int, size: int) -> tuple[int, int, bool]:
        """Erase the records of a key that cannot be read any more. Returns the number of records erased,
        their bytes, and whether that was all.
        """
        index, erase = self._index, self._records.erase
        item = index.items.get(key)
        if item is None:
            return 0, 0, True
        past = item.past or bytearray()
        readable = past_below(past, bound_after(self.target))
        if item.at >> NUMBER_BITS <= self.target:
            kept, needless = item.at, readable
        elif readable:
            kept, needless = past_place(past, readable - 1), readable - 1
        else:
            return 0, 0, True
        is_gone = bool(kept & DELETED) and kept >> NUMBER_BITS < self.target
        if is_gone and kept != item.at:
            needless += 1
        count = erased = 0
        while count < min(needless, most) and erased < size:
            erased += erase(bytes(past[count * PLACE_BYTES : (count + 1) * PLACE_BYTES]))
            count += 1
        del past[: count * PLACE_BYTES]
        item.past = past or None
        if count < needless:
            return count, erased, False
        if is_gone and kept == item.at:
            erase(kept.to_bytes(PLACE_BYTES, "big"))
            index.dead.remove(key)
            del index.items[key]
            count += 1
        return count, erased, True
