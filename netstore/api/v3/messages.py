"""Decodes requests of the v3 API to commands, and encodes outcomes to responses.

Requests are decoded with protobuf (upb). Responses with pairs are joined from the stored bytes of the pairs
(`proto.wire`); all others are built with protobuf. Both have the fields in the order of their numbers and
leave out zeros, as every encoder does, so that they are the same bytes; the tests compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast

from google.protobuf.message import DecodeError

from netstore import errors
from netstore.api.v3.status import RefusedError
from netstore.codec import Malformed, read_varint, varint
from netstore.errors import Reason, refusal
from netstore.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest
from netstore.proto.wire import MASK64, framed, repeated
from netstore.state.v3 import commands as v3
from netstore.state.v3 import txn
from netstore.state.v3.txn import MAX_ALL_OPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from netstore.errors import Fault
    from netstore.node.member import Member
    from netstore.proto import rpc_pb2 as pb
    from netstore.state.v3.commands import Deleted, Found, Later, PutDone, TxnDone
    from netstore.state.v3.reads import RangeRead

# A tag is the number of a field << 3 | 2 for bytes, | 0 for a number (protobuf encoding guide).
_TWO: Final = b"\x12"
LISTED: Final = _TWO
"""The tag of the pairs in a `RangeResponse`."""
_THREE: Final = b"\x1a"
_KEY: Final = 0x0A
_VALUE: Final = 0x12
_PUT_HEADS: Final = 4
"""Least bytes of two tags and two lengths."""
_LONG: Final = 0x80
"""Lengths from here on take more than one byte."""
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
_SERIALIZABLE: Final = b"\x38\x01"
"""The field `serializable` of a RangeRequest."""
_ONE: Final = b"\x20\x01"
"""The field `count` of a RangeResponse with one pair and no more."""
_UNSETTLED: Final = "this outcome holds what is still to be read"


# --- requests


def parse_put(message: bytes, start: int = 0, end: int = 0) -> v3.Put:
    """The command of an encoded PutRequest; DecodeError if it is none. With `end`, the request is only that
    part of the message. One with a key and a value and nothing else is decoded here, in 0.6 us; protobuf
    takes 1.8 us.
    """
    end = end or len(message)
    if end - start > _PUT_HEADS and message[start] == _KEY and message[start + 1] < _LONG:
        key = start + 2
        key_end = key + message[start + 1]
        value = key_end + 2
        if value < end and message[key_end] == _VALUE:
            length = message[key_end + 1]
            if length >= _LONG:
                length, value = _long_length(message, key_end + 1)
            if value + length == end:
                return v3.Put(message[key:key_end], message[value:end])
    return read_put(PutRequest.FromString(message[start:end]))


def read_put(request: pb.PutRequest) -> v3.Put:
    """The command of a put."""
    return v3.Put(
        request.key,
        request.value,
        request.lease,
        request.prev_kv,
        request.ignore_value,
        request.ignore_lease,
    )


def read_delete(request: pb.DeleteRangeRequest) -> v3.DeleteRange:
    """The command of a deletion."""
    return v3.DeleteRange(request.key, request.range_end, request.prev_kv)


def parse_range(message: bytes) -> tuple[v3.Range, bool]:
    """The query of an encoded RangeRequest, and whether it is serializable; DecodeError if it is none,
    RefusedError if it cannot be answered. A request for one key is decoded here, in 0.2 us; protobuf and
    `read_range` take 1 us.
    """
    size = len(message)
    if size > 2 and message[0] == _KEY and message[1] < _LONG:
        end = 2 + message[1]
        if end == size:
            return v3.Range(message[2:]), False
        if message[end:] == _SERIALIZABLE:
            return v3.Range(message[2:end]), True
    request = RangeRequest.FromString(message)
    query = read_range(request)
    if isinstance(query, errors.Fault):
        raise RefusedError(query)
    return query, request.serializable


def read_range(request: pb.RangeRequest) -> v3.Range | Fault:
    """The query of a range; a fault if it has an unknown order or target."""
    order, target = request.sort_order, request.sort_target
    if not (0 <= order <= v3.DESCEND and 0 <= target <= v3.BY_VALUE):
        return refusal(Reason.INVALID_SORT)
    return v3.Range(
        request.key,
        request.range_end,
        request.limit,
        request.revision,
        order,
        target,
        request.keys_only,
        request.count_only,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )


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
                if message[start] < _LONG:  # as `_long_length`, without a call
                    length, start = length - _LONG + (message[start] << 7), start + 1
                else:
                    length, start = _long_length(message, at + 1)
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
                    length, inner = _long_length(message, start + 1)
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


def _long_length(message: bytes, at: int) -> tuple[int, int]:
    """The length at `at`, which takes more than one byte, and the position after it; a length beyond the end
    of the message if it cannot be read.
    """
    more = message[at + 1]
    if more < _LONG:
        return message[at] - _LONG + (more << 7), at + 2
    try:
        return read_varint(message, at)
    except Malformed:
        return len(message), at


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
    # The fields of the numbers follow each other as their targets do.
    if message[at] == _COMPARED_KEY and message[at + 1] < _LONG and message[key_end] == _NUMBERS + 8 * target:
        number, at = read_varint(message, key_end + 1)
        if at == end and key < key_end and result <= v3.NOT_EQUAL and target <= v3.LEASE and number < 1 << 63:
            return v3.Compare(message[key:key_end], target, result, number)
    compare = _read_compare(Compare.FromString(message[start:end]))
    return compare if compare is not None and compare.key else None


def check_size(request: TxnRequest, max_ops: int) -> None:
    """RefusedError unless a transaction is small enough to be read and authorized in one call: no list has
    more than `max_ops` elements, those of the transactions around it included; all have `MAX_ALL_OPS`
    operations, and as many compares, or `max_ops` if that is more. Looks at no more operations than that.
    """
    compares = operations = 0
    unread = [(request, max_ops)]
    while unread:
        each, most = unread.pop()
        lists = len(each.compare), len(each.success), len(each.failure)
        left = most - max(lists)
        compares += lists[0]
        operations += lists[1] + lists[2]
        if left < 0 or operations > MAX_ALL_OPS or compares > max(MAX_ALL_OPS, max_ops):
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


# --- answers


class Headers:
    """Encodes the header of each response: member, revision and term. The last one is cached."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._ids = b"\x08%b\x10%b" % (varint(member.cluster_id), varint(member.id))
        self._term = -1
        self._end = b""
        self._fronts: dict[int, bytes] = {}
        """Length of the encoded revision -> the bytes before it."""
        self._revision = -1
        self._bytes = b""

    def __call__(self, revision: int) -> bytes:
        """The header, as the first field of a response. A revision of 0 is left out. 0.5 us for a new one."""
        term = self._member.term
        if term != self._term:
            self._term, self._end = term, b"\x20" + varint(term)
            self._fronts, self._revision = {}, -1
        if revision != self._revision:
            self._revision = revision
            number = varint(revision) if revision else b""
            front = self._fronts.get(len(number))
            if front is None:
                tag = b"\x18" if revision else b""
                size = len(self._ids) + len(tag) + len(number) + len(self._end)
                front = self._fronts[len(number)] = b"\x0a%b%b%b" % (varint(size), self._ids, tag)
            self._bytes = front + number + self._end
        return self._bytes


def inner_header(revision: int) -> bytes:
    """The header of an operation inside a transaction: the revision alone."""
    if not revision:
        return b"\x0a\x00"
    number = varint(revision)
    return b"\x0a%b\x18%b" % (varint(1 + len(number)), number)


def write_put(header: bytes, outcome: PutDone) -> bytes:
    """`PutResponse`, of an outcome that is settled (`state.v3.txn.settle`) as for all others here."""
    prev_kv = outcome.prev_kv
    if isinstance(prev_kv, v3.Later):
        raise TypeError(_UNSETTLED)
    return header if prev_kv is None else header + framed(_TWO, prev_kv)


def write_deleted(header: bytes, outcome: Deleted) -> bytes:
    """`DeleteRangeResponse`."""
    if isinstance(outcome.prev_kvs, v3.Later):
        raise TypeError(_UNSETTLED)
    return b"".join((header, _count_deleted(outcome), *repeated(_THREE, outcome.prev_kvs)))


def _count_deleted(outcome: Deleted) -> bytes:
    return b"\x10" + varint(outcome.deleted) if outcome.deleted else b""


def write_found(header: bytes, outcome: Found) -> bytes:
    """`RangeResponse`."""
    kvs, count = outcome.kvs, outcome.count
    if count == 1 == len(kvs) and not outcome.more:
        return b"%b\x12%b%b%b" % (header, varint(len(kvs[0])), kvs[0], _ONE)
    return b"".join((header, *repeated(_TWO, kvs), _more_and_count(outcome.more, count)))


def _more_and_count(more: bool, count: int) -> bytes:
    return (b"\x18\x01" if more else b"") + (b"\x20" + varint(count) if count else b"")


def write_txn(header: bytes, outcome: TxnDone) -> bytes:
    """`TxnResponse`. All levels are laid out and then joined once; otherwise each level would copy those
    below.
    """
    pieces, _ = lay_out(header, outcome, _unsettled)
    return b"".join(cast("list[bytes]", pieces))


def write_puts(header: bytes, outcome: TxnDone) -> bytes:
    """`TxnResponse` of a transaction of puts alone, whose answers are all alike: without `prev_kv`, and at
    its own revision. 0.7 us, a fifth of what `write_txn` takes for two.
    """
    number = varint(outcome.revision)
    size = len(number)
    each = b"\x1a%c\x12%c\x0a%c\x18%b" % (size + 5, size + 3, size + 1, number)
    return header + (b"\x10\x01" if outcome.succeeded else b"") + each * len(outcome.responses)


def _unsettled(_: Later) -> RangeRead:
    raise TypeError(_UNSETTLED)


def write_answer(header: bytes, outcome: PutDone | Deleted | Found | TxnDone) -> bytes:
    """The response to the command with this outcome."""
    if isinstance(outcome, v3.PutDone):
        return write_put(header, outcome)
    if isinstance(outcome, v3.Found):
        return write_found(header, outcome)
    if isinstance(outcome, v3.Deleted):
        return write_deleted(header, outcome)
    return write_txn(header, outcome)


Piece: TypeAlias = "bytes | tuple[bytes, RangeRead]"
"""A piece of a response: bytes, or all pairs that a read returns, as a repeated field with this tag."""


def lay_out(
    header: bytes, outcome: PutDone | Deleted | Found | Later | TxnDone, read_of: Callable[[Later], RangeRead]
) -> tuple[list[Piece], int]:
    """The response that `write_answer` encodes, in pieces, and its length. `read_of` returns the measured
    read for each `Later`.
    """
    if isinstance(outcome, v3.TxnDone):
        return _lay_out_txn(header, outcome, read_of)
    if isinstance(outcome, v3.Found):
        whole = write_found(header, outcome)
        return [whole], len(whole)
    if isinstance(outcome, v3.Later):
        read = read_of(outcome)
        return _around(header, (_TWO, read), _more_and_count(read.more, read.count))
    if isinstance(outcome, v3.PutDone):
        if isinstance(outcome.prev_kv, v3.Later):
            return _around(header, (_TWO, read_of(outcome.prev_kv)))
    elif isinstance(outcome.prev_kvs, v3.Later):
        return _around(header + _count_deleted(outcome), (_THREE, read_of(outcome.prev_kvs)))
    whole = write_answer(header, outcome)
    return [whole], len(whole)


def _around(front: bytes, pairs_of: tuple[bytes, RangeRead], end: bytes = b"") -> tuple[list[Piece], int]:
    return [front, pairs_of, end], len(front) + pairs_of[1].size + len(end)


def _lay_out_txn(
    header: bytes, outcome: TxnDone, read_of: Callable[[Later], RangeRead]
) -> tuple[list[Piece], int]:
    front = header + (b"\x10\x01" if outcome.succeeded else b"")
    pieces: list[Piece] = [front]
    size = len(front)
    for each in outcome.responses:
        inner, inner_size = lay_out(inner_header(each.revision), each, read_of)
        head = _RESPONSES[type(each)] + varint(inner_size)
        head = _THREE + varint(len(head) + inner_size) + head
        pieces.append(head)
        pieces += inner
        size += len(head) + inner_size
    return pieces, size


_RESPONSES: Final = {
    v3.Found: b"\x0a",
    v3.Later: b"\x0a",
    v3.PutDone: b"\x12",
    v3.Deleted: b"\x1a",
    v3.TxnDone: b"\x22",
}
"""The field of `ResponseOp` for each."""


def write_kept_alive(header: bytes, lease: int, ttl: int) -> bytes:
    """`LeaseKeepAliveResponse`."""
    left = b"\x18" + varint(ttl) if ttl else b""
    return b"%b\x10%b%b" % (header, varint(lease & MASK64), left) if lease else header + left


def write(header: bytes, answer: Message) -> bytes:
    """Any other response: the header, then the other fields as protobuf encodes them."""
    rest: bytes = answer.SerializeToString()
    return header + rest


class WatchAnswers:
    """Encodes `WatchResponse`, joined from events that are encoded entries of its last field."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._last: tuple[int, int, bytes] = (0, 0, b"")
        self._bytes = b""

    def plain(self, watch_id: int, revision: int, events: bytes) -> bytes:
        """Events or, without any, progress. Watches with equal ids that are sent the same events share the
        bytes: for 1,000 clients with one watch each they are copied once. A watch id of -1 belongs to no
        watch.
        """
        last = self._last
        if events is not last[2] or watch_id != last[0] or revision != last[1] or not events:
            self._last = (watch_id, revision, events)
            self._bytes = self.head(watch_id, revision) + events
        return self._bytes

    def head(self, watch_id: int, revision: int) -> bytes:
        """The bytes before the events."""
        number = b"\x10" + varint(watch_id & MASK64) if watch_id else b""
        return self._headers(revision) + number

    def special(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> bytes:
        """The creation or the end of a watch, or a fragment of a response."""
        return b"".join(
            (
                self._headers(revision),
                b"\x10" + varint(watch_id & MASK64) if watch_id else b"",
                b"\x18\x01" if created else b"",
                b"\x20\x01" if canceled else b"",
                b"\x28" + varint(compact_revision) if compact_revision else b"",
                framed(b"\x32", reason.encode()) if reason else b"",
                b"\x38\x01" if fragment else b"",
                events,
            )
        )
