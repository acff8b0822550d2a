"""Gives free pages of a state back to the file system, before the state is opened.

LMDB uses the pages again that are free, and never makes its file smaller. While a member runs the free pages
are what the next writes need, and a copy of the file would have to stop commits for as long as it takes. At a
start nothing waits yet, so that is when a file that is mostly free is replaced by a copy of its used pages.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import lmdb

from netstore.disk.datadir import sync_folder
from netstore.disk.tables import Tables
from netstore.disk.verification import verify
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COPY_FILE: Final = "compacted.part"
"""The copy until it is whole; a start removes what an earlier one left (`snapshots.recover_install`)."""

LEAST_FREE_BYTES: Final = 64 << 20
"""A file with less in free pages stays as it is: that is a moment's writing."""

SPARE_BYTES: Final = 256 << 20
"""What remains free on the disk beside the copy, or no copy is made."""

_LOOK_SECONDS: Final = 1.0


def compact(
    state: Path,
    copying: Callable[[int], object],
    verifying: Callable[[int], object],
    failed: Callable[[str], object],
) -> int:
    """Replace a state that nobody has open by a copy without free pages, if these are at least half of it and
    `LEAST_FREE_BYTES`; how many bytes the file got smaller, 0 if it stays. Blocks: O(pages in use), and a
    verification of the copy.

    `copying` is called about once a second with the bytes that are copied, and `verifying` with the size of
    the copy. `failed` is called with the reason if there could be no copy: the state is as it was, and can be
    used. Whenever the process ends, the name leads to the one file or the other, which have the same records.
    StateDamaged if the state cannot be read.
    """
    if not state.exists() or not state.stat().st_size:
        return 0
    copy = state.with_name(COPY_FILE)
    tables = Tables.read(state)
    try:
        size, used = tables.pages()
        if size - used < max(LEAST_FREE_BYTES, size // 2):
            return 0
        status = os.statvfs(state.parent)
        if status.f_bavail * status.f_frsize < used + SPARE_BYTES:
            failed(f"{state.parent}: its disk has no room for a copy of {used} bytes")
            return 0
        _copy(tables.env, copy, copying)
        verifying(copy.stat().st_size)
        verify(copy)
        smaller = size - copy.stat().st_size
        copy.rename(state)
        sync_folder(state.parent)
    except (NetstoreError, OSError, lmdb.Error, MemoryError) as error:
        copy.unlink(missing_ok=True)
        failed(str(error) or "no memory")
        return 0
    finally:
        tables.close()
    return smaller


def _copy(env: lmdb.Environment, path: Path, copying: Callable[[int], object]) -> None:
    """Copy the pages in use to a file, and sync that."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            env.copyfd(file, compact=True)
            os.fsync(file)
        except (OSError, lmdb.Error, MemoryError) as error:
            failures.append(error)

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        worker = threading.Thread(target=work, name="state-compacting")
        worker.start()
        while worker.is_alive():
            worker.join(_LOOK_SECONDS)
            copying(os.fstat(file).st_size)
    finally:
        os.close(file)
    if failures:
        raise failures[0]
