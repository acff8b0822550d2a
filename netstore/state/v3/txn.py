"""Transactions (v3 API, Txn), and single writes, which share their parts.

Three stages make a transaction atomic: all compares, nested ones included, are evaluated on the state before
it; then every operation of the branches taken is checked for what could fail; then they run, in order, each
seeing those before it, and none can fail any more.

Commands are carried out in pieces: a function named `..._steps` is a generator that yields the units of work
done (about a microsecond each) now and then, so that the caller can pause it; the result does not depend on
where it is paused. Nothing is read for answers here (`Later`).
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from netstore.errors import Fault, Reason, refusal
from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import (
    EQUAL,
    GREATER,
    LESS,
    VALUE,
    Compare,
    Deleted,
    DeleteRange,
    Found,
    Later,
    Operation,
    Put,
    PutDone,
    Range,
    Txn,
    TxnDone,
)
from netstore.state.v3.index import bound_after
from netstore.types import Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from netstore.state.v3.lease import Leases
    from netstore.state.v3.mvcc import Mvcc

MAX_OPS: Final = 128
"""Compares, or operations of one branch, of a transaction and those nested in it (v3 API, validation)."""


MAX_ALL_OPS: Final = 1_024
"""Operations of a transaction and all nested in it, in both branches: `MAX_OPS` alone would allow 70,000. See
`most_operations`.
"""

MAX_COMPARED: Final = 100_000
"""Keys that the compares of a transaction may look at: bounds the work of one command."""

FEW_COMPARED: Final = 500
"""Keys that a read-only transaction compares in one call; with more it goes through the log."""

WRITE_UNITS: Final = 10
"""Units of a put, or of the deletion of one key."""

READ_UNITS: Final = 6
"""Units of one operation of a read-only transaction, until it is answered: a key is fetched."""

_SORT_STEP: Final = 500
_COMPARE_UNITS: Final = 5


class _Path(NamedTuple):
    """The evaluated compares of a transaction: the operations of the branch taken, with nested transactions
    replaced by their own paths.
    """

    succeeded: bool
    steps: Sequence[Operation | _Path]


_Response: TypeAlias = PutDone | Deleted | Found | Later | TxnDone
_Answer: TypeAlias = PutDone | Deleted | Later | TxnDone

# --- validation before proposing


def check(command: Operation, max_ops: int = MAX_OPS) -> Fault | None:
    """Validate a request independently of the state, both branches of transactions included.

    Linear in the size of the request, but for comparing each deleted range with the sorted keys put in the
    same list.
    """
    if type(command) is Put and command.key and not (command.ignore_value or command.ignore_lease):
        return None  # the most frequent case
    if isinstance(command, Txn):
        if _count(command) > most_operations(max_ops):
            return refusal(Reason.TOO_MANY_OPS)
        return _check_txn(command, max_ops) or check_duplicates(command)
    return _check_operation(command)


def most_operations(max_ops: int) -> int:
    """How many operations a transaction and all nested in it may have, where one list may have `max_ops`."""
    return max(MAX_ALL_OPS, 2 * max_ops)


def is_read(txn: Txn) -> bool:
    """Whether all operations are ranges, so that the transaction need not go through the log."""
    for branch in (txn.success, txn.failure):
        for operation in branch:
            if type(operation) is not Range:
                return False
    return True


def puts_of(txn: Txn) -> Iterator[Put]:
    """Every put in any branch, at any depth."""
    unread = [txn]
    while unread:
        each = unread.pop()
        for operation in (*each.success, *each.failure):
            if type(operation) is Put:
                yield operation
            elif type(operation) is Txn:
                unread.append(operation)


def read_units(mvcc: Mvcc, txn: Txn) -> int:
    """Units of a read-only transaction, about, without its ranges, which count themselves."""
    operations = max(len(txn.success), len(txn.failure))
    return READ_UNITS * operations + len(txn.compares) + compared(mvcc, txn)


def _count(txn: Txn) -> int:
    count = 0
    for branch in (txn.success, txn.failure):
        count += len(branch)
        for each in branch:
            if type(each) is Txn:
                count += _count(each)
    return count


def _check_txn(txn: Txn, max_ops: int) -> Fault | None:
    count = max(len(txn.compares), len(txn.success), len(txn.failure))
    if count > max_ops:
        return refusal(Reason.TOO_MANY_OPS)
    for compare in txn.compares:
        if not compare.key:
            return refusal(Reason.EMPTY_KEY)
    for branch in (txn.success, txn.failure):
        for operation in branch:
            if isinstance(operation, Txn):
                fault = _check_txn(operation, max_ops - count)
            else:
                fault = _check_operation(operation)
            if fault is not None:
                return fault
    return None


def _check_operation(operation: Range | Put | DeleteRange) -> Fault | None:
    if not operation.key:
        return refusal(Reason.EMPTY_KEY)
    if isinstance(operation, Put):
        if operation.ignore_value and operation.value:
            return refusal(Reason.VALUE_PROVIDED)
        if operation.ignore_lease and operation.lease:
            return refusal(Reason.LEASE_PROVIDED)
    return None


def check_duplicates(txn: Txn) -> Fault | None:
    """The part of `check` that looks for keys written twice."""
    for branch in (txn.success, txn.failure):
        if len(branch) < 2 and (not branch or type(branch[0]) is not Txn):
            continue
        puts = [operation.key for operation in branch if type(operation) is Put]
        if len(puts) == len(branch) == len(set(puts)):
            continue  # as `_writes` says, too
        if _writes(branch) is None:
            return refusal(Reason.DUPLICATE_KEY)
    return None


def _writes(branch: Sequence[Operation]) -> tuple[set[bytes], list[DeleteRange]] | None:
    """The keys put and the ranges deleted by a list of operations, or None if two of them conflict.

    The branches of a nested transaction are joined but do not conflict with each other. Nested transactions
    are checked before the list's own puts, in order; a key deleted by one may not be put by a later one.
    """
    puts: set[bytes] = set()
    deletes = [operation for operation in branch if isinstance(operation, DeleteRange)]
    for operation in branch:
        if isinstance(operation, Txn):
            sides = (_writes(operation.success), _writes(operation.failure))
            if sides[0] is None or sides[1] is None:
                return None
            inner = sides[0][0] | sides[1][0]
            if inner & puts or _any_covers(deletes, inner):
                return None
            puts |= inner
            deletes += sides[0][1] + sides[1][1]
    own = [operation.key for operation in branch if isinstance(operation, Put)]
    if len(set(own)) < len(own) or not puts.isdisjoint(own) or _any_covers(deletes, own):
        return None
    puts.update(own)
    return puts, deletes


def _any_covers(deletes: Iterable[DeleteRange], puts: Iterable[bytes]) -> bool:
    """Whether a deletion covers one of these keys; as in etcd, a range without end (b"\\0") covers none."""
    keys = sorted(puts)
    if not keys:
        return False
    for delete in deletes:
        at = bisect_left(keys, delete.key)
        if at < len(keys) and (keys[at] < delete.range_end if delete.range_end else keys[at] == delete.key):
            return True
    return False


# --- applying


def put(mvcc: Mvcc, leases: Leases, command: Put) -> PutDone | Fault:
    """Carry out a put outside a transaction."""
    if command.lease and leases.get(command.lease) is None:
        return refusal(Reason.LEASE_NOT_FOUND)
    if (command.ignore_value or command.ignore_lease) and not mvcc.exists(command.key):
        return refusal(Reason.KEY_NOT_FOUND)
    prev_kv = _write(mvcc, command)
    return PutDone(mvcc.finish(), prev_kv)


def range_later(mvcc: Mvcc, command: Range) -> Later | Fault:
    """Carry out a range in the log outside a transaction."""
    return mvcc.check_revision(command.revision) or later(mvcc, command)


def later(mvcc: Mvcc, query: Range) -> Later:
    """A deferred read of the state between two commands, at a revision that can be read."""
    bound = bound_after(query.revision if query.revision > 0 else mvcc.revision)
    return Later(mvcc.revision, query, bound)


def delete_range_steps(mvcc: Mvcc, command: DeleteRange) -> Generator[int, None, Deleted]:
    """Carry out a deletion outside a transaction."""
    deleted = yield from _delete_steps(mvcc, command)
    return Deleted(mvcc.finish(), deleted.deleted, deleted.prev_kvs)


def delete_one(mvcc: Mvcc, command: DeleteRange) -> Deleted:
    """Carry out the deletion of a single key outside a transaction."""
    deleted = _delete_one(mvcc, command)
    mvcc.finish()
    return deleted


def end_lease_steps(mvcc: Mvcc, keys: Iterable[bytes]) -> Generator[int]:
    """Delete the keys of a lease, in order, in a revision of their own."""
    mvcc.begin_revision()
    runs: list[list[bytes]] = []
    unsorted = iter(keys)
    while run := sorted(islice(unsorted, _SORT_STEP)):
        runs.append(run)
        yield len(run)
    for key in merge(*runs):
        mvcc.delete(key)
        yield WRITE_UNITS


def execute(mvcc: Mvcc, leases: Leases, txn: Txn) -> TxnDone | Fault:
    """Carry out a transaction in one call."""
    steps = execute_steps(mvcc, leases, txn)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            done: TxnDone | Fault = end.value
            return done


def execute_short(mvcc: Mvcc, leases: Leases, txn: Txn) -> TxnDone | Fault | None:
    """Carry out a transaction of single-key compares whose branch taken has puts, ranges and deletions of
    single keys alone, at most `MAX_OPS` of each, in one call. None, with nothing changed, for any other. The
    result is that of `execute_steps`.
    """
    succeeded = True
    for compare in txn.compares:
        if compare.range_end or compare.target == VALUE:
            return None
        if succeeded:
            number = mvcc.number(compare.key, compare.target)
            succeeded = _judge(compare.result, number, compare.number)
    operations, others = (txn.success, txn.failure) if succeeded else (txn.failure, txn.success)
    if len(txn.compares) > MAX_OPS or len(operations) > MAX_OPS or Txn in map(type, others):
        return None  # more than `MAX_OPS` are possible if the operator allows them
    bad_put = bad_range = None
    for operation in operations:
        if type(operation) is Put:
            if operation.ignore_value:
                return None
            if operation.lease or operation.ignore_lease:
                bad_put = bad_put or _look_ahead_put(mvcc, leases, operation)
        elif type(operation) is Range:
            bad_range = bad_range or mvcc.check_revision(operation.revision)
        elif type(operation) is not DeleteRange or operation.range_end:
            return None
    fault = bad_put or bad_range
    if fault is not None:
        return fault
    responses: list[_Response] = []
    plain: PutDone | None = None
    for operation in operations:
        if type(operation) is Put:
            if operation.prev_kv or operation.ignore_lease:
                prev_kv = _write(mvcc, operation)
                responses.append(PutDone(mvcc.current, prev_kv))
            else:
                mvcc.put(operation.key, operation.value, operation.lease)
                plain = plain or PutDone(mvcc.current)
                responses.append(plain)
        elif type(operation) is Range:
            responses.append(_read_later(mvcc, operation))
        elif type(operation) is DeleteRange:
            responses.append(_delete_one(mvcc, operation))
    return TxnDone(mvcc.finish(), succeeded, responses)


def execute_steps(mvcc: Mvcc, leases: Leases, txn: Txn) -> Generator[int, None, TxnDone | Fault]:
    """Carry out a transaction."""
    if compared(mvcc, txn) > MAX_COMPARED:
        return refusal(Reason.TOO_MANY_OPS)
    path = yield from _decide_steps(mvcc, txn)
    bad_put, bad_range = _look_ahead(mvcc, leases, path)
    fault = bad_put or bad_range
    if fault is not None:
        return fault
    responses = yield from _run_steps(mvcc, path)
    return TxnDone(mvcc.finish(), path.succeeded, responses)


def compared(mvcc: Mvcc, txn: Txn) -> int:
    """How many keys the compares over ranges look at, nested ones included. O(log n) for each."""
    count = sum(mvcc.count(each.key, each.range_end) for each in txn.compares if each.range_end)
    for branch in (txn.success, txn.failure):
        for operation in branch:
            if type(operation) is Txn:
                count += compared(mvcc, operation)
    return count


def _decide_steps(mvcc: Mvcc, txn: Txn) -> Generator[int, None, _Path]:
    """Evaluate the compares of a transaction and of those nested in the branch taken, `MAX_DEPTH` deep."""
    succeeded = True
    for compare in txn.compares:
        if compare.range_end or compare.target == VALUE:
            succeeded = yield from _holds_steps(mvcc, compare)
        else:
            succeeded = _judge(compare.result, mvcc.number(compare.key, compare.target), compare.number)
        if not succeeded:
            break
    operations = txn.success if succeeded else txn.failure
    if Txn not in map(type, operations):
        return _Path(succeeded, operations)
    steps: list[Operation | _Path] = []
    for operation in operations:
        if isinstance(operation, Txn):
            inner = yield from _decide_steps(mvcc, operation)
            steps.append(inner)
        else:
            steps.append(operation)
    return _Path(succeeded, steps)


def _holds_steps(mvcc: Mvcc, compare: Compare) -> Generator[int, None, bool]:
    result = compare.result
    if compare.target == VALUE:
        # As in etcd, every compare of the value of a missing key is false, "not equal" too.
        seen = False
        for value in mvcc.values(compare.key, compare.range_end):
            seen = True
            if not _judge(result, value, compare.value):
                return False
            yield _COMPARE_UNITS + len(value) // UNIT_BYTES
        return seen
    if not mvcc.count(compare.key, compare.range_end):
        return _judge(result, 0, compare.number)
    for number in mvcc.numbers(compare.key, compare.range_end, compare.target):
        if not _judge(result, number, compare.number):
            return False
        yield 1
    return True


def _judge(result: int, left: int | bytes, right: int | bytes) -> bool:
    if result == EQUAL:
        return left == right
    if result == GREATER:
        return left > right  # type: ignore[operator]  # both are numbers or both are bytes
    if result == LESS:
        return left < right  # type: ignore[operator]  # as above
    return left != right


def _look_ahead(mvcc: Mvcc, leases: Leases, path: _Path) -> tuple[Fault | None, Fault | None]:
    """The faults of the first put and the first range that would fail. etcd reports that of the put."""
    bad_range: Fault | None = None
    for step in path.steps:
        if type(step) is Put:
            bad_put = _look_ahead_put(mvcc, leases, step)
            if bad_put is not None:
                return bad_put, bad_range
        elif type(step) is Range:
            bad_range = bad_range or mvcc.check_revision(step.revision)
        elif type(step) is _Path:
            bad_put, inner_range = _look_ahead(mvcc, leases, step)
            bad_range = bad_range or inner_range
            if bad_put is not None:
                return bad_put, bad_range
    return None, bad_range


def _look_ahead_put(mvcc: Mvcc, leases: Leases, put: Put) -> Fault | None:
    if (put.ignore_value or put.ignore_lease) and not mvcc.exists(put.key):
        return refusal(Reason.KEY_NOT_FOUND)
    return refusal(Reason.LEASE_NOT_FOUND) if put.lease and leases.get(put.lease) is None else None


def _run_steps(mvcc: Mvcc, path: _Path) -> Generator[int, None, list[_Response]]:
    responses: list[_Response] = []
    for step in path.steps:
        if type(step) is Put:
            prev_kv = _write(mvcc, step)
            responses.append(PutDone(mvcc.current, prev_kv))
            yield WRITE_UNITS + (mvcc.size_of(step.key) // UNIT_BYTES if step.ignore_value else 0)
        elif type(step) is Range:
            responses.append(_read_later(mvcc, step))
        elif type(step) is DeleteRange:
            deleted = yield from _delete_steps(mvcc, step)
            responses.append(deleted)
        elif type(step) is _Path:
            inner = yield from _run_steps(mvcc, step)
            responses.append(TxnDone(Revision(0), step.succeeded, inner))
    return responses


def _read_later(mvcc: Mvcc, query: Range) -> Later:
    """A deferred read of the state between two operations of a transaction."""
    mvcc.ranges += 1
    bound = bound_after(query.revision) if query.revision > 0 else mvcc.bound
    return Later(mvcc.current, query, bound)


def _delete_steps(mvcc: Mvcc, command: DeleteRange) -> Generator[int, None, Deleted]:
    """Delete a range. The previous pairs are a deferred read at the bound before."""
    bound, before = mvcc.bound, mvcc.current
    count = yield from mvcc.delete_steps(command.key, command.range_end)
    prev_kvs: list[bytes] | Later = []
    if count and command.prev_kv:
        prev_kvs = Later(before, Range(command.key, command.range_end), bound)
    return Deleted(mvcc.current, count, prev_kvs)


def _delete_one(mvcc: Mvcc, command: DeleteRange) -> Deleted:
    """Delete a single key: what `_delete_steps` does, in one call."""
    bound, before = mvcc.bound, mvcc.current
    if not mvcc.exists(command.key):
        return Deleted(before, 0, [])
    mvcc.delete(command.key)
    prev_kvs: list[bytes] | Later = Later(before, Range(command.key), bound) if command.prev_kv else []
    return Deleted(mvcc.current, 1, prev_kvs)


def _write(mvcc: Mvcc, command: Put) -> Later | None:
    """Put a pair; returns a deferred read of the previous one, if it was asked for and existed. If an earlier
    operation of the transaction has deleted the key, `ignore_value` keeps an empty value.
    """
    value, lease = command.value, command.lease
    bound = mvcc.bound if command.prev_kv else 0
    if command.ignore_lease:
        lease = mvcc.lease_of(command.key)
    if command.ignore_value:
        old = mvcc.get(command.key)
        value = b"" if old is None else keyvalue.decode(old).value
    before = mvcc.put(command.key, value, lease)
    return Later(mvcc.revision, Range(command.key), bound) if bound and before else None


# --- answering


def settle(outcome: _Answer, find: Callable[[Later], Found]) -> PutDone | Deleted | Found | TxnDone:
    """The outcome with all deferred reads (`Later`) replaced by what `find` reads."""
    if isinstance(outcome, Later):
        found = find(outcome)
        return msgspec.structs.replace(found, revision=outcome.revision)
    if isinstance(outcome, PutDone):
        prev_kv = outcome.prev_kv
        if not isinstance(prev_kv, Later):
            return outcome
        kvs = find(prev_kv).kvs
        return PutDone(outcome.revision, kvs[0] if kvs else None)
    if isinstance(outcome, Deleted):
        prev_kvs = outcome.prev_kvs
        if not isinstance(prev_kvs, Later):
            return outcome
        return Deleted(outcome.revision, outcome.deleted, find(prev_kvs).kvs)
    responses = [each if isinstance(each, Found) else settle(each, find) for each in outcome.responses]
    return TxnDone(outcome.revision, outcome.succeeded, [*responses])
