"""The checksum of everything that was applied, which every member carries on with each entry (`digest`)."""

from __future__ import annotations

from typing import Final

from netstore.codec import crc32c

COMMAND_BYTES: Final = 256
"""How much of a command counts: its kind and key. What it writes counts as what comes of it."""

WAITING_BYTES: Final = 1 << 20
"""Bytes beyond which what was added does not wait any longer."""

LARGE_BYTES: Final = 4_096
"""From this size on a piece goes into the checksum alone: to join it with others would take longer."""


class Trail:
    """The checksum of everything that was applied. The checksum of bytes that follow one another is that of
    them joined, so what is added waits, up to `WAITING_BYTES`, until somebody asks.
    """

    __slots__ = ("_bytes", "_checksum", "_waiting")

    def __init__(self, checksum: int = 0) -> None:
        self._checksum = checksum
        self._waiting: list[bytes] = []
        self._bytes = 0

    def add(self, data: bytes) -> None:
        """These bytes are part of what applying an entry gave. Works off what waits where that is much."""
        if self._bytes > WAITING_BYTES:
            self.settle()
        self._waiting.append(data)
        self._bytes += len(data)

    @property
    def checksum(self) -> int:
        """Of everything that was added."""
        self.settle()
        return self._checksum

    @checksum.setter
    def checksum(self, checksum: int) -> None:
        self._waiting.clear()
        self._bytes = 0
        self._checksum = checksum

    def settle(self) -> None:
        """Work off what waits: 0.1 ns a byte. What is small is joined with what is beside it: a
        call for each would take longer.
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
        """What was added last is no part of it. Only before anybody has asked for the checksum, or has added
        more.
        """
        self._bytes -= len(self._waiting.pop())
