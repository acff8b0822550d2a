"""Data folders as the first start of a member leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.datadir import DataDir

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.datadir import MemberIdentity


def adopted(path: Path, fresh: MemberIdentity, wal_dir: Path | None = None) -> DataDir:
    """The locked folder; one that had no identity has this one now."""
    folder = DataDir.lock(path, wal_dir)
    if folder.found is None:
        folder.adopt(fresh)
    return folder
