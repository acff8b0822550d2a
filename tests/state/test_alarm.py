"""Alarms: what each of them shuts, what a command is reckoned to cost, and that they are kept."""

from __future__ import annotations

import pytest

from netstore.errors import DATA_LOSS, RESOURCE_EXHAUSTED, Fault
from netstore.state import alarm
from netstore.state.alarm import cost
from netstore.state.commands import encode
from netstore.state.machine import Machine, Outcome
from netstore.state.v3commands import (
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
from netstore.types import Index
from tests.support.local_member import memory_engine

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
    refused = machine.read_txn(Txn((), (Range(b"a"),)))
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
