"""The digest of the replicated state at one index: members that applied the same log have the same.

Everything that commands can change is in it: nodes of the v2 tree, members, counters, the pairs of the v3
keys, leases and alarms. What a member does at its own pace (its event window, how far it has erased what a
compaction forgets) is not. The sum of the parts' hashes does not depend on their order, so nothing is sorted.

It is worked out in pieces, between turns, while the state goes on changing: nodes of the tree are immutable
values, and pairs are read at the revision of that index.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.errors import Fault
from netstore.state import mirror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.machine import Machine

STEP: Final = 256
"""Parts hashed in one piece: well under a millisecond."""

STEP_BYTES: Final = 1 << 20
"""Bytes of pairs hashed in one piece, give or take one pair."""

DIGEST_BYTES: Final = 16

_MODULUS: Final = 1 << (8 * DIGEST_BYTES)


class StateDigest:
    """Begun right after the entry at `machine.applied`; `step` until it is `finished`.

    Beginning costs a reference for each node of the tree. It comes to nothing (`void`) when the v3 keys are
    compacted past its revision meanwhile. Not to be used any more once the state was replaced by a copy.
    """

    def __init__(self, machine: Machine) -> None:
        """Take hold of the state as it is."""
        self.index = machine.applied
        self.finished = False
        self.void = False
        """There is no value, and never will be."""
        self._mvcc = machine.mvcc
        self._revision = machine.mvcc.revision
        self._nodes = list(machine.tree.nodes())
        self._sum = sum(map(_hash, _small_parts(machine))) % _MODULUS
        self._next_key = b"\0"

    @property
    def value(self) -> bytes:
        """The digest, once it is `finished`."""
        return (self._sum % _MODULUS).to_bytes(DIGEST_BYTES, "big")

    def step(self, most: int = STEP) -> None:
        """Hash up to `most` parts more."""
        if self._nodes:
            taken, self._nodes = self._nodes[-most:], self._nodes[:-most]
            for node in taken:
                self._sum += _hash(b"v2" + mirror.encode((node.key, mirror.pack_node(node))))
        elif not self.finished:
            self._step_pairs(most)

    def _step_pairs(self, most: int) -> None:
        found = self._mvcc.records_from(self._next_key, self._revision, most, STEP_BYTES)
        if isinstance(found, Fault):
            self.finished = self.void = True
            return
        records, following = found
        for record in records:
            self._sum += _hash(b"v3" + record)
        if following is None:
            self.finished = True
        else:
            self._next_key = following


def _small_parts(machine: Machine) -> Iterator[bytes]:
    mvcc = machine.mvcc
    yield b"at" + mirror.encode(
        (
            machine.applied,
            machine.tree.index,
            machine.statistics.replicated(),
            machine.cluster_version,
            machine.level,
            mvcc.revision,
            mvcc.compacted,
        )
    )
    for member in machine.members.values():
        yield b"member" + msgspec.msgpack.encode(member)
    for removed in machine.removed:
        yield b"removed" + mirror.encode(removed)
    for alarm in machine.alarms.active:
        yield b"alarm" + mirror.encode(alarm)
    for lease in machine.leases:
        yield b"lease" + mirror.encode((lease.id, lease.ttl, lease.since, lease.remaining))


def _hash(part: bytes) -> int:
    return int.from_bytes(blake2b(part, digest_size=DIGEST_BYTES).digest(), "big")
