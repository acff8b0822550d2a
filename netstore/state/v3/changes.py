"""The history of changes in order, in bounded parts, for watches that catch up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from netstore.intervals import TO_THE_END
from netstore.state.v3.index import (
    DELETED,
    NUMBER_BITS,
    PLACE_BYTES,
    bound_after,
    pair_below,
    past_below,
    past_place,
)
from netstore.types import KeyChange, Revision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.v3.index import ChangeLog, KeyIndex
    from netstore.state.v3.records import Records


class Present(Protocol):
    """The revisions of the store (`mvcc.Mvcc`), which may change between two parts."""

    revision: Revision
    compacted: Revision
    first_place: int
    next_place: int


def history(  # noqa: PLR0917 - what is read, and the bounds of a part
    store: Present,
    index: KeyIndex,
    records: Records,
    start: Revision,
    key: bytes,
    range_end: bytes,
    *,
    looked: int,
    told: int,
    size: int,
) -> Iterator[tuple[list[KeyChange], Revision]]:
    """See `Mvcc.history`."""
    if not range_end:
        yield _of_key(store, index, records, start, key, looked, told, size)
        return
    log = index.log
    at, end = log.find(start), _end(store, log)
    if at >= end:
        yield [], Revision(max(start, store.revision + 1))
        return
    to_the_end = range_end == TO_THE_END
    left, following = (looked, told, size), Revision(0)
    while not following:
        changes: list[KeyChange] = []
        begin, end, room = at, min(at + max(looked, 1), end), size
        for position, each in enumerate(log.keys(at, end), at):
            if key <= each and (to_the_end or each < range_end):
                if changes and (len(changes) >= told or room <= 0):
                    end = position
                    break
                changes.append(_change(store, index, records, log.place(position), each))
                room -= len(changes[-1].pair)
        at, end = end, _end(store, log)
        left = left[0] - (at - begin), left[1] - len(changes), left[2] - (size - room)
        if at >= end:
            following = Revision(store.revision + 1)
        elif min(left) <= 0:
            end = log.after(at - 1)
            following = Revision(log.revision(at) if at == end else 0)
        yield changes, following


def _of_key(  # noqa: PLR0917 - those of `history`
    store: Present,
    index: KeyIndex,
    records: Records,
    start: Revision,
    key: bytes,
    looked: int,
    told: int,
    size: int,
) -> tuple[list[KeyChange], Revision]:
    """The same for one key, which changes at most a few times in a revision; in one part."""
    places, following = _changed_key(store, index, start, key, looked)
    changes: list[KeyChange] = []
    revision = 0
    for place in places:
        if place >> NUMBER_BITS != revision:
            revision = place >> NUMBER_BITS
            if len(changes) >= told or size <= 0:
                return changes, Revision(revision)
        change = _change(store, index, records, place, key)
        changes.append(change)
        size -= len(change.pair)
    return changes, following


def _changed_key(
    store: Present, index: KeyIndex, start: Revision, key: bytes, looked: int
) -> tuple[list[int], Revision]:
    item = index.items.get(key)
    following = Revision(max(start, store.revision + 1))
    if item is None or item.at >> NUMBER_BITS < start:
        return [], following
    past = item.past or bytearray()
    at = past_below(past, start << NUMBER_BITS)
    count = len(past) // PLACE_BYTES
    end = min(at + max(looked, 1), count)
    if end < count:
        end = past_below(past, bound_after(past_place(past, end - 1) >> NUMBER_BITS))
    places = [past_place(past, number) for number in range(at, end)]
    if end < count:
        following = Revision(past_place(past, end) >> NUMBER_BITS)
    else:
        places.append(item.at)
    if store.next_place != store.first_place:
        present = bound_after(store.revision)
        places = [place for place in places if place < present]
        following = min(following, Revision(store.revision + 1))
    return places, following


def _end(store: Present, log: ChangeLog) -> int:
    """The position in the log after the last change of a finished command."""
    return log.find(store.revision + 1) if store.next_place != store.first_place else log.end


def _change(store: Present, index: KeyIndex, records: Records, place: int, key: bytes) -> KeyChange:
    """A past change, with the place of the pair before it if that was not compacted (v3 API, prev_kv)."""
    revision = Revision(place >> NUMBER_BITS)
    before = pair_below(index.items[key], place) if revision > store.compacted else 0
    return KeyChange(key, revision, records.get(place), bool(place & DELETED), before)
