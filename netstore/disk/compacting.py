"""Gives free pages of a state back to the file system, before the state is opened.

LMDB uses the pages again that are free, and never makes its file smaller. While a member runs the free pages
are what the next writes need, and a copy of the file would have to stop commits for as long as it takes. At a
start nothing waits yet, so that is when a file that is mostly free is replaced by a copy of its used pages.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Final

import lmdb

from netstore.disk.tables import Tables
from netstore.disk.threads import start_thread
from netstore.disk.verification import NotVerified, OpenMarker, verify
from netstore.errors import NetstoreError, StateDamaged
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COPY_FILE: Final = "outgoing-0.part"
"""The copy until it is whole. A start removes what an earlier one left (`snapshots.recover_install`), as
earlier releases do: it has the name of a copy for another member, and no member has the id 0.
"""

LEAST_FREE_BYTES: Final = 64 << 20
"""A file with less in free pages stays as it is: that is a moment's writing."""

SPARE_BYTES: Final = 256 << 20
"""What remains free on the disk beside the copy, or no copy is made."""

_LOOK_SECONDS: Final = 1.0

_MORE_ROOM: Final = "make room on its disk before the next start"
_MORE_PROCESSES: Final = "let this user start one more process and thread (TasksMax)"
_MORE_MEMORY: Final = "give this process more memory"
_CHECK_DISK: Final = "check the disk"


class _CopyFailed(NetstoreError):  # noqa: N818 - named for what is so
    """There is no copy, and the state is intact."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


def compact(
    state: Path,
    copying: Callable[[int], object],
    verifying: Callable[[int], object],
    failed: Callable[[str, str], object],
) -> int:
    """Replace a state that nobody has open by a copy without free pages, if these are at least half of it and
    `LEAST_FREE_BYTES`; how many bytes the file got smaller, 0 if it stays. Blocks: O(pages in use), and a
    verification of the copy. Not for a state that had to be verified and could not be (`OpenMarker.check`).

    `copying` is called about once a second with the bytes that are copied, and `verifying` with the size of
    the copy. `failed` is called with the reason if there could be no copy, and with what can be done about
    it: the state is as it was, and can be used. Whenever the process ends, the name leads to the one file or
    the other, which have the same records. Where damaged pages end it, the next start verifies the state.

    StateDamaged if the state is not what was written. NetstoreError if it is not known which of both files
    the name will lead to after a crash.
    """
    if not state.exists() or state.stat().st_size < LEAST_FREE_BYTES:
        return 0
    marker, copy = OpenMarker(state), state.with_name(COPY_FILE)
    try:
        marker.set()
        smaller = _replace(state, copy, copying, verifying)
    except StateDamaged:
        copy.unlink(missing_ok=True)
        raise
    except (NetstoreError, OSError, lmdb.Error, MemoryError) as error:
        copy.unlink(missing_ok=True)
        failed(str(error) or "no memory", _fix(error))
        smaller = 0
    if smaller:
        try:
            sync_folder(state.parent)
        except OSError as error:
            raise NetstoreError(f"{state.parent}: cannot be synced ({error}): {_CHECK_DISK}") from error
    marker.clear()
    return smaller


def _replace(
    state: Path, copy: Path, copying: Callable[[int], object], verifying: Callable[[int], object]
) -> int:
    """Put a copy in the place of the state if that is worth it, by how many bytes it is smaller."""
    tables = Tables.read(state)
    try:
        size, used = tables.pages()
        if size - used < max(LEAST_FREE_BYTES, size // 2):
            return 0
        status = os.statvfs(state.parent)
        if status.f_bavail * status.f_frsize < used + SPARE_BYTES:
            why = f"{state.parent}: its disk has no room for a copy of {used} bytes"
            raise _CopyFailed(why, _MORE_ROOM)
        _copy(tables.env, copy, copying)
    finally:
        tables.close()
    copied = copy.stat().st_size
    verifying(copied)
    try:
        verify(copy)
    except StateDamaged as error:
        verify(state)  # which of both is damaged
        raise _CopyFailed(str(error).partition("; ")[0], _CHECK_DISK) from error
    copy.rename(state)
    return size - copied


def _fix(error: Exception) -> str:
    """What an operator can do about a failure to make a copy."""
    if isinstance(error, _CopyFailed):
        return error.fix
    if isinstance(error, MemoryError | lmdb.MemoryError):
        return _MORE_MEMORY
    if isinstance(error, NotVerified) or (isinstance(error, OSError) and error.errno == errno.EAGAIN):
        return _MORE_PROCESSES
    if isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    ):
        return _MORE_ROOM
    return _CHECK_DISK


def _copy(env: lmdb.Environment, path: Path, copying: Callable[[int], object]) -> None:
    """Copy the pages in use to a file, and sync that."""
    failures: list[Exception] = []
    over = threading.Event()

    def work() -> None:
        try:
            env.copyfd(file, compact=True)
            os.fsync(file)
        except (OSError, lmdb.Error, MemoryError) as error:
            failures.append(error)
        finally:
            over.set()

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        refused = start_thread(work, "state-compacting")
        if refused is not None:
            raise refused
        while not over.wait(_LOOK_SECONDS):
            copying(os.fstat(file).st_size)
        copying(os.fstat(file).st_size)
    finally:
        os.close(file)
    if failures:
        raise failures[0]
