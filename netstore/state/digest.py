"""A digest of the replicated state, by which members find out that they hold the same.

It grows with the log: each entry that is applied, each record of a v3 key and each event of the v2 tree that
comes of it, goes into one checksum, in order. So it costs a fraction of a microsecond for each change and
nothing else, is there after every entry, and is stored with the state: a restart and a copy go on with it.
Two members that once got different results have different digests for ever, because going on from different
checksums with the same bytes gives different checksums.

The digest that is told adds what is small enough to be looked at each time: the counters, the members, and
how many nodes, keys and leases there are, so that a part of the state that was not loaded shows too. What the
records on a disk say is not its concern: each has a checksum of its own (`disk.tables`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.codec import crc32c
from netstore.state.keyindex import TO_THE_END

if TYPE_CHECKING:
    from netstore.state.machine import Machine

DIGEST_BYTES: Final = 16

COMMAND_BYTES: Final = 256
"""How much of a command counts: its kind and key. What it writes counts as what comes of it."""

WAITING_BYTES: Final = 1 << 20
"""Bytes beyond which what was added does not wait any longer."""

LARGE_BYTES: Final = 4_096
"""From this size on a piece goes into the checksum alone: to join it with others would take longer."""

_pack = Struct(">IIQ").pack


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


def digest(machine: Machine) -> bytes:
    """The digest of the state as it is, between two entries. O(members), about 20 us."""
    mvcc = machine.mvcc
    small = (
        machine.applied,
        machine.tree.index,
        len(machine.tree),
        len(machine.tree.timed),
        machine.statistics.replicated(),
        machine.cluster_version,
        machine.level,
        mvcc.compacted,
        mvcc.count(b"\0", TO_THE_END),
        len(machine.leases),
        [machine.members[id_] for id_ in sorted(machine.members)],
        sorted(machine.removed),
        sorted(machine.alarms.active),
    )
    return _pack(machine.trail.checksum, crc32c(msgspec.msgpack.encode(small)), mvcc.revision)
