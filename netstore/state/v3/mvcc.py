"""The v3 keys and their history (multi-version store): an index in memory, key-value pairs in the engine.

Every change has a place (`index`), whose twelve bytes are the key of its record in the engine. The record is
the encoded pair (`keyvalue`), of a deletion its key and mod_revision. In memory are, for each key that has a
record: the place, size, create_revision, version and lease of its newest state, and the places of its older
states; two sorted lists, of the keys that exist and of the deleted ones; and, for each change since the last
compaction, its place and key. Of the pairs only recently used ones are in memory (`records`).

This module has the writes, and reads of the newest state. `smallreads` has reads that are answered in one
call, `reads` those in steps, `changes` the history for watches, `loading` builds the index at a start,
`compaction` and `hashes` work in steps between requests.

Invariants:
 1. Records are never changed. A read at a revision that is not compacted always returns the same.
 2. The revision changes in `finish`, once in a command, and only if something was written: by one, or by the
    number of revisions that the command made (`begin_revision`). A command may be carried out in pieces
    (`delete_steps`); until it is finished, its changes and revisions are not visible outside.
 3. What a compaction removes is decided at once, in the command; records and index entries are erased later,
    in bounded steps (`sweep`). No answer depends on the progress of that, and what an open read needs is
    kept.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice, repeat
from operator import and_, attrgetter, rshift
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.errors import Fault, Reason, refusal
from netstore.limits import Budget
from netstore.state.checksum import RunningChecksum
from netstore.state.tables import LOAD_BYTES, LOAD_STEP
from netstore.state.v3 import keyvalue, savedkeys, smallreads
from netstore.state.v3.changes import history
from netstore.state.v3.commands import BY_KEY, CREATE, MOD, VERSION, Found, Range
from netstore.state.v3.compaction import SWEEP_STEP, Pins, Sweep
from netstore.state.v3.hashes import HASH_STEP, Hash, Hashes
from netstore.state.v3.index import (
    DELETED,
    NUMBER_BITS,
    PLACE_BYTES,
    Item,
    KeyIndex,
    bound_after,
    remember,
)
from netstore.state.v3.loading import read, sort
from netstore.state.v3.origins import Origins
from netstore.state.v3.parts import Parts
from netstore.state.v3.reads import MEASURED_BYTES, READ_BYTES, UNBOUNDED, RangeRead
from netstore.state.v3.records import Records
from netstore.state.v3.scan import is_filtered
from netstore.state.v3.smallreads import SMALL_BYTES
from netstore.types import KeyChange, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from netstore.seams import Engine
    from netstore.state.v3.reads import Encode
    from netstore.state.v3.savedkeys import SavedKeys

NEVER: Final = Revision(-1)
"""The compacted revision of a store that was never compacted."""

DELETE_STEP: Final = 64
"""Keys deleted in one step."""

DELETE_MICROSECONDS: Final = 10
"""Units of the deletion of one key."""

_revision_of: Final = attrgetter("revision")


class Mvcc:
    """The keys at `revision` and at every revision back to `compacted`.

    Writing: any number of `put` and `delete_steps`, then `finish`. The caller has checked that they cannot
    fail (`txn`). Saving: `take_records`. Watching: `take_changes`, `history`.
    """

    delete_step: int = DELETE_STEP

    def __init__(
        self,
        engine: Engine,
        move_lease: Callable[[bytes, int, int], None],
        reads: Budget | None = None,
    ) -> None:
        """`move_lease(key, before, after)` is called when a key changes its lease (0: none); `reads` is the
        memory budget of all stepwise reads.
        """
        self._engine = engine
        self._move_lease = move_lease
        self.checksum = RunningChecksum()
        """Every record that is written is added to it."""
        self.origins = Origins(engine)
        """When and by whom revisions were written."""
        self._pins = Pins()
        self.read_budget = reads or Budget(READ_BYTES)
        self.read_units = 0
        """Units of work (`reads`) of answers in one call so far, beyond those of a read of one key: whoever
        makes such an answer adds its units.
        """
        self._measured = self.read_budget.share(min(MEASURED_BYTES, self.read_budget.limit // 3))
        self._parts = Parts(self.read_budget)
        self.loaded = 0
        """Records read since `load_steps` began."""
        self.changed = 0
        """Puts and deletions of single keys that were taken by `take_changes`, since the start."""
        self.deleted = 0
        """Deletions of single keys since the start."""
        self.erased = 0
        """Records that were erased after compactions since the start."""
        self.ranges = 0
        """Ranges of transactions and of the log since the start."""
        self.is_from_saved = False
        """`load_steps` has used a saved index, and read no records."""
        self._reset(Revision(1), NEVER, NEVER)

    def _reset(self, revision: Revision, compacted: Revision, swept: Revision) -> None:
        self.revision = revision
        """That of the last finished command that changed something."""
        self.compacted = compacted
        """Reads at earlier revisions are refused."""
        self.suspended = False
        """The state is being replaced: reads are refused until it is loaded."""
        self.first_place = self.next_place = bound_after(revision)
        """The places of the first and of the next change of the unfinished command: equal if it has written
        nothing.
        """
        self._index = KeyIndex()
        self._records = Records(self._engine)
        self._parts.follow(self._index)
        self._hashes = Hashes(self._index, self._records)
        self._sweep = Sweep(self._index, self._records, swept)
        self._pins.lost = True
        self._pins = Pins()
        self.origins.clear()
        self._written: list[tuple[int, bytes, bytes, int]] = []
        """What was written and not entered yet (`_enter`): place, key, record, and the place of the pair
        before.
        """
        self._changes: list[KeyChange] = []
        """In order; those above `revision` belong to the unfinished command."""

    @property
    def size(self) -> int:
        """Bytes of all stored records and of their keys in the engine."""
        if self._written:
            self._enter()
        return self._records.size

    @property
    def swept(self) -> Revision:
        """The revision up to which the erasing after compactions is finished."""
        return self._sweep.swept

    def load_steps(
        self,
        revision: Revision,
        compacted: Revision,
        swept: Revision,
        step: int = LOAD_STEP,
        step_bytes: int = LOAD_BYTES,
        *,
        whole: bool = False,
        saved: SavedKeys | None = None,
    ) -> Iterator[None]:
        """Replace the keys by those in the engine, given the stored scalars. First come steps that free the
        old index, then steps of about so many records or bytes; reads are refused until the last. With
        `whole` the records are read by one scan, which also verifies their checksum.

        O(records), 5 us each, or 0.2 us for each key if the index was saved for this state (`savedkeys`).
        StateDamaged if they cannot be read.
        """
        hashes, before = self._hashes, self._index
        self._reset(revision, compacted, swept)
        self.loaded = 0
        self.suspended = True
        hashes.end()
        yield from before.free_steps()
        stored, self.suspended = (revision, compacted, swept), False
        self.is_from_saved = saved is not None and savedkeys.restore(
            saved, self._index, self._records, self._move_lease, stored
        )
        if self.is_from_saved:
            return
        self.suspended = True
        for found, is_all in read(self._index, self._records, revision, swept, step, step_bytes, whole=whole):
            self.loaded = found
            if not is_all:
                yield
        yield from sort(self._index, self._move_lease, step, whole=whole)
        self.suspended = False

    def saved_keys(self, records: int) -> SavedKeys | None:
        """See `Machine.saved_keys`."""
        if self.suspended or self.next_place != self.first_place:
            return None
        self._enter()
        self.suspended = True
        stored = (self.revision, self.compacted, self.swept)
        return savedkeys.save(self._index, self._records.size, records, stored)

    # --- writing

    @property
    def current(self) -> Revision:
        """The revision of what has been written so far, within a command too."""
        return Revision((self.next_place - 1) >> NUMBER_BITS)

    @property
    def bound(self) -> int:
        """The bound (`index`) of the current state, within a command too: a read there sees what was written
        so far and nothing that is written later.
        """
        return self.next_place

    def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Write a pair; returns the place of the pair before, 0 if there was none. O(log n) for a new key."""
        place = self.next_place
        self.next_place = place + 2
        revision = place >> NUMBER_BITS
        index = self._index
        item = index.items.get(key)
        before = 0
        if item is None:
            index.items[key] = item = Item(key, place, 0, revision, 1, lease)
            index.live.add(key)
            if lease:
                self._move_lease(key, 0, lease)
        else:
            old = item.at
            if item.past is None:
                item.past = bytearray()
            item.past += old.to_bytes(PLACE_BYTES, "big")
            item.at = place
            if old & DELETED:
                index.dead.remove(key)
                index.live.add(key)
                item.created = revision
                item.version = 1
            else:
                before = old
                item.version += 1
            if lease != item.lease:
                self._move_lease(key, item.lease, lease)
                item.lease = lease
        record = keyvalue.encode(key, item.created, revision, item.version, value=value, lease=lease)
        item.size = len(record)
        self.checksum.add(record)
        self._written.append((place, item.key, record, before))
        return before

    def delete(self, key: bytes) -> None:
        """Delete a key that exists."""
        self._delete(self._index.items[key])

    def delete_steps(self, key: bytes, range_end: bytes) -> Generator[int, None, int]:
        """Delete the keys in the range, in order; returns their number. After each step of `delete_step` keys
        it yields the units that the step took; nothing else may be written then.
        """
        index, most = self._index, self.delete_step
        count = 0
        while gone := list(islice(index.live_keys(key, range_end), most)):
            for each in gone:
                self._delete(index.items[each])
            count += len(gone)
            yield len(gone) * DELETE_MICROSECONDS
            if len(gone) < most:
                break
        return count

    def _delete(self, item: Item) -> None:
        index, key = self._index, item.key
        self.deleted += 1
        place = self.next_place | DELETED
        self.next_place += 2
        revision = Revision(place >> NUMBER_BITS)
        before = item.at
        remember(item)
        index.live.remove(key)
        index.dead.add(key)
        index.newest_deletion = place
        if item.lease:
            self._move_lease(key, item.lease, 0)
        record = keyvalue.encode_deletion(key, revision)
        item.at = place
        item.size = len(record)
        item.created = item.version = item.lease = 0
        self.checksum.add(record)
        self._written.append((place, key, record, before))

    def _enter(self) -> None:
        """Enter what was written into the records, the log of the index and the changes for watchers: at the
        end of a turn all of it together, and before anything reads there.
        """
        if not self._written:
            return
        written, self._written = self._written, []
        places, keys, records, befores = zip(*written, strict=True)
        self._records.add(places, records)
        self._index.log.extend(places, keys)
        revisions = map(rshift, places, repeat(NUMBER_BITS))
        deleted = map(bool, map(and_, places, repeat(DELETED)))
        self._changes += map(KeyChange, keys, revisions, records, deleted, befores)

    def begin_revision(self) -> None:
        """Start another revision of the command, if it has written anything in the current one."""
        self.next_place = bound_after(self.current)

    def finish(self) -> Revision:
        """Finish the command: the revision changes if something was written."""
        place = self.next_place
        if place != self.first_place:
            first = self.revision + 1
            self.revision = revision = (place - 1) >> NUMBER_BITS  # type: ignore[assignment]  # `current`
            origins = self.origins
            origins.note((first, revision, origins.payload))
            self.first_place = self.next_place = (revision + 1) << NUMBER_BITS  # `bound_after`
        return self.revision

    def compact(self, revision: int) -> Fault | None:
        """Forget the history before `revision`: its state at `revision` and all later changes are kept."""
        if revision <= self.compacted:
            return refusal(Reason.COMPACTED)
        if revision > self.revision:
            return refusal(Reason.FUTURE_REVISION)
        self.compacted = Revision(revision)
        return None

    # --- reading

    def get(self, key: bytes) -> bytes | None:
        """The pair of a key, None if it does not exist."""
        item = self._index.items.get(key)
        return self.pair(item.at) if item is not None and item.version else None

    def lease_of(self, key: bytes) -> int:
        """The lease that a key is attached to, 0 for none."""
        item = self._index.items.get(key)
        return 0 if item is None else item.lease

    def exists(self, key: bytes) -> bool:
        """Whether the key exists now."""
        item = self._index.items.get(key)
        return item is not None and item.version > 0

    def number(self, key: bytes, target: int) -> int:
        """The number of a key that `Compare.target` names; 0 if the key does not exist."""
        item = self._index.items.get(key)
        return 0 if item is None or not item.version else _number(item, target)

    def size_of(self, key: bytes) -> int:
        """Bytes of the newest record of a key, 0 if there is none."""
        item = self._index.items.get(key)
        return 0 if item is None else item.size

    def count(self, key: bytes, range_end: bytes) -> int:
        """How many keys in the range exist now. O(log n)."""
        return self._index.count_live(key, range_end)

    def numbers(self, key: bytes, range_end: bytes, target: int) -> Iterator[int]:
        """The `number` of each existing key in the range, lazily."""
        items = self._index.items
        return (_number(items[each], target) for each in self._index.live_keys(key, range_end))

    def values(self, key: bytes, range_end: bytes) -> Iterator[bytes]:
        """The value of each existing key in the range, lazily."""
        self._enter()
        items = self._index.items
        for each in self._index.live_keys(key, range_end):
            yield keyvalue.decode(self._records.get(items[each].at)).value

    def pair(self, place: int) -> bytes:
        """The record at a place (`KeyChange.before`) that was not erased since."""
        self._enter()
        return self._records.get(place)

    def check_revision(self, revision: int) -> Fault | None:
        """A Fault if this revision cannot be read; 0 and below stand for the current one."""
        if self.suspended:
            return errors.timed_out(Reason.TIMED_OUT_LEADER)
        if revision > self.revision:
            return refusal(Reason.FUTURE_REVISION)
        return refusal(Reason.COMPACTED) if 0 < revision < self.compacted else None

    def range(self, query: Range, bound: int = 0) -> Found | Fault:
        """Read keys at a revision in one call, however long that takes (v3 API, Range). If a bound (`index`)
        is given, it replaces `query.revision`.
        """
        found = self.read_small(query, bound)
        if found is not None:
            return found
        read = self.read(query, bound)
        if isinstance(read, Fault):
            return read
        read.measure(UNBOUNDED)
        kvs: list[bytes] = []
        is_all = False
        while not is_all:
            given, is_all = read.give(UNBOUNDED)
            kvs += given
        return Found(self.revision, kvs, read.count, read.more)

    def read(self, query: Range, bound: int = 0, encode: Encode | None = None) -> RangeRead | Fault:
        """Open a stepwise read; a bound replaces `query.revision`. What it reads is not erased until it is
        closed. Refused if the open reads hold all of their memory budget. With `encode`, which must be the
        same in all calls, pairs are returned encoded.
        """
        self._enter()
        revision = query.revision if not bound else 0
        fault = self.check_revision(revision)
        if fault is not None:
            return fault
        if self.read_budget.over:
            self.clear_parts()
            if self.read_budget.over:
                return errors.too_many()
        bound = bound or bound_after(revision if revision > 0 else self.revision)
        return RangeRead(
            self._index,
            self._records,
            query,
            bound,
            self.read_budget,
            self._measured,
            self._pins,
            encode,
            self._parts,
        )

    def clear_parts(self) -> None:
        """Free what the budget of reads holds for later lists only (`parts`): somebody needs it now."""
        self._parts.clear()

    def read_small(self, query: Range, bound: int = 0) -> Found | Fault | None:
        """The answer to a read if it is small (`smallreads`), else None. A bound (`index`) replaces
        `query.revision`.

        One key: about 3 us; the newest state of a key is read here, which saves a call. A range: O(log n) and
        about 2 us for each pair in the answer.
        """
        if self._written:
            self._enter()
        revision = query.revision if not bound else 0
        if revision > 0 or self.suspended:
            fault = self.check_revision(revision)
            if fault is not None:
                return fault
        if (
            not bound
            and not query.range_end
            and revision <= 0
            and self.next_place == self.first_place
            and not is_filtered(query)
        ):
            item = self._index.items.get(query.key)
            if item is None or not item.version:
                return Found(self.revision, [], 0)
            if query.count_only:
                return Found(self.revision, [], 1)
            if item.size > SMALL_BYTES:
                return None
            record = self._records.get(item.at)
            return Found(self.revision, [keyvalue.without_value(record) if query.keys_only else record], 1)
        if query.sort_target != BY_KEY or is_filtered(query):
            return None
        bound = bound or bound_after(revision if revision > 0 else self.revision)
        index = self._index
        woken = index.woken
        found, units = smallreads.read_small(index, self._records, self.revision, query, bound)
        self.read_units += units + index.woken - woken
        return found

    # --- changes

    def history(
        self, start: Revision, key: bytes, range_end: bytes, *, looked: int, told: int, size: int
    ) -> Iterator[tuple[list[KeyChange], Revision]]:
        """The changes in the range from revision `start` on, in parts. With the last part comes the revision
        to continue from, which is beyond the current one if nothing is left; with the others 0. `start` must
        not be before `compacted`. Between two parts the state may change, but not be replaced, and `start`
        not be compacted.

        All parts together contain at least one revision, and whole ones only; the last is the one in which
        `looked` changes of all keys were looked at, `told` were found, or their pairs have `size` bytes. No
        part is larger than these either, except by one change, however large a revision is. About 0.05 us for
        each change looked at and 4 us for each found.
        """
        self._enter()
        return history(
            self, self._index, self._records, start, key, range_end, looked=looked, told=told, size=size
        )

    @property
    def unpublished(self) -> bool:
        """Whether `take_changes` would return something."""
        self._enter()
        return bool(self._changes) and self._changes[0].revision <= self.revision

    def take_changes(self) -> list[KeyChange]:
        """The changes of finished commands since the last call, in order."""
        self._enter()
        if self.next_place != self.first_place:
            finished = bisect_right(self._changes, self.revision, key=_revision_of)
            changes = self._changes[:finished]
            del self._changes[:finished]
        else:
            changes, self._changes = self._changes, []
        self.changed += len(changes)
        return changes

    # --- compaction, saving

    @property
    def sweeping(self) -> bool:
        """Whether `sweep` has something to do that no open read prevents: one prevents erasing records that
        existed at its revision or later.
        """
        if self.next_place != self.first_place:
            return False
        if self.swept >= self.compacted:
            return self.origins.erasing
        allowed = self._pins.allow(self.compacted)
        return self.swept < allowed and self._sweep.target <= allowed

    def sweep(self, steps: int = SWEEP_STEP) -> None:
        """Do a step of erasing after compactions: look at so many changes and erase at most as many records
        and one. Call `take_changes` before and save after it.
        """
        if not self.sweeping or self._hashes:
            return
        self._enter()
        if self.swept >= self.compacted:
            self.origins.erase_step()
            return
        allowed = self._pins.allow(self.compacted)
        if self._sweep.target < allowed:
            self._sweep.begin(allowed)
        self.erased += self._sweep.step(steps)
        if self.swept == self._sweep.target:
            self.origins.erase_before(self.swept)

    def take_records(self) -> dict[tuple[str, bytes], bytes | None]:
        """The changes for the engine since the last call."""
        self._enter()
        return self._records.take_unsaved()

    def hash_kv(self, revision: int, done: Callable[[Hash | Fault], None]) -> None:
        """Compute etcd's checksum of the history up to a revision (0: the current one; v3 API, HashKV).
        `done` is called from here if that does not take long, else from `hash_on`.
        """
        fault = self.check_revision(revision)
        if fault is not None:
            done(fault)
        elif self._hashes.ask(Revision(revision) if revision > 0 else self.revision, self.compacted, done):
            self.hash_on()

    @property
    def hashing(self) -> bool:
        """Whether `hash_on` has something to do. Meanwhile nothing is swept."""
        return bool(self._hashes) and self.next_place == self.first_place

    def hash_on(self, records: int = HASH_STEP) -> None:
        """Do a step of the checksum that was asked for first."""
        if self.hashing:
            self._enter()
            self._hashes.step(records)


def _number(item: Item, target: int) -> int:
    if target == MOD:
        return item.at >> NUMBER_BITS
    if target == VERSION:
        return item.version
    return item.created if target == CREATE else item.lease
