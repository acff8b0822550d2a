"""Leases (v3 API, Lease): the replicated table. How long each has left is counted by `countdown`."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.errors import Fault, Reason, refusal
from netstore.parted import LET_GO_STEP, Parted, batches
from netstore.state.countdown import News, Waiting
from netstore.state.tables import LEASES, check_count, some_records
from netstore.state.v3.reads import Lost
from netstore.types import Index, LeaseId

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from netstore.seams import Engine

KEYS_AT_ONCE: Final = 1_000
"""Keys of a lease that are looked at in one step of `Leases.listed`: 0.3 ms."""

MAX_TTL: Final = 9_000_000_000
"""Seconds; more is refused, as by etcd."""


class Lease(msgspec.Struct, gc=False):
    """One lease. `since` is the index that granted or last renewed it, `remaining` what a checkpoint after
    that left of its TTL, 0 for all of it. Both times in seconds.
    """

    id: LeaseId
    ttl: int
    since: Index
    remaining: int
    keys: Parted[bytes, None] = msgspec.field(default_factory=Parted)
    """Which it has, but for what `late` says."""
    late: Parted[bytes, bool] | None = None
    """Keys that came (True) or went since `keys` is being listed, which is left alone meanwhile. When the
    listing was given up, `late` is put to the keys with the changes that come (`_settle`).
    """
    is_listed: bool = False
    """Its keys belong to a listing: they are not let go of before that is over, whatever becomes of it."""

    def all_keys(self) -> Iterator[bytes]:
        """The keys it has. While the iterator is used nothing may be listed, nor any of them moved."""
        late = self.late
        if not late:
            return iter(self.keys)
        came = (key for key, is_there in late.items() if is_there and key not in self.keys)
        return chain((key for key in self.keys if key not in late or late[key]), came)


class LeaseRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is stored of a lease; which keys it has stands in their pairs."""

    id: LeaseId
    ttl: int
    since: Index
    remaining: int


_decode_lease: Final = msgspec.msgpack.Decoder(LeaseRecord)


def _settle(lease: Lease, late: Parted[bytes, bool], most: int) -> None:
    """Put so much of what came and went to the keys."""
    keys = lease.keys
    for _ in range(min(most, len(late))):
        key, is_there = late.popitem()
        if is_there:
            keys[key] = None
        else:
            keys.pop(key, None)


def _forget(moved: Parted[LeaseId, Parted[bytes, bool]]) -> Iterator[None]:
    left = LET_GO_STEP
    while moved:
        _, keys = moved.popitem()
        if keys.is_large:
            yield from keys.let_go()
        left -= 1 + len(keys)
        if left <= 0:
            left = LET_GO_STEP
            yield


class StoredLeases:
    """The leases of a state that is being loaded, without their keys."""

    __slots__ = ("leases", "renewed")

    def __init__(self) -> None:
        self.leases: Parted[LeaseId, Lease | None] = Parted()
        self.renewed: Waiting[LeaseId] = Waiting()
        """Their ids, for who counts their time."""

    def add(self, records: Iterable[LeaseRecord]) -> None:
        """The next ones."""
        for each in records:
            self.leases[each.id] = Lease(each.id, each.ttl, each.since, each.remaining)
            self.renewed.add(each.id)


def lease_key(lease: LeaseId) -> bytes:
    """Where a lease's record lies in its table."""
    return b"%016x" % (lease & 2**64 - 1)


def load_leases(engine: Engine, *, whole: bool) -> Iterator[list[LeaseRecord]]:
    """Every stored lease, in the steps of `tables.some_records`."""
    found = 0
    for some in some_records(engine, LEASES, _decode_lease, whole=whole):
        found += len(some)
        yield [record for _, record in some]
    check_count(engine, LEASES, found)


def granted_ttl(asked: int, minimum: int) -> int | Fault:
    """The TTL that a lease gets that was asked for with this one. Seconds."""
    return refusal(Reason.LEASE_TTL_TOO_LARGE) if asked > MAX_TTL else max(asked, minimum)


class Leases:
    """The replicated table. Every member has the same.

    Of a command that is carried out in pieces nothing is seen here before it is finished: `keys_of` gives
    what was there when it began (`begin`, `finish`), and leases end in its last piece.
    """

    def __init__(self) -> None:
        self._leases: Parted[LeaseId, Lease | None] = Parted()
        """None for one that ended while all were listed: what is listed neither grows nor shrinks."""
        self._gone: Parted[LeaseId, None] = Parted()
        """Which those are."""
        self._young: Parted[LeaseId, Lease] = Parted()
        """Leases that were granted while all were listed."""
        self._is_listing = False
        self._touched: dict[LeaseId, LeaseRecord | None] = {}
        self.news: News[LeaseId] = News()
        """See `countdown.Table`."""
        self._moved: Parted[LeaseId, Parted[bytes, bool]] | None = None
        """While a command is half done: of each lease the keys that it moved, and whether they were there."""
        self._spent: deque[Iterator[None]] = deque()
        """Lets go of large tables that nobody looks at any more, in steps."""

    def __iter__(self) -> Iterator[Lease]:
        old = (lease for lease in self._leases.values() if lease is not None)
        return chain(old, self._young.values())

    def __len__(self) -> int:
        return len(self._leases) - len(self._gone) + len(self._young)

    @property
    def places(self) -> int:
        """How many of them `timed_keys` looks at: those that are there, and some that have ended. O(1)."""
        return len(self._leases) + len(self._young)

    def get(self, id_: int) -> Lease | None:
        """The lease with this id."""
        lease = self._leases.get(LeaseId(id_))
        return lease if lease is not None or not self._young else self._young.get(LeaseId(id_))

    def grant(self, id_: int, ttl: int, index: Index) -> Lease | Fault:
        """Make a lease."""
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
        return lease

    def renew(self, id_: int, index: Index) -> Lease | Fault:
        """Give a lease all of its TTL again."""
        lease = self.get(id_)
        if lease is None:
            return refusal(Reason.LEASE_NOT_FOUND)
        lease.since = index
        lease.remaining = 0
        self._renew(lease)
        return lease

    def remove(self, lease: Lease) -> None:
        """Forget a lease, whose keys have been deleted."""
        self._touched[lease.id] = None
        self.news.remove(lease.id)
        self._spend(lease)
        if self._young.pop(lease.id, None) is not None:
            return
        if self._is_listing:
            self._leases[lease.id] = None
            self._gone[lease.id] = None
        else:
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
        """A command begins that is carried out in pieces: until `finish`, the keys it moves are remembered.
        O(leases and keys that it moves) of memory.
        """
        self._moved = Parted()

    def finish(self) -> None:
        """It is over. What was remembered is let go of by `let_go`, where that is much."""
        moved, self._moved = self._moved, None
        if moved:
            self._spent.append(_forget(moved))
            self.let_go()

    @property
    def spent(self) -> bool:
        """Whether there is something to do for `let_go`."""
        return bool(self._spent)

    def let_go(self) -> None:
        """Let go of some of what nobody looks at any more: all at once would take long."""
        if self._spent and next(self._spent[0], self) is self:
            self._spent.popleft()

    def _spend(self, lease: Lease) -> None:
        """A lease is gone: let go of its keys, unless a listing has them (`unlist`)."""
        if lease.is_listed:
            return
        for keys in (lease.keys, lease.late):
            if keys is not None and keys.is_large:
                self._spent.append(keys.let_go())

    def _is_there(self, lease: Lease) -> bool:
        """It has not ended, whether or not another has its id."""
        return self.get(lease.id) is lease

    def keys_of(self, lease: Lease) -> set[bytes]:
        """The keys of a lease as of the last command that is finished. O(keys)."""
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
        """The keys of a lease, in no order, `KEYS_AT_ONCE` at a time, as they are at one moment: when the
        first list comes that is not empty, or the iterator ends. None if the lease ends before that; if it
        does so later, or the state is replaced by another, they come none the less. The state may go on
        between two steps, but of one lease there must be one such iterator at a time. Whoever is done with
        one, at its end or before, says so to `unlist`.
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
        """The iterator over its keys is used no more. Where it is given up, what came and went meanwhile is
        put to them by and by: a little with each change of its keys, the rest when they are listed again. If
        the lease has ended, its keys are let go of now, by `let_go`. O(1).
        """
        if lease.is_listed:
            lease.is_listed = False
            if not self._is_there(lease):
                self._spend(lease)

    @staticmethod
    def _note(lease: Lease, late: Parted[bytes, bool], key: bytes, *, is_there: bool) -> None:
        """A key came or went that cannot be put to the others at once. O(1)."""
        if (key in lease.keys) is is_there:
            late.pop(key, None)
        else:
            late[key] = is_there
        if not lease.is_listed:
            _settle(lease, late, 2)  # so there is always less of it
            if not late:
                lease.late = None

    def _caught_up(self, lease: Lease) -> Iterator[list[bytes]]:
        """Until `keys` is what the lease has, and no command is half done."""
        while lease.late or self._moved is not None:
            if self._moved is None and lease.late:
                _settle(lease, lease.late, KEYS_AT_ONCE)
            yield []

    def ids(self) -> Generator[list[LeaseId]]:
        """The ids of all leases, `KEYS_AT_ONCE` at a time, as they are at one moment: when the first list
        comes that is not empty, or the iterator ends. The state may go on between two steps, but there must
        be one such iterator at a time. Lost when the state is replaced by another meanwhile.
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
        """Until what came and went while all were listed is put to the others."""
        while self._gone or self._young:
            for _ in range(min(KEYS_AT_ONCE, len(self._gone))):
                del self._leases[self._gone.popitem()[0]]
            for _ in range(min(KEYS_AT_ONCE, len(self._young))):
                id_, lease = self._young.popitem()
                self._leases[id_] = lease
            yield []

    def restore(self, stored: StoredLeases) -> Iterator[None]:
        """Become what was stored; the keys come by `move`. Gives the steps in which what there was is let go
        of.
        """
        gone, young = self._leases, self._young
        self._leases = stored.leases
        self._gone, self._young, self._is_listing = Parted(), Parted(), False
        self._touched = {}
        self._moved = None
        waited = self.news.restart(stored.renewed)
        return chain(waited, self._let_go(gone), self._let_go(young))

    def _let_go(self, gone: Parted[LeaseId, Any]) -> Iterator[None]:
        """Who counts their time is told of those that are there no more."""
        while gone:
            left = LET_GO_STEP
            while gone and left > 0:
                id_, lease = gone.popitem()
                left -= 1
                if self.get(id_) is None:
                    self.news.remove(id_)
                for keys in () if lease is None or lease.is_listed else (lease.keys, lease.late):
                    if keys:
                        left -= len(keys)
                        yield from keys.let_go()
            yield

    def take_changes(self) -> dict[LeaseId, LeaseRecord | None]:
        """The leases changed since the last call; None for one that ended."""
        touched, self._touched = self._touched, {}
        return touched

    def timed_keys(self) -> Iterable[LeaseId]:
        """The ids of all leases."""
        return [lease.id for lease in self]

    def _renew(self, lease: Lease) -> None:
        self.news.renew(lease.id)
        self._touch(lease)

    def _touch(self, lease: Lease) -> None:
        self._touched[lease.id] = LeaseRecord(lease.id, lease.ttl, lease.since, lease.remaining)
