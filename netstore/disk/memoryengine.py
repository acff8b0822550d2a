"""An engine in memory with the same contract as `engine.LmdbEngine`, for tests and the simulator, which
choose what a crash loses.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from netstore.disk.merged import take_pairs
from netstore.errors import StateDamaged
from netstore.seams import SHORT_KEY_BYTES
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.disk.overlay import Changes
    from netstore.disk.tables import Pair
    from netstore.disk.threads import CallSoon

    Done = Callable[[OSError | None], None]


def _ignore() -> None:
    """Nobody waits for the engine."""


class MemoryEngine:
    """See `seams.Engine`. Writes are durable after `commit`, `sync` or `close`, not before."""

    def __init__(self, call_soon: CallSoon, tables: Sequence[str]) -> None:
        self._call_soon = call_soon
        self._seen: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._kept: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._journal: list[tuple[Index, Changes]] = []
        self._prepared: Changes = {}
        self._durable = Index(0)
        self._failure: OSError | None = None
        self.eased: Callable[[], object] = _ignore
        """See `seams.Engine`. Never called: this engine never has `excess_bytes`."""
        self.pull: Callable[[], object] = _ignore
        """See `seams.Engine`."""
        self._is_stale = False

    def applied(self) -> Index:
        return self._journal[-1][0] if self._journal else self._durable

    def durable(self) -> Index:
        return self._durable

    def excess_bytes(self) -> int:
        """See `seams.Engine`. Always 0: what is not durable has no bound here."""
        return 0

    def failing(self) -> bool:
        """See `seams.Engine`."""
        return self._failure is not None

    def count(self, table: str) -> int | None:
        """See `seams.Engine`."""
        return len(self._seen[table])

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """See `seams.Engine`."""
        return StateDamaged(f"table {table}, key {key!r}: there is no such record")

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._seen[table].get(key)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._seen[table].items()
        return iter(
            sorted((key, value) for key, value in pairs if start <= key and (end is None or key < end))
        )

    def some(self, table: str, start: bytes, most: int, size: int) -> tuple[list[Pair], bytes | None]:
        """See `seams.Engine`."""
        pairs = self._seen[table].items()
        found = sorted((len(key) > SHORT_KEY_BYTES, key, value) for key, value in pairs)
        place = bisect_left(found, (len(start) > SHORT_KEY_BYTES, start))
        return take_pairs(((key, value) for _, key, value in found[place:]), most, size, None)

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`."""
        self._prepared.update(changes)
        _change(self._seen, changes)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        if applied < self.applied():
            raise ValueError(f"applied index {applied} after {self.applied()}")
        self._is_stale = False
        prepared, self._prepared = self._prepared, {}
        prepared.update(changes)
        self._journal.append((applied, prepared))
        _change(self._seen, changes)

    def changed(self) -> None:
        """See `seams.Engine`."""
        self._is_stale = True

    def sync(self, done: Done) -> None:
        if self._failure is None:
            self.commit()
        self._call_soon(partial(done, self._failure))

    def close(self) -> None:
        """See `seams.Engine`; OSError after `fail`."""
        if self._failure is not None:
            raise self._failure
        self.commit()

    def install(self, snapshot: object, done: Done) -> None:
        """See `seams.Engine`. `snapshot` is another engine of this kind; its durable state is taken over."""
        if not isinstance(snapshot, MemoryEngine):
            raise TypeError(f"{snapshot!r} is not a copy of an engine in memory")
        if self._failure is None:
            self._seen, self._kept = snapshot.kept(), snapshot.kept()
            self._durable = snapshot.durable()
            self._journal.clear()
            self._prepared = {}
            self._is_stale = False
        self._call_soon(partial(done, self._failure))

    def commit(self, writes: int | None = None) -> None:
        """Make the oldest `writes` durable that are not; None: all. What is to be pulled is, first."""
        if self._is_stale:
            self.pull()
        count = len(self._journal) if writes is None else writes
        for applied, changes in self._journal[:count]:
            _change(self._kept, changes)
            self._durable = applied
        del self._journal[:count]

    def fail(self, error: OSError | None) -> None:
        """From now on every sync fails with this; None: they succeed again."""
        self._failure = error

    def kept(self) -> dict[str, dict[bytes, bytes]]:
        """A copy of the tables as far as they are durable."""
        return {name: dict(pairs) for name, pairs in self._kept.items()}

    def crash(self) -> MemoryEngine:
        """The engine as it opens after a power loss, with what was durable."""
        twin = MemoryEngine(self._call_soon, tuple(self._kept))
        twin._seen, twin._kept, twin._durable = self.kept(), self.kept(), self._durable
        return twin


def _change(tables: dict[str, dict[bytes, bytes]], changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
    for (table, key), value in changes.items():
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value
