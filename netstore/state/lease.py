"""Leases (v3 API, Lease): the replicated table, and one member's clock over it.

A lease is granted, renewed and ended by commands, at one index, for everybody; no time is replicated. Every
member counts for itself how long ago it applied the grant or the last renewal, and the leader proposes the
end of what is overdue by its count. Invariants:
 1. A lease lives at least its TTL from its last renewal: by the clock of the member that proposes its end,
    which started when that member applied the renewal, or later. Of what a checkpoint left of the TTL where
    no member has counted on since, as after a restart.
 2. A proposal that is overtaken by a renewal is void, whoever made it: it names the index of the renewal it
    counts from (`Lease.since`).
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil, inf
from typing import TYPE_CHECKING, Final

import msgspec

from netstore import errors
from netstore.errors import Fault, refusal
from netstore.types import Index, LeaseId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_TTL: Final = 9_000_000_000
"""Seconds; more is refused, as by etcd."""

MAX_DUE: Final = 500
"""Leases that one look at the clock finds: a wave of them must not fill the log at once."""

RETRY_SECONDS: Final = 3.0
"""After this long an overdue lease that is still there is told again."""


class Lease(msgspec.Struct, gc=False):
    """One lease. `since` is the index that granted or last renewed it, `remaining` what a checkpoint after
    that left of its TTL, 0 for all of it. Both times in seconds.
    """

    id: LeaseId
    ttl: int
    since: Index
    remaining: int
    keys: set[bytes]


class LeaseRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is stored of a lease; which keys it has stands in their pairs."""

    id: LeaseId
    ttl: int
    since: Index
    remaining: int


def granted_ttl(asked: int, minimum: int) -> int | Fault:
    """The TTL that a lease gets that was asked for with this one. Seconds."""
    return refusal(errors.LEASE_TTL_TOO_LARGE) if asked > MAX_TTL else max(asked, minimum)


class Leases:
    """The replicated table. Every member has the same."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, Lease] = {}
        self._touched: dict[LeaseId, LeaseRecord | None] = {}
        self._renewed: dict[LeaseId, None] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, id_: int) -> Lease | None:
        """The lease with this id."""
        return self._leases.get(LeaseId(id_))

    def grant(self, id_: int, ttl: int, index: Index) -> Lease | Fault:
        """Make a lease."""
        if not id_:
            return refusal(errors.LEASE_NOT_FOUND)
        if id_ in self._leases:
            return refusal(errors.LEASE_EXISTS)
        if ttl > MAX_TTL:
            return refusal(errors.LEASE_TTL_TOO_LARGE)
        lease = self._leases[LeaseId(id_)] = Lease(LeaseId(id_), ttl, index, 0, set())
        self._renew(lease)
        return lease

    def renew(self, id_: int, index: Index) -> Lease | Fault:
        """Give a lease all of its TTL again."""
        lease = self.get(id_)
        if lease is None:
            return refusal(errors.LEASE_NOT_FOUND)
        lease.since = index
        lease.remaining = 0
        self._renew(lease)
        return lease

    def remove(self, lease: Lease) -> None:
        """Forget a lease, whose keys have been deleted."""
        self._touched[lease.id] = None
        self._renewed.pop(lease.id, None)
        del self._leases[lease.id]

    def at(self, id_: int, since: int) -> Lease | None:
        """The lease, if nothing has renewed it after this index."""
        lease = self.get(id_)
        return lease if lease is not None and lease.since == since else None

    def checkpoint(self, lease: Lease, remaining: int) -> None:
        """Note what is left of a lease."""
        lease.remaining = min(remaining, lease.ttl)
        self._touch(lease)

    def move(self, key: bytes, before: int, after: int) -> None:
        """A key changes its lease; 0 is none."""
        if before:
            self._leases[LeaseId(before)].keys.discard(key)
        if after:
            self._leases[LeaseId(after)].keys.add(key)

    def restore(self, records: Iterable[LeaseRecord]) -> None:
        """Become what was stored; the keys come by `move`."""
        self._leases = {r.id: Lease(r.id, r.ttl, r.since, r.remaining, set()) for r in records}
        self._touched = {}
        self._renewed = dict.fromkeys(self._leases)

    def take_changes(self) -> dict[LeaseId, LeaseRecord | None]:
        """The leases changed since the last call; None for one that ended."""
        touched, self._touched = self._touched, {}
        return touched

    def take_renewed(self) -> Iterable[LeaseId]:
        """The leases granted, renewed or loaded since the last call, for the one clock of this member."""
        renewed, self._renewed = self._renewed, {}
        return renewed

    def _renew(self, lease: Lease) -> None:
        self._renewed[lease.id] = None
        self._touch(lease)

    def _touch(self, lease: Lease) -> None:
        self._touched[lease.id] = LeaseRecord(lease.id, lease.ttl, lease.since, lease.remaining)


class LeaseClock:
    """How long each lease has left by this member's count. Instants are seconds of its monotonic clock.

    A renewal counts from the first call after it was applied, so one of them has to be made often: what comes
    between makes a lease live longer. O(1) for each lease renewed since the last call, O(log n) for a new
    one.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._ends: dict[LeaseId, float] = {}
        # One entry for each lease counts, the one at `_looks[id]`; it may be earlier than the lease's end.
        self._looks: dict[LeaseId, float] = {}
        self._heap: list[tuple[float, LeaseId]] = []

    def left(self, id_: int, now: float) -> float | None:
        """The seconds the lease has left, not below 0; None when there is no such lease."""
        self._count(now)
        lease = self._leases.get(id_)
        return None if lease is None else max(0.0, self._ends[lease.id] - now)

    def due(self, now: float) -> list[tuple[LeaseId, Index]]:
        """The leases whose time is up, as (id, since), the longest overdue first and at most `MAX_DUE`. One
        that was told is not told again for `RETRY_SECONDS`.
        """
        self._count(now)
        found: list[tuple[LeaseId, Index]] = []
        heap, looks = self._heap, self._looks
        while heap and heap[0][0] <= now and len(found) < MAX_DUE:
            when, id_ = heappop(heap)
            if looks.get(id_) != when:
                continue
            lease = self._leases.get(id_)
            if lease is None:
                del looks[id_], self._ends[id_]
                continue
            end = self._ends[id_]
            if end <= now:
                found.append((id_, lease.since))
            self._look(id_, end if end > now else now + RETRY_SECONDS)
        return found

    def extend(self, now: float, seconds: float) -> None:
        """Give every lease so much longer, but none more than its TTL and that: this member has come to lead,
        and others may have been answered later than it counts from. O(n).
        """
        self._count(now)
        for lease in self._leases:
            self._ends[lease.id] = min(max(self._ends[lease.id], now), now + lease.ttl) + seconds

    def checkpoints(self, now: float, longer_than: int) -> list[tuple[LeaseId, Index, int]]:
        """What is left, in whole seconds rounded up, of the leases with a longer TTL than this that are not
        overdue, as (id, since, seconds). O(n).
        """
        self._count(now)
        left = ((lease, self._ends[lease.id] - now) for lease in self._leases if lease.ttl > longer_than)
        return [(lease.id, lease.since, ceil(seconds)) for lease, seconds in left if seconds > 0]

    def _count(self, now: float) -> None:
        for id_ in self._leases.take_renewed():
            lease = self._leases.get(id_)
            assert lease is not None, "what is removed is not renewed"  # noqa: S101 - a bug, not an input
            end = self._ends[id_] = now + (lease.remaining or lease.ttl)
            if end < self._looks.get(id_, inf):
                self._look(id_, end)

    def _look(self, id_: LeaseId, when: float) -> None:
        self._looks[id_] = when
        heappush(self._heap, (when, id_))
