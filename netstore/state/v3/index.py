"""The index of the v3 keys in memory: the places of each key's changes, and the sorted keys.

Every change has a *place*: its revision, its number within the revision and whether it is a deletion, packed
into one integer in that order (`revision << 32 | number << 1 | deleted`), so that places sort in the order of
the changes. A read is at a *bound*: it sees the changes whose place is below it. Revision r is read at
`bound_after(r)`; the state between two operations of a transaction has a bound, too.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from heapq import merge
from itertools import islice, repeat
from operator import and_, rshift
from typing import TYPE_CHECKING, Final, Self

import msgspec
from sortedcontainers import SortedList  # type: ignore[import-untyped]  # it has no annotations

from netstore.intervals import TO_THE_END
from netstore.parted import FREE_STEP, Parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from netstore.state.v3.savedkeys import Sleeping

PLACE_BYTES: Final = 12
"""Bytes of a place as the key of its record in the engine."""

DELETED: Final = 1
"""The bit of a place that says that the change is a deletion."""

NUMBER_BITS: Final = 32
_NUMBER_MASK: Final = (1 << NUMBER_BITS) - 1

_BLOCK_BITS: Final = 13
_BLOCK: Final = 1 << _BLOCK_BITS
"""Changes in one block of the log, which are freed together: 0.1 ms."""


class Item(msgspec.Struct, gc=False):
    """The index entry of one key. `created`, `version` and `lease` are 0 if it is deleted."""

    key: bytes
    at: int
    """The place of its newest change."""
    size: int
    """Bytes of the record there."""
    created: int
    version: int
    lease: int
    past: bytearray | None = None
    """Places before `at`, twelve bytes each, oldest first."""


def bound_after(revision: int) -> int:
    """The bound at which all changes up to this revision are seen."""
    return (revision + 1) << NUMBER_BITS


def remember(item: Item) -> None:
    """Add the newest place of a key to its past ones: another change follows."""
    place = item.at.to_bytes(PLACE_BYTES, "big")
    if item.past is None:
        item.past = bytearray(place)
    else:
        item.past += place


def past_place(past: bytearray, number: int) -> int:
    """One of the places that an item remembers."""
    return int.from_bytes(past[number * PLACE_BYTES : (number + 1) * PLACE_BYTES], "big")


def past_below(past: bytearray, bound: int) -> int:
    """How many of the places are below a bound. O(log n)."""
    limit = bytearray(bound.to_bytes(PLACE_BYTES, "big"))
    count = len(past) // PLACE_BYTES
    if past[-PLACE_BYTES:] < limit:
        return count
    return bisect_left(
        range(count),
        limit,
        key=lambda n: past[n * PLACE_BYTES : (n + 1) * PLACE_BYTES],
    )


def newest_below(item: Item, bound: int) -> int:
    """The place of the key's last change below a bound, deletions included; 0 if there is none."""
    if item.at < bound:
        return item.at
    past = item.past
    count = 0 if past is None else past_below(past, bound)
    return 0 if past is None or not count else past_place(past, count - 1)


def pair_below(item: Item, bound: int) -> int:
    """The place of the key's pair that is seen at a bound; 0 if the key does not exist there."""
    place = newest_below(item, bound)
    return 0 if place & DELETED else place


class _Block:
    """Consecutive changes."""

    __slots__ = ("keys", "numbers", "revisions")

    def __init__(self) -> None:
        self.revisions = array("q")
        self.numbers = array("I")
        self.keys: list[bytes] = []


def _last_of(block: _Block) -> int:
    return block.revisions[-1]


class ChangeLog:
    """The changes since the last compaction in order: 20 bytes each, beside the key, which is shared.

    A position stays valid when older changes are forgotten. Changes are in blocks of `_BLOCK`, so that
    forgetting some moves none of the others.
    """

    __slots__ = ("_base", "_blocks", "end", "first")

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._base = 0
        """The position of the first change of the first block; a multiple of `_BLOCK`."""
        self.first = 0
        """The position of the first change that is not forgotten."""
        self.end = 0
        """The position of the next change."""

    @classmethod
    def of(cls, revisions: array[int], numbers: array[int], keys: list[bytes], order: array[int]) -> Self:
        """The log of these changes; `order` has the number of each one's key in `keys`."""
        log = cls()
        for start in range(0, len(order), _BLOCK):
            block = _Block()
            block.revisions = revisions[start : start + _BLOCK]
            block.numbers = numbers[start : start + _BLOCK]
            block.keys = list(map(keys.__getitem__, order[start : start + _BLOCK]))
            log._blocks.append(block)
        log.end = len(order)
        return log

    def columns(self) -> tuple[array[int], array[int]]:
        """Revision and number within it of each change."""
        revisions, numbers = array("q"), array("I")
        for block in self._blocks:
            revisions.extend(block.revisions)
            numbers.extend(block.numbers)
        skipped = self.first - self._base
        return revisions[skipped:], numbers[skipped:]

    def add(self, place: int, key: bytes) -> None:
        """Append a change."""
        if not self.end % _BLOCK:
            self._blocks.append(_Block())
        block = self._blocks[-1]
        block.revisions.append(place >> NUMBER_BITS)
        block.numbers.append(place & _NUMBER_MASK)
        block.keys.append(key)
        self.end += 1

    def extend(self, places: Sequence[int], keys: Sequence[bytes]) -> None:
        """Append changes, at least one, in order. Nothing of it is done for each change in Python."""
        room = _BLOCK - self.end % _BLOCK
        if len(places) > room:
            self.extend(places[:room], keys[:room])
            self.extend(places[room:], keys[room:])
            return
        if room == _BLOCK:
            self._blocks.append(_Block())
        block = self._blocks[-1]
        block.revisions.extend(map(rshift, places, repeat(NUMBER_BITS)))
        block.numbers.extend(map(and_, places, repeat(_NUMBER_MASK)))
        block.keys += keys
        self.end += len(places)

    @property
    def newest(self) -> int:
        """The place of the newest change; 0 if all are forgotten."""
        return self.place(self.end - 1) if self.end > self.first else 0

    def find(self, revision: int) -> int:
        """The position of the first change of this revision or a later one. O(log n)."""
        start = self.first
        number = bisect_left(self._blocks, revision, (start - self._base) >> _BLOCK_BITS, key=_last_of)
        if number == len(self._blocks):
            return self.end
        begin = self._base + (number << _BLOCK_BITS)
        return begin + bisect_left(self._blocks[number].revisions, revision, max(0, start - begin))

    def after(self, at: int) -> int:
        """The position of the first change of the revision after that of the change at `at`. O(log n)."""
        revision = self.revision(at)
        number = bisect_right(self._blocks, revision, (at - self._base) >> _BLOCK_BITS, key=_last_of)
        if number == len(self._blocks):
            return self.end
        begin = self._base + (number << _BLOCK_BITS)
        return begin + bisect_right(self._blocks[number].revisions, revision, max(0, at - begin))

    def key(self, at: int) -> bytes:
        """The key of the change at a position."""
        return self._blocks[(at - self._base) >> _BLOCK_BITS].keys[at % _BLOCK]

    def place(self, at: int) -> int:
        """The place of the change at a position."""
        block = self._blocks[(at - self._base) >> _BLOCK_BITS]
        return block.revisions[at % _BLOCK] << NUMBER_BITS | block.numbers[at % _BLOCK]

    def revision(self, at: int) -> int:
        """The revision of the change at a position."""
        return self._blocks[(at - self._base) >> _BLOCK_BITS].revisions[at % _BLOCK]

    def keys(self, start: int, end: int) -> list[bytes]:
        """The keys of the changes from `start` up to `end`, not included."""
        found: list[bytes] = []
        while start < min(end, self.end):
            some = self._blocks[(start - self._base) >> _BLOCK_BITS].keys
            found += some[start % _BLOCK : start % _BLOCK + end - start]
            start += _BLOCK - start % _BLOCK
        return found

    def forget(self, before: int) -> None:
        """Forget all changes before this position. O(blocks freed)."""
        self.first = before
        needless = (before - self._base) >> _BLOCK_BITS
        if needless:
            del self._blocks[:needless]
            self._base += needless << _BLOCK_BITS


class KeyIndex:
    """All keys that have a record, sorted lists of the existing and of the deleted ones, and the log of
    changes.
    """

    __slots__ = ("dead", "items", "live", "log", "newest_deletion", "woken")

    def __init__(self) -> None:
        self.items: Parted[bytes, Item] | Sleeping = Parted()
        self.live: SortedList = SortedList()
        self.dead: SortedList = SortedList()
        self.log = ChangeLog()
        self.newest_deletion = 0
        """The place of the last deletion. At a bound above it, no key that is deleted now is seen."""
        self.woken = 0
        """Entries that were made since the start, from saved ones: about a microsecond each."""

    def free_steps(self) -> Iterator[None]:
        """Free the index in steps, when it is used no more: all at once would take long."""
        log = self.log
        while log.first < log.end:
            log.forget(min(log.first + _BLOCK, log.end))
            yield
        for keys in (self.live, self.dead):
            while keys:
                for _ in range(min(len(keys), FREE_STEP // 2)):
                    keys.pop()
                yield
        yield from self.items.free_steps()

    def live_keys(self, key: bytes, range_end: bytes, *, backwards: bool = False) -> Iterable[bytes]:
        """The keys in the range that exist now, in order."""
        if range_end:
            return between(self.live, key, range_end, backwards)
        item = self.items.get(key)
        return (key,) if item is not None and item.version else ()

    def keys_at(
        self, key: bytes, range_end: bytes, bound: int, *, backwards: bool = False
    ) -> Iterable[bytes]:
        """A superset of the keys in the range that exist at a bound, in order. If none was deleted from that
        bound on: not more than those that exist now.
        """
        if not range_end:
            item = self.items.get(key)
            may_be = item is not None and (item.version or self.newest_deletion >= bound)
            return (key,) if may_be else ()
        live = between(self.live, key, range_end, backwards)
        if self.newest_deletion < bound:
            return live
        return merge(live, between(self.dead, key, range_end, backwards), reverse=backwards)

    def some_keys(
        self, key: bytes, range_end: bytes, bound: int, most: int, *, backwards: bool = False
    ) -> list[bytes]:
        """The first keys of `keys_at`, at most `most`."""
        return list(islice(self.keys_at(key, range_end, bound, backwards=backwards), most))

    def count_live(self, key: bytes, range_end: bytes) -> int:
        """How many keys in the range exist now. O(log n)."""
        if not range_end:
            item = self.items.get(key)
            return int(item is not None and item.version > 0)
        return count_between(self.live, key, range_end)

    def count_near(self, key: bytes, range_end: bytes, bound: int) -> int:
        """How many keys `keys_at` returns. O(log n)."""
        if not range_end:
            return int(key in self.items)
        count = count_between(self.live, key, range_end)
        if self.newest_deletion >= bound:
            count += count_between(self.dead, key, range_end)
        return count

    def growth(self, key: bytes, range_end: bytes, bound: int, until: int, span: tuple[int, int]) -> int:
        """By how much the number of keys in the range grew from `bound` to the bound `until`, counting the
        keys whose first change between the two is in this span of positions of the log. O(span).
        """
        more = 0
        items, log = self.items, self.log
        revision = bound >> NUMBER_BITS
        to_the_end = range_end == TO_THE_END
        for position, each in enumerate(log.keys(*span), span[0]):
            if key <= each and (to_the_end or each < range_end):
                item = items[each]
                if item.at < bound or (item.version and item.created < revision):
                    continue  # unchanged since the bound, or existed all the time
                past = item.past
                before = 0 if past is None else past_below(past, bound)
                if past is None or before * PLACE_BYTES == len(past):
                    first = item.at
                else:
                    first = past_place(past, before)
                if first == log.place(position):
                    existed = before > 0 and past is not None and not past_place(past, before - 1) & DELETED
                    exists = item.version > 0 if item.at < until else pair_below(item, until) > 0
                    more += exists - existed
        return more


def between(keys: SortedList, key: bytes, range_end: bytes, backwards: bool = False) -> Iterator[bytes]:
    """The keys of a sorted list in a range."""
    found: Iterator[bytes] = iter(())
    if range_end == TO_THE_END:
        found = keys.irange(key, reverse=backwards)
    elif range_end > key:
        found = keys.irange(key, range_end, (True, False), reverse=backwards)
    return found


def count_between(keys: SortedList, key: bytes, range_end: bytes) -> int:
    """The number of keys of a sorted list in a range. O(log n)."""
    if range_end != TO_THE_END and range_end <= key:
        return 0
    end: int = len(keys) if range_end == TO_THE_END else keys.bisect_left(range_end)
    start: int = keys.bisect_left(key)
    return end - start
