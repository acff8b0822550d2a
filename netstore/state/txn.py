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
from netstore.state.v3commands import (
    CREATE,
    EQUAL,
    GREATER,
    LEASE,
    LESS,
    MOD,
    VALUE,
    VERSION,
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

MAX_DEPTH: Final = 128
"""Transactions in one another that are carried out; `MAX_OPS` allows no more."""


class _Path(NamedTuple):
    """What a transaction was found to do: its branch, and the same of each transaction nested in that."""

    succeeded: bool
    operations: Sequence[Operation]
    nested: list[_Path | None]


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
    gone = mvcc.delete_range(command.key, command.range_end)
    return Deleted(mvcc.finish(), len(gone), [mvcc.pair(place) for place in gone] if command.prev_kv else [])


def execute(mvcc: Mvcc, leases: Leases, txn: Txn) -> TxnDone | Fault:
    """Carry out a transaction."""
    path = _decide(mvcc, txn, MAX_DEPTH)
    if path is None:
        return refusal(errors.TOO_MANY_OPS)
    fault = _check_puts(mvcc, leases, path) or _check_ranges(mvcc, path)
    if fault is not None:
        return fault
    responses = _run(mvcc, path)
    return TxnDone(mvcc.finish(), path.succeeded, responses)


def _decide(mvcc: Mvcc, txn: Txn, depth: int) -> _Path | None:
    """The path through the tree, None when that is nested too deep."""
    if not depth:
        return None
    succeeded = all(_holds(mvcc, compare) for compare in txn.compares)
    operations = txn.success if succeeded else txn.failure
    nested: list[_Path | None] = []
    for operation in operations:
        path = None
        if type(operation) is Txn:
            path = _decide(mvcc, operation, depth - 1)
            if path is None:
                return None
        nested.append(path)
    return _Path(succeeded, operations, nested)


def _holds(mvcc: Mvcc, compare: Compare) -> bool:
    found = mvcc.operands(compare.key, compare.range_end)
    if compare.target == VALUE:
        # A missing key has no value, so nothing can be said of it, not even that it differs.
        return bool(found) and all(
            _judge(compare.result, pair.split(mvcc.pair(operands.place)).value, compare.value)
            for operands in found
        )
    if not found:
        return _judge(compare.result, 0, compare.number)
    column = {VERSION: 0, CREATE: 1, MOD: 2, LEASE: 3}[compare.target]
    return all(_judge(compare.result, operands[column], compare.number) for operands in found)


def _judge(result: int, left: int | bytes, right: int | bytes) -> bool:
    if result == EQUAL:
        return left == right
    if result == GREATER:
        return left > right  # type: ignore[operator]  # both are numbers or both are bytes
    if result == LESS:
        return left < right  # type: ignore[operator]  # as above
    return left != right


def _check_puts(mvcc: Mvcc, leases: Leases, path: _Path) -> Fault | None:
    for operation, nested in zip(path.operations, path.nested, strict=True):
        fault = None
        if nested is not None:
            fault = _check_puts(mvcc, leases, nested)
        elif isinstance(operation, Put):
            if (operation.ignore_value or operation.ignore_lease) and not mvcc.exists(operation.key):
                fault = refusal(errors.KEY_NOT_FOUND)
            elif operation.lease and leases.get(operation.lease) is None:
                fault = refusal(errors.LEASE_NOT_FOUND)
        if fault is not None:
            return fault
    return None


def _check_ranges(mvcc: Mvcc, path: _Path) -> Fault | None:
    for operation, nested in zip(path.operations, path.nested, strict=True):
        fault = None
        if nested is not None:
            fault = _check_ranges(mvcc, nested)
        elif isinstance(operation, Range):
            fault = mvcc.check_revision(operation.revision)
        if fault is not None:
            return fault
    return None


def _run(mvcc: Mvcc, path: _Path) -> list[_Response]:
    responses: list[_Response] = []
    for operation, nested in zip(path.operations, path.nested, strict=True):
        if nested is not None:
            responses.append(TxnDone(Revision(0), nested.succeeded, _run(mvcc, nested)))
        elif isinstance(operation, Put):
            before = _write(mvcc, operation)
            prev = mvcc.pair(before) if before and operation.prev_kv else None
            responses.append(PutDone(mvcc.current, prev))
        elif isinstance(operation, DeleteRange):
            gone = mvcc.delete_range(operation.key, operation.range_end)
            pairs = [mvcc.pair(place) for place in gone] if operation.prev_kv else []
            responses.append(Deleted(mvcc.current, len(gone), pairs))
        elif isinstance(operation, Range):
            found = mvcc.range(operation)
            assert not isinstance(found, Fault), "its revision was checked"  # noqa: S101 - a bug, not an input
            responses.append(found)
    return responses


def _write(mvcc: Mvcc, command: Put) -> int:
    """Put a pair. What is to be kept of a pair that an operation before it has deleted is empty."""
    value, lease = command.value, command.lease
    if command.ignore_lease:
        lease = mvcc.lease_of(command.key)
    if command.ignore_value:
        old = mvcc.get(command.key)
        value = b"" if old is None else pair.split(old).value
    return mvcc.put(command.key, value, lease)
