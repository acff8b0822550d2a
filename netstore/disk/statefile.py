"""A snapshot of the state, opened to be read: for backups. Never the file that a running member writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from netstore.disk.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from netstore.types import Index


class StateFile:
    """The tables of a file made by `LmdbEngine.copy_to`. Blocks: for a thread of its own. A context manager.

    Every record is verified when it is read, and a table that is read to its end is verified to be complete:
    StateDamaged if it is not.
    """

    def __init__(self, path: Path) -> None:
        """StateDamaged when it is no state."""
        self._tables = Tables.read(path)

    @property
    def applied(self) -> Index:
        """Index of the last log entry that is part of this state."""
        return self._tables.summary.applied

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (None: to the end), in key order.

        Only keys of up to 511 bytes. Nothing if there is no such table.
        """
        with self._tables.env.begin() as txn:
            yield from self._tables.walk(txn, table, start, end)

    def every(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All pairs of a table: in key order, but keys over 511 bytes, and the empty one, come last."""
        with self._tables.env.begin() as txn:
            yield from self._tables.walk(txn, table, b"", None)
            yield from (pair for _, pair in self._tables.walk_long(txn, table, b"", None))

    def records(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Every record: table, key, value. Table by table; in key order, but keys over 511 bytes, and the
        empty one, come last.
        """
        tables = [
            name for name in self._tables.databases if Tables.long_database(name) in self._tables.databases
        ]
        with self._tables.env.begin() as txn:
            for table in sorted(tables):
                for key, value in self._tables.walk(txn, table, b"", None):
                    yield table, key, value
                for _, (key, value) in self._tables.walk_long(txn, table, b"", None):
                    yield table, key, value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tables.close()
