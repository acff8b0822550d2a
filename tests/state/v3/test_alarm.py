"""Alarms: what each of them shuts, what a command is reckoned to cost, and that they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore.codes import DATA_LOSS, RESOURCE_EXHAUSTED
from netstore.errors import Fault
from netstore.state.commands import encode
from netstore.state.machine import Machine, Outcome
from netstore.state.v3 import alarm
from netstore.state.v3.alarm import cost
from netstore.state.v3.commands import (
    CORRUPT,
    NOSPACE,
    AlarmChanged,
    Compact,
    DeleteRange,
    LeaseExpire,
    LeaseGrant,
    LeaseRenew,
    LeaseRevoke,
    Put,
    Range,
    SetAlarm,
    Txn,
    V3Command,
)
from netstore.types import Index, NodeId
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

PUT = Put(b"key", b"value")
GROWING = (PUT, Txn((), (PUT,)), Txn((), (), (Txn((), (PUT,)),)), LeaseGrant(2, 5))
OTHER = (
    DeleteRange(b"a"),
    Range(b"a"),
    Txn((), (DeleteRange(b"a"), Range(b"a"))),
    Compact(1),
    LeaseRenew(1),
    LeaseExpire(()),
    LeaseRevoke(1),
)


@pytest.fixture
def machine() -> Machine:
    made = Machine(memory_engine())
    made.load()
    apply(made, LeaseGrant(1, 5))
    return made


def apply(machine: Machine, command: V3Command) -> Outcome:
    return machine.apply(Index(machine.applied + 1), encode(command))


def test_costs_are_etcds() -> None:
    assert cost(PUT) == 256 + 3 + 5
    assert cost(Txn((), (PUT, PUT), (PUT, PUT, PUT))) == 3 * cost(PUT)
    assert cost(Txn((), (PUT, Txn((), (PUT,), (PUT, PUT))))) == 3 * cost(PUT)
    assert cost(LeaseGrant(1, 1)) == alarm.GRANT_COST == 64
    assert [cost(command) for command in OTHER] == [0] * len(OTHER)


@pytest.mark.parametrize("command", GROWING)
def test_without_space_nothing_grows(machine: Machine, command: V3Command) -> None:
    apply(machine, SetAlarm(9, NOSPACE, active=True))
    outcome = apply(machine, command)
    assert isinstance(outcome, Fault)
    assert outcome.cause == b"etcdserver: mvcc: database space exceeded"
    assert outcome.grpc_code == RESOURCE_EXHAUSTED
    assert machine.mvcc.revision == 1
    apply(machine, SetAlarm(9, NOSPACE, active=False))
    assert not isinstance(apply(machine, command), Fault)


@pytest.mark.parametrize("command", OTHER)
def test_without_space_the_rest_goes_on(machine: Machine, command: V3Command) -> None:
    apply(machine, SetAlarm(9, NOSPACE, active=True))
    assert not isinstance(apply(machine, command), Fault)


@pytest.mark.parametrize("command", [*GROWING, *OTHER])
def test_a_corrupt_cluster_does_nothing(machine: Machine, command: V3Command) -> None:
    apply(machine, SetAlarm(9, CORRUPT, active=True))
    outcome = apply(machine, command)
    assert isinstance(outcome, Fault)
    assert (outcome.cause, outcome.grpc_code) == (b"etcdserver: corrupt cluster", DATA_LOSS)
    refused = machine.v3.read_txn(Txn((), (Range(b"a"),)))
    assert isinstance(refused, Fault)


def test_only_a_change_is_told_and_kept(machine: Machine) -> None:
    raised = SetAlarm(9, NOSPACE, active=True)
    assert apply(machine, raised) == AlarmChanged(machine.mvcc.revision, [(9, NOSPACE)])  # type: ignore[list-item]  # a plain number
    assert apply(machine, raised) == AlarmChanged(machine.mvcc.revision, [])
    apply(machine, SetAlarm(8, NOSPACE, active=True))
    apply(machine, SetAlarm(9, NOSPACE, active=False))
    apply(machine, SetAlarm(8, CORRUPT, active=True))
    machine.save()
    again = Machine(machine._engine)
    again.load()
    assert again.alarms.active == machine.alarms.active == [(8, NOSPACE), (8, CORRUPT)]
    assert again.alarms.nospace
    assert again.alarms.corrupt


@pytest.mark.parametrize(("kind", "command"), [(NOSPACE, PUT), (CORRUPT, Compact(1))])
def test_an_alarm_of_several_members_holds_until_the_last_has_cleared_it(
    machine: Machine, kind: int, command: V3Command
) -> None:
    for member in (9, 8, 9):
        apply(machine, SetAlarm(member, kind, active=True))
    for member in (9, 9, 7):
        apply(machine, SetAlarm(member, kind, active=False))
        machine.save()
        again = Machine(machine._engine)
        again.load()
        for each in (machine, again):
            assert isinstance(apply(each, command), Fault)
    apply(machine, SetAlarm(8, kind, active=False))
    assert machine.alarms.active == []
    assert not isinstance(apply(machine, command), Fault)


def test_the_kinds_are_shut_each_by_itself(machine: Machine) -> None:
    for kind in (CORRUPT, NOSPACE):
        apply(machine, SetAlarm(9, kind, active=True))
    apply(machine, SetAlarm(9, CORRUPT, active=False))
    assert (machine.alarms.nospace, machine.alarms.corrupt) == (True, False)


def test_alarms_are_told_by_member_and_kind(machine: Machine) -> None:
    alarms = [(member, kind) for member in (1, 5, 9, (1 << 64) - 1) for kind in (NOSPACE, CORRUPT)]
    for member, kind in alarms[::2] + alarms[::-2]:
        apply(machine, SetAlarm(member, kind, active=True))
    assert machine.alarms.active == alarms
    machine.save()
    again = Machine(machine._engine)
    again.load()
    assert again.alarms.active == alarms


class Walked(list[tuple[NodeId, int]]):
    """Counts what is looked at, one after the other or by its place."""

    looks = 0

    def __iter__(self) -> Iterator[tuple[NodeId, int]]:
        self.looks += len(self)
        return super().__iter__()

    def __contains__(self, alarm: object) -> bool:
        self.looks += len(self)
        return super().__contains__(alarm)

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


def test_one_alarm_costs_little_however_many_are_raised(machine: Machine) -> None:
    """To raise, to clear and to keep."""
    number = 10_000
    machine.alarms.restore([(NodeId(member), NOSPACE) for member in range(number)])
    for active, members in ((True, range(number, number + 100)), (False, range(0, number, 100))):
        machine.alarms._sorted = walked = Walked(machine.alarms._sorted)
        for member in members:
            apply(machine, SetAlarm(member, NOSPACE, active=active))
            assert machine.alarms.raised((NodeId(member), NOSPACE)) is active
        machine.save()
        assert 0 < walked.looks < 100 * 100
