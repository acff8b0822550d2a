"""A machine and its twin, which get the same commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3.commands import LeaseGrant, Range, V3Command
from netstore.types import Index, KeyChange, Revision
from tests.state.v3.twin import Told, Twin
from tests.support.local_member import memory_engine
from tests.support.settled import settled

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.state.v3.hashes import Hash
    from netstore.state.v3.mvcc import Mvcc

MUCH = 1 << 30


LEASES = tuple(LeaseGrant(id_, 5) for id_ in (1, 2, -3))


class Both:
    """The machine and its twin, given the same commands."""

    def __init__(self, *commands: V3Command) -> None:
        self.engine = memory_engine()
        self.twin = Twin()
        self.machine = self.load()
        for command in commands:
            self.apply(command)

    def load(self) -> Machine:
        self.machine = Machine(self.engine)
        self.machine.load()
        return self.machine

    def apply(self, command: V3Command) -> None:
        machine = self.machine
        outcome = machine.apply(Index(machine.applied + 1), encode(command))
        assert settled(machine, outcome) == self.twin.apply(command)
        told = [
            (c.revision, c.key, c.pair, machine.mvcc.pair(c.before) if c.before else None)
            for c in machine.take_changes()
        ]
        assert told == self.twin.history(self.twin.revision - len(told), b"\0", b"\0")[-len(told) or MUCH :]

    def save(self) -> None:
        self.machine.save()

    def agree(self) -> None:
        """Scalars, leases and everything that can be read, at every revision."""
        machine, twin = self.machine, self.twin
        store = machine.mvcc
        assert (store.revision, store.compacted) == (twin.revision, twin.compacted)
        assert {
            lease.id: (lease.ttl, lease.since, lease.remaining) for lease in machine.leases
        } == twin.leases
        assert {lease.id: sorted(lease.keys) for lease in machine.leases} == {
            id_: twin.holding(id_) for id_ in twin.leases
        }
        assert machine.alarms.active == sorted(twin.alarms)
        for revision in range(max(1, twin.compacted), twin.revision + 1):
            everything = Range(b"\0", b"\0", revision=revision)
            assert store.range(everything) == twin.range(everything)

    def history(self, start: Revision, key: bytes, range_end: bytes, limit: int) -> list[Told]:
        """All of it, in steps."""
        store = self.machine.mvcc
        found: list[Told] = []
        while start <= store.revision:
            changes: list[KeyChange] = []
            parts = list(store.history(start, key, range_end, looked=limit, told=limit, size=limit * 10))
            following = parts[-1][1]
            for part, _ in parts:
                assert not range_end or len(part) <= limit
                changes += part
            assert following > start
            revisions = {change.revision for change in changes}
            assert not revisions or (start <= min(revisions) and max(revisions) < following)
            found += [
                (c.revision, c.key, c.pair, store.pair(c.before) if c.before else None) for c in changes
            ]
            start = following
        return found


def hash_kv(store: Mvcc, revision: int) -> Hash | Fault:
    """At one go."""
    found: list[Hash | Fault] = []
    store.hash_kv(revision, found.append)
    while store.hashing:
        store.hash_on()
    return found[0]
