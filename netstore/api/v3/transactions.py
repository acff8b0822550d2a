"""Decodes the transactions of the v3 API to commands.

Nearly all are read from their bytes in one walk, which checks them on the way. Whatever is not seen to be
valid there is decoded with protobuf and checked whole; both give the same, and the tests compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from netstore import errors
from netstore.api.v3.messages import long_length, parse_put, read_delete, read_put, read_range
from netstore.api.v3.status import RefusedError
from netstore.codec import Malformed, read_varint
from netstore.errors import Reason, refusal
from netstore.proto.rpc_pb2 import Compare, DeleteRangeRequest, RangeRequest, TxnRequest
from netstore.state.v3 import commands as v3
from netstore.state.v3 import txn
from netstore.state.v3.txn import MAX_ALL_OPS, most_operations

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.proto import rpc_pb2 as pb

# Fields of TxnRequest, of RequestOp, and of Compare.
_COMPARE: Final = 0x0A
_SUCCESS: Final = 0x12
_FAILURE: Final = 0x1A
_REQUEST_RANGE: Final = 0x0A
_REQUEST_PUT: Final = 0x12
_REQUEST_DELETE: Final = 0x1A
_RESULT: Final = 0x08
_TARGET: Final = 0x10
_COMPARED_KEY: Final = 0x1A
_NUMBERS: Final = 0x20
_KEY: Final = 0x0A
_LONG: Final = 0x80
"""Lengths from here on take more than one byte."""

MAX_DEPTH: Final = 64
"""Nesting depth of transactions; the limit of protobuf itself is 100 messages."""


def parse_txn(message: bytes, max_ops: int) -> v3.Txn:
    """The command of an encoded TxnRequest, which can be proposed: DecodeError if the message is none,
    RefusedError if it is not valid (`txn.check`), whatever the state and the gate say.
    """
    command = _parse_plain_txn(message, max_ops)
    if command is not None:
        return command
    request = TxnRequest.FromString(message)
    check_size(request, max_ops)
    read = read_txn(request)
    if isinstance(read, errors.Fault):
        raise RefusedError(read)
    fault = txn.check(read, max_ops)
    if fault is not None:
        raise RefusedError(fault)
    return read


def _parse_plain_txn(message: bytes, max_ops: int) -> v3.Txn | None:
    """The command of a transaction with none in it, read from its bytes in one walk: 1.8 us with two puts,
    where protobuf and the checks take 9. None, after looking at no more than `MAX_ALL_OPS` elements, for
    whatever is not seen to be valid on the way.
    """
    compares: list[v3.Compare] = []
    success: list[v3.Operation] = []
    failure: list[v3.Operation] = []
    operation: v3.Operation | None
    at, size, left = 0, len(message), MAX_ALL_OPS
    try:
        while at < size and left:
            left -= 1
            tag = message[at]
            length, start = message[at + 1], at + 2
            if length >= _LONG:
                if message[start] < _LONG:  # as `messages.long_length`, without a call
                    length, start = length - _LONG + (message[start] << 7), start + 1
                else:
                    length, start = long_length(message, at + 1)
            at = start + length
            if tag == _COMPARE:
                compare = _parse_compare(message, start, at)
                if compare is None:
                    return None
                compares.append(compare)
                continue
            kind, length, inner = message[start], message[start + 1], start + 2
            if length >= _LONG:
                if message[inner] < _LONG:
                    length, inner = length - _LONG + (message[inner] << 7), inner + 1
                else:
                    length, inner = long_length(message, start + 1)
            if inner + length != at or not length:
                return None  # not exactly one operation
            if kind == _REQUEST_PUT:
                operation = put = parse_put(message, inner, at)
                if put.ignore_value or put.ignore_lease or not put.key:
                    return None
            else:
                operation = _parse_other(message, kind, inner, at)
                if operation is None:
                    return None
            if tag == _SUCCESS:
                success.append(operation)
            elif tag == _FAILURE:
                failure.append(operation)
            else:
                return None
    except (IndexError, DecodeError, Malformed):
        return None
    if at != size or max(len(compares), len(success), len(failure)) > max_ops:
        return None
    command = v3.Txn(tuple(compares), tuple(success), tuple(failure))
    return command if txn.check_duplicates(command) is None else None


def _parse_other(message: bytes, kind: int, start: int, end: int) -> v3.Range | v3.DeleteRange | None:
    """The valid range or deletion in this part of a message."""
    operation: v3.Range | v3.DeleteRange | Fault
    if kind == _REQUEST_RANGE:
        if message[start] == _KEY and message[start + 1] == end - start - 2 < _LONG:
            operation = v3.Range(message[start + 2 : end])
        else:
            operation = read_range(RangeRequest.FromString(message[start:end]))
    elif kind == _REQUEST_DELETE:
        operation = read_delete(DeleteRangeRequest.FromString(message[start:end]))
    else:
        return None
    return operation if not isinstance(operation, errors.Fault) and operation.key else None


def _parse_compare(message: bytes, start: int, end: int) -> v3.Compare | None:
    """The compare in this part of a message, if it can be read and has a key. One of a number of a single
    key is decoded here.
    """
    at = start
    result = target = 0
    if message[at] == _RESULT:
        result, at = message[at + 1], at + 2
    if message[at] == _TARGET:
        target, at = message[at + 1], at + 2
    key, key_end = at + 2, at + 2 + message[at + 1]
    # The fields of the numbers follow each other as their targets do; that of `VALUE` is no number.
    is_number = target <= v3.LEASE and target != v3.VALUE and message[at] == _COMPARED_KEY
    if is_number and message[at + 1] < _LONG and message[key_end] == _NUMBERS + 8 * target:
        number, at = read_varint(message, key_end + 1)
        if at == end and key < key_end and result <= v3.NOT_EQUAL and number < 1 << 63:
            return v3.Compare(message[key:key_end], target, result, number)
    compare = _read_compare(Compare.FromString(message[start:end]))
    return compare if compare is not None and compare.key else None


def check_size(request: TxnRequest, max_ops: int) -> None:
    """RefusedError unless a transaction is small enough to be read and authorized in one call: no list has
    more than `max_ops` elements, those of the transactions around it included; all have no more operations
    than `most_operations`, and `MAX_ALL_OPS` compares, or `max_ops` if that is more. Looks at no more
    operations than that.
    """
    compares = operations = 0
    unread = [(request, max_ops)]
    while unread:
        each, most = unread.pop()
        lists = len(each.compare), len(each.success), len(each.failure)
        left = most - max(lists)
        compares += lists[0]
        operations += lists[1] + lists[2]
        if left < 0 or operations > most_operations(max_ops) or compares > max(MAX_ALL_OPS, max_ops):
            raise RefusedError(refusal(Reason.TOO_MANY_OPS))
        for branch in (each.success, each.failure):
            unread += [(op.request_txn, left) for op in branch if op.HasField("request_txn")]


def read_txn(request: pb.TxnRequest, depth: int = 0) -> v3.Txn | Fault:
    """The command of a transaction that is small enough; a fault if it cannot be encoded as one."""
    if depth > MAX_DEPTH:
        return refusal(Reason.TOO_MANY_OPS)
    compares = []
    for each in request.compare:
        compare = _read_compare(each)
        if compare is None:
            return refusal(Reason.KEY_NOT_FOUND)
        compares.append(compare)
    branches: list[tuple[v3.Operation, ...]] = []
    for ops in (request.success, request.failure):
        branch: list[v3.Operation] = []
        for op in ops:
            operation = _read_operation(op, depth)
            if isinstance(operation, errors.Fault):
                return operation
            branch.append(operation)
        branches.append(tuple(branch))
    return v3.Txn(tuple(compares), branches[0], branches[1])


def _read_operation(op: pb.RequestOp, depth: int) -> v3.Operation | Fault:
    kind = op.WhichOneof("request")
    if kind == "request_put":
        return read_put(op.request_put)
    if kind == "request_range":
        return read_range(op.request_range)
    if kind == "request_delete_range":
        return read_delete(op.request_delete_range)
    if kind == "request_txn":
        return read_txn(op.request_txn, depth + 1)
    return refusal(Reason.KEY_NOT_FOUND)


_OPERANDS: Final = {
    v3.VERSION: "version",
    v3.CREATE: "create_revision",
    v3.MOD: "mod_revision",
    v3.LEASE: "lease",
}


def _read_compare(compare: pb.Compare) -> v3.Compare | None:
    target, result = compare.target, compare.result
    if not (0 <= target <= v3.LEASE and 0 <= result <= v3.NOT_EQUAL):
        return None
    if target == v3.VALUE:
        return v3.Compare(compare.key, target, result, 0, compare.value, compare.range_end)
    number: int = getattr(compare, _OPERANDS[target])
    return v3.Compare(compare.key, target, result, number, b"", compare.range_end)
