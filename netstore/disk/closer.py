"""Closes and removes large files in a thread of its own, for a loop that must not wait for it.

The kernel frees the blocks of a file when its last name is removed and its last descriptor is closed, in that
system call: about 1 ms for each MiB (unlink(2), close(2)).
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST_WAITING: Final = 16
"""Files that wait from which on no more large ones are made: each keeps a descriptor and its room."""

STOP_SECONDS: Final = 2.0
"""How long `stop` waits: a file system that does not answer must not keep a member from saving its state.
What waits then ends with the process: descriptors are closed, and names are removed by the next start.
"""


class Closable(Protocol):
    """A file object, or whatever else owns a descriptor."""

    def close(self) -> object:
        """Give the descriptor back. What it raises is not told to anybody."""


class Closer:
    """The thread and its queue; one for each file system. It is started here, so a call later never fails for
    want of a thread. The methods do not wait for it, except for `stop`.
    """

    def __init__(self) -> None:
        """RuntimeError if no thread can be started."""
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="file-closer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """So many files wait that the caller should not make another one (`MOST_WAITING`)."""
        return self._queue.qsize() >= MOST_WAITING

    def close(self, file: Closable) -> None:
        """Close a file that nobody uses any more. The caller gives it away."""
        self._put(file.close)

    def unlink(self, path: Path) -> OSError | None:
        """Remove a file, if there is one. The name is free at once; the room later. The error if it stays.

        Where no descriptor is left to hold the file with, it is freed before this returns.
        """
        held, failure = -1, None
        with suppress(OSError):  # what hinders the removal is told by that
            held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failure = error
        finally:
            if held >= 0:
                self._put(partial(os.close, held))
        return failure

    def remove(self, path: Path) -> None:
        """Remove a file later, if there is one. For a name that is not used again. Whoever looks for left
        files finds it if that fails.
        """
        self._put(partial(path.unlink, missing_ok=True))

    def stop(self) -> None:
        """Free what waits, and end the thread. Blocks, for `STOP_SECONDS` at most. Later calls do their work
        before they return.
        """
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
            self._thread.join(STOP_SECONDS)

    def _put(self, work: Callable[[], object]) -> None:
        if self._stopped:
            _do(work)
        else:
            self._queue.put(work)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            _do(work)


def _do(work: Callable[[], object]) -> None:
    # close(2) gives the descriptor back whatever it reports. Nor may want of memory end the thread, and with
    # it the member: a file that stays costs room until the next start.
    with suppress(Exception):
        work()
