"""Reads that merge uncommitted changes with what LMDB has: scans and steps."""

from __future__ import annotations

from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

from netstore.disk.overlay import next_changes
from netstore.errors import StateDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from netstore.disk.overlay import Overlay
    from netstore.disk.shared import SharedTables
    from netstore.disk.tables import Pair


def scan(  # noqa: PLR0917 - what `Engine.scan` is given, and where it looks
    shared: SharedTables,
    table: str,
    start: bytes,
    end: bytes | None,
    changes: dict[bytes, bytes | None],
    on_damage: Callable[[StateDamaged], None],
) -> Generator[Pair]:
    """All pairs with start <= key < end (None: to the end), in key order, `changes` (of this range) applied.
    StateDamaged is reported to `on_damage` before it is raised.

    The first value is an empty pair: taking it begins the read transaction, so that the scan is of that
    moment. The map is not moved until the generator ends or is closed.
    """
    try:
        with shared.reading, shared.tables.env.begin() as txn:
            yield b"", b""
            pairs, long = shared.tables.range(txn, table, start, end)
            if not long and not changes:
                yield from pairs
                return
            stored = (pair for pair in merge(pairs, long, key=itemgetter(0)) if pair[0] not in changes)
            fresh = sorted((key, value) for key, value in changes.items() if value is not None)
            yield from merge(stored, fresh, key=itemgetter(0))
    except StateDamaged as error:
        on_damage(error)
        raise


def read_step(  # noqa: PLR0917 - what `Engine.some` is given, and where it looks
    shared: SharedTables,
    overlays: Sequence[Overlay],
    table: str,
    database: str,
    start: bytes,
    most: int,
    size: int,
) -> tuple[list[Pair], bytes | None]:
    """The next pairs of one LMDB database from its key `start` on, without that of the empty key; and the
    table's key to continue with, None at the end. `overlays` come newest first, and are indexed to the end.
    """
    changes, bound, following = next_changes(overlays, table, database, start, most)
    fresh = [(place, pair) for place, pair in changes.items() if pair is not None]
    with shared.reading, shared.tables.env.begin() as txn:
        if database == table:
            plain = shared.tables.walk(txn, database, start, bound)
            stored: Iterator[tuple[bytes, Pair]] = ((pair[0], pair) for pair in plain)
        else:
            stored = shared.tables.walk_long(txn, table, start, bound)
        older = (each for each in stored if each[0] not in changes and each[1][0])
        both = merge(older, fresh, key=itemgetter(0)) if fresh else older
        return take_pairs((pair for _, pair in both), most, size, following)


def take_pairs(
    pairs: Iterable[Pair], most: int, size: int, following: bytes | None
) -> tuple[list[Pair], bytes | None]:
    """Pairs until there are `most` of them or their values have `size` bytes, and the key to continue with:
    `following` when all were taken.
    """
    found: list[Pair] = []
    for pair in pairs:
        if len(found) >= most or size <= 0:
            return found, pair[0]
        found.append(pair)
        size -= len(pair[1])
    return found, following
