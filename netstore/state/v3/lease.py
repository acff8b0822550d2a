"""Leases (v3 API, Lease): the replicated table.

Grants, renewals and ends are log entries. No remaining time is replicated but in checkpoints: each member
measures it since the renewal that it applied (`countdown`).
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.errors import Fault, Reason, refusal
from netstore.histogram import Histogram, doubling
from netstore.parted import FREE_STEP, Parted, batches
from netstore.state.countdown import KeyQueue, TtlChanges
from netstore.state.tables import LEASES, check_count, some_records
from netstore.state.v3.reads import Lost
from netstore.types import Index, LeaseId

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from netstore.seams import Engine

KEYS_AT_ONCE: Final = 1_000
"""Keys of a lease, or leases, in one step of a listing: 0.3 ms."""

MAX_TTL: Final = 9_000_000_000
"""Seconds; a longer TTL is refused, as by etcd."""


TTL_BOUNDS: Final = doubling(1.0, 24)
"""Upper bounds of the seconds of TTLs that were granted, as etcd has them."""


class Lease(msgspec.Struct, gc=False):
    """One lease. `since` is the index that granted or last renewed it, `remaining` what a checkpoint after
    that has recorded as left of the TTL, 0 if there was none. Both times in seconds.
    """

    id: LeaseId
    ttl: int
    since: Index
    remaining: int
    keys: Parted[bytes, None] = msgspec.field(default_factory=Parted)
    """The keys attached to it, but for the changes in `late`."""
    late: Parted[bytes, bool] | None = None
    """Keys attached (True) or detached (False) while `keys` is being listed, which is not changed meanwhile.
    If a listing was abandoned, `late` is merged into `keys` with further changes (`_settle`).
    """
    is_listed: bool = False
    """Whether a listing uses its keys: they are not freed before that ends, even if the lease does."""

    def all_keys(self) -> Iterator[bytes]:
        """The keys attached to it. While the iterator is used, no listing may begin and no key may move."""
        late = self.late
        if not late:
            return iter(self.keys)
        came = (key for key, is_there in late.items() if is_there and key not in self.keys)
        return chain((key for key in self.keys if key not in late or late[key]), came)


class LeaseRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The record of a lease; its keys are known from the pairs."""

    id: LeaseId
    ttl: int
    since: Index
    remaining: int


_decode_lease: Final = msgspec.msgpack.Decoder(LeaseRecord)


def _settle(lease: Lease, late: Parted[bytes, bool], most: int) -> None:
    """Merge so many of the changes in `late` into the keys."""
    keys = lease.keys
    for _ in range(min(most, len(late))):
        key, is_there = late.popitem()
        if is_there:
            keys[key] = None
        else:
            keys.pop(key, None)


def _forget(moved: Parted[LeaseId, Parted[bytes, bool]]) -> Iterator[None]:
    left = FREE_STEP
    while moved:
        _, keys = moved.popitem()
        if keys.is_large:
            yield from keys.free_steps()
        left -= 1 + len(keys)
        if left <= 0:
            left = FREE_STEP
            yield


class StoredLeases:
    """The leases of a state that is being loaded, without their keys."""

    __slots__ = ("leases", "renewed")

    def __init__(self) -> None:
        self.leases: Parted[LeaseId, Lease | None] = Parted()
        self.renewed: KeyQueue[LeaseId] = KeyQueue()
        """Their ids, as renewals for the `countdown`."""

    def add(self, records: Iterable[LeaseRecord]) -> None:
        """Add leases."""
        for each in records:
            self.leases[each.id] = Lease(each.id, each.ttl, each.since, each.remaining)
            self.renewed.add(each.id)


def lease_key(lease: LeaseId) -> bytes:
    """The key of a lease's record in its table."""
    return b"%016x" % (lease & 2**64 - 1)


def load_leases(engine: Engine, *, whole: bool) -> Iterator[list[LeaseRecord]]:
    """Every stored lease, in the steps of `tables.some_records`."""
    found = 0
    for some in some_records(engine, LEASES, _decode_lease, whole=whole):
        found += len(some)
        yield [record for _, record in some]
    check_count(engine, LEASES, found)


def granted_ttl(asked: int, minimum: int) -> int | Fault:
    """The TTL in seconds of a lease that was requested with this one."""
    return refusal(Reason.LEASE_TTL_TOO_LARGE) if asked > MAX_TTL else max(asked, minimum)


class Leases:
    """The replicated table, the same on every member.

    Nothing of a command in pieces is visible here before it is finished: `keys_of` returns the keys as of its
    beginning (`begin`, `finish`), and leases are removed in its last piece.
    """

    def __init__(self) -> None:
        self._leases: Parted[LeaseId, Lease | None] = Parted()
        """None for a lease that ended during a listing of all: the table must not change its size then."""
        self._gone: Parted[LeaseId, None] = Parted()
        """The ids of those."""
        self._young: Parted[LeaseId, Lease] = Parted()
        """Leases that were granted during a listing of all."""
        self._is_listing = False
        self._touched: dict[LeaseId, LeaseRecord | None] = {}
        self.ttl_changes: TtlChanges[LeaseId] = TtlChanges()
        """See `countdown.Table`."""
        self._moved: Parted[LeaseId, Parted[bytes, bool]] | None = None
        """While a command is half done: for each lease the keys it moved, and whether they were attached."""
        self._spent: deque[Iterator[None]] = deque()
        """Free large tables that are used no more, in steps."""
        # Since the start of the member, for metrics.
        self.granted = self.renewed = self.revoked = self.expired = 0
        self.ttls = Histogram(TTL_BOUNDS)
        """Seconds of the TTLs of leases that were granted."""

    def __iter__(self) -> Iterator[Lease]:
        old = (lease for lease in self._leases.values() if lease is not None)
        return chain(old, self._young.values())

    def __len__(self) -> int:
        return len(self._leases) - len(self._gone) + len(self._young)

    @property
    def places(self) -> int:
        """How many entries `timed_keys` looks at: existing leases, and some that ended. O(1)."""
        return len(self._leases) + len(self._young)

    def get(self, id_: int) -> Lease | None:
        """The lease with this id, or None."""
        lease = self._leases.get(LeaseId(id_))
        return lease if lease is not None or not self._young else self._young.get(LeaseId(id_))

    def grant(self, id_: int, ttl: int, index: Index) -> Lease | Fault:
        """Create a lease."""
        if not id_:
            return refusal(Reason.LEASE_NOT_FOUND)
        if self.get(id_) is not None:
            return refusal(Reason.LEASE_EXISTS)
        if ttl > MAX_TTL:
            return refusal(Reason.LEASE_TTL_TOO_LARGE)
        lease = Lease(LeaseId(id_), ttl, index, 0)
        if self._is_listing and lease.id not in self._gone:
            self._young[lease.id] = lease
        else:
            self._gone.pop(lease.id, None)
            self._leases[lease.id] = lease
        self._renew(lease)
        self.granted += 1
        self.ttls.observe(ttl)
        return lease

    def renew(self, id_: int, index: Index) -> Lease | Fault:
        """Start the TTL of a lease anew."""
        lease = self.get(id_)
        if lease is None:
            return refusal(Reason.LEASE_NOT_FOUND)
        lease.since = index
        lease.remaining = 0
        self.renewed += 1
        self._renew(lease)
        return lease

    def remove(self, lease: Lease) -> None:
        """Remove a lease, whose keys have been deleted."""
        self._touched[lease.id] = None
        self.ttl_changes.remove(lease.id)
        self._spend(lease)
        if self._young.pop(lease.id, None) is not None:
            return
        if self._is_listing:
            self._leases[lease.id] = None
            self._gone[lease.id] = None
        else:
            del self._leases[lease.id]

    def at(self, id_: int, since: int) -> Lease | None:
        """The lease, if it was not renewed after this index."""
        lease = self.get(id_)
        return lease if lease is not None and lease.since == since else None

    def counted(self, overdue: Iterable[Lease | None]) -> Iterator[Lease]:
        """Those that are there, each counted as expired."""
        for lease in overdue:
            if lease is not None:
                self.expired += 1
                yield lease

    def checkpoint(self, lease: Lease, remaining: int) -> None:
        """Record what a lease has left."""
        lease.remaining = min(remaining, lease.ttl)
        self._touch(lease)

    def move(self, key: bytes, before: int, after: int) -> None:
        """A key is detached from one lease and attached to another; 0: none."""
        moved = self._moved
        if moved is not None:
            for id_, was_there in ((LeaseId(before), True), (LeaseId(after), False)):
                if id_:
                    if id_ not in moved:
                        moved[id_] = Parted()
                    moved[id_].setdefault(key, was_there)
        if before:
            lease = self._leases.get(LeaseId(before)) or self._young[LeaseId(before)]
            if lease.late is None:
                lease.keys.pop(key, None)
            else:
                self._note(lease, lease.late, key, is_there=False)
        if after:
            lease = self._leases.get(LeaseId(after)) or self._young[LeaseId(after)]
            if lease.late is None:
                lease.keys[key] = None
            else:
                self._note(lease, lease.late, key, is_there=True)

    def begin(self) -> None:
        """A command in pieces begins: until `finish`, the keys it moves are remembered. Takes O(leases and
        keys moved) of memory.
        """
        self._moved = Parted()

    def finish(self) -> None:
        """The command is finished. What was remembered is freed by `free_step`."""
        moved, self._moved = self._moved, None
        if moved:
            self._spent.append(_forget(moved))
            self.free_step()

    @property
    def spent(self) -> bool:
        """Whether there is something to do for `free_step`."""
        return bool(self._spent)

    def free_step(self) -> None:
        """Do a step of freeing tables that are used no more: all at once would take long."""
        if self._spent and next(self._spent[0], self) is self:
            self._spent.popleft()

    def _spend(self, lease: Lease) -> None:
        """A lease was removed: free its keys, unless a listing uses them (`unlist`)."""
        if lease.is_listed:
            return
        for keys in (lease.keys, lease.late):
            if keys is not None and keys.is_large:
                self._spent.append(keys.free_steps())

    def _is_there(self, lease: Lease) -> bool:
        """Whether this lease has not ended; another may have its id."""
        return self.get(lease.id) is lease

    def keys_of(self, lease: Lease) -> set[bytes]:
        """The keys of a lease as of the last finished command. O(keys)."""
        moved = self._moved.get(lease.id) if self._moved else None
        if not moved:
            return set(lease.all_keys())
        kept = {key for key in lease.all_keys() if key not in moved}
        kept.update(key for key, was_there in moved.items() if was_there)
        return kept

    def looked_at(self, lease: Lease) -> int:
        """How many keys `keys_of` looks at. O(1)."""
        moved = self._moved.get(lease.id) if self._moved else None
        return len(lease.keys) + len(lease.late or ()) + len(moved or ())

    def listed(self, lease: Lease) -> Iterator[list[bytes]]:
        """The keys of a lease, unsorted, `KEYS_AT_ONCE` at a time, all as of one moment: when the first list
        is returned that is not empty, or the iterator ends. There are none if the lease ends before that; if
        it ends later, or the state is replaced, the listing still completes. The state may change between two
        steps, but there must be only one such iterator of a lease at a time. The caller must call `unlist`
        when it is done, at the end or before.
        """
        if not self._is_there(lease):
            return
        lease.is_listed = True
        yield from self._caught_up(lease)
        if not self._is_there(lease):
            return
        lease.late = Parted()
        yield from batches(lease.keys, KEYS_AT_ONCE)
        if self._is_there(lease):
            yield from self._caught_up(lease)
            lease.late = None

    def unlist(self, lease: Lease) -> None:
        """The iterator over its keys is used no more. If it was abandoned, the changes since are merged
        gradually: two with each further change, the rest when the keys are listed again. If the lease has
        ended, its keys are freed by `free_step` from now on. O(1).
        """
        if lease.is_listed:
            lease.is_listed = False
            if not self._is_there(lease):
                self._spend(lease)

    @staticmethod
    def _note(lease: Lease, late: Parted[bytes, bool], key: bytes, *, is_there: bool) -> None:
        """Record that a key was attached or detached while `keys` must not change. O(1)."""
        if (key in lease.keys) is is_there:
            late.pop(key, None)
        else:
            late[key] = is_there
        if not lease.is_listed:
            _settle(lease, late, 2)  # more than is added, so that it becomes empty
            if not late:
                lease.late = None

    def _caught_up(self, lease: Lease) -> Iterator[list[bytes]]:
        """Steps until all changes are merged into `keys`, and no command is half done."""
        while lease.late or self._moved is not None:
            if self._moved is None and lease.late:
                _settle(lease, lease.late, KEYS_AT_ONCE)
            yield []

    def ids(self) -> Generator[list[LeaseId]]:
        """The ids of all leases, unsorted, `KEYS_AT_ONCE` at a time, all as of one moment: when the first
        list is returned that is not empty, or the iterator ends. The state may change between two steps, but
        there must be only one such iterator at a time. Lost if the state is replaced meanwhile.
        """
        yield from self._settled()
        leases = self._leases
        self._is_listing = True
        try:
            for some in batches(leases, KEYS_AT_ONCE):
                yield some
                if self._leases is not leases:
                    raise Lost
        finally:
            if self._leases is leases:
                self._is_listing = False
        yield from self._settled()

    def _settled(self) -> Iterator[list[LeaseId]]:
        """Steps until the changes during a listing are merged into the table."""
        while self._gone or self._young:
            for _ in range(min(KEYS_AT_ONCE, len(self._gone))):
                del self._leases[self._gone.popitem()[0]]
            for _ in range(min(KEYS_AT_ONCE, len(self._young))):
                id_, lease = self._young.popitem()
                self._leases[id_] = lease
            yield []

    def restore(self, stored: StoredLeases) -> Iterator[None]:
        """Replace the leases by stored ones; their keys are added by `move`. Returns the steps that free the
        old ones.
        """
        gone, young = self._leases, self._young
        self._leases = stored.leases
        self._gone, self._young, self._is_listing = Parted(), Parted(), False
        self._touched = {}
        self._moved = None
        waited = self.ttl_changes.restart(stored.renewed)
        return chain(waited, self._free_steps(gone), self._free_steps(young))

    def _free_steps(self, gone: Parted[LeaseId, Any]) -> Iterator[None]:
        """Free leases, and report those that do not exist any more as removed."""
        while gone:
            left = FREE_STEP
            while gone and left > 0:
                id_, lease = gone.popitem()
                left -= 1
                if self.get(id_) is None:
                    self.ttl_changes.remove(id_)
                for keys in () if lease is None or lease.is_listed else (lease.keys, lease.late):
                    if keys:
                        left -= len(keys)
                        yield from keys.free_steps()
            yield

    def take_changes(self) -> dict[LeaseId, LeaseRecord | None]:
        """The records of the leases changed since the last call; None for one that ended."""
        touched, self._touched = self._touched, {}
        return touched

    def timed_keys(self) -> Iterable[LeaseId]:
        """The ids of all leases."""
        return [lease.id for lease in self]

    def _renew(self, lease: Lease) -> None:
        self.ttl_changes.renew(lease.id)
        self._touch(lease)

    def _touch(self, lease: Lease) -> None:
        self._touched[lease.id] = LeaseRecord(lease.id, lease.ttl, lease.since, lease.remaining)
