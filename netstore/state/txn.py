"""Transactions, and what single writes share with them (v3 API, Txn).

Three stages, so that a transaction is done whole or not at all: every compare of the whole tree is decided on
the state before it; then every operation on the path taken is checked for what could fail; then they run, in
order, each seeing those before it, and nothing can fail any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from netstore import errors
from netstore.errors import Fault, refusal
from netstore.state import pair
from netstore.state.keyindex import bound_after
from netstore.state.v3commands import (
    EQUAL,
    GREATER,
    LESS,
    VALUE,
    Compare,
    Deleted,
    DeleteRange,
    Found,
    Operation,
    Put,
    PutDone,
    Range,
    Txn,
    TxnDone,
)
from netstore.types import Revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.state.lease import Leases
    from netstore.state.mvcc import Mvcc

MAX_OPS: Final = 128
"""Compares, or operations of one branch, of a transaction and those nested in it (v3 API, validation)."""


class _Path(NamedTuple):
    """What a transaction was found to do: the operations of its branch, and in place of each transaction
    nested there what that was found to do.
    """

    succeeded: bool
    steps: Sequence[Operation | _Path]


_Response: TypeAlias = PutDone | Deleted | Found | TxnDone

# --- before anything is proposed


def check(command: Operation, max_ops: int = MAX_OPS) -> Fault | None:
    """What is wrong with a request whatever the state is; untaken branches are looked at, too.

    Linear in the size of the request, but for deleted ranges and puts of one list: each with each.
    """
    if isinstance(command, Txn):
        return _check_txn(command, max_ops) or _check_duplicates(command)
    return _check_operation(command)


def is_read(txn: Txn) -> bool:
    """Whether the transaction only reads, so that it need not enter the log."""
    return all(isinstance(operation, Range) for operation in (*txn.success, *txn.failure))


def _check_txn(txn: Txn, max_ops: int) -> Fault | None:
    count = max(len(txn.compares), len(txn.success), len(txn.failure))
    if count > max_ops:
        return refusal(errors.TOO_MANY_OPS)
    if not all(compare.key for compare in txn.compares):
        return refusal(errors.EMPTY_KEY)
    for operation in (*txn.success, *txn.failure):
        if isinstance(operation, Txn):
            fault = _check_txn(operation, max_ops - count)
        else:
            fault = _check_operation(operation)
        if fault is not None:
            return fault
    return None


def _check_operation(operation: Range | Put | DeleteRange) -> Fault | None:
    if not operation.key:
        return refusal(errors.EMPTY_KEY)
    if isinstance(operation, Put):
        if operation.ignore_value and operation.value:
            return refusal(errors.VALUE_PROVIDED)
        if operation.ignore_lease and operation.lease:
            return refusal(errors.LEASE_PROVIDED)
    return None


def _check_duplicates(txn: Txn) -> Fault | None:
    for branch in (txn.success, txn.failure):
        if _writes(branch) is None:
            return refusal(errors.DUPLICATE_KEY)
    return None


def _writes(branch: Sequence[Operation]) -> tuple[set[bytes], list[DeleteRange]] | None:
    """The keys put and the ranges deleted by a list of operations, or None when two of them collide.

    The two branches of a nested transaction count together but do not collide with each other; nested
    transactions go before the list's own puts, in order, and what one deletes may not be put by a later one.
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
    for operation in branch:
        if isinstance(operation, Put):
            if operation.key in puts or _any_covers(deletes, (operation.key,)):
                return None
            puts.add(operation.key)
    return puts, deletes


def _any_covers(deletes: Iterable[DeleteRange], puts: Iterable[bytes]) -> bool:
    return any(_covers(delete, key) for delete in deletes for key in puts)


def _covers(delete: DeleteRange, key: bytes) -> bool:
    """Whether a deletion is seen to take a key; as in etcd, an open end is not looked into."""
    return delete.key <= key < delete.range_end if delete.range_end else key == delete.key


# --- when its turn in the log has come


def put(mvcc: Mvcc, leases: Leases, command: Put) -> PutDone | Fault:
    """Carry out a put that stands alone."""
    if command.lease and leases.get(command.lease) is None:
        return refusal(errors.LEASE_NOT_FOUND)
    if (command.ignore_value or command.ignore_lease) and not mvcc.exists(command.key):
        return refusal(errors.KEY_NOT_FOUND)
    before = _write(mvcc, command)
    revision = mvcc.finish()
    return PutDone(revision, mvcc.pair(before) if before and command.prev_kv else None)


def delete_range(mvcc: Mvcc, command: DeleteRange) -> Deleted:
    """Carry out a deletion that stands alone."""
    count, prev_kvs = _delete(mvcc, command)
    return Deleted(mvcc.finish(), count, prev_kvs)


def execute(mvcc: Mvcc, leases: Leases, txn: Txn) -> TxnDone | Fault:
    """Carry out a transaction."""
    path = _decide(mvcc, txn)
    bad_put, bad_range = _look_ahead(mvcc, leases, path)
    fault = bad_put or bad_range
    if fault is not None:
        return fault
    responses = _run(mvcc, path)
    return TxnDone(mvcc.finish(), path.succeeded, responses)


def _decide(mvcc: Mvcc, txn: Txn) -> _Path:
    """The path through the tree, which is at most `MAX_DEPTH` deep."""
    succeeded = True
    for compare in txn.compares:
        if not _holds(mvcc, compare):
            succeeded = False
            break
    operations = txn.success if succeeded else txn.failure
    if Txn not in map(type, operations):
        return _Path(succeeded, operations)
    steps: list[Operation | _Path] = [
        _decide(mvcc, operation) if isinstance(operation, Txn) else operation for operation in operations
    ]
    return _Path(succeeded, steps)


def _holds(mvcc: Mvcc, compare: Compare) -> bool:
    if compare.target == VALUE:
        # A missing key has no value, so nothing can be said of it, not even that it differs.
        seen = False
        for value in mvcc.values(compare.key, compare.range_end):
            seen = True
            if not _judge(compare.result, value, compare.value):
                return False
        return seen
    if not compare.range_end:
        return _judge(compare.result, mvcc.number(compare.key, compare.target), compare.number)
    if not mvcc.count(compare.key, compare.range_end):
        return _judge(compare.result, 0, compare.number)
    numbers = mvcc.numbers(compare.key, compare.range_end, compare.target)
    return all(_judge(compare.result, number, compare.number) for number in numbers)


def _judge(result: int, left: int | bytes, right: int | bytes) -> bool:
    if result == EQUAL:
        return left == right
    if result == GREATER:
        return left > right  # type: ignore[operator]  # both are numbers or both are bytes
    if result == LESS:
        return left < right  # type: ignore[operator]  # as above
    return left != right


def _look_ahead(mvcc: Mvcc, leases: Leases, path: _Path) -> tuple[Fault | None, Fault | None]:
    """The first put and the first range that would fail. Where there are both, etcd tells the put."""
    bad_range: Fault | None = None
    for step in path.steps:
        if type(step) is Put:
            if (step.ignore_value or step.ignore_lease) and not mvcc.exists(step.key):
                return refusal(errors.KEY_NOT_FOUND), bad_range
            if step.lease and leases.get(step.lease) is None:
                return refusal(errors.LEASE_NOT_FOUND), bad_range
        elif type(step) is Range:
            bad_range = bad_range or mvcc.check_revision(step.revision)
        elif type(step) is _Path:
            bad_put, inner_range = _look_ahead(mvcc, leases, step)
            bad_range = bad_range or inner_range
            if bad_put is not None:
                return bad_put, bad_range
    return None, bad_range


def _run(mvcc: Mvcc, path: _Path) -> list[_Response]:
    responses: list[_Response] = []
    for step in path.steps:
        if type(step) is Put:
            before = _write(mvcc, step)
            prev = mvcc.pair(before) if before and step.prev_kv else None
            responses.append(PutDone(mvcc.current, prev))
        elif type(step) is Range:
            found = mvcc.range(step, bound_after(step.revision) if step.revision > 0 else mvcc.bound)
            assert not isinstance(found, Fault), "its revision was checked"  # noqa: S101 - a bug, not an input
            responses.append(found)
        elif type(step) is DeleteRange:
            count, prev_kvs = _delete(mvcc, step)
            responses.append(Deleted(mvcc.current, count, prev_kvs))
        elif type(step) is _Path:
            responses.append(TxnDone(Revision(0), step.succeeded, _run(mvcc, step)))
    return responses


def _delete(mvcc: Mvcc, command: DeleteRange) -> tuple[int, list[bytes]]:
    """Delete a range: how many keys, and the pairs there were, where they are asked for."""
    bound = mvcc.bound
    count = mvcc.delete_range(command.key, command.range_end)
    if not count or not command.prev_kv:
        return count, []
    found = mvcc.range(Range(command.key, command.range_end), bound)
    return count, [] if isinstance(found, Fault) else found.kvs


def _write(mvcc: Mvcc, command: Put) -> int:
    """Put a pair. What is to be kept of a pair that an operation before it has deleted is empty."""
    value, lease = command.value, command.lease
    if command.ignore_lease:
        lease = mvcc.lease_of(command.key)
    if command.ignore_value:
        old = mvcc.get(command.key)
        value = b"" if old is None else pair.split(old).value
    return mvcc.put(command.key, value, lease)
