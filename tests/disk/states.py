"""State files to damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import lmdb

from netstore.disk.tables import Changes, Tables
from netstore.types import Index
from tests.disk.opened import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAP: Final = 1 << 24


def write(path: Path, *commits: Changes) -> None:
    tables = Tables.open(path, TABLES, MAP)
    for changes in commits:
        tables.write(Index(tables.summary.applied + 1), b"note", changes)
    tables.close()


LARGE: Final[tuple[Changes, ...]] = (
    {("plain", b"%04d" % number): b"v" * (20 + number % 7) for number in range(300)}
    | {("plain", b"k" * 600): b"long", ("other", b"big"): b"x" * 9000},
    {("plain", b"%04d" % number): b"newer" for number in range(0, 300, 9)},
    {("plain", b"%04d" % number): None for number in range(0, 300, 50)} | {("other", b"small"): b""},
)
"""A few pages of each kind: branch, leaf, overflow and free pages; long keys."""


SMALL: Final[tuple[Changes, ...]] = (
    {("plain", b"%d" % number): b"value %d" % number for number in range(9)},
    {("plain", b"k" * 600): b"long", ("other", b"big"): b"x" * 5000, ("plain", b"3"): None},
)
"""The same without branch pages, and smaller."""


def make_state(path: Path, commits: Sequence[Changes] = LARGE) -> Path:
    """A state that was written in these commits."""
    write(path, *commits)
    return path


def raw(path: Path, change: Any) -> None:
    """Change the file without `Tables`, so that checksums and summary stay as they are."""
    with lmdb.open(str(path), subdir=False, max_dbs=20, map_size=MAP) as env, env.begin(write=True) as txn:
        change(env, txn)


def spoil(path: Path, value: bytes) -> None:
    """Flip a bit of this value in the file."""
    at = path.read_bytes().find(value)
    assert at > 0
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes((value[0] ^ 1,)))
