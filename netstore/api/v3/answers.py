"""Answers that are large: given in steps, as fast as their client reads; small ones at once.

What is read is as of a bound (`state.v3.index`): the moment the read was let in, or the place of an operation
within a transaction, so an answer can be read long after that. A large one is a job (`node.jobs`) of two
passes. The first finds out how long it is, which comes first on the wire; the second reads pairs and gives
them away, no more of them than the client's windows let through and one more, and pauses while those are
closed or enough waits on its connection (`Call.room`). So an answer of a gigabyte holds a few hundred KiB,
and a client that does not read costs a pin on the history, until its answer is given up. What is judged is
the pace at which it takes what is ready (`Pace`), not how long the whole takes: a slow client with a large
answer gets it, but for one that keeps compaction from erasing what it has to (`HELD_SECONDS`).

Answers that are no pairs are given in the same way once they are made (`Pieces`), to all who want the same.
What they are made of is charged as it grows, to each household that waits for them, and who has no room for
more is refused before the rest is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore import codes, errors
from netstore.admission import Admission, household
from netstore.api.v3 import messages
from netstore.api.v3.status import end, refuse
from netstore.errors import Fault, Reason
from netstore.proto.wire import repeated
from netstore.state.v3 import txn
from netstore.state.v3.commands import Deleted, Later, PutDone, TxnDone
from netstore.state.v3.reads import STEP_UNITS, Lost, TooMuch
from netstore.state.v3.smallreads import SMALL_BYTES, SMALL_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.api.v3.messages import Headers, Piece
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Replica
    from netstore.seams import After
    from netstore.state.v3.commands import Found, Range
    from netstore.state.v3.reads import RangeRead

EASY_BYTES: Final = 16 * 1024
"""Bytes of an answer that is given whole whatever waits for the client."""

SHARED_BYTES: Final = 8 * 1024
"""Bytes from which a pair is given as it is, shared with all who ask for it, and not joined with others."""

PACE_BYTES: Final = 192 * 1024
PACE_SECONDS: Final = 60.0
"""A client has to take that many bytes of an answer (or the rest of it) while it is waited for that long: 3
KiB a second, as of a v2 list.
"""

HELD_SECONDS: Final = 300.0
"""For how long an answer may keep compaction from erasing what it still needs, however fast it is taken: all
that was compacted since would stay on the disk with it. Counted from the first look (`LOOK_SECONDS`) after
the compaction. An answer that holds nothing back may last.
"""

LOOK_SECONDS: Final = 15.0
"""How often it is looked for answers that are taken too slowly, or hold back erasing for too long."""

LOOKED_AT_ONCE: Final = 100
"""Answers that are looked at in one piece; to give up one takes 20 us."""

MOST_READS: Final = 4_096
"""Ranges that are read in steps at once, for all answers; a transaction may have many. One principal has at
most half of them (`admission`). Each holds `state.v3.reads.OPEN_BYTES`.
"""

MOST_BYTES: Final = 2**31 - 1
"""Bytes of one answer; more no client takes, as with etcd."""

_READ_UNITS: Final = 20
"""What turning to the next read of an answer costs, in the units of `state.v3.reads`."""

_TOO_LONG: Final = "grpc: trying to send message larger than max ({} vs. {})"

_NO_ROOM: Final = (
    "etcdserver: the list is larger than the {} bytes that one client gets of memory_budget (3/64 of it):"
    " raise memory_budget, or ask for less"
)


class Answers:
    """Answers calls of one member. `after` makes a call once some seconds have passed."""

    def __init__(self, member: Replica, headers: Headers, after: After) -> None:
        self._member = member
        self._headers = headers
        self._after = after
        self._reads = Admission(MOST_READS)
        self._open: dict[_Giving, int] = {}
        """Answers that are being given, and how many reads each has."""
        self._unlooked: list[_Giving] = []
        """Those that are still to be looked at this time."""
        self._looking = False
        """`_look` is going to be called."""
        self._held = Admission(member.machine.mvcc.read_budget.limit)
        """Bytes of `Pieces` that are made or being given, counted once for each household that gets them.
        They are charged to the budget of reads, once.
        """

    def send(self, call: Call, outcome: PutDone | Deleted | Later | TxnDone) -> None:
        """Answer a call with what applying a command gave, or with a read (`Later`)."""
        header = self._headers(outcome.revision)
        if type(outcome) is TxnDone and _is_short(outcome):
            call.reply(messages.write_txn(header, outcome))
            return
        small = _Small(self._member)
        try:
            settled = txn.settle(outcome, small.find)
        except _Large:
            self._begin(call, header, outcome)
        except _Refused as refused:
            refuse(call, refused.fault)
        else:
            if fits(call, SMALL_BYTES - small.size):
                call.reply(messages.write_answer(header, settled))
            else:
                self._begin(call, header, outcome)

    def found(self, call: Call, query: Range, found: Found) -> None:
        """Answer a Range with what was found at once."""
        if fits(call, sum(map(len, found.kvs))):
            call.reply(messages.write_found(self._headers(found.revision), found))
        else:
            later = txn.later(self._member.machine.mvcc, query)
            self._begin(call, self._headers(later.revision), later)

    def _begin(self, call: Call, header: bytes, outcome: PutDone | Deleted | Later | TxnDone) -> None:
        """Give an answer in steps. What it reads stays from now on."""
        wanted = list(_reads_of(outcome))
        if not self._reads.enter(call.principal, len(wanted)):
            refuse(call, errors.too_many())
            return
        try:
            answering = _Answering(self, self._member, call, header, outcome)
            self._enter(answering, len(wanted))
        except Exception:
            self._reads.leave(call.principal, len(wanted))
            raise
        try:
            fault = answering.open(wanted) or self._member.jobs.start(call.principal, answering)
            if fault is None:
                call.on_cancelled(answering.close)
        except Exception:
            answering.close()
            raise
        if fault is not None:
            answering.give_up(fault)

    def grow(self, pieces: Pieces, size: int) -> bool:
        """So many bytes more are held to make pieces, fewer where negative. Asked before they are made. The
        first household that waits for the pieces holds them; where it has no room for more, its calls get
        none of them, and the next one does. False, and nothing is held, where there is none. O(1) for each
        call that waits, once.
        """
        if size <= 0:
            self._add(pieces, size)
            return pieces.payer is not None
        budget = self._member.machine.mvcc.read_budget
        pieces.wanted = pieces.held + size
        if budget.used + size > budget.limit:
            self._drop_payer(pieces)
            return False
        if pieces.payer is not None and self._held.enter(pieces.payer, size):
            budget.add(size)
            pieces.held += size
            return True
        whole = pieces.held + size
        self._drop_payer(pieces)
        for owner in pieces.line:
            if owner not in pieces.refused and self._held.enter(owner, whole):
                budget.add(whole)
                pieces.payer, pieces.held = owner, whole
                return True
            pieces.refused.add(owner)
        return False

    def _add(self, pieces: Pieces, size: int) -> None:
        """Less is held by who holds it."""
        if size and pieces.payer is not None:
            self._held.leave(pieces.payer, -size)
            self._member.machine.mvcc.read_budget.add(size)
            pieces.held += size

    def _drop_payer(self, pieces: Pieces) -> None:
        if pieces.payer is not None:
            pieces.refused.add(pieces.payer)
            self._add(pieces, -pieces.held)
            pieces.payer = None

    def made(self, pieces: Pieces) -> None:
        """Nothing is added to pieces any more, and nobody new gets them. May be called again. O(1)."""
        payer, pieces.payer, pieces.line = pieces.payer, None, iter(())
        if payer is not None and payer not in pieces.holders:
            self._leave(payer, pieces)

    def _leave(self, owner: str, pieces: Pieces) -> None:
        """A household holds them no more."""
        if pieces.held:
            self._held.leave(owner, pieces.held)
        if not pieces.holders and pieces.payer is None:
            self._member.machine.mvcc.read_budget.add(-pieces.held)

    def give(self, call: Call, head: bytes, pieces: Pieces) -> None:
        """Answer a call with these bytes and the pieces after them, in steps, or refuse it where there is
        no room. The pieces are made, but for `made`. O(1). It may be one of many: what is raised on the way
        ends this call (`Call.guard`).
        """
        call.guard(partial(self._give, call, head, pieces))

    def _give(self, call: Call, head: bytes, pieces: Pieces) -> None:
        size = len(head) + pieces.size
        if size > MOST_BYTES:
            call.finish(codes.RESOURCE_EXHAUSTED, _TOO_LONG.format(size, MOST_BYTES))
            return
        if not call.open:
            return
        giving = _GivingPieces(self, self._member, call, head, pieces)
        if not self._hold(call.principal, pieces):
            self._refuse(call, pieces)
            return
        try:
            self._enter(giving, 0)
        except Exception:
            self.let_go(call.principal, pieces)
            raise
        try:
            fault = self._member.jobs.start(call.principal, giving)
            if fault is None:
                call.on_cancelled(giving.close)
                call.begin_reply(size)
        except Exception:
            giving.close()
            raise
        if fault is not None:
            giving.give_up(fault)

    def _refuse(self, call: Call, pieces: Pieces) -> None:
        """There is no room: because there never is for so much, or because others hold it now."""
        most = self._held.most_of_one
        if pieces.wanted > most:
            call.finish(codes.RESOURCE_EXHAUSTED, _NO_ROOM.format(most))
        else:
            refuse(call, errors.too_many())

    def _hold(self, principal: str, pieces: Pieces) -> bool:
        owner, holders = household(principal), pieces.holders
        if owner != pieces.payer and owner not in holders:
            if pieces.payer is None or owner in pieces.refused:
                return False
            if pieces.held and not self._held.enter(owner, pieces.held):
                return False
        holders[owner] = holders.get(owner, 0) + 1
        return True

    def let_go(self, principal: str, pieces: Pieces) -> None:
        """An answer of pieces is over."""
        owner, holders = household(principal), pieces.holders
        holders[owner] -= 1
        if not holders[owner]:
            del holders[owner]
            if owner != pieces.payer:
                self._leave(owner, pieces)

    def _enter(self, giving: _Giving, reads: int) -> None:
        self._look_later(LOOK_SECONDS)
        self._open[giving] = reads

    def closed(self, giving: _Giving) -> bool:
        """An answer is over; whether it was not before."""
        reads = self._open.pop(giving, None)
        if reads:
            self._reads.leave(giving.principal, reads)
        return reads is not None

    def _look(self) -> None:
        self._looking = False
        now = self._member.clock.monotonic()
        unlooked = self._unlooked = self._unlooked or list(self._open)
        some = unlooked[-LOOKED_AT_ONCE:]
        del unlooked[-LOOKED_AT_ONCE:]
        try:
            for giving in some:
                if giving in self._open and (giving.pace.is_slow(now) or giving.is_in_the_way(now)):
                    giving.give_up(errors.timed_out())
        finally:
            if unlooked or self._open:
                self._look_later(0 if unlooked else LOOK_SECONDS)

    def _look_later(self, seconds: float) -> None:
        if not self._looking:
            self._after(seconds, self._look)
            self._looking = True


class Pace:
    """How fast a client takes what is ready for it. Only the time counts in which the client is waited for,
    not that in which the answer is found or waits for its turn. Monotonic seconds.
    """

    __slots__ = ("_since", "_taken", "_waited")

    def __init__(self) -> None:
        self._taken = 0
        """Bytes, since the client had taken enough of them."""
        self._waited = 0.0
        """How long it was waited for since then, before `_since`."""
        self._since: float | None = None
        """Since when it is waited for now."""

    def wait(self, now: float) -> None:
        """There is no room: the client has to take something first."""
        self._since = now

    def go_on(self, now: float) -> None:
        """There is room."""
        if self._since is not None:
            self._waited += now - self._since
            self._since = None

    def take(self, size: int) -> None:
        """So many bytes more found room."""
        self._taken += size
        if self._taken >= PACE_BYTES:
            self._taken = 0
            self._waited = 0.0

    def is_slow(self, now: float) -> bool:
        """It has been waited for too long for so little."""
        waited = self._waited if self._since is None else self._waited + now - self._since
        return waited > PACE_SECONDS


def _is_short(outcome: TxnDone) -> bool:
    """Whether a transaction did nothing but put, and nobody asked for what was there before."""
    for response in outcome.responses:
        if type(response) is not PutDone or response.prev_kv is not None:
            return False
    return True


def fits(call: Call, size: int) -> bool:
    """Whether an answer with so many bytes of pairs or keys may be given whole: it leaves or little waits."""
    return size <= EASY_BYTES or call.takes_whole(size) or size <= call.room


class _Large(Exception):  # noqa: N818 - named for what was found
    """The answer is not a small one."""


class _Refused(Exception):  # noqa: N818 - named for what happened
    """A read cannot be had."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class _Small:
    """Finds the reads of an answer while that is a small one, all of them together."""

    __slots__ = ("_keys", "_mvcc", "size")

    def __init__(self, member: Replica) -> None:
        self._mvcc = member.machine.mvcc
        self._keys = SMALL_KEYS
        self.size = SMALL_BYTES
        """Bytes that the next ones may still have."""

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


def _reads_of(outcome: object) -> Iterator[Later]:
    """All reads of an outcome, in its order."""
    if isinstance(outcome, TxnDone):
        for response in outcome.responses:
            yield from _reads_of(response)
    later = outcome
    if isinstance(outcome, PutDone):
        later = outcome.prev_kv
    elif isinstance(outcome, Deleted):
        later = outcome.prev_kvs
    if isinstance(later, Later):
        yield later


class Pieces:
    """What is the same of several answers, in pieces of a moderate size. They are not changed any more once
    they are given. What is held of them, and to make them, is charged (`Answers.grow`), to one household
    while they are made, and to all that they are given to.
    """

    __slots__ = ("held", "holders", "line", "payer", "pieces", "refused", "size", "wanted")

    def __init__(self, principals: Iterable[str]) -> None:
        """They are made for these, the first of whom wait longest. O(1)."""
        self.pieces: list[bytes] = []
        self.size = 0
        """Bytes of the pieces."""
        self.held = 0
        """Bytes that are charged."""
        self.wanted = 0
        """Bytes that were to be held when more was asked for last."""
        self.line: Iterator[str] = map(household, principals)
        """Who may hold what is made when those before have no room for it."""
        self.payer = next(self.line, None)
        """Who holds it, until it is made and begun to be given; None where there was no room."""
        self.refused: set[str] = set()
        """Who had no room."""
        self.holders: dict[str, int] = {}
        """To how many calls of which households they are being given."""

    def add(self, piece: bytes) -> None:
        """One piece more. What it holds is charged already."""
        self.pieces.append(piece)
        self.size += len(piece)


class _Giving(ABC):
    """One answer that is given in steps. Implements `node.jobs.Job`."""

    __slots__ = ("_answers", "_call", "_clock", "_jobs", "pace", "principal")

    def __init__(self, answers: Answers, member: Replica, call: Call) -> None:
        self._answers = answers
        self._jobs = member.jobs
        self._clock = member.clock
        self._call = call
        self.pace = Pace()
        self.principal = call.principal

    def is_in_the_way(self, now: float) -> bool:  # noqa: ARG002 - of some that read
        """It has held back erasing for too long."""
        return False

    def _room(self) -> int:
        """How much may be given now. Where that is nothing there are no more steps until it is something."""
        room = self._call.room
        if room <= 0:
            self.pace.wait(self._clock.monotonic())
            self._jobs.pause(self)
            self._call.on_room(self._resume)
        return room

    def _resume(self) -> None:
        self.pace.go_on(self._clock.monotonic())
        self._jobs.resume(self)

    @abstractmethod
    def step(self) -> bool:
        """See `node.jobs.Job`."""

    def give_up(self, fault: Fault) -> None:
        """End the call without the rest of its answer."""
        refuse(self._call, fault)
        self.close()

    def failed(self, fault: Exception) -> None:  # noqa: ARG002 - it was logged
        """See `node.jobs.Job`."""
        end(self._call, Reason.FAILED)
        self.close()

    def close(self) -> None:
        """Nobody waits for this any more: let go of everything. May be called again."""
        self._jobs.cancel(self)
        self._answers.closed(self)


class _GivingPieces(_Giving):
    """An answer that is there: one piece for each step."""

    __slots__ = ("_at", "_head", "_pieces")

    def __init__(self, answers: Answers, member: Replica, call: Call, head: bytes, pieces: Pieces) -> None:
        super().__init__(answers, member, call)
        self._head = head
        self._pieces = pieces
        self._at = 0
        """How many pieces were given."""

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        if self._room() <= 0:
            return False
        if self._head:
            self._call.push(self._head)
            self._head = b""
        pieces = self._pieces.pieces
        if self._at < len(pieces):
            piece = pieces[self._at]
            self._at += 1
            self._call.push(piece)
            self.pace.take(len(piece))
        if self._at < len(pieces):
            return False
        self._call.end_reply()
        self.close()
        return True

    def close(self) -> None:
        """See `_Giving.close`."""
        self._jobs.cancel(self)
        if self._answers.closed(self):
            self._answers.let_go(self.principal, self._pieces)


class _Answering(_Giving):
    """An answer that is read."""

    __slots__ = ("_header", "_held_since", "_mvcc", "_outcome", "_pieces", "_reads", "_unmeasured")

    def __init__(
        self,
        answers: Answers,
        member: Replica,
        call: Call,
        header: bytes,
        outcome: PutDone | Deleted | Later | TxnDone,
    ) -> None:
        super().__init__(answers, member, call)
        self._mvcc = member.machine.mvcc
        self._header = header
        self._outcome = outcome
        self._reads: dict[int, RangeRead] = {}
        """By the identity of what they answer."""
        self._unmeasured: deque[RangeRead] = deque()
        self._pieces: deque[Piece] | None = None
        self._held_since: float | None = None
        """Since when it is known to hold back erasing, in monotonic seconds."""

    def open(self, wanted: Iterable[Later]) -> Fault | None:
        """Begin the reads of the outcome."""
        for later in wanted:
            read = self._mvcc.read(later.query, later.bound)
            if isinstance(read, Fault):
                return read
            self._reads[id(later)] = read
            self._unmeasured.append(read)
        return None

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        try:
            return self._measure() if self._pieces is None else self._give(self._pieces)
        except Lost:
            self.give_up(errors.timed_out(Reason.TIMED_OUT_LEADER))
        except TooMuch:
            self.give_up(errors.too_many())
        return True

    def _measure(self) -> bool:
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
        if size > MOST_BYTES:
            self._call.finish(codes.RESOURCE_EXHAUSTED, _TOO_LONG.format(size, MOST_BYTES))
            self.close()
            return True
        self._pieces = deque(pieces)
        self._call.begin_reply(size)
        return False

    def _give(self, pieces: deque[Piece]) -> bool:
        call = self._call
        room = self._room()
        if room <= 0:
            return False
        is_read = False
        while pieces and not is_read:
            piece = pieces[0]
            if isinstance(piece, bytes):
                call.push(piece)
                self.pace.take(len(piece))
                pieces.popleft()
                continue
            tag, read = piece
            kvs, is_all = read.give(most=room)
            self._push(tag, kvs)
            self.pace.take(sum(map(len, kvs)))
            is_read = bool(kvs)
            if is_all:
                pieces.popleft()
        if pieces:
            return False
        call.end_reply()
        self.close()
        return True

    def is_in_the_way(self, now: float) -> bool:
        """It has held back erasing for too long. O(its reads)."""
        compacted = self._mvcc.compacted
        if not any(read.holds_back(compacted) for read in self._reads.values()):
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        return self._held_since is not None and now - self._held_since > HELD_SECONDS

    def _push(self, tag: bytes, kvs: list[bytes]) -> None:
        """Give pairs away, those that are large without a copy."""
        pieces = repeated(tag, kvs)
        if not kvs or max(map(len, kvs)) < SHARED_BYTES:
            self._call.push(b"".join(pieces))
            return
        small: list[bytes] = []
        for piece in pieces:
            if len(piece) < SHARED_BYTES:
                small.append(piece)
                continue
            self._call.push(b"".join(small))
            self._call.push(piece)
            small = []
        self._call.push(b"".join(small))

    def close(self) -> None:
        """See `_Giving.close`."""
        super().close()
        for read in self._reads.values():
            read.close()
        self._reads.clear()
        self._unmeasured.clear()
