"""Parts of long lists as they are sent, kept for the next list of the same keys.

A part has the pairs of all keys from `start` up to `end`, not included, encoded one after the other. It is
dropped as soon as one of these keys changes, is created or deleted: `find` and `add` look first at what the
log of changes (`index`) has since the last call. So a part that is there is what a list reads at its bound
and at every later one. No two parts have a key in common.

From its keys, a list of 10,000 pairs of 1 KiB takes 4 ms of the processor before anything is sent; from
parts it takes 0.2 ms.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.intervals import TO_THE_END

if TYPE_CHECKING:
    from netstore.limits import Budget
    from netstore.state.v3.index import KeyIndex

KEPT_BYTES: Final = 12 * 1024 * 1024
"""What all parts may take, or a quarter of the budget of reads: a list of 10,000 objects of 1 KiB."""

PART_BYTES: Final = 144 * 1024
"""Bytes of records in a part, about: few parts for a long list, and little to read again after a change."""

PART_COST: Final = 400
"""What a part takes beside its pairs, about."""

MOST_CHANGES: Final = 1_000
"""Changes that are looked at, in one call, for parts that they end: 0.5 ms. After more, all parts go."""


class Part(NamedTuple):
    """The pairs of the keys from `start` up to `end`."""

    start: bytes
    end: bytes
    bound: int
    """The bound at which they were read."""
    pairs: int
    data: bytes
    """They themselves, as they are sent."""


class Parts:
    """The parts that are kept. What they take is charged to the budget of reads, and given up when that is
    used up (`clear`).
    """

    __slots__ = ("_account", "_begun", "_index", "_limit", "_parts", "_seen", "_starts")

    def __init__(self, budget: Budget) -> None:
        """`follow` comes before all other calls."""
        self._index: KeyIndex
        self._account = budget.account()
        self._limit = min(KEPT_BYTES, budget.limit // 4)
        self._parts: dict[bytes, Part] = {}
        """By their starts, the oldest first."""
        self._starts: list[bytes] = []
        """Sorted."""
        self._seen = 0
        """The position in the log up to which changes were looked at."""
        self._begun = 0
        """The position in the log at which the last list began."""

    def follow(self, index: KeyIndex) -> None:
        """Keep parts of the keys of this index from now on, and none of those before."""
        self.clear()
        self._index = index
        self._begun = index.log.end

    def begin(self) -> bool:
        """A list begins. Whether its parts are worth keeping: not if many keys have changed since the list
        before, because then they will not be there for the next one, and fresh memory for each list costs
        half as much as reading it.
        """
        begun, self._begun = self._begun, self._index.log.end
        return self._begun - begun <= MOST_CHANGES

    def find(self, start: bytes, range_end: bytes, bound: int) -> Part | None:
        """The part that begins at a key, if all of it belongs to a range up to `range_end` at a bound."""
        if not self._parts:
            return None
        self._look_at_changes()
        part = self._parts.get(start)
        if part is None or part.bound > bound or (range_end != TO_THE_END and part.end > range_end):
            return None
        return part

    def next_start(self, start: bytes, range_end: bytes) -> bytes:
        """Where the first part after a key begins; `range_end` if that is not in the range. What is read
        from `start` up to there becomes a part that leaves no gap.
        """
        at = bisect_right(self._starts, start)
        if at == len(self._starts) or (range_end != TO_THE_END and self._starts[at] >= range_end):
            return range_end
        return self._starts[at]

    def add(self, part: Part, since: int) -> None:
        """Keep a part of which nothing had changed when the log ended at position `since`."""
        log = self._index.log
        if since < log.first or log.end - since > MOST_CHANGES or part.end == TO_THE_END:
            return
        if any(part.start <= key < part.end for key in log.keys(since, log.end)):
            return
        self._look_at_changes()
        at = bisect_left(self._starts, part.start)
        if at and self._parts[self._starts[at - 1]].end > part.start:
            at -= 1
        while at < len(self._starts) and self._starts[at] < part.end:
            self._drop(at)
        self._starts.insert(at, part.start)
        self._parts[part.start] = part
        self._account.charge(len(part.data) + PART_COST)
        while self._account.held > self._limit or (self._account.over and self._parts):
            self._drop(bisect_left(self._starts, next(iter(self._parts))))

    def clear(self) -> None:
        """Keep none of them."""
        self._parts.clear()
        self._starts.clear()
        self._account.hold(0)

    def _look_at_changes(self) -> None:
        log = self._index.log
        seen, self._seen = self._seen, log.end
        if seen == log.end or not self._parts:
            return
        if seen < log.first or log.end - seen > MOST_CHANGES:
            self.clear()
            return
        for key in log.keys(seen, log.end):
            at = bisect_right(self._starts, key) - 1
            if at >= 0 and key < self._parts[self._starts[at]].end:
                self._drop(at)

    def _drop(self, at: int) -> None:
        part = self._parts.pop(self._starts.pop(at))
        self._account.release(len(part.data) + PART_COST)
