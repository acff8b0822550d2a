"""The v3 keys and their history: an index in memory, pairs by revision in the engine.

Every change has a *place*: its revision, its number within the revision and whether it is a deletion, packed
into one integer in that order (`revision << 32 | number << 1 | deleted`), so that places sort as the changes
happened. The twelve bytes of the place are the key of its record in the engine, and the record is the
ready-made pair (`pair`), of a deletion its key and mod_revision.

In memory there are, for each key that has a record: the place, create_revision, version and lease of its
newest state, and the places of what it was before; two sorted lists, of the keys that exist and of those that
do not any more; and, for each change since the last compaction, the place and the key. No pair stays in
memory: what is not saved yet waits in `_unsaved`, then in the engine.

Invariants:
 1. Records are never changed. A read at a revision that is not compacted gives the same for ever.
 2. The revision moves once in a command (`finish`), and only when something was written.
 3. What compaction forgets is decided at once, in the command; records and index entries go later, in
    bounded steps (`sweep`), and no answer depends on how far that has come.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from contextlib import closing
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from sortedcontainers import SortedList  # type: ignore[import-untyped]  # it has no annotations

from netstore import errors
from netstore.codec import Malformed, crc32c
from netstore.errors import CorruptData, Fault, refusal
from netstore.state import pair
from netstore.state.v3commands import (
    BY_CREATE,
    BY_KEY,
    BY_MOD,
    BY_VALUE,
    BY_VERSION,
    CREATE,
    DESCEND,
    MOD,
    VERSION,
    Found,
    Range,
)
from netstore.types import KeyChange, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from netstore.seams import Engine

RECORDS: Final = "v3"
"""The table of records in the engine."""

NEVER: Final = Revision(-1)
"""The compacted revision of a store that never was."""

TO_THE_END: Final = b"\0"
"""The `range_end` that stands for "every key from there on" (v3 API, key/range_end)."""

SWEEP_STEP: Final = 200
"""Changes looked at in one step of a compaction: 1 to 2 ms."""

HASH_STEP: Final = 500
"""Records hashed in one step: 2 ms."""

MAX_HASHES: Final = 16
"""Checksums that may be asked for at once."""

PLACE_BYTES: Final = 12

RECENT_BYTES: Final = 12 * 1024 * 1024
"""Bytes of records in each of the two generations that are kept in memory: 10,000 objects of 1 KiB."""

_RECENT_COST: Final = 100
"""What a record takes there beside its own bytes, about."""

_MOST_PAIRS: Final = 2**40
"""More than any store holds: a greater limit of an answer is cut to it, and adding one to it is safe."""

_TRIM: Final = 10_000
"""Changes that the log in memory may keep needlessly before its arrays are cut."""

_DELETED: Final = 1
_NUMBER_BITS: Final = 32


class _Item(msgspec.Struct, gc=False):
    """What is known in memory of one key. `created`, `version` and `lease` are 0 when it was deleted."""

    key: bytes
    at: int
    created: int
    version: int
    lease: int
    past: bytearray | None = None
    """Places before `at`, twelve bytes each, oldest first."""


class Hash(NamedTuple):
    """What `Mvcc.hash_kv` tells."""

    checksum: int
    compacted: Revision
    revision: Revision


class _HashRun:
    """A checksum that is being worked out."""

    __slots__ = ("checksum", "compacted", "done", "revision", "start")

    def __init__(self, revision: Revision, compacted: Revision, done: Callable[[Hash | Fault], None]) -> None:
        self.revision = revision
        self.compacted = compacted
        self.done = done
        self.checksum = crc32c(b"key")
        self.start = b""


class _Log:
    """The changes since the last compaction in order: 20 bytes for each beside what others hold anyway."""

    __slots__ = ("_head", "_keys", "_numbers", "_revisions")

    def __init__(self) -> None:
        self._revisions = array("q")
        self._numbers = array("I")
        self._keys: list[bytes] = []
        self._head = 0

    def add(self, place: int, key: bytes) -> None:
        self._revisions.append(place >> _NUMBER_BITS)
        self._numbers.append(place & 0xFFFFFFFF)
        self._keys.append(key)

    @property
    def head(self) -> int:
        """Where the first change lies."""
        return self._head

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, revision: int) -> int:
        """Where the first change lies that is not older than this."""
        return bisect_left(self._revisions, revision, self._head)

    def after(self, at: int) -> int:
        """Where the next revision begins after that of the change at `at`."""
        return bisect_right(self._revisions, self._revisions[at], at)

    def key(self, at: int) -> bytes:
        return self._keys[at]

    def place(self, at: int) -> int:
        return self._revisions[at] << _NUMBER_BITS | self._numbers[at]

    def revision(self, at: int) -> int:
        return self._revisions[at]

    def keys(self, start: int, end: int) -> list[bytes]:
        return self._keys[start:end]

    def forget(self, before: int) -> int:
        """Let go of all changes that lie before this; how far the others have moved to the front."""
        self._head = before
        if before < _TRIM and before * 2 < len(self._keys):
            return 0
        del self._revisions[:before], self._numbers[:before], self._keys[:before]
        self._head = 0
        return before


class _Recent:
    """Records written or read lately, by their places: the same ones are asked for again, by the next list,
    the next update, a watch that shows what was there before. Two generations: what is read in the older one
    joins the younger, and the older one is dropped whole when the younger is full, so that nothing is ever
    looked for to be dropped. A record never changes, so none is ever wrong.
    """

    __slots__ = ("_room", "old", "young")

    def __init__(self) -> None:
        self.young: dict[int, bytes] = {}
        self.old: dict[int, bytes] = {}
        self._room = RECENT_BYTES

    def keep(self, place: int, record: bytes) -> None:
        """Remember a record."""
        self._room -= len(record) + _RECENT_COST
        if self._room < 0:
            self.old, self.young = self.young, {}
            self._room = RECENT_BYTES
        self.young[place] = record


class Mvcc:
    """The keys at `revision` and at every revision back to `compacted`.

    Writing: any number of `put` and `delete_range`, then `finish`. Whoever calls them has checked what may
    fail (`txn`). Saving: `take_records`. Watching: `take_changes`, `history`.
    """

    def __init__(self, engine: Engine, move_lease: Callable[[bytes, int, int], None]) -> None:
        """`move_lease` is told when a key goes from one lease (0: none) to another."""
        self._engine = engine
        self._move_lease = move_lease
        self._reset(Revision(1), NEVER, NEVER)

    def _reset(self, revision: Revision, compacted: Revision, swept: Revision) -> None:
        self.revision = revision
        """Of the last command that changed something."""
        self.compacted = compacted
        """Reads before this are refused."""
        self.swept = swept
        """Nothing is left in the engine of what compaction up to this revision forgets."""
        self.size = 0
        """Bytes of all records that are stored: keys, values and what goes with them."""
        self.suspended = False
        """The engine is about to hold another state: no read is answered until `load`."""
        self._number = 0
        self._items: dict[bytes, _Item] = {}
        self._live: SortedList = SortedList()
        self._dead: SortedList = SortedList()
        self._log = _Log()
        self._sweep_at = 0
        self._unsaved: dict[tuple[str, bytes], bytes | None] = {}
        self._recent = _Recent()
        self._changes: list[KeyChange] = []
        self._hashing: list[_HashRun] = []

    def load(self, revision: Revision, compacted: Revision, swept: Revision) -> None:
        """Become what the engine holds, given what was stored of its scalars.

        O(records), 5 us each. CorruptData when they cannot be read.
        """
        hashing = self._hashing
        self._reset(revision, compacted, swept)
        for run in hashing:
            run.done(errors.timed_out(errors.TIMED_OUT_LEADER))
        items, log = self._items, self._log
        last = 0
        for key_bytes, record in self._engine.scan(RECORDS, b"", None):
            last = place = int.from_bytes(key_bytes, "big")
            try:
                key, created, modified, version, lease, _, _ = pair.fields(record)
            except Malformed as error:
                raise _corrupt(key_bytes, str(error)) from None
            if modified != place >> _NUMBER_BITS or (version == 0) != place & _DELETED:
                raise _corrupt(key_bytes, f"it says revision {modified}, version {version}")
            item = items.get(key)
            if item is None:
                item = items[key] = _Item(key, place, created, version, lease)
            else:
                _remember(item)
                item.at, item.created, item.version, item.lease = place, created, version, lease
            if modified >= swept:
                log.add(place, item.key)
            self.size += PLACE_BYTES + len(record)
        if last >> _NUMBER_BITS > revision:
            raise _corrupt(last.to_bytes(PLACE_BYTES, "big"), f"the state is at revision {revision}")
        self._live = SortedList(key for key, item in items.items() if item.version)
        self._dead = SortedList(key for key, item in items.items() if not item.version)
        for key, item in items.items():
            if item.lease:
                self._move_lease(key, 0, item.lease)

    # --- writing

    @property
    def current(self) -> Revision:
        """The revision that what has been written so far can be seen at."""
        return Revision(self.revision + 1) if self._number else self.revision

    def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Write a pair; the place of the pair before, 0 when there was none. O(log n) for a new key."""
        revision = self.revision + 1
        place = revision << _NUMBER_BITS | self._number << 1
        self._number += 1
        item = self._items.get(key)
        before = 0
        if item is None:
            self._items[key] = item = _Item(key, place, revision, 1, lease)
            self._live.add(key)
            if lease:
                self._move_lease(key, 0, lease)
        else:
            old = item.at
            _remember(item)
            item.at = place
            if old & _DELETED:
                self._dead.remove(key)
                self._live.add(key)
                item.created = revision
                item.version = 1
            else:
                before = old
                item.version += 1
            if lease != item.lease:
                self._move_lease(key, item.lease, lease)
                item.lease = lease
        record = pair.join(key, item.created, revision, item.version, value=value, lease=lease)
        self._record(place, item, record, before)
        return before

    def delete_range(self, key: bytes, range_end: bytes) -> list[int]:
        """Delete what is in the range, in key order; the places of the pairs that were there."""
        gone: list[int] = []
        for each in list(self._live_keys(key, range_end)):
            item = self._items[each]
            revision = self.revision + 1
            place = revision << _NUMBER_BITS | self._number << 1 | _DELETED
            self._number += 1
            before = item.at
            gone.append(before)
            _remember(item)
            self._live.remove(each)
            self._dead.add(each)
            if item.lease:
                self._move_lease(each, item.lease, 0)
            item.at = place
            item.created = item.version = item.lease = 0
            self._record(place, item, pair.join_deleted(each, revision), before)
        return gone

    def finish(self) -> Revision:
        """The command is over: the revision moves if something was written."""
        if self._number:
            self.revision = Revision(self.revision + 1)
            self._number = 0
        return self.revision

    def compact(self, revision: int) -> Fault | None:
        """Forget the history before `revision`: of each key only its state there can still be read."""
        if revision <= self.compacted:
            return refusal(errors.COMPACTED)
        if revision > self.revision:
            return refusal(errors.FUTURE_REVISION)
        self.compacted = Revision(revision)
        self._sweep_at = self._log.head
        return None

    # --- reading

    def get(self, key: bytes) -> bytes | None:
        """The pair of a key as it is now."""
        item = self._items.get(key)
        return self.pair(item.at) if item is not None and item.version else None

    def lease_of(self, key: bytes) -> int:
        """The lease that holds a key, 0 for none."""
        item = self._items.get(key)
        return 0 if item is None else item.lease

    def exists(self, key: bytes) -> bool:
        """Whether the key exists now."""
        item = self._items.get(key)
        return item is not None and item.version > 0

    def number(self, key: bytes, target: int) -> int:
        """What a transaction compares of a key, by `Compare.target`; 0 when the key does not exist."""
        item = self._items.get(key)
        return 0 if item is None or not item.version else _number(item, target)

    def numbers(self, key: bytes, range_end: bytes, target: int) -> list[int]:
        """The same of each key in the range that exists."""
        return [_number(self._items[each], target) for each in self._live_keys(key, range_end)]

    def values(self, key: bytes, range_end: bytes) -> list[bytes]:
        """The value of each key in the range that exists."""
        places = [self._items[each].at for each in self._live_keys(key, range_end)]
        return [pair.split(record).value for record in self.pairs(places)]

    def pair(self, place: int) -> bytes:
        """The record at a place that was told by this object and has not been swept since."""
        recent = self._recent
        record = recent.young.get(place) or recent.old.get(place)
        if record is not None:
            return record
        stored = (RECORDS, place.to_bytes(PLACE_BYTES, "big"))
        record = self._unsaved.get(stored)
        if record is None:
            record = self._engine.get(*stored)
            if record is None:
                raise _corrupt(stored[1], "there is no such record")
        recent.keep(place, record)
        return record

    def pairs(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places. 0.1 us each where they were read lately, else 2 us, where `pair` takes
        5.
        """
        recent = self._recent
        young = recent.young
        found = [young.get(place) for place in places]
        missing = [place for place, record in zip(places, found, strict=True) if record is None]
        fetched = iter(self._fetch(missing) if missing else ())
        return [next(fetched) if record is None else record for record in found]

    def _fetch(self, places: Sequence[int]) -> list[bytes]:
        keep, old = self._recent.keep, self._recent.old
        found = [old.get(place) for place in places]
        missing = [place for place, record in zip(places, found, strict=True) if record is None]
        stored = iter(self._stored(missing) if missing else ())
        records = [next(stored) if record is None else record for record in found]
        for place, record in zip(places, records, strict=True):
            keep(place, record)
        return records

    def _stored(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places as they are stored, or wait for it."""
        unsaved = self._unsaved
        keys = [place.to_bytes(PLACE_BYTES, "big") for place in places]
        found = [unsaved.get((RECORDS, key)) for key in keys] if unsaved else [None] * len(keys)
        saved = [key for key, record in zip(keys, found, strict=True) if record is None]
        stored = iter(self._engine.get_many(RECORDS, saved) if saved else ())
        records: list[bytes] = []
        for key, known in zip(keys, found, strict=True):
            record = next(stored) if known is None else known
            if record is None:
                raise _corrupt(key, "there is no such record")
            records.append(record)
        return records

    def check_revision(self, revision: int) -> Fault | None:
        """Whether this revision can be read; 0 and below stand for the current one."""
        if self.suspended:
            return errors.timed_out(errors.TIMED_OUT_LEADER)
        if revision > self.revision:
            return refusal(errors.FUTURE_REVISION)
        return refusal(errors.COMPACTED) if 0 < revision < self.compacted else None

    def range(self, query: Range, *, from_storage: bool = False) -> Found | Fault:
        """Read keys at a revision (v3 API, Range); with `from_storage` no pair out of memory but those that
        are not saved yet.

        One key: about 3 us. A range: O(log n) and about 2 us for each pair in the answer; with a sort order
        that is not by key, or with a filter, O(keys in the range); at a past revision the count costs
        O(changes since) or O(keys in the range), whichever is less.
        """
        revision = query.revision
        if revision > 0 or self.suspended:
            fault = self.check_revision(revision)
            if fault is not None:
                return fault
            if revision == self.revision and not self._number:
                revision = 0
        if not query.range_end and revision <= 0 and not _is_filtered(query):
            item = self._items.get(query.key)
            if item is None or not item.version:
                return Found(self.current, [], 0)
            if query.count_only:
                return Found(self.current, [], 1)
            record = self.pair(item.at)
            return Found(self.current, [pair.without_value(record) if query.keys_only else record], 1)
        return self._range(query, max(revision, 0), from_storage)

    def _range(self, query: Range, revision: int, from_storage: bool) -> Found:
        key, range_end = query.key, query.range_end
        limit = _most(query)
        count = self._count(key, range_end, revision)
        if query.count_only:
            return Found(self.current, [], count)
        if _is_filtered(query) or query.sort_target != BY_KEY:
            places = self._sorted_places(query, revision)
        else:
            places = self._places(key, range_end, revision, query.sort_order == DESCEND)
        chosen = list(islice(places, limit + 1)) if limit else list(places)
        more = limit > 0 and len(chosen) > limit
        if more:
            chosen.pop()
        kvs = self._stored(chosen) if from_storage else self.pairs(chosen)
        if query.keys_only:
            kvs = [pair.without_value(record) for record in kvs]
        return Found(self.current, kvs, count, more)

    def _places(self, key: bytes, range_end: bytes, revision: int, backwards: bool) -> Iterator[int]:
        """The places of what is in the range at a revision (0: now), by key."""
        items = self._items
        if not revision:
            for each in self._live_keys(key, range_end, backwards):
                yield items[each].at
            return
        if not range_end:
            item = items.get(key)
            place = 0 if item is None else _place_at(item, revision)
            if place:
                yield place
            return
        live = self._live_keys(key, range_end, backwards)
        dead = _between(self._dead, key, range_end, backwards)
        for each in merge(live, dead, reverse=backwards):
            place = _place_at(items[each], revision)
            if place:
                yield place

    def _sorted_places(self, query: Range, revision: int) -> Iterator[int]:
        found = self._rows(query.key, query.range_end, revision)
        if query.limit > 0 and not query.sort_order and not _is_filtered(query):
            # A target without an order: etcd sorts what is first by key, and one more than the limit.
            found = islice(found, _most(query) + 1)
        rows = [
            row
            for row in found
            if _passes(row[1], query.min_mod_revision, query.max_mod_revision)
            and _passes(row[2], query.min_create_revision, query.max_create_revision)
        ]
        target = query.sort_target
        backwards = query.sort_order == DESCEND
        if target == BY_VALUE:
            rows.sort(key=lambda row: pair.split(self.pair(row[0])).value, reverse=backwards)
        elif target != BY_KEY:
            column = {BY_MOD: 1, BY_CREATE: 2, BY_VERSION: 3}[target]
            rows.sort(key=lambda row: row[column], reverse=backwards)
        elif backwards:
            rows.reverse()
        return (row[0] for row in rows)

    def _rows(self, key: bytes, range_end: bytes, revision: int) -> Iterator[tuple[int, int, int, int]]:
        """Place, mod_revision, create_revision and version of what is in the range, by key."""
        if not revision:
            for each in self._live_keys(key, range_end):
                item = self._items[each]
                yield item.at, item.at >> _NUMBER_BITS, item.created, item.version
            return
        for place in self._places(key, range_end, revision, backwards=False):
            _, created, modified, version, _, _, _ = pair.fields(self.pair(place))
            yield place, modified, created, version

    def _count(self, key: bytes, range_end: bytes, revision: int) -> int:
        """How many keys are in the range at a revision (0: now)."""
        if not range_end:
            item = self._items.get(key)
            if item is None:
                return 0
            return int(_place_at(item, revision) > 0 if revision else item.version > 0)
        if range_end != TO_THE_END and range_end <= key:
            return 0
        now = _count_between(self._live, key, range_end)
        if not revision:
            return now
        log = self._log
        since = log.find(revision + 1)
        if len(log) - since > now + _count_between(self._dead, key, range_end):
            return sum(1 for _ in self._places(key, range_end, revision, backwards=False))
        changed = {
            each
            for each in log.keys(since, len(log))
            if key <= each and (range_end == TO_THE_END or each < range_end)
        }
        items = (self._items[each] for each in changed)
        return now + sum((_place_at(item, revision) > 0) - (item.version > 0) for item in items)

    def _live_keys(self, key: bytes, range_end: bytes, backwards: bool = False) -> Iterable[bytes]:
        """The keys in the range that exist now, in order."""
        if range_end:
            return _between(self._live, key, range_end, backwards)
        item = self._items.get(key)
        return (key,) if item is not None and item.version else ()

    # --- history

    def history(
        self, start: Revision, key: bytes, range_end: bytes, *, looked: int, told: int, size: int
    ) -> tuple[list[KeyChange], Revision]:
        """The changes in the range from revision `start` on, and the revision to go on from, which is beyond
        the present when nothing is left. `start` must not be before `compacted`.

        At least one revision, never cut, and no more once `looked` changes of all keys were looked at, `told`
        were found or their pairs have `size` bytes. About 0.05 us for each looked at and 4 us for each found.
        """
        if range_end:
            found, following = self._changed(start, key, range_end, looked)
        else:
            found, following = self._changed_key(start, key, looked)
        changes: list[KeyChange] = []
        revision = 0
        for place, each in found:
            if place >> _NUMBER_BITS != revision:
                revision = place >> _NUMBER_BITS
                if len(changes) >= told or size <= 0:
                    return changes, Revision(revision)
            change = self._change(place, each)
            changes.append(change)
            size -= len(change.pair)
        return changes, following

    def _changed(
        self, start: Revision, key: bytes, range_end: bytes, looked: int
    ) -> tuple[list[tuple[int, bytes]], Revision]:
        log = self._log
        at = log.find(start)
        if at == len(log):
            return [], Revision(max(start, self.revision + 1))
        end = log.after(min(at + max(looked, 1), len(log)) - 1)
        to_the_end = range_end == TO_THE_END
        found = [
            (log.place(at + offset), each)
            for offset, each in enumerate(log.keys(at, end))
            if key <= each and (to_the_end or each < range_end)
        ]
        return found, Revision(log.revision(end) if end < len(log) else self.revision + 1)

    def _changed_key(
        self, start: Revision, key: bytes, looked: int
    ) -> tuple[list[tuple[int, bytes]], Revision]:
        item = self._items.get(key)
        following = Revision(max(start, self.revision + 1))
        if item is None or item.at >> _NUMBER_BITS < start:
            return [], following
        past = item.past or bytearray()
        at = _count_past(past, start)
        count = len(past) // PLACE_BYTES
        end = min(at + max(looked, 1), count)
        if end < count:
            end = _count_past(past, (_past(past, end - 1) >> _NUMBER_BITS) + 1)
        places = [_past(past, number) for number in range(at, end)]
        if end < count:
            following = Revision(_past(past, end) >> _NUMBER_BITS)
        else:
            places.append(item.at)
        return [(place, key) for place in places], following

    def _change(self, place: int, key: bytes) -> KeyChange:
        """A change of the past, the pair before it included if that can still be read (v3 API, prev_kv)."""
        revision = Revision(place >> _NUMBER_BITS)
        before = _before(self._items[key], place) if revision > self.compacted else 0
        return KeyChange(key, revision, self.pair(place), bool(place & _DELETED), before)

    @property
    def unpublished(self) -> bool:
        """Whether `take_changes` has something to give."""
        return bool(self._changes)

    def take_changes(self) -> list[KeyChange]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # --- compaction, saving

    @property
    def sweeping(self) -> bool:
        """Whether something is left to do for `sweep`."""
        return self.swept < self.compacted

    def sweep(self, steps: int = SWEEP_STEP) -> None:
        """Do a part of what compaction has left to do: look at so many changes and erase at most as many
        records and one. Call `take_changes` before and save after it.
        """
        if not self.sweeping or self._hashing:
            return
        log = self._log
        end = log.find(self.compacted + 1)
        stop = min(self._sweep_at + steps, end)
        while self._sweep_at < stop and steps > 0:
            erased, is_done = self._sweep_key(log.key(self._sweep_at), steps)
            steps -= erased
            self._sweep_at += is_done
        if self._sweep_at == end:
            self.swept = self.compacted
        # Changes at the compacted revision itself stay: a watch may start there.
        self._sweep_at -= log.forget(min(self._sweep_at, log.find(self.compacted)))

    def _sweep_key(self, key: bytes, most: int) -> tuple[int, bool]:
        """Erase what of a key cannot be read any more: how many records were erased, whether it was all."""
        item = self._items.get(key)
        if item is None:
            return 0, True
        compacted = self.compacted
        past = item.past or bytearray()
        readable = _count_past(past, compacted + 1)
        if item.at >> _NUMBER_BITS <= compacted:
            kept, needless = item.at, readable
        elif readable:
            kept, needless = _past(past, readable - 1), readable - 1
        else:
            return 0, True
        is_gone = bool(kept & _DELETED) and kept >> _NUMBER_BITS < compacted
        if is_gone and kept != item.at:
            needless += 1
        count = min(needless, most)
        for number in range(count):
            self._erase(bytes(past[number * PLACE_BYTES : (number + 1) * PLACE_BYTES]))
        del past[: count * PLACE_BYTES]
        item.past = past or None
        if count < needless:
            return count, False
        if is_gone and kept == item.at:
            self._erase(kept.to_bytes(PLACE_BYTES, "big"))
            self._dead.remove(key)
            del self._items[key]
        return count, True

    def take_records(self) -> dict[tuple[str, bytes], bytes | None]:
        """What the engine has to be told of the changes since the last call."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def hash_kv(self, revision: int, done: Callable[[Hash | Fault], None]) -> None:
        """Work out the checksum of the history up to a revision (0: all), etcd's (v3 API, HashKV), by which
        members are compared. `done` is called from here when it does not take long, else from `hash_on`.
        """
        fault = self.check_revision(revision)
        if fault is None and len(self._hashing) >= MAX_HASHES:
            fault = errors.too_many()
        if fault is not None:
            done(fault)
            return
        run = _HashRun(Revision(revision) if revision > 0 else self.revision, self.compacted, done)
        self._hashing.append(run)
        if self._hashing[0] is run:
            self.hash_on()

    @property
    def hashing(self) -> bool:
        """Whether there is something to do for `hash_on`. Meanwhile nothing is swept."""
        return bool(self._hashing)

    def hash_on(self, records: int = HASH_STEP) -> None:
        """Work on the checksum that was asked for first: so many records, 3 us each."""
        if not self._hashing:
            return
        run = self._hashing[0]
        seen = 0
        with closing(self._records(run.start)) as stored:
            for key, record in islice(stored, records):
                seen += 1
                run.start = key + b"\0"
                if int.from_bytes(key[:8], "big") > run.revision:
                    seen = 0
                    break
                self._hash(run, key, record)
        if seen < records:
            del self._hashing[0]
            run.done(Hash(run.checksum, run.compacted, run.revision))

    def _hash(self, run: _HashRun, stored: bytes, record: bytes) -> None:
        place = int.from_bytes(stored, "big")
        key = pair.fields(record)[0]
        deleted = place & _DELETED
        if place >> _NUMBER_BITS <= run.compacted and (
            deleted or place != _newest(self._items[key], run.revision)
        ):
            return
        number = (place & 0xFFFFFFFF) >> 1
        checksum = crc32c(b"%b_%b" % (stored[:8], number.to_bytes(8, "big")), run.checksum)
        run.checksum = crc32c(b"t" + pair.join_key(key) if deleted else record, checksum)

    def _records(self, start: bytes) -> Generator[tuple[bytes, bytes], None, None]:
        unsaved = self._unsaved
        for stored, record in self._engine.scan(RECORDS, start, None):
            if (RECORDS, stored) not in unsaved:
                yield stored, record
        for (_, stored), unsaved_record in unsaved.items():
            if unsaved_record is not None and stored >= start:
                yield stored, unsaved_record

    def _record(self, place: int, item: _Item, record: bytes, before: int) -> None:
        self._unsaved[RECORDS, place.to_bytes(PLACE_BYTES, "big")] = record
        self._recent.keep(place, record)
        self.size += PLACE_BYTES + len(record)
        key = item.key
        self._log.add(place, key)
        self._changes.append(
            KeyChange(key, Revision(place >> _NUMBER_BITS), record, bool(place & _DELETED), before)
        )

    def _erase(self, stored: bytes) -> None:
        self.size -= PLACE_BYTES + len(self.pair(int.from_bytes(stored, "big")))
        self._unsaved[RECORDS, stored] = None


def _number(item: _Item, target: int) -> int:
    if target == MOD:
        return item.at >> _NUMBER_BITS
    if target == VERSION:
        return item.version
    return item.created if target == CREATE else item.lease


def _remember(item: _Item) -> None:
    place = item.at.to_bytes(PLACE_BYTES, "big")
    if item.past is None:
        item.past = bytearray(place)
    else:
        item.past += place


def _count_past(past: bytearray, revision: int) -> int:
    """How many of the places are of an earlier revision than this."""
    bound = bytearray(revision.to_bytes(8, "big"))
    count = len(past) // PLACE_BYTES
    return bisect_left(range(count), bound, key=lambda n: past[n * PLACE_BYTES : n * PLACE_BYTES + 8])


def _newest(item: _Item, revision: int) -> int:
    """The last place of the key at a revision, be it a deletion; 0 when it has none so far back."""
    if item.at >> _NUMBER_BITS <= revision:
        return item.at
    past = item.past
    count = 0 if past is None else _count_past(past, revision + 1)
    return 0 if past is None or not count else _past(past, count - 1)


def _place_at(item: _Item, revision: int) -> int:
    """The place of the key's pair at a revision; 0 when it did not exist then."""
    place = _newest(item, revision)
    return 0 if place & _DELETED else place


def _past(past: bytearray, number: int) -> int:
    return int.from_bytes(past[number * PLACE_BYTES : (number + 1) * PLACE_BYTES], "big")


def _before(item: _Item, place: int) -> int:
    """The place of the pair before the one at `place`; 0 when the key did not exist."""
    past = item.past
    if past is None:
        return 0
    number = len(past) // PLACE_BYTES
    if place != item.at:
        number = bisect_left(range(number), place, key=lambda each: _past(past, each))
    earlier = _past(past, number - 1) if number else _DELETED
    return 0 if earlier & _DELETED else earlier


def _most(query: Range) -> int:
    """How many pairs an answer may have; 0 for any number."""
    return min(max(query.limit, 0), _MOST_PAIRS)


def _is_filtered(query: Range) -> bool:
    return bool(
        query.min_mod_revision
        or query.max_mod_revision
        or query.min_create_revision
        or query.max_create_revision
    )


def _passes(number: int, least: int, most: int) -> bool:
    return (not least or number >= least) and (not most or number <= most)


def _between(keys: SortedList, key: bytes, range_end: bytes, backwards: bool) -> Iterator[bytes]:
    found: Iterator[bytes] = iter(())
    if range_end == TO_THE_END:
        found = keys.irange(key, reverse=backwards)
    elif range_end > key:
        found = keys.irange(key, range_end, (True, False), reverse=backwards)
    return found


def _count_between(keys: SortedList, key: bytes, range_end: bytes) -> int:
    end: int = len(keys) if range_end == TO_THE_END else keys.bisect_left(range_end)
    start: int = keys.bisect_left(key)
    return end - start


def _corrupt(stored: bytes, what: str) -> CorruptData:
    return CorruptData(
        f"table {RECORDS}, key {stored!r}: {what}; restore this member from its peers or from a backup"
    )
