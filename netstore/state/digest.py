"""A digest of the replicated state, by which members find out that they hold the same.

It grows with the log: each entry that is applied, each record of a v3 key and each event of the v2 tree that
comes of it, goes into one checksum, in order (`trail`). So it costs a fraction of a microsecond for each
change and nothing else, is there after every entry, and is stored with the state: a restart and a copy go on
with it. Two members that once got different results have different digests for ever, because going on from
different checksums with the same bytes gives different checksums.

The digest that is told adds what is small enough to be looked at each time: the counters, the members, and
how many nodes, keys and leases there are, so that a part of the state that was not loaded shows too. What the
records on a disk say is not its concern: each has a checksum of its own (`disk.tables`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.codec import crc32c
from netstore.intervals import TO_THE_END

if TYPE_CHECKING:
    from netstore.state.machine import Machine

DIGEST_BYTES: Final = 16

_pack = Struct(">IIQ").pack


def digest(machine: Machine) -> bytes:
    """The digest of the state as it is, between two entries. O(members), about 20 us."""
    mvcc = machine.mvcc
    small = (
        machine.applied,
        machine.tree.index,
        len(machine.tree),
        len(machine.tree.timed),
        machine.statistics.replicated(),
        machine.roster.cluster_version,
        machine.roster.level,
        mvcc.compacted,
        mvcc.count(b"\0", TO_THE_END),
        len(machine.leases),
        [machine.members[id_] for id_ in sorted(machine.members)],
        sorted(machine.removed),
        sorted(machine.alarms.active),
    )
    return _pack(machine.trail.checksum, crc32c(msgspec.msgpack.encode(small)), mvcc.revision)
