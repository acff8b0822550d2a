"""Large files that a loop reads: what it reads next is in the page cache before it asks for it, as long as
the disk is as fast as who gets it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Of these the first half is there, or asked for, when a read begins; but for the first of a transfer that is
resumed within such a half.
"""


def read_ahead(file: int, at: int, size: int) -> None:
    """A read of `size` bytes is to begin `at` this offset: have the kernel fetch what follows, without
    waiting for it (posix_fadvise(2)). One system call for each `AHEAD_BYTES` / 2 that are read.
    """
    step = AHEAD_BYTES // 2
    if not at or (at - 1) // step != (at + size - 1) // step:
        with suppress(OSError):  # a hint: a file that cannot be fetched is read all the same
            os.posix_fadvise(file, at, size + AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
