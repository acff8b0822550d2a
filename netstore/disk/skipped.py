"""Log entries that are not applied: the file `skipped` in the data folder of a member, and in its archive.

An operator names an entry that stops every member (`netstored --skip-entry`). The file keeps it, so that
every replay of the log gives the same state, with a hash of the entry, so that no other entry is skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import (
    MAX_NOTE_BYTES,
    add_checksum_line,
    explain_errors,
    split_checksum_line,
    write_atomically,
)
from netstore.errors import CorruptData
from netstore.inputfile import read_regular
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SKIPPED: Final = "skipped"

STOPPED: Final = "stopped-at"
"""The file that names the entry which ended this member because it cannot be applied. Only that one may be
skipped, so that no sound write is lost because of a mistyped number.
"""

MAX_SKIPPED: Final = 64
"""Entries that can be skipped: more of them is no fault that can be repaired this way."""

_TITLE: Final = "netstore skipped entries"


def read_skipped(folder: Path) -> dict[Index, str]:
    """Index -> hash (`state.display.payload_hash`) of each entry that is skipped. Blocks.

    CorruptData when the file is not what `write_skipped` wrote.
    """
    return _read(folder / SKIPPED, "remove it and skip the entries again")


def read_archived_skips(folder: Path) -> dict[Index, str]:
    """Those of an archive of the log, as `read_skipped` gives them: of all members that wrote it. Blocks."""
    return _read(folder / SKIPPED, "put the file of this name of the member's data folder there")


def write_skipped(folder: Path, entries: Mapping[Index, str]) -> None:
    """Write them, on stable storage. Blocks. NetstoreError when it cannot be written."""
    _write(folder, SKIPPED, entries)


def read_stopped(folder: Path) -> dict[Index, str]:
    """The entry that ended this member, in the form of `read_skipped`; empty if none has. Blocks."""
    return _read(folder / STOPPED, "remove it and start the member again")


def write_stopped(folder: Path, index: Index, hash_: str) -> None:
    """Record that this entry ended the member. Blocks. NetstoreError when it cannot be written."""
    _write(folder, STOPPED, {index: hash_})


def _read(path: Path, fix: str) -> dict[Index, str]:
    with explain_errors(path):
        try:
            data = read_regular(path, MAX_NOTE_BYTES)
        except FileNotFoundError:
            return {}
    text = split_checksum_line(data)
    lines = (text or b"").decode("ascii", "replace").splitlines()
    if text is None or lines[:1] != [_TITLE]:
        raise CorruptData(f"{path}: damaged; nothing was changed: {fix}")
    words = (each.split(" ") for each in lines[1:])
    return {Index(int(index)): hash_ for _, index, hash_ in words}


def _write(folder: Path, name: str, entries: Mapping[Index, str]) -> None:
    lines = [_TITLE, *(f"entry {index} {hash_}" for index, hash_ in sorted(entries.items()))]
    text = "".join(f"{each}\n" for each in lines).encode()
    write_atomically(folder, name, add_checksum_line(text))
