"""Lists of leases, and of the keys of a lease, that are too long to be made in one call.

A list is made in steps, by a job of the member, and shows one moment. Those who ask for a list while the same
one is being made share the next, which shows a moment after all of them asked. The memory of a list is
charged as it grows (`api.v3.shared`).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore import errors
from netstore.admission import Admission
from netstore.api.v3 import messages, sortedruns
from netstore.api.v3.shared import SharedPieces
from netstore.api.v3.status import end, refuse
from netstore.errors import Reason
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3.reads import Lost
from netstore.types import LeaseId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.message import Message

    from netstore.api.v3.messages import Headers
    from netstore.api.v3.shared import SharedAnswers
    from netstore.api.v3.sortedruns import Run
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Member
    from netstore.state.v3.lease import Lease

MOST_WAITING: Final = 1_024
"""Calls that may wait for the next list of the keys of a lease, one principal at most half of them: starting
it costs 2 us each.
"""

ANSWERED_AT_ONCE: Final = 64
"""Waiting calls answered in one step if the lease has ended: 1 ms."""

ID_BYTES: Final = 13
"""Bytes that the id of a lease takes in a run or in a piece, at most."""

_ALL: Final = 0
"""In `_lists` the list of all leases; no lease has this id."""

_LEAST: Final = 1 << 63
"""No id is below this, negated."""


class LeaseLists:
    """The long lists of one member that are being made."""

    def __init__(
        self,
        member: Member,
        headers: Headers,
        shared: SharedAnswers,
        ended: Callable[[Call, LeaseId], None],
    ) -> None:
        """`ended` answers a call that waited for the keys of a lease that has ended."""
        self._member = member
        self._headers = headers
        self._shared = shared
        self._ended = ended
        self._lists: dict[int, _List] = {}
        """By the id of the lease whose keys are listed; `_ALL` for the list of leases."""

    # --- the keys of a lease

    def send_keys(self, call: Call, lease: Lease, left: int) -> None:
        """Answer a call with the keys of a lease that has `left` seconds left."""
        if lease.id in self._lists:
            self._join(self._lists[lease.id], call, left)
        else:
            self._list_keys(lease, deque(((call, left),)))

    def _list_keys(self, lease: Lease, waiting: deque[tuple[Call, int]]) -> None:
        """Begin a list of keys for all who asked while there was another."""
        job = _ListJob(
            self._keys_of(lease, waiting), partial(self._failed, waiting), partial(self._listed, lease)
        )
        self._lists[lease.id] = _List(job, [], Admission(MOST_WAITING))
        self._start(waiting, job)

    def _keys_of(self, lease: Lease, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        machine, shared = self._member.machine, self._shared
        pieces = SharedPieces(call.principal for call, _ in calls)
        runs: deque[Run] = deque()
        head = None
        try:
            for some in machine.leases.listed(lease):
                if some and head is None:
                    head = self._head_of(lease)
                batches = list(sortedruns.batches(some))
                if not all(shared.grow(pieces, sortedruns.run_size(batch)) for batch in batches):
                    break
                for batch in batches:
                    runs.append(sortedruns.run_of(sorted(batch)))
                    yield
                if not batches:
                    yield
            else:
                head = head or self._head_of(lease)
                yield from self._encoded(runs, pieces, _keys_response, sortedruns.run_size)
            yield from sortedruns.clear(runs)
            if head is None:
                yield from self._answer_ended(lease.id, calls)
                return
            while calls:
                call, left = calls[0]
                answer = pb.LeaseTimeToLiveResponse(ID=lease.id, TTL=left, grantedTTL=lease.ttl)
                shared.send(call, messages.write(head, answer), pieces)
                calls.popleft()
                yield
        finally:
            shared.made(pieces)

    def _listed(self, lease: Lease) -> None:
        """The job of a list of keys is over, whether it succeeded or not: begin the next."""
        self._member.machine.leases.unlist(lease)
        calls = deque(self._lists.pop(lease.id).waiting)
        try:
            if calls and self._exists(lease):
                self._list_keys(lease, calls)
            else:
                steps = self._answer_ended(lease.id, calls)
                self._start(calls, _ListJob(steps, partial(self._failed, calls)))
        except Exception:
            self._failed(calls)
            raise

    def _exists(self, lease: Lease) -> bool:
        """The lease has not ended, even if another has its id now."""
        return self._member.machine.leases.get(lease.id) is lease

    def _head_of(self, lease: Lease) -> bytes | None:
        """The header of an answer that shows the keys of now; None if the lease has ended."""
        return self._headers(self._member.machine.mvcc.revision) if self._exists(lease) else None

    def _answer_ended(self, id_: LeaseId, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        """Answer those who wait for the keys of a lease that has ended."""
        while calls:
            for _ in range(min(ANSWERED_AT_ONCE, len(calls))):
                call, _ = calls.popleft()
                call.guard(partial(self._ended, call, id_))
            yield

    # --- all leases

    def send_ids(self, call: Call) -> None:
        """Answer a call with the ids of all leases."""
        if _ALL in self._lists:
            self._join(self._lists[_ALL], call, 0)
        else:
            self._list_ids(deque(((call, 0),)))

    def _list_ids(self, waiting: deque[tuple[Call, int]]) -> None:
        """Begin a list of leases for all who asked while there was another."""
        job = _ListJob(self._ids(waiting), partial(self._failed, waiting), self._ids_listed)
        self._lists[_ALL] = _List(job, [], Admission(MOST_WAITING))
        self._start(waiting, job)

    def _ids(self, calls: deque[tuple[Call, int]]) -> Iterator[None]:
        machine, shared = self._member.machine, self._shared
        pieces = SharedPieces(call.principal for call, _ in calls)
        runs: deque[Run] = deque()
        head = self._headers(machine.mvcc.revision)
        lists = machine.leases.ids()
        try:
            for some in lists:
                if some:
                    if not runs:
                        head = self._headers(machine.mvcc.revision)
                    if not shared.grow(pieces, ID_BYTES * len(some)):
                        break
                    runs.append(sortedruns.run_of(sorted(map(_key_of, some))))
                yield
            else:
                yield from self._encoded(runs, pieces, _ids_response, _ids_size)
            yield from sortedruns.clear(runs)
            while calls:
                call, _ = calls.popleft()
                shared.send(call, head, pieces)
                yield
        except Lost:
            while calls:
                call, _ = calls.popleft()
                call.guard(partial(refuse, call, errors.timed_out(Reason.TIMED_OUT_LEADER)))
                yield
        finally:
            lists.close()
            shared.made(pieces)

    def _ids_listed(self) -> None:
        """The job of a list of leases is over, whether it succeeded or not: begin the next."""
        calls = deque(self._lists.pop(_ALL).waiting)
        if calls:
            try:
                self._list_ids(calls)
            except Exception:
                self._failed(calls)
                raise

    # --- both

    def _encoded(
        self,
        runs: deque[Run],
        pieces: SharedPieces,
        response: Callable[[list[bytes]], Message],
        size: Callable[[list[bytes]], int],
    ) -> Iterator[None]:
        """Merge sorted runs, and add them as encoded responses to the pieces of an answer, whose charge for
        the keys of a batch (`size`) is replaced by that for its bytes.
        """
        yield from sortedruns.merge_most(runs)
        for keys in sortedruns.batches(sortedruns.merged(runs)):
            piece = response(keys).SerializeToString()
            pieces.add(piece)
            self._shared.grow(pieces, len(piece) - size(keys))
            yield

    def _join(self, list_: _List, call: Call, left: int) -> None:
        """Wait for the next list. The job of the present one runs in the turns of this call, too."""
        fault = self._member.jobs.share(call.principal, list_.job)
        if fault is None and not list_.places.enter(call.principal):
            fault = errors.too_many()
        if fault is not None:
            refuse(call, fault)
        else:
            list_.waiting.append((call, left))

    def _start(self, calls: deque[tuple[Call, int]], job: _ListJob) -> None:
        """Start a job for those of the calls whose principals may have one more; it runs in the turns of
        each. The others are refused.
        """
        is_begun = False
        try:
            for _ in range(len(calls)):
                call, _ = calls[0]
                begin = self._member.jobs.share if is_begun else self._member.jobs.start
                fault = begin(call.principal, job)
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
                job.over()

    @staticmethod
    def _failed(calls: deque[tuple[Call, int]]) -> None:
        while calls:
            call, _ = calls.popleft()
            call.guard(partial(end, call, Reason.FAILED))


def leases_response(ids: Iterable[LeaseId]) -> pb.LeaseLeasesResponse:
    """A list of leases."""
    return pb.LeaseLeasesResponse(leases=[pb.LeaseStatus(ID=id_) for id_ in ids])


def _keys_response(keys: list[bytes]) -> pb.LeaseTimeToLiveResponse:
    return pb.LeaseTimeToLiveResponse(keys=keys)


def _ids_response(keys: list[bytes]) -> pb.LeaseLeasesResponse:
    return leases_response(map(_id_of, keys))


def _ids_size(keys: list[bytes]) -> int:
    return ID_BYTES * len(keys)


def _key_of(id_: LeaseId) -> bytes:
    """The id of a lease as bytes, which sort as the ids do."""
    return (id_ + _LEAST).to_bytes(8, "big")


def _id_of(key: bytes) -> LeaseId:
    """The inverse of `_key_of`."""
    return LeaseId(int.from_bytes(key, "big") - _LEAST)


class _ListJob:
    """Makes a list in steps. Implements `node.jobs.Job`. It goes on if all of its clients disconnect: little
    is left to do then.
    """

    __slots__ = ("_failed", "_steps", "over")

    def __init__(
        self, steps: Iterator[None], failed: Callable[[], None], over: Callable[[], None] = lambda: None
    ) -> None:
        """`over` is called when the job is over, in any case; `failed` before it, if a step raised."""
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


class _List(NamedTuple):
    """A list that is being made."""

    job: _ListJob
    waiting: list[tuple[Call, int]]
    """Calls that wait for the next list, and the seconds that the lease had left for each."""
    places: Admission
    """The places of the waiting calls, by principal."""
