"""The running checksum of everything that was applied, which every entry continues (`digest`)."""

from __future__ import annotations

from typing import Final

from netstore.codec import crc32c

COMMAND_BYTES: Final = 256
"""How much of a command is included: its kind and key. Its values are included with the records it writes."""

WAITING_BYTES: Final = 1 << 20
"""Bytes of pending data beyond which the checksum is updated."""

LARGE_BYTES: Final = 4_096
"""Data of at least this size is checksummed by itself: joining it with other data would take longer."""


class RunningChecksum:
    """The CRC of the concatenation of everything that was added. What was added is pending, up to about
    `WAITING_BYTES`, until the value is read, so that many small additions take one call.
    """

    __slots__ = ("_bytes", "_checksum", "_waiting")

    def __init__(self, checksum: int = 0) -> None:
        self._checksum = checksum
        self._waiting: list[bytes] = []
        self._bytes = 0

    def add(self, data: bytes) -> None:
        """Append bytes that applying an entry has produced."""
        if self._bytes > WAITING_BYTES:
            self.settle()
        self._waiting.append(data)
        self._bytes += len(data)

    @property
    def value(self) -> int:
        """The checksum of everything that was added."""
        self.settle()
        return self._checksum

    @value.setter
    def value(self, checksum: int) -> None:
        self._waiting.clear()
        self._bytes = 0
        self._checksum = checksum

    def settle(self) -> None:
        """Include the pending data: 0.1 ns a byte. Small neighbours are joined, because a call for each would
        take longer.
        """
        if not self._waiting:
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
        self._bytes = 0

    def take_back(self) -> None:
        """Remove what was added last. Only valid if neither `add`, `settle` nor `value` was used since."""
        self._bytes -= len(self._waiting.pop())
