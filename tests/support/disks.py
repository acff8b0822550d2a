"""A disk of its own that is soon full."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of this size, mounted at a folder that is made; for tests marked `root`."""
    folder.mkdir(mode=0o700)
    options = f"size={mib}m,mode=0700"
    subprocess.run(("mount", "-t", "tmpfs", "-o", options, "netstore-test", folder), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)
