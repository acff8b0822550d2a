"""Range reads that are answered in one call because they are small. Others are read in steps (`reads`)."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import DESCEND, Found, Range
from netstore.state.v3.index import DELETED, NUMBER_BITS, pair_below

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.state.v3.index import Item, KeyIndex
    from netstore.state.v3.records import Records
    from netstore.types import Revision

SMALL_KEYS: Final = 2_000
"""Pairs in such an answer: 1 ms."""

SMALL_BYTES: Final = 1280 * 1024
"""Bytes of pairs in such an answer: a thousand objects of 1 KiB. Copying them into the answer takes half a
millisecond; before that they are shared with the store.
"""

_MOST_FAR: Final = 500
"""Records fetched from the engine for such an answer: 1 ms."""

_MOST_CHANGES: Final = 2_000
"""Changes looked at to count the keys that existed before them: 1 ms."""

_MOST_LOOKED: Final = 2 * SMALL_KEYS
"""Keys looked at for such an answer, if some were created or deleted since its bound."""

_MOST_UNKNOWN: Final = 16
"""Pairs that are not the newest of their keys in such an answer: their sizes are not known before reading."""


def read_small(
    index: KeyIndex, records: Records, revision: Revision, query: Range, bound: int
) -> tuple[Found | None, int]:
    """The answer to a read at a bound in key order without filters, if it is small (`SMALL_KEYS`,
    `SMALL_BYTES`, few records from the disk), else None; and the units of work done. `revision` is the one in
    the header of the answer.
    """
    key, range_end, limit = query.key, query.range_end, max(query.limit, 0)
    if index.log.newest < bound:
        count, units = index.count_live(key, range_end), 0
    else:
        known, units = _count_before(index, query, bound)
        if known is None:
            return None, units
        count = known
    if query.count_only:
        return Found(revision, [], count), units
    wanted = min(limit, count) if limit else count
    if wanted > SMALL_KEYS:
        return None, units
    units += wanted
    backwards = query.sort_order == DESCEND
    keys = index.keys_at(key, range_end, bound, backwards=backwards) if wanted else ()
    if index.log.newest < bound:
        items = index.items
        found = items.many(islice(keys, wanted))
        if query.keys_only:
            return _bare(revision, found, count, units)
        if sum([item.size for item in found]) > SMALL_BYTES:
            return None, units
        places = [item.at for item in found]
    else:
        seen = _places(index, keys, bound, wanted)
        if seen is None:
            return None, units
        places = seen
    if not records.are_near(places, _MOST_FAR):
        return None, units
    kvs = records.get_many(places)
    units += len(kvs) + sum(map(len, kvs)) // UNIT_BYTES
    if query.keys_only:
        kvs = [keyvalue.without_value(record) for record in kvs]
    return Found(revision, kvs, count, 0 < limit < count), units


def _bare(revision: Revision, items: list[Item], count: int, units: int) -> tuple[Found | None, int]:
    """The newest pairs of these keys without their values: all of that is in the index, so no record is read
    and the size of the values does not matter.
    """
    size = sum([len(item.key) for item in items])
    if size > SMALL_BYTES:
        return None, units
    encode = keyvalue.encode_bare
    kvs = [encode(item.key, item.created, item.at >> NUMBER_BITS, item.version, item.lease) for item in items]
    return Found(revision, kvs, count, len(kvs) < count), units + len(kvs) + size // UNIT_BYTES


def _count_before(index: KeyIndex, query: Range, bound: int) -> tuple[int | None, int]:
    """How many keys existed in the range at the bound, None if that takes too much work; and the units of
    work done.
    """
    log = index.log
    key, range_end = query.key, query.range_end
    if not range_end:
        item = index.items.get(key)
        return int(item is not None and pair_below(item, bound) > 0), 0
    since = log.find(bound >> NUMBER_BITS)
    if log.end - since <= _MOST_CHANGES:
        growth = index.growth(key, range_end, bound, log.newest + 1, (since, log.end))
        return index.count_live(key, range_end) - growth, (log.end - since) // 2
    if index.count_near(key, range_end, bound) > SMALL_KEYS:
        return None, 0
    items = index.items
    return sum(1 for each in index.keys_at(key, range_end, bound) if pair_below(items[each], bound)), 0


def _places(index: KeyIndex, keys: Iterable[bytes], bound: int, wanted: int) -> list[int] | None:
    items = index.items
    places: list[int] = []
    size = unknown = 0
    for each in islice(keys, _MOST_LOOKED):
        item = items[each]
        place = item.at
        if place < bound:
            if place & DELETED:
                continue
            size += item.size
        else:
            place = pair_below(item, bound)
            if not place:
                continue
            unknown += 1
        places.append(place)
        if len(places) >= wanted:
            break
    is_small = len(places) == wanted and size <= SMALL_BYTES and unknown <= _MOST_UNKNOWN
    return places if is_small else None
