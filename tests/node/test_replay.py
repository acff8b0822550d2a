"""Replay of entries: the state at ten random points of a history is the one that was recorded there."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from netstore.errors import NetstoreError
from netstore.node.replay import replay
from netstore.raft.change import Change
from netstore.raft.entry import Entry, EntryKind
from netstore.state.commands import AddMember, encode
from netstore.state.digest import digest
from netstore.state.envelope import seal
from netstore.state.v2.commands import Delete, Set
from netstore.state.v3.commands import Compact, DeleteRange, LeaseGrant, LeaseRevoke, Put, Range
from netstore.types import EtcdIndex, Index, LeaseId, NodeId, Revision, Term
from tests.state.machines import machine_on
from tests.support.contents import nodes_of
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.state.commands import Command
    from netstore.state.machine import Machine

POINTS = 10


class Recorded(NamedTuple):
    """What can be read of a state."""

    applied: int
    revision: int
    digest: bytes
    pairs: list[bytes]
    nodes: set[tuple[bytes, bytes | None, EtcdIndex]]


def recorded(machine: Machine) -> Recorded:
    found = machine.mvcc.range(Range(b"\0", b"\0"))
    nodes = {(node.key, node.value, node.modified) for node in nodes_of(machine.tree)}
    return Recorded(machine.applied, machine.mvcc.revision, digest(machine), list(found.kvs), nodes)  # type: ignore[union-attr]  # no Fault


def commands(chance: random.Random) -> Command | None:
    """Some write: of v2 keys, v3 keys, leases; now and then something that does nothing."""
    name = b"/%d" % chance.randrange(12)
    lease = LeaseId(chance.randrange(1, 4))
    revision = Revision(chance.randrange(1, 400))
    match chance.randrange(10):
        case 0:
            return Set(name, b"v%d" % chance.randrange(9))
        case 1:
            return Delete(name)
        case 2:
            return DeleteRange(name, b"/9" if chance.random() < 0.2 else b"")
        case 3:
            return LeaseGrant(lease, 60)
        case 4:
            return LeaseRevoke(lease) if chance.random() < 0.3 else None
        case 5 if chance.random() < 0.1:
            return Compact(revision)
        case _:
            return Put(name, b"%d" % chance.randrange(1000), lease if chance.random() < 0.2 else LeaseId(0))


def history(seed: int, length: int = 600) -> list[Entry]:
    chance = random.Random(seed)  # noqa: S311 - repeatable
    urls = ("http://127.0.0.1:2380",)
    first = seal(encode(AddMember(NodeId(7), urls)))
    entries = [Entry(Index(1), Term(1), EntryKind.CHANGE, Change((), first).encode())]
    for index in range(2, length + 1):
        command = commands(chance)
        data = b"" if command is None else seal(encode(command), wall=index * 1000, principal=b"p")
        entries.append(Entry(Index(index), Term(1 + index // 100), EntryKind.NORMAL, data))
    return entries


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_random_points_of_a_recorded_history(seed: int) -> None:
    entries = history(seed)
    original = machine_on(memory_engine())
    record = {0: recorded(original)}
    for each in replay(original, entries):
        record[each.entry.index] = recorded(original)
    assert len(record) == len(entries) + 1
    assert record[len(entries)].revision > 100, "a history with many writes"
    chance = random.Random(seed)  # noqa: S311 - repeatable
    for index in chance.sample(range(1, len(entries)), POINTS):
        base = chance.randrange(index)
        engine = memory_engine()
        machine = machine_on(engine)
        for _ in replay(machine, entries, to_index=base):
            pass
        machine.save()
        machine = machine_on(engine)
        assert recorded(machine) == record[base]
        for _ in replay(machine, entries, to_index=index):
            pass
        assert recorded(machine) == record[index]
        machine.save()
        assert recorded(machine_on(engine)) == record[index], "saved and loaded"
    for revision in chance.sample(range(2, record[len(entries)].revision), POINTS):
        machine = machine_on(memory_engine())
        for _ in replay(machine, entries, to_revision=revision):
            pass
        wanted = next(each for each in record.values() if each.revision >= revision)
        assert recorded(machine) == wanted, "the first state of the log with this revision"


def test_what_each_entry_changed() -> None:
    machine = machine_on(memory_engine())
    put = Entry(Index(1), Term(1), EntryKind.NORMAL, seal(encode(Put(b"k", b"v")), wall=5))
    bare = Entry(Index(2), Term(1), EntryKind.NORMAL, b"")
    first, second = replay(machine, [put, bare])
    assert [(each.key, each.revision, each.deleted) for each in first.changes] == [(b"k", 2, False)]
    assert (second.entry, second.changes) == (bare, [])
    assert list(replay(machine, [put, bare])) == [], "it has them"


def test_a_missing_entry() -> None:
    machine = machine_on(memory_engine())
    entries = history(1, 10)
    with pytest.raises(NetstoreError, match="entry 5 is missing, the next one is 6"):
        list(replay(machine, entries[:4] + entries[5:]))
    assert machine.applied == 4
