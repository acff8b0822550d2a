"""The device's next file, prepared ahead of its use: filled with zeros and synced by a thread of its own.

Writing into blocks that exist and were written once needs no journal commit at the sync (DESIGN.md), and a
new file costs the writer only a rename.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Final

from netstore.seams import SyncFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

SPARE: Final = "spare"
"""Name of the file until it is used."""

_STEP_BYTES: Final = 256 * 1024
"""How much is written and synced at a time: little, so that no sync of the log waits behind much."""

_PAUSE: Final = 0.002
"""Seconds between two steps while nobody waits for the file: the log has priority on the disk."""


class Spare:
    """The next file of one folder. Called by the writer thread, except for `failure` and `discard`."""

    def __init__(self, folder: int, size: int) -> None:
        """`folder` is a descriptor."""
        self._folder = folder
        self._size = size
        self._filler: threading.Thread | None = None
        self._stop = False
        self._wanted = threading.Event()
        """The writer waits for the file: fill it without pauses."""
        self.failure: OSError | None = None
        """Why the last attempt that has ended failed; None if it succeeded, or none has ended."""

    def prepare(self) -> threading.Thread | None:
        """Begin to fill it in the background, unless that was begun; None if no thread can be started."""
        if self._filler is None:
            self._wanted.clear()
            filler = threading.Thread(target=self._fill, name="disk-filler", daemon=True)
            try:
                filler.start()
            except (RuntimeError, MemoryError):
                return None
            self._filler = filler
        return self._filler

    def prepare_again(self) -> None:
        """Begin again if the last attempt failed; nothing while another one is under way. Never waits,
        because writes to the log are queued behind it.
        """
        if self.failure is not None and (self._filler is None or not self._filler.is_alive()):
            self._filler = None
            self.prepare()

    def take(self, name: str) -> int:
        """Rename it to `name` and return its descriptor; waits until it is filled.

        OSError when there is no room for it: another attempt may succeed. SyncFailed when the new name may
        not be durable.
        """
        self.prepare_again()
        filler = self.prepare()
        self._wanted.set()
        if filler is None:
            self._fill()
        else:
            filler.join()
        self._filler = None
        if self.failure is not None:
            raise self.failure
        os.rename(SPARE, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        try:
            os.fsync(self._folder)
        except OSError as error:
            raise SyncFailed(error.errno, error.strerror) from error
        return os.open(name, os.O_WRONLY, dir_fd=self._folder)

    def discard(self) -> None:
        """Stop filling. Blocks until the thread has ended."""
        self._stop = True
        self._wanted.set()
        if self._filler is not None:
            self._filler.join()

    def _fill(self) -> None:
        try:
            self._remove()  # what was left; a pipe would be waited for
            file = os.open(SPARE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder)
            try:
                for _ in write_zeros(file, 0, self._size):
                    if self._stop:
                        return
                    if not self._wanted.is_set():
                        os.fdatasync(file)
                        self._wanted.wait(_PAUSE)
                os.fdatasync(file)
                self.failure = None
            finally:
                os.close(file)
        except (OSError, MemoryError) as error:
            self.failure = error if isinstance(error, OSError) else no_memory()
            self._remove()

    def _remove(self) -> None:
        """Free the room that an earlier or unfinished file takes: the state may need it."""
        try:
            os.unlink(SPARE, dir_fd=self._folder)
        except OSError:
            return  # it does not exist, or the disk fails in every respect; `failure` says why


def no_memory() -> OSError:
    """A failure for want of memory, as an OSError."""
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def write_zeros(file: int, start: int, end: int) -> Iterator[None]:
    """Write zeros from `start` to `end`, one step at a time."""
    zeros = bytes(_STEP_BYTES)
    while start < end:
        start += os.pwrite(file, zeros[: end - start], start)
        yield
