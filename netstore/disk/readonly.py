"""The files of a stopped member's log, only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.notes import NOTES, NOTES_BYTES, decode_notes
from netstore.disk.spare import SPARE
from netstore.inputfile import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ReadOnlyDevice:
    """A `seams.Device` that only reads: an unfinished write at the end of the log is left as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.name not in (SPARE, NOTES))

    def read(self, name: str) -> bytes:
        with open_regular(self._folder / name) as file:
            return file.read()

    def write(
        self,
        name: str,
        offset: int,
        data: bytes,
        done: Callable[[OSError | None], None],
        note: bytes = b"",
        *,
        held: bool = False,
    ) -> None:
        raise NotImplementedError

    quick_syncs = 0

    def release(self) -> None:
        raise NotImplementedError

    def notes(self) -> list[bytes]:
        try:
            with open_regular(self._folder / NOTES) as file:
                return decode_notes(file.read(NOTES_BYTES))
        except FileNotFoundError:
            return []

    def truncate(self, name: str, size: int) -> None:
        """Left to the member's next start."""

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""
