"""Changes that are not committed to LMDB yet, held in memory and looked up before it.

An `Overlay` is a list of dictionaries (layers), so that none is large. `get` looks in each. A
reader in steps (`merged.read_step`) needs the changes in the order of LMDB's keys, so each layer has an
index: sorted runs of keys, made only when it is asked for, a piece in each call, kept as long as the layer.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from heapq import merge
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from netstore.disk.tables import Pair

    Changes = dict[tuple[str, bytes], bytes | None]
    Locate = Callable[[str, bytes], tuple[str, bytes]]
    """`Tables.locate`."""

CHANGE_COST: Final = 300
"""Bytes that a change takes in memory beside its key and value: two objects, a tuple, two slots of a table.
"""

_LAYER_CHANGES: Final = 40_000
"""Changes in one layer. A dictionary that grows is rehashed in one piece: 1 ms for so many, 50 ms for a
million, which a long command may bring.
"""

_RUN_KEYS: Final = 5_000
"""Keys in one sorted run. New keys are merged into the last run, which moves all of it."""

_HASHED_BYTES: Final = 500
"""Hashing so many bytes of a key that LMDB does not take costs as much as indexing one change."""

_MAX_REPEATS: Final = 4
"""How often each key may be seen, in different layers and on average, before a step ends early."""

_FREE_STEP: Final = 500
"""Changes that are freed before the thread yields: the loop is without the GIL for 0.1 ms."""


class LayerIndex:
    """The LMDB keys of one layer, sorted, of as many of its changes as were indexed so far. A dictionary
    keeps insertion order, so the others are behind those.
    """

    __slots__ = ("_keys", "_runs", "indexed")

    def __init__(self) -> None:
        self.indexed = 0
        """How many changes of the layer are indexed."""
        self._runs: dict[str, list[list[bytes]]] = {}
        """LMDB database -> sorted runs of its keys."""
        self._keys: dict[str, dict[bytes, bytes]] = {}
        """LMDB database -> its key -> the key of the table, where the two differ."""

    def add(self, layer: Changes, work: int, locate: Locate) -> int:
        """Index more of the layer; returns what is left of `work`."""
        fresh: dict[str, list[bytes]] = {}
        for table, key in islice(layer, self.indexed, self.indexed + work):
            database, place = locate(table, key)
            fresh.setdefault(database, []).append(place)
            self.indexed += 1
            work -= 1
            if place is not key:
                self._keys.setdefault(database, {})[place] = key
                work -= len(key) // _HASHED_BYTES
                if work <= 0:
                    break
        for database, places in fresh.items():
            places.sort()
            runs = self._runs.setdefault(database, [])
            if not runs or len(runs[-1]) + len(places) > _RUN_KEYS:
                runs.append(places)
                continue
            run = runs[-1]
            is_sorted = run[-1] < places[0]
            run += places
            if not is_sorted:
                run.sort()
        return work

    def runs(self, database: str, start: bytes) -> Iterator[Iterator[bytes]]:
        """The sorted runs of one database, from `start` on. Nothing is copied."""
        for run in self._runs.get(database, ()):
            at = bisect_left(run, start)
            if at < len(run):
                yield map(run.__getitem__, range(at, len(run)))

    def table_key(self, database: str, place: bytes) -> bytes:
        """The key of the table whose record stands under this key of the database."""
        keys = self._keys.get(database)
        return place if keys is None else keys.get(place, place)

    def clear(self) -> Iterable[dict[bytes, bytes]]:
        """Forget the runs, whose keys are the layer's objects; returns what takes long to free."""
        self._runs.clear()
        return self._keys.values()


class Overlay:
    """Uncommitted changes, in the order they came: one dictionary until it is large, then another. The last
    layer that has a key counts. A look-up in the million changes of a long command takes 1 us.
    """

    __slots__ = ("indexes", "layers")

    def __init__(self) -> None:
        self.layers: list[Changes] = [{}]
        self.indexes = [LayerIndex()]

    def __bool__(self) -> bool:
        return bool(self.layers[0])

    def __len__(self) -> int:
        """How many changes there are; a key that is in several layers counts in each."""
        return sum(map(len, self.layers))

    def update(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """Add changes."""
        if len(self.layers[-1]) >= _LAYER_CHANGES:
            self._add({}, LayerIndex())
        self.layers[-1].update(changes)

    def append(self, other: Overlay) -> None:
        """Add the changes of another overlay, which must not be used afterwards. A large layer is taken over
        with its index; a small one is copied into the last layer without its index, so that repeated failures
        to commit do not add layers.
        """
        for layer, index in zip(other.layers, other.indexes, strict=True):
            if len(self.layers[-1]) + len(layer) > _LAYER_CHANGES:
                self._add(layer, index)
            else:
                self.layers[-1].update(layer)

    def _add(self, layer: Changes, index: LayerIndex) -> None:
        self.layers.append(layer)
        self.indexes.append(index)

    def items(self) -> Iterator[tuple[tuple[str, bytes], bytes | None]]:
        """All changes, oldest layer first, so the last one of each key counts."""
        return chain.from_iterable(layer.items() for layer in self.layers)

    def index(self, work: int, locate: Locate) -> int:
        """Index changes that are not; returns what is left of `work`. If nothing is, there may be more."""
        for layer, index in zip(self.layers, self.indexes, strict=True):
            if index.indexed < len(layer) and work > 0:
                work = index.add(layer, work, locate)
        return work


class NextChanges(NamedTuple):
    """The first uncommitted changes of one LMDB database from some key on."""

    changes: dict[bytes, Pair | None]
    """LMDB key -> key and value, in order; None for a deletion."""
    bound: bytes | None
    """The LMDB key of the next change after these, None if there is none."""
    following: bytes | None
    """The table's key of that change."""


def next_changes(
    overlays: Sequence[Overlay], table: str, database: str, start: bytes, most: int
) -> NextChanges:
    """At most `most` changes from `start` on, without that of the empty key. `overlays` come newest first,
    and all of them must be indexed to the end.

    O(log n) for each sorted run and for each key. Keys that changed in many layers make it return fewer.
    """
    layers: list[tuple[Changes, LayerIndex]] = []
    runs: list[Iterator[tuple[bytes, int]]] = []
    for overlay in overlays:
        for layer, index in zip(reversed(overlay.layers), reversed(overlay.indexes), strict=True):
            runs.extend(zip(run, repeat(len(layers))) for run in index.runs(database, start))
            layers.append((layer, index))
    found: dict[bytes, Pair | None] = {}
    last: bytes | None = None
    for seen, (place, number) in enumerate(merge(*runs)):
        if place == last:
            continue  # the first of them is of the newest layer
        last = place
        layer, index = layers[number]
        key = index.table_key(database, place)
        if not key:
            continue
        if len(found) >= most or (found and seen >= _MAX_REPEATS * most):
            return NextChanges(found, place, key)
        value = layer[table, key]
        found[place] = None if value is None else (key, value)
    return NextChanges(found, None, None)


def memory_cost(changes: Mapping[tuple[str, bytes], bytes | None]) -> int:
    """Bytes that changes take in memory. 0.1 us each."""
    size = CHANGE_COST * len(changes)
    for (_, key), value in changes.items():
        size += len(key) + (0 if value is None else len(value))
    return size


def free_in_steps(changes: Overlay) -> None:
    """Empty an overlay that nobody reads any more, in a thread that yields to the loop in between. Freeing it
    in one piece would hold the GIL for long.
    """
    for layer, index in zip(changes.layers, changes.indexes, strict=True):
        for keys in index.clear():
            _empty(keys)
        _empty(layer)


def _empty(table: dict[bytes, bytes] | Changes) -> None:
    while table:
        for _ in range(min(_FREE_STEP, len(table))):
            table.popitem()
        os.sched_yield()
