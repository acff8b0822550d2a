"""When and by whom revisions were written: what is kept over saves, restarts and compactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from netstore.errors import StateDamaged
from netstore.state.commands import encode
from netstore.state.envelope import seal
from netstore.state.tables import ORIGINS
from netstore.state.v3 import origins
from netstore.state.v3.commands import Compact, LeaseExpire, LeaseGrant, Put
from netstore.state.v3.origins import Origin
from netstore.types import Index, LeaseId, Revision
from tests.state.machines import machine_on
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.state.machine import Machine


def enter(machine: Machine, command: object, wall: int = 0, principal: bytes = b"") -> None:
    machine.enter(
        Index(machine.applied + 1),
        seal(encode(command), wall=wall, principal=principal),  # type: ignore[arg-type]  # any command
    )


def put(machine: Machine, wall: int, principal: bytes = b"me", key: bytes = b"k") -> None:
    enter(machine, Put(key, b"v"), wall, principal)


def all_of(machine: Machine, first: int = 0) -> list[Origin]:
    found: list[Origin] = []
    following: int | None = first
    while following is not None:
        more, following = machine.mvcc.origins.since(following)
        found += more
    return found


def test_a_revision_has_the_time_and_the_principal_of_its_entry() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    put(machine, 10, b"node1")
    put(machine, 20, b"")
    wanted = [Origin(2, 2, 10, b"node1"), Origin(3, 3, 20, b"")]
    assert all_of(machine) == wanted, "before it is saved"
    machine.save()
    assert all_of(machine) == wanted
    put(machine, 30, b"x" * 300)
    assert all_of(machine, 3) == [*wanted[1:], Origin(4, 4, 30, b"x" * 255)]
    machine.save()
    assert all_of(machine_on(engine), 4) == [Origin(4, 4, 30, b"x" * 255)], "after a restart"
    assert all_of(machine, 5) == []


def test_what_writes_nothing_has_no_origin() -> None:
    machine = machine_on(memory_engine())
    enter(machine, LeaseGrant(LeaseId(7), 60), 10, b"me")
    enter(machine, Put(b"k", b"v", LeaseId(9)), 10, b"me")
    machine.enter(Index(machine.applied + 1), b"")
    assert (machine.mvcc.revision, all_of(machine)) == (1, [])


def test_leases_that_end_in_one_command_have_one_origin() -> None:
    machine = machine_on(memory_engine())
    for lease in (7, 8):
        enter(machine, LeaseGrant(LeaseId(lease), 60), 1)
        enter(machine, Put(b"%d" % lease, b"v", LeaseId(lease)), 2, b"me")
    since = [(LeaseId(lease), machine.leases.get(LeaseId(lease)).since) for lease in (7, 8)]  # type: ignore[union-attr]  # both exist
    enter(machine, LeaseExpire(tuple(since)), 5)
    assert machine.mvcc.revision == 5
    assert all_of(machine, 5) == [Origin(4, 5, 5, b"")]


def test_a_compaction_erases_what_cannot_be_read_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "LOOK_RECORDS", 2)
    engine = memory_engine()
    machine = machine_on(engine)
    for wall in range(10):
        put(machine, wall)
        machine.save()
    assert len(dict(engine.scan(ORIGINS, b"", None))) == 10
    enter(machine, Compact(Revision(8)))
    steps = 0
    while machine.sweeping:
        machine.sweep()
        steps += 1
        assert steps < 20, "it ends"
    assert [each.first for each in all_of(machine)] == [8, 9, 10, 11]
    assert len(dict(engine.scan(ORIGINS, b"", None))) == 4
    put(machine, 11)
    assert all_of(machine)[-1] == Origin(12, 12, 11, b"me")


def test_a_damaged_record_is_named() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    put(machine, 10)
    machine.save()
    ((key, value),) = engine.scan(ORIGINS, b"", None)
    numbers, heads = msgspec.msgpack.decode(value)
    wrong = [(numbers, heads[:-1]), (numbers[:-1], heads), (numbers * 2, heads), (numbers, b""), (numbers,)]
    for damaged in (value[:-1], b"", *map(msgspec.msgpack.encode, wrong)):
        engine.write(machine.applied, {(ORIGINS, key): damaged})
        with pytest.raises(StateDamaged, match="table v3_origins"):
            all_of(machine)


def test_a_replaced_state_brings_its_own() -> None:
    machine = machine_on(memory_engine())
    put(machine, 10)
    machine.load()
    assert all_of(machine) == [], "what was not saved went with the state"
