"""How long a thread waited for a processor, as the kernel counts it.

The second number of `schedstat` of a thread (proc(5)) is the nanoseconds that it was runnable and did not
run. Waiting for the disk, also for a page of a mapped file, for a lock or for a socket is not in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_PATH: Final = "/proc/thread-self/schedstat"
_LONGEST: Final = 80
"""Bytes: three numbers of 20 digits at most."""


class RunQueue:
    """Of the thread that makes it. `close` it when nothing reads it any more."""

    def __init__(self, path: str = _PATH) -> None:
        self._fd = -1
        with suppress(OSError):  # a kernel that does not count it, or no /proc
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def waited(self) -> float:
        """Seconds so far, in 1.2 us; 0.0 always where the kernel does not count them."""
        if self._fd < 0:
            return 0.0
        try:
            return int(os.pread(self._fd, _LONGEST, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            self.close()
            return 0.0

    def close(self) -> None:
        """Count no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
