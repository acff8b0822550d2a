"""Transactions: what is refused before they are proposed, and what is promised when they run.

Their outcomes against the twin are in `test_mvcc`; the checks have a twin here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.codes import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND
from netstore.errors import Fault
from netstore.state.commands import decode, encode
from netstore.state.envelope import seal
from netstore.state.machine import Machine
from netstore.state.v3 import commands, txn
from netstore.state.v3.commands import (
    Compact,
    Compare,
    Deleted,
    DeleteRange,
    Found,
    LeaseGrant,
    LeaseRenew,
    LeaseRevoke,
    Put,
    PutDone,
    Range,
    Txn,
    TxnDone,
    V3Command,
    V3Outcome,
)
from netstore.types import Index
from tests.state.v3.strategies import txns
from tests.state.v3.twin import contains
from tests.support.local_member import memory_engine
from tests.support.settled import settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.v3.commands import Operation

A, B = Put(b"a"), Put(b"b")
DELETE_A = DeleteRange(b"a")
DELETE_SOME = DeleteRange(b"a", b"c")
GET = Range(b"a")


def both(*operations: Operation) -> Txn:
    return Txn((), operations, ())


def fresh() -> Machine:
    machine = Machine(memory_engine())
    machine.load()
    return machine


def apply(machine: Machine, command: V3Command) -> V3Outcome:
    outcome = settled(machine, machine.apply(Index(machine.applied + 1), encode(command)))
    assert isinstance(outcome, V3Outcome)
    return outcome


def cause(outcome: V3Outcome | None) -> tuple[str, int]:
    assert isinstance(outcome, Fault)
    return outcome.cause.decode(), outcome.grpc_code


# --- before it is proposed


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Range(b""), "key is not provided"),
        (Range(b"", b"z"), "key is not provided"),
        (Put(b""), "key is not provided"),
        (DeleteRange(b""), "key is not provided"),
        (Txn((Compare(b""),)), "key is not provided"),
        (both(both(Put(b""))), "key is not provided"),
        (Txn((), (), (GET, Put(b""))), "key is not provided"),
        (Put(b"a", b"1", ignore_value=True), "value is provided"),
        (both(Put(b"a", b"1", ignore_value=True)), "value is provided"),
        (Put(b"a", lease=1, ignore_lease=True), "lease is provided"),
        (both(A, A), "duplicate key given in txn request"),
        (both(A, DELETE_A), "duplicate key given in txn request"),
        (both(DELETE_A, A), "duplicate key given in txn request"),
        (both(DeleteRange(b"\0", b"b"), A), "duplicate key given in txn request"),
        (both(A, both(A)), "duplicate key given in txn request"),
        (both(A, Txn((), (), (A,))), "duplicate key given in txn request"),
        (both(A, both(DELETE_A)), "duplicate key given in txn request"),
        (both(both(A), both(A)), "duplicate key given in txn request"),
        (both(both(DELETE_A), both(A)), "duplicate key given in txn request"),
        (both(both(both(DELETE_A)), A), "duplicate key given in txn request"),
        (Txn((), (), (A, A)), "duplicate key given in txn request"),
    ],
)
def test_a_transaction_that_etcd_refuses_is_refused_with_its_text(command: Operation, text: str) -> None:
    assert cause(txn.check(command)) == (f"etcdserver: {text}", INVALID_ARGUMENT)


@pytest.mark.parametrize(
    "command",
    [
        both(A, B, GET, GET),
        Txn((), (A,), (A,)),
        both(Txn((), (A,), (A,))),
        both(Txn((), (DELETE_A,), (A,))),
        both(DELETE_A, DELETE_A, DeleteRange(b"a", b"\0")),
        both(both(A), both(DELETE_A)),
        both(DeleteRange(b"a", b"b"), B),
        both(DeleteRange(b"\0", b"\0"), A),  # etcd does not look into an open end
        Put(b"a", ignore_value=True, ignore_lease=True),
    ],
)
def test_a_transaction_that_etcd_accepts_is_accepted(command: Operation) -> None:
    assert txn.check(command) is None


@pytest.mark.parametrize("place", range(3))
def test_each_list_of_a_transaction_has_its_own_limit(place: int) -> None:
    lists: list[tuple[object, ...]] = [(Compare(b"a"),) * 128, (GET,) * 128, (GET,) * 128]
    assert txn.check(Txn(*lists)) is None  # type: ignore[arg-type]  # built from the strategy's parts
    lists[place] += lists[place][:1]
    refused = txn.check(Txn(*lists))  # type: ignore[arg-type]  # as above
    assert cause(refused) == ("etcdserver: too many operations in txn request", INVALID_ARGUMENT)


def test_a_nested_transaction_has_what_its_parent_leaves() -> None:
    inner = Txn((), (GET,) * 127)
    assert txn.check(both(inner)) is None
    assert cause(txn.check(both(Txn((), (GET,) * 128))))[0].endswith("too many operations in txn request")
    assert cause(txn.check(both(inner, GET)))[0].endswith("too many operations in txn request")
    assert txn.check(both(A, B), max_ops=1) is not None


def branches(given: Txn) -> Iterator[list[Operation]]:
    """Every list of operations that could run, nested ones in their places."""
    for side in (given.success, given.failure):
        runs: list[list[Operation]] = [[]]
        for operation in side:
            if isinstance(operation, Txn):
                inner = list(branches(operation))
                runs = [run + more for run in runs for more in inner]
            else:
                runs = [[*run, operation] for run in runs]
        yield from runs


@settings(deadline=None, max_examples=150)
@given(txns())
def test_an_accepted_transaction_never_puts_a_key_twice(command: Txn) -> None:
    """The purpose of the rule: in no run of what passes is a key put twice, or put and deleted in a list."""
    fault = txn.check(command)
    for run in branches(command):
        puts = [operation.key for operation in run if isinstance(operation, Put)]
        if fault is None:
            assert len(puts) == len(set(puts))
    for side in (command.success, command.failure):
        puts = [operation.key for operation in side if isinstance(operation, Put)]
        deletes = [operation for operation in side if isinstance(operation, DeleteRange)]
        bounded = [each for each in deletes if each.range_end != b"\0"]
        if any(contains(each.key, each.range_end, key) for each in bounded for key in puts):
            assert fault is not None


def test_transactions_that_only_read_are_recognized() -> None:
    assert txn.is_read(Txn((Compare(b"a"),), (GET,), (GET,)))
    assert txn.is_read(Txn())
    assert not txn.is_read(Txn((), (GET,), (A,)))
    assert not txn.is_read(both(both(GET)))
    machine = fresh()
    apply(machine, A)
    assert settled(machine, machine.v3.read_txn(both(GET))) == apply(machine, both(GET))
    with pytest.raises(ValueError, match="goes through the log"):
        machine.v3.read_txn(both(A))


# --- when it runs


def test_a_run_time_failure_changes_nothing() -> None:
    machine = fresh()
    for failing, text, code in (
        (Put(b"b", lease=9), "requested lease not found", NOT_FOUND),
        (Put(b"b", ignore_value=True), "key not found", INVALID_ARGUMENT),
        (Range(b"b", revision=9), "mvcc: required revision is a future revision", 11),
    ):
        assert cause(apply(machine, both(A, failing))) == (f"etcdserver: {text}", code)
        assert cause(apply(machine, both(A, both(failing)))) == (f"etcdserver: {text}", code)
        assert isinstance(apply(machine, Txn((), (), (failing,))), TxnDone)
    assert machine.mvcc.revision == 1
    assert machine.take_changes() == []


def test_the_headers_of_operations_tell_the_revision_they_ran_at() -> None:
    machine = fresh()
    done = apply(machine, both(GET, A, GET, DeleteRange(b"x"), both(B)))
    assert isinstance(done, TxnDone)
    assert done.revision == 2
    assert [response.revision for response in done.responses] == [1, 2, 2, 2, 0]
    assert isinstance(done.responses[0], Found)
    assert done.responses[0].kvs == []
    nested = done.responses[-1]
    assert isinstance(nested, TxnDone)
    assert nested.responses == [PutDone(machine.mvcc.revision)]
    assert machine.mvcc.revision == 2


def test_compares_see_the_state_before_even_when_nested() -> None:
    machine = fresh()
    absent = Compare(b"a", commands.VERSION, commands.EQUAL, 0)
    done = apply(machine, both(A, Txn((absent,), (Put(b"c"),), (Put(b"d"),))))
    assert isinstance(done, TxnDone)
    assert machine.mvcc.exists(b"c")
    assert not machine.mvcc.exists(b"d")


@pytest.mark.parametrize("result", range(4))
def test_nothing_can_be_said_of_the_value_of_a_missing_key(result: int) -> None:
    done = apply(fresh(), Txn((Compare(b"a", commands.VALUE, result),)))
    assert isinstance(done, TxnDone)
    assert not done.succeeded


def test_too_deep_a_transaction_is_refused_and_not_run_out_of_stack() -> None:
    machine = fresh()
    command: Txn = both(A)
    for _ in range(commands.MAX_DEPTH - 1):
        command = both(command)
    assert isinstance(apply(machine, command), TxnDone)
    refused = apply(machine, both(command))
    assert isinstance(refused, Fault)
    assert b"transactions in one another" in refused.cause


def test_a_key_may_be_put_and_deleted_in_one_revision() -> None:
    """Siblings may do that; the last one counts."""
    machine = fresh()
    apply(machine, both(both(Put(b"a", b"1")), both(DELETE_A), GET))
    assert machine.mvcc.revision == 2
    assert not machine.mvcc.exists(b"a")
    assert [(change.revision, change.deleted) for change in machine.take_changes()] == [(2, False), (2, True)]
    apply(machine, Compact(2))
    machine.sweep()
    fresh_one = Machine(machine._engine)
    fresh_one.load()
    assert fresh_one.mvcc._index.items == machine.mvcc._index.items


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        (Put(b"a", lease=5), "requested lease not found", NOT_FOUND),
        (LeaseRevoke(5), "requested lease not found", NOT_FOUND),
        (LeaseRenew(5), "requested lease not found", NOT_FOUND),
        (LeaseGrant(1, 9_000_000_001), "too large lease TTL", 11),
        (LeaseGrant(7, 1), "lease already exists", FAILED_PRECONDITION),
        (Put(b"x", ignore_lease=True), "key not found", INVALID_ARGUMENT),
        (Compact(9), "mvcc: required revision is a future revision", 11),
    ],
)
def test_refusals_are_in_etcds_words(command: V3Command, text: str, code: int) -> None:
    machine = fresh()
    apply(machine, LeaseGrant(7, 5))
    assert cause(apply(machine, command)) == (f"etcdserver: {text}", code)
    assert machine.mvcc.revision == 1


@settings(max_examples=50)
@given(txns())
def test_a_transaction_comes_back_from_its_bytes(command: Txn) -> None:
    assert decode(encode(command)) == command


@given(st.lists(txns(), min_size=1, max_size=6))
@settings(max_examples=60)
def test_a_transaction_done_in_one_call_is_the_one_done_in_pieces(commands: list[Txn]) -> None:
    """And one that is not short was not begun."""
    one, other = fresh(), fresh()
    for command in commands:
        before = one.mvcc.bound
        done = txn.execute_short(one.mvcc, one.leases, command)
        if done is None:
            assert one.mvcc.bound == before
            done = txn.execute(one.mvcc, one.leases, command)
        assert done == txn.execute(other.mvcc, other.leases, command)
        assert one.take_changes() == other.take_changes()


@pytest.mark.parametrize("prev_kv", [False, True])
def test_the_deletion_of_one_key_is_done_in_one_call(prev_kv: bool) -> None:
    """As that of a range that has this key alone is in pieces."""
    one, other = fresh(), fresh()
    for machine in (one, other):
        apply(machine, LeaseGrant(7, 5))
        apply(machine, Put(b"a", b"1", 7))
    for _ in range(2):
        payload = seal(encode(DeleteRange(b"a", b"", prev_kv)))
        done = one.begin(Index(one.applied + 1), payload, units=0)
        assert isinstance(done, Deleted)
        assert settled(one, done) == apply(other, DeleteRange(b"a", b"a\0", prev_kv))
        assert one.take_changes() == other.take_changes()
        assert one.mvcc.revision == other.mvcc.revision == 3
    assert not list(one.leases.listed(one.leases.get(7)))  # type: ignore[arg-type]  # it is there


def test_only_a_transaction_with_a_bound_on_its_work_is_done_in_one_call() -> None:
    machine = fresh()
    apply(machine, A)
    short = [
        both(A, B, GET),
        Txn((Compare(b"a", commands.MOD),), (A,), (GET,)),
        both(),
        both(DELETE_A, B),
        Txn((), (A,), (DELETE_SOME,)),
    ]
    long = [
        both(DELETE_SOME),
        both(both(A)),
        Txn((), (A,), (both(A),)),
        Txn((), (DELETE_SOME,), (A,)),
        both(Put(b"a", ignore_value=True)),
        both(*(Put(b"%d" % number) for number in range(txn.MAX_OPS + 1))),
        Txn((Compare(b"a", commands.MOD, range_end=b"b"),), (), ()),
        Txn((Compare(b"a", commands.VALUE),), (), ()),
    ]
    for command in short:
        assert isinstance(txn.execute_short(machine.mvcc, machine.leases, command), TxnDone)
    for command in long:
        assert txn.execute_short(machine.mvcc, machine.leases, command) is None
