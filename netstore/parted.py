"""A hash table without long pauses.

A dictionary that is full is rebuilt, larger, in one piece: 8 ms with 350,000 entries, 71 ms with 1.4 million.
Freeing one takes as long. Tables that clients can make so large are a `Parted` instead.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

FIRST: Final = 20_000
"""Entries of the dictionary that a table begins with. Rebuilding it takes 0.5 ms."""

PARTS: Final = 256
"""Dictionaries (parts) for all further entries: with five million, each has 20,000."""

FREE_STEP: Final = 2_000
"""Entries that are freed in one step: 1 ms."""

_ROOMS: Final = 16
"""Parts that are freed in one step."""

_MASK: Final = PARTS - 1

_SHIFT: Final = 56
"""The bits of a key's hash from here on select its part; the part's dictionary uses the lower bits first.
Python hashes bytes and text with a secret key drawn in each process, so clients cannot choose keys that fall
into one part. The hash of a number is the number itself; there its decimal text is hashed, 70 ns more, in
large tables only. Multiplying by a secret number would not do: from a few numbers whose parts are known the
parts of others follow.
"""


class Parted(Generic[K, V]):
    """A mapping made of dictionaries, none of which gets large.

    A small one is one dictionary, and costs little more. When that is full it stays as it is, and new keys go
    to one of `PARTS` others, by their hash: no entry is ever moved. So each call is O(1) in the worst case:
    at most it rebuilds one dictionary of `FIRST` entries, or with one in `PARTS` of all.

    Iteration has no defined order. It differs between members, and between two starts of one: nothing that
    must be the same on all members, or fair, may depend on it. It must not leave the process either: it would
    tell which keys share a part, and with that a client could fill one. As with a dictionary, no key may be
    added or removed while an iterator is used.

    Keys are bytes or numbers.
    """

    __slots__ = ("_at", "_first", "_parts")

    def __init__(self, first: dict[K, V] | None = None) -> None:
        """A table of these entries. It keeps this dictionary: the caller must not use it any more. O(1)."""
        self._first: dict[K, V] = {} if first is None else first
        self._parts: list[dict[K, V]] = []
        """Empty while there is room in the first."""
        self._at = 0
        """The part that `popitem` takes from, or looks in first."""
        if len(self._first) >= FIRST:
            self._part()

    def _part(self) -> None:
        self._parts = [{} for _ in range(PARTS)]

    def __repr__(self) -> str:
        return f"<Parted of {len(self)}>"

    def __len__(self) -> int:
        """How many entries there are. O(parts), 5 us in a large table."""
        return sum(map(len, self._parts), len(self._first))

    def __bool__(self) -> bool:
        return bool(self._first) or any(self._parts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Parted):
            return dict(self.items()) == dict(other.items())
        return dict(self.items()) == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable, as a dictionary

    def __contains__(self, key: K) -> bool:
        parts = self._parts
        if parts and key in parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK]:
            return True
        return key in self._first

    def __getitem__(self, key: K) -> V:
        parts = self._parts
        if parts:
            part = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK]
            if key in part:
                return part[key]
        return self._first[key]

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...

    @overload
    def get(self, key: K, default: D) -> V | D: ...

    def get(self, key: K, default: D | None = None) -> V | D | None:
        """As `dict.get`."""
        parts = self._parts
        if parts:
            value = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK].get(key, default)
            if value is not default:
                return value
        return self._first.get(key, default)

    def many(self, keys: Iterable[K]) -> list[V]:
        """The values of these keys; KeyError where one is missing. Faster than one by one."""
        first, parts = self._first, self._parts
        if not parts:
            return [first[key] for key in keys]
        return [
            part[key]
            if key in (part := parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK])
            else first[key]
            for key in keys
        ]

    def __setitem__(self, key: K, value: V) -> None:
        parts, first = self._parts, self._first
        if not parts:
            first[key] = value
            if len(first) >= FIRST:
                self._part()
        elif key in first:
            first[key] = value
        else:
            parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK][key] = value

    def setdefault(self, key: K, value: V) -> V:
        """As `dict.setdefault`."""
        if key in self:
            return self[key]
        self[key] = value
        return value

    def update(self, entries: dict[K, V]) -> None:
        """As `dict.update`, for few entries."""
        if self._parts or len(self._first) + len(entries) > FIRST:
            for key, value in entries.items():
                self[key] = value
        else:
            self._first.update(entries)
            if len(self._first) >= FIRST:
                self._part()

    def __delitem__(self, key: K) -> None:
        parts = self._parts
        if parts:
            part = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK]
            if key in part:
                del part[key]
                return
        del self._first[key]

    @overload
    def pop(self, key: K, /) -> V: ...

    @overload
    def pop(self, key: K, default: D, /) -> V | D: ...

    def pop(self, key: K, /, *default: Any) -> Any:
        """As `dict.pop`."""
        parts = self._parts
        if parts:
            part = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK]
            if key in part:
                return part.pop(key)
        return self._first.pop(key, *default)

    @property
    def is_large(self) -> bool:
        """It has parts, which may be empty: free it with `free_steps`, not at once."""
        return bool(self._parts)

    def popitem(self) -> tuple[K, V]:
        """Remove any entry and return it; KeyError when there is none. Entries of the first dictionary go
        first, then those of one part after the other, so that every entry is removed at some time, even while
        others are added.
        """
        return self._next().popitem()

    def take(self, most: int) -> list[K]:
        """Remove up to `most` entries, as `popitem`, and return their keys."""
        taken: list[K] = []
        while part := self._next():
            some = min(most - len(taken), len(part))
            if not some:
                break
            taken += [part.popitem()[0] for _ in range(some)]
        return taken

    def _next(self) -> dict[K, V]:
        """The dictionary to remove an entry from next; the first one, empty, when all are."""
        if self._first or not self._parts:
            return self._first
        for at in chain(range(self._at, PARTS), range(self._at)):
            if self._parts[at]:
                self._at = at
                return self._parts[at]
            self._parts[at] = {}  # frees the table of the emptied one: one part at a time, too
        self._parts = []  # new keys go to the first one again
        return self._first

    def __iter__(self) -> Iterator[K]:
        return chain(self._first, *self._parts)

    def values(self) -> Iterator[V]:
        """The values."""
        return chain(self._first.values(), chain.from_iterable(part.values() for part in self._parts))

    def items(self) -> Iterator[tuple[K, V]]:
        """The entries."""
        return chain(self._first.items(), chain.from_iterable(part.items() for part in self._parts))

    def parts(self) -> Iterator[dict[K, V]]:
        """The dictionaries it is made of, to walk through all entries in steps: each is small enough for one
        step, and new keys of a part come after the old ones. The caller must not change them.
        """
        return chain((self._first,), self._parts)

    def free_steps(self) -> Iterator[None]:
        """Free all entries, in steps of `FREE_STEP`, because freeing them at once would take long. The
        table must not be used any more.
        """
        while self:
            left, rooms = FREE_STEP, _ROOMS
            while left and rooms and self:
                table = self._parts[-1] if self._parts else self._first
                some = min(left, len(table))
                for _ in range(some):
                    table.popitem()
                left -= some
                if self._parts and not table:
                    self._parts.pop()  # frees its table
                    rooms -= 1
            yield
        while self._parts:
            del self._parts[-_ROOMS:]
            yield


def batches(entries: Iterable[V], most: int) -> Iterator[list[V]]:
    """Split these into lists of `most`."""
    left = iter(entries)
    while some := list(islice(left, most)):
        yield some
