"""Entries that this member passes over when it applies its log: the file `skipped` in the data folder.

An operator names one that stops every member (`netstored --skip-entry`). It is kept, so that every replay of
the log gives the same state; and it names what the entry holds, so that it is never taken for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import checked, explained, unchecked, write_whole
from netstore.errors import CorruptData
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME: Final = "skipped"

STOPPED: Final = "stopped-at"
"""The file that names the entry which ended this member because it cannot be applied: only that one may be
passed over, so that a sound write is not removed by a slip of a number.
"""

MOST: Final = 64
"""Entries that can be passed over: what needs more is not mended this way."""

_TITLE: Final = "netstore skipped entries"


def read_skips(folder: Path) -> dict[Index, str]:
    """Index -> hash (`state.display.payload_hash`) of each entry that is passed over. Blocks.

    CorruptData when the file is not what `keep_skips` wrote.
    """
    return _read(folder / NAME, "remove it and skip the entries again")


def keep_skips(folder: Path, skips: Mapping[Index, str]) -> None:
    """Write them, on stable storage. Blocks. NetstoreError when it cannot be written."""
    _keep(folder, NAME, skips)


def read_stop(folder: Path) -> dict[Index, str]:
    """The entry that ended this member, as `read_skips` gives it; empty where none has. Blocks."""
    return _read(folder / STOPPED, "remove it and start the member again")


def keep_stop(folder: Path, index: Index, hash_: str) -> None:
    """Note that this entry ended the member. Blocks. NetstoreError when it cannot be written."""
    _keep(folder, STOPPED, {index: hash_})


def _read(path: Path, fix: str) -> dict[Index, str]:
    with explained(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return {}
    text = unchecked(data)
    lines = (text or b"").decode("ascii", "replace").splitlines()
    if text is None or lines[:1] != [_TITLE]:
        raise CorruptData(f"{path}: damaged; nothing was changed: {fix}")
    words = (each.split(" ") for each in lines[1:])
    return {Index(int(index)): hash_ for _, index, hash_ in words}


def _keep(folder: Path, name: str, skips: Mapping[Index, str]) -> None:
    lines = [_TITLE, *(f"entry {index} {hash_}" for index, hash_ in sorted(skips.items()))]
    text = "".join(f"{each}\n" for each in lines).encode()
    write_whole(folder, name, checked(text))
