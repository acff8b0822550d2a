"""LMDB's file as a file: whether it has all its pages, and opening it with a map that fits the address space.

LMDB reads its file through a memory map. A page beyond the end of the file would end the process (SIGBUS), so
the length is checked before the file is opened.
"""

from __future__ import annotations

import os
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING, Final

import lmdb

from netstore.codec import layout
from netstore.errors import StateDamaged
from netstore.inputfile import open_regular

if TYPE_CHECKING:
    from pathlib import Path

MAX_DATABASES: Final = 64

HEADROOM_BYTES: Final = 384 << 20
"""Address space that the map leaves to everything else: a log segment that is read, the buffers of a small
budget, and the stacks and arenas of a few threads.
"""

_MIN_MAP_BYTES: Final = 16 << 20

_META: Final = layout("16xIIQQ48xIHHQQQQQQQ")
"""LMDB's meta page (0.9, 64 bits): page header; magic, version, address and size of the map; the tree of free
pages (skipped); of the tree of databases its page size, flags, depth, numbers of branch, leaf and overflow
pages, entries and root; the last page and the transaction.
"""
_PAGE_SIZE_OFFSET: Final = 40
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
_META_MAGIC: Final = 0xBEEFC0DE
_META_VERSION: Final = 1


def damaged(path: Path, what: str) -> StateDamaged:
    """The exception for a file that is not what was written."""
    return StateDamaged(
        f"{path}: {what}; nothing was changed: restore this member from its peers or from a backup"
    )


def missing_bytes(path: Path) -> int:
    """How many bytes the file is shorter than its newest meta page says. 0 for a file that does not exist or
    is empty: it is new.

    StateDamaged when it is no LMDB file.
    """
    try:
        with open_regular(path) as file:
            first = file.read(_META.size)
            page = int.from_bytes(first[_PAGE_SIZE_OFFSET : _PAGE_SIZE_OFFSET + 4], "little")
            file.seek(page)
            second = file.read(_META.size)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return 0
    if not size:
        return 0
    newest, pages = -1, 0
    for data in (first, second):
        if len(data) == _META.size:
            magic, version, *_, last, transaction = _META.unpack(data)
            if magic == _META_MAGIC and version == _META_VERSION and transaction > newest:
                newest, pages = transaction, last + 1
    if newest < 0 or page not in _PAGE_SIZES:
        raise damaged(path, "not a state that can be read (its first pages are not those of one)")
    return max(0, pages * page - size)


def check_length(path: Path) -> None:
    """StateDamaged when the file is cut short."""
    missing = missing_bytes(path)
    if missing:
        raise damaged(path, f"cut short: the last {missing} bytes are gone")


def extend_to_length(path: Path) -> None:
    """Make the file as long as its meta page says. LMDB does not write pages that a transaction allocated and
    freed again, also when they are the last ones of the file.
    """
    missing = missing_bytes(path)
    if missing:
        os.truncate(path, path.stat().st_size + missing)


def has_address_space(size: int) -> bool:
    """Whether a map of this size is possible. LMDB unmaps the file before it maps it anew, so a second map
    that fails would leave none at all.
    """
    try:
        mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS, prot=0).close()
    except OSError:
        return False
    return True


def open_mapped(path: Path, map_bytes: int) -> lmdb.Environment:
    """Open to read and write. The map is halved, down to the size of the file, where there is not enough
    address space for `map_bytes`.
    """
    least = max(_MIN_MAP_BYTES, path.stat().st_size if path.exists() else 0)
    while map_bytes // 2 >= least and not has_address_space(map_bytes + HEADROOM_BYTES):
        map_bytes //= 2
    while True:
        try:
            return lmdb.open(
                str(path),
                subdir=False,
                map_size=map_bytes,
                max_dbs=MAX_DATABASES,
                mode=0o600,
                readahead=False,
            )
        except lmdb.MemoryError:
            if map_bytes // 2 < least:
                raise
            map_bytes //= 2
