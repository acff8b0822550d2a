"""The keys of one Range as they are at a bound, in runs: what both passes of a read in steps walk over.

Work is counted in units of about a microsecond: a key looked at is one, or less where only its newest place
is needed (`KEYS_PER_UNIT`), a record read is `RECORD_UNITS` and one more for each `UNIT_BYTES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import BY_KEY, DESCEND
from netstore.state.v3.index import DELETED, NUMBER_BITS, pair_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from netstore.state.v3.commands import Range
    from netstore.state.v3.index import Item, KeyIndex
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


class Scan:
    """Walks over the keys of a query at a bound (`index`). Between two lists the state may change: each run
    is looked up anew after the last key of the run before.

    StateDamaged if a record is missing.
    """

    __slots__ = ("_bound", "_index", "_items", "_query", "fetch", "filtered", "limit", "more", "units")

    def __init__(self, index: KeyIndex, records: Records, query: Range, bound: int) -> None:
        self._index = index
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

    def _rows_of(self, keys: Iterable[bytes]) -> Iterator[Row]:
        bound = self._bound
        for item in self._items.many(keys):
            place = item.at
            if place < bound:
                if not place & DELETED:
                    yield Row(place, item.size, item)
                continue
            self.units -= 1
            place = pair_below(item, bound)
            if place:
                yield Row(place, 0, None)

    def places(self) -> Iterator[tuple[list[int], list[int]]]:
        """For an answer by key order without filters: the places of its pairs and the sizes of their records
        (0: not known), up to the limit, a list for each `RUN` keys. 0.2 us a key that has not changed since
        the bound.
        """
        index, bound = self._index, self._bound
        left = self.limit
        for keys in self.keys():
            found = self._items.many(keys)
            places = [item.at for item in found]
            is_latest = index.log.newest < bound  # nothing changed since; or else none of these did
            if is_latest or (index.newest_deletion < bound and places and max(places) < bound):
                sizes = [item.size for item in found]
                self.units -= len(keys) // KEYS_PER_UNIT + 1
            else:
                self.units -= len(keys) + 1
                rows = list(self._rows_of(keys))
                places = [row.place for row in rows]
                sizes = [row.size for row in rows]
            if self.limit and len(places) > left:
                self.more = True
                yield places[:left], sizes[:left]
                return
            left -= len(places)
            yield places, sizes

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
