"""Decodes requests of the v3 API to commands, and encodes outcomes to responses.

Requests are decoded with protobuf (upb); transactions in `api.v3.transactions`. Responses with pairs are
joined from the stored bytes of the pairs (`proto.wire`); all others are built with protobuf. Both have the
fields in the order of their numbers and leave out zeros, as every encoder does, so that they are the same
bytes; the tests compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast

from netstore import errors
from netstore.api.v3.status import RefusedError
from netstore.codec import Malformed, read_varint, varint
from netstore.errors import Reason, refusal
from netstore.proto.rpc_pb2 import PutRequest, RangeRequest
from netstore.proto.wire import MASK64, framed, repeated
from netstore.state.v3 import commands as v3

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
    if end - start > _PUT_HEADS and message[start] == _KEY and (length := message[start + 1]) < _LONG:
        key_end = start + 2 + length
        value = key_end + 2
        if value < end and message[key_end] == _VALUE:
            length = message[key_end + 1]
            if length >= _LONG:
                if message[value] < _LONG:  # as `long_length`, without a call
                    length, value = length - _LONG + (message[value] << 7), value + 1
                else:
                    length, value = long_length(message, key_end + 1)
            if value + length == end:
                return v3.Put(message[start + 2 : key_end], message[value:end])
    return read_put(PutRequest.FromString(message[start:end]))


def long_length(message: bytes, at: int) -> tuple[int, int]:
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


class KeptAlive:
    """Encodes `LeaseKeepAliveResponse`. The last one is cached: many clients may renew one lease, and one
    entry of the log stands for many of their renewals. 40 bytecodes less for each, 3 %.
    """

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._last = b"", 0, 0
        self._bytes = b""

    def write(self, revision: int, lease: int, ttl: int) -> bytes:
        """The answer with a header of this revision."""
        fields = self._headers(revision), lease, ttl
        if fields != self._last:
            self._last = fields
            left = b"\x18" + varint(ttl) if ttl else b""
            named = b"\x10" + varint(lease & MASK64) if lease else b""
            self._bytes = b"%b%b%b" % (fields[0], named, left)
        return self._bytes


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
