"""Leases (v3 API, Lease): the replicated table, and the leader's clock over it.

No time is replicated. A lease in the table is an id, a TTL and the keys it holds; it ends only by a command,
at one index, for everybody. When that command is due is the business of one clock, the leader's, which knows
nothing but how long ago a lease was last renewed. Invariants:
 1. A lease lives at least its TTL (or what a checkpoint left of it) from its last acknowledged renewal, by
    the clock of the leader that acknowledged it, or from the moment a later leader took over.
 2. What a deposed leader says about time is void: expiry and checkpoints carry its term, and the table knows
    the newest term whose leader has taken over (`LeaseTerm`). A leader renews nothing before that command of
    its own was applied.
 3. A lease whose time is up is never renewed again, though its end has not been applied yet.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

import msgspec

from netstore import errors
from netstore.errors import Fault, refusal
from netstore.types import LeaseId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

MAX_TTL: Final = 9_000_000_000
"""Seconds; more is refused, as by etcd."""

MAX_EXPIRED: Final = 500
"""Leases that one look at the clock may end: a wave of them must not fill the log at once."""

SPREAD_OVER: Final = 1_000
"""More leases than this that would end together after a change of leader are spread out ..."""

SPREAD_RATE: Final = 750
"""... to this many a second."""


class Lease(msgspec.Struct, gc=False):
    """One lease. `remaining` is what a checkpoint left of its TTL, 0 for all of it. Both in seconds."""

    id: LeaseId
    ttl: int
    remaining: int
    keys: set[bytes]


class LeaseRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is stored of a lease; its keys know it themselves."""

    id: int
    ttl: int
    remaining: int


def granted_ttl(asked: int, minimum: int) -> int | Fault:
    """The TTL that a lease gets that was asked for with this one. Seconds."""
    return refusal(errors.LEASE_TTL_TOO_LARGE) if asked > MAX_TTL else max(asked, minimum)


class Leases:
    """The replicated table. Every member has the same."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, Lease] = {}
        self._touched: dict[LeaseId, LeaseRecord | None] = {}
        self.term = 0
        """The newest term whose leader has taken over the clocks."""

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, id_: int) -> Lease | None:
        """The lease with this id."""
        return self._leases.get(LeaseId(id_))

    def grant(self, id_: int, ttl: int) -> Fault | None:
        """Make a lease."""
        if not id_:
            return refusal(errors.LEASE_NOT_FOUND)
        if id_ in self._leases:
            return refusal(errors.LEASE_EXISTS)
        if ttl > MAX_TTL:
            return refusal(errors.LEASE_TTL_TOO_LARGE)
        self._keep(Lease(LeaseId(id_), ttl, 0, set()))
        return None

    def remove(self, id_: int) -> None:
        """Forget a lease; its keys have been deleted."""
        self._touched[LeaseId(id_)] = None
        del self._leases[LeaseId(id_)]

    def checkpoint(self, id_: int, remaining: int) -> None:
        """Note what is left of a lease, if it is still there."""
        lease = self.get(id_)
        if lease is not None:
            lease.remaining = min(remaining, lease.ttl)
            self._keep(lease)

    def move(self, key: bytes, before: int, after: int) -> None:
        """A key changes its lease; 0 is none."""
        if before:
            self._leases[LeaseId(before)].keys.discard(key)
        if after:
            self._leases[LeaseId(after)].keys.add(key)

    def restore(self, records: Iterable[LeaseRecord], term: int) -> None:
        """Become what was stored; the keys come by `move`."""
        self._leases = {LeaseId(r.id): Lease(LeaseId(r.id), r.ttl, r.remaining, set()) for r in records}
        self._touched = {}
        self.term = term

    def take_changes(self) -> dict[LeaseId, LeaseRecord | None]:
        """The leases changed since the last call; None for one that ended."""
        touched, self._touched = self._touched, {}
        return touched

    def _keep(self, lease: Lease) -> None:
        self._leases[lease.id] = lease
        self._touched[lease.id] = LeaseRecord(lease.id, lease.ttl, lease.remaining)


class LeaseClock:
    """How long each lease has left, on the member that leads. Instants are seconds of its monotonic clock.

    Make one when the own `LeaseTerm` has been applied, and drop it when leadership ends. O(log n) for a
    renewal that a look at the clock finds, O(1) itself.
    """

    def __init__(self, leases: Leases, now: float, extra: float) -> None:
        """Take over at `now`: nobody knows how long ago each lease was renewed, so each starts anew, with
        `extra` seconds (one election timeout) on top. O(n).
        """
        self._leases = leases
        self._ends: dict[LeaseId, float] = {lease.id: now + _life(lease) + extra for lease in leases}
        _spread(self._ends)
        self._heap = [(end, id_) for id_, end in self._ends.items()]
        heapify(self._heap)
        self._expired: dict[LeaseId, float] = {}

    def renew(self, id_: int, now: float) -> int | None:
        """Start the lease's TTL again and tell it, in seconds; None when it is unknown or its time is up.

        A lease that has a checkpoint (`Lease.remaining`) must have that cleared by a command of its own
        before the renewal may be acknowledged: the next leader would go by it.
        """
        lease = self._leases.get(id_)
        if lease is None or self.is_expired(lease.id, now):
            return None
        self._ends[lease.id] = now + lease.ttl
        return lease.ttl

    def is_expired(self, id_: LeaseId, now: float) -> bool:
        """Whether the lease's time is up, though its end may not have been applied yet."""
        return id_ in self._expired or self._ends.get(id_, now + 1) <= now

    def left(self, id_: int, now: float) -> float | None:
        """The seconds the lease has left, not below 0; None when it is unknown."""
        lease = self._leases.get(id_)
        if lease is None:
            return None
        return max(0.0, self._ends.get(lease.id, now + lease.ttl) - now)

    def look(self, now: float) -> list[LeaseId]:
        """The leases to end now, at most `MAX_EXPIRED`. Each is told once; `retry` when nothing came of it.

        Leases granted since the last look start their TTL here at the latest, never earlier than they were
        granted. O(n) only in what was granted, renewed or has ended since.
        """
        leases, ends, heap = self._leases, self._ends, self._heap
        due: list[LeaseId] = []
        while heap and heap[0][0] <= now and len(due) < MAX_EXPIRED:
            _, id_ = heappop(heap)
            if leases.get(id_) is None:
                ends.pop(id_, None)
                self._expired.pop(id_, None)
                continue
            end = ends[id_]
            if end > now:
                heappush(heap, (end, id_))
            elif id_ not in self._expired:
                self._expired[id_] = end
                due.append(id_)
        return due

    def granted(self, id_: int, now: float) -> None:
        """A lease was granted."""
        lease = self._leases.get(id_)
        if lease is not None:
            end = self._ends[lease.id] = now + _life(lease)
            heappush(self._heap, (end, lease.id))

    def retry(self, ids: Collection[LeaseId]) -> None:
        """The command to end these was not accepted: tell them again."""
        for id_ in ids:
            end = self._expired.pop(id_, None)
            if end is not None:
                heappush(self._heap, (end, id_))

    def checkpoints(self, now: float, longer_than: int) -> list[tuple[LeaseId, int]]:
        """What is left, in whole seconds rounded up, of the leases with a longer TTL than this. O(n)."""
        return [
            (lease.id, max(1, -int(now - self._ends[lease.id]) + 1))
            for lease in self._leases
            if lease.ttl > longer_than and lease.id in self._ends and not self.is_expired(lease.id, now)
        ]


def _life(lease: Lease) -> int:
    return lease.remaining or lease.ttl


def _spread(ends: dict[LeaseId, float]) -> None:
    """Move ends later where more than `SPREAD_OVER` fall into one second, to `SPREAD_RATE` a second."""
    if len(ends) <= SPREAD_OVER:
        return
    free = 0.0
    for id_, end in sorted(ends.items(), key=lambda item: (item[1], item[0])):
        free = max(free, end)
        ends[id_] = free
        free += 1 / SPREAD_RATE
