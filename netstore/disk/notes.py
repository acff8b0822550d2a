"""The device's notes: how far the log was synced, in a file beside the log that is not synced itself.

The file has two slots, written in turn, so that one of them is always complete. A slot is a length and the
note.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from netstore.inputfile import check_regular

if TYPE_CHECKING:
    from pathlib import Path

NOTES: Final = "synced"
"""Name of the file."""

_SLOT_BYTES: Final = 64
NOTES_BYTES: Final = 2 * _SLOT_BYTES
"""Size of the file."""


def decode_notes(data: bytes) -> list[bytes]:
    """The notes in the bytes of the file, in no order."""
    slots = (data[at : at + _SLOT_BYTES] for at in range(0, len(data), _SLOT_BYTES))
    return [slot[1 : 1 + slot[0]] for slot in slots if slot]


class Notes:
    """The file in one folder, opened by the first `write`."""

    def __init__(self, folder: int, path: Path) -> None:
        """`folder` is a descriptor, `path` its name."""
        self._folder = folder
        self._path = path / NOTES
        self._file = -1
        self._written = 0

    def read(self) -> list[bytes]:
        """The notes in the file, in no order. OSError if there is something of its name that is no file."""
        try:
            file = os.open(NOTES, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return []
        try:
            check_regular(self._path, os.fstat(file))
            data = os.pread(file, NOTES_BYTES, 0)
        finally:
            os.close(file)
        return decode_notes(data)

    def write(self, note: bytes) -> None:
        """Overwrite the older of the two notes. A failure is ignored: a log without a newer note is judged by
        the older one. 2 us.
        """
        try:
            if self._file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(NOTES, flags, 0o600, dir_fd=self._folder)
            slot = bytes((len(note),)) + note
            os.pwrite(self._file, slot.ljust(_SLOT_BYTES, b"\0"), self._written % 2 * _SLOT_BYTES)
        except (OSError, MemoryError):
            return
        self._written += 1

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
