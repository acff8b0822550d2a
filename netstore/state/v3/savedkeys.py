"""The key index as it is saved at a clean stop, and waking the entries of a loaded one.

A saved index is columns: all keys in order, and for each key the fields of its entry as packed numbers. What
is loaded at once are the keys, which takes 0.2 us each; the entry of a key (`index.Item`) is made when it is
asked for, and no other (`Sleeping`). So a start takes a twentieth of the time that reading the records takes,
and a key that nobody asks for costs half the memory.

Nothing of it is trusted beyond what `disk.keptindex` guarantees: that these bytes were written for exactly
the state that the engine holds. Every record is verified when it is read, as always.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from itertools import compress, starmap, takewhile
from operator import eq
from typing import TYPE_CHECKING, Final, NamedTuple, overload

import msgspec
from sortedcontainers import SortedList  # type: ignore[import-untyped]  # it has no annotations

from netstore.codec import Malformed
from netstore.parted import FREE_STEP, Parted
from netstore.state.v3.index import NUMBER_BITS, PLACE_BYTES, ChangeLog, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from netstore.state.v3.index import KeyIndex
    from netstore.state.v3.records import Records
    from netstore.types import Revision

BLOCK: Final = 256
"""Keys that are handled together, at most: making their entries takes 0.15 ms."""

LAYOUT: Final = f"1 {sys.byteorder} {array('q').itemsize} {array('I').itemsize}"
"""Version of the columns, and how this machine packs numbers. Bytes with another one are ignored."""

_LOW: Final = (1 << NUMBER_BITS) - 1


class Head(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What must fit, and the numbers that are not columns."""

    layout: str
    stored: tuple[int, int, int]
    """Revision, compacted and swept."""
    records: int
    """How many there are in the engine."""
    size: int
    """`Records.size`."""
    newest_deletion: int
    changes: int
    """How many there are in the log of changes."""
    keys: int


class SavedKeys(NamedTuple):
    """A saved index: a head and columns of bytes, in the order of `_columns`."""

    head: bytes
    columns: list[bytes]


def save(
    index: KeyIndex, size: int, records: int, stored: tuple[Revision, Revision, Revision]
) -> SavedKeys | None:
    """The index as columns. None if it does not have all of so many records, or while a compaction is being
    swept: what is left to erase is known from the records alone. It takes 1 us for each key. The index must
    not be used any more.

    `size` is `Records.size`; `stored` are revision, compacted and swept.
    """
    _, compacted, swept = stored
    if swept != compacted:
        return None
    keys: list[bytes] = sorted([*index.live, *index.dead]) if index.dead else list(index.live)
    columns = _Columns.empty()
    items = index.items.many(keys)
    for start in range(0, len(items), BLOCK):
        columns.add(items[start : start + BLOCK])
    if len(columns.past) // PLACE_BYTES + len(keys) != records:
        return None
    for number, item in enumerate(items):
        item.at = number  # for the log of changes, which has keys
    log = index.log
    order = array("I")
    for start in range(log.first, log.end, BLOCK):
        changed = index.items.many(log.keys(start, min(start + BLOCK, log.end)))
        order.extend([item.at for item in changed])
    revisions, numbers = log.columns()
    head = Head(LAYOUT, stored, records, size, index.newest_deletion, len(order), len(keys))
    packed = [
        msgspec.msgpack.encode(keys),
        *columns.packed(),
        *[column.tobytes() for column in (revisions, numbers, order)],
    ]
    return SavedKeys(msgspec.msgpack.encode(head), packed)


def restore(
    saved: SavedKeys,
    index: KeyIndex,
    records: Records,
    move_lease: Callable[[bytes, int, int], None],
    stored: tuple[Revision, Revision, Revision],
) -> bool:
    """Fill an empty index. False, with nothing changed, if the saved one is of another layout or another
    state. 0.2 us for each key.
    """
    try:
        head = msgspec.msgpack.decode(saved.head, type=Head)
        if head.layout != LAYOUT or head.stored != stored or records.lacking(head.records):
            return False
        keys = msgspec.msgpack.decode(saved.columns[0], type=list[bytes])
        columns = _Columns.of(saved.columns[1:9], head.keys)
        revisions, numbers, order = (
            _column(kind, data, head.changes) for kind, data in zip("qII", saved.columns[9:], strict=True)
        )
        if len(keys) != head.keys or head.keys + len(columns.past) // PLACE_BYTES != head.records:
            return False
        log = ChangeLog.of(revisions, numbers, keys, order)
    except (msgspec.MsgspecError, Malformed, ValueError, IndexError):
        return False
    index.log = log
    index.newest_deletion = head.newest_deletion
    versions = columns.numbers[_VERSION]
    if 0 in versions:
        index.dead = SortedList([key for key, version in zip(keys, versions, strict=True) if not version])
        index.live = SortedList(list(compress(keys, versions)))
    else:
        index.live = SortedList(keys)
    leases = columns.numbers[_LEASE]
    for key, lease in compress(zip(keys, leases, strict=True), leases):
        move_lease(key, 0, lease)
    if keys:
        index.items = Sleeping(index, keys, columns)
    records.size = head.size
    return True


_KINDS: Final = "qIqqqqq"
"""How the numbers of each field are packed: revision and number of `Item.at`, `size`, `created`, `version`,
`lease`, and where the past places of the key end.
"""
_VERSION: Final = 4
_LEASE: Final = 5


class _Columns(NamedTuple):
    """The fields of the entries of all keys, in the order of the keys."""

    numbers: list[array[int]]
    """One for each of `_KINDS`."""
    past: bytearray

    @classmethod
    def empty(cls) -> _Columns:
        """For `add`."""
        return cls([array(kind) for kind in _KINDS], bytearray())

    @classmethod
    def of(cls, packed: list[bytes], keys: int) -> _Columns:
        """The inverse of `packed`. Malformed if the lengths do not fit."""
        *numbers, past = packed
        columns = cls(
            [_column(kind, data, keys) for kind, data in zip(_KINDS, numbers, strict=True)], bytearray(past)
        )
        if (columns.numbers[-1][-1] if keys else 0) != len(past):
            raise Malformed(f"{len(past)} bytes of past places")
        return columns

    def add(self, items: list[Item]) -> None:
        """Append the entries of the next keys."""
        revision, number, size, created, version, lease, past_end = self.numbers
        revision.extend([item.at >> NUMBER_BITS for item in items])
        number.extend([item.at & _LOW for item in items])
        size.extend([item.size for item in items])
        created.extend([item.created for item in items])
        version.extend([item.version for item in items])
        lease.extend([item.lease for item in items])
        past = self.past
        for item in items:
            if item.past is not None:
                past += item.past
            past_end.append(len(past))

    def packed(self) -> list[bytes]:
        """The columns as bytes."""
        return [*[column.tobytes() for column in self.numbers], bytes(self.past)]

    def item(self, key: bytes, at: int) -> Item:
        """The entry of the key with this number."""
        revision, number, size, created, version, lease, past_end = self.numbers
        past_at = past_end[at - 1] if at else 0
        past = self.past[past_at : past_end[at]] if past_end[at] > past_at else None
        place = revision[at] << NUMBER_BITS | number[at]
        return Item(key, place, size[at], created[at], version[at], lease[at], past)

    def items(self, keys: list[bytes], start: int, end: int) -> Iterator[tuple[bytes, Item]]:
        """The entries of the keys with these numbers; 0.6 us each, where `item` takes a microsecond."""
        past_at = self.numbers[-1][start - 1] if start else 0
        for key, revision, number, size, created, version, lease, past_end in zip(
            keys[start:end], *[column[start:end] for column in self.numbers], strict=True
        ):
            place = revision << NUMBER_BITS | number
            past = self.past[past_at:past_end] if past_end > past_at else None
            past_at = past_end
            yield key, Item(key, place, size, created, version, lease, past)


def _column(kind: str, data: bytes, count: int) -> array[int]:
    column = array(kind)
    column.frombytes(data)
    if len(column) != count:
        raise Malformed(f"a column of {len(column)} numbers, not {count}")
    return column


class Sleeping:
    """The entries of an index that was saved: those that were asked for, and columns for the others. It is
    used as the `Parted` that it stands for, which takes its place in the index when all are made.
    """

    __slots__ = ("_awake", "_columns", "_index", "_is_made", "_keys", "_left")

    def __init__(self, index: KeyIndex, keys: list[bytes], columns: _Columns) -> None:
        """`keys` are sorted."""
        self._index = index
        self._keys = keys
        self._columns = columns
        self._is_made = bytearray(len(keys))
        """For each key whether its entry was made; it may be removed since."""
        self._left = len(keys)
        """Entries that are still to be made."""
        self._awake: Parted[bytes, Item] = Parted()

    def _wake(self, key: bytes) -> Item | None:
        """Make the entry of a key, if it is still to be made. O(log n), 2 us."""
        keys = self._keys
        at = bisect_left(keys, key)
        if at == len(keys) or self._is_made[at] or keys[at] != key:
            return None
        own = keys[at]
        self._awake[own] = item = self._columns.item(own, at)
        self._is_made[at] = 1
        self._count(1)
        return item

    def _wake_some(self, wanted: list[bytes]) -> None:
        """Make the entries of these keys, which takes half as long where they follow each other."""
        keys, at = self._keys, 0
        while at < len(wanted):
            start = bisect_left(keys, wanted[at])
            run = 0
            if keys[start : start + 2] == wanted[at : at + 2]:
                pairs = zip(keys[start : start + BLOCK], wanted[at : at + BLOCK], strict=False)
                run = sum(takewhile(bool, starmap(eq, pairs)))
                self._wake_run(start, start + run)
            else:
                self._wake(wanted[at])
            at += run or 1

    def _wake_run(self, start: int, end: int) -> None:
        """Make those of these entries that are still to be made."""
        awake = self._awake
        made = self._is_made[start:end]
        for (key, item), is_made in zip(self._columns.items(self._keys, start, end), made, strict=True):
            if not is_made:
                awake[key] = item
        self._is_made[start:end] = b"\1" * len(made)
        self._count(len(made) - sum(made))

    def _count(self, made: int) -> None:
        self._index.woken += made
        self._left -= made
        if not self._left:
            self._index.items = self._awake
            self._keys, self._columns = [], _Columns.empty()

    def _whole(self) -> Parted[bytes, Item]:
        """All entries, made now."""
        count = len(self._keys)
        for start in range(0, count, BLOCK):
            self._wake_run(start, min(start + BLOCK, count))
        return self._awake

    @overload
    def get(self, key: bytes, default: None = None) -> Item | None: ...

    @overload
    def get(self, key: bytes, default: Item) -> Item: ...

    def get(self, key: bytes, default: Item | None = None) -> Item | None:
        """As `Parted.get`."""
        item = self._awake.get(key) or self._wake(key)
        return default if item is None else item

    def __getitem__(self, key: bytes) -> Item:
        item = self._awake.get(key) or self._wake(key)
        if item is None:
            raise KeyError(key)
        return item

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __setitem__(self, key: bytes, item: Item) -> None:
        self._wake(key)  # or the entry that is still to be made would replace this one
        self._awake[key] = item

    def __delitem__(self, key: bytes) -> None:
        self._wake(key)
        del self._awake[key]

    def many(self, keys: Iterable[bytes]) -> list[Item]:
        """As `Parted.many`."""
        wanted = keys if isinstance(keys, list) else list(keys)
        awake = self._awake
        asleep = [key for key in wanted if key not in awake]
        if asleep:
            self._wake_some(asleep)
        return awake.many(wanted)

    def __len__(self) -> int:
        return len(self._whole())

    def values(self) -> Iterator[Item]:
        """As `Parted.values`; makes all entries."""
        return self._whole().values()

    def __eq__(self, other: object) -> bool:
        return self._whole() == (other._whole() if isinstance(other, Sleeping) else other)

    __hash__ = None  # type: ignore[assignment]  # mutable, as a dictionary

    def free_steps(self) -> Iterator[None]:
        """As `Parted.free_steps`."""
        keys = self._keys
        while keys:
            del keys[-FREE_STEP:]
            yield
        self._columns = _Columns.empty()
        yield from self._awake.free_steps()
