"""The records of the v3 keys by place: unsaved ones, a cache of recently used ones, and the engine.

A record is the encoded pair (`keyvalue`), of a deletion its key and mod_revision. It never changes, so cache
entries are always valid.
"""

from __future__ import annotations

from itertools import repeat
from operator import methodcaller
from typing import TYPE_CHECKING, Final

from netstore.errors import StateDamaged
from netstore.state.tables import RECORDS
from netstore.state.v3.index import PLACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from netstore.seams import Engine

RECENT_BYTES: Final = 12 * 1024 * 1024
"""Bytes of each of the two generations of the cache: 10,000 objects of 1 KiB."""

_RECENT_COST: Final = 100
"""What a record takes in the cache beside its own bytes, about."""


class _Recent:
    """A cache of records written or read recently, by place. Two generations: a record that is found in the
    older one is added to the younger; when that is full, the older one is dropped and the younger takes its
    place, so that no single record has to be chosen for eviction.
    """

    __slots__ = ("old", "room", "young")

    def __init__(self) -> None:
        self.young: dict[int, bytes] = {}
        self.old: dict[int, bytes] = {}
        self.room = RECENT_BYTES
        """Bytes left in the younger generation."""

    def keep(self, place: int, record: bytes) -> None:
        """Add a record."""
        self.room -= len(record) + _RECENT_COST
        if self.room < 0:
            self.old, self.young = self.young, {}
            self.room = RECENT_BYTES
        self.young[place] = record

    def keep_new(self, places: Sequence[int], records: Sequence[bytes], size: int) -> None:
        """Add records that are not here, which have so many bytes."""
        cost = size + _RECENT_COST * len(records)
        if cost <= self.room:
            self.room -= cost
            self.young.update(zip(places, records, strict=True))
        else:
            for place, record in zip(places, records, strict=True):
                self.keep(place, record)


_key_of: Final = methodcaller("to_bytes", PLACE_BYTES, "big")
"""The key in the engine of the record at a place."""


class Records:
    """All records that can be read, and their changes for the engine.

    Reading a record that is missing raises StateDamaged.
    """

    __slots__ = ("_engine", "_recent", "_unsaved", "size")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent = _Recent()
        self._unsaved: dict[tuple[str, bytes], bytes | None] = {}
        self.size = 0
        """Bytes of all records and their keys in the engine."""

    def add(self, places: Sequence[int], records: Sequence[bytes]) -> None:
        """Add the records of changes, which are new. Nothing of it is done for each one in Python."""
        size = sum(map(len, records))
        self._unsaved.update(
            zip(zip(repeat(RECORDS), map(_key_of, places), strict=False), records, strict=True)
        )
        self._recent.keep_new(places, records, size)
        self.size += size + PLACE_BYTES * len(records)

    def erase(self, stored: bytes) -> int:
        """Erase the record with this key of the engine; returns its size."""
        size = len(self._peek(int.from_bytes(stored, "big")))
        self.size -= PLACE_BYTES + size
        self._unsaved[RECORDS, stored] = None
        return size

    def take_unsaved(self) -> dict[tuple[str, bytes], bytes | None]:
        """The changes for the engine since the last call."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def get(self, place: int) -> bytes:
        """The record at a place; it is cached."""
        recent = self._recent
        record = recent.young.get(place)
        if record is None:
            record = recent.old.get(place) or self._stored_one(place)
            recent.keep(place, record)
        return record

    def get_many(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places; they are cached. 0.1 us each if in the younger generation, else 2 us,
        where `get` takes 5.
        """
        found = list(map(self._recent.young.get, places))
        if None not in found:
            return found  # type: ignore[return-value]  # checked just now
        missing = [place for place, record in zip(places, found, strict=True) if record is None]
        fetched = iter(self._fetch(missing) if missing else ())
        return [next(fetched) if record is None else record for record in found]

    def are_near(self, places: Sequence[int], most: int) -> bool:
        """Whether at most so many of these records are not in the cache. 0.05 us each."""
        recent = self._recent
        if len(places) <= most:
            return True
        missing = [place for place in places if place not in recent.young]
        if len(missing) > most:
            missing = [place for place in missing if place not in recent.old]
        return len(missing) <= most

    def peek_many(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places, without caching them: for large reads, which would evict others."""
        recent = self._recent
        young, old = recent.young, recent.old
        try:
            return list(map(young.__getitem__, places))
        except KeyError:
            found = [young.get(place) or old.get(place) for place in places]
        if None not in found:
            return found  # type: ignore[return-value]  # as was just seen
        missing = [place for place, record in zip(places, found, strict=True) if record is None]
        stored = iter(self.stored(missing) if missing else ())
        return [next(stored) if record is None else record for record in found]

    def _peek(self, place: int) -> bytes:
        recent = self._recent
        return recent.young.get(place) or recent.old.get(place) or self._stored_one(place)

    def _stored_one(self, place: int) -> bytes:
        stored = (RECORDS, place.to_bytes(PLACE_BYTES, "big"))
        record = self._unsaved.get(stored)
        if record is None:
            record = self._engine.get(*stored)
            if record is None:
                raise self._engine.lost(*stored)
        return record

    def _fetch(self, places: Sequence[int]) -> list[bytes]:
        keep, old = self._recent.keep, self._recent.old
        found = [old.get(place) for place in places]
        missing = [place for place, record in zip(places, found, strict=True) if record is None]
        stored = iter(self.stored(missing) if missing else ())
        records = [next(stored) if record is None else record for record in found]
        for place, record in zip(places, records, strict=True):
            keep(place, record)
        return records

    def stored(self, places: Sequence[int]) -> list[bytes]:
        """The records at these places out of the unsaved ones and the engine, not out of the cache."""
        unsaved = self._unsaved
        keys = [place.to_bytes(PLACE_BYTES, "big") for place in places]
        found = [unsaved.get((RECORDS, key)) for key in keys] if unsaved else [None] * len(keys)
        saved = [key for key, record in zip(keys, found, strict=True) if record is None]
        stored = iter(self._engine.get_many(RECORDS, saved) if saved else ())
        records: list[bytes] = []
        for key, known in zip(keys, found, strict=True):
            record = next(stored) if known is None else known
            if record is None:
                raise self._engine.lost(RECORDS, key)
            records.append(record)
        return records

    def lacking(self, found: int) -> str:
        """An error text if the number of records found is not the number written, else empty."""
        count = self._engine.count(RECORDS)
        return "" if count in (None, found) else f"{found} records, {count} were written"

    def some(self, start: bytes, most: int, size: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """The next records from this key of the engine on, at most so many, of about so many bytes; and the
        key to continue from, None at the end. Unsaved records come last, all at once: they are newer, and
        few (`machine.UNSAVED_UNITS`).
        """
        found, following = self._engine.some(RECORDS, start, most, size)
        unsaved = self._unsaved
        if unsaved:
            found = [each for each in found if (RECORDS, each[0]) not in unsaved]
            if following is None:
                found += [
                    (stored, record)
                    for (_, stored), record in unsaved.items()
                    if record is not None and stored >= start
                ]
        return found, following

    def scan(self, start: bytes) -> Generator[tuple[bytes, bytes]]:
        """All records from this key of the engine on, in order: the saved ones, then the unsaved ones."""
        unsaved = self._unsaved
        if not unsaved:
            yield from self._engine.scan(RECORDS, start, None)
            return
        for stored, record in self._engine.scan(RECORDS, start, None):
            if (RECORDS, stored) not in unsaved:
                yield stored, record
        for (_, stored), unsaved_record in unsaved.items():
            if unsaved_record is not None and stored >= start:
                yield stored, unsaved_record


def corrupt(stored: bytes, what: str) -> StateDamaged:
    """The error for a damaged record, with what to do."""
    return StateDamaged(
        f"table {RECORDS}, key {stored!r}: {what}; restore this member from its peers or from a backup"
    )
