"""A table that grows without holding the loop.

A dictionary that has filled its room is built anew, larger, in one piece: 8 ms where it has 350,000 entries,
71 ms where it has 1.4 million. To free one takes as long. Whatever clients can make so many of lies in a
`Parted` instead.
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
"""Entries of the one dictionary that a table begins with. To build it anew takes 0.5 ms."""

PARTS: Final = 256
"""Dictionaries for what comes beyond that. Of five million entries each has 20,000."""

LET_GO_STEP: Final = 2_000
"""Entries that are let go of in one step: 1 ms."""

_ROOMS: Final = 16
"""Parts whose room is given back in one step."""

_MASK: Final = PARTS - 1

_SHIFT: Final = 56
"""The part of a key is told by the bits of its hash from here on, the dictionary of the part looks at the
lower ones first. The hash of bytes and of text is a keyed one, under a secret that Python draws in each
process, so that nobody who chooses keys can choose their part. The hash of a number is the number, which has
no secret; there the text that it is written as is hashed, 70 ns more, in large tables only. A product with a
secret number would not do: of a few numbers whose parts are known the others follow.
"""


class Parted(Generic[K, V]):
    """A mapping made of a number of dictionaries, none of which gets large.

    A small one is one dictionary, and costs little more. When that is full it stays as it is, and keys that
    are new go to one of `PARTS` others, by their hash: nothing is ever moved. So each call is O(1) in the
    worst case, with at most one dictionary of `FIRST` entries, or one in `PARTS` of all, built anew.

    The order of its keys is none. It differs between members, and between two starts of one: nothing that
    must be the same elsewhere, or that is to be fair, may depend on it. Nor may anything that leaves the
    process: it would tell which keys lie in one part, and who knows that can fill it. As with a dictionary,
    no key may come or go while an iterator is used.

    Keys are bytes or numbers.
    """

    __slots__ = ("_at", "_first", "_parts")

    def __init__(self, first: dict[K, V] | None = None) -> None:
        """A table of these, which it takes over: whoever gives them lets go of them. O(1)."""
        self._first: dict[K, V] = {} if first is None else first
        self._parts: list[dict[K, V]] = []
        """None while there is room in the first."""
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

    __hash__ = None  # type: ignore[assignment]  # it changes, as a dictionary does

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
        """As of a dictionary."""
        parts = self._parts
        if parts:
            value = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK].get(key, default)
            if value is not default:
                return value
        return self._first.get(key, default)

    def many(self, keys: Iterable[K]) -> list[V]:
        """The values of these keys; KeyError where one is not there. For who asks for very many."""
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
        """As of a dictionary."""
        if key in self:
            return self[key]
        self[key] = value
        return value

    def update(self, entries: dict[K, V]) -> None:
        """As of a dictionary; `entries` are few."""
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
        """As of a dictionary."""
        parts = self._parts
        if parts:
            part = parts[hash(key if type(key) is bytes else repr(key)) >> _SHIFT & _MASK]
            if key in part:
                return part.pop(key)
        return self._first.pop(key, *default)

    @property
    def is_large(self) -> bool:
        """It is more than one dictionary, or was: whoever is done with it should `let_go`."""
        return bool(self._parts)

    def popitem(self) -> tuple[K, V]:
        """Take out an entry, whichever; KeyError when there is none. Those of the first dictionary go before
        others, and no part is passed over for ever while others fill.
        """
        return self._next().popitem()

    def take(self, most: int) -> list[K]:
        """Take out so many entries, as `popitem`; their keys."""
        taken: list[K] = []
        while part := self._next():
            some = min(most - len(taken), len(part))
            if not some:
                break
            taken += [part.popitem()[0] for _ in range(some)]
        return taken

    def _next(self) -> dict[K, V]:
        """The dictionary to take from: the empty first one where all are."""
        if self._first or not self._parts:
            return self._first
        for at in chain(range(self._at, PARTS), range(self._at)):
            if self._parts[at]:
                self._at = at
                return self._parts[at]
            self._parts[at] = {}  # the room of what it held is given back one by one, too
        self._parts = []  # so it begins anew
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
        """The dictionaries it is made of, for who goes through all of it in steps: each is small enough for
        one, and what comes to a part is behind what was there. They are not to be changed.
        """
        return chain((self._first,), self._parts)

    def let_go(self) -> Iterator[None]:
        """Forget all of it in steps of `LET_GO_STEP`, when nobody looks at it any more: all at once would
        take long.
        """
        while self:
            left, rooms = LET_GO_STEP, _ROOMS
            while left and rooms and self:
                table = self._parts[-1] if self._parts else self._first
                some = min(left, len(table))
                for _ in range(some):
                    table.popitem()
                left -= some
                if self._parts and not table:
                    self._parts.pop()  # and the room it had
                    rooms -= 1
            yield
        while self._parts:
            del self._parts[-_ROOMS:]
            yield


def batches(entries: Iterable[V], most: int) -> Iterator[list[V]]:
    """These in lists of so many."""
    left = iter(entries)
    while some := list(islice(left, most)):
        yield some
