"""The keys of one Range as they are at a bound, in runs: what both passes of a read in steps walk over.

Work is counted in units of about a microsecond: a key looked at is one, or less where only its newest place
is needed (`KEYS_PER_UNIT`), a record read is `RECORD_UNITS` and one more for each `UNIT_BYTES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.intervals import TO_THE_END
from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import BY_KEY, DESCEND
from netstore.state.v3.index import DELETED, NUMBER_BITS, pair_below
from netstore.state.v3.parts import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from netstore.state.v3.commands import Range
    from netstore.state.v3.index import Item, KeyIndex
    from netstore.state.v3.parts import Part, Parts
    from netstore.state.v3.records import Records

RUN: Final = 256
"""Keys fetched from the index at once: with fewer, finding the first of them would be most of the work."""

KEYS_PER_UNIT: Final = 4
"""Keys looked at in a unit where only their newest places are needed."""

RECORD_UNITS: Final = 5

MOST_PAIRS: Final = 2**40
"""More than any store holds: a greater limit of an answer is cut to it, so that adding one is safe."""


class Row(NamedTuple):
    """A pair of the answer. `size` is that of its record, 0 if it is not known without reading it; `item` is
    the index's entry of the key, if this is the key's newest pair.
    """

    place: int
    size: int
    item: Item | None


class Run(NamedTuple):
    """Some pairs of a plain list, in order: a part that is kept (`parts`), or their places and the sizes of
    their records (0: not known).
    """

    part: Part | None
    places: list[int]
    sizes: list[int]
    start: bytes = b""
    end: bytes = b""
    """The keys that were looked at, from `start` up to `end`, if this may become a part; else empty."""
    since: int = 0
    """The end of the log of changes when they were looked at."""


class Scan:
    """Walks over the keys of a query at a bound (`index`). Between two lists the state may change: each run
    is looked up anew after the last key of the run before.

    StateDamaged if a record is missing.
    """

    __slots__ = (
        "_bound",
        "_index",
        "_items",
        "_parts",
        "_query",
        "fetch",
        "filtered",
        "limit",
        "more",
        "units",
    )

    def __init__(
        self, index: KeyIndex, records: Records, query: Range, bound: int, parts: Parts | None = None
    ) -> None:
        """With `parts`, plain lists are made of those that are kept, as far as there are any."""
        self._index = index
        self._parts = parts
        self._items = index.items
        self._query = query
        self._bound = bound
        self.filtered = is_filtered(query)
        self.limit = min(max(query.limit, 0), MOST_PAIRS)
        """Pairs in the answer at most; 0: all."""
        self.more = False
        """The limit left some out."""
        self.units = 0
        """Units of work left in this step; negative if it took a little more."""
        self.fetch: Callable[[Sequence[int]], list[bytes]] = records.peek_many
        """How records are read: remembered afterwards or not."""

    def keys(self) -> Iterator[list[bytes]]:
        """The keys that may exist at the bound, in order, `RUN` of them at once."""
        index, bound, query = self._index, self._bound, self._query
        key, range_end = query.key, query.range_end
        backwards = query.sort_order == DESCEND and query.sort_target == BY_KEY
        while True:
            keys = index.some_keys(key, range_end, bound, RUN, backwards=backwards)
            yield keys
            if len(keys) < RUN or not range_end:
                return
            if not backwards:
                key = keys[-1] + b"\0"
            elif keys[-1] == key:
                return
            else:
                range_end = keys[-1]

    def rows(self) -> Iterator[list[Row]]:
        """The pairs of the range at the bound, by key, a list for each `RUN` keys looked at."""
        for keys in self.keys():
            self.units -= len(keys) + 1
            yield list(self._rows_of(keys))

    def _items_of(self, keys: Iterable[bytes]) -> list[Item]:
        index = self._index
        woken = index.woken
        found = self._items.many(keys)
        self.units -= index.woken - woken
        return found

    def _rows_of(self, keys: Iterable[bytes]) -> Iterator[Row]:
        bound = self._bound
        for item in self._items_of(keys):
            place = item.at
            if place < bound:
                if not place & DELETED:
                    yield Row(place, item.size, item)
                continue
            self.units -= 1
            place = pair_below(item, bound)
            if place:
                yield Row(place, 0, None)

    def runs(self) -> Iterator[Run]:
        """For an answer by key order without filters: its pairs, up to the limit. 0.1 us a key that has not
        changed since the bound.
        """
        query, parts = self._query, self._parts
        key, range_end = query.key, query.range_end
        left = self.limit or MOST_PAIRS
        if parts is None or not range_end or query.sort_order == DESCEND:
            for keys in self.keys():
                run, _ = self._run_of(keys)
                yield self._cut(run, left)
                left -= len(run.places)
                if left < 0:
                    return
            return
        while range_end == TO_THE_END or key < range_end:
            part = parts.find(key, range_end, self._bound)
            if part is not None and part.pairs <= left:
                self.units -= 1
                yield Run(part, [], [])
                left -= part.pairs
                key = part.end
                continue
            until = parts.next_start(key, range_end)
            keys = self._index.some_keys(key, until, self._bound, RUN)
            run, is_same = self._run_of(keys)
            end = until if len(keys) < RUN else keys[-1] + b"\0"
            if not is_same or len(keys) > left:
                yield self._cut(run, left)
                left -= len(run.places)
            else:
                yield from self._divided(run, keys, key, end)
                left -= len(keys)
            if left < 0 or end == TO_THE_END:
                return
            key = end

    def _run_of(self, keys: list[bytes]) -> tuple[Run, bool]:
        """The pairs of these keys, and whether that is one for each key, unchanged since the bound."""
        index, bound = self._index, self._bound
        found = self._items_of(keys)
        places = [item.at for item in found]
        is_latest = index.log.newest < bound  # nothing changed since; or else none of these did
        if is_latest or (index.newest_deletion < bound and places and max(places) < bound):
            self.units -= len(keys) // KEYS_PER_UNIT + 1
            return Run(None, places, [item.size for item in found]), True
        self.units -= len(keys) + 1
        rows = list(self._rows_of(keys))
        return Run(None, [row.place for row in rows], [row.size for row in rows]), False

    def _cut(self, run: Run, left: int) -> Run:
        """The run without the pairs that are too many."""
        if len(run.places) <= left:
            return run
        self.more = True
        return Run(None, run.places[:left], run.sizes[:left])

    def _divided(self, run: Run, keys: list[bytes], start: bytes, end: bytes) -> Iterator[Run]:
        """The pairs of these keys, which are all from `start` up to `end`, in runs that may become parts."""
        since, places, sizes = self._index.log.end, run.places, run.sizes
        step = -(-len(keys) // (sum(sizes) // PART_BYTES + 1)) or 1
        for at in range(0, len(keys), step):
            stop = at + step
            until = end if stop >= len(keys) else keys[stop - 1] + b"\0"
            yield Run(None, places[at:stop], sizes[at:stop], start, until, since)
            start = until

    def passing(self, rows: list[Row]) -> Iterable[Row]:
        """Those that the filters of the query let through."""
        if not self.filtered:
            return rows
        query = self._query
        return (
            row
            for row in rows
            if _passes(row.place >> NUMBER_BITS, query.min_mod_revision, query.max_mod_revision)
            and (
                not (query.min_create_revision or query.max_create_revision)
                or _passes(self._created(row), query.min_create_revision, query.max_create_revision)
            )
        )

    def _created(self, row: Row) -> int:
        if row.item is not None and row.item.at == row.place:
            return row.item.created
        return keyvalue.decode_fields(self.read(row.place))[1]

    def read(self, place: int) -> bytes:
        """The record at a place."""
        (record,) = self.read_many((place,))
        return record

    def read_many(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places."""
        records = self.fetch(places)
        self.units -= RECORD_UNITS * len(records) + sum(map(len, records)) // UNIT_BYTES
        return records

    def read_sized(self, places: Sequence[int], size: int) -> list[bytes]:
        """The same for records whose sizes are known to add up to `size`."""
        self.units -= RECORD_UNITS * len(places) + size // UNIT_BYTES
        return self.fetch(places)


def is_filtered(query: Range) -> bool:
    """Whether the query leaves out pairs by their revisions."""
    return bool(
        query.min_mod_revision
        or query.max_mod_revision
        or query.min_create_revision
        or query.max_create_revision
    )


def _passes(number: int, least: int, most: int) -> bool:
    return (not least or number >= least) and (not most or number <= most)
