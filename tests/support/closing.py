"""What closes and removes files: waiting for it, and seeing which thread does it."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.disk.closer import Closer


class Mark:
    """Something in the queue of a closer that tells when its turn comes, and may keep the thread waiting."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def close(self) -> None:
        """What the closer calls."""
        self.reached.set()
        assert self.go_on.wait(seconds(60))


def wait_for(closer: Closer) -> None:
    """Wait until the closer has done what it was given so far. Blocks."""
    mark = Mark()
    mark.go_on.set()
    closer.close(mark)
    assert mark.reached.wait(seconds(60)), "the closer does not come to it"


@contextmanager
def held(closer: Closer) -> Iterator[None]:
    """The thread of the closer does nothing meanwhile; afterwards all that it was given."""
    mark = Mark()
    closer.close(mark)
    assert mark.reached.wait(seconds(60)), "the closer does not come to it"
    try:
        yield
    finally:
        mark.go_on.set()
        wait_for(closer)


def unnamed(folder: Path) -> list[int]:
    """Sizes of the files without a name that this process keeps open, and which were in this folder."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors
        try:
            status = os.stat(f"/proc/self/fd/{name}")  # noqa: PTH116 - as above
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - as above
        except FileNotFoundError:  # that of this listing
            continue
        if target.startswith(f"{folder}/") and not status.st_nlink:
            found.append(status.st_size)
    return sorted(found)
