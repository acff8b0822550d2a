"""A finished copy of the state, opened to be read: for backups, never the file a running member writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import lmdb

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType


class StateFile:
    """The tables of a file made by `LmdbEngine.copy_to`. Blocks: for a thread of its own. A context manager.

    Tables whose keys are short only: what `LmdbEngine` keeps apart for their length is not seen.
    """

    def __init__(self, path: Path) -> None:
        """NetstoreError when it is no state."""
        try:
            self._env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=64)
        except lmdb.Error as error:
            raise NetstoreError(f"{path}: not a state that can be read ({error})") from error

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (None: to the end), in key order. NetstoreError when it is
        damaged.
        """
        try:
            with self._env.begin() as txn:
                cursor = txn.cursor(self._env.open_db(table.encode(), txn, create=False))
                if not (cursor.set_range(start) if start else cursor.first()):
                    return
                for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                    if end is not None and key >= end:
                        return
                    yield key, value
        except lmdb.NotFoundError:
            return  # no such table: nothing was ever written to it
        except lmdb.Error as error:
            raise NetstoreError(f"{self._env.path()}: table {table} cannot be read ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._env.close()
