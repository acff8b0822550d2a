"""The Lease service. Grants, revokes and renewals go through the log; what a lease has left is told by this
member's count (`node.lessor`).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from heapq import merge
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from netstore import codes, errors
from netstore.admission import Admission
from netstore.api.v3 import messages, operations
from netstore.api.v3.answers import Pieces, fits
from netstore.api.v3.status import end, not_a_message, refuse
from netstore.errors import Fault, Reason
from netstore.proto import rpc_pb2 as pb
from netstore.proto.wire import BadMessage, parse
from netstore.state.applying import UNIT_BYTES
from netstore.state.commands import encode
from netstore.state.v3.commands import Done, LeaseGrant, LeaseGranted, LeaseRevoke
from netstore.state.v3.lease import granted_ttl
from netstore.state.v3.reads import Lost
from netstore.types import LeaseId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from netstore.api.gate import Gate
    from netstore.api.v3.answers import Answers
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import Headers
    from netstore.api.v3.quota import Quota
    from netstore.net.grpc.protocols import Call, Handler, StreamHandler
    from netstore.node.member import Member
    from netstore.state.machine import Outcome
    from netstore.state.v3.lease import Lease

MOST_WAITING: Final = 4_096
"""Renewals of one stream that may wait for the leader; more end it."""

MOST_UNREAD: Final = 1 << 20
"""Bytes of answers that a client may leave unread before its stream ends."""

FEW: Final = 1_000
"""Keys of a lease that are told in one call, if they have no more than `STEP_BYTES`, and keys or leases in
one step where there are more: 1 ms.
"""

STEP_BYTES: Final = 128 * 1024
"""Bytes of such keys."""

FEW_LEASES: Final = 100
"""Leases that are told in one call: a request counts for less than what many take."""

WAYS: Final = 8
"""Sorted runs of keys that are merged at once. A run lies in parts of a step's keys and bytes by this, so
that one part of each is about what a step works on.
"""

MOST_MEANWHILE: Final = 1_024
"""Calls that may wait for the next list of the keys of a lease, one principal at most half of them: starting
it costs 2 us each.
"""

TOLD_AT_ONCE: Final = 64
"""Of them so many are answered in one step where the lease has ended: 1 ms."""

RUNS_AT_ONCE: Final = 50
"""Runs of `FEW` keys that are let go of in one step where there is no room for more."""

KEY_BYTES: Final = 8
"""What a key takes in a run or in a piece beside its own bytes, at most: its length and its field."""

ID_BYTES: Final = 13
"""What the id of a lease takes in a run or in a piece, at most."""

KEYS_PER_UNIT: Final = 8
"""Keys of a lease that are told in one of the units of `Mvcc.read_units`."""

_ALL: Final = 0
"""In `_asked` the listing of all leases; no lease has this id."""

_ID_BITS: Final = 62

_LEAST: Final = 1 << 63
"""No id is below this, negated."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class Lessor(Protocol):
    """Who knows how long leases have left (`node.lessor.Lessor`)."""

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Renew a lease for `principal`; `done` gets its TTL in seconds, 0 when there is no such lease."""

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Tell `principal` the whole seconds a lease has left, -1 when there is no such lease."""


class LeaseService:
    """`etcdserverpb.Lease`."""

    def __init__(
        self,
        member: Member,
        headers: Headers,
        quota: Quota,
        lessor: Lessor,
        answers: Answers,
        *,
        below: Callable[[int], int],
        minimum_ttl: int,
    ) -> None:
        """`below` draws a random number below a bound; `minimum_ttl` is in seconds."""
        self._member = member
        self._headers = headers
        self._quota = quota
        self._lessor = lessor
        self._answers = answers
        self._below = below
        self._minimum_ttl = minimum_ttl
        self._asked: dict[int, _Asked] = {}
        """By lease whose many keys are being listed; `_ALL` for the list of leases."""

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler of the unary methods."""
        unary = interceptor.unary
        return {
            operations.LEASE_GRANT: unary(pb.LeaseGrantRequest, self._grant, operations.lease_grant),
            operations.LEASE_REVOKE: unary(pb.LeaseRevokeRequest, self._revoke, operations.lease_revoke),
            operations.LEASE_TIME_TO_LIVE: unary(
                pb.LeaseTimeToLiveRequest, self._time_to_live, operations.lease_time_to_live
            ),
            operations.LEASE_LEASES: unary(pb.LeaseLeasesRequest, self._list, operations.lease_leases),
        }

    def streams(self, interceptor: Interceptor) -> dict[bytes, StreamHandler]:
        """Path -> handler of the streams."""
        return {operations.LEASE_KEEP_ALIVE: interceptor.stream(self._keep_alive)}

    def _grant(self, call: Call, request: pb.LeaseGrantRequest) -> None:
        ttl = granted_ttl(request.TTL, self._minimum_ttl)
        if isinstance(ttl, Fault):
            refuse(call, ttl)
            return
        command = LeaseGrant(request.ID or self._free_id(), ttl)
        fault = self._quota.refuse(command)
        if fault is not None:
            refuse(call, fault)
        else:
            self._member.propose(encode(command), partial(self._granted, call), call.principal.encode())

    def _free_id(self) -> int:
        leases = self._member.machine.leases
        while True:
            id_ = 1 + self._below(1 << _ID_BITS)
            if leases.get(id_) is None:
                return id_

    def _granted(self, call: Call, outcome: Outcome | Fault) -> None:
        if isinstance(outcome, LeaseGranted):
            answer = pb.LeaseGrantResponse(ID=outcome.id, TTL=outcome.ttl)
            call.reply(messages.write(self._headers(outcome.revision), answer))
        elif isinstance(outcome, Fault):
            refuse(call, outcome)

    def _revoke(self, call: Call, request: pb.LeaseRevokeRequest) -> None:
        self._member.propose(
            encode(LeaseRevoke(request.ID)), partial(self._revoked, call), call.principal.encode()
        )

    def _revoked(self, call: Call, outcome: Outcome | Fault) -> None:
        if isinstance(outcome, Done):
            call.reply(self._headers(outcome.revision))
        elif isinstance(outcome, Fault):
            refuse(call, outcome)

    def _time_to_live(self, call: Call, request: pb.LeaseTimeToLiveRequest) -> None:
        self._lessor.time_to_live(
            request.ID, partial(self._told, call, request.ID, request.keys), call.principal
        )

    def _told(self, call: Call, id_: int, keys: bool, left: int | Fault) -> None:
        machine = self._member.machine
        if isinstance(left, Fault):
            refuse(call, left)
            return
        lease = machine.leases.get(id_)
        if left < 0 or lease is None:
            answer = pb.LeaseTimeToLiveResponse(ID=id_, TTL=-1)
        else:
            held = self._few_keys(call, lease) if keys else ()
            if held is None:
                self._ask_keys(call, lease, left)
                return
            answer = pb.LeaseTimeToLiveResponse(ID=id_, TTL=left, grantedTTL=lease.ttl, keys=held)
        call.reply(messages.write(self._headers(machine.mvcc.revision), answer))

    def _few_keys(self, call: Call, lease: Lease) -> Iterable[bytes] | None:
        """The keys of a lease, sorted, if they may be told in one call. What is looked at is counted."""
        machine = self._member.machine
        if machine.leases.looked_at(lease) > FEW:
            return None
        held = machine.leases.keys_of(lease)
        size = sum(map(len, held))
        machine.mvcc.read_units += len(held) // KEYS_PER_UNIT
        if size > STEP_BYTES or not fits(call, size):
            return None
        machine.mvcc.read_units += size // UNIT_BYTES
        return sorted(held)

    def _ask_keys(self, call: Call, lease: Lease, left: int) -> None:
        if lease.id in self._asked:
            self._join(self._asked[lease.id], call, left)
        else:
            self._list_keys(lease, deque(((call, left),)))

    def _join(self, asked: _Asked, call: Call, left: int) -> None:
        """Who asks while the keys are listed wants them as of later, and waits for what is under way, too."""
        fault = self._member.jobs.share(call.principal, asked.listing)
        if fault is None and not asked.places.enter(call.principal):
            fault = errors.too_many()
        if fault is not None:
            refuse(call, fault)
        else:
            asked.meanwhile.append((call, left))

    def _list_keys(self, lease: Lease, waiting: deque[tuple[Call, int]]) -> None:
        """Tell all of them the keys: one list for those who asked while there was another."""
        listing = _Listing(
            self._keys_of(lease, waiting), partial(self._failed, waiting), partial(self._listed, lease)
        )
        self._asked[lease.id] = _Asked(listing, [], Admission(MOST_MEANWHILE))
        self._start(waiting, listing)

    def _keys_of(self, lease: Lease, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        machine, answers = self._member.machine, self._answers
        pieces = Pieces(call.principal for call, _ in calls)
        runs: deque[deque[bytes]] = deque()
        head = None
        try:
            for some in machine.leases.listed(lease):
                if some and head is None:
                    head = self._head_of(lease)
                cuts = list(_some_of(some))
                if not all(answers.grow(pieces, _charge(cut)) for cut in cuts):
                    break
                for cut in cuts:
                    runs.append(_run(sorted(cut)))
                    yield
                if not cuts:
                    yield
            else:
                head = head or self._head_of(lease)
                yield from _merge_most(runs)
                for held in _some_of(merge(*map(_drained, runs))):
                    piece = pb.LeaseTimeToLiveResponse(keys=held).SerializeToString()
                    pieces.add(piece)
                    answers.grow(pieces, len(piece) - _charge(held))
                    yield
            yield from _emptied(runs)
            if head is None:
                yield from self._asked_again(lease.id, calls)
                return
            while calls:
                call, left = calls[0]
                answer = pb.LeaseTimeToLiveResponse(ID=lease.id, TTL=left, grantedTTL=lease.ttl)
                answers.give(call, messages.write(head, answer), pieces)
                calls.popleft()
                yield
        finally:
            answers.made(pieces)

    def _listed(self, lease: Lease) -> None:
        """The listing of a lease's keys is over, whatever came of it."""
        self._member.machine.leases.unlist(lease)
        waiting = self._asked.pop(lease.id).meanwhile
        calls = deque(waiting)
        try:
            if calls and self._is_there(lease):
                self._list_keys(lease, calls)
            else:
                self._start(calls, _Listing(self._asked_again(lease.id, calls), partial(self._failed, calls)))
        except Exception:
            self._failed(calls)
            raise

    def _is_there(self, lease: Lease) -> bool:
        """It has not ended since, whether or not another has its id."""
        return self._member.machine.leases.get(lease.id) is lease

    def _head_of(self, lease: Lease) -> bytes | None:
        """The head of an answer that tells what a lease has now, while it is there."""
        return self._headers(self._member.machine.mvcc.revision) if self._is_there(lease) else None

    def _asked_again(self, id_: LeaseId, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        """Answer those who wait for the keys of a lease that has ended: that there is none, or where another
        has its id now, what that one has left.
        """
        while calls:
            is_there = self._member.machine.leases.get(id_) is not None
            for _ in range(min(TOLD_AT_ONCE, len(calls))):
                call, _ = calls.popleft()
                if is_there:
                    told = partial(self._told, call, id_, True)
                    call.guard(partial(self._lessor.time_to_live, id_, told, call.principal))
                else:
                    call.guard(partial(self._told, call, id_, False, -1))
            yield

    def _list(self, call: Call, _: pb.LeaseLeasesRequest) -> None:
        machine = self._member.machine
        if machine.leases.places <= FEW_LEASES:
            head = self._headers(machine.mvcc.revision)
            call.reply(messages.write(head, _leases(sorted(machine.leases.timed_keys()))))
        elif _ALL in self._asked:
            self._join(self._asked[_ALL], call, 0)
        else:
            self._list_ids(deque(((call, 0),)))

    def _list_ids(self, waiting: deque[tuple[Call, int]]) -> None:
        """Tell all of them the leases: one list for those who asked while there was another."""
        listing = _Listing(self._ids(waiting), partial(self._failed, waiting), self._ids_listed)
        self._asked[_ALL] = _Asked(listing, [], Admission(MOST_MEANWHILE))
        self._start(waiting, listing)

    def _ids(self, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        machine, answers = self._member.machine, self._answers
        pieces = Pieces(call.principal for call, _ in calls)
        runs: deque[deque[bytes]] = deque()
        head = self._headers(machine.mvcc.revision)
        lists = machine.leases.ids()
        try:
            for some in lists:
                if some:
                    if not runs:
                        head = self._headers(machine.mvcc.revision)
                    if not answers.grow(pieces, ID_BYTES * len(some)):
                        break
                    runs.append(_run(sorted(map(_key_of, some))))
                yield
            else:
                yield from _merge_most(runs)
                for held in _some_of(merge(*map(_drained, runs))):
                    piece = _leases(map(_id_of, held)).SerializeToString()
                    pieces.add(piece)
                    answers.grow(pieces, len(piece) - ID_BYTES * len(held))
                    yield
            yield from _emptied(runs)
            while calls:
                call, _ = calls.popleft()
                answers.give(call, head, pieces)
                yield
        except Lost:
            while calls:
                call, _ = calls.popleft()
                call.guard(partial(refuse, call, errors.timed_out(Reason.TIMED_OUT_LEADER)))
                yield
        finally:
            lists.close()
            answers.made(pieces)

    def _ids_listed(self) -> None:
        """The listing of the leases is over, whatever came of it."""
        calls = deque(self._asked.pop(_ALL).meanwhile)
        if calls:
            try:
                self._list_ids(calls)
            except Exception:
                self._failed(calls)
                raise

    def _start(self, calls: deque[tuple[Call, int]], listing: _Listing) -> None:
        """Begin a listing for those of the calls that may have one; it goes on in the turns of each."""
        is_begun = False
        try:
            for _ in range(len(calls)):
                call, _ = calls[0]
                begin = self._member.jobs.share if is_begun else self._member.jobs.start
                fault = begin(call.principal, listing)
                if fault is None:
                    is_begun = True
                    calls.rotate(-1)
                else:
                    calls.popleft()
                    call.guard(partial(refuse, call, fault))
        except Exception:
            self._failed(calls)
            raise
        finally:
            if not is_begun:
                listing.over()

    @staticmethod
    def _failed(calls: deque[tuple[Call, int]]) -> None:
        while calls:
            call, _ = calls.popleft()
            call.guard(partial(end, call, Reason.FAILED))

    def _keep_alive(self, call: Call, gate: Gate) -> _Renewals:
        return _Renewals(call, gate, self._member, self._headers, self._lessor)


def _leases(ids: Iterable[LeaseId]) -> pb.LeaseLeasesResponse:
    return pb.LeaseLeasesResponse(leases=[pb.LeaseStatus(ID=id_) for id_ in ids])


def _key_of(id_: LeaseId) -> bytes:
    """The id of a lease in bytes that are sorted as ids are."""
    return (id_ + _LEAST).to_bytes(8, "big")


def _id_of(key: bytes) -> LeaseId:
    """The id that `_key_of` was given."""
    return LeaseId(int.from_bytes(key, "big") - _LEAST)


def _some_of(keys: Iterable[bytes], parts: int = 1) -> Iterator[list[bytes]]:
    """The keys in lists of `FEW`, or of `STEP_BYTES`, give or take one, or of one in so many parts of it."""
    most, most_bytes = FEW // parts, STEP_BYTES // parts
    some: list[bytes] = []
    size = 0
    for key in keys:
        some.append(key)
        size += len(key)
        if len(some) >= most or size >= most_bytes:
            yield some
            some, size = [], 0
    if some:
        yield some


def _charge(keys: list[bytes]) -> int:
    """What keys take in a run, and no less than in a piece. Bytes."""
    return sum(map(len, keys)) + KEY_BYTES * len(keys)


def _run(keys: Iterable[bytes]) -> deque[bytes]:
    """Sorted keys in parts, so that the collector has little to look at and they are let go of one by one."""
    return deque(_pack(part) for part in _some_of(keys, WAYS))


def _drained(run: deque[bytes]) -> Iterator[bytes]:
    """The keys of a run, each part of which is let go of as it is taken."""
    while run:
        yield from _unpack(run.popleft())


def _merge_most(runs: deque[deque[bytes]]) -> Iterator[None]:
    """Merge runs in steps of `FEW` keys, or `STEP_BYTES`, until there are no more than `WAYS`. O(keys *
    log(runs)).
    """
    while len(runs) > WAYS:
        merged: deque[bytes] = deque()
        for some in _some_of(merge(*[_drained(runs.popleft()) for _ in range(WAYS)])):
            merged += _run(some)
            yield
        runs.append(merged)


def _emptied(runs: deque[deque[bytes]]) -> Iterator[None]:
    """Let go of what is left of runs, in steps."""
    while runs:
        for _ in range(min(RUNS_AT_ONCE, len(runs))):
            runs.pop()
        yield


class _Listing:
    """What is told of many leases or keys, made in steps. Implements `node.jobs.Job`; it goes on when its
    clients have gone, for there is little left to do then.
    """

    __slots__ = ("_failed", "_steps", "over")

    def __init__(
        self, steps: Iterator[None], failed: Callable[[], None], over: Callable[[], None] = lambda: None
    ) -> None:
        """`over` is called when there is nothing more to do, whatever happened; `failed` before it, where a
        step raised.
        """
        self._steps = steps
        self._failed = failed
        self.over = over

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        if next(self._steps, self) is not self:
            return False
        self.over()
        return True

    def failed(self, _: Exception) -> None:
        """See `node.jobs.Job`."""
        try:
            self._failed()
        finally:
            self.over()


class _Asked(NamedTuple):
    """A listing of the keys of a lease that is under way, the calls that came meanwhile, the seconds it had
    left for each of these, and who has how many of them.
    """

    listing: _Listing
    meanwhile: list[tuple[Call, int]]
    places: Admission


class _Renewals:
    """One stream of renewals, a `Receiver`. Answers go out in the order of the requests."""

    __slots__ = ("_call", "_closing", "_gate", "_headers", "_lessor", "_member", "_waiting")

    def __init__(self, call: Call, gate: Gate, member: Member, headers: Headers, lessor: Lessor) -> None:
        self._call = call
        self._gate = gate
        self._member = member
        self._headers = headers
        self._lessor = lessor
        self._waiting: deque[_Renewal] = deque()
        self._closing = False

    def received(self, message: bytes) -> None:
        try:
            id_ = parse(pb.LeaseKeepAliveRequest, message).ID
        except BadMessage as error:
            self._call.finish(*not_a_message(error))
            return
        if len(self._waiting) >= MOST_WAITING or self._call.backlog > MOST_UNREAD:
            self._call.finish(codes.RESOURCE_EXHAUSTED, "too many renewals wait; read their answers first")
            self.cancelled()
            return
        if self._gate.policy is not None:
            fault = self._gate.check(operations.lease_keep_alive(id_), self._call.principal)
            if fault is not None:
                refuse(self._call, fault)
                self.cancelled()
                return
        renewal = _Renewal(self, id_, self._member.machine.mvcc.revision)
        self._waiting.append(renewal)
        self._lessor.keep_alive(id_, renewal.done, self._call.principal)

    def half_closed(self) -> None:
        self._closing = True
        self.advance()

    def cancelled(self) -> None:
        self._waiting.clear()

    def advance(self) -> None:
        """Answer what can be answered."""
        waiting = self._waiting
        while waiting and waiting[0].ttl is not None:
            renewal = waiting.popleft()
            ttl = renewal.ttl
            if isinstance(ttl, Fault):
                waiting.clear()
                refuse(self._call, ttl)
                return
            assert ttl is not None  # noqa: S101 - the loop asked
            header = self._headers(renewal.revision)
            self._call.send(messages.write_kept_alive(header, renewal.id, ttl))
        if self._closing and not waiting:
            self._call.finish()


class _Renewal:
    """One renewal; its header tells the revision before it, never one ahead of it."""

    __slots__ = ("_stream", "id", "revision", "ttl")

    def __init__(self, stream: _Renewals, id_: int, revision: int) -> None:
        self._stream = stream
        self.id = id_
        self.revision = revision
        self.ttl: int | Fault | None = None

    def done(self, ttl: int | Fault) -> None:
        self.ttl = ttl
        self._stream.advance()
