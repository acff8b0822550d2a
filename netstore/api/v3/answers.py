"""Answers with key-value pairs: small ones are sent at once, large ones in steps (`api.v3.delivery`).

A read is as of a bound (`state.v3.index`): the revision at which the request was admitted, or the position of
an operation within a transaction. So the pairs can be read long after that; until then they are pinned in the
history. A large answer is read in two passes. The first measures it, because its length comes first on the
wire; the second reads pairs and pushes them, as many as there is room for and one more.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.admission import Admission
from netstore.api.v3 import messages
from netstore.api.v3.delivery import HELD_SECONDS, Delivery, refuse_too_long
from netstore.api.v3.status import refuse
from netstore.errors import Fault, Reason
from netstore.proto.wire import repeated
from netstore.state.v3 import txn
from netstore.state.v3.commands import Deleted, Later, PutDone, TxnDone
from netstore.state.v3.reads import STEP_UNITS, Lost, TooMuch
from netstore.state.v3.smallreads import SMALL_BYTES, SMALL_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from netstore.api.v3.delivery import Deliveries
    from netstore.api.v3.messages import Headers, Piece
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Replica
    from netstore.state.v3.commands import Found, Range
    from netstore.state.v3.reads import Encode, RangeRead

ALWAYS_WHOLE_BYTES: Final = 16 * 1024
"""An answer of up to this size is sent whole, however much data waits for the client."""

SHARED_BYTES: Final = 8 * 1024
"""A pair of at least this size is pushed without a copy, the same bytes for all who read it; smaller ones are
joined.
"""

MOST_READS: Final = 4_096
"""Ranges read in steps at the same time, by all deliveries; a transaction may have many. One principal gets
at most half of them (`admission`). Each holds `state.v3.reads.OPEN_BYTES`.
"""

_READ_UNITS: Final = 20
"""Cost of turning to the next read of an answer, in the units of `state.v3.reads`."""


class Answers:
    """Answers calls of one member with outcomes of commands, and with reads."""

    def __init__(self, member: Replica, headers: Headers, deliveries: Deliveries) -> None:
        self._member = member
        self._headers = headers
        self._deliveries = deliveries
        self._reads = Admission(MOST_READS)

    def send(self, call: Call, outcome: PutDone | Deleted | Later | TxnDone) -> None:
        """Answer a call with the outcome of a command, or with a read (`Later`)."""
        header = self._headers(outcome.revision)
        if type(outcome) is TxnDone and _has_only_puts(outcome):
            call.reply(messages.write_puts(header, outcome))
            return
        small = _SmallReads(self._member)
        try:
            settled = txn.settle(outcome, small.find)
        except _Large:
            self._deliver(call, header, outcome)
        except _Refused as refused:
            refuse(call, refused.fault)
        else:
            if fits(call, SMALL_BYTES - small.size):
                call.reply(messages.write_answer(header, settled))
            else:
                self._deliver(call, header, outcome)

    def send_range(self, call: Call, query: Range, found: Found) -> None:
        """Answer a Range that was read at once."""
        kvs = found.kvs
        if (len(kvs) == 1 and len(kvs[0]) <= ALWAYS_WHOLE_BYTES) or fits(call, sum(map(len, kvs))):
            call.reply(messages.write_found(self._headers(found.revision), found))
        else:
            later = txn.later(self._member.machine.mvcc, query)
            self._deliver(call, self._headers(later.revision), later)

    def _deliver(self, call: Call, header: bytes, outcome: PutDone | Deleted | Later | TxnDone) -> None:
        """Answer in steps. What the answer reads is pinned from now on."""
        wanted = list(_reads_of(outcome))
        if not self._reads.enter(call.principal, len(wanted)):
            refuse(call, errors.too_many())
            return
        try:
            leave = partial(self._reads.leave, call.principal, len(wanted))
            delivery = _ReadDelivery(self._deliveries, self._member, call, header, outcome, leave)
            self._deliveries.add(delivery)
        except Exception:
            self._reads.leave(call.principal, len(wanted))
            raise
        try:
            fault = delivery.open(wanted) or self._member.jobs.start(call.principal, delivery)
            if fault is None:
                call.on_cancelled(delivery.close)
        except Exception:
            delivery.close()
            raise
        if fault is not None:
            delivery.give_up(fault)


def fits(call: Call, size: int) -> bool:
    """Whether an answer with this many bytes of pairs or keys may be sent whole: because it is small, or
    because the connection takes it.
    """
    return size <= ALWAYS_WHOLE_BYTES or call.may_send_whole(size) or size <= call.window_left


def _has_only_puts(outcome: TxnDone) -> bool:
    """Whether a transaction did nothing but put, without `prev_kv`."""
    responses = outcome.responses
    if not responses or type(responses[0]) is not PutDone or responses[0].prev_kv is not None:
        return False
    return responses[0].revision == outcome.revision and responses.count(responses[0]) == len(responses)


def _reads_of(outcome: object) -> Iterator[tuple[Later, Encode | None]]:
    """All reads that an outcome still needs, in its order; with how their pairs are encoded, if that is as
    the pairs of a list.
    """
    if isinstance(outcome, TxnDone):
        for response in outcome.responses:
            yield from _reads_of(response)
    later, encode = outcome, None
    if isinstance(outcome, PutDone):
        later = outcome.prev_kv
    elif isinstance(outcome, Deleted):
        later = outcome.prev_kvs
    else:
        encode = _encode_listed
    if isinstance(later, Later):
        yield later, encode


def _encode(tag: bytes, kvs: list[bytes]) -> list[bytes]:
    """Pairs as a repeated field, joined, but the large ones without a copy."""
    pieces = repeated(tag, kvs)
    if not kvs or max(map(len, kvs)) < SHARED_BYTES:
        return [b"".join(pieces)]
    found: list[bytes] = []
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < SHARED_BYTES:
            small.append(piece)
            continue
        found += (b"".join(small), piece)
        small = []
    found.append(b"".join(small))
    return found


_encode_listed: Final = partial(_encode, messages.LISTED)
"""Pairs of a list, which are kept in this form (`state.v3.parts`)."""


class _Large(Exception):  # noqa: N818 - named for what was found
    """The reads are not small."""


class _Refused(Exception):  # noqa: N818 - named for what happened
    """A read is refused."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class _SmallReads:
    """Does the reads of an outcome at once, as long as all of them together are small."""

    __slots__ = ("_keys", "_mvcc", "size")

    def __init__(self, member: Replica) -> None:
        self._mvcc = member.machine.mvcc
        self._keys = SMALL_KEYS
        self.size = SMALL_BYTES
        """Bytes that the next reads may have."""

    def find(self, later: Later) -> Found:
        found = self._mvcc.read_small(later.query, later.bound)
        if found is None:
            raise _Large
        if isinstance(found, Fault):
            raise _Refused(found)
        self._keys -= len(found.kvs) + 1
        self.size -= sum(map(len, found.kvs))
        if self.size < 0 or self._keys < 0:
            raise _Large
        return found


class _ReadDelivery(Delivery):
    """Reads an answer in two passes, and sends it while it is read."""

    __slots__ = (
        "_header",
        "_held_since",
        "_leave",
        "_mvcc",
        "_outcome",
        "_pieces",
        "_reads",
        "_unmeasured",
    )

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        deliveries: Deliveries,
        member: Replica,
        call: Call,
        header: bytes,
        outcome: PutDone | Deleted | Later | TxnDone,
        leave: Callable[[], None],
    ) -> None:
        """`leave` gives up the place of its reads."""
        super().__init__(deliveries, member, call)
        self._mvcc = member.machine.mvcc
        self._header = header
        self._outcome = outcome
        self._leave = leave
        self._reads: dict[int, RangeRead] = {}
        """By the identity of the `Later` that they answer."""
        self._unmeasured: deque[RangeRead] = deque()
        self._pieces: deque[Piece] | None = None
        """What is still to be sent; None during the first pass."""
        self._held_since: float | None = None
        """Since when it is known to hold back compaction, in monotonic seconds."""

    def open(self, wanted: Iterable[tuple[Later, Encode | None]]) -> Fault | None:
        """Begin the reads of the outcome."""
        for later, encode in wanted:
            read = self._mvcc.read(later.query, later.bound, encode)
            if isinstance(read, Fault):
                return read
            self._reads[id(later)] = read
            self._unmeasured.append(read)
        return None

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        try:
            return self._measure() if self._pieces is None else self._send(self._pieces)
        except Lost:
            self.give_up(errors.timed_out(Reason.TIMED_OUT_LEADER))
        except TooMuch:
            self.give_up(errors.too_many())
        return True

    def _measure(self) -> bool:
        """A step of the first pass."""
        units = STEP_UNITS
        while self._unmeasured and units > 0:
            read = self._unmeasured[0]
            is_measured = read.measure(units)
            units = read.units_left - _READ_UNITS
            if is_measured:
                self._unmeasured.popleft()
        if self._unmeasured:
            return False
        pieces, size = messages.lay_out(self._header, self._outcome, lambda later: self._reads[id(later)])
        if refuse_too_long(self._call, size):
            self.close()
            return True
        self._pieces = deque(pieces)
        self._call.begin_reply(size)
        return False

    def _send(self, pieces: deque[Piece]) -> bool:
        """A step of the second pass."""
        call = self._call
        room = self._room()
        if room <= 0:
            return False
        sent: list[bytes] = []
        is_read = False
        while pieces and not is_read:
            piece = pieces[0]
            if isinstance(piece, bytes):
                sent.append(piece)
                pieces.popleft()
                continue
            tag, read = piece
            given, is_all = read.give(most=room)
            sent += given if read.encodes else _encode(tag, given)
            is_read = bool(given)
            if is_all:
                pieces.popleft()
        call.push(*sent)
        self.pace.take(sum(map(len, sent)))
        if pieces:
            return False
        call.end_reply()
        self.close()
        return True

    def holds_back_compaction(self, now: float) -> bool:
        """See `Delivery.holds_back_compaction`. O(its reads)."""
        compacted = self._mvcc.compacted
        if not any(read.holds_back(compacted) for read in self._reads.values()):
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        return self._held_since is not None and now - self._held_since > HELD_SECONDS

    def _release(self) -> None:
        self._leave()
        for read in self._reads.values():
            read.close()
        self._reads.clear()
        self._unmeasured.clear()
