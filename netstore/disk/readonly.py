"""The files of a stopped member's log, only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.notes import NOTES, decode_notes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ReadOnlyDevice:
    """A `seams.Device` that only reads: an unfinished write at the end of the log is left as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

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
        path = self._folder / NOTES
        return decode_notes(path.read_bytes()) if path.exists() else []

    def truncate(self, name: str, size: int) -> None:
        """Left to the member's next start."""

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""
