"""The running checksum of everything that was applied, which every entry continues (`digest`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.codec import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND_BYTES: Final = 256
"""How much of a command is included: its kind and key. Its values are included with the records it writes."""

LARGE_BYTES: Final = 4_096
"""Data of at least this size is checksummed by itself: joining it with other data would take longer."""


class RunningChecksum:
    """The CRC of the concatenation of everything that was added. What was added is pending until `settle` is
    called, or the value is read, so that many small additions take one call. Who adds bounds it
    (`machine.SETTLE_UNITS`).
    """

    __slots__ = ("_checksum", "_waiting", "add")

    def __init__(self, checksum: int = 0) -> None:
        self._checksum = checksum
        self._waiting: list[bytes] = []
        self.add: Callable[[bytes], object] = self._waiting.append
        """Append bytes that applying an entry has produced. Not a method, because it is called twice for each
        entry.
        """

    @property
    def value(self) -> int:
        """The checksum of everything that was added."""
        self.settle()
        return self._checksum

    @value.setter
    def value(self, checksum: int) -> None:
        self._waiting.clear()
        self._checksum = checksum

    def settle(self) -> None:
        """Include the pending data: 0.1 ns a byte. Small neighbours are joined, because a call for each would
        take longer.
        """
        if not self._waiting:
            return
        if max(map(len, self._waiting)) < LARGE_BYTES:
            self._checksum = crc32c(b"".join(self._waiting), self._checksum)
            self._waiting.clear()
            return
        checksum = self._checksum
        run: list[bytes] = []
        for data in self._waiting:
            if len(data) < LARGE_BYTES:
                run.append(data)
                continue
            if run:
                checksum = crc32c(b"".join(run), checksum)
                run = []
            checksum = crc32c(data, checksum)
        if run:
            checksum = crc32c(b"".join(run), checksum)
        self._checksum = checksum
        self._waiting.clear()

    def take_back(self) -> None:
        """Remove what was added last. Only valid if neither `add`, `settle` nor `value` was used since."""
        self._waiting.pop()
